"""What can act on training, built from a condition's description; one method a file, a README beside it."""

from collections.abc import Sequence
from sys import maxsize

from vestige.acting import (
    ActingConfig,
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
    name_interventions,
)
from vestige.errors import ConfigError
from vestige.models.layers import Layer, penalised_layers, stages
from vestige.training.events import Intervention
from vestige.training.interventions.choosing import from_file, from_ranking
from vestige.training.interventions.clamp import Clamp
from vestige.training.interventions.eta2 import Eta2Penalty
from vestige.training.interventions.given import Given
from vestige.training.interventions.lr import LearningRate
from vestige.training.interventions.noise import Noise
from vestige.training.interventions.offset_sham import OffsetSham
from vestige.training.interventions.own import build_own
from vestige.training.interventions.penalty import ActivationPenalty
from vestige.training.interventions.rewind import Rewind
from vestige.training.interventions.selectivity import SelectivityPenalty
from vestige.training.interventions.watching import Watching

__all__ = [
    "ActivationPenalty",
    "Clamp",
    "Eta2Penalty",
    "Given",
    "LearningRate",
    "Noise",
    "OffsetSham",
    "Rewind",
    "SelectivityPenalty",
    "Watching",
    "build",
    "name_interventions",
]

EVERY_STEP = (0, maxsize)


def build(
    configs: Sequence[InterventionConfig],
    layers: Sequence[Layer],
    windows: Sequence[tuple[int, int]] | None = None,
    given: Given | None = None,
) -> tuple[Intervention, ...]:
    """The interventions of a condition.

    Args:
      configs: their descriptions.
      layers: those of the network, from input to output.
      windows: steps [start, stop) of each, from `schedule.window_steps`; None: every step.
      given: what they need from outside the run; None: they are only looked at, to see whether they can be.

    Raises:
      ConfigError: an intervention that would change nothing, or names a stage that the network does not have.
    """
    windows = windows or [EVERY_STEP] * len(configs)
    named = zip(name_interventions(configs), configs, windows, strict=True)
    return tuple(_build(name, config, layers, window, given or Given()) for name, config, window in named)


def _build(
    name: str, config: InterventionConfig, layers: Sequence[Layer], window: tuple[int, int], given: Given
) -> Intervention:
    doing = f"setting up the intervention {name!r}"
    _refuse_no_effect(doing, config)
    if window[1] <= window[0]:
        raise ConfigError(
            doing, found=f"its window {list(window)} holds no step", remedy="End the window after its start"
        )
    if isinstance(config, OwnInterventionConfig):
        return build_own(name, config, window, layers)
    chosen = _choose(doing, config, layers)
    match config:
        case SelectivityPenaltyConfig():
            return SelectivityPenalty(
                name,
                window,
                chosen,
                alpha=config.alpha,
                labels=config.labels,
                share=_share(config),
                estimator=config.estimator,
                momentum=config.momentum,
            )
        case Eta2PenaltyConfig():
            return Eta2Penalty(name, window, chosen, alpha=config.alpha, labels=config.labels, share=_share(config))
        case NoiseConfig():
            return Noise(name, window, chosen, share=config.share)
        case LearningRateConfig():
            return LearningRate(name, window, chosen, factor=config.factor)
        case OffsetShamConfig():
            return OffsetSham(name, window, chosen, given=given)
        case RewindConfig():
            return _rewind(name, config, window, chosen, given)
        case ClampConfig():
            return _clamp(doing, name, config, window, chosen, layers, given)


def _share(config: PenaltyConfig) -> float | None:
    return config.share if config.dose == "matched" else None


def _refuse_no_effect(doing: str, config: ActingConfig) -> None:
    """Settings with which nothing would be changed."""
    found = {
        "alpha is 0": isinstance(config, PenaltyConfig) and config.alpha == 0,
        "share is 0": isinstance(config, NoiseConfig) and config.share == 0,
        "share is 0 and the dose matched": isinstance(config, PenaltyConfig) and _share(config) == 0,
        "factor is 1": isinstance(config, LearningRateConfig) and config.factor == 1,
        "fraction is 0": isinstance(config, ClampConfig) and config.table is None and config.fraction == 0,
        "it names no module": isinstance(config, RewindConfig) and not config.modules,
    }
    remedies = {
        "alpha is 0": "Give an alpha below 0 (against the index) or above (for it), or leave it out",
        "factor is 1": "Give another factor of the learning rate, or leave it out",
        "it names no module": "Name modules or patterns of them: modules: [layer3]",
    }
    for cause, holds in found.items():
        if holds:
            remedy = remedies.get(cause, "Give a number above 0, or leave it out")
            raise ConfigError(doing, found=f"{cause}, so it changes nothing", remedy=remedy)


def _rewind(name: str, config: RewindConfig, window: tuple[int, int], chosen: Sequence[Layer], given: Given) -> Rewind:
    if window != EVERY_STEP and config.to >= window[0] and config.of == "run":
        raise ConfigError(
            f"setting up the intervention {name!r}",
            found=f"it goes back to step {config.to}, and its window starts at step {window[0]}",
            remedy="Go back to an earlier step (to), or start the window later",
        )
    before = config.of == "run" and given.parent is not None and config.to <= given.parent.step
    run = given.baseline if config.of == "baseline" else given.parent.run if before and given.parent else given.run
    own = config.of == "run" and not before
    return Rewind(name, window, chosen, modules=config.modules, step=config.to, run=run, own=own)


def _clamp(
    doing: str,
    name: str,
    config: ClampConfig,
    window: tuple[int, int],
    chosen: Sequence[Layer],
    layers: Sequence[Layer],
    given: Given,
) -> Clamp:
    if config.table is not None:
        neurons = from_file(doing, config.table, layers if config.stages is None else chosen)
    elif name in given.tables:
        neurons = from_ranking(doing, config, given.tables[name], chosen)
    else:  # looked at before there is a table
        neurons = {layer.name: (0,) for layer in chosen}
    return Clamp(name, window, [layer for layer in layers if neurons.get(layer.name)], neurons=neurons)


def _choose(doing: str, config: InterventionConfig, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    assert not isinstance(config, OwnInterventionConfig)
    chosen = penalised_layers(layers, config.stages)
    if not chosen:
        known = ", ".join(stages(layers))
        default = f" (the last stage is left out by default; there are: {known})" if config.stages is None else ""
        raise ConfigError(
            doing,
            found=f"it acts on no stage, so it changes nothing{default}",
            remedy=f"Name stages: stages: [{known}]",
        )
    return chosen
