"""In what two studies were made differently: settings, conditions, versions, hardware."""

from typing import Any

import yaml

from vestige.config import StudyConfig, differences, dump_study
from vestige.report.compare_side import Side
from vestige.report.making import dataset, intervention, making

Rows = list[tuple[str, str, str]]
NOWHERE = "not there"
_SAYS_NOTHING = {"name", "description", "compute.workers"}
"""Settings that change no number."""


def setting_rows(a: Side, b: Side) -> Rows:
    """Dotted fields in which the settings differ, with what each study says; conditions of a grid follow from it."""
    dumped = [yaml.safe_load(dump_study(side.study)) for side in (a, b)]
    rows = []
    for field, x, y in differences(*dumped):
        if field in _SAYS_NOTHING or field.endswith(".description"):
            continue
        shown = _shown(field, x, a.study), _shown(field, y, b.study)
        if shown[0] == shown[1]:
            shown = (f"{shown[0]} (in one folder)", f"{shown[1]} (in another)")
        rows.append((field, *shown))
    return rows


def made_differently(a: Side, b: Side) -> Rows:
    """Versions and hardware that differ."""
    made = [making(side.study, side.manifests) for side in (a, b)]
    told = [dict(one.versions + one.hardware) for one in made]
    return [
        (name, told[0].get(name, "unknown"), told[1].get(name, "unknown"))
        for name in dict.fromkeys([*told[0], *told[1]])
        if told[0].get(name) != told[1].get(name)
    ]


def _shown(field: str, value: Any, study: StudyConfig) -> str:
    parts = field.split(".")
    if parts[0] == "conditions" and parts[-1] != "description":
        name = field.removeprefix("conditions.").removesuffix(".interventions")
        condition = study.conditions.get(name)
        if condition is None:
            return NOWHERE
        return "; ".join(intervention(one) for one in condition.interventions) or "no intervention"
    if value is None:
        return "none"
    if field in ("data.train", "data.test"):
        return dataset(value)
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    return str(value)
