"""How much faster single neurons are ablated than by the hook loop: one full forward for each neuron.

    python bench/ablation.py [--only resnet18|resnet50] [--rounds 5] [--weights FILE --data parquet:FILE]

Time is taken of some neurons of every layer on some images, in turns with the hook loop, and scaled up to all neurons:
an ablation of any neuron of a layer costs the same. With weights of a trained network (safetensors, of the ResNet-18
below) and its data, screening is compared with exact ablation and controlled ablation is run whole.

Set before Python starts: THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from pairing import setting
from selectivity import resnet18
from vestige import ablate
from vestige.config import DataConfig
from vestige.data.datasets import open_images
from vestige.data.loader import Tile, tiles
from vestige.data.subsets import balanced_indices
from vestige.measurement.ablation.neuron_replay import Held, NeuronReplay
from vestige.measurement.ablation.quickening import multiplies_bfloat16
from vestige.measurement.ablation.replacing import Constant
from vestige.measurement.ablation.screening import Screen
from vestige.measurement.network import Dtype, Network
from vestige.models.layers import Layer
from vestige.models.spreading import spread

MODELS = {"resnet18": (resnet18, 32, 10, 128, 64), "resnet50": (torchvision.models.resnet50, 224, 1000, 32, 8)}
"""Model, pixels, classes, images a forward of the hook loop, images that replays are timed on."""
NEURONS = {64: 16, 8: 8}
"""Of each layer, in a timing, by the number of images."""


def randomised(model: nn.Module) -> nn.Module:
    """Batch norms that do something, as in a trained network; folding them changes nothing else."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@dataclass
class Subject:
    """A model, and what is timed on it."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    hooked: Tensor

    @torch.no_grad()
    def hook_loop(self, layer: nn.Module, neuron: int) -> float:
        """Seconds an image of a full forward with one channel of a layer set to 0."""

        def zero(_module: nn.Module, _taken: object, made: Tensor) -> Tensor:
            made = made.clone()
            made[:, neuron] = 0
            return made

        handle = layer.register_forward_hook(zero)
        try:
            return seconds(lambda: self.model(self.hooked)) / len(self.hooked)
        finally:
            handle.remove()

    @torch.no_grad()
    def captum(self, layer: nn.Module, channels: int, neuron: int) -> float:
        """Seconds an image and ablated neuron of captum's LayerFeatureAblation, its intact forward not counted."""
        from captum.attr import LayerFeatureAblation

        mask = torch.zeros(1, channels, 1, 1, dtype=torch.int64)
        mask[:, neuron] = 1  # two features: the neuron, and all the others at once
        ablation = LayerFeatureAblation(self.model, layer)
        whole = seconds(lambda: ablation.attribute(self.hooked, target=0, layer_mask=mask))
        return whole / 3 / len(self.hooked)


