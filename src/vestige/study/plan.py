"""What a study consists of: work units, what each needs, and the key that tells whether it is done.

A unit is independent of all others but those it needs, and idempotent: the result is the same in any order, on any
number of workers. Keys hash what can change a number, and nothing else: no paths, no number of seeds or workers, no
choice of conditions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vestige.acting import ClampConfig, OffsetShamConfig, RewindConfig, name_interventions
from vestige.config import CumulativeConfig, InterventionConfig, MeasurementConfig, StudyConfig, differences
from vestige.data.fingerprint import dataset_name
from vestige.errors import ConfigError, StoreError, nearest
from vestige.runs.manifest import Manifest, read_manifest
from vestige.runs.retention import kept_steps
from vestige.runs.store import RunFolder, StudyFolder, value_hash
from vestige.study.asking import check_asked, without_paths
from vestige.study.claimed import check_claimed
from vestige.study.facts import Facts
from vestige.training.schedule import acting_steps, checkpoint_steps, steps_in_epoch

TRAINING_VERSION = 1
"""Raised when the same settings would give other weights."""
FORMULA_VERSIONS = {"selectivity": 2, "ablation": 2, "cumulative": 1, "linearity": 3, "portraits": 1}
"""Raised when the same weights and settings would give another table."""
COPIED_INPUTS = "copied"
"""Networks of the user's own that work in place on their inputs were once given the images themselves."""
FEW_PERMUTATIONS = 100
"""With fewer, p-values were made in two or three strata before they were made in four."""


@dataclass(frozen=True)
class Job:
    """One measurement of one checkpoint.

    Attributes:
      kind: `selectivity`, ...
      variant: a protocol, or the value that replaces a neuron.
      split: of the images.
      tables: names of the tables it makes.
      protocol: of cumulative ablation.
    """

    kind: str
    variant: str
    split: str
    tables: tuple[str, ...]
    protocol: str = "corrected"

    @property
    def name(self) -> str:
        """`selectivity-corrected-test`, `cumulative-zero-test`, `cumulative-zero-faithful-test`."""
        departing = f"-{self.protocol}" if self.protocol != "corrected" else ""
        return f"{self.kind}-{self.variant}{departing}-{self.split}"


@dataclass(frozen=True)
class Unit:
    """A piece of work: train one run (`step` None), or make the tables of one checkpoint of it."""

    condition: str
    seed: int
    step: int | None = None

    @property
    def name(self) -> str:
        """`train/baseline/seed-0`, `measure/baseline/seed-0/step-00000128`."""
        run = f"{self.condition}/seed-{self.seed}"
        return f"train/{run}" if self.step is None else f"measure/{run}/step-{self.step:08d}"


