"""Small networks, and the slow way to ablate them: full forwards with module hooks."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.models.zoo import build

N, TILE = 21, 8
"""Images, and how many a forward takes: the last tile is padded."""

CLASSES = 10


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model in eval mode with batch-norm statistics, scales and offsets unlike those it starts with."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                with torch.no_grad():
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def resnet8(width: int = 8) -> nn.Module:
    return randomised(build(ModelConfig(name="resnet8", width=width), classes=CLASSES, channels=1, size=8, seed=0))


def images(n: int, channels: int, size: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, channels, size, size, generator=generator)
    return inputs, torch.randint(0, CLASSES, (n,), generator=generator)


def tiles(inputs: Tensor, labels: Tensor, size: int) -> list[Tile]:
    """As the loader makes them: the last one filled up with its first image."""
    found = []
    for start in range(0, len(inputs), size):
        valid = min(size, len(inputs) - start)
        indices = np.r_[np.arange(start, start + valid), np.full(size - valid, start)]
        found.append(Tile(inputs[indices], labels[indices], valid, indices))
    return found


def hooked_maps(model: nn.Module, inputs: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Whole maps of some modules, by forward hooks on the model itself, and its logits."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in layers:
            handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out, n=name: found.update({n: out}))
            stack.callback(handle.remove)
        logits = model(inputs)
    return found, logits


def hooked_forward(model: nn.Module, inputs: Tensor, replaced: Mapping[str, tuple[list[int], Tensor]]) -> Tensor:
    """Logits of a full forward in which some channels of some modules' outputs are replaced.

    Args:
      model: whose residual blocks end in the ReLU that is ablated.
      inputs: images.
      replaced: by module name, the channels and the value of each.
    """

    def hook(channels: list[int], values: Tensor):
        def replace(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            changed = output.clone()
            for channel, value in zip(channels, values.tolist(), strict=True):
                changed[:, channel] = value
            return changed

        return replace

    with ExitStack() as stack, torch.no_grad():
        for name, what in replaced.items():
            handle = model.get_submodule(name).register_forward_hook(hook(*what))
            stack.callback(handle.remove)
        return model(inputs)
