"""`vestige.measure`: class selectivity of anybody's classifier, which comes back exactly as it was.

Shapes: N images, U neurons (units) of a layer, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from vestige.config import Protocol
from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.inputs import Feed, batches
from vestige.measurement.keeping import SAMPLE, Keep, Place, choose_place
from vestige.measurement.network import Dtype, Network
from vestige.measurement.preparing import Preparation, check_at_least, prepare, warn_of
from vestige.measurement.recalibrating import BatchNorm
from vestige.measurement.selectivity import Rectify, SelectivityResult, csi_cv_by_layer, measure_selectivity
from vestige.measurement.sharing import Group
from vestige.measurement.sweep import DOING
from vestige.models.layers import Layer

EXACT_PERMUTATIONS, STREAMED_PERMUTATIONS = 100, 20


def measure(
    model: nn.Module,
    data: Any,
    layers: Sequence[str | Layer] | None = None,
    *,
    protocol: Protocol = "corrected",
    permutations: int | None = None,
    batch_norm: BatchNorm = "recalibrate",
    training_data: Any = None,
    rectify: Rectify = "auto",
    keep: Keep = "auto",
    sample: int = SAMPLE,
    device: torch.device | str | None = None,
    dtype: Dtype = "float32",
    batch_size: int = 256,
    workers: int = 0,
    class_map: Sequence[int] | Mapping[int, int] | None = None,
    initial: pl.DataFrame | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> SelectivityResult:
    """Measure the class selectivity of every neuron of a classifier, in one pass over the data.

    Under `torchrun`, with torch.distributed initialised, the processes share the data and all get the same result.

    Args:
      model: any classifier. A copy of it is measured; it is left as it was.
      data: a DataLoader, any iterable of batches (inputs, labels), a map-style Dataset of such pairs, or a pair of
        tensors; preprocessed as the model wants it. The order matters to csi_cv, whose halves are alternate images of
        each class.
      layers: names, patterns ("layer3.*") or module paths; None: all that `vestige.layers` lists.
      protocol: "faithful" does what the paper's released code does: class sums in place of class means, stored
        batch-norm statistics.
      permutations: of the labels, for the null of csi and its p-values; None: 100, or 20 where activations are not
        kept; 0: none.
      batch_norm: "recalibrate": recompute the statistics from `training_data`; "stored": as the model has them.
      training_data: of the same kinds as `data`; 2,048 of its images are used, their labels are not.
      rectify: "abs": take the absolute value of each image's spatial mean; "auto": where activations can be negative.
      keep: where pooled activations (N x U float32) are kept for the measures that need all images: "memory", "disk"
        or "nothing" (streamed: memory does not grow with N; those measures come from a random sample); "auto" chooses.
      sample: images in that random sample, about.
      device: to measure on; None: where the model is.
      dtype: that weights and inputs are given, whatever the model has; "bfloat16": float32 under autocast, its
        deviation from float32 on the first batch among the notes.
      batch_size: inputs a forward, where `data` does not come in batches.
      workers: processes that read a Dataset.
      class_map: the model's class index of each label of the data, where they differ.
      initial: the table of step 0 of the same training run: `selective` then asks for more than untrained neurons have.
      progress: called with the number of images done and of all, where that is known.

    Returns:
      See `SelectivityResult`: `.table` has one row a neuron.

    Raises:
      ConfigError: an argument that does not make sense.
      DataError: no images, labels outside the model's classes, or images of fewer than two classes.
      ModelError: the model is no classifier, cannot take the inputs, has no such layer, or has diverged.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization.
    """
    check_at_least(DOING, "permutations", permutations or 0, 0)
    check_at_least(DOING, "sample", sample, 0)
    how = Preparation(model, layers, batch_norm, training_data, dtype, device, batch_size, workers, class_map, DOING)
    group = Group.here()
    feed = batches(data, batch_size=batch_size, workers=workers, share=(group.rank, group.world))
    first, tiles = _looked_into(feed, group)
    ready = prepare(how.under(protocol), first)
    network, place = ready.network, _place(keep, sample, feed, ready.network, group)
    permutations = _permutations(permutations, place)
    known = None if feed.labels is None else ready.mapped(feed.labels)
    result = measure_selectivity(
        network,
        map(ready.relabelled, tiles),
        protocol=protocol,
        permutations=permutations,
        rectify=rectify,
        place=place,
        labels=known,
        initial=None if initial is None else csi_cv_by_layer(initial),
        group=group,
        progress=None if progress is None else lambda done: progress(done, feed.length),
    )
    _check_same_data(feed, group)
    notes = (*feed.notes, *ready.notes, *_missing(permutations, place, known, network, initial))
    warn_of(notes)
    settings = {
        **ready.settings,
        "data": feed.name,
        "n": result.n,
        "protocol": protocol,
        "permutations": permutations,
        "rectify": rectify,
        "mode": "exact" if place.exact else "streamed",
        "sample": None if place.exact else sample,
        "device": str(network.device),
        "batch_size": batch_size,
        "processes": group.world,
    }
    skipped = tuple(text for part in group.gather(feed.skipped) for text in part)
    return replace(result, layers=network.layers, skipped=skipped, notes=notes, settings=settings)


def _check_same_data(feed: Feed, group: Group) -> None:
    if len(set(group.gather(feed.digest))) > 1:
        raise DataError(
            DOING,
            found=f"the {group.world} processes read different batches from {feed.name}",
            remedy="Give every process all of the data, unsharded: vestige shares them out itself",
        )


def _place(keep: Keep, sample: int, feed: Feed, network: Network, group: Group) -> Place:
    """Where activations are kept, in all processes alike: as the one with the least free memory can."""
    width = (8 if network.dtype == "float64" else 4) * sum(layer.units for layer in network.layers)
    return min(group.gather(choose_place(keep, feed.length, width, sample=sample)), key=lambda p: (p.share, p.held))


def _permutations(wanted: int | None, place: Place) -> int:
    if wanted is not None:
        return wanted
    return EXACT_PERMUTATIONS if place.exact else STREAMED_PERMUTATIONS


def _missing(
    permutations: int, place: Place, labels: np.ndarray | None, network: Network, initial: pl.DataFrame | None
) -> Iterator[str]:
    """What must be said of numbers that there will not be."""
    if permutations and not place.exact and labels is None:
        yield (
            "The labels are not known before they are seen and activations are not kept: there is no null "
            "(give a Dataset or tensors, or keep='disk')."
        )
    if initial is not None and (
        lacking := [layer.name for layer in network.layers if layer.name not in set(initial["layer"])]
    ):
        yield f"The table of step 0 lacks {', '.join(lacking)}: `selective` is the flag alone there."


def _looked_into(feed: Any, group: Group) -> tuple[Any, Iterator[Tile]]:
    """The inputs of the first tile of all processes, and this one's tiles, the first not lost."""
    tiles = iter(feed)
    first = next(tiles, None)
    inputs = next((given for given in group.gather(None if first is None else first.inputs) if given is not None), None)
    if inputs is None:
        raise DataError(DOING, found="there are no images", remedy="Give at least one image of two classes")
    return inputs, tiles if first is None else chain([first], tiles)
