"""`vestige.linearity`: how close anybody's classifier is to linear, which comes back exactly as it was.

Shapes: N images, U neurons (units) of a layer, C classes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import nan
from numbers import Integral
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vestige.data.loader import Tile
from vestige.errors import ConfigError, DataError, ModelError
from vestige.measurement.averaging import OfRows, Rows
from vestige.measurement.choosing import Choice, as_rows
from vestige.measurement.comparing import KnownImages, LinearModel, described, fitted, of_linear
from vestige.measurement.inputs import batches
from vestige.measurement.keeping import Place, free_memory
from vestige.measurement.linearity import measure_linearity
from vestige.measurement.linearity.steps import walk, walked
from vestige.measurement.network import Dtype, Network
from vestige.measurement.preparing import Preparation, check_at_least, prepare, warn_of
from vestige.measurement.recalibrating import BatchNorm
from vestige.models.layers import Layer
from vestige.runs.store import write_table

DOING = "measuring linearity"
MOST_IMAGES, PAIRS, CKA_IMAGES, TOP_K = 10_000, 1000, 1000, (1, 2, 3)
Progress = Callable[[int, int | None], None]
AFFINE = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 0.1}
"""An anchor whose midpoint nonlinearity is below this is affine up to rounding."""


@dataclass(frozen=True)
class LinearityResult:
    """How close a classifier is to linear.

    Attributes:
      table: one row a measure, layer and what it is compared with: the columns of the schema "linearity" but for the
        identity of the run: measure, layer, other, value, anchor. See `linearity`.
      loss: mean cross-entropy of the images, in nats.
      top1: share of the images whose class has the highest logit.
      n: images measured.
      layers: where activations were taken.
      skipped: what is wrong with each image that was left out as unreadable.
      notes: what must be known to read the numbers rightly, a sentence each.
      settings: what made them, ready for JSON.
      linear_model: what the network was compared with, to be given to another call; None where there was none.
    """

    table: pl.DataFrame
    loss: float
    top1: float
    n: int
    layers: tuple[Layer, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    linear_model: LinearModel | None = field(default=None, repr=False)

    def to_parquet(self, path: Path | str) -> None:
        """Write the table, atomically, its settings, scores and notes in the file's metadata under "vestige"."""
        about = {**self.settings, "top1": self.top1, "loss": self.loss, "n": self.n, "notes": list(self.notes)}
        write_table(Path(path), self.table, {"vestige": json.dumps(about, sort_keys=True)})


