"""What all measures of linearity cost at one checkpoint, beside a plain evaluation of the forwards that they need.

    python bench/linearity.py [--pairs-timed 5] [--images 2000] [--threads 1] [--dtype float32]

A: plain evaluation, by the network and by the same without its ReLUs, of every image and of every midpoint, once: what
the definitions need. B: everything (midpoint, churn, CKA, ridge, Kalimeris share, correlations), of both networks. In
turns, the one that comes first changing from pair to pair. Then the share of B's time that each measure takes, of one
more run, in which each part of the work is timed.

ResNet-20 with random weights, 32 px, random inputs: no measure's cost depends on what is in them, but for the logistic
regression, which a study fits once and which is not timed.

Set before Python starts: THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from pairing import alternate, setting
from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.measurement.linearity import alignment, grams, measure_linearity, measuring, midpoints
from vestige.measurement.network import Dtype, Network
from vestige.models.zoo import build

CLASSES = 10
PARTS: dict[str, list[tuple[Any, str]]] = {
    "midpoint and gate churn": [(midpoints.Midpoints, "add"), (midpoints.Midpoints, "rows")],
    "Gram matrices, of CKA and ridge": [(grams.Grams, "add"), (grams.Grams, "finish")],
    "CKA": [(alignment.Alignment, "add"), (alignment.Alignment, "rows")],
    "ridge R2": [(measuring, "flattened_rows"), (measuring, "pooled_rows")],
    "cross-layer correlation": [(measuring, "choose_channels"), (measuring, "correlation_rows")],
    "Kalimeris share": [(measuring, "explained_rows")],
    "pooling": [(measuring, "_mean")],
}
"""Where each part of the work is done: the object that has a function, and its name."""


@dataclass
class Stopwatch:
    """Seconds spent in each part of the work; a part within another counts for itself alone."""

    seconds: dict[str, float] = field(default_factory=dict)
    _within: list[float] = field(default_factory=list)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            self._within.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **settings)
            finally:
                _finished()
                took, inner = time.perf_counter() - began, self._within.pop()
                self.seconds[part] = self.seconds.get(part, 0.0) + took - inner
                if self._within:
                    self._within[-1] += took

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part, functions in PARTS.items():
                for owner, name in functions:
                    stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield


@dataclass(frozen=True)
class Subject:
    """A network, its images, and what a linear model says of them."""

    network: Network
    tiles: list[Tile]
    midpoints: list[Tensor]
    linear: Tensor
    pairs: int
    cka_images: int

    def evaluate(self) -> None:
        """A: plain forwards."""
        for network in (self.network, self.network.without_relus()):
            forward = network.graph.observing({})
            for inputs in [*(tile.inputs for tile in self.tiles), *self.midpoints]:
                with torch.no_grad(), network.autocast(inputs):
                    forward(network.on_device(inputs))
        _finished()

    def measure(self) -> None:
        """B: all measures."""
        settings: dict[str, Any] = {"pairs": self.pairs, "cka_images": self.cka_images, "linear_labels": self.linear}
        measure_linearity(self.network, self.tiles, **settings)
        _finished()


def subject(images: int, pairs: int, cka_images: int, batch: int, dtype: Dtype) -> Subject:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    model = build(ModelConfig(name="resnet20"), classes=CLASSES, channels=3, size=32, seed=0)
    inputs = torch.randn(images, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    rows = [slice(start, min(start + batch, images)) for start in range(0, images, batch)]
    tiles = [Tile(inputs[r], labels[r], len(labels[r]), np.arange(r.start, r.stop)) for r in rows]
    middles = ((inputs + inputs.roll(1, 0)) / 2)[:pairs].split(batch)
    linear = torch.randint(CLASSES, (images,), generator=generator)
    network = Network.prepare(model.to(device).eval(), inputs[:2], dtype=dtype)
    return Subject(network, tiles, list(middles), linear, pairs, cka_images)


def shares(one: Subject) -> None:
    """Print what each part of one run takes."""
    watch = Stopwatch()
    began = time.perf_counter()
    with watch.watching():
        one.measure()
    whole = time.perf_counter() - began
    rest = whole - sum(watch.seconds.values())
    print(f"  one more run, {whole:.2f} s, of which")
    for part, took in sorted((*watch.seconds.items(), ("forwards, and all else", rest)), key=lambda item: -item[1]):
        print(f"    {part}: {took:.2f} s, {took / whole:.1%}")


def _finished() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs-timed", type=int, default=5, help="times that A and B are timed in turn")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--cka-images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(setting())
    one = subject(options.images, options.pairs, options.cka_images, options.batch, options.dtype)
    middles = sum(map(len, one.midpoints))
    print(
        f"\nresnet20 at 32 px, {len(one.network.layers)} layers, {options.images:,} images, {middles:,} midpoints, "
        f"{options.cka_images:,} images of CKA, {options.dtype}, {options.batch} inputs a forward"
    )
    ratio = alternate(one.evaluate, one.measure, options.pairs_timed)
    print(f"  all measures over plain evaluation of {2 * (options.images + middles):,} forwards: {ratio}", flush=True)
    shares(one)


if __name__ == "__main__":
    main()
