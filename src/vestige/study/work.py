"""Doing one work unit in a worker process: train a run, or make the tables of a checkpoint."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from vestige.config import DataConfig, Protocol, Split
from vestige.data.datasets import ImageSet, balanced_indices, open_images
from vestige.data.fingerprint import dataset_name
from vestige.data.loader import Tile, recalibration_batches, tiles
from vestige.errors import StoreError
from vestige.measurement.ablation.blocks import Blocks, blocks
from vestige.measurement.ablation.cumulative import ablate_cumulatively
from vestige.measurement.ablation.effect_tables import Task
from vestige.measurement.ablation.faithful_cumulative import ablate_faithfully
from vestige.measurement.ablation.pieces import FolderPieces, Pieces
from vestige.measurement.ablation.redrawn import ablate_redrawn
from vestige.measurement.ablation.single_ablation import ablate_singly
from vestige.measurement.inputs import batches
from vestige.measurement.keeping import Place, free_memory
from vestige.measurement.linearity import measure_linearity
from vestige.measurement.linearity.explained import measure_explained
from vestige.measurement.linearity.pixels import PixelModel, fit_pixels, images_to_fit
from vestige.measurement.network import Network
from vestige.measurement.portraits import measure_portraits
from vestige.measurement.ranking import Ranking, rank, split_halves
from vestige.measurement.selectivity import SelectivityResult, csi_cv_by_layer, flag, measure_selectivity
from vestige.models.batchnorm import recalibrate
from vestige.models.weights import load_weights
from vestige.models.zoo import build
from vestige.runs.manifest import Manifest, checked_weights, read_manifest, record_artifacts
from vestige.runs.store import RunFolder, StudyFolder, damaged, read_tensors, write_table
from vestige.runs.tables import conform
from vestige.study.plan import Job, Plan, Unit
from vestige.training.interventions import Given
from vestige.training.loop import Parent, train_run
from vestige.training.runtime import session

Progress = Callable[[int, int], None]


def do(
    plan: Plan,
    unit: Unit,
    folder: StudyFolder,
    *,
    verify: bool,
    progress: Progress,
    train: Callable[..., None] = train_run,
) -> None:
    """Do what is missing of a unit; nothing where another process did it meanwhile.

    Args:
      plan: the study laid out.
      unit: what to do of it.
      folder: where the study lives.
      verify: hash files that are there again, rather than trust their size.
      progress: called now and then.
      train: what trains a run, called as `train_run` is.

    Raises:
      VestigeError: it cannot be done; what was there stays.
    """
    run = folder.run(unit.condition, unit.seed)
    manifest = read_manifest(run)
    if plan.is_done(unit, folder, manifest, verify=verify):
        return
    if unit.step is None:
        plan.refuse_other_settings(unit, folder, manifest)
        _train(plan, unit, folder, manifest, progress, train)
        return
    with session(plan.study.compute) as device:
        _measure(_Bench(plan, folder, unit, manifest, device), verify=verify, progress=progress)


def _measure(bench: "_Bench", *, verify: bool, progress: Progress) -> None:
    plan, run, unit = bench.plan, bench.run, bench.unit
    assert unit.step is not None
    jobs = plan.missing_jobs(unit, run, bench.manifest, verify=verify)
    for number, (job, key) in enumerate(jobs):
        progress(number, len(jobs))
        began = time.perf_counter()
        written = []
        for table, frame in zip(job.tables, MEASURES[job.kind](bench, job), strict=True):
            write_table(run.table(table, unit.step), frame)
            written.append(run.table(table, unit.step))
        record_artifacts(run, key, written, time.perf_counter() - began)


def _train(
    plan: Plan, unit: Unit, folder: StudyFolder, manifest: Manifest, progress: Progress, train: Callable[..., None]
) -> None:
    run = folder.run(unit.condition, unit.seed)
    if manifest.complete and manifest.key == plan.training_key(unit):
        _refuse_damaged(run, manifest)
    parent = plan.parent(unit.condition)
    origin = None
    if parent is not None:
        origin = Parent(folder.run(parent, unit.seed), parent, unit.seed, plan.onset(unit.condition))
    train(
        plan.study,
        unit.condition,
        unit.seed,
        run,
        key=plan.training_key(unit),
        settings=plan.training_settings(unit),
        parent=origin,
        onsets=plan.onsets(unit.condition),
        given=_given(plan, unit, folder),
        progress=progress,
    )


def _given(plan: Plan, unit: Unit, folder: StudyFolder) -> Given:
    """What the run's interventions need from other runs."""
    tables = {}
    for name, (condition, step) in plan.asked(unit.condition).items():
        run, job = folder.run(condition, unit.seed), plan.table_job(condition)
        assert job is not None, "the plan refuses what is not measured"
        path, manifest = run.table(job.tables[0], step), read_manifest(run)
        weights = manifest.checkpoints.get(step)
        if weights is None or not manifest.has(run, path, plan.job_key(job, weights[1].sha256), verify=True):
            raise StoreError(
                f"reading the table of {condition!r} at step {step} for the intervention {name!r}",
                found=f"{path} is not there, or was made from other weights or settings",
                remedy="Run the whole study (`vestige run`): it is measured first then",
            )
        tables[name] = pl.read_parquet(path)
    baseline = folder.run(plan.baseline, unit.seed) if plan.baseline else None
    return Given(tables=tables, baseline=baseline)


