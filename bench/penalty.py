"""What a training step with the penalty costs beside one without, and beside the released procedure.

    python bench/penalty.py [--pairs 15] [--only resnet18|resnet50] [--dtype float32|bfloat16]

A step: forward, loss, backward, SGD with momentum. The released procedure is re-implemented from its description:
every penalised layer's maps averaged over positions, summed by class one class of the batch after the other, the index
of each layer's neurons averaged, then over layers. Set the environment of bench/selectivity.py before Python starts.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import vestige

sys.path.insert(0, str(Path(__file__).parent))
from pairing import alternate, setting
from selectivity import resnet18

MODELS = {
    "resnet18": (resnet18, 32, 10, 128, 2),
    "resnet50": (torchvision.models.resnet50, 64, 1000, 64, 1),
}
"""Model, pixels, classes, images a batch, steps a timing: few, since a shared machine's speed drifts in seconds."""
ALPHA = -20.0


class Released:
    """The released procedure, as it is described."""

    def __init__(self, model: nn.Module):
        self.maps: list[Tensor] = []
        for stage in (model.layer1, model.layer2, model.layer3):
            for block in stage:
                block.register_forward_hook(lambda _module, _inputs, output: self.maps.append(output))

    def __call__(self, labels: Tensor, classes: int) -> Tensor:
        indices = []
        for maps in self.maps:
            pooled_NU = maps.float().mean((2, 3))
            sums_CU = torch.zeros(classes, pooled_NU.shape[1], device=maps.device)
            for c in labels.unique():
                sums_CU[c] = pooled_NU[labels == c].sum(0)
            highest_U = sums_CU.amax(0)
            rest_U = (sums_CU.sum(0) - highest_U) / (classes - 1)
            indices.append(((highest_U - rest_U) / (highest_U + rest_U + 1e-6)).mean())
        self.maps = []
        return -ALPHA * torch.stack(indices).mean()


class Steps:
    """A network in training on one batch, and its steps with some penalty."""

    def __init__(self, name: str, kind: str, dtype: str):
        make, pixels, self.classes, batch, self.count = MODELS[name]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.model = make().to(device, memory_format=torch.channels_last).train()
        self.inputs = torch.randn(batch, 3, pixels, pixels, device=device).to(memory_format=torch.channels_last)
        self.labels = torch.randint(self.classes, (batch,), device=device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, foreach=True)
        self.low = torch.bfloat16 if dtype == "bfloat16" else None
        self.penalty: Callable[[], Tensor] | None = None
        self.context = nullcontext()
        if kind == "released":
            released = Released(self.model)
            self.penalty = lambda: released(self.labels, self.classes)
        elif kind != "none":
            self.context = own = vestige.SelectivityPenalty(self.model, ALPHA, estimator=kind)
            self.penalty = lambda: own(self.labels)

    def __call__(self) -> None:
        for _ in range(self.count):
            with torch.autocast(self.inputs.device.type, dtype=self.low, enabled=self.low is not None):
                with self.context:
                    logits = self.model(self.inputs)
                loss = cross_entropy(logits, self.labels)
            if self.penalty is not None:
                loss = loss + self.penalty()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="alternations")
    parser.add_argument("--only", choices=list(MODELS), help="one model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    print(setting())
    for name in [arguments.only] if arguments.only else MODELS:
        _, pixels, _, batch, count = MODELS[name]
        print(f"\n{name} at {pixels} px, batch {batch}, {arguments.dtype}; a timing: {count} steps")
        without = Steps(name, "none", arguments.dtype)
        print(f"{'without / itself':32} {alternate(without, Steps(name, 'none', arguments.dtype), arguments.pairs)}")
        for kind in ("mean", "running", "sum", "released"):
            ratio = alternate(without, Steps(name, kind, arguments.dtype), arguments.pairs)
            print(f"{f'with the penalty ({kind}) / without':32} {ratio}", flush=True)


if __name__ == "__main__":
    main()
