"""Sums over all images from outcomes on some: an estimate everywhere, corrected where the truth is known.

sum over all of (slope * estimate) + sum over sampled of (truth - slope * estimate) / chance: unbiased whatever the
estimate, the slope and the chances, if these do not depend on who was sampled. A pilot chooses them; its own images are
then known exactly, and the sample is drawn from the others.

Shapes: N images, U neurons (units), R pairs of an image and a neuron, F floors, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vestige.formulas.effects import Totals, neuron_effects

FLOORS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 6.4)
"""What is added to every image's size, in means of the neuron's sizes: a pilot chooses among them."""
SLOPE_PRIOR, SCALE_PRIOR = 10, 3
"""Pilot images that the layer as a whole counts for beside a neuron's own."""
ALWAYS = 1e30
"""A factor at which every image that changes is taken."""


class Pilot(NamedTuple):
    """Pairs whose truth is known, drawn with known chances.

    Attributes:
      units: the neuron of each, int64; all columns (R,).
      estimates: of the change of loss.
      sizes: of the possible error, see `linearised.Estimates`.
      truths: the change of loss.
      chances: to have been drawn.
    """

    units: Tensor
    estimates: Tensor
    sizes: Tensor
    truths: Tensor
    chances: Tensor


class Design(NamedTuple):
    """What a pilot says of each neuron, (U,) float64.

    Attributes:
      slope: of truth on estimate.
      floor: of the guide, in means of sizes.
      scale: of the squared residual to the squared guide, at the upper end of what the pilot leaves open.
    """

    slope: Tensor
    floor: Tensor
    scale: Tensor


def mean_sizes(sizes_UN: Tensor) -> Tensor:
    """Mean size over the images that change, (U,); 0 where none does."""
    return sizes_UN.sum(1, dtype=torch.float64) / (sizes_UN > 0).sum(1).clamp(min=1)


def guides(sizes_UN: Tensor, floor_U: Tensor, means_U: Tensor) -> Tensor:
    """What chances are proportional to: size plus a floor, 0 where nothing changes; float64, (U, N)."""
    floored_UN = sizes_UN.double() + (floor_U * means_U)[:, None]
    return floored_UN * (sizes_UN > 0)


def chances(guides_UN: Tensor, factor_U: Tensor) -> Tensor:
    """min(1, factor * guide)."""
    return (guides_UN * factor_U[:, None]).clamp(max=1)


def factor_for_number(guides_UN: Tensor, number: float) -> Tensor:
    """Factors at which the chances of each neuron's images add up to a number, (U,); `ALWAYS` where that takes all."""
    ascending_UN = guides_UN.sort(1).values
    sums_UN = ascending_UN.cumsum(1)
    taken_N = torch.arange(ascending_UN.shape[1] - 1, -1, -1, device=guides_UN.device)
    # With the largest guides at a chance of 1, the others share what is left of the number.
    factors_UN = (number - taken_N) / sums_UN.clamp(min=1e-300)
    return _largest_consistent(factors_UN, ascending_UN)


def factor_for_variance(guides_UN: Tensor, scale_U: Tensor, variance_U: Tensor) -> Tensor:
    """Factors at which a Poisson sample's sum has a variance, squared residuals being scale * guide^2, (U,)."""
    ascending_UN = guides_UN.sort(1).values
    sums_UN, squares_UN = ascending_UN.cumsum(1), ascending_UN.square().cumsum(1)
    # sum of g^2 (1 - cg) / (cg) over those below a chance of 1.
    wanted_U1 = (variance_U / scale_U.clamp(min=1e-300))[:, None]
    factors_UN = sums_UN / (wanted_U1 + squares_UN).clamp(min=1e-300)
    return _largest_consistent(factors_UN, ascending_UN)


def _largest_consistent(factors_UN: Tensor, ascending_UN: Tensor) -> Tensor:
    """The factor for the most images that it leaves below a chance of 1; `ALWAYS` where there is none."""
    fits_UN = (factors_UN * ascending_UN <= 1 + 1e-12) & (factors_UN > 0) & (ascending_UN > 0)
    place_N = torch.arange(1, fits_UN.shape[1] + 1, device=fits_UN.device)
    last_U = (fits_UN * place_N).amax(1)
    found_U = factors_UN.gather(1, (last_U - 1).clamp(min=0)[:, None])[:, 0]
    return torch.where(last_U > 0, found_U, ALWAYS).clamp(max=ALWAYS)


