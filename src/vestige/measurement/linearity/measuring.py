"""How close a network is to linear, beside the same network without its ReLUs: one pass, and all measures of it.

Shapes: N images, U neurons (units) of a layer, C classes, T inputs of a tile.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import polars as pl
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.formulas.linearity import class_centred
from vestige.measurement.keeping import Place, keeping
from vestige.measurement.linearity.alignment import Alignment
from vestige.measurement.linearity.correlations import choose_channels, correlation_rows
from vestige.measurement.linearity.explained import (
    DOING,
    LinearLabels,
    LinearPredictions,
    as_table,
    check_inputs,
    explained_rows,
)
from vestige.measurement.linearity.grams import Batch, Grams
from vestige.measurement.linearity.midpoints import Midpoints
from vestige.measurement.linearity.pooling import Pooled
from vestige.measurement.linearity.regression import flattened_rows, pooled_rows, targets
from vestige.measurement.linearity.rows import INPUT, LOGITS, Row
from vestige.measurement.linearity.sampling import Image, Sample, images_of, padded
from vestige.measurement.linearity.steps import Step, walk, walked
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.models.layers import Layer
from vestige.models.layers import pooled as mean_over_positions


def measure_linearity(
    network: Network,
    tiles: Iterable[Tile],
    *,
    pairs: int = 1000,
    cka_images: int = 1000,
    top_k: Sequence[int] = (1, 2, 3),
    linear_labels: LinearLabels | None = None,
    place: Place = Place(1.0),  # noqa: B008 (frozen)
    anchored: bool = True,
    told: Callable[[Tensor, Tensor], object] | None = None,
) -> pl.DataFrame:
    """Measure how close a network is to linear.

    Rows, named by measure, layer and other, each with its value for the network and, as anchor, its value for
    `network.without_relus()`:

    - `midpoint`, each layer (whole maps) and "logits" (class-centred): formulas.midpoint_nonlinearity.
    - `gate-churn`, each layer that is a ReLU: formulas.gate_churn over the same pairs;
      `gate-churn-independent`: what independent gates would give. The anchor is 0: it has no gates.
    - `cka`, each layer with "input" (the pixels), with "logits" and with each later layer, and "logits" with
      "input": formulas.linear_cka of whole maps.
    - `ridge-flattened`, each layer and "input": formulas.held_out_r2 of the class-centred logits from whole maps;
      `ridge-pooled`, each layer: from pooled activations. The images are those of CKA (the first batch of them), half
      of them to fit, half held out. 1 for an affine network if the images to fit outnumber its input's dimensions.
    - `correlation-top1`, ..., layer "all": formulas.cross_layer_correlation of the mean of each image's k
      largest activations; `correlation-fixed1`, ...: of k channels drawn once; `correlation-csi1`, ...: of
      the k channels of highest CSI (of the logits, signed, the k largest). The anchor's channels are the
      network's.
    - where `linear_labels` are given, the rows of `explained_rows`: `kalimeris` and how it came about.

    NaN where a measure is undefined, such as for a layer that gives the same for all inputs.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, gone through once; all are used for the correlations, and max(pairs + 1, cka_images)
        of them are kept in memory. All forwards have the shape of these tiles; each image, and each midpoint, goes
        through each network once, where grams.KEPT_VALUES suffice for CKA.
      pairs: pairs of inputs of the midpoint: neighbours in a fixed random order of the images. N images make
        at most N pairs.
      cka_images: images of CKA, a fixed random set; at most N. Of more than 4,000, each HSIC is averaged over batches.
        A matrix of so many (at most 4,000) squared, in float64, is held for each layer.
      top_k: the k of the correlation.
      linear_labels: what a linear model of the inputs predicts for the images of the tiles, int64 (N,), or a function
        that gives it for inputs, such as `PixelModel.predict`; None: no measure `kalimeris`.
      place: where the pooled activations of all images are kept, 16 bytes x N x U: in memory, or files beyond
        `place.held`.
      anchored: False: the network is measured alone, and every anchor is NaN.
      told: called with the network's logits_NC, float64, and labels_N, in an order of their own.

    Returns:
      The columns of the schema "linearity" but for the identity of the run.

    Raises:
      DataError: fewer than four images, labels outside the model's classes, images of fewer than two classes, inputs
        that are not finite.
      ModelError: the network has diverged.
    """
    with ExitStack() as stack:
        networks = (network, network.without_relus()) if anchored else (network,)
        kept = [Pooled(net, stack.enter_context(keeping(place))) for net in networks]
        survey = _survey(networks, kept, tiles, linear_labels, keep=walked(pairs, cka_images))
        sides = [_walk(net, pooled, survey, pairs, cka_images) for net, pooled in zip(networks, kept, strict=True)]
        check_finite(kept[0].of(LOGITS), "its output", doing=DOING)
        if told is not None:
            told(kept[0].of(LOGITS), survey.labels)
        channels = choose_channels(network, kept[0], survey.labels, max(top_k))
        for net, pooled, rows in zip(networks, kept, sides, strict=True):
            rows |= correlation_rows(net, pooled, survey.labels, channels, top_k)
            if linear_labels is not None:
                rows |= explained_rows(pooled.of(LOGITS), survey.labels, survey.linear)
    return as_table(sides[0], sides[1] if anchored else None)


@dataclass(frozen=True)
class _Survey:
    """What one pass over the images leaves.

    Attributes:
      chosen: some of the inputs, in a random order that depends on their positions alone. The others have been
        through the networks.
      labels: int64, (N,), of the others and then of the chosen.
      linear: what a linear model predicts for them.
      tile: inputs a forward.
    """

    chosen: list[Tensor]
    labels: Tensor
    linear: Tensor
    tile: int


def _survey(
    networks: Sequence[Network],
    kept: Sequence[Pooled],
    tiles: Iterable[Tile],
    linear_labels: LinearLabels | None,
    keep: int,
) -> _Survey:
    """Choose images; pool those that are not chosen."""
    sample, waiting, done, size = Sample(keep), list[Image](), list[Image](), 2
    linear = None if linear_labels is None else LinearPredictions(linear_labels, networks[0].classes)
    forwards = [_pooling(net, pooled) for net, pooled in zip(networks, kept, strict=True)]

    def pool() -> None:
        inputs_T = padded([image.input for image in waiting], size)
        for forward in forwards:
            forward(inputs_T, len(waiting))
        done.extend(Image(torch.empty(0), image.label, image.linear) for image in waiting)
        waiting.clear()

    for tile in tiles:
        check_labels(tile.labels[: tile.valid], networks[0].classes, doing=DOING)
        check_inputs(tile)
        size = max(size, len(tile.inputs))
        for image in sample.others(images_of(tile, linear and linear.of(tile))):
            waiting.append(image)
            if len(waiting) == size:
                pool()
    if linear:
        linear.end()
    if waiting:
        pool()
    images = [*done, *(chosen := sample.chosen())]
    if len(images) < 4:
        found = f"there are {len(images)} images"
        raise DataError(DOING, found=found, remedy="Give at least 4 images, of two classes or more")
    labels_N, linear_N = (torch.tensor([getattr(image, of) for image in images]) for of in ("label", "linear"))
    if len(labels_N.unique()) < 2:
        found = f"all images are of class {int(labels_N[0])}"
        raise DataError(DOING, found=found, remedy="Give images of two classes or more: some measures compare classes")
    return _Survey([image.input for image in chosen], labels_N, linear_N, size)


def _pooling(network: Network, kept: Pooled) -> Callable[[Tensor, int], None]:
    """A forward of a tile that keeps pooled activations of its first n inputs."""
    read = network.reading({layer.name: partial(_mean, layer) for layer in network.layers})

    def forward(inputs_T: Tensor, n: int) -> None:
        logits_TC, of_layers = read(inputs_T)
        kept.add({name: values_TU[:n] for name, values_TU in of_layers.items()}, logits_TC[:n])

    return forward


def _mean(layer: Layer, activation: Tensor) -> Tensor:
    return mean_over_positions(activation, layer.axis, dtype=torch.float64)


def _walk(network: Network, kept: Pooled, survey: _Survey, pairs: int, cka_images: int) -> dict[Row, float]:
    """All measures of the chosen images; their pooled activations are kept with the others'."""
    before = len(survey.labels) - len(survey.chosen)
    midpoints, alignment, ridge = Midpoints(network), Alignment(), dict[Row, float]()

    def compare(batch: Batch) -> None:
        if batch.start == 0:  # of more images than fit in one matrix the first batch is enough
            of_batch = slice(before, before + batch.stop)
            logits_NC = kept.of(LOGITS)[of_batch]
            targets_NC = targets(logits_NC, network.rounding)
            pooled = ((layer.name, kept.of(layer.name)[of_batch]) for layer in network.layers)
            ridge.update(flattened_rows(batch, targets_NC) | pooled_rows(pooled, targets_NC))
        alignment.add(batch)

    grams = Grams(network, survey.chosen[:cka_images], survey.tile, compare)
    _forward_all(network, kept, survey, pairs, midpoints, grams)
    return midpoints.rows() | alignment.rows() | ridge


def _forward_all(
    network: Network, kept: Pooled, survey: _Survey, pairs: int, midpoints: Midpoints, grams: Grams
) -> None:
    step: Step

    def see(layer: Layer, activation: Tensor) -> Tensor:
        midpoints.add(layer.name, activation, step)
        grams.add(layer.name, activation[: step.new], step.start)
        return _mean(layer, activation[: step.new])

    read = network.reading({layer.name: partial(see, layer) for layer in network.layers})
    for step in walk(survey.chosen, pairs, survey.tile):
        logits_TC, of_layers = read(step.inputs)
        midpoints.add(LOGITS, class_centred(logits_TC.double()), step, logits_TC)
        grams.add(INPUT, step.inputs[: step.new].to(network.device), step.start)
        grams.add(LOGITS, logits_TC[: step.new], step.start)
        kept.add(of_layers, logits_TC[: step.new])
        grams.finish(step.start + step.new)
