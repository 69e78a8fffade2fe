"""A study from its name or folder to its report: `Study.load("digits").run()`."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.acting import ClampConfig, InterventionConfig, OwnInterventionConfig
from vestige.config import StudyConfig, differences, dump_study, load_study
from vestige.data.fingerprint import resolve
from vestige.errors import ConfigError, StoreError, VestigeError, nearest
from vestige.runs.manifest import read_manifest
from vestige.runs.store import StudyFolder, joining, write_text
from vestige.study import cost
from vestige.study.edits import told_apart
from vestige.study.facts import check_runnable, check_shareable, find_facts, read_facts, write_facts
from vestige.study.plan import Plan, Unit, make_plan
from vestige.study.registering import register

if TYPE_CHECKING:
    from vestige.study.together import Followers

PARTS = ("train", "measure", "claims", "report")


@dataclass(frozen=True)
class Outcome:
    """What a run of a study came to.

    Attributes:
      claims: the content of `claims.json`; None where claims were not asked for.
      report: the report's page, where it was asked for.
      older: the report's page, where it was not asked for and stands there made from what is no longer so.
      errors: the units that failed; the others are done.
    """

    claims: dict[str, Any] | None
    report: Path | None
    errors: dict[Unit, VestigeError]
    older: Path | None = None


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

    def changes(self) -> list[str]:
        """What these settings change of those that the folder was last worked with, a line each; how it is worked on
        (`compute`) is no setting of the study."""
        if not self.folder.study_yaml.is_file():
            return []
        before, after = map(_by_name, (load_study(self.folder.study_yaml), self.config))
        return [_told(field, was, now) for field, was, now in differences(before, after)]

    def run(
        self,
        *,
        parts: Collection[str] = PARTS,
        only: Sequence[str] = (),
        verify: bool = False,
        show: bool = False,
        followers: "Followers | None" = None,
    ) -> Outcome:
        """Do everything of a study that is missing, then judge its claims and write its report.

        Args:
          parts: which of `PARTS`.
          only: train and measure only these conditions; claims and report use whatever is there.
          verify: hash every file again, rather than trust its size.
          show: show progress on standard error.
          followers: the other processes of `torchrun`, which share every training with this one.

        Raises:
          ConfigError, DataError, ModelError: something in the study cannot be; nothing was written.
          StoreError: the folder cannot be written, or holds a study of other settings; nothing in it was changed.
        """
        plan = self.plan(only, find=True)
        assert plan is not None
        if "train" not in parts:
            self._refuse_untrained()
        claims = report = older = None
        begin = partial(self._begin, plan, parts, followers.world if followers else 1, show)
        with joining(self.folder.lock("settings"), first=begin, joined=partial(self._join, begin)):
            missing = self._missing(plan, parts, verify=verify)
            errors = self._work(plan, missing, verify=verify, show=show, followers=followers)
            if "claims" in parts or "report" in parts:
                from vestige.study.results import has_report, make_claims, make_report

                claims, page = make_claims(plan, self.folder), self.folder.report / "index.html"
                if "report" in parts:
                    make_report(plan, self.folder, claims, verify=verify)
                    report = page
                elif page.exists() and not has_report(plan, self.folder):
                    older = page
        return Outcome(claims, report, errors, older)

    def _begin(self, plan: Plan, parts: Collection[str], processes: int, show: bool) -> None:
        """Look at everything that can be wrong, and only then write the settings."""
        self._refuse_other_settings(plan)
        if missing := self._missing(plan, parts, verify=False):
            if any(unit.step is None for unit in missing):
                check_shareable(self.config, plan.facts, processes)
            check_runnable(self.config, plan.facts)
        changes = self.changes()
        sweep(self.folder)
        registered = register(plan, self.folder)
        for line in (*changes, *filter(None, [registered])) if show else ():
            print(line, file=sys.stderr)
        write_text(self.folder.study_yaml, dump_study(self.config))
        write_facts(plan.facts, self.folder)

    def _join(self, begin: Callable[[], None]) -> None:
        """Others are at work on this study: with the same settings, or not with us."""
        theirs = load_study(self.folder.study_yaml)
        changed = [
            f"{f} is {b}, theirs is {a}" for f, a, b in differences(_trained_by(theirs), _trained_by(self.config))
        ]
        if changed:
            raise StoreError(
                f"joining another vestige at work on the study in {self.folder.path}",
                found="it works with other settings: " + "; ".join(changed[:8]),
                remedy="Begin another study beside it (--out FOLDER)",
            )
        begin()

    def _missing(self, plan: Plan, parts: Collection[str], *, verify: bool) -> list[Unit]:
        """What is to do; without training, measurements of runs that are not trained are left out."""
        wanted = [unit for unit in plan.units if ("train" if unit.step is None else "measure") in parts]
        missing = missing_units(plan, self.folder, wanted, verify=verify)
        if "train" in parts:
            return missing
        untrained = {
            (unit.condition, unit.seed)
            for unit in missing_units(plan, self.folder, (unit for unit in plan.units if unit.step is None))
        }
        return [unit for unit in missing if (unit.condition, unit.seed) not in untrained]

    def _work(
        self, plan: Plan, missing: list[Unit], *, verify: bool, show: bool, followers: "Followers | None"
    ) -> dict[Unit, VestigeError]:
        if not missing:
            return {}
        from vestige.study.execute import Listener, execute
        from vestige.study.progress import showing

        compute = self.config.compute
        workers = compute.workers or (1 if plan.compute["device"] == "cuda" else default_workers(compute.threads))
        with showing(plan, missing) if show else nullcontext(Listener()) as listener:
            train = followers.train if followers else None
            errors = execute(plan, self.folder, missing, workers=workers, verify=verify, listener=listener, train=train)
        cost.remember(plan, self.folder)
        return errors

    def _begun(self) -> Iterator[Unit]:
        """The runs on disk, chosen now or not."""
        for condition in self.config.conditions:
            for path in sorted((self.folder.path / "runs" / condition).glob("seed-*/manifest.json")):
                yield Unit(condition, int(path.parent.name.removeprefix("seed-")))

    def _refuse_untrained(self) -> None:
        if not any(True for _ in self._begun()):
            raise StoreError(
                f"opening the study in {self.folder.path}",
                found="no run of it is trained",
                remedy="Train first: `vestige train`, or `vestige run` for everything",
            )

    def _refuse_other_settings(self, plan: Plan) -> None:
        """Every run on disk must be made by these settings."""
        for unit in self._begun():
            manifest = read_manifest(self.folder.run(unit.condition, unit.seed))
            plan.refuse_other_settings(unit, self.folder, manifest)


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


def _trained_by(study: StudyConfig) -> dict[str, Any]:
    """The settings that training depends on."""
    named = study.model_dump(mode="json", include={"data", "model", "recipe", "checkpoints", "conditions"})
    return {**named, **study.compute.model_dump(mode="json", include={"threads", "device", "processes"})}


def _with_absolute_paths(config: StudyConfig) -> StudyConfig:
    here = Path.cwd()
    data = config.data.model_copy(
        update={"train": resolve(config.data.train, here), "test": resolve(config.data.test, here)}
    )
    path, _, name = config.model.name.rpartition(":")
    model = config.model
    if path.endswith(".py"):
        model = model.model_copy(update={"name": f"{(here / path).absolute()}:{name}"})
    conditions = {
        name: condition.model_copy(update={"interventions": tuple(_absolute(i, here) for i in condition.interventions)})
        for name, condition in config.conditions.items()
    }
    grid = config.grid
    if grid is not None:
        grid = grid.model_copy(update={"intervention": _absolute(grid.intervention, here)})
    return config.model_copy(update={"data": data, "model": model, "conditions": conditions, "grid": grid})


def _absolute(intervention: InterventionConfig, here: Path) -> InterventionConfig:
    """An intervention whose files are found from any folder."""
    if isinstance(intervention, OwnInterventionConfig):
        path, _, name = intervention.kind.rpartition(":")
        return intervention.model_copy(update={"kind": f"{(here / path).absolute()}:{name}"})
    if isinstance(intervention, ClampConfig) and intervention.table is not None:
        return intervention.model_copy(update={"table": str((here / intervention.table).absolute())})
    return intervention


def _by_name(config: StudyConfig) -> dict[str, Any]:
    """The settings with own claims and their clauses by id: what changed within them has a name."""
    settings = config.model_dump(mode="json", exclude={"compute"})
    if config.claims:
        settings["claims"]["own"] = {
            claim.id: {
                **claim.model_dump(mode="json"),
                "clauses": {name: clause.model_dump(mode="json") for name, clause in claim.named()},
            }
            for claim in config.claims.own
        }
    return settings


def _told(field: str, was: Any, now: Any) -> str:
    before, after = told_apart(json.dumps(was), json.dumps(now), 80)
    return f"setting of the study changed: {field} was {before}, is {after}"
