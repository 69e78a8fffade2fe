"""What channels-last weights bring to a forward on a CPU, and how large the maps of each network are.

    python bench/layouts.py [--rounds 7]

`vestige.models.layouts.LARGE` is chosen by it. Set the environment of bench/selectivity.py before Python starts.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision import models

sys.path.insert(0, str(Path(__file__).parent))
from pairing import setting
from selectivity import resnet18
from vestige.models.graph import Graph
from vestige.models.layouts import LARGE, mean_positions

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vgg16_bn": (models.vgg16_bn, 224, 8),
    "densenet121": (models.densenet121, 224, 8),
    "resnet18": (models.resnet18, 224, 16),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 224, 16),
    "convnext_tiny": (models.convnext_tiny, 224, 8),
    "regnet_y_400mf": (models.regnet_y_400mf, 224, 16),
    "efficientnet_b0": (models.efficientnet_b0, 224, 16),
    "resnet50 at 128 px": (models.resnet50, 128, 16),
    "resnet18 at 64 px": (models.resnet18, 64, 64),
    "resnet50 at 64 px": (models.resnet50, 64, 32),
    "resnet18 at 32 px": (resnet18, 32, 128),
}
"""Made by, pixels, images a batch."""


@torch.no_grad()
def bench(name: str, rounds: int) -> None:
    make, pixels, images = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = make().eval(), torch.randn(images, 3, pixels, pixels)
    relaid = copy.deepcopy(model).to(memory_format=torch.channels_last)
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for taken, network in zip(seconds, (model, relaid), strict=True):
            began = time.perf_counter()
            network(inputs)
            taken.append(time.perf_counter() - began)
    usual, last = (min(taken[1:]) for taken in seconds)
    graph = Graph.trace(model)
    positions = mean_positions(graph, graph.operations(inputs[:2]))
    print(f"  {name}: {positions:.0f} positions (bound {LARGE}), channels-last takes {last / usual:.2f} of the time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(setting())
    for name in NETWORKS:
        bench(name, options.rounds)


if __name__ == "__main__":
    main()
