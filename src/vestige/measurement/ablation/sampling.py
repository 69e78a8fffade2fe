"""Which images to run a layer's neurons on, and what follows for all images: pilot, plan, corrected sums.

Shapes: N images, U neurons of a job, R pairs of an image and a neuron, C classes.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from vestige.formulas import control
from vestige.formulas.control import Design, Pilot
from vestige.formulas.effects import Totals
from vestige.formulas.linearised import Estimates
from vestige.measurement.ablation.estimating import Estimated

PILOT, PILOT_FLOOR = 100, 1.0
"""Images of each neuron's pilot; the floor of what its chances are proportional to."""
LEAST = 40
"""Images drawn after the pilot for every neuron."""
MOST = 0.6
"""Share of the images from which on all are taken."""
_AT_ONCE = 1 << 22  # estimates that are worked on at a time


class Controlled(NamedTuple):
    """What is known of a job's neurons.

    Attributes:
      sums: unbiased estimates of what exact ablation of all images gives.
      variance: of the estimated sum of the changes of loss, (U,); 0 where all images were run.
      images: that were run, int64, (U,).
    """

    sums: Totals
    variance: Tensor
    images: Tensor


class Truths(NamedTuple):
    """What was run exactly: pairs, (R,) each.

    Attributes:
      units: place of the neuron in its job, int64.
      images: place of the image among all, int64.
      chances: to be drawn, float64.
      change: of loss, float64.
      before: right with the intact network, bool.
      after: right with the neuron replaced, bool.
    """

    units: Tensor
    images: Tensor
    chances: Tensor
    change: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Plan:
    """How a job's neurons are sampled.

    Attributes:
      estimates: of the job.
      before: margins of the intact network, (N,).
      floor: of the guide, (U,).
      means: of the sizes, (U,).
      among: which images may be drawn, bool, (N,); None: all.
      without: pairs that are known already.
      factor: of the guide to the chance, (U,).
      steepness: of predicted flips, which are drawn with a chance of their standard deviation at least; None: without.
    """

    estimates: Estimates
    before: Tensor
    floor: Tensor
    means: Tensor
    among: Tensor | None = None
    without: Truths | None = None
    factor: Tensor | None = None
    steepness: float | None = None

    def guides(self, units: slice, images: slice) -> Tensor:
        """What chances are proportional to, of some neurons and images."""
        guides_UN = control.guides(self.estimates.size[units, images], self.floor[units], self.means[units])
        if self.among is not None:
            guides_UN = guides_UN * self.among[images]
        if self.without is not None:
            known = self.without
            inside = (known.images >= images.start) & (known.images < images.stop)
            inside &= (known.units >= units.start) & (known.units < units.stop)
            guides_UN[known.units[inside] - units.start, known.images[inside] - images.start] = 0
        return guides_UN

    def chances(self, units: slice, images: slice) -> Tensor:
        """With which some neurons and images are drawn."""
        assert self.factor is not None
        guides_UN = self.guides(units, images)
        chances_UN = control.chances(guides_UN, self.factor[units])
        if self.steepness is None:
            return chances_UN
        right_UN = control.right_after(self.estimates.margin[units, images], self.before[images], self.steepness)
        return torch.maximum(chances_UN, (right_UN * (1 - right_UN)).sqrt() * (guides_UN > 0))


def pilot_plan(found: Estimated, estimates: Estimates, among_N: Tensor) -> Plan:
    """How each neuron's pilot is drawn, from some of the images."""
    means_U = control.mean_sizes(estimates.size)
    plan = Plan(estimates, found.margins, torch.full_like(means_U, PILOT_FLOOR), means_U, among_N)
    everything = slice(0, len(among_N))
    factors = [
        control.factor_for_number(plan.guides(units, everything)[:, among_N], PILOT)
        for units in _chunks(estimates.size)
    ]
    return replace(plan, factor=torch.cat(factors))


