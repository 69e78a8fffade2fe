"""What figures of selectivity and ablation should show: from the files of a study, by plain arithmetic."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import rankdata
from study_files import Files, Row, Shown, early_stages, grouped, layer_values, mean, mean_curve

VALUES = {"zero": "replaced by zero", "mean": "replaced by the mean"}
ORDERS = {"csi-desc": "most selective first", "activity-matched": "activity-matched", "random": "random"}
F1 = {"csi": "Class selectivity (CSI)", "csi_cv": "Cross-validated CSI", "eta2": "Variance explained by class (η²)",
      "closed": "Closed gates"}  # fmt: skip


def selectivity(files: Files):
    rows = files.branched(files.rows("selectivity"))
    layers = {name: layer_values(rows, name) for name in (*F1, "csi_null_mean", "csi_null_q95")}
    early = early_stages(files)

    def panel(condition, column, place):
        def group(named, _seed, _step, *where):
            return where[place] if named == condition else None

        lines = grouped(layers[column], group)
        names = list(dict.fromkeys(row[0] for row in lines))
        nulls = [grouped(layers[one], group) for one in ("csi_null_mean", "csi_null_q95")]
        bands = [
            (name, *(mean_curve((t, v) for n, _, t, v in null if n == name) for null in nulls))
            for name in names if column == "csi"
        ]  # fmt: skip
        return files.lines(F1[column], lines, names, bands=bands)

    found = files.conditions(rows)
    views = [
        (f"{condition} · {how}", [panel(condition, column, place) for column in F1])
        for condition in found for place, how in enumerate(("by stage", "by layer"))
    ]  # fmt: skip
    compared = [
        files.lines(F1[column], grouped(layers[column], lambda c, s, t, stage, layer: c if stage in early else None),
                    found, seeds=len(found) <= 6)
        for column in F1
    ]  # fmt: skip
    spread = [
        (f"baseline · spread of {said} · every checkpoint", histograms(files, column, said, start))
        for column, said, start in (("csi", "CSI", 0.0), ("csi_cv", "cross-validated CSI", -0.5))
    ]
    return [*views, ("conditions compared, stages before the last", compared), *spread]


def histograms(files: Files, column: str, said: str, start: float) -> list[Shown]:
    """At each step, the share of living neurons in bins of 0.05, what lies outside in the outermost."""
    alive = [row for row in files.rows("selectivity", condition="baseline") if not row["dead"]]
    edges = np.linspace(start, 1, round((1 - start) * 20) + 1)
    stages, panels = list(dict.fromkeys(row["stage"] for row in alive)), []
    for step in sorted({row["step"] for row in alive}):
        shares = []
        for stage in stages:
            own = [row[column] for row in alive if (row["step"], row["stage"]) == (step, stage)]
            counts, _ = np.histogram(np.clip([value for value in own if value is not None], start, 1), edges)
            shares.append((counts / counts.sum()).tolist())
        table = [[f"{said} from", *stages], *([left, *row] for left, *row in zip(edges[:-1], *shares, strict=True))]
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        panels.append(
            Shown(f"Step {step}", table, [(stage, middles, own) for stage, own in zip(stages, shares, strict=True)])
        )
    return panels


def area(curve: list[Row], classes: int) -> float | None:
    curve = sorted(curve, key=lambda row: row["fraction"])
    intact = curve[0]["top1"]
    if intact < max(2 / classes, 1 / classes + 0.05):
        return None
    heights = [(row["top1"] - 1 / classes) / (intact - 1 / classes) for row in curve]
    return float(np.trapezoid(heights, [row["fraction"] for row in curve]))


def ablation(files: Files):
    curves = defaultdict(list)
    for row in files.rows("cumulative"):
        curves[tuple(row[n] for n in ("value", "order", "scope", "seed", "step", "draw"))].append(row)
    by_scope = defaultdict(list)
    for (value, order, scope, seed, step, _), curve in curves.items():
        by_scope[value, order, scope, seed, step].append(area(curve, files.claims["classes"]))
    scopes = list(dict.fromkeys(row["scope"] for row in files.rows("cumulative")))
    early = early_stages(files)
    views = []
    for name, chosen in (("mean of " + " and ".join(early), early), *((scope, [scope]) for scope in scopes)):
        panels = []
        for value in VALUES:
            found = defaultdict(list)
            for (one, order, scope, seed, step), areas in by_scope.items():
                if one == value and scope in chosen:
                    found[ORDERS[order], seed, step].append(mean(areas))
            rows = [(*key, mean(areas)) for key, areas in found.items()]
            panels.append(files.lines(f"Area, {VALUES[value]}", rows, list(ORDERS.values())))
        views.append((f"baseline · {name}", panels))
    return views


def neurons_with(files: Files) -> list[Row]:
    """Ablations of living neurons, with their selectivity."""
    key = ("condition", "seed", "step", "layer", "neuron")
    alive = {tuple(row[n] for n in key): row for row in files.rows("selectivity") if not row["dead"]}
    pairs = ((row, alive.get(tuple(row[n] for n in key))) for row in files.rows("ablation"))
    return [row | {n: own[n] for n in ("csi", "csi_cv", "eta2", "mean")} for row, own in pairs if own]


def single_neurons(files: Files):
    both, early = neurons_with(files), early_stages(files)
    window = files.study["claims"]["early_window"]["stop"]
    layers = layer_values(files.rows("selectivity", condition="baseline"), "csi_cv")
    inner = grouped(layers, lambda c, s, t, stage, layer: "m" if stage in early and t < window else None)
    curve = mean_curve((t, v) for _, _, t, v in inner)
    peak = max(curve, key=lambda step: curve[step])
    steps = sorted({row["step"] for row in both})
    views, slides = [], []
    for value, said in VALUES.items():
        own = {step: [row for row in both if row["step"] == step and row["value"] == value] for step in steps}
        panels = [_cloud(own[step], f"{when}: step {step}") for when, step in (("Early", peak), ("Late", steps[-1]))]
        views.append((f"baseline · {said}", panels))
        panels = [_cloud(own[step], f"Step {step}", 500) for step in steps]
        slides.append((f"baseline · {said} · every checkpoint", panels))
    return [*views, *slides]


def _cloud(rows: list[Row], title: str, most: int = 2000) -> Shown:
    """A point a neuron: of many, every n-th."""
    drawn = [row for row in rows if row["csi"] is not None][:: math.ceil(len(rows) / most)]
    by_stage = {
        stage: [row for row in drawn if row["stage"] == stage] for stage in dict.fromkeys(r["stage"] for r in drawn)
    }
    traces = [(stage, [r["csi"] for r in own], [r["loss_delta"] for r in own]) for stage, own in by_stage.items()]
    texts = [f"{r['layer']}, neuron {r['neuron']}, seed {r['seed']}" for own in by_stage.values() for r in own]
    return Shown(title, _rank_table(rows), traces, texts)


def _rank_table(rows: list[Row]) -> list[list[Any]]:
    table: list[Any] = [["layer", "neurons", "mean change of loss", "Spearman r of CSI and change (mean over seeds)"]]
    for layer in dict.fromkeys(row["layer"] for row in rows):
        seeds = defaultdict(list)
        for row in rows:
            if row["layer"] == layer:
                seeds[row["seed"]].append((row["csi"], row["loss_delta"]))
        known = [[pair for pair in pairs if None not in pair] for pairs in seeds.values()]
        rho = [float(np.corrcoef(rankdata(np.array(pairs), axis=0).T)[0, 1]) for pairs in known]
        change = mean(mean(delta for _, delta in pairs) for pairs in seeds.values())
        table.append([layer, max(map(len, seeds.values())), change, mean(rho)])
    return table


def importance(files: Files):
    found = defaultdict(list)
    for row in neurons_with(files):
        found[row["value"], row["layer"], row["seed"], row["step"]].append(row)
    z = defaultdict(list)
    for (value, _, seed, step), rows in found.items():
        for measure in ("csi", "csi_cv", "eta2"):
            known = [(r[measure], r["loss_delta"], r["mean"]) for r in rows if r[measure] is not None]
            z[value, measure, seed, step].append(np.arctanh(_partial(np.array(known))))
    panels = [
        files.lines(
            f"Correlation with the change of loss, {said}",
            [(*key[1:], float(np.tanh(np.mean(zs)))) for key, zs in z.items() if key[0] == value],
            ["csi", "csi_cv", "eta2"],
        )
        for value, said in VALUES.items()
    ]  # fmt: skip
    return [("baseline", panels)]


def _partial(known: np.ndarray) -> float:
    """Correlation of the ranks' residuals, once each is regressed on the third's."""
    x, y, third = (rankdata(column) - (len(known) + 1) / 2 for column in known.T)
    x, y = (one - third * (one @ third) / (third @ third) for one in (x, y))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))
