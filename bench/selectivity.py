"""What measuring selectivity costs beside a plain evaluation of the same model on the same inputs.

    python bench/selectivity.py [--pairs 60] [--only resnet18|resnet50] [--full-pairs 3]

Set before Python starts, as for training (glibc gives large tensors back at every forward otherwise):
THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
"""

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from memory import peak_memory
from pairing import alternate, setting
from vestige.data.loader import Tile
from vestige.formulas.null import labellings
from vestige.measurement.keeping import Place, keeping
from vestige.measurement.network import Network
from vestige.measurement.per_image import PerImage
from vestige.measurement.selectivity import measure_selectivity, permuted_labels
from vestige.measurement.sharing import Group
from vestige.measurement.sums import columns
from vestige.measurement.sweep import Sweep
from vestige.models.layouts import LARGE, mean_positions

INPUTS, PERMUTATIONS = 10_000, 100
STREAMED, KEPT = Place(0.0), Place(1.0)


def resnet18() -> nn.Module:
    """As is usual at 32 pixels: a 3 x 3 stem, no pooling behind it; 1,920 neurons."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


MODELS = {
    "resnet18": (resnet18, 32, 10, 128, 1),
    "resnet50": (torchvision.models.resnet50, 224, 1000, 32, 1),
}
"""Model, pixels, classes, inputs a batch, batches a timing: few, since a shared machine's speed drifts in seconds."""


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


def bench(name: str, pairs: int, full_pairs: int) -> None:
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
    print(f"\n{name} at {pixels} px, {neurons:,} neurons; a timing: {count} batches of {batch}")

    names = [layer.name for layer in network.layers]
    with keeping(STREAMED) as kept:  # made once, as for any number of batches
        sweep = Sweep(network, dict.fromkeys(names, False), STREAMED, kept, None, Group())
        ratio = alternate(lambda: evaluate(model, batches), lambda: sweep.run(tiles(batches)), pairs)
        print(f"  streamed pass / plain evaluation: {ratio}", flush=True)
        if mean_positions(network.traced, network.traced.operations(batches[0][0][:2])) >= LARGE:
            relaid = copy.deepcopy(model).to(memory_format=torch.channels_last)
            same = alternate(lambda: evaluate(relaid, batches), lambda: sweep.run(tiles(batches)), pairs)
            print(f"  streamed pass / evaluation of the model with its weights channels-last too: {same}", flush=True)
    plain = ratio.a_seconds * INPUTS / (batch * count)
    once = once_seconds(network, batches) - ratio.b_seconds
    print(
        f"  streamed csi, csi_cv, eta2 of {INPUTS:,} inputs: what is done once, not once a batch, takes {once:.2f} s, "
        f"{once / plain:.4f} of the {plain:.0f} s of a plain evaluation (scaled up from the timings): "
        f"{ratio.median + once / plain:.3f}x together "
        f"[{ratio.low + once / plain:.3f}, {ratio.high + once / plain:.3f}]",
        flush=True,
    )
    again = alternate(lambda: evaluate(model, batches), lambda: evaluate(model, batches), pairs)
    print(f"  plain evaluation / itself (what the method cannot tell apart): {again}", flush=True)
    seconds = columns_seconds(network)
    print(
        f"  everything on, {INPUTS:,} inputs, {PERMUTATIONS} permutations: the columns take {seconds:.1f} s once all "
        f"is seen, {seconds / plain:.3f} of a plain evaluation; with zeros counted in every map: ",
        end="",
    )

    with keeping(KEPT) as kept:
        sweep = Sweep(network, dict.fromkeys(names, False), KEPT, kept, None, Group())
        whole = alternate(lambda: evaluate(model, batches), lambda: sweep.run(tiles(batches)), pairs)
    share = seconds / plain
    print(f"{whole.median + share:.3f}x together [{whole.low + share:.3f}, {whole.high + share:.3f}], n = {whole.n}")
    if full_pairs:
        many = batches * (INPUTS // (batch * count) + 1)
        direct = alternate(
            lambda: evaluate(model, many),
            lambda: measure_selectivity(network, tiles(many), permutations=PERMUTATIONS, place=KEPT),
            full_pairs,
            warm_up=0,
        )
        print(f"  the same, {len(many) * batch:,} inputs straight through: {direct}", flush=True)


def once_seconds(network: Network, batches: list[tuple[Tensor, Tensor]]) -> float:
    """A whole streamed measurement of the batches, its median of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        measure_selectivity(network, tiles(batches), permutations=0, place=STREAMED)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[1]


def columns_seconds(network: Network) -> float:
    """What is computed of the pooled activations of all inputs, its median of three; their values are made up."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(INPUTS) % network.classes
    seconds = []
    for _ in range(3):
        with keeping(KEPT) as kept:
            sweep = Sweep(network, {layer.name: False for layer in network.layers}, KEPT, kept, None, Group())
            a_NU = torch.randn(INPUTS, len(sweep.sums.squares_U), generator=generator).relu()
            half_N = sweep.counts.take(labels_N)
            sweep.sums.add(a_NU, a_NU, labels_N, half_N)
            kept.add(a_NU)
            sweep.kept_labels, sweep.kept_halves = labels_N, half_N
            began = time.perf_counter()
            labels_QN = torch.cat([labels_N[None], permuted_labels(labels_N, PERMUTATIONS).long()])
            per_image = PerImage(sweep, labellings(labels_QN, network.classes), "corrected")
            for layer in network.layers:
                found = columns(sweep.sums.of(sweep.neurons[layer.name]), sweep.counts, "corrected")
                per_image.columns(layer, 0, found["csi"], signed=False)
            seconds.append(time.perf_counter() - began)
    return sorted(seconds)[1]


def memory() -> None:
    """Peak memory of a streamed measurement of two numbers of inputs, each in a process of its own."""
    print("\npeak memory, streamed (resnet18 at 32 px, 20 permutations of known labels), a process each:")
    for inputs in (2_000, 20_000):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(inputs)], capture_output=True, text=True, check=True
        )
        print(f"  {inputs:>6,} inputs: {int(done.stdout.split()[-1]) / 2**20:,.0f} MiB", flush=True)


def peak(inputs: int) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    labels = np.arange(inputs) % 10

    def made() -> Iterator[Tile]:
        for start in range(0, inputs, 100):
            places = np.arange(start, start + 100)
            yield Tile(torch.randn(100, 3, 32, 32), torch.from_numpy(labels[places]), 100, places)

    network = Network.prepare(model, torch.randn(2, 3, 32, 32))
    place = Place(min(1.0, 1_000 / inputs))  # the sample has one size, whatever the number of inputs
    measure_selectivity(network, made(), permutations=20, place=place, labels=labels)
    print(peak_memory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--full-pairs", type=int, default=0, help="alternations with all 10,000 inputs: minutes each")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    print(setting())
    for name in [options.only] if options.only else MODELS:
        bench(name, options.pairs, options.full_pairs)
    memory()


if __name__ == "__main__":
    main()
