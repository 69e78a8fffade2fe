"""Class selectivity: how much more a neuron fires for one class than for the others, by several measures.

Shapes: N images, U neurons (units), C classes, P permutations of the labels.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from vestige.errors import DataError

EPSILON = 1e-6
"""Added to the denominator of the index, as Morcos et al. (2018) do."""
_TIE = 1e-9  # standardised values this close are equal: they differ by the order of summation


def class_sums(activations_NU: Tensor, labels_N: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sum the activations of each class's images.

    Args:
      activations_NU: floating point.
      labels_N: int64, 0..classes-1.
      classes: C.

    Returns:
      sums_CU, differentiable in the activations, and the number of images counts_C, both in their dtype.
    """
    # A product and not index_add: in training on a GPU it is faster, and the same at every run.
    members_NC = one_hot(labels_N, classes).to(activations_NU.dtype)
    return members_NC.T @ activations_NU, members_NC.sum(0)


def class_means(activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Average the activations over each class's images; arguments as in `class_sums`.

    Returns:
      means_CU, NaN where a class has no image.
    """
    return means_from_sums(*class_sums(activations_NU, labels_N, classes))


def means_from_sums(sums_CU: Tensor, counts_C: Tensor) -> Tensor:
    """means_CU from class sums and class counts, NaN where a class has no image."""
    # The clamp keeps 0/0 out of the backward pass, where a masked NaN would still become a NaN gradient.
    means_CU = sums_CU / counts_C.clamp(min=1)[:, None]
    return torch.where(counts_C[:, None] > 0, means_CU, torch.nan)


def csi(class_means_CU: Tensor) -> Tensor:
    """Class selectivity index: (mu_max - mu_rest) / (mu_max + mu_rest + 1e-6).

    Args:
      class_means_CU: mean activation by class; rows of NaN, classes without an image, are left out. mu_max is
        the highest of a neuron's, mu_rest the mean of the others.

    Returns:
      csi_U, for activations that are not negative: 0 (no class stands out, or it never fires) to 1 (it fires
      for one class alone). Differentiable.

    Raises:
      DataError: fewer than two classes have images.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization.
    """
    highest_U, rest_U = highest_and_rest(class_means_CU)
    return (highest_U - rest_U) / (highest_U + rest_U + EPSILON)


def csi_from_sums(sums_CU: Tensor) -> Tensor:
    """The index of the paper's released code: class sums stand where `csi` has class means.

    Equal to `csi`, but for the 1e-6, where all classes have as many images. A class without an image counts
    as a sum of 0.

    References:
      Ranadive et al. (2023), On the special role of class-selective neurons in early training.
    """
    return csi(sums_CU)


def highest_and_rest(class_means_CU: Tensor) -> tuple[Tensor, Tensor]:
    """The highest class mean of each neuron, and the mean over the other classes; arguments as in `csi`."""
    means_CU = class_means_CU[_present(class_means_CU)]
    highest_U = means_CU.max(dim=0).values
    return highest_U, (means_CU.sum(0) - highest_U) / (len(means_CU) - 1)


def cross_validated_csi(means_a_CU: Tensor, means_b_CU: Tensor) -> Tensor:
    """The index without its upward bias: the class from one half of the images, its lead from the other.

    With c* = argmax mu_A: (mu_B[c*] - rest_B) / (mu_A[c*] + rest_A + 1e-6); halves swapped; averaged. Its
    expectation is 0 where activations do not depend on the class. It is not bounded: a neuron that fires on a
    few images can leave [-1, 1].

    Args:
      means_a_CU: class means over half A; a class with a row of NaN in either half is left out.
      means_b_CU: class means over half B.

    Returns:
      csi_cv_U. A half in which the neuron never fires names no class and contributes 0.

    Raises:
      DataError: fewer than two classes have images in both halves.
    """
    present_C = in_both_halves(means_a_CU, means_b_CU)
    means_a_CU, means_b_CU = means_a_CU[present_C], means_b_CU[present_C]
    return (_lead(means_a_CU, means_b_CU) + _lead(means_b_CU, means_a_CU)) / 2


def _lead(choosing_CU: Tensor, judging_CU: Tensor) -> Tensor:
    chosen_1U = choosing_CU.argmax(0, keepdim=True)
    others = len(choosing_CU) - 1

    def chosen_and_rest(means_CU: Tensor) -> tuple[Tensor, Tensor]:
        chosen_U = means_CU.gather(0, chosen_1U)[0]
        return chosen_U, (means_CU.sum(0) - chosen_U) / others

    lead_U = torch.sub(*chosen_and_rest(judging_CU))
    lead_U = lead_U / (torch.add(*chosen_and_rest(choosing_CU)) + EPSILON)
    return torch.where((choosing_CU == 0).all(0), 0.0, lead_U)


def eta2(activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Share of a neuron's variance that lies between classes: between-class over total sum of squares.

    Invariant to scale and to offset, which the index is not. Differentiable.

    Args:
      activations_NU: floating point.
      labels_N: int64, 0..classes-1.
      classes: C.

    Returns:
      eta2_U in [0, 1]; 0 for a neuron that does not vary.
    """
    eps = torch.finfo(activations_NU.dtype).eps
    centred_NU = activations_NU - activations_NU.mean(0)
    sums_CU, counts_C = class_sums(centred_NU, labels_N, classes)
    return _explained(
        (sums_CU.square() / counts_C.clamp(min=1)[:, None]).sum(0),
        centred_NU.square().sum(0),
        floor_U=(8 * eps) ** 2 * activations_NU.detach().square().sum(0),
    )


def eta2_from_moments(sums_CU: Tensor, counts_C: Tensor, squares_U: Tensor) -> Tensor:
    """`eta2` from class sums, class counts and the sum of squared activations; pass float64."""
    offset_U = sums_CU.sum(0).square() / counts_C.sum()
    between_U = (sums_CU.square() / counts_C.clamp(min=1)[:, None]).sum(0) - offset_U
    # Subtracting moments leaves eps of a constant, not eps squared as centring first does.
    floor_U = 64 * torch.finfo(squares_U.dtype).eps * squares_U
    return _explained(between_U, squares_U - offset_U, floor_U).clamp(0, 1)


def _explained(between_U: Tensor, total_U: Tensor, floor_U: Tensor) -> Tensor:
    """between / total, 0 where the total is no more than what rounding leaves of a constant."""
    varies_U = total_U > floor_U
    return torch.where(varies_U, between_U / torch.where(varies_U, total_U, 1.0), 0.0)


def adjusted_eta2(eta2_U: Tensor, n: int, classes_present: int) -> Tensor:
    """eta2 less what class means of noise explain: 1 - (1 - eta2)(N - 1)/(N - C).

    Args:
      eta2_U: as `eta2` gives it.
      n: images, N.
      classes_present: classes that have images, C.

    Returns:
      eta2_adj_U, of expectation 0 without signal; NaN unless C < N.
    """
    if n <= classes_present:
        return torch.full_like(eta2_U, torch.nan)
    return 1 - (1 - eta2_U) * (n - 1) / (n - classes_present)


def sparsity(mean_U: Tensor, mean_square_U: Tensor) -> Tensor:
    """1 - (mean a)^2 / mean(a^2): 0 for a constant, towards 1 for one that fires rarely, NaN if never.

    References:
      Treves & Rolls (1991), What determines the capacity of autoassociative memories in the brain?
    """
    return 1 - mean_U.square() / mean_square_U


def split_half_reliability(means_a_CU: Tensor, means_b_CU: Tensor) -> Tensor:
    """Reliability of a neuron's class means: r across classes of two halves, stepped up to 2r / (1 + r).

    Args:
      means_a_CU: class means over half A; a class with a row of NaN in either half is left out.
      means_b_CU: class means over half B.

    Returns:
      reliability_U in (0, 1]; NaN where r <= 0 or where a half's class means do not vary.

    References:
      Spearman (1910), Correlation calculated from faulty data; Brown (1910), Some experimental results in the
      correlation of mental abilities.
    """
    present_C = _present(means_a_CU) & _present(means_b_CU)
    a_CU, b_CU = means_a_CU[present_C], means_b_CU[present_C]
    a_CU, b_CU = a_CU - a_CU.mean(0), b_CU - b_CU.mean(0)
    r_U = (a_CU * b_CU).sum(0) / (a_CU.square().sum(0) * b_CU.square().sum(0)).sqrt()
    return torch.where(r_U > 0, 2 * r_U / (1 + r_U), torch.nan)


def layer_p_values(observed_U: Tensor, permuted_PU: Tensor) -> Tensor:
    """Permutation p-values, neurons of a layer sharing their permuted values so that few permutations do.

    That is right only among neurons whose standardised values are distributed alike under permutation, and
    neurons that fire rarely differ in this from those that fire often. So a layer is cut into strata by the
    mean of the permuted values, max(4, P // 25) of them, of equal size, but none below 16 neurons. In a
    stratum p = (1 + #{permuted z >= z}) / (1 + P * neurons).

    The observed value is standardised by the mean and SD of itself and all permuted values but the last, the
    permuted ones by those of the permuted values. Without signal both are distributed alike, being as many;
    and as a selective neuron's observed value is not in the SD of its permuted ones, it does not thin the
    tail that its neighbours are compared with.

    Args:
      observed_U: the statistic with the true labels, of one layer's neurons.
      permuted_PU: with permuted labels.

    Returns:
      p_U in (0, 1]. A neuron whose values do not vary, a dead one, has p = 1 and is not counted among the
      layer's neurons. All are 1 where P < 2.
    """
    p_U = torch.ones_like(observed_U)
    if len(permuted_PU) < 2:
        return p_U
    z_QU, varies_U = _standardised(torch.cat([observed_U[None], permuted_PU[:-1]]))
    z_PU, counted_U = _standardised(permuted_PU)
    varying = varies_U.nonzero()[:, 0]
    # P // 25: the smallest p is about strata / (P * U), 0.04 / U, so that one neuron alone can pass at 0.05 / U.
    strata = max(1, min(max(4, len(permuted_PU) // 25), len(varying) // 16))
    for stratum in varying[permuted_PU.mean(0)[varying].argsort(stable=True)].tensor_split(strata):
        pool = z_PU[:, stratum[counted_U[stratum]]].flatten().sort().values
        at_least = len(pool) - torch.searchsorted(pool, z_QU[0, stratum] - _TIE)
        p_U[stratum] = (1 + at_least).to(p_U.dtype) / (1 + len(pool))
    return p_U


def _standardised(values_QU: Tensor) -> tuple[Tensor, Tensor]:
    """z_QU, and which neurons vary: the others have no z."""
    spread_U = values_QU.std(0)
    varies_U = spread_U > 4096 * torch.finfo(spread_U.dtype).eps  # absolute: indices lie in [0, 1]
    return (values_QU - values_QU.mean(0)) / spread_U, varies_U


def discoveries(p_values_U: Tensor, level: float = 0.05) -> Tensor:
    """Which neurons are selective at a false discovery rate of `level` (Benjamini-Hochberg).

    Args:
      p_values_U: of all neurons of a checkpoint; NaN for none, which is never flagged and not counted.
      level: expected share of false ones among those flagged.

    Returns:
      Bool, (U,).

    References:
      Benjamini & Hochberg (1995), Controlling the false discovery rate.
    """
    from scipy.stats import false_discovery_control  # over a second to import

    tested_U = ~p_values_U.isnan()
    flags_U = torch.zeros_like(tested_U)
    if tested_U.any():
        adjusted = false_discovery_control(p_values_U[tested_U].numpy())
        flags_U[tested_U] = torch.from_numpy(adjusted) <= level
    return flags_U


def selective(flags_U: Tensor, csi_cv_U: Tensor, initial_csi_cv_U: Tensor | None = None) -> Tensor:
    """Flagged, and more selective than 95% of the layer was before training: untrained neurons have signal too.

    Args:
      flags_U: one layer's, of `discoveries`.
      csi_cv_U: NaN is not selective where there is an initial layer to compare with.
      initial_csi_cv_U: of the same layer at step 0; NaN is left out. None, or nothing but NaN: the flag alone.

    Returns:
      Bool, (U,).
    """
    known = torch.empty(0) if initial_csi_cv_U is None else initial_csi_cv_U[~initial_csi_cv_U.isnan()]
    if not len(known):
        return flags_U.clone()
    return flags_U & (csi_cv_U > known.quantile(0.95))


def in_both_halves(means_a_CU: Tensor, means_b_CU: Tensor) -> Tensor:
    """Which classes have images in both halves, (C,); a DataError where fewer than two have."""
    present_C = _present(means_a_CU) & _present(means_b_CU)
    require_two(present_C)
    return present_C


def _present(class_means_CU: Tensor) -> Tensor:
    """Which classes have images."""
    present_C = ~class_means_CU.isnan().all(1)
    require_two(present_C)
    return present_C


def require_two(present_C: Tensor) -> None:
    """A DataError where fewer than two classes have images."""
    present = int(present_C.sum())
    if present < 2:
        raise DataError(
            "computing class selectivity",
            found=f"{present} of {len(present_C)} classes {'has' if present == 1 else 'have'} images",
            remedy="Give images of at least two classes (in a training batch: a larger batch)",
        )
