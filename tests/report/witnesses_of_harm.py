"""What the page should show of linearity, of accuracy and of harm: see `study_files`."""

import statistics
from collections import defaultdict
from typing import Any, NamedTuple

from scipy.stats import ttest_rel
from study_files import Files, Shown, cell, early_stages, grouped, layer_values, mean, mean_curve

F3 = {
    "midpoint": "Midpoint nonlinearity", "gate-churn": "Gate churn", "kalimeris": "Explained by a linear model",
    "kalimeris-information": "Information on the class", "kalimeris-unexplained": "Beyond the linear model",
    "ridge-flattened": "Ridge R² from whole maps", "ridge-pooled": "Ridge R² from pooled activations",
    "cka": "Linear CKA",
}  # fmt: skip
FINAL = 3
POINTS = 100


def linearity(files: Files):
    rows = files.rows("linearity")
    found = list(dict.fromkeys(row["layer"] for row in rows if not row["measure"].startswith("correlation")))
    places = ["logits", *(layer for layer in found if layer != "logits")]
    pairs = dict.fromkeys((row["measure"], row["other"]) for row in rows)
    layered = [_layered(files, measure, other, places) for measure, other in pairs
               if measure in F3 and other in ("", "logits", "input")]  # fmt: skip
    kinds = {"top": "most active", "fixed": "fixed channels", "csi": "highest CSI"}
    correlated = [
        _with_anchors(files, f"Cross-layer correlation, k = {k}",
                      [row | {"name": kinds[row["measure"][12:-1]]} for row in rows
                       if row["measure"].startswith("correlation-") and row["measure"].endswith(str(k))],
                      list(kinds.values()))
        for k in (1, 2, 3)
    ]  # fmt: skip
    return [("baseline · layer by layer", layered), ("baseline · cross-layer correlation", correlated)]


def _layered(files, measure, other, places):
    title = f"{F3[measure]} with the {other}" if other else F3[measure]
    rows = [row | {"name": row["layer"]} for row in files.rows("linearity", measure=measure, other=other)]
    if measure != "gate-churn":
        return _with_anchors(files, title, rows, places)
    reference = [row | {"name": row["layer"]} for row in files.rows("linearity", measure="gate-churn-independent")]
    return _with_anchors(files, title, rows, places, reference, "value", "independent gates")


def _with_anchors(files, title, rows, places, others=None, column="anchor", note="anchor"):
    anchors = []
    for name in places:
        curve = mean_curve((row["step"], row[column]) for row in others or rows if row["name"] == name)
        if mean(curve.values()) is not None:
            anchors.append((name, note, curve))
    values = [(row["name"], row["seed"], row["step"], row["value"]) for row in rows]
    return files.lines(title, values, places, anchors=anchors)


READINGS = [
    ("midpoint nonlinearity, logits", "midpoint", "", ("logits",), "lower"),
    ("midpoint nonlinearity, layers", "midpoint", "", (), "lower"),
    ("gate churn, layers", "gate-churn", "", (), "lower"),
    ("share that a linear model explains", "kalimeris", "", ("logits",), "higher"),
    ("ridge R², input", "ridge-flattened", "", ("input",), "higher"),
    ("ridge R², layers, whole maps", "ridge-flattened", "", (), "higher"),
    ("ridge R², layers, pooled", "ridge-pooled", "", (), "higher"),
    ("CKA of layers with the input", "cka", "input", (), "nearer the anchor"),
    ("CKA of layers with the logits", "cka", "logits", (), "nearer the anchor"),
    ("correlation, most active, as the paper reads it", "correlation-top1", "", ("all",), "higher"),
    ("correlation, most active", "correlation-top1", "", ("all",), "nearer the anchor"),
    ("correlation, of highest CSI", "correlation-csi1", "", ("all",), "nearer the anchor"),
    ("correlation, fixed", "correlation-fixed1", "", ("all",), "nearer the anchor"),
]


class EarlyAgainstEnd(NamedTuple):
    title: str
    linear: str
    early: float
    end: float
    low: float
    high: float
    seeds: int
    p_value: float


