"""How linear a network is through training, by every measure: a page, from the tables of a study that are kept.

    python docs/results/linearity.py docs/results/cifar10 docs/results/linearity.md

The first argument is what `docs/results/attached.py pack` wrote.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
from attached import Attached, draw
from publish import interval, number, table

from vestige.report.figures import Source
from vestige.report.figures.linearity import linearity
from vestige.runs.store import write_text
from vestige.stats.intervals import paired_t

SHOWN = 8
"""Checkpoints in a table."""
FIGURES = {"F3-linearity": "F3: layer by layer, dotted the anchor", "F3-correlation": "F3: cross-layer correlation"}


class Measure(NamedTuple):
    """Rows of the linearity table that are averaged over layers, and what their ends mean."""

    title: str
    reading: str
    measure: str
    layers: tuple[str, ...] = ()
    other: str = ""


MEASURES = (
    Measure("Midpoint nonlinearity of the logits", "0: affine; 1.73: unrelated outputs", "midpoint", ("logits",)),
    Measure("Midpoint nonlinearity of layers", "0: affine; 1.73: unrelated outputs", "midpoint"),
    Measure("Gate churn", "0: no gate differs between two inputs", "gate-churn"),
    Measure("Gate churn, were gates independent", "2p(1 - p) of each gate", "gate-churn-independent"),
    Measure("Explained by a linear model", "1: all that the network knows of the classes", "kalimeris", ("logits",)),
    Measure("I(F;Y), bits", "what the network knows of the classes", "kalimeris-information", ("logits",)),
    Measure("I(F;Y|L), bits", "of it, what the linear model does not explain", "kalimeris-unexplained", ("logits",)),
    Measure("Ridge R2 of the logits from the input", "1: affine", "ridge-flattened", ("input",)),
    Measure("Ridge R2 of the logits from layers, whole maps", "1: affine from there on", "ridge-flattened"),
    Measure("Ridge R2 of the logits from layers, pooled", "1: affine in pooled activations", "ridge-pooled"),
    Measure("CKA of layers with the input", "to be read against the anchor", "cka", (), "input"),
    Measure("CKA of layers with the logits", "to be read against the anchor", "cka", (), "logits"),
    Measure(
        "Cross-layer correlation, largest activation", "to be read against the anchor", "correlation-top1", ("all",)
    ),
    Measure("... of a fixed channel", "its control", "correlation-fixed1", ("all",)),
    Measure("... of the channel of highest CSI", "the one that uses CSI", "correlation-csi1", ("all",)),
)
"""Without layers: the mean over all layers."""


def main(folder: str, page: str) -> None:
    """Write the page."""
    attached = Attached.read(Path(folder))
    claims = attached.claims()
    rows = attached.tables["linearity"].filter(condition="baseline", protocol="corrected")
    steps = chosen(rows["step"].unique().sort().to_list())
    parts = [
        "# Is the network close to linear early in training?",
        f"{attached.study.description}; the baseline, seeds {', '.join(map(str, attached.study.seeds))}. Written from "
        f"[its tables](cifar10.md) by\n```\npython docs/results/linearity.py {folder} {page}\n```\n"
        "Each cell: mean over seeds, 95% interval (paired t) and, in brackets, the same measure of the same network "
        "without its ReLUs. What each measure is: [how linear is your model](../how-to/how-linear-is-your-model.md).",
        "## The claim\n" + verdict(claims),
        "## Early against the end\n" + compared(attached),
        f"## Every measure through training\nAt {SHOWN} of {rows['step'].n_unique()} checkpoints.",
        *(f"### {one.title}\n{one.reading}.\n\n{cells(rows, one, steps)}" for one in MEASURES),
        "## Figures\n" + draw(attached, claims, Path(folder), FIGURES),
    ]
    write_text(Path(page), "\n\n".join(parts) + "\n")


def chosen(steps: list[int]) -> list[int]:
    """`SHOWN` of them, evenly spread over the list, its ends among them."""
    places = {round(place * (len(steps) - 1) / (SHOWN - 1)) for place in range(SHOWN)}
    return [steps[place] for place in sorted(places)]


def verdict(claims: dict) -> str:
    """C3 and its clauses."""
    claim = next(claim for claim in claims["claims"] if claim["id"] == "C3")
    rows = [
        (one["statistic"], number(one["estimate"]), interval(one), one["verdict"] or "-")
        for one in (*claim["clauses"], *claim["beside"])
    ]
    header = ("statistic", "estimate", "95% interval", "verdict")
    return f"**C3 {claim['title']}: {claim['verdict']}.** {claim['sentence']}\n\n{table(header, rows)}"


def compared(attached: Attached) -> str:
    """The report's table of measures, with what it says of itself."""
    source = Source(attached.study, attached.tables, None, attached.manifests, attached.facts["classes"])
    figure = linearity(source)
    assert figure.table is not None
    said = figure.caption[figure.caption.index("The table") :]
    return f"{said}\n\n{table(figure.table.header, [tuple(map(_shown, row)) for row in figure.table.rows])}"


def _shown(cell: str | float | None) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def cells(rows: pl.DataFrame, one: Measure, steps: list[int]) -> str:
    """A row of numbers, a column a checkpoint."""
    own = rows.filter(pl.col("measure") == one.measure, pl.col("other") == one.other)
    layers = pl.col("layer")
    own = own.filter(layers.is_in(one.layers) if one.layers else ~layers.is_in(("logits", "input", "all")))
    return table(tuple(f"step {step}" for step in steps), [tuple(_cells(own, steps))])


def _cells(own: pl.DataFrame, steps: list[int]) -> Iterator[str]:
    for step in steps:
        seeds = own.filter(step=step).group_by("seed", maintain_order=True).agg(pl.col("value", "anchor").mean())
        values, anchors = (
            [x for x in seeds[name] if x is not None and math.isfinite(x)] for name in ("value", "anchor")
        )
        anchor = f"({sum(anchors) / len(anchors):.2f})" if len(anchors) == len(seeds) else "(-)"
        found = paired_t(values)
        missing = f", {len(values)} of {len(seeds)} seeds" if len(values) < len(seeds) else ""
        ends = f" [{found.low:.2f}, {found.high:.2f}{missing}]" if len(values) > 1 else ""
        yield f"{found.estimate:.2f}{ends} {anchor}" if values else f"- {anchor}"


if __name__ == "__main__":
    main(*sys.argv[1:])
