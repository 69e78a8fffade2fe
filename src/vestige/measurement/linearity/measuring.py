"""How close a network is to linear, beside the same network without its ReLUs.

Shapes: N images, U neurons (units) of a layer, L layers, C classes, T inputs of a tile, D features.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.formulas import linearity as formulas
from vestige.formulas.selectivity import class_means, csi
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.models.layers import pooled

CKA_VALUES = 2**27
"""CKA keeps so many values of whole maps at a time (512 MiB in float32); more take further passes."""
LOGITS, INPUT, ALL = "logits", "input", "all"

_DOING = "measuring linearity"
_SEED = 2023
Row = tuple[str, str, str]
"""measure, layer, other."""


def measure_linearity(
    network: Network,
    tiles: Iterable[Tile],
    *,
    pairs: int = 1000,
    cka_images: int = 1000,
    top_k: Sequence[int] = (1, 2, 3),
    linear_labels: Tensor | Callable[[Tensor], Tensor] | None = None,
) -> pl.DataFrame:
    """Measure how close a network is to linear.

    Rows, named by measure, layer and other, each with its value for the network and, as anchor, its value for
    `network.without_relus()`:

    - `midpoint`, each layer (whole maps) and "logits" (class-centred): formulas.midpoint_nonlinearity.
    - `gate-churn`, each layer that is a ReLU: formulas.gate_churn over the same pairs;
      `gate-churn-independent`: what independent gates would give. The anchor is 0: it has no gates.
    - `cka`, each layer with "input" (the pixels), with "logits" and with each later layer, and "logits" with
      "input": formulas.linear_cka of whole maps.
    - `correlation-top1`, ..., layer "all": formulas.cross_layer_correlation of the mean of each image's k
      largest activations; `correlation-fixed1`, ...: of k channels drawn once; `correlation-csi1`, ...: of
      the k channels of highest CSI (of the logits, signed, the k largest). The anchor's channels are the
      network's.

    NaN where a measure is undefined, such as for a layer that gives the same for all inputs.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, gone through once; all are used for the correlations, and max(pairs + 1, cka_images)
        of them are kept in memory. All forwards have the shape of these tiles.
      pairs: pairs of inputs of the midpoint: neighbours in a fixed random order of the images. N images make
        at most N pairs.
      cka_images: images of CKA, a fixed random set; at most N.
      top_k: the k of the correlation.
      linear_labels: what a linear model of the inputs predicts for the images of the tiles, int64 (N,), or a function
        that gives it for inputs of a tile, such as `PixelModel.predict`; None: no measure `kalimeris`.

    Returns:
      The columns of the schema "linearity" but for the identity of the run.

    Raises:
      DataError: fewer than four images, labels outside the model's classes, images of fewer than two classes.
      ModelError: the network has diverged.
    """
    networks = network, network.without_relus()
    survey = _survey(networks, tiles, keep=max(pairs + 1, cka_images))
    check_finite(survey.pooled[0][LOGITS], "its output", doing=_DOING)
    order = survey.inputs
    path = order[: pairs + 1] if len(order) > pairs else [*order, order[0]]
    sides: list[dict[Row, float]] = []
    channels = _channels(networks[0], survey, max(top_k))
    for net, activations in zip(networks, survey.pooled, strict=True):
        side = _along(net, path, survey.tile)
        side |= _alignment(net, order[:cka_images], survey.tile)
        side |= _correlations(net, activations, survey.labels, channels, top_k)
        sides.append(side)
    value, anchor = sides
    rows = [(*row, value[row], anchor.get(row, 0.0)) for row in value]
    return pl.DataFrame(rows, schema=["measure", "layer", "other", "value", "anchor"], orient="row")


@dataclass
class _Survey:
    """What one pass over all images leaves.

    Attributes:
      pooled: for each network, activations_NU by layer name, and the logits, in float64.
      labels: int64, (N,).
      inputs: some of the inputs, in a random order that depends on their positions alone.
      tile: inputs a forward.
    """

    pooled: list[dict[str, Tensor]]
    labels: Tensor
    inputs: list[Tensor]
    tile: int


def _survey(networks: Sequence[Network], tiles: Iterable[Tile], keep: int) -> _Survey:
    parts: list[dict[str, list[Tensor]]] = [{} for _ in networks]
    labels, sample, size = [torch.empty(0, dtype=torch.int64)], _Sample(keep), 2
    for tile in tiles:
        check_labels(tile.labels[: tile.valid], networks[0].classes, doing=_DOING)
        labels.append(tile.labels[: tile.valid].cpu())
        sample.add(tile.inputs[: tile.valid])
        size = max(size, len(tile.inputs))
        for network, part in zip(networks, parts, strict=True):
            for name, values_NU in _pooled(network, tile).items():
                part.setdefault(name, []).append(values_NU)
    labels_N = torch.cat(labels)
    if len(labels_N) < 4:
        found = f"there are {len(labels_N)} images"
        raise DataError(_DOING, found=found, remedy="Give at least 4 images, of two classes or more")
    joined = [{name: torch.cat(values) for name, values in part.items()} for part in parts]
    return _Survey(joined, labels_N, sample.inputs(), size)


class _Sample:
    """A uniform choice among inputs whose number is not known beforehand: those of lowest random priority."""

    def __init__(self, size: int):
        self.size, self.seen = size, 0
        self.generator = np.random.default_rng(_SEED)
        self.heap: list[tuple[float, int, Tensor]] = []

    def add(self, inputs_T: Tensor) -> None:
        for image, priority in zip(inputs_T, self.generator.random(len(inputs_T)), strict=True):
            entry = (-priority, self.seen, image)
            if len(self.heap) < self.size:
                heapq.heappush(self.heap, (*entry[:2], image.clone()))
            elif entry > self.heap[0]:
                heapq.heapreplace(self.heap, (*entry[:2], image.clone()))
            self.seen += 1

    def inputs(self) -> list[Tensor]:
        return [image for *_, image in sorted(self.heap, reverse=True)]


def _pooled(network: Network, tile: Tile) -> dict[str, Tensor]:
    logits_TC, activations = network.forward(tile.inputs)
    values = {layer.name: pooled(activations[layer.name], layer.axis, dtype=torch.float64) for layer in network.layers}
    values[LOGITS] = logits_TC.double()
    return {name: values_TU[: tile.valid].cpu() for name, values_TU in values.items()}


def _padded(inputs: Sequence[Tensor], tile: int) -> Tensor:
    """Inputs as a whole tile: a forward's last bits depend on its shape."""
    return torch.stack([*inputs, *[inputs[0]] * (tile - len(inputs))])


