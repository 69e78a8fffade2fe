"""What the neuron browser shows of what drives neurons: where its tables are, and the pictures of top inputs.

Thumbnails lie in sheets, `thumbnails/<split>/sheet-<n>.png` (or jpg) of the study's folder: image i of the split at
place i % 64 of sheet i // 64. A sheet is made once, when an image in it is first asked for.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from vestige.errors import VestigeError
from vestige.report.neurons.portraits import Portraits, Sheets
from vestige.runs.manifest import Manifest
from vestige.runs.store import StudyFolder, read_json, value_hash, write_json, writing
from vestige.study.plan import Job, Plan

SIDE = 8
PER = SIDE * SIDE
LARGEST = 64
"""Pixels of a thumbnail's side, at most."""
PLAIN = 32
"""Up to so many pixels, sheets are PNG: every pixel as it is."""
VERSION = 1

Found = dict[tuple[str, int], dict[int, list[Path]]]


def find_portraits(plan: Plan, folder: StudyFolder, manifests: Mapping[tuple[str, int], Manifest]) -> Portraits:
    """The tables that the manifests name, and the thumbnails, which are made where they are missing.

    Images that cannot be read leave the report without pictures, and it says so.
    """
    found: dict[str, Found] = {"class-means": {}, "top-inputs": {}, "ablation-by-class": {}}
    for (condition, seed), manifest in manifests.items():
        run = folder.run(condition, seed)
        for job, table in _asked(plan, condition):
            for step, (_, weights) in manifest.checkpoints.items():
                path, kind = run.table(table, step), table.removesuffix(f"-{job.variant}-{job.split}")
                if manifest.has(run, path, plan.job_key(job, weights.sha256)):
                    found[kind].setdefault((condition, seed), {}).setdefault(step, []).append(path)
    inputs = found["top-inputs"]
    return Portraits(
        tuple(plan.facts.class_names),
        found["class-means"],
        inputs,
        found["ablation-by-class"],
        _sheets(plan, folder, inputs) if inputs else None,
    )


def _asked(plan: Plan, condition: str) -> Iterator[tuple[Job, str]]:
    for job in plan.jobs(condition):
        if job.kind == "portraits":
            yield from ((job, table) for table in job.tables)
        elif job.kind == "ablation":
            yield job, job.tables[1]


def _sheets(plan: Plan, folder: StudyFolder, inputs: Found) -> Sheets | None:
    settings = plan.study.measurements.portraits
    assert settings is not None
    paths = [path for steps in inputs.values() for own in steps.values() for path in own]
    places = pl.concat([pl.read_parquet(path, columns=["input"], hive_partitioning=False) for path in paths])["input"]
    wanted = (places // PER).unique().sort().to_list()
    home = folder.path / "thumbnails" / settings.split
    _, height, width = plan.facts.input_shape
    cell = min(LARGEST, max(height, width))
    about = {
        "key": value_hash([VERSION, plan.facts.data, settings.split]),
        "per": PER,
        "side": SIDE,
        "cell": cell,
        "suffix": ".png" if cell <= PLAIN else ".jpg",
    }
    files = {number: home / f"sheet-{number:05d}{about['suffix']}" for number in wanted}
    try:
        _make_missing(plan, settings.split, home, about, files)
    except VestigeError:
        return None
    return Sheets(PER, SIDE, cell, files)


def _make_missing(plan: Plan, split: str, home: Path, about: dict[str, Any], files: Mapping[int, Path]) -> None:
    record = home / "about.json"
    stays = record.exists() and read_json(record) == about
    missing = {number: path for number, path in files.items() if not (stays and path.exists())}
    if not missing:
        return
    from vestige.data.datasets import open_images

    images = open_images(getattr(plan.study.data, split), split, plan.study.data)
    for number, path in missing.items():
        indices = list(range(number * PER, min((number + 1) * PER, len(images))))
        sheet = _sheet(images.images(indices).numpy(), about["cell"])
        with writing(path) as temporary:
            sheet.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG", optimize=True, quality=85)
    write_json(record, about)


def _sheet(pixels_NCHW: Any, cell: int) -> Any:
    """A sheet of thumbnails, each as large as it fits in its cell."""
    from PIL import Image

    channels = pixels_NCHW.shape[1]
    sheet = Image.new("RGB" if channels >= 3 else "L", (SIDE * cell, SIDE * cell), (128,) * 3 if channels >= 3 else 128)
    for place, pixels_CHW in enumerate(pixels_NCHW):
        plain = pixels_CHW[:3].transpose(1, 2, 0) if channels >= 3 else pixels_CHW[0]
        picture = Image.fromarray(plain.copy())
        picture.thumbnail((cell, cell))
        left, top = (cell - picture.width) // 2, (cell - picture.height) // 2
        sheet.paste(picture, (place % SIDE * cell + left, place // SIDE * cell + top))
    return sheet
