"""How a study was made, from its config and manifests: settings, conditions, runs, versions, hardware, "
"time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestige.acting import (
    ClampConfig,
    Eta2PenaltyConfig,
    InterventionConfig,
    LearningRateConfig,
    NoiseConfig,
    OffsetShamConfig,
    OwnInterventionConfig,
    PenaltyConfig,
    RewindConfig,
    SelectivityPenaltyConfig,
    Window,
)
from vestige.config import StudyConfig
from vestige.report.style import count, duration, names
from vestige.runs.manifest import Manifest

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Making:
    """What the last section of the page shows."""

    settings: Pairs
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]
    runs: tuple[tuple[str, ...], ...]
    versions: Pairs
    hardware: Pairs
    differing: tuple[str, ...]


def making(
    study: StudyConfig, manifests: Mapping[tuple[str, int], Manifest], early_window: int | None = None
) -> Making:
    """Gather it; what differs between runs is said.

    Args:
      study: the study.
      manifests: of every run, by condition and seed.
      early_window: its stop in steps, where it is known.
    """
    made = [manifest.made for manifest in manifests.values() if manifest.made]
    versions, various = _agreed([one.get("versions", {}) for one in made])
    hardware, machines = _agreed([one.get("hardware", {}) for one in made])
    return Making(
        settings=_settings(study, manifests, early_window),
        conditions=tuple(
            (name, config.description, tuple(intervention(one) for one in config.interventions))
            for name, config in study.conditions.items()
        ),
        runs=tuple(
            _run(condition, seed, manifests.get((condition, seed)))
            for condition in study.conditions
            for seed in study.seeds
        ),
        versions=versions,
        hardware=hardware,
        differing=(
            *(f"Runs differ in {what}: {values}." for what, values in (*various, *machines)),
            *(
                f"Training of {condition}, seed {seed}, stopped: {manifest.failed}."
                for (condition, seed), manifest in manifests.items()
                if manifest.failed
            ),
        ),
    )


def dataset(spec: str) -> str:
    """A data set by its kind and last part: a reader has no use for a folder of another machine."""
    return (
        spec.split("/")[-1]
        if ":" not in spec
        else f"{spec.split(':')[0]}:{spec.rstrip('/').split('/')[-1].split(':')[-1]}"
    )


def intervention(config: InterventionConfig) -> str:
    """An intervention in words."""
    return f"{_what(config)}, {window(config.window)}"


def _what(config: InterventionConfig) -> str:
    match config:
        case PenaltyConfig():
            return _penalty(config)
        case NoiseConfig():
            return f"adds a random gradient, {config.share:g} of the norm of the cross-entropy's"
        case OffsetShamConfig():
            return f"sets batch-norm biases at the window's end so that closed and CSI are those of {config.target}"
        case ClampConfig():
            chosen = f"{config.fraction:.0%} of each layer, by {config.by} ({config.order})"
            return f"holds neurons at zero: {'those of a table' if config.table else chosen}"
        case RewindConfig():
            whose = "its own" if config.of == "run" else "the baseline's"
            return f"puts {names(list(config.modules))} back to {whose} weights of step {config.to}"
        case LearningRateConfig():
            return f"multiplies the learning rate by {config.factor:g}"
        case OwnInterventionConfig():
            return f"{config.kind.rpartition(':')[2]} (the study's own)"


def _penalty(config: SelectivityPenaltyConfig | Eta2PenaltyConfig) -> str:
    what = "class selectivity (CSI)" if config.kind == "selectivity" else "variance explained by class (η²)"
    verb = "suppresses" if config.alpha < 0 else "raises"
    labels = {
        "true": "",
        "permuted": ", labels permuted in every batch",
        "partition": ", classes drawn at random once",
    }[config.labels]
    where = f", in {names(list(config.stages))}" if config.stages else ""
    estimator = f", estimator {config.estimator}" if config.kind == "selectivity" and config.estimator != "mean" else ""
    dose = f"α = {_alpha(config.alpha)}"
    if config.dose == "matched":
        dose = f"gradient norm {config.share:g} of the cross-entropy's"
    return f"{verb} {what}, {dose}{estimator}{labels}{where}"


def _alpha(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def window(config: Window) -> str:
    """A window in words."""
    end = "the end" if config.stop is None else f"{config.unit[:-1]} {config.stop:g}"
    if not config.start:
        return "always" if config.stop is None else f"from the start to {end}"
    return f"from {config.unit[:-1]} {config.start:g} to {end}"


def _settings(study: StudyConfig, manifests: Mapping[tuple[str, int], Manifest], early_window: int | None) -> Pairs:
    recipe, data = study.recipe, study.data
    limits = [
        f"{limit} of the {split} images"
        for split, limit in (("training", data.limit), ("test", data.limit_test))
        if limit
    ]
    training = sum(manifest.seconds for manifest in manifests.values())
    measuring = sum(artifact.seconds for manifest in manifests.values() for artifact in manifest.artifacts.values())
    return tuple(
        (name, value)
        for name, value in (
            ("Network", _network(study)),
            ("Training images", dataset(data.train)),
            ("Test images", dataset(data.test)),
            ("Limited to", names(limits) if limits else ""),
            (
                "Training",
                f"{count(recipe.epochs, 'epoch')}, SGD, batch {recipe.batch_size}, "
                f"learning rate {recipe.lr:g} ({recipe.schedule}), momentum {recipe.momentum:g}, "
                f"weight decay {recipe.weight_decay:g}, {recipe.dtype}",
            ),
            ("Seeds", ", ".join(map(str, study.seeds))),
            ("Early window", _early_window(study, early_window)),
            ("Time in training", duration(training) + " over all runs" if training else ""),
            ("Time in measuring", duration(measuring) + " over all runs" if measuring else ""),
        )
        if value
    )


def _network(study: StudyConfig) -> str:
    own = study.model.name.startswith("resnet")
    return f"{study.model.name}, width {study.model.width}" if own else study.model.name


def _early_window(study: StudyConfig, steps: int | None) -> str:
    if study.claims is None:
        return ""
    config, pilots = study.claims.early_window, [str(seed) for seed in study.claims.pilot_seeds]
    known = f" (steps 0 to {steps})" if steps and config.unit == "epochs" else ""
    chosen = f"from pilot seeds {names(pilots)}" if pilots else "not taken from pilot seeds"
    return f"{config.unit} 0 to {config.stop:g}{known}, {chosen}"


def _run(condition: str, seed: int, manifest: Manifest | None) -> tuple[str, ...]:
    if manifest is None or not manifest.key:
        return condition, str(seed), "not begun", "–", "–", "–"
    steps = f"{max(manifest.checkpoints):,}".replace(",", "\u202f") if manifest.checkpoints else "–"
    parent = (
        f"{manifest.parent['condition']} at step {manifest.parent['step']}" if manifest.parent else "initialisation"
    )
    done = "complete" if manifest.complete else "stopped" if manifest.failed else "unfinished"
    return condition, str(seed), done, steps, parent, duration(manifest.seconds)


def _agreed(found: list[dict[str, Any]]) -> tuple[Pairs, list[tuple[str, str]]]:
    """Values that all runs share, and those that differ."""
    shared, differing = [], []
    for name in dict.fromkeys(key for one in found for key in one):
        values = sorted({str(one.get(name, "unknown")) for one in found})
        shared.append((name, " / ".join(values)))
        if len(values) > 1:
            differing.append((name, " / ".join(values)))
    return tuple(shared), differing
