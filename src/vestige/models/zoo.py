"""Building networks: CIFAR-style ResNets, those of torchvision and timm, and the user's own.

References:
  He, Zhang, Ren, Sun 2016, Deep residual learning for image recognition, section 4.2.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from vestige.config import ModelConfig
from vestige.errors import ModelError, nearest
from vestige.models.userfile import load_object, make_model

DEPTHS = (8, 20, 32, 44, 56)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """A residual network for small images, its modules named as torchvision's.

    A 3x3 convolution, then three stages of (depth - 2) / 6 blocks with width, 2 width and 4 width channels,
    the last two at half the resolution of the one before, a mean over positions, and a linear layer.
    Shortcuts that change shape are projections (1x1 convolution and batch norm), where the paper pads with
    zeros: ResNet-20 has 272,474 parameters for 269,722.

    Args:
      depth: 8, 20, 32, 44 or 56.
      classes: width of the logits.
      channels: of the inputs, (N, channels, size, size) with 8 to 64 pixels a side.
      width: channels of the first stage.

    References:
      He, Zhang, Ren, Sun 2016, Deep residual learning for image recognition, section 4.2.
    """

    def __init__(self, depth: int, *, classes: int = 10, channels: int = 3, width: int = 16):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) to logits (N, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def build(config: ModelConfig, *, classes: int, channels: int, size: int, seed: int) -> nn.Module:
    """Build a network with fresh weights.

    Args:
      config: which one.
      classes: width of its logits.
      channels: of its inputs.
      size: side of its inputs in pixels.
      seed: of its weights; the global random states are left as they are.

    Returns:
      the network, float32, in train mode, on the CPU.

    Raises:
      ModelError: there is no such network, or it cannot be built so.
    """
    with _seeded(seed):
        return _make(config, classes, channels, size).float().train()


def check_classes(model: nn.Module, sample: Tensor, classes: int) -> None:
    """Make sure that a network gives one row of logits an input, one logit a class.

    Args:
      model: left as it is.
      sample: a few inputs, (N, channels, height, width), on its device.
      classes: that the data have.

    Raises:
      ModelError: it does not, or its forward fails.
    """
    doing = f"trying the {type(model).__name__} on inputs of shape {tuple(sample.shape)}"
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            output = model.eval()(sample)
    except Exception as error:
        raise ModelError(
            doing,
            found=f"its forward raises {type(error).__name__}: {error}",
            remedy="Check data.channels and data.size against what the model was made for",
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(output, Tensor) or output.shape != (len(sample), classes):
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(
            doing,
            found=f"it gives {found}, not logits of shape {(len(sample), classes)}",
            remedy=f"Give a classifier with one logit for each of the {classes} classes",
        )


def _make(config: ModelConfig, classes: int, channels: int, size: int) -> nn.Module:
    kind, _, name = config.name.partition(":")
    path, _, object_name = config.name.rpartition(":")
    if path.endswith(".py"):
        settings = {"classes": classes, "channels": channels, "size": size}
        return make_model(load_object(path, object_name), config.name, settings, config.kwargs)
    if config.name.endswith(".py"):
        raise ModelError(
            f"building the model {config.name!r}",
            found="it names a file, but nothing in it",
            remedy=f"Name the class or function too: {config.name}:NAME",
        )
    if kind == "torchvision" and name:
        return _torchvision(name, config, classes, channels)
    if kind == "timm" and name:
        return _timm(name, config, classes, channels)
    if config.name not in (own := {f"resnet{depth}": depth for depth in DEPTHS}):
        raise _unknown(config.name, own)
    if not 8 <= size <= 64:
        raise ModelError(
            f"building the model {config.name!r}",
            found=f"inputs of {size} pixels a side; it is made for 8 to 64",
            remedy="Set data.size to between 8 and 64, or take a larger model such as 'torchvision:resnet18'",
        )
    return ResNet(own[config.name], classes=classes, channels=channels, width=config.width)


def _torchvision(name: str, config: ModelConfig, classes: int, channels: int) -> nn.Module:
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        raise _unknown(config.name, [f"torchvision:{other}" for other in known])
    if channels != 3:
        raise ModelError(
            f"building the model {config.name!r}",
            found=f"inputs of {channels} channel; torchvision's models take 3",
            remedy="Set data.channels to 3 (grey images are repeated), or take the model from timm",
        )
    return _called(zoo.get_model, config, name, weights=None, num_classes=classes)


def _timm(name: str, config: ModelConfig, classes: int, channels: int) -> nn.Module:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise _unknown(config.name, [f"timm:{other}" for other in timm.list_models()])
    return _called(timm.create_model, config, name, num_classes=classes, in_chans=channels)


def _called(make, config: ModelConfig, name: str, **settings) -> nn.Module:
    try:
        return make(name, **{**settings, **config.kwargs})
    except Exception as error:
        raise ModelError(
            f"building the model {config.name!r}",
            found=f"{type(error).__name__}: {error}",
            remedy="Check model.kwargs" if config.kwargs else "Choose another model",
        ) from error


def _unknown(name: str, known) -> ModelError:
    """The error for an unknown name; a name that lacks its prefix is recognised."""
    remedy = nearest(name, known)
    if ":" not in name:
        import torchvision.models as zoo

        if name in zoo.list_models(module=zoo):
            remedy = f"Did you mean 'torchvision:{name}'?"
    return ModelError("building the model", found=f"unknown model {name!r}", remedy=remedy)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers from a seed, of Python, NumPy and torch on the CPU; their states are put back."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
