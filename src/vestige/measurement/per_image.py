"""The columns that need every image's activation at once: the null of csi, and how well classes can be told apart.

Shapes: N images that are kept, U neurons (units) of a layer, C classes, P permutations of the labels.
"""

import torch
from torch import Tensor

from vestige.config import Protocol
from vestige.formulas import selectivity as formulas
from vestige.formulas.detection import cross_validated_detection, precision_at_k
from vestige.formulas.information import mutual_information
from vestige.formulas.null import csi_of_labellings
from vestige.measurement.sums import index
from vestige.measurement.sweep import Sweep
from vestige.models.layers import Layer


def per_image_columns(
    sweep: Sweep,
    layer: Layer,
    owner: int,
    csi_U: Tensor,
    null_PN: Tensor | None,
    protocol: Protocol,
    *,
    signed: bool,
) -> dict[str, Tensor] | None:
    """The columns of a layer, at the process that owns it; None at the others.

    Args:
      sweep: over all images.
      layer: which.
      owner: rank of the process that computes them.
      csi_U: with the true labels.
      null_PN: permuted labels of the images, or None: no null.
      protocol: of the index.
      signed: whether what is kept can be negative.
    """
    kept_NU = sweep.kept(layer, owner)
    if kept_NU is None:
        return None
    if null_PN is None:
        against = _against_null(csi_U, csi_U.new_empty(0, layer.units))
    elif layer.name in sweep.null_sums:
        null = [
            index(sums_CU, counts_C, protocol)
            for sums_CU, counts_C in zip(sweep.null_sums[layer.name], sweep.null_counts, strict=True)
        ]
        against = _against_null(csi_U, torch.stack(null))
    else:
        labels_QN = torch.cat([sweep.kept_labels[None], null_PN.long()])
        index_QU = csi_of_labellings(kept_NU, labels_QN, sweep.classes, from_sums=protocol == "faithful")
        # The first row is csi_U up to rounding, and compares with the others to the bit.
        against = _against_null(index_QU[0], index_QU[1:])
    return against | _detection(kept_NU, layer, sweep, signed=signed)


def _against_null(csi_U: Tensor, null_PU: Tensor) -> dict[str, Tensor]:
    if not len(null_PU):
        names = ("csi_null_mean", "csi_null_q95", "csi_excess", "p_value")
        return dict.fromkeys(names, torch.full_like(csi_U, torch.nan))
    return {
        "csi_null_mean": null_PU.mean(0),
        "csi_null_q95": null_PU.quantile(0.95, dim=0),
        "csi_excess": csi_U - null_PU.mean(0),
        "p_value": formulas.layer_p_values(csi_U, null_PU),
    }


def _detection(kept_NU: Tensor, layer: Layer, sweep: Sweep, *, signed: bool) -> dict[str, Tensor]:
    labels_N, halves_N, classes = sweep.kept_labels, sweep.kept_halves, sweep.classes
    nan_U = torch.full((layer.units,), torch.nan, dtype=torch.float64)
    found: dict[str, Tensor] = {"k": torch.zeros(layer.units, dtype=torch.int64)}
    found |= dict.fromkeys(("auroc", "informedness", "precision_at_k", "mutual_information"), nan_U)
    if not len(labels_N):
        return found
    means = [_half_means(kept_NU, labels_N, halves_N == half, classes) for half in (0, 1)]
    in_both_C = ~torch.stack(means).isnan().any(2).any(0)
    if in_both_C.sum() >= 2:
        found["auroc"], found["informedness"] = cross_validated_detection(kept_NU, labels_N, halves_N, *means)
    found["precision_at_k"], found["k"] = precision_at_k(kept_NU, labels_N, classes)
    found["mutual_information"] = mutual_information(kept_NU, labels_N, classes, signed=signed)
    return found


def _half_means(kept_NU: Tensor, labels_N: Tensor, half_N: Tensor, classes: int) -> Tensor:
    sums_CU = torch.zeros(classes, kept_NU.shape[1], dtype=torch.float64)
    sums_CU.index_add_(0, labels_N[half_N], kept_NU[half_N].double())
    return formulas.means_from_sums(sums_CU, labels_N[half_N].bincount(minlength=classes))