def linearity(
    model: nn.Module,
    data: Any,
    layers: Sequence[str | Layer] | None = None,
    *,
    images: int = MOST_IMAGES,
    pairs: int = PAIRS,
    cka_images: int = CKA_IMAGES,
    top_k: Sequence[int] = TOP_K,
    batch_norm: BatchNorm = "recalibrate",
    training_data: Any = None,
    linear_model: LinearModel | None = None,
    device: torch.device | str | None = None,
    dtype: Dtype = "float32",
    batch_size: int = 256,
    workers: int = 0,
    class_map: Sequence[int] | Mapping[int, int] | None = None,
    progress: Progress | None = None,
) -> LinearityResult:
    """Measure how close a classifier is to linear, beside the same network without its ReLUs (the anchor).

    The anchor has the network's weights and batch-norm statistics, every ReLU being replaced by the identity: what a
    linear network of this shape reads. The measures; what their ends mean; what the anchor reads:

    - `midpoint`, each layer's whole maps, and the logits less their mean over classes: sqrt(sum ||h(mid) - avg||^2 /
      sum ||(h1 - h2)/2||^2) over pairs of inputs, h1 and h2 being what the two give, avg the mean of these, h(mid) what
      the mean of the inputs gives. 0: affine; sqrt(3): outputs that are unrelated. Anchor: 0.
    - `gate-churn`, each layer that is a ReLU: share of gates that are open for one input of a pair and closed for the
      other. 0: affine. Anchor: 0, having no gates.
    - `gate-churn-independent`: the mean over gates of 2p(1 - p), p being how often a gate is open: what the churn of
      gates that open independently of everything would be. 0: gates that never change; 0.5: gates as good as coins.
    - `cka`, each layer with "input", "logits" and each later layer: linear CKA of whole maps, HSIC1(K, L) /
      sqrt(HSIC1(K, K) HSIC1(L, L)) of Gram matrices K and L, HSIC1 being the unbiased estimator. 1: the same up to
      rotation and scale; 0, in expectation: unrelated. Anchor: below 1, as a linear map need not keep angles.
    - `ridge-flattened`, the input and each layer's whole maps, and `ridge-pooled`, each layer's spatial means: 1 -
      SSE/SST of the logits less their mean over classes, summed over logits, on a held-out half of the CKA images;
      ridge regression with intercept, its penalty by five-fold cross-validation. 1: the logits are affine in these
      values; 0: predicted no better than by their mean; below 0: worse. Anchor: 1 from whole maps and the input, if the
      images to fit outnumber the input's dimensions. From the pooled last layer 1 by construction in most networks.
    - `kalimeris`, of "logits": 1 - I(F;Y|L) / I(F;Y), F being the class that the network predicts, Y the true one, L
      what a linear model of the inputs predicts; both terms less their mean under permutations of F (within strata of L
      for the first). 1: the linear model explains all that the network knows; 0: nothing. NaN where I(F;Y) is below 0.1
      bit. With N < 5 C^3 images classes are put into groups. Beside it `kalimeris-information` (I(F;Y), bits),
      `kalimeris-unexplained` (I(F;Y|L), bits), `kalimeris-groups` (groups of classes) and `kalimeris-linear-top1` (the
      linear model's accuracy). Anchor: read against it, since no linear network makes the best linear predictions.
    - `correlation-topK`, of "all" layers: of the mean of each image's K largest activations, |Pearson r| between layers
      of different stages and the logits, over the images of a class; mean over pairs of layers and over classes. The
      paper's measure. 1: proportional; about sqrt(2 / (pi n)), with n images a class: unrelated. Anchor: 0.4 to 0.6 in
      random networks. `correlation-fixedK`: of K channels drawn once; `correlation-csiK`: of the K channels of highest
      class selectivity.

    NaN where a measure is undefined, as for a layer that gives the same for all images. The anchor is NaN where there
    is none: the network has no ReLU, or one that cannot be taken out; a note says so. Where a network has other
    nonlinearities (max-pooling, GELU, layer norms, attention) its anchor is not affine; a note says by how much.

    Args:
      model: any classifier. A copy of it is measured; it is left as it was.
      data: a DataLoader, any iterable of batches (inputs, labels), a map-style Dataset of such pairs, or a pair of
        tensors; preprocessed as the model wants it. Read once; of inputs there must be averages, so they are numbers
        of one shape.
      layers: names, patterns ("layer3.*") or module paths; None: all that `vestige.layers` lists.
      images: use at most so many, N: the same number of each class where the data can be read in any order and tell
        their labels beforehand, else the first. Pooled activations of all are kept, 16 bytes x N x U, in files where
        they take more than an eighth of free memory.
      pairs: pairs of images of midpoint and gate-churn, P: neighbours on a fixed random way through the images; at most
        N.
      cka_images: images of cka and ridge, a fixed random set, 4 at least. max(P + 1, cka_images) inputs are held, and a
        matrix of cka_images x cka_images (at most 4,000, beyond which batches are averaged) in float64 a layer.
      top_k: each K of the correlations.
      batch_norm: "recalibrate": recompute the statistics from `training_data`; "stored": as the model has them.
      training_data: of the same kinds as `data`; 2,048 of its images are used for the statistics, and with their labels
        as many as 64 million pixels (images averaged to 32 x 32) for the linear model of `kalimeris`, an L2 logistic
        regression whose penalty is chosen on a held-out fifth. Without them `kalimeris` is left out. Give
        others than `data`: of images that it was fitted to the linear model can know, and explain, too much.
      linear_model: in place of that: what has a method `predict`, of inputs (N, ...) to their classes, int64 (N,); such
        as `.linear_model` of another result.
      device: to measure on; None: where the model is.
      dtype: that weights and inputs are given, whatever the model has. "float64" makes the anchor exact (midpoints of
        1e-12); "bfloat16": float32 under autocast, its deviation among the notes.
      batch_size: inputs a forward, where `data` does not come in batches.
      workers: processes that read a Dataset.
      class_map: the model's class index of each label of the data, where they differ.
      progress: called with the number of inputs that went through the network or its anchor, and of all that will; with
        0 as soon as they begin to.

    Returns:
      See `LinearityResult`: `.table` has the columns measure, layer ("logits" for the output, "all" for a measure of
      the whole network), other ("input", "logits" or a layer, or empty), value and anchor.

    Raises:
      ConfigError: an argument that does not make sense.
      DataError: fewer than four images, or images of one class; labels outside the model's classes; inputs that are
        not finite, or have no averages.
      ModelError: the model is no classifier, cannot take the inputs, has no such layer, or has diverged.

    References:
      Kalimeris et al. (2019), SGD on neural networks learns functions of increasing complexity; Kornblith et al.
      (2019), Similarity of neural network representations revisited; Nguyen et al. (2021), Do wide and deep networks
      learn the same things?; Ranadive et al. (2023), On the special role of class-selective neurons in early training.
    """
    top_k = tuple(top_k) if isinstance(top_k, Iterable) else top_k
    _check((images, pairs, cka_images, batch_size, workers), top_k, linear_model)
    how = Preparation(model, layers, batch_norm, training_data, dtype, device, batch_size, workers, class_map, DOING)
    feed = batches(data, batch_size=batch_size, workers=workers)
    choice = Choice(feed, images, batch_size)
    first, tiles = _looked_into(choice)
    ready = prepare(how, first.inputs)
    rows, (anchored, why) = Rows.like(first.inputs, ready.network, DOING), _anchor(ready.network)
    known = KnownImages()
    compared, lacking, said = fitted(how, ready, rows, known) if linear_model is None else (linear_model, "", ())
    going = _Going(progress, choice.length, (pairs, walked(pairs, cka_images)), 1 + anchored, len(first.labels))
    network, scores = OfRows.of(ready.network, rows, going.count), _Scores()
    asked = {"pairs": pairs, "cka_images": cka_images, "top_k": top_k}
    table = measure_linearity(
        network,
        going.tiles(known.look(as_rows(tiles, ready, rows))),
        **asked,
        linear_labels=None if compared is None else compared.predict,
        place=Place(1.0, free_memory() / 8),
        anchored=anchored,
        told=scores.tell,
    )
    going.end()
    of_compared = (*of_linear(compared, lacking), *said, *known.notes, *_of_groups(table, scores))
    notes = (*feed.notes, *ready.notes, *choice.notes, *why, *of_compared, *_of_anchor(table, dtype))
    warn_of(notes)
    given = {"images": images, "top_k": list(top_k), "batch_size": batch_size}
    seen = {"data": feed.name, "n": scores.n, "classes": scores.classes, "device": str(network.device)}
    made = {"anchor": anchored, "linear_model": described(compared)}
    settings, found = {**ready.settings, **asked, **given, **seen, **made}, (scores.loss, scores.top1, scores.n)
    return LinearityResult(table, *found, network.layers, tuple(feed.skipped), notes, settings, compared)


