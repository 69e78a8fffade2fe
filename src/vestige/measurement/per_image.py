"""The columns that need every image's activation at once: the null of csi, and how well classes can be told apart.

Shapes: N images that are kept, U neurons (units) of a layer, C classes, P permutations of the labels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.config import Protocol
from vestige.formulas import selectivity as formulas
from vestige.formulas.detection import cross_validated_detection, precision_at_k
from vestige.formulas.information import mutual_information
from vestige.formulas.null import Labellings
from vestige.measurement.sums import half_means, index
from vestige.measurement.sweep import Sweep
from vestige.models.layers import Layer


@dataclass(frozen=True)
class PerImage:
    """Computes these columns, layer by layer.

    Args:
      sweep: over all images.
      labellings: of the kept images: the true labels, then each permutation; None where not all images are kept, or
        nothing is permuted.
      protocol: of the index.
    """

    sweep: Sweep
    labellings: Labellings | None
    protocol: Protocol

    def columns(self, layer: Layer, owner: int, csi_U: Tensor, *, signed: bool) -> dict[str, Tensor] | None:
        """The columns of a layer, at the process that owns it; None at the others.

        Args:
          layer: which.
          owner: rank of the process that computes them.
          csi_U: with the true labels.
          signed: whether what is kept can be negative.
        """
        kept_NU = self.sweep.kept(layer, owner)
        if kept_NU is None:
            return None
        return self._against_null(kept_NU, layer, csi_U) | self._detection(kept_NU, layer, signed=signed)

    def _against_null(self, kept_NU: Tensor, layer: Layer, csi_U: Tensor) -> dict[str, Tensor]:
        if self.labellings is not None:
            index_QU = self.labellings.csi(kept_NU)
            # The first row is csi_U up to rounding, and compares with the others to the bit.
            return _against(index_QU[0], index_QU[1:])
        if self.sweep.null_sums is None:
            return _against(csi_U, csi_U.new_empty(0, layer.units))
        sums_PCU = self.sweep.null_sums[:, :, self.sweep.neurons[layer.name]]
        null = [index(*pair, self.protocol) for pair in zip(sums_PCU, self.sweep.null_counts, strict=True)]
        return _against(csi_U, torch.stack(null))

    def _detection(self, kept_NU: Tensor, layer: Layer, *, signed: bool) -> dict[str, Tensor]:
        sweep = self.sweep
        labels_N, halves_N, classes = sweep.kept_labels, sweep.kept_halves, sweep.classes
        nan_U = torch.full((layer.units,), torch.nan, dtype=torch.float64)
        found: dict[str, Tensor] = {"k": torch.zeros(layer.units, dtype=torch.int64)}
        found |= dict.fromkeys(("auroc", "informedness", "precision_at_k", "mutual_information"), nan_U)
        if not len(labels_N):
            return found
        means = self._half_means(kept_NU, layer)
        if (~torch.stack(means).isnan().any(2).any(0)).sum() >= 2:
            found["auroc"], found["informedness"] = cross_validated_detection(kept_NU, labels_N, halves_N, *means)
        found["precision_at_k"], found["k"] = precision_at_k(kept_NU, labels_N, classes)
        found["mutual_information"] = mutual_information(kept_NU, labels_N, classes, signed=signed)
        return found

    def _half_means(self, kept_NU: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """class_means_CU over the halves of what is kept."""
        sweep = self.sweep
        if len(kept_NU) == int(sweep.counts.counts_C.sum()):
            return half_means(sweep.sums.of(sweep.neurons[layer.name]), sweep.counts)
        sums_CU, labels = torch.zeros(sweep.classes, layer.units, dtype=torch.float64), sweep.kept_labels
        parts = [(labels[half_N], kept_NU[half_N].double()) for half_N in (sweep.kept_halves == h for h in (0, 1))]
        a_CU, b_CU = (
            formulas.means_from_sums(sums_CU.index_add(0, label_n, a_nU), label_n.bincount(minlength=sweep.classes))
            for label_n, a_nU in parts
        )
        return a_CU, b_CU


def _against(csi_U: Tensor, null_PU: Tensor) -> dict[str, Tensor]:
    if not len(null_PU):
        names = ("csi_null_mean", "csi_null_q95", "csi_excess", "p_value")
        return dict.fromkeys(names, torch.full_like(csi_U, torch.nan))
    return {
        "csi_null_mean": null_PU.mean(0),
        "csi_null_q95": null_PU.quantile(0.95, dim=0),
        "csi_excess": csi_U - null_PU.mean(0),
        "p_value": formulas.layer_p_values(csi_U, null_PU),
    }