def early_against_end(files: Files, title, measure, other, layers, linear):
    """One measure over the judgeable checkpoints of the early window, and at the end; means over layers and seeds."""
    window, last = files.study["claims"]["early_window"]["stop"], max(row["step"] for row in files.rows("linearity"))
    intact = files.rows("cumulative", condition="baseline", fraction=0.0)
    judged = {(row["seed"], row["step"]) for row in intact if row["top1"] >= 0.2 - 1e-6}
    found = defaultdict(list)
    for row in files.rows("linearity", condition="baseline", measure=measure, other=other):
        if row["layer"] in layers or (not layers and row["layer"] not in ("logits", "input", "all")):
            found[row["seed"], row["step"]].append((row["value"], row["anchor"] if "anchor" in linear else 0.0))
    known = {
        at: mean(abs(value - anchor) for value, anchor in pairs)
        for at, pairs in found.items() if not any(None in pair for pair in pairs)
    }  # fmt: skip
    seeds = sorted({seed for seed, _ in known})
    early = [mean(v for (s, t), v in known.items() if s == seed and t < window and (s, t) in judged) for seed in seeds]
    end = [known[seed, last] for seed in seeds]
    test = ttest_rel(early, end)
    ends = test.confidence_interval(0.95)
    return EarlyAgainstEnd(title, linear, mean(early), mean(end), ends.low, ends.high, len(seeds), test.pvalue)


def accuracy(files: Files):
    tests = files.rows("history", split="test")
    rows = files.branched(tests)
    names = files.conditions(rows)
    through = [(row["condition"], row["seed"], row["step"], row["top1"]) for row in rows]
    base = {(seed, step): value for name, seed, step, value in through if name == "baseline"}
    behind = [
        (name, seed, step, None if None in (value, base[seed, step]) else POINTS * (base[seed, step] - value))
        for name, seed, step, value in through if name != "baseline"
    ]  # fmt: skip
    table: list[Any] = [["condition", "seeds", "final accuracy", "SD over seeds"]]
    traces, texts = [], []
    final = _final(tests)
    for place, name in enumerate(names):
        own = {seed: value for (one, seed), value in sorted(final.items()) if one == name}
        values = list(own.values())
        table.append([name, len(values), mean(values), statistics.stdev(values)])
        traces += [(name, [place] * len(values), values), (name, [place], [mean(values)])]
        texts += [*(f"seed {seed}" for seed in own), "mean over seeds"]
    panels = [files.lines("Test accuracy", through, names), files.lines("Behind baseline", behind, names[1:])]
    return [("all conditions", [*panels, Shown("Final accuracy", table, traces, texts)])]


def _final(tests) -> dict[tuple[str, int], float]:
    runs = defaultdict(list)
    for row in sorted(tests, key=lambda row: row["step"]):
        runs[row["condition"], row["seed"]].append(row["top1"])
    return {run: mean(values[-FINAL:]) for run, values in runs.items()}


def harms(files: Files) -> dict[str, dict[int, float]]:
    """By condition and seed, in points."""
    final = _final(files.rows("history", split="test"))
    found = defaultdict(dict)
    for (name, seed), value in sorted(final.items()):
        found[name][seed] = POINTS * (final["baseline", seed] - value)
    return found


def causality(files: Files):
    claim = next(one for one in files.claims["claims"] if one["id"] == "C4")
    table, traces, texts = [["clause", "estimate (points)", "low", "high", "smallest effect", "verdict"]], [], []
    for y, clause in enumerate(claim["clauses"]):
        estimate, low, high, least = (POINTS * clause[n] for n in ("estimate", "low", "high", "smallest_effect"))
        name = {"supported": "supported", "contradicted": "contradicted"}.get(clause["verdict"], "neither")
        table.append([clause["statistic"], estimate, low, high, least, clause["verdict"]])
        values = [POINTS * value for value in clause["values"]]
        traces += [(name, values, [y + 0.24] * len(values)), (name, [least] * 2, [y - 0.28, y + 0.28]),
                   (name, [low, high], [y, y]), (name, [estimate], [y])]  # fmt: skip
        texts.append((clause["statistic"], [estimate, low, high, least]))
    return [("clauses", [Shown("Harm by clause", table, traces, texts)])]


def timing(files: Files):
    grid, harm = files.study["grid"], harms(files)
    panels = []
    for length in sorted(grid["length"]):
        table: list[Any] = [None]
        z, texts = [], []
        for dose in sorted(grid["dose"]):
            names = [cell(grid, onset, length, dose) for onset in sorted(grid["onset"])]
            z.append([mean(harm[name].values()) for name in names])
            said = f"{dose:g}".replace("-", "\u2212")
            table += [[f"{onset:g}", said, value, len(harm[name])]
                      for onset, name, value in zip(sorted(grid["onset"]), names, z[-1], strict=True)]  # fmt: skip
            texts += [f"{name}, {len(harm[name])} seeds" for name in names]
        panels.append(Shown(f"{length:g} {grid['unit']} long", table, [("", [], z)], texts))
    return [("harm", panels)]


