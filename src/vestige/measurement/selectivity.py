"""Class selectivity of every neuron of a network: one pass over the images, then formulas.

Shapes: N images, T of a tile, U neurons (units) of a layer, C classes, P permutations of the labels.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.config import Protocol
from vestige.data.loader import Tile
from vestige.errors import check_known
from vestige.formulas import selectivity as formulas
from vestige.formulas.null import labellings
from vestige.measurement.keeping import Place, keeping
from vestige.measurement.network import Network
from vestige.measurement.per_image import PerImage
from vestige.measurement.sharing import Group
from vestige.measurement.sums import columns, ranked_classes
from vestige.measurement.sweep import DOING, Sweep
from vestige.models.layers import Layer
from vestige.runs.store import write_table
from vestige.runs.tables import IDENTITY, SCHEMAS

Rectify = Literal["auto", "abs", "none"]


@dataclass(frozen=True)
class SelectivityResult:
    """Class selectivity of every neuron.

    Attributes:
      table: one row a neuron, the columns of the schema "selectivity" but for the identity of the run.
      class_means: class_means_CU by layer name, float64; NaN where a class has no image.
      class_counts: images of each class, int64, (C,).
      mean_activation: mean over images and positions by layer name, float64, (U,).
      loss: mean cross-entropy of the images, in nats.
      top1: share of the images whose class has the highest logit.
      top5: share whose class is among the five highest; None where there are five classes or fewer.
      n: images measured.
      layers: where the neurons are.
      skipped: what is wrong with each image that was left out as unreadable.
      notes: what must be known to read the numbers rightly, a sentence each.
      settings: what made them, ready for JSON.
    """

    table: pl.DataFrame
    class_means: dict[str, Tensor]
    class_counts: Tensor
    mean_activation: dict[str, Tensor]
    loss: float
    top1: float
    top5: float | None
    n: int
    layers: tuple[Layer, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_parquet(self, path: Path | str) -> None:
        """Write the table, atomically, its settings, scores and notes in the file's metadata under "vestige"."""
        scores = {"top1": self.top1, "top5": self.top5, "loss": self.loss, "n": self.n}
        about = {**self.settings, **scores, "notes": list(self.notes)}
        write_table(Path(path), self.table, {"vestige": json.dumps(about, sort_keys=True)})

    @property
    def preferred(self) -> dict[str, Tensor]:
        """The class with the highest mean of each neuron by layer name, int64, (U,)."""
        return {name: ranked_classes(means_CU)[0] for name, means_CU in self.class_means.items()}


def measure_selectivity(
    network: Network,
    tiles: Iterable[Tile],
    *,
    protocol: Protocol = "corrected",
    permutations: int = 100,
    rectify: Rectify = "auto",
    place: Place = Place(1.0),  # noqa: B008 (frozen)
    labels: np.ndarray | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
    group: Group = Group(),  # noqa: B008 (frozen)
    progress: Callable[[int], None] | None = None,
) -> SelectivityResult:
    """Measure the class selectivity of every neuron.

    A neuron's activation for an image is its spatial mean, in float32; all that follows is in float64. The columns,
    and what they hold at the edges (a *dead* neuron gives exactly 0 for every image and position):

    - csi: formulas.csi; dead: 0. csi_null_mean, csi_null_q95: over the permutations; NaN without. csi_excess.
    - csi_cv, reliability: halves A and B are alternate images of each class, in the order given; classes
      with fewer than 2 images are left out; NaN where fewer than 2 classes remain. Dead: 0; NaN.
    - eta2, eta2_adj: 0 for a neuron that does not vary; eta2_adj is NaN where every class has one image.
    - sparsity: NaN for dead. closed: share of (image, position) exactly 0. mean: over images and positions.
    - p_value: of csi, neurons of the layer with alike nulls sharing their permutations; 1 for a neuron whose csi no
      permutation changes; NaN without.
    - selective: flagged by Benjamini-Hochberg at 5% among all neurons, and csi_cv above the 95% quantile of its layer
      at step 0 where `initial` gives that; null without permutations.
    - preferred_class, second_class: the highest and second highest class mean; the lowest index among equals.
      mu_max: the highest class mean; mu_rest: mean of the others.
    - auroc, informedness, precision_at_k, k, mutual_information: see `formulas.detection`, `formulas.information`. They
      and `closed` are of the images that are kept, all or a sample; NaN where none are.
    - rectify: "abs" where the absolute value of the spatial mean was taken (`mean` is without it). mode: "exact" where
      the pooled activations of all images were kept, else "streamed".

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, in evaluation order; of several processes that share them, this one's.
      protocol: "faithful" takes class sums in place of class means, as the released code does, in csi and
        its null (so csi_null_*, csi_excess and p_value too); the columns it does not know stay as they are.
      permutations: P, of the whole label vector, the same for all neurons and checkpoints; 0 for none.
      rectify: "abs": take the absolute value of an image's spatial mean; "auto": in layers whose activation can be
        negative.
      place: where pooled activations are kept, and of which images.
      labels: of all images in evaluation order (N,), where known beforehand: without, a pass that keeps no activations
        cannot permute them, and the null is NaN.
      initial: csi_cv at step 0 by layer name.
      group: the processes that share the images; all get the same result.
      progress: told the number of images done, by this process.

    Raises:
      ConfigError: there is no such protocol, or way to rectify.
      DataError: no images, labels outside the model's classes, or images of fewer than two classes.
      ModelError: the network has diverged.
    """
    check_known(DOING, "protocol", protocol, get_args(Protocol))
    check_known(DOING, "rectify", rectify, get_args(Rectify))
    absolute = {layer.name: rectify == "abs" or (rectify == "auto" and layer.signed) for layer in network.layers}
    null_PN = None
    if permutations and not place.exact and labels is not None:
        null_PN = permuted_labels(torch.from_numpy(labels), permutations)
    with keeping(place) as kept:
        sweep = Sweep(network, absolute, place, kept, null_PN, group)
        sweep.run(tiles, progress)
        frames = _frames(sweep, protocol, permutations)
    frames = sorted((pair for part in group.gather(frames) for pair in part), key=lambda pair: pair[0])
    table = flag(pl.concat([frame for _, frame in frames]), initial)
    return SelectivityResult(
        table,
        {layer.name: sweep.class_means(layer.name) for layer in network.layers},
        sweep.counts.counts_C,
        {name: sweep.sums.raw_U[neurons] / sweep.n for name, neurons in sweep.neurons.items()},
        sweep.loss,
        sweep.top1,
        sweep.top5,
        sweep.n,
    )