def design(pilot: Pilot, means_U: Tensor, pilot_floor: float, changed_U: Tensor) -> Design:
    """Choose slope, floor and scale of each neuron from a pilot, leaning on the layer where the pilot is small.

    Slope: least squares with weights 1 / guide, which is what the variance of the corrected sum depends on. Floor: the
    one of least cost, mean(guide) * mean(residual^2 / guide), the geometric mean of the neuron's cost and its layer's.
    Scale: mean(residual^2 / guide) / mean(guide), plus its standard error.

    Args:
      pilot: of at least one pair.
      means_U: mean sizes.
      pilot_floor: of the guide that the pilot's chances were proportional to.
      changed_U: images that each neuron's replacement changes.
    """
    units_R, neurons = pilot.units, len(means_U)
    weights_R = 1 / pilot.chances
    number_U = _by_unit(torch.ones_like(weights_R), units_R, neurons)
    mean_R, size_R = means_U[units_R], pilot.sizes.double()
    guide_R = size_R + pilot_floor * mean_R
    slope_U = _slopes(pilot, weights_R / guide_R, _by_unit(weights_R * guide_R, units_R, neurons), number_U)
    squared_R = (pilot.truths - slope_U[units_R] * pilot.estimates.double()).square()
    squared_R = squared_R * (number_U / (number_U - 1).clamp(min=1))[units_R]
    floors_F = torch.tensor(FLOORS, dtype=torch.float64, device=means_U.device)
    guide_FR = size_R + floors_F[:, None] * mean_R
    spent_FU = means_U * (1 + floors_F[:, None]) * (changed_U > 0)
    cost_FU = torch.stack([_by_unit(weights_R * squared_R / guide, units_R, neurons) for guide in guide_FR]) * spent_FU
    log_FU = cost_FU.clamp(min=1e-300).log()
    chosen_U = (log_FU + log_FU.mean(1, keepdim=True)).argmin(0)
    guide_R = guide_FR[chosen_U[units_R], torch.arange(len(units_R), device=units_R.device)]
    return Design(slope_U, floors_F[chosen_U], _scales(squared_R, guide_R, weights_R, units_R, number_U))


def _slopes(pilot: Pilot, weights_R: Tensor, sums_U: Tensor, number_U: Tensor) -> Tensor:
    estimates_R, neurons = pilot.estimates.double(), len(number_U)
    with_truth_U, with_itself_U = (
        _by_unit(weights_R * estimates_R * other_R, pilot.units, neurons) / sums_U.clamp(min=1e-300)
        for other_R in (pilot.truths, estimates_R)
    )
    total, piloted = with_itself_U.sum(), (number_U > 0).sum().clamp(min=1)
    of_layer = torch.where(total > 0, with_truth_U.sum() / total.clamp(min=1e-300), 1.0)
    prior_U = SLOPE_PRIOR / number_U.clamp(min=1) * total / piloted
    known_U = with_itself_U + prior_U
    return torch.where(known_U > 0, (with_truth_U + prior_U * of_layer) / known_U.clamp(min=1e-300), of_layer)


def _scales(squared_R: Tensor, guide_R: Tensor, weights_R: Tensor, units_R: Tensor, number_U: Tensor) -> Tensor:
    neurons = len(number_U)
    shares_R = weights_R * guide_R
    shares_U = _by_unit(shares_R, units_R, neurons).clamp(min=1e-300)
    ratio_R = squared_R / guide_R.square().clamp(min=1e-300)
    own_U = _by_unit(shares_R * ratio_R, units_R, neurons) / shares_U
    of_layer = own_U.sum() / (number_U > 0).sum().clamp(min=1)
    scale_U = (number_U * own_U + SCALE_PRIOR * of_layer) / (number_U + SCALE_PRIOR)
    fourth_U = _by_unit(shares_R * ratio_R.square(), units_R, neurons) / shares_U
    # A pilot that missed the rare large residuals shows no spread either; its layer as a whole may.
    kurtosis_U = fourth_U / scale_U.square().clamp(min=1e-300)
    of_layer = fourth_U.sum() / scale_U.square().sum().clamp(min=1e-300)
    spread_U = (torch.maximum(kurtosis_U, of_layer) - 1).clamp(min=0) / number_U.clamp(min=1)
    return scale_U * (1 + spread_U.sqrt())


