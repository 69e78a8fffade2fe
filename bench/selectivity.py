"""What measuring selectivity costs beside a plain evaluation of the same model on the same inputs.

    python bench/selectivity.py [--pairs 15] [--only resnet18|resnet50]

Set before Python starts, as for training (glibc gives large tensors back at every forward otherwise):
THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from pairing import alternate, setting
from vestige.data.loader import Tile
from vestige.measurement.keeping import Place
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity

INPUTS, PERMUTATIONS = 10_000, 100
STREAMED, KEPT = Place(0.0, None), Place(1.0, None)


def resnet18() -> nn.Module:
    """As is usual at 32 pixels: a 3 x 3 stem, no pooling behind it; 1,920 neurons."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


MODELS = {
    "resnet18": (resnet18, 32, 10, 128, 8),
    "resnet50": (torchvision.models.resnet50, 224, 1000, 32, 2),
}
"""Model, pixels, classes, inputs a batch, batches a timing."""


def evaluate(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """What everybody's evaluation loop does."""
    right = 0
    with torch.no_grad():
        for inputs, labels in batches:
            right += int((model(inputs).argmax(1) == labels).sum())
    return right / sum(len(labels) for _, labels in batches)


def tiles(batches: list[tuple[Tensor, Tensor]]) -> Iterator[Tile]:
    for inputs, labels in batches:
        yield Tile(inputs, labels.cpu(), len(labels), labels.cpu().numpy())


def bench(name: str, pairs: int) -> None:
    make, pixels, classes, batch, count = MODELS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = make().eval().to(device)
    batches = [
        (torch.randn(batch, 3, pixels, pixels, device=device), torch.randint(classes, (batch,), device=device))
        for _ in range(count)
    ]
    network = Network.prepare(model, batches[0][0][:2])
    neurons = sum(layer.units for layer in network.layers)
    print(f"\n{name} at {pixels} px, {neurons:,} neurons, {count} batches of {batch} a timing")

    def streamed() -> None:
        measure_selectivity(network, tiles(batches), permutations=0, place=STREAMED)

    ratio = alternate(lambda: evaluate(model, batches), streamed, pairs)
    print(f"  streamed (csi, csi_cv, eta2, closed ...) / plain evaluation: {ratio}", flush=True)
    again = alternate(lambda: evaluate(model, batches), lambda: evaluate(model, batches), pairs)
    print(f"  plain evaluation / itself (what the method cannot tell apart): {again}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", choices=MODELS)
    options = parser.parse_args()
    print(setting())
    for name in [options.only] if options.only else MODELS:
        bench(name, options.pairs)


if __name__ == "__main__":
    main()