@dataclass(frozen=True)
class Plan:
    """A study laid out in steps and units.

    Attributes:
      study: the study.
      facts: what was found in its data and model.
      conditions: those to measure, all by default; what they branch from is trained with them.
    """

    study: StudyConfig
    facts: Facts
    conditions: tuple[str, ...]

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch, the last, smaller batch included."""
        return steps_in_epoch(self.facts.train_images, self.study.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of a whole run."""
        return self.steps_per_epoch * self.study.recipe.epochs

    @cached_property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps at which weights are kept."""
        study = self.study
        return tuple(checkpoint_steps(study.checkpoints, self.steps_per_epoch, study.recipe.epochs))

    def windows(self, condition: str) -> list[tuple[int, int]]:
        """The steps [start, stop) in which each intervention of a condition acts.

        Raises:
          ConfigError: a window does not lie within the run.
        """
        interventions = self.study.conditions[condition].interventions
        return [acting_steps(i, self.steps_per_epoch, self.total_steps) for i in interventions]

    def onset(self, condition: str) -> int:
        """The first step at which a condition differs from a run without interventions."""
        return min((start for start, _ in self.windows(condition)), default=0)

    def parent(self, condition: str) -> str | None:
        """The condition without interventions that this one branches from; None: it is trained from step 0."""
        if self.onset(condition) == 0:
            return None
        return self.baseline

    @property
    def baseline(self) -> str | None:
        """The condition without interventions."""
        return self.study.baseline

    def onsets(self, condition: str) -> tuple[int, ...]:
        """Steps at which this condition must keep its full state, for others to branch from."""
        return tuple(sorted({self.onset(c) for c in self.study.conditions if self.parent(c) == condition}))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Steps at which portraits are taken, of the whole schedule."""
        portraits = self.study.measurements.portraits
        return kept_steps(self.checkpoints, portraits.checkpoints) if portraits else ()

    def jobs(self, condition: str, step: int | None = None) -> Iterator[Job]:
        """What is measured of a condition: at a checkpoint, or at any of them (None)."""
        m = self.study.measurements
        if m.selectivity and _wanted(m.selectivity, condition):
            for protocol in m.selectivity.protocols:
                yield _job("selectivity", protocol, m.selectivity.split)
        if m.ablation and _wanted(m.ablation, condition):
            for value in m.ablation.values:
                yield _job("ablation", value, m.ablation.split, ("ablation", "ablation-by-class"))
        if m.cumulative and _wanted(m.cumulative, condition):
            yield from _cumulative_jobs(m.cumulative)
        if m.linearity and _wanted(m.linearity, condition):
            yield _job("linearity", "corrected", m.linearity.split)
        if m.portraits and self._portrayed(m.portraits, condition) and (step is None or step in self.kept):
            yield _job("portraits", "corrected", m.portraits.split, ("class-means", "top-inputs"))

    def _portrayed(self, settings: MeasurementConfig, condition: str) -> bool:
        if settings.conditions is None and self.baseline:
            return condition == self.baseline
        return _wanted(settings, condition)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Everything there is to do: each unit stands behind those it needs."""
        trained = self._needed_first()
        training = [Unit(condition, seed) for condition in trained for seed in self.study.seeds]
        measuring = [
            Unit(condition, seed, step)
            for condition in self.conditions
            if any(self.jobs(condition))
            for seed in self.study.seeds
            for step in self.own_checkpoints(condition)
            if any(self.jobs(condition, step))
        ]
        tables = [need for unit in training for need in self.needs(unit) if need.step is not None]
        return (*training, *dict.fromkeys([*tables, *measuring]))

    def _needed_first(self) -> list[str]:
        """The conditions to train, each behind those it needs."""
        order: dict[str, None] = {}

        def visit(condition: str) -> None:
            for need in self.needs(Unit(condition, 0)):
                if need.condition not in order and need.condition != condition:
                    visit(need.condition)
            order[condition] = None

        for condition in dict.fromkeys([*filter(None, map(self.parent, self.conditions)), *self.conditions]):
            if condition not in order:
                visit(condition)
        return list(order)

    def own_checkpoints(self, condition: str) -> tuple[int, ...]:
        """Checkpoints that a condition makes itself: those after the onset, where it branches."""
        onset = self.onset(condition) if self.parent(condition) else -1
        return tuple(step for step in self.checkpoints if step > onset)

    def needs(self, unit: Unit) -> tuple[Unit, ...]:
        """The units that must be done before this one."""
        if unit.step is not None:
            return (replace(unit, step=None),)
        needed = [Unit(parent, unit.seed)] if (parent := self.parent(unit.condition)) else []
        rewound = [one for one in self._interventions(unit.condition) if isinstance(one, RewindConfig)]
        if self.baseline and any(one.of == "baseline" for one in rewound):
            needed.append(Unit(self.baseline, unit.seed))
        needed += [Unit(condition, unit.seed, step) for condition, step in self.asked(unit.condition).values()]
        return tuple(dict.fromkeys(needed))

    def asked(self, condition: str) -> dict[str, tuple[str, int]]:
        """Condition and step of the selectivity tables that the interventions of a condition need, by their names."""
        found: dict[str, tuple[str, int]] = {}
        interventions = self._interventions(condition)
        named = zip(name_interventions(interventions), interventions, self.windows(condition), strict=True)
        for name, intervention, (start, stop) in named:
            if isinstance(intervention, OffsetShamConfig):
                found[name] = (intervention.target, stop)
            elif isinstance(intervention, ClampConfig) and intervention.table is None:
                earlier = max((step for step in self.checkpoints if step <= start), default=0)
                found[name] = (self.baseline or "baseline", earlier if intervention.step is None else intervention.step)
        return found

    def table_job(self, condition: str) -> Job | None:
        """The measurement whose tables interventions may ask for; None where it is not made of this condition."""
        jobs = self.jobs(condition) if condition in self.study.conditions else ()
        return next((job for job in jobs if job.kind == "selectivity" and job.variant == "corrected"), None)

    def _interventions(self, condition: str) -> tuple[InterventionConfig, ...]:
        return self.study.conditions[condition].interventions

    def training_settings(self, unit: Unit) -> dict[str, Any]:
        """Everything that can change the weights or the history of a run."""
        shared = self.study.compute.processes  # gradients are then summed in another order
        return {
            "version": TRAINING_VERSION,
            "tables": _schema_version("history"),
            "data": self.facts.data,
            "model": self.facts.model,
            "recipe": self.study.recipe.model_dump(mode="json"),
            "checkpoints": list(self.own_checkpoints(unit.condition)),
            "interventions": self.resolved_interventions(unit.condition),
            "seed": unit.seed,
            "tile": self.study.measurements.tile,
            "compute": {**self.compute, **({"processes": shared} if shared > 1 else {})},
        }

    @property
    def compute(self) -> dict[str, Any]:
        """What of the machine can change a number's last bits."""
        compute = self.study.compute
        device = self.facts.device if compute.device == "auto" else compute.device.partition(":")[0]
        return {"device": device, "threads": compute.threads}

    def resolved_interventions(self, condition: str) -> list[dict[str, Any]]:
        """The interventions of a condition, their windows in steps, and what they are given from outside; no paths."""
        interventions, asked = self._interventions(condition), self.asked(condition)
        named = zip(name_interventions(interventions), interventions, self.windows(condition), strict=True)
        return [
            {**without_paths(i.identity()), "window": list(window), **self._given(asked.get(name), condition)}
            for name, i, window in named
        ]

    def _given(self, asked: tuple[str, int] | None, condition: str) -> dict[str, Any]:
        """What can change a table that an intervention asks for."""
        if asked is None or asked[0] == condition:
            return {}
        source, step = asked
        job = self.table_job(source)
        key = self.job_key(job, "", strata=False) if job else ""  # no intervention reads p-values
        return {"given": {"interventions": self.resolved_interventions(source), "step": step, "table": key}}

    def training_key(self, unit: Unit) -> str:
        """The key of a run's weights."""
        return value_hash(self.training_settings(unit))

    def job_key(self, job: Job, weights: str, *, strata: bool = True) -> str:
        """The key of a measurement's tables, given the SHA-256 of the weights; `strata`: p-values matter too."""
        measurements = self.study.measurements
        settings: MeasurementConfig = getattr(measurements, job.kind)
        choice = {"conditions", "protocols", "values", "checkpoints"}  # which are made does not change the others
        if getattr(settings, "mode", "") != "controlled":
            choice.add("precision")  # it says nothing then
        few = getattr(settings, "permutations", FEW_PERMUTATIONS) < FEW_PERMUTATIONS
        return value_hash(
            {
                "version": FORMULA_VERSIONS[job.kind],
                "tables": _schema_version(job.kind),
                "job": job.name,
                "settings": settings.model_dump(mode="json", exclude=choice),
                "batch_norm": measurements.batch_norm.model_dump(mode="json"),
                "tile": measurements.tile,
                "data": self.facts.data,
                "dataset": dataset_name(getattr(self.study.data, job.split)),
                "model": self.facts.model,
                "weights": weights,
                "compute": self.compute,
                **({"strata": 4} if strata and few else {}),
                **({"inputs": COPIED_INPUTS} if ".py:" in self.study.model.name else {}),
            }
        )

    def missing_jobs(
        self, unit: Unit, run: RunFolder, manifest: Manifest, *, verify: bool = False
    ) -> list[tuple[Job, str]]:
        """The measurements of a checkpoint that are not made from its weights yet, with their keys.

        A checkpoint that does not stand in the manifest has all of them missing, with an empty key.
        """
        assert unit.step is not None
        entry = manifest.checkpoints.get(unit.step)
        if entry is None:
            return [(job, "") for job in self.jobs(unit.condition, unit.step)]
        keyed = [(job, self.job_key(job, entry[1].sha256)) for job in self.jobs(unit.condition, unit.step)]
        return [
            (job, key)
            for job, key in keyed
            if not all(manifest.has(run, run.table(t, unit.step), key, verify=verify) for t in job.tables)
        ]

    def is_done(self, unit: Unit, folder: StudyFolder, manifest: Manifest, *, verify: bool = False) -> bool:
        """Whether everything of a unit is on disk, made from what the study says now."""
        run = folder.run(unit.condition, unit.seed)
        if unit.step is not None:
            return not self.missing_jobs(unit, run, manifest, verify=verify)
        if (
            not manifest.complete
            or manifest.key != self.training_key(unit)
            or self._has_other_parent(unit, folder, manifest)
        ):
            return False
        weights = [(step, manifest.checkpoints.get(step)) for step in self.own_checkpoints(unit.condition)]
        states = [run.state(onset) for onset in self.onsets(unit.condition)]
        return all(w and w[1].is_whole(run.checkpoint(step), verify=verify) for step, w in weights) and all(
            manifest.has(run, path, manifest.key, verify=verify) for path in (run.history, *states)
        )

    def refuse_other_settings(self, unit: Unit, folder: StudyFolder, manifest: Manifest) -> None:
        """Nothing is written over a run that other settings made.

        Raises:
          StoreError: the run's manifest has another key; what differs is named.
        """
        if not manifest.key or manifest.key == self.training_key(unit):
            return
        changed = [f"{f} is {b}, was {a}" for f, a, b in differences(manifest.settings, self.training_settings(unit))]
        raise StoreError(
            f"going on with the study in {folder.path}",
            found=f"its run {unit.condition}/seed-{unit.seed} was made by other settings: "
            + "; ".join(text if len(text) <= 160 else text[:157] + "..." for text in changed[:8]),
            remedy=f"Go on with its own settings (`vestige run {folder.path}`, with the data that it had), "
            "or begin another study beside it (--out FOLDER)",
        )

    def _has_other_parent(self, unit: Unit, folder: StudyFolder, manifest: Manifest) -> bool:
        """Whether a branch was begun from another state than its parent has now."""
        parent = self.parent(unit.condition)
        if parent is None:
            return False
        run = folder.run(parent, unit.seed)
        name = run.state(self.onset(unit.condition)).relative_to(run.path).as_posix()
        state = read_manifest(run).artifacts.get(name)
        return state is None or (manifest.parent or {}).get("sha256") != state.sha256


