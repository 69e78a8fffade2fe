"""A study from its name or folder to its report: `Study.load("digits").run()`."""

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from vestige.config import StudyConfig, differences, dump_study, load_study
from vestige.data.fingerprint import resolve
from vestige.errors import ConfigError, StoreError, VestigeError, nearest
from vestige.runs.manifest import read_manifest
from vestige.runs.store import StudyFolder, write_text
from vestige.study import cost
from vestige.study.facts import Facts, find_facts, read_facts, write_facts
from vestige.study.plan import Plan, Unit, make_plan

PARTS = ("train", "measure", "claims", "report")


@dataclass(frozen=True)
class Outcome:
    """What a run of a study came to.

    Attributes:
      claims: the content of `claims.json`; None where the study claims nothing, or claims were not asked for.
      report: the report's page, where it was asked for.
      errors: the units that failed; the others are done.
    """

    claims: dict[str, Any] | None
    report: Path | None
    errors: dict[Unit, VestigeError]


@dataclass(frozen=True)
class Study:
    """A study's settings and the folder that it lives in."""

    config: StudyConfig
    folder: StudyFolder

    @classmethod
    def load(
        cls,
        study: str | Path = "digits",
        *,
        out: str | Path | None = None,
        overrides: Sequence[tuple[str, Any]] = (),
    ) -> "Study":
        """Find a study.

        Args:
          study: the name of a study that ships, a YAML file, or the folder of a study that was begun.
          out: the folder to work in; by default `studies/<name>` here, or the folder that was given.
          overrides: pairs of a dotted field and its value, `("recipe.epochs", 10)`.

        Raises:
          ConfigError: there is no such study, or a field of it is wrong.
        """
        path, known = Path(study), shipped()
        if (path / "study.yaml").is_file():
            config, home = load_study(path / "study.yaml", overrides), path
        elif path.suffix in (".yaml", ".yml"):
            config = load_study(path, overrides)
            home = Path("studies") / config.name
        elif str(study) in known:
            with as_file(files("vestige.studies") / f"{study}.yaml") as source:
                config = load_study(source, overrides)
            home = Path("studies") / config.name
        else:
            raise ConfigError(
                f"opening the study {str(study)!r}",
                found="a folder without study.yaml"
                if path.is_dir()
                else "neither a study that ships, nor a YAML file, nor the folder of a study",
                remedy=nearest(str(study), known),
            )
        return cls(_with_absolute_paths(config), StudyFolder(Path(out or home).absolute()))

    def plan(self, only: Sequence[str] = (), *, find: bool = False) -> Plan | None:
        """Lay the study out; None where its data and model were never looked at and `find` does not ask for it.

        Raises:
          ConfigError, DataError, ModelError: something in the study cannot be.
        """
        facts = read_facts(self.config, self.folder)
        if facts is None and find:
            facts = find_facts(self.config)
        return make_plan(self.config, facts, only) if facts else None

    def run(
        self,
        *,
        parts: Collection[str] = PARTS,
        only: Sequence[str] = (),
        verify: bool = False,
        show: bool = False,
    ) -> Outcome:
        """Do everything of a study that is missing, then judge its claims and write its report.

        Args:
          parts: which of `PARTS`.
          only: train and measure only these conditions; claims and report use whatever is there.
          verify: hash every file again, rather than trust its size.
          show: show progress on standard error.

        Raises:
          ConfigError, DataError, ModelError: something in the study cannot be; nothing was written.
          StoreError: the folder cannot be written, or holds a study of other settings; nothing in it was changed.
        """
        plan = self.plan(only, find=True)
        assert plan is not None
        self._refuse_other_settings(plan)
        self._write_settings(plan.facts)
        missing = self._missing(plan, parts, verify=verify)
        errors = self._work(plan, missing, verify=verify, show=show)
        claims = report = None
        if "claims" in parts or "report" in parts:
            from vestige.study.results import make_claims, make_report

            claims = make_claims(plan, self.folder) if self.config.claims else None
            if "report" in parts:
                make_report(plan, self.folder, claims)
                report = self.folder.report / "index.html"
        return Outcome(claims, report, errors)

    def _missing(self, plan: Plan, parts: Collection[str], *, verify: bool) -> list[Unit]:
        wanted = [unit for unit in plan.units if ("train" if unit.step is None else "measure") in parts]
        missing = missing_units(plan, self.folder, wanted, verify=verify)
        if "train" not in parts and (first := _first_untrained(plan, self.folder, missing)):
            raise StoreError(
                f"measuring the study in {self.folder.path}",
                found=f"the run {first.condition}/seed-{first.seed} is not trained",
                remedy="Train first: `vestige train`, or `vestige run` for everything",
            )
        return missing

    def _work(self, plan: Plan, missing: list[Unit], *, verify: bool, show: bool) -> dict[Unit, VestigeError]:
        if not missing:
            return {}
        from vestige.study.execute import Listener, execute
        from vestige.study.progress import showing

        sweep(self.folder)
        workers = self.config.compute.workers or (1 if self._on_gpu() else default_workers(self.config.compute.threads))
        with showing(plan, missing) if show else nullcontext(Listener()) as listener:
            errors = execute(plan, self.folder, missing, workers=workers, verify=verify, listener=listener)
        cost.remember(plan, self.folder)
        return errors

    def _on_gpu(self) -> bool:
        if self.config.compute.device == "cpu":
            return False
        import torch  # there is work to do, which needs it anyway

        return torch.cuda.is_available()

    def _refuse_other_settings(self, plan: Plan) -> None:
        for unit in plan.units:
            if unit.step is not None:
                continue
            manifest = read_manifest(self.folder.run(unit.condition, unit.seed))
            settings = plan.training_settings(unit)
            if manifest.key and manifest.key != plan.training_key(unit):
                changed = [f"{f} is {b}, was {a}" for f, a, b in differences(manifest.settings, settings)]
                raise StoreError(
                    f"going on with the study in {self.folder.path}",
                    found=f"its run {unit.condition}/seed-{unit.seed} was made by other settings: "
                    + "; ".join(_shorten(text) for text in changed[:8]),
                    remedy=f"Go on with its own settings (`vestige run {self.folder.path}`), "
                    "or begin another study beside it (--out FOLDER)",
                )

    def _write_settings(self, facts: Facts) -> None:
        write_text(self.folder.study_yaml, dump_study(self.config))
        write_facts(facts, self.folder)