class _Going:
    """How far it is.

    Args:
      progress: called with the number of inputs that went through the networks and of all that will, None where that is
        not known.
      images: how many there are; None where that is not known.
      walked: pairs of them, and how many are gone through in the walk that has the midpoints.
      networks: that all goes through.
      tile: inputs a forward.
    """

    def __init__(
        self, progress: Progress | None, images: int | None, walked: tuple[int, int], networks: int, tile: int
    ):
        self._progress, self._walked, self._networks = progress, walked, networks
        self._tile, self._done = max(tile, 2), 0
        self._know(images)
        self.count(0)  # whatever is slow before, such as fitting the linear model, is over

    def tiles(self, tiles: Iterator[Tile]) -> Iterator[Tile]:
        """The tiles, counted: when all were read it is known how many images there are."""
        n = 0
        for tile in tiles:
            n += tile.valid
            yield tile
        if n != self._images:
            self._know(n)

    def count(self, inputs: int) -> None:
        """So many more went through one of the networks."""
        self._done += inputs
        if self._progress is not None:
            self._progress(self._done, None if self._expected is None else max(self._done, self._expected))

    def end(self) -> None:
        """It is over."""
        if self._progress is not None:
            self._progress(self._done, self._done)

    def _know(self, images: int | None) -> None:
        """So many images there are: they and the midpoints go through once, in whole tiles, and one to see the shapes.

        Where whole maps are too many for one pass (see `grams.KEPT_VALUES`), more go through than that.
        """
        self._images, self._expected = images, None
        if images is None:
            return
        pairs, most = self._walked
        chosen = [torch.empty(0)] * min(images, most)
        forwards = -(-(images - len(chosen)) // self._tile) + sum(1 for _ in walk(chosen, pairs, self._tile))
        self._expected = self._networks * (forwards * self._tile + 1)


class _Scores:
    """How well the network does on the images."""

    n, classes, top1, loss = 0, 0, nan, nan

    def tell(self, logits_NC: Tensor, labels_N: Tensor) -> None:
        """These are its logits, and the labels."""
        self.n, self.classes = len(labels_N), len(labels_N.unique())
        self.top1 = (logits_NC.argmax(1) == labels_N).double().mean().item()
        self.loss = cross_entropy(logits_NC.double(), labels_N).item()


_LEAST = {"images": 4, "pairs": 1, "cka_images": 4, "batch_size": 1, "workers": 0}


def _check(counts: Sequence[int], top_k: Sequence[int], linear_model: LinearModel | None) -> None:
    for (name, least), count in zip(_LEAST.items(), counts, strict=True):
        _check_count(name, count, least)
    if not isinstance(top_k, Iterable):
        raise ConfigError(DOING, found=f"top_k is {top_k}", remedy=f"Give several: top_k=({top_k},)")
    for k in top_k:
        _check_count("a k of top_k", k, 1)
    if not len(top_k):
        raise ConfigError(DOING, found="top_k is empty", remedy="Give one k at least, such as top_k=(1,)")
    wrong = ""
    if isinstance(linear_model, type):
        wrong = f"linear_model is the class {linear_model.__name__} itself, and not one of its objects"
    elif linear_model is not None and not callable(getattr(linear_model, "predict", None)):
        wrong = f"linear_model is a {type(linear_model).__name__}, which has no method predict"
    if wrong:
        remedy = "Give what predicts the class of each input, such as .linear_model of another result"
        raise ConfigError(DOING, found=wrong, remedy=remedy)


def _check_count(name: str, number: int, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise ConfigError(DOING, found=f"{name} is {number!r}", remedy="Give a whole number")
    check_at_least(DOING, name, int(number), least)


def _looked_into(choice: Choice) -> tuple[Tile, Iterator[Tile]]:
    """The first tile, and all of them."""
    tiles = iter(choice)
    first = next(tiles, None)
    if first is None:
        raise DataError(DOING, found="there are no images", remedy="Give at least 4 images, of two classes or more")
    return first, chain([first], tiles)


def _anchor(network: Network) -> tuple[bool, tuple[str, ...]]:
    """Whether there is a network without ReLUs to compare with, and why not."""
    scripted = [path for path, part in network.graph.module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    try:
        network.without_relus()
    except ModelError as error:
        return False, (f"There is no anchor, the network without its ReLUs: {error.found}.",)
    if scripted:
        found = f"{scripted[0]!r} is a scripted module, which may hide one"
        return False, (f"There is no anchor, the network without its ReLUs: {found}.",)
    if network.graph.relus:
        return True, ()
    return False, ("There is no anchor: the network has no ReLU (nn.ReLU, relu), so without its ReLUs it is the same.",)


def _of_anchor(table: pl.DataFrame, dtype: str) -> Iterator[str]:
    """What must be said of the anchor's values."""
    midpoints = table.filter((pl.col("measure") == "midpoint") & (pl.col("anchor") > AFFINE[dtype]))
    midpoints = midpoints.filter(pl.col("anchor").is_finite())
    if midpoints.is_empty():
        return
    worst = midpoints.sort("anchor").row(-1, named=True)
    yield (
        f"Without its ReLUs the network is not affine (midpoint nonlinearity up to {worst['anchor']:.2g}, at "
        f"{worst['layer']!r}): it has other nonlinearities, such as max-pooling, other activation functions, layer "
        "norms or attention, or draws random numbers; or rounding is large beside what varies, which dtype 'float64' "
        "would show. Its anchor is the network without ReLUs, and not a linear one."
    )


def _of_groups(table: pl.DataFrame, scores: "_Scores") -> Iterator[str]:
    """What must be said where classes are told apart in groups."""
    for groups in table.filter(measure="kalimeris-groups")["value"]:
        if 2 <= groups < scores.classes:
            yield (
                f"kalimeris tells {groups:.0f} groups of neighbouring classes apart, and not {scores.classes} classes: "
                f"{scores.n:,} images are fewer than 5 x {scores.classes}^3."
            )
