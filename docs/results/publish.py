"""Publish a study's results: its figures, its verdicts, and a page with the numbers, all from its tables.

python docs/results/publish.py STUDY_FOLDER docs/results/NAME "the command that made it"
"""

import shutil
import sys
from pathlib import Path

import polars as pl

from vestige.runs.store import read_json, write_text
from vestige.study.results import gather
from vestige.study.study import Study


def main(study_folder: str, target: str, command: str) -> None:
    """Write `target/README.md`, `target/claims.json` and `target/*.png`."""
    study, out = Study.load(study_folder), Path(target)
    plan = study.plan()
    assert plan is not None, "the study has not been run"
    tables, claims = gather(plan, study.folder), read_json(study.folder.claims)
    out.mkdir(parents=True, exist_ok=True)
    figures = sorted((study.folder.report / "figures").glob("*.png"))
    for figure in figures:
        shutil.copy(figure, out)
    shutil.copy(study.folder.claims, out)
    parts = [
        f"# {study.config.name}: {study.config.description}",
        f"Seeds {list(study.config.seeds)}, {plan.facts.train_images} training images, "
        f"{study.config.recipe.epochs} epochs ({plan.total_steps} steps). Made by\n```\n{command}\n```",
        "This page is written by `docs/results/publish.py` from the study's tables.",
        "## Verdicts\n" + verdicts(claims),
        "## Final accuracy\nMean of the last three checkpoints, by condition and seed.",
        accuracy(tables["history"]),
        "## Mean CSI by stage, baseline\nOver the neurons that are not dead: at initialisation, at its peak (its "
        "step in brackets), and at the end.",
        selectivity(tables["selectivity"]),
        "## Figures\n" + "\n\n".join(f"![{figure.stem}]({figure.name})" for figure in figures),
    ]
    write_text(out / "README.md", "\n\n".join(parts) + "\n")


def verdicts(claims: dict) -> str:
    """A section a claim: its verdict, its sentence and its clauses."""
    sections = []
    for claim in claims["claims"]:
        rows = [
            (c["statistic"], number(c["estimate"]), interval(c), number(c["smallest_effect"]), c["verdict"])
            for c in claim["clauses"]
        ]
        heading = f"### {claim['id']} {claim['title']}: {claim['verdict']}\n{claim['sentence']}\n\n"
        sections.append(heading + table(("clause", "estimate", "95% interval", "smallest effect", "verdict"), rows))
    return "\n\n".join(sections)


def accuracy(history: pl.DataFrame) -> str:
    """Condition by seed."""
    final = (
        history.filter(pl.col("split") == "test")
        .sort("condition", "seed", "step")
        .group_by("condition", "seed", maintain_order=True)
        .agg(pl.col("top1").tail(3).mean())
        .pivot("seed", index="condition", values="top1")
    )
    rows = [(row[0], *(f"{value:.4f}" for value in row[1:])) for row in final.rows()]
    return table(("condition", *(f"seed {name}" for name in final.columns[1:])), rows)


def selectivity(frame: pl.DataFrame) -> str:
    """Stage and seed: first, peak and last mean CSI."""
    means = (
        frame.filter((pl.col("condition") == "baseline") & (pl.col("protocol") == "corrected") & ~pl.col("dead"))
        .group_by("stage", "seed", "step")
        .agg(pl.col("csi").mean())
        .sort("stage", "seed", "step")
    )
    rows = []
    for (stage, seed), curve in means.group_by("stage", "seed", maintain_order=True):
        peak = curve.row(int(curve["csi"].arg_max() or 0), named=True)
        ends = curve["csi"][0], curve["csi"][-1]
        rows.append((stage, seed, f"{ends[0]:.3f}", f"{peak['csi']:.3f} ({peak['step']})", f"{ends[1]:.3f}"))
    return table(("stage", "seed", "step 0", "peak", "end"), rows)


def table(header: tuple, rows: list[tuple]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def interval(clause: dict) -> str:
    """The interval of a clause, or a dash."""
    return "-" if clause["low"] is None else f"{number(clause['low'])} to {number(clause['high'])}"


if __name__ == "__main__":
    main(*sys.argv[1:])