def shipped() -> list[str]:
    """Names of the studies that ship with vestige."""
    names = (entry.name for entry in files("vestige.studies").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def missing_units(plan: Plan, folder: StudyFolder, units: Iterable[Unit], *, verify: bool = False) -> list[Unit]:
    """The units that are not done, in their order."""
    manifests = {
        (unit.condition, unit.seed): read_manifest(folder.run(unit.condition, unit.seed)) for unit in plan.units
    }
    return [
        unit for unit in units if not plan.is_done(unit, folder, manifests[unit.condition, unit.seed], verify=verify)
    ]


def default_workers(threads: int) -> int:
    """As many workers as the cores that this process may use allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def sweep(folder: StudyFolder) -> None:
    """Remove temporary files whose writers are dead."""
    for path in folder.path.rglob(".*.tmp"):
        pid = path.name.rsplit(".", 2)[1]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _first_untrained(plan: Plan, folder: StudyFolder, missing: Iterable[Unit]) -> Unit | None:
    runs = dict.fromkeys(replace(unit, step=None) for unit in missing)
    return next(iter(missing_units(plan, folder, runs)), None)


def _with_absolute_paths(config: StudyConfig) -> StudyConfig:
    here = Path.cwd()
    data = config.data.model_copy(
        update={"train": resolve(config.data.train, here), "test": resolve(config.data.test, here)}
    )
    path, _, name = config.model.name.rpartition(":")
    model = config.model
    if path.endswith(".py"):
        model = model.model_copy(update={"name": f"{(here / path).absolute()}:{name}"})
    return config.model_copy(update={"data": data, "model": model})


def _shorten(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