def _refuse_damaged(run: RunFolder, manifest: Manifest) -> None:
    """Weights of a finished run that are there but not whole were changed by somebody: theirs to look at."""
    for step, (_, artifact) in manifest.checkpoints.items():
        path = run.checkpoint(step)
        if path.exists() and not artifact.is_whole(path, verify=True):
            raise damaged(path, f"{path.stat().st_size} bytes that are not the {artifact.size} that were written")


@dataclass(frozen=True)
class _Bench:
    """One checkpoint on the bench, and what its measurements share."""

    plan: Plan
    folder: StudyFolder
    unit: Unit
    manifest: Manifest
    device: torch.device

    @property
    def run(self) -> RunFolder:
        return self.folder.run(self.unit.condition, self.unit.seed)

    @cached_property
    def untrained(self) -> "_Bench":
        """The run's checkpoint at step 0, of the run that it branches from where it does."""
        unit = Unit(self.plan.parent(self.unit.condition) or self.unit.condition, self.unit.seed, 0)
        return replace(self, unit=unit, manifest=read_manifest(self.folder.run(unit.condition, unit.seed)))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        assert self.unit.step is not None
        return read_tensors(checked_weights(self.run, self.unit.step, self.manifest))[0]

    def images(self, split: Split) -> ImageSet:
        return _open(split, self.plan.study.data.model_dump_json())

    @cached_property
    def corrected(self) -> Network:
        """Batch-norm statistics recomputed from unaugmented training images."""
        model = self._model()
        recalibrate(model, [batch.to(self.device) for batch in self._recalibration()])
        return Network.prepare(model, self._sample())

    @cached_property
    def faithful(self) -> Network:
        """Batch-norm statistics as training left them."""
        return Network.prepare(self._model(), self._sample())

    def network(self, protocol: Protocol) -> Network:
        return self.corrected if protocol == "corrected" else self.faithful

    def chosen(self, kind: str) -> np.ndarray:
        """Indices of the images that a kind of measurement uses."""
        settings = getattr(self.plan.study.measurements, kind)
        return balanced_indices(self.images(settings.split).labels, settings.images)

    def tiles(self, split: Split, indices: np.ndarray) -> list[Tile]:
        study = self.plan.study
        return [
            tile._replace(inputs=tile.inputs.to(self.device))
            for tile in tiles(self.images(split), indices, study.data, study.measurements.tile)
        ]

    def streamed(self, split: Split, indices: np.ndarray) -> Iterator[Tile]:
        """The same tiles, each read when it is asked for, not on the device."""
        study = self.plan.study
        return tiles(self.images(split), indices, study.data, study.measurements.tile)

    def blocks(self, split: Split, indices: np.ndarray) -> Blocks:
        """The same tiles, read where they are needed."""
        study = self.plan.study
        feed = batches((self.images(split), study.data), batch_size=study.measurements.tile)
        return blocks(feed, tile=study.measurements.tile, places=indices, held=free_memory() / 4)

    @contextmanager
    def pieces(self, job: Job) -> Iterator[Pieces]:
        """Where a long measurement keeps what is done, until it is over."""
        assert self.unit.step is not None
        path = self.run.path / ".pieces" / f"{job.name}-step-{self.unit.step:08d}"
        key = {"key": self.plan.job_key(job, self.manifest.checkpoints[self.unit.step][1].sha256)}
        try:
            pieces = FolderPieces(path, key)
        except StoreError:  # of other weights or settings, which nobody will ask for again
            shutil.rmtree(path)
            pieces = FolderPieces(path, key)
        yield pieces
        shutil.rmtree(path, ignore_errors=True)

    def conform(self, frame: pl.DataFrame, kind: str, job: Job, protocol: str, n: int) -> pl.DataFrame:
        step = self.unit.step
        assert step is not None
        return conform(
            frame,
            kind,
            condition=self.unit.condition,
            seed=self.unit.seed,
            step=step,
            epoch=self.manifest.checkpoints[step][0],
            protocol=protocol,
            dataset=dataset_name(getattr(self.plan.study.data, job.split)),
            split=job.split,
            n=n,
        )

    def _sample(self) -> Tensor:
        return self._recalibration()[0][:2].to(self.device)

    def _recalibration(self) -> list[Tensor]:
        study = self.plan.study
        images = study.measurements.batch_norm.images
        return _recalibration(study.data.model_dump_json(), images, study.measurements.tile)

    def _model(self) -> nn.Module:
        channels, size, _ = self.plan.facts.input_shape
        classes = len(self.plan.facts.class_names)
        model = build(self.plan.study.model, classes=classes, channels=channels, size=size, seed=0)
        load_weights(model, self.weights, str(self.run.checkpoint(self.unit.step or 0)))
        layout = torch.channels_last if self.plan.study.recipe.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout).eval()