def permuted_labels(labels_N: Tensor, permutations: int) -> Tensor:
    """Permutations of a label vector that depend on it and on their number alone, (P, N)."""
    labels = labels_N.numpy().astype("<i8")
    seed = hashlib.sha256(labels.tobytes() + permutations.to_bytes(8, "little")).digest()
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    small = labels.astype(np.int32)
    permuted = np.empty((permutations, len(labels)), dtype=np.int32)
    for row in permuted:
        row[:] = generator.permutation(small)
    return torch.from_numpy(permuted)


def csi_cv_by_layer(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """The column csi_cv of a table by layer name."""
    return {str(name): rows["csi_cv"].to_numpy() for (name,), rows in table.group_by("layer", maintain_order=True)}


def flag(table: pl.DataFrame, initial: Mapping[str, np.ndarray] | None) -> pl.DataFrame:
    """Set the column `selective` of a checkpoint's table.

    Args:
      table: of all its neurons; p_value is NaN where nothing was permuted.
      initial: csi_cv at step 0 by layer name; None: there is no step 0.
    """
    p_values_U = table["p_value"].to_torch()
    if p_values_U.isnan().any():
        return table.with_columns(pl.lit(None, pl.Boolean).alias("selective"))
    flags_U = formulas.discoveries(p_values_U.double())
    csi_cv_U = table["csi_cv"].cast(pl.Float32).to_torch()  # as it is stored, which `initial` may come from
    selective_U = flags_U.clone()
    for name, initial_U in (initial or {}).items():
        here_U = (table["layer"] == name).to_torch()
        threshold_U = torch.from_numpy(initial_U.astype(np.float32))
        selective_U[here_U] = formulas.selective(flags_U[here_U], csi_cv_U[here_U], threshold_U)
    return table.with_columns(pl.Series("selective", selective_U.numpy()))


def _frames(sweep: Sweep, protocol: Protocol, permutations: int) -> list[tuple[int, pl.DataFrame]]:
    """A table of each layer that is this process's share, with the layer's number."""
    ready = None
    if sweep.place.exact and permutations:
        labels_N = sweep.kept_labels
        labels_QN = torch.cat([labels_N[None], permuted_labels(labels_N, permutations).long()])
        ready = labellings(labels_QN, sweep.network.classes, from_sums=protocol == "faithful")
    per_image, mode = PerImage(sweep, ready, protocol), "exact" if sweep.place.exact else "streamed"
    frames = []
    for number, layer in enumerate(sweep.network.layers):
        absolute = sweep.absolute[layer.name]
        found = columns(sweep.sums.of(sweep.neurons[layer.name]), sweep.counts, protocol)
        signed = layer.signed and not absolute
        extra = per_image.columns(layer, number % sweep.group.world, found["csi"], signed=signed)
        if extra is not None:
            frames.append((number, _frame(layer, found | extra, "abs" if absolute else "none", mode)))
    return frames


def _frame(layer: Layer, columns: Mapping[str, Tensor], rectified: str, mode: str) -> pl.DataFrame:
    neurons = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    return neurons.select(
        pl.lit(layer.stage).alias("stage"),
        pl.lit(layer.name).alias("layer"),
        pl.int_range(pl.len(), dtype=pl.Int32).alias("neuron"),
        pl.all(),
        pl.lit(None, pl.Boolean).alias("selective"),
        pl.lit(rectified).alias("rectify"),
        pl.lit(mode).alias("mode"),
    ).select(name for name in SCHEMAS["selectivity"] if name not in IDENTITY)
