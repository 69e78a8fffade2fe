"""What each ingredient of exact single-neuron ablation brings: replays with them put in one after the other.

    python bench/ingredients.py [--only resnet18|resnet50] [--rounds 3] [--bfloat16]

Timed as in `bench/ablation.py`: some neurons of every layer in turns with the hook loop, scaled up to all. The product
has no switches for these: each rung takes the later ingredients out of the engine for as long as it is timed.

Set before Python starts: see `bench/ablation.py`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from ablation import MODELS, Engine, Subject, randomised
from pairing import setting
from vestige.measurement.network import Dtype, Network
from vestige.models import convolving, map_layouts, spreading

NO_SHORTCUTS = {(spreading, "_kind"): lambda *_: "whole"}
NO_FOLDING = {(spreading, "_norm_behind"): lambda *_: None}
NO_WINOGRAD = {(convolving.Convolver, "_suits"): lambda *_: False}
CHANNELS_FIRST = NO_WINOGRAD | {(map_layouts, "FEW_POSITIONS"): 1 << 60}


def only_linear(module: nn.Module | None, channel: spreading.Channel, ndim: int) -> bool:
    """As `spreading._updates`, without convolutions."""
    return type(module) is nn.Linear and channel.axis == ndim - 1


NO_RANK_1 = {(spreading, "_updates"): only_linear}
FIRST = NO_FOLDING | CHANNELS_FIRST

RUNGS: Mapping[str, dict[tuple[Any, str], Any]] = {
    "replay from the layer on": NO_SHORTCUTS | FIRST,
    "+ one channel while it stays one, last layer in closed form": NO_RANK_1 | FIRST,
    "+ batch norms folded": NO_RANK_1 | CHANNELS_FIRST,
    "+ large maps channels-last": NO_RANK_1 | NO_WINOGRAD,
    "+ rank-1 updates of convolutions": NO_WINOGRAD,
    "+ Winograd's convolutions of small maps (the engine)": {},
}


@contextmanager
def taken_out(ingredients: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for (module, name), instead in ingredients.items():
            stack.enter_context(patch.object(module, name, instead))
        yield


def bench(name: str, rounds: int, dtype: Dtype) -> None:
    make, pixels, classes, batch, images = MODELS[name]
    torch.manual_seed(0)
    model = randomised(make())
    inputs, hooked = torch.randn(images, 3, pixels, pixels), torch.randn(batch, 3, pixels, pixels)
    subject = Subject(model, inputs, torch.randint(classes, (images,)), hooked)
    network = Network.prepare(model, inputs[:2], dtype=dtype)
    engines = {rung: Engine(network, subject) for rung in RUNGS}
    layers = network.layers
    print(f"\n{name} at {pixels} px, {dtype}; n = {rounds} rounds of all {len(layers)} layers", flush=True)
    times = {rung: np.zeros((rounds, len(layers))) for rung in ("hook loop", *RUNGS)}
    for place, layer in enumerate(layers):
        module = model.get_submodule(layer.name)
        for turn in range(rounds + 1):  # the first to warm up
            times["hook loop"][max(0, turn - 1), place] = subject.hook_loop(module, turn % layer.units)
            for rung, engine in engines.items():
                with taken_out(RUNGS[rung]):
                    times[rung][max(0, turn - 1), place] = engine.ablation(layer)
        for engine in engines.values():
            engine.let_go()
    units = np.array([layer.units for layer in layers])
    loop = (times["hook loop"] * units).sum(1)
    for rung in RUNGS:
        ratios = loop / (times[rung] * units).sum(1)
        print(f"  {rung}: {np.median(ratios):.2f}x the hook loop, {ratios.min():.2f} to {ratios.max():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    print(setting())
    for name in [options.only] if options.only else MODELS:
        bench(name, options.rounds, "bfloat16" if options.bfloat16 else "float32")


if __name__ == "__main__":
    main()