@dataclass
class Engine:
    """Replays of one kind."""

    network: Network
    subject: Subject

    def __post_init__(self):
        n = len(self.subject.inputs)
        self.tile = Tile(self.subject.inputs, self.subject.labels, n, np.arange(n))
        self.replays = {layer.name: NeuronReplay(self.network, layer) for layer in self.network.layers}
        self._held: tuple[str, Held] | None = None

    def hold(self, layer: Layer) -> tuple[Held, float]:
        """What is held of the images, and how long that takes an image."""
        if self._held is None or self._held[0] != layer.name:
            self._held = None
            self.replays[layer.name].hold(self.tile)  # once for the checks, and to warm up
            made: list[Held] = []
            self._seconds = seconds(lambda: made.append(self.replays[layer.name].hold(self.tile)))
            self._held = (layer.name, made[0])
        return self._held[1], self._seconds / len(self.subject.inputs)

    def let_go(self) -> None:
        """Free what is held."""
        self._held = None

    def ablation(self, layer: Layer) -> float:
        """Seconds an image and neuron of a layer, its share of holding the image included."""
        held, holding = self.hold(layer)
        images = len(self.subject.inputs)
        neurons = min(NEURONS[images], layer.units)
        chosen = torch.linspace(0, layer.units - 1, neurons).long()
        replay = self.replays[layer.name]
        least = -(-replay.rows // (images * neurons))  # a whole forward of the fixed size
        images_R = torch.arange(images).repeat_interleave(neurons * least).to(held.maps.device)
        units_R = chosen.repeat(images * least).to(held.maps.device)
        zero = Constant(torch.zeros(layer.units).to(held.maps), held.maps.ndim - 2)
        took = seconds(lambda: replay.outcomes(held, images_R, units_R, zero))
        return took / len(images_R) + holding / layer.units


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def bench(name: str, rounds: int, dtypes: Sequence[Dtype]) -> None:
    make, pixels, classes, batch, images = MODELS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = randomised(make()).to(device)
    subject = Subject(
        model,
        torch.randn(images, 3, pixels, pixels, device=device),
        torch.randint(classes, (images,)),
        torch.randn(batch, 3, pixels, pixels, device=device),
    )
    computed = {kind: "float32" if kind == "bfloat16" and not multiplies_bfloat16(device) else kind for kind in dtypes}
    networks = {kind: Network.prepare(model, subject.inputs[:2], dtype=dtype) for kind, dtype in computed.items()}
    engines = {
        f"exact {kind}" + (f" (computed in {dtype}: no units for it)" if dtype != kind else ""): Engine(
            networks[kind], subject
        )
        for kind, dtype in computed.items()
    }
    first = next(iter(networks.values()))
    layers = first.layers
    neurons = sum(layer.units for layer in layers)
    print(f"\n{name} at {pixels} px, {neurons:,} neurons in {len(layers)} layers; n = {rounds} rounds of all layers")
    times: dict[str, np.ndarray] = {kind: np.zeros((rounds, len(layers))) for kind in [*engines, "hook loop", "captum"]}
    for place, layer in enumerate(layers):
        module = model.get_submodule(layer.name)
        for turn in range(rounds + 1):  # the first to warm up
            found = {"hook loop": subject.hook_loop(module, turn % layer.units)}
            found |= {kind: engine.ablation(layer) for kind, engine in engines.items()}
            if turn < 2 and find_spec("captum"):
                found["captum"] = subject.captum(module, layer.units, 0)
            for kind, took in found.items():
                times[kind][max(0, turn - 1) :, place] = took
        shown = ", ".join(f"{k} {np.median(t[:, place]) * 1e3:.3f} ms" for k, t in times.items())
        print(f"  {layer.name}: an image and neuron: {shown}", flush=True)
    units = np.array([layer.units for layer in layers])
    loop = (times["hook loop"] * units).sum(1)
    for kind, took in times.items():
        if not took.any():
            print(f"  {kind}: not installed (pip install --no-deps captum)")
            continue
        ratios = loop / (took * units).sum(1)
        print(
            f"  {kind}: {np.median(ratios):.2f}x the speed of the hook loop, {ratios.min():.2f} to {ratios.max():.2f}"
        )
    print(f"  bound of multiply-adds for exact: {bound(first, subject.inputs[:1]):.2f}x", flush=True)


def bound(network: Network, inputs: Tensor) -> float:
    """Full forwards over what replays compute of convolutions and linear layers, in multiply-adds."""
    graph = network.traced
    operations = graph.operations(inputs)
    cost = {}
    for node in graph.module.graph.nodes:
        if node.op == "call_module" and isinstance(module := graph.submodule(node), nn.Conv2d | nn.Linear):
            cost[node.name] = module.weight[0].numel() * int(np.prod(operations[node.name].shape[1:]))
    full = sum(cost.values())
    spent = 0.0
    for layer in network.layers:
        kinds = spread(graph, layer.node, layer.axis, operations).kinds
        for node, kind in kinds.items():
            if node.name in cost and kind in ("whole", "update"):
                spent += layer.units * cost[node.name] / (layer.units if kind == "update" else 1)
    return full * sum(layer.units for layer in network.layers) / spent


def trained(weights: Path, data: str, images: int, precisions: Sequence[float]) -> None:
    """Screening and controlled ablation of a trained ResNet-18, on real images."""
    make, pixels, _, batch, _ = MODELS["resnet18"]
    model = make()
    model.load_state_dict(load_file(weights))
    model.eval()
    config = DataConfig(test=data, size=pixels, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    opened = open_images(data, "test", config)
    chosen = balanced_indices(opened.labels, images)
    (first,) = tiles(opened, chosen[:batch], config, batch)
    inputs = torch.cat([tile.inputs[: tile.valid] for tile in tiles(opened, chosen, config, 256)])
    labels = torch.from_numpy(opened.labels[chosen])
    network = Network.prepare(model, first.inputs[:2])
    neurons = sum(layer.units for layer in network.layers)
    subject = Subject(model, first.inputs, first.labels, first.inputs)
    layer = model.get_submodule(network.layers[0].name)
    loop = [subject.hook_loop(layer, neuron) for neuron in range(3)]
    with torch.no_grad():
        top1 = float((torch.cat([model(part) for part in inputs.split(256)]).argmax(1) == labels).float().mean())
    print(f"\nresnet18, trained ({top1:.1%} of {len(labels):,} images right)")

    screen = Screen(network)
    zeros = {one.name: one for one in network.layers}

    def estimate() -> None:
        run = screen.run(first)
        screen.estimates(
            run, [(one, Constant(torch.zeros(one.units), run.maps[one.name].ndim - 2)) for one in zeros.values()]
        )

    estimate()
    took = []
    for neuron in range(5):
        loop.append(subject.hook_loop(layer, neuron))
        took.append(seconds(estimate) / len(first.labels))
    print(
        f"  screening {neurons:,} neurons takes {np.median(took) * 1e3:.1f} ms an image: "
        f"{neurons * np.median(loop) / np.median(took):.0f}x the speed of the hook loop (n = {len(took)})",
        flush=True,
    )
    screened = ablate(model, (inputs, labels), mode="screen", batch_norm="stored")
    print(f"  its rank correlation with exact ablation: {screened.settings['screening_spearman']}", flush=True)
    for precision in precisions:
        loop = [subject.hook_loop(layer, neuron) for neuron in range(5)]  # now: the machine's speed drifts
        began = time.perf_counter()
        found = ablate(model, (inputs, labels), mode="controlled", precision=precision, batch_norm="stored")
        whole = time.perf_counter() - began
        loop += [subject.hook_loop(layer, neuron) for neuron in range(5)]
        se, off = found.table["loss_delta_se"].to_numpy(), found.table["approximation_se"].to_numpy()
        ratio = se / np.sqrt(np.maximum(se**2 - off**2, 1e-30))
        ratio = ratio[off > 0]
        print(
            f"  controlled, precision {precision}: {whole:.0f} s for {len(labels):,} images, "
            f"{neurons * len(labels) * np.median(loop) / whole:.1f}x the speed of the hook loop "
            f"({np.median(loop) * 1e3:.2f} ms a forward, n = {len(loop)}); its standard error over that of all images: "
            f"median {np.median(ratio):.3f}, 95% of neurons below {np.quantile(ratio, 0.95):.3f}; "
            f"run on all images: {(off == 0).mean():.1%} of neurons",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=("float32", "bfloat16"))
    parser.add_argument("--weights", type=Path, help="of a trained ResNet-18: screening and controlled alone are timed")
    parser.add_argument("--data", help="images in the classes it was trained for, parquet:FILE")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--precisions", type=float, nargs="*", default=(1.1, 1.5, 2.0))
    options = parser.parse_args()
    print(setting())
    if options.weights:
        trained(options.weights, options.data, options.images, options.precisions)
        return
    for name in [options.only] if options.only else MODELS:
        bench(name, options.rounds, options.dtypes)


if __name__ == "__main__":
    main()