def make_plan(study: StudyConfig, facts: Facts, only: Sequence[str] = ()) -> Plan:
    """Lay a study out, for all its conditions or those in `only`.

    Raises:
      ConfigError: an unknown condition; a window, a number of images or checkpoints that do not fit.
    """
    for name in only:
        if name not in study.conditions:
            raise ConfigError(
                "choosing conditions (--only)",
                found=f"no condition {name!r}",
                remedy=nearest(name, study.conditions),
            )
    plan = Plan(study, facts, tuple(c for c in study.conditions if not only or c in only))
    for name in study.conditions:
        plan.windows(name)
    for name in study.conditions:
        check_asked(plan, name)
    _check_halves(study, facts)
    _check_windows_are_seen(plan)
    check_claimed(plan)
    return plan


def _check_halves(study: StudyConfig, facts: Facts) -> None:
    """Neurons are ranked on one half of the images of each class and ablated on the other."""
    classes = len(facts.class_names)
    for kind in ("ablation", "cumulative"):
        settings: MeasurementConfig | None = getattr(study.measurements, kind)
        if settings and settings.images and settings.images < 2 * classes:
            raise ConfigError(
                f"planning measurements.{kind}",
                found=f"{settings.images} images of {classes} classes, which cannot be halved within each class",
                remedy=f"Give measurements.{kind}.images of {2 * classes} or more",
            )