def mediators(files: Files):
    harm, panels = harms(files), []
    acting = [name for name in files.names if name != "baseline"]
    early = early_stages(files)
    for measure in ("csi", "eta2", "closed"):
        alive = [row for row in files.rows("selectivity") if not row["dead"]]
        lines = grouped(layer_values(alive, measure), lambda c, s, t, stage, layer: c if stage in early else None)
        value = {row[:3]: row[3] for row in lines}
        title = "Change of closed gates" if measure == "closed" else f"Change of {measure}"
        table: list[Any] = [["condition", "step", "seeds", title.lower(), "harm (points)"]]
        traces, texts = [], []
        for name in acting:
            own = {}
            for seed, lost in sorted(harm[name].items()):
                steps = {t for c, s, t in value if (c, s) == (name, seed)}
                after = min(step for step in steps if step >= _end(files, name) and ("baseline", seed, step) in value)
                own[seed] = after, value[name, seed, after] - value["baseline", seed, after], lost
            changes, losses = [one[1] for one in own.values()], [one[2] for one in own.values()]
            traces += [(name, changes, losses), (name, [mean(changes)], [mean(losses)])]
            texts += [*(f"seed {seed}" for seed in own), f"mean of {len(own)} seeds"]
            table.append([name, own[0][0], len(own), mean(changes), mean(losses)])
        panels.append(Shown(title, table, traces, texts))
    return [("harm", panels)]


def _end(files: Files, name: str) -> float:
    """Where the window of a condition ends, in steps."""
    last = max(row["step"] for row in files.rows("history"))
    grid = files.study["grid"]
    if name in files.study["conditions"]:
        window = files.study["conditions"][name]["interventions"][0]["window"]
        stop, unit = window["stop"], window["unit"]
    else:
        onset = float(name.split("-on")[1].split("-")[0])
        stop, unit = onset + grid["length"][0], grid["unit"]
    return last if stop is None else stop * (1 if unit == "steps" else 4)


def departures(files: Files):
    records = files.claims["departures"]
    ranks = ("contradicted", "not supported", "fewer than 3 seeds", "inconclusive", "supported")

    def drawn(title, rows, table):
        scale = [verdict for verdict in ranks if any(verdict in row[1:] for row in rows)]
        before, after = ([scale.index(row[place]) for row in rows] for place in (1, 2))
        joined = [
            ("with it", [x, z], [y - 0.16, y + 0.16])
            for y, (x, z) in enumerate(zip(before, after, strict=True))
            if x != z
        ]
        places = range(len(rows))
        traces = [
            *joined,
            ("without the departure", before, [y - 0.16 for y in places]),
            ("with it", after, [y + 0.16 for y in places]),
        ]
        texts = [f"{row[0]}: {row[side]}" for side in (1, 2) for row in rows]
        return Shown(title, table, traces, texts)

    measured = [one for one in records if "not measured" not in one["verdicts"]]
    rows = [(f"{one['claim']} · {one['title']}", *one["verdicts"]) for one in measured]
    table = [["departure", "against", "verdict", "with it", "note"]]
    table += [[row[0], one["against"], *row[1:], one["note"]] for row, one in zip(rows, measured, strict=True)]
    views = [("claims", [drawn("Claims", rows, table)])]
    for claim in dict.fromkeys(one["claim"] for one in records):
        pairs = [
            (one, c) for one in records if one["claim"] == claim for c in one["clauses"] if c["changes"] is not None
        ]
        rows = [
            (f"{c['id']} · {one['title']}", c["reference"]["verdict"], c["departed"]["verdict"]) for one, c in pairs
        ]
        table = [None, *([c["id"], one["title"], c["unit"], c["smallest_effect"], *_pair(c)] for one, c in pairs)]
        views.append((f"clauses of {claim}", [drawn(f"Clauses of {claim}", rows, table)]))
    return views


def _pair(clause) -> list:
    """Estimate and interval, and how many seeds, on either side; both verdicts."""
    sides = clause["reference"], clause["departed"]
    numbers = [told for one in sides for told in ((one["estimate"], one["low"], one["high"]), one["n"])]
    return [*numbers, *(one["verdict"] for one in sides)]
