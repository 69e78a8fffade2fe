"""The causal study on CIFAR-10: its page, from the tables that are kept beside it.

    python docs/results/cifar10.py docs/results/cifar10 docs/results/cifar10.md "the command that made it"

The first argument is what `docs/results/attached.py pack` wrote; figures are drawn into it.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from attached import Attached, draw
from publish import interval, number, table, verdicts

from vestige.report.figures import Source
from vestige.report.figures.departures import departures
from vestige.report.figures.harm import harms
from vestige.report.figures.mediators import MEASURES, changes
from vestige.runs.store import write_text
from vestige.stats.intervals import paired_t

FIGURES = {
    "F4-causality": "F4: harm by clause of C4",
    "F5-timing": "F5: harm by onset and dose",
    "F6-mediators": "F6: harm against what was changed",
    "F7-departures": "F7: verdicts, faithful against corrected",
    "accuracy": "Accuracy through training",
    "F1-selectivity": "F1: selectivity through training, baseline",
}


def main(folder: str, page: str, command: str) -> None:
    """Write the page, and its figures beside the tables."""
    attached = Attached.read(Path(folder))
    claims = attached.claims()
    source = Source(attached.study, attached.tables, claims, attached.manifests, attached.facts["classes"])
    parts = [
        f"# {attached.study.description}",
        "This page is written from the study's tables by\n```\n"
        f'python docs/results/cifar10.py {folder} {page} "the commands below"\n```\n'
        f"The tables are kept beside it, in `{Path(folder).name}/tables`; the whole report is made again from them by\n"
        f"```\npython docs/results/attached.py rebuild {folder} OUT\n```",
        "## What was run\n" + setting(attached, command),
        f"## Verdicts\nTo know of all claims: {claims['note'] or 'nothing'}.\n\n" + verdicts(claims),
        "## What the windows did\n" + windows(claims),
        *opened(claims),
        "## Harm, and what was changed\nHarm: baseline's final accuracy (mean of the last three checkpoints) less the "
        "condition's, in points, paired by seed, with 95% intervals. Changes: condition less baseline at the first "
        "checkpoint after its window (that step in brackets), means over the layers outside the last stage. Dose: sum "
        "over steps of learning rate times the norm of the penalty's gradient.",
        arms(source),
        "## Faithful against corrected\n" + faithful(source),
        "## Beside the papers\n" + papers(source, claims),
        "## Figures\n" + draw(attached, claims, Path(folder), FIGURES),
    ]
    write_text(Path(page), "\n\n".join(parts) + "\n")


def faithful(source: Source) -> str:
    """A row for each known departure of the released code: the verdict without it, and with it."""
    found = departures(source).table
    assert found is not None
    about = "What each departure is and why it matters: [faithful against corrected](../explanation/departures.md)."
    return f"{about}\n\n{table(found.header, list(found.rows))}"


def setting(attached: Attached, command: str) -> str:
    """Network, images, recipe, seeds, hardware."""
    study, made = attached.study, next(iter(attached.manifests.values())).made
    recipe, minutes = study.recipe, sum(one.seconds for one in attached.manifests.values()) / 60
    base = attached.tables["history"].filter(condition="baseline", split="test")
    last = base.filter(step=base["step"].max())["top1"]
    hardware = ", ".join(sorted({one.made["hardware"]["processor"] for one in attached.manifests.values() if one.made}))
    drops = f", at epochs {', '.join(map(str, recipe.step_epochs))}" if recipe.schedule == "step" else ""
    return (
        f"`{study.model.name}` of width {study.model.width}, {attached.facts['train_images']} training images, "
        f"{recipe.epochs} epochs ({attached.facts['total_steps']} steps), SGD with learning rate {recipe.lr:g} "
        f"({recipe.schedule} schedule{drops}), momentum "
        f"{recipe.momentum:g}, weight decay {recipe.weight_decay:g}, {recipe.dtype}; {len(study.conditions)} "
        f"conditions, seeds {', '.join(map(str, study.seeds))}. Without intervention it ends at "
        f"{100 * float(last.mean()):.1f}% of the test images ({100 * float(last.min()):.1f} to "  # pyright: ignore[reportArgumentType]
        f"{100 * float(last.max()):.1f}). Training took {minutes:.0f} minutes of single processes on "  # pyright: ignore[reportArgumentType]
        f"{hardware}, torch {made['versions']['torch']}. Made by\n```\n{command}\n```"
    )


def opened(claims: dict[str, Any]) -> list[str]:
    """What is inconclusive, and how many seeds would decide it."""
    rows = [
        (clause["id"], clause["statistic"], number(clause["estimate"]), interval(clause), _enough(clause))
        for claim in claims["claims"]
        for clause in claim["clauses"]
        if clause["verdict"] == "inconclusive"
    ]
    if not rows:
        return []
    said = (
        "The number of seeds with which the clause's rule would decide in four studies of five, if mean and spread "
        "were those seen.\n\n"
    )
    header = ("clause", "statistic", "estimate", "95% interval", "seeds that would decide")
    return ["## What stays open\n" + said + table(header, rows)]


def windows(claims: dict[str, Any]) -> str:
    """The manipulation checks, and the harm at equal lag."""
    beside = [one for claim in claims["claims"] if claim["id"] == "C4" for one in claim["beside"]]
    rows = [
        (one["id"], one["sentence"], one["verdict"] or "-", one["note"])
        for one in beside
        if one["id"].startswith(("C4.cut.", "C4.lag."))
    ]
    return table(("number", "what it says", "verdict", "note"), rows)


def _enough(clause: dict[str, Any]) -> str:
    return str(clause["seeds_to_decide"] or "over 1000")


def arms(source: Source) -> str:
    """A row a condition."""
    by_condition = {name: own for (name,), own in harms(source).group_by("condition")}
    changed = {name: own for (name,), own in changes(source).group_by("condition")}
    rows = []
    for condition in source.study.conditions:
        if condition == source.baseline or condition not in by_condition:
            continue
        harm = estimate((100 * by_condition[condition]["harm"]).to_list(), 1)
        own = changed.get(condition)
        moved = ["-"] * len(MEASURES) if own is None else [estimate(own[name].to_list(), 3) for name in MEASURES]
        step = "" if own is None else f" ({own['step'][0]})"
        rows.append((condition + step, harm, *moved, dose(source, condition)))
    return table(("condition", "harm", *MEASURES.values(), "dose"), rows)


def estimate(values: Sequence[float], places: int) -> str:
    """Mean and interval over seeds."""
    found = paired_t(values)
    return f"{found.estimate:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def dose(source: Source, condition: str) -> str:
    """The dose of the condition's interventions at the end, mean over seeds."""
    history = source.table("history").filter(condition=condition, split="train")
    columns = [name for name in history.columns if name.endswith(".dose") and history[name].is_not_null().any()]
    if not columns:
        return "-"
    total = history.group_by("seed").agg(pl.sum_horizontal(pl.col(name).max() for name in columns).alias("dose"))
    return f"{total['dose'].mean():.2f}"