def final_plan(pilot_plan: Plan, known: Truths, precision: float) -> tuple[Plan, Design, Tensor]:
    """Whom to draw after the pilot; what the pilot says; and what variance of the sum it implies, (U,)."""
    loss_UN, margin_UN, size_UN = pilot_plan.estimates
    at, images = (known.units, known.images), size_UN.shape[1]
    everything = slice(0, images)
    pilot = Pilot(known.units, loss_UN[at], size_UN[at], known.change, known.chances)
    design = control.design(pilot, pilot_plan.means, PILOT_FLOOR, (size_UN > 0).sum(1))
    sums, modelled, factors, implied = [], [], [], []
    whole = replace(pilot_plan, floor=design.floor, among=None)
    for units in _chunks(size_UN):
        predicted_UN = design.slope[units, None] * loss_UN[units].double()
        sums.append(torch.stack([predicted_UN.sum(1), predicted_UN.square().sum(1)], 1))
        modelled.append(design.scale[units] * whole.guides(units, everything).square().mean(1))
    assert pilot_plan.among is not None
    share = float(pilot_plan.among.double().mean())
    variance_U = control.image_variance(pilot, design, torch.cat(sums), torch.cat(modelled), images, share)
    allowed_U = (precision**2 - 1) * images * variance_U
    steepness = control.steepness(margin_UN[at], pilot_plan.before[known.images], known.after, 1 / known.chances)
    plan = replace(whole, without=known, steepness=steepness)
    for units in _chunks(size_UN):
        guides_UN = plan.guides(units, everything)
        factor_U = control.factor_for_variance(guides_UN, design.scale[units], allowed_U[units])
        factor_U = torch.maximum(factor_U, control.factor_for_number(guides_UN, LEAST))
        expected_U = control.chances(guides_UN, factor_U).sum(1)
        factors.append(torch.where(expected_U > MOST * images, control.ALWAYS, factor_U))
    plan = replace(plan, factor=torch.cat(factors))
    for units in _chunks(size_UN):
        guides_UN = plan.guides(units, everything)
        implied.append(control.implied_variance(guides_UN, plan.chances(units, everything), design.scale[units]))
    return plan, design, torch.cat(implied)


def summed(
    found: Estimated, plan: Plan, design: Design, implied_U: Tensor, pilot: Truths, sample: Truths, classes: int
) -> Controlled:
    """Estimates of all images, corrected by the pilot and the sample."""
    estimates, neurons = plan.estimates, len(design.slope)
    assert plan.steepness is not None
    known = Truths(*(torch.cat(columns) for columns in zip(pilot, sample, strict=True)))
    chances_R = torch.cat([torch.ones_like(pilot.chances), sample.chances])  # the pilot is known, not sampled
    truths_R = {
        "loss": known.change,
        "squares": known.change.square(),
        "lost": (known.before & ~known.after).double(),
        "gained": (~known.before & known.after).double(),
    }
    at = known.units, known.images
    of_pairs = Estimates(*(value[at] for value in estimates))
    predicted_R = _predicted(of_pairs, found.margins[known.images], design.slope[known.units], plan.steepness)
    sums = predictions(found, estimates, design.slope, plan.steepness, classes)
    places_R = known.units * classes + found.labels[known.images]
    corrections = {
        name: control.correction(truth_R - predicted_R[name], chances_R, places_R, neurons * classes)
        for name, truth_R in truths_R.items()
    }
    for name, correction in corrections.items():
        getattr(sums, name).add_(correction.view(neurons, classes))
    off_R = known.change - predicted_R["loss"]
    estimated_U = control.correction_variance(off_R, chances_R, known.units, neurons)
    drawn_U = torch.bincount(known.units[chances_R < 1], minlength=neurons)
    return Controlled(
        sums,
        control.total_variance(estimated_U, implied_U, drawn_U),
        torch.bincount(known.units, minlength=neurons),
    )


def _predicted(estimates: Estimates, before: Tensor, slope: Tensor, steepness: float) -> dict[str, Tensor]:
    """Predictions of what the sums are of."""
    change, changed = slope * estimates.loss.double(), estimates.size > 0
    right = control.right_after(estimates.margin, before, steepness)
    return {
        "loss": change,
        "squares": change.square(),
        "lost": (1 - right) * changed * (before > 0),
        "gained": right * changed * (before <= 0),
    }


def _chunks(sizes_UN: Tensor) -> list[slice]:
    """Neurons in parts of which every array fits."""
    neurons, images = sizes_UN.shape
    each = max(1, _AT_ONCE // max(1, images))
    return [slice(start, min(start + each, neurons)) for start in range(0, neurons, each)]


def predictions(found: Estimated, estimates: Estimates, slope_U: Tensor, steepness: float, classes: int) -> Totals:
    """Sums of what is predicted for all images, nothing corrected; a steepness of 0 takes the likelier outcome."""
    members_NC = one_hot(found.labels, classes).double()
    neurons = len(slope_U)
    names = ("loss", "squares", "lost", "gained")
    sums = {name: torch.zeros(neurons, classes, dtype=torch.float64) for name in names}
    for units in _chunks(estimates.size):
        some = Estimates(*(value[units] for value in estimates))
        for name, of_name in _predicted(some, found.margins, slope_U[units, None], steepness).items():
            sums[name][units] = of_name @ members_NC
    return Totals(**sums, counts=members_NC.sum(0))
