"""What interventions ask of other runs of a study, and of files: looked at before any work."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.acting import ClampConfig, OffsetShamConfig, RewindConfig, name_interventions
from vestige.errors import ConfigError, nearest
from vestige.runs.store import file_hash

if TYPE_CHECKING:
    from vestige.study.plan import Plan


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an intervention with the files in them named by their content."""
    settings = dict(settings)
    path, _, name = settings["kind"].rpartition(":")
    if path and Path(path).is_file():
        settings["kind"] = f"{file_hash(Path(path))}:{name}"
    if isinstance(settings.get("table"), str) and Path(settings["table"]).is_file():
        settings["table"] = file_hash(Path(settings["table"]))
    return settings


def check_asked(plan: "Plan", condition: str) -> None:
    """An intervention's tables and checkpoints must be made by the study, before it acts.

    Raises:
      ConfigError: one is not.
    """
    interventions = plan.study.conditions[condition].interventions
    asked = plan.asked(condition)
    for name, one, (start, _) in zip(
        name_interventions(interventions), interventions, plan.windows(condition), strict=True
    ):
        doing = f"planning the intervention {name!r} of {condition!r}"
        if isinstance(one, RewindConfig):
            _check_checkpoint(plan, doing, condition, one, start)
        elif isinstance(one, OffsetShamConfig | ClampConfig) and name in asked:
            _check_table(plan, doing, condition, *asked[name])


def _check_checkpoint(plan: "Plan", doing: str, condition: str, one: RewindConfig, start: int) -> None:
    if one.of == "baseline" and plan.baseline is None:
        raise ConfigError(
            doing, found="the study has no baseline", remedy="Add a condition without interventions, or take of: run"
        )
    if one.to not in plan.checkpoints:
        known = ", ".join(str(step) for step in plan.checkpoints if step <= start)
        raise ConfigError(
            doing,
            found=f"no weights are kept at step {one.to}",
            remedy=f"Go back (to) to one of {known}, or make checkpoints denser (checkpoints)",
        )
    if one.to >= start if one.of == "run" else one.to > start:
        raise ConfigError(
            doing,
            found=f"it goes back to step {one.to}, and its window starts at step {start}",
            remedy="Go back to an earlier step (to), or start the window later",
        )
    if one.of == "baseline" and one.to == start == plan.onset(condition):
        raise ConfigError(
            doing,
            found=f"it gives back the baseline's weights of step {start}, which the run has there: it changes none",
            remedy="Go back to an earlier step (to), or let another intervention act before it",
        )


def _check_table(plan: "Plan", doing: str, condition: str, source: str, step: int) -> None:
    if source not in plan.study.conditions or source == condition:
        which = "itself" if source == condition else "none of the study's"
        raise ConfigError(
            doing,
            found=f"it needs a table of the condition {source!r}, which is {which}",
            remedy=nearest(source, [name for name in plan.study.conditions if name != condition]),
        )
    if condition in _sources(plan, source):
        raise ConfigError(
            doing, found=f"it needs a table of {source!r}, which needs one of it", remedy="Take another condition"
        )
    if plan.table_job(source) is None:
        raise ConfigError(
            doing,
            found=f"the selectivity of {source!r} is not measured (protocol corrected)",
            remedy=f"Add {source!r} to measurements.selectivity.conditions, and corrected to its protocols",
        )
    if step not in plan.own_checkpoints(source):
        known = ", ".join(str(known) for known in plan.own_checkpoints(source))
        raise ConfigError(
            doing,
            found=f"{source!r} has no checkpoint at step {step}",
            remedy=f"Let it be one of {known}, or make checkpoints denser (checkpoints)",
        )


def _sources(plan: "Plan", condition: str) -> set[str]:
    """The conditions whose tables a condition needs, and those that these need."""
    found: set[str] = set()
    waiting = [condition]
    while waiting:
        for source, _ in plan.asked(waiting.pop()).values():
            if source not in found and source in plan.study.conditions:
                found.add(source)
                waiting.append(source)
    return found