def _selectivity(bench: _Bench, job: Job) -> Sequence[pl.DataFrame]:
    settings = bench.plan.study.measurements.selectivity
    assert settings is not None
    chosen = bench.chosen("selectivity")
    result = _measured_selectivity(bench, job, settings.permutations)
    initial = csi_cv_by_layer(_as_stored(result)) if bench.unit.step == 0 else _initial_csi_cv(bench, job)
    table = flag(result.table, initial)
    return [bench.conform(table, "selectivity", job, job.variant, len(chosen))]


def _measured_selectivity(bench: _Bench, job: Job, permutations: int) -> SelectivityResult:
    settings = bench.plan.study.measurements.selectivity
    assert settings is not None
    protocol: Protocol = "faithful" if job.variant == "faithful" else "corrected"
    return measure_selectivity(
        bench.network(protocol),
        bench.tiles(settings.split, bench.chosen("selectivity")),
        protocol=protocol,
        permutations=permutations,
        # All are kept whatever memory there is: what a table says may not depend on it.
        place=Place(1.0, free_memory() / 2) if permutations else Place(0.0),
    )


def _initial_csi_cv(bench: _Bench, job: Job) -> dict[str, np.ndarray]:
    """csi_cv of the run's network at step 0 by layer name: from its table, or measured anew where there is none."""
    start = bench.untrained
    path = start.run.table(job.tables[0], 0)
    _, weights = start.manifest.checkpoints[0]
    if start.manifest.has(start.run, path, bench.plan.job_key(job, weights.sha256)):
        table = pl.read_parquet(path, columns=["layer", "csi_cv"])
    else:
        table = _as_stored(_measured_selectivity(start, job, permutations=0))
    return csi_cv_by_layer(table)


def _as_stored(result: SelectivityResult) -> pl.DataFrame:
    return result.table.select("layer", pl.col("csi_cv").cast(pl.Float32))


def _halves(bench: _Bench, kind: str) -> tuple[Ranking, Blocks, int]:
    """The neurons ranked on one half of the images, and the other half to ablate on."""
    settings = getattr(bench.plan.study.measurements, kind)
    chosen = bench.chosen(kind)
    ranking, ablation = split_halves(bench.images(settings.split).labels[chosen])
    ranked = rank(bench.corrected, bench.tiles(settings.split, chosen[ranking]))
    return ranked, bench.blocks(settings.split, chosen[ablation]), len(ablation)