def _check_windows_are_seen(plan: Plan) -> None:
    """C4 checks that an arm did cut selectivity while it acted: a checkpoint must lie in its window."""
    claims, study = plan.study.claims, plan.study
    if claims is None or "C4" not in claims.judge:
        return
    for name in (claims.roles.early, claims.roles.late):
        for start, stop in plan.windows(name) if name in study.conditions else ():
            if not any(start < step <= stop for step in plan.checkpoints):
                raise ConfigError(
                    f"planning the checkpoints of {name!r}",
                    found=f"none lies in its window, after step {start} and up to {stop}: C4 could never be judged",
                    remedy="Make checkpoints denser (checkpoints.every_epochs, checkpoints.young_epochs), "
                    "move the window, or leave C4 out of claims.judge",
                )


def _schema_version(kind: str) -> int:
    from vestige.runs.tables import SCHEMA_VERSIONS  # here, since polars takes a quarter of a second to import

    return SCHEMA_VERSIONS[kind]


def _wanted(measurement: MeasurementConfig, condition: str) -> bool:
    return measurement.conditions is None or condition in measurement.conditions


def _cumulative_jobs(settings: CumulativeConfig) -> Iterator[Job]:
    for protocol in settings.protocols:
        for value in ("zero",) if protocol == "faithful" else settings.values:
            job = Job("cumulative", value, settings.split, (), protocol)
            yield replace(job, tables=(job.name,))


def _job(kind: str, variant: str, split: str, tables: tuple[str, ...] | None = None) -> Job:
    return Job(kind, variant, split, tuple(f"{t}-{variant}-{split}" for t in tables or (kind,)))