def papers(source: Source, claims: dict[str, Any]) -> str:
    """The papers' directions beside what was seen, each with its number."""
    clauses = {clause["id"]: clause for claim in claims["claims"] for clause in claim["clauses"]}
    harm = {name: (100 * own["harm"]).to_list() for (name,), own in harms(source).group_by("condition")}
    rows = [
        ("the paper", "selective neurons emerge early, then recede", "C1.rise", "C1.fall"),
        ("the paper", "ablating them harms early, much less later", "C2.early.zero", "C2.change.zero"),
        ("the paper", "the network is closer to linear early", "C3.a", None),
        ("the paper", "suppression from the start, in a window, harms the final accuracy", "C4.a", None),
        ("the paper", "suppression only later, in a window, hardly harms", "C4.b", None),
        ("the paper's implication", "it is lost class information that harms", "C4.d", None),
    ]
    lines = []
    for who, what, *names in rows:
        found = [clauses[name] for name in names if name in clauses]
        if found:
            seen = "; ".join(f"{one['statistic']} {number(one['estimate'])}, {interval(one)}" for one in found)
            lines.append((who, what, seen, "; ".join(one["verdict"] for one in found)))
    lines[-1:-1] = open_ended(claims)
    if "always" in harm:
        own = changes(source).filter(condition="always")
        rest = f"csi by {estimate(own['csi'].to_list(), 3)}" if len(own) else "csi not measured"
        seen = f"`always` costs {estimate(harm['always'], 1)} points and changes {rest}"
        what = "selectivity falls nearly to zero at about 2 points (ResNet-20, CIFAR-10)"
        low, high = paired_t(harm["always"]).low, paired_t(harm["always"]).high
        verdict = "agrees" if low <= 2 <= high else "more harm here" if low > 2 else "less harm here"
        lines.append(("Leavitt & Morcos 2020", what, seen, verdict))
    return table(("who", "says", "seen here", "verdict"), lines)


def open_ended(claims: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The paper's own arms, which never stop: from the start, and from later."""
    whats = {
        "C4.a": "suppression from the start to the end harms the final accuracy",
        "C4.b": "suppression from later to the end hardly harms",
    }
    (found,) = [one for one in claims["departures"] if one["id"] == "open-windows"]
    stand_ins = re.findall("'(.+?)' stands for '(.+?)'", found["note"])
    rows = []
    for clause in found["clauses"]:
        one, statistic = clause["departed"], clause["departed"]["statistic"]
        for arm, role in stand_ins:
            statistic = statistic.replace(f"({role})", f"({arm})")
        seen = f"{statistic} {number(one['estimate'])}, {interval(one)}"
        rows.append(("the paper's own arms", whats[clause["id"]], seen, one["verdict"]))
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
