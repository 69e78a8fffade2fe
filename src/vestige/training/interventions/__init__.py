"""What can act on training, built from a condition's description; one method a file, a README beside it."""

from collections import Counter
from collections.abc import Sequence
from sys import maxsize

from vestige.config import Eta2PenaltyConfig, InterventionConfig, SelectivityPenaltyConfig
from vestige.errors import ConfigError
from vestige.models.layers import Layer, penalised_layers, stages
from vestige.training.interventions.eta2 import Eta2Penalty
from vestige.training.interventions.penalty import ActivationPenalty
from vestige.training.interventions.selectivity import SelectivityPenalty

__all__ = ["ActivationPenalty", "Eta2Penalty", "SelectivityPenalty", "build", "name_interventions"]

EVERY_STEP = (0, maxsize)


def build(
    configs: Sequence[InterventionConfig],
    layers: Sequence[Layer],
    windows: Sequence[tuple[int, int]] | None = None,
) -> tuple[ActivationPenalty, ...]:
    """The interventions of a condition.

    Args:
      configs: their descriptions.
      layers: those of the network, from input to output.
      windows: steps [start, stop) of each, from `schedule.window_steps`; None: every step.

    Raises:
      ConfigError: an intervention that would change nothing, or names a stage that the network does not have.
    """
    windows = windows or [EVERY_STEP] * len(configs)
    named = zip(name_interventions(configs), configs, windows, strict=True)
    return tuple(_build(name, config, layers, window) for name, config, window in named)


def name_interventions(configs: Sequence[InterventionConfig]) -> list[str]:
    """A name for each, unique in its run: `eta2`, `eta2-permuted`; the second of a name is `eta2-2`."""
    seen: Counter[str] = Counter()
    names = []
    for config in configs:
        name = config.kind if config.labels == "true" else f"{config.kind}-{config.labels}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def _build(
    name: str, config: InterventionConfig, layers: Sequence[Layer], window: tuple[int, int]
) -> ActivationPenalty:
    doing = f"setting up the intervention {name!r}"
    if config.alpha == 0:
        raise ConfigError(
            doing,
            found="alpha is 0, so it changes nothing",
            remedy="Give an alpha below 0 (against the index) or above (for it), or leave it out",
        )
    if window[1] <= window[0]:
        raise ConfigError(
            doing, found=f"its window {list(window)} holds no step", remedy="End the window after its start"
        )
    chosen = _choose(doing, config, layers)
    if isinstance(config, SelectivityPenaltyConfig):
        return SelectivityPenalty(
            name, window, chosen, alpha=config.alpha, labels=config.labels, estimator=config.estimator
        )
    assert isinstance(config, Eta2PenaltyConfig)
    return Eta2Penalty(name, window, chosen, alpha=config.alpha, labels=config.labels)


def _choose(doing: str, config: InterventionConfig, layers: Sequence[Layer]) -> tuple[Layer, ...]:
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