def _tiles_along(path: Sequence[Tensor], tile: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Tiles of neighbouring inputs, tiles of the midpoints between them, and how many midpoints count."""
    for start in range(0, len(path) - 1, tile - 1):
        ends = path[start : start + tile]
        middles = [(first + second) / 2 for first, second in pairwise(ends)]
        yield _padded(ends, tile), _padded(middles, tile), len(middles)


def _along(network: Network, path: Sequence[Tensor], tile: int) -> dict[Row, float]:
    """Midpoint nonlinearity and gate churn between neighbours on a path of inputs."""
    sums: dict[str, Tensor] = {}
    gates = {layer.name: _Gates() for layer in network.layers if layer.node in network.graph.relus}
    for ends_T, middles_T, n in _tiles_along(path, tile):
        ends, middles = (_maps(network, inputs_T) for inputs_T in (ends_T, middles_T))
        for name in ends:
            first, second, middle = ends[name][:n], ends[name][1 : n + 1], middles[name][:n]
            added = torch.stack(formulas.midpoint_sums(first, second, middle))
            sums[name] = sums[name] + added if name in sums else added
        for name, counts in gates.items():
            counts.add(ends[name][:n], ends[name][1 : n + 1])
    rows = {("midpoint", name, ""): formulas.midpoint_from_sums(*sums[name]).item() for name in sums}
    for name, counts in gates.items():
        rows["gate-churn", name, ""] = counts.churn / counts.n
        rows["gate-churn-independent", name, ""] = formulas.independent_churn(counts.open / counts.n).item()
    return rows


def _maps(network: Network, inputs_T: Tensor) -> dict[str, Tensor]:
    """Whole maps of each layer, and the class-centred logits."""
    logits_TC, activations = network.forward(inputs_T)
    return activations | {LOGITS: formulas.class_centred(logits_TC.double())}


@dataclass
class _Gates:
    """Of the gates of a layer over pairs: the summed share that differs, and how often the first is open."""

    n: int = 0
    churn: float = 0.0
    open: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, first_ND: Tensor, second_ND: Tensor) -> None:
        self.n += len(first_ND)
        self.churn += formulas.gate_churn(first_ND, second_ND).item() * len(first_ND)
        self.open = self.open + (first_ND > 0).sum(0, dtype=torch.float64)


def _alignment(network: Network, images: Sequence[Tensor], tile: int) -> dict[Row, float]:
    """Unbiased linear CKA of every two of input, layers and logits.

    Inner products add up over features, so maps too large to keep for all images at once are gone through in
    parts, each with forwards of its own.
    """
    widths = {name: values_TD.shape[1] for name, values_TD in _flattened(network, images[:1], tile).items()}
    parts = -(-sum(widths.values()) * len(images) // CKA_VALUES)
    grams: dict[str, Tensor] = {}
    for part in range(parts):
        kept: dict[str, list[Tensor]] = {name: [] for name in widths}
        for start in range(0, len(images), tile):
            for name, values_TD in _flattened(network, images[start : start + tile], tile).items():
                first, last = (widths[name] * place // parts for place in (part, part + 1))
                kept[name].append(values_TD[:, first:last].contiguous())  # a view would keep the whole map
        for name, values in kept.items():
            added = formulas.gram(torch.cat(values))
            grams[name] = grams[name] + added if name in grams else added
    centred = {name: formulas.u_centred(gram) for name, gram in grams.items()}
    rows = {}
    for (first, gram), (second, other) in combinations(centred.items(), 2):
        layer, against = (second, first) if first == INPUT else (first, second)
        rows["cka", layer, against] = formulas.cka_of_grams(gram, other.to(gram)).item()
    return rows


def _flattened(network: Network, images: Sequence[Tensor], tile: int) -> dict[str, Tensor]:
    """Input, whole maps of each layer and logits of some images, a row each."""
    logits_TC, activations = network.forward(inputs_T := _padded(images, tile))
    maps = {INPUT: inputs_T, **activations, LOGITS: logits_TC}
    return {name: values[: len(images)].flatten(1) for name, values in maps.items()}


def _channels(network: Network, survey: _Survey, k: int) -> dict[str, dict[str, Tensor]]:
    """The k fixed channels of each layer: drawn, and those of highest CSI, best first."""
    generator = np.random.default_rng(_SEED)
    chosen: dict[str, dict[str, Tensor]] = {"fixed": {}, "csi": {}}
    for name, values_NU in survey.pooled[0].items():
        chosen["fixed"][name] = torch.from_numpy(generator.permutation(values_NU.shape[1])[:k])
        if name != LOGITS:
            means_CU = class_means(values_NU, survey.labels, network.classes)
            chosen["csi"][name] = csi(means_CU).argsort(descending=True, stable=True)[:k]
    return chosen


def _correlations(
    network: Network,
    activations: dict[str, Tensor],
    labels_N: Tensor,
    channels: dict[str, dict[str, Tensor]],
    top_k: Sequence[int],
) -> dict[Row, float]:
    stages = [*(layer.stage for layer in network.layers), LOGITS]
    names = [*(layer.name for layer in network.layers), LOGITS]
    rows = {}
    for kind in ("top", "fixed", "csi"):
        for k in top_k:
            chosen = channels.get(kind, {})
            scores_NL = torch.stack(
                [
                    activations[name][:, chosen[name][:k]].mean(1)
                    if name in chosen
                    else formulas.largest_mean(activations[name], k)
                    for name in names
                ],
                dim=1,
            )
            correlation = formulas.cross_layer_correlation(scores_NL, labels_N, stages)
            rows[f"correlation-{kind}{k}", ALL, ""] = correlation.item()
    return rows