def image_variance(pilot: Pilot, design: Design, sums_U2: Tensor, modelled_U: Tensor, images: int, share: float):
    """Variance over images of each neuron's change of loss, as a pilot tells, (U,): at most what the design implies.

    Args:
      pilot: its pairs.
      design: chosen from it.
      sums_U2: over all images, of slope * estimate and of its square.
      modelled_U: mean over images of the squared residual that the design implies.
      images: N.
      share: of them that could have been in the pilot.
    """
    predicted_R = design.slope[pilot.units] * pilot.estimates.double()
    weights_R = 1 / (pilot.chances * share)
    first_U, second_U = (
        (sums + _by_unit(weights_R * more_R, pilot.units, len(design.slope))) / images
        for sums, more_R in (
            (sums_U2[:, 0], pilot.truths - predicted_R),
            (sums_U2[:, 1], pilot.truths.square() - predicted_R.square()),
        )
    )
    implied_U = sums_U2[:, 1] / images - (sums_U2[:, 0] / images).square() + modelled_U
    # From few images the first can be anything; a design that trusts the larger one takes too few.
    return torch.minimum(implied_U, (second_U - first_U.square()).clamp(min=implied_U / 10))


def correction(residuals_R: Tensor, chances_R: Tensor, units_R: Tensor, neurons: int) -> Tensor:
    """Sums of residual / chance of each neuron, (U,): Horvitz-Thompson.

    References:
      Horvitz, Thompson (1952), A generalization of sampling without replacement from a finite universe.
    """
    return _by_unit(residuals_R / chances_R, units_R, neurons)


def correction_variance(residuals_R: Tensor, chances_R: Tensor, units_R: Tensor, neurons: int) -> Tensor:
    """Unbiased estimate of the variance of `correction` where images were drawn independently, (U,)."""
    return _by_unit((1 - chances_R) / chances_R.square() * residuals_R.square(), units_R, neurons)


STEEPNESS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)


def right_after(margin: Tensor, before: Tensor, steepness: float) -> Tensor:
    """Probability of being right, from predicted margins: a normal error of `steepness` times their change."""
    return torch.special.ndtr(margin.double() / (steepness * (margin - before).abs().double()).clamp(min=1e-12))


def steepness(margin_R: Tensor, before_R: Tensor, right_R: Tensor, weights_R: Tensor) -> float:
    """The steepness with the least squared error over some pairs whose truth is known."""
    off = [
        float((weights_R * (right_after(margin_R, before_R, s) - right_R.double()).square()).sum()) for s in STEEPNESS
    ]
    return STEEPNESS[off.index(min(off))]


def _by_unit(values_R: Tensor, units_R: Tensor, neurons: int) -> Tensor:
    return torch.zeros(neurons, dtype=torch.float64, device=values_R.device).index_add_(0, units_R, values_R.double())


def implied_variance(guides_UN: Tensor, chances_UN: Tensor, scale_U: Tensor) -> Tensor:
    """Variance of the correction by a Poisson sample if squared residuals are scale * guide^2, (U,)."""
    open_UN = (chances_UN > 0) & (chances_UN < 1)
    each_UN = guides_UN.square() * (1 - chances_UN) / chances_UN.clamp(min=1e-300)
    return scale_U * (each_UN * open_UN).sum(1)


TRUSTED = 40
"""Sampled images that what the pilot implies counts for in the variance."""


def total_variance(estimated_U: Tensor, implied_U: Tensor, number_U: Tensor) -> Tensor:
    """Variance of the corrected sum: estimated from the sample, leaning on what the pilot implied where it is small.

    The plain estimate of a small sample is too low whenever that has missed the rare large residuals.

    Args:
      estimated_U: see `correction_variance`.
      implied_U: see `implied_variance`; 0: all images were taken.
      number_U: images that were drawn with a chance below 1.
    """
    return torch.where(
        implied_U > 0, (number_U * estimated_U + TRUSTED * implied_U) / (number_U + TRUSTED), estimated_U
    )


def controlled_effects(sums: Totals, variance_U: Tensor, preferred_U: Tensor) -> dict[str, Tensor]:
    """As `effects.neuron_effects`, of sums that are themselves estimated.

    Args:
      sums: unbiased estimates.
      variance_U: of the estimated sums of the changes of loss.
      preferred_U: each neuron's preferred class.

    Returns:
      its columns and `approximation_se`, of loss_delta for these images; `loss_delta_se` holds it and the sampling of
      the images. Shares may be slightly negative.
    """
    effects = neuron_effects(sums, preferred_U)
    n = sums.counts.sum()
    # The square of an estimate is too high by its variance.
    images_U = effects["loss_delta_se"].square() + variance_U / n.square() / (n - 1)
    approximation_U = variance_U / n.square()
    return effects | {
        "loss_delta_se": (images_U + approximation_U).sqrt(),
        "approximation_se": approximation_U.sqrt(),
    }