def _ablation(bench: _Bench, job: Job) -> Sequence[pl.DataFrame]:
    settings = bench.plan.study.measurements.ablation
    assert settings is not None
    ranked, held_out, n = _halves(bench, "ablation")
    with bench.pieces(job) as pieces:
        neurons, by_class, _ = ablate_singly(
            bench.corrected,
            held_out,
            [Task(layer, job.variant, None) for layer in bench.corrected.layers],
            ranking=ranked,
            pieces=pieces,
            mode=settings.mode,
            precision=settings.precision,
            memory=free_memory() / 4,
        )
    return [
        bench.conform(neurons, "ablation", job, "corrected", n),
        bench.conform(by_class, "ablation-by-class", job, "corrected", n),
    ]


def _cumulative(bench: _Bench, job: Job) -> Sequence[pl.DataFrame]:
    settings = bench.plan.study.measurements.cumulative
    assert settings is not None
    chosen, split = bench.chosen("cumulative"), settings.split
    network = bench.network("faithful" if job.protocol in ("faithful", "stored-batch-norm") else "corrected")
    ranking, ablation = split_halves(bench.images(split).labels[chosen])
    ranked_on, ablated_on = chosen[ranking], chosen[ablation]
    if job.protocol == "faithful":
        ranked_on = ablated_on = chosen
    elif job.protocol == "same-images":
        ranked_on = ablated_on
    by_sums = job.protocol in ("faithful", "class-sums")
    ranked = rank(network, bench.tiles(split, ranked_on), protocol="faithful" if by_sums else "corrected")
    images = bench.blocks(split, ablated_on)
    config = settings.model_copy(update={"values": (job.variant,)})
    if job.protocol == "faithful":
        table = ablate_faithfully(network, images, ranking=ranked, draws=settings.draws)
    elif job.protocol == "redrawn":
        table = ablate_redrawn(network, images, ranking=ranked, config=config)
    else:
        table = ablate_cumulatively(network, images, ranking=ranked, config=config)
    return [bench.conform(table, "cumulative", job, job.protocol, len(ablated_on))]


def _linearity(bench: _Bench, job: Job) -> Sequence[pl.DataFrame]:
    settings = bench.plan.study.measurements.linearity
    assert settings is not None
    chosen, split, study = bench.chosen("linearity"), settings.split, bench.plan.study
    many = balanced_indices(bench.images(split).labels, settings.kalimeris_images)
    linear = _pixel_model(study.data.model_dump_json(), study.measurements.tile).predict
    together = np.array_equal(chosen, many)
    table = measure_linearity(
        bench.corrected,
        bench.streamed(split, chosen),
        pairs=settings.pairs,
        cka_images=settings.cka_images,
        top_k=settings.top_k,
        linear_labels=linear if together else None,
        place=Place(1.0, free_memory() / 8),
    )
    frames = [bench.conform(table, "linearity", job, "corrected", len(chosen))]
    if not together:
        table = measure_explained(bench.corrected, bench.streamed(split, many), linear)
        frames.append(bench.conform(table, "linearity", job, "corrected", len(many)))
    return [pl.concat(frames)]


def _portraits(bench: _Bench, job: Job) -> Sequence[pl.DataFrame]:
    settings = bench.plan.study.measurements.portraits
    assert settings is not None
    chosen = bench.chosen("portraits")
    found = measure_portraits(bench.corrected, bench.tiles(settings.split, chosen), inputs=settings.inputs)
    tables = zip(("class-means", "top-inputs"), found, strict=True)
    return [bench.conform(table, kind, job, "corrected", len(chosen)) for kind, table in tables]


MEASURES: dict[str, Callable[[_Bench, Job], Sequence[pl.DataFrame]]] = {
    "selectivity": _selectivity,
    "ablation": _ablation,
    "cumulative": _cumulative,
    "linearity": _linearity,
    "portraits": _portraits,
}


@lru_cache(maxsize=4)
def _open(split: Split, settings: str) -> ImageSet:
    data = DataConfig.model_validate_json(settings)
    return open_images(getattr(data, split), split, data)


@lru_cache(maxsize=2)
def _recalibration(settings: str, n: int, tile: int) -> list[Tensor]:
    return recalibration_batches(_open("train", settings), n, DataConfig.model_validate_json(settings), tile)


@lru_cache(maxsize=2)
def _pixel_model(settings: str, tile: int) -> PixelModel:
    """The linear model that networks are compared with: one for a study, being a function of its data alone."""
    images, data = _open("train", settings), DataConfig.model_validate_json(settings)
    chosen = balanced_indices(images.labels, images_to_fit(images.shape))
    return fit_pixels(tiles(images, chosen, data, tile))
