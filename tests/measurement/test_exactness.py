"""Replayed neurons against full forwards of the model itself with the neuron replaced by a hook."""

import hooked
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.measurement.ablation.neuron_replay import NeuronReplay
from vestige.measurement.ablation.replacing import Constant, Donors
from vestige.measurement.network import Network
from vestige.models.zoo import build

N, SAMPLED = 4, 3  # images, neurons a layer


def builtin(name):
    return build(ModelConfig(name=name, width=8), classes=10, channels=3, size=16, seed=0)


SMALL = {
    "resnet8": (lambda: builtin("resnet8"), 16),
    "resnet20": (lambda: builtin("resnet20"), 16),
    "resnet32": (lambda: builtin("resnet32"), 16),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 32),
}
LARGE = {
    "resnet56": (lambda: builtin("resnet56"), 16),
    "resnet50": (torchvision.models.resnet50, 64),
    "vgg16_bn": (torchvision.models.vgg16_bn, 64),
    "convnext_tiny": (torchvision.models.convnext_tiny, 64),
    "densenet121": (torchvision.models.densenet121, 64),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(image_size=64), 64),
    "timm efficientnet_b0": (lambda: timm.create_model("efficientnet_b0"), 64),
}


def no_zero_heads(model):
    """A head of zeros would make every replay equal; some models start with one."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
    return hooked.randomised(model)


def replacements(maps):
    units = maps.shape[1]
    over = [0, *range(2, maps.ndim)]
    return {
        "zero": Constant(torch.zeros(units), maps.ndim - 2),
        "mean": Constant(maps.mean(over), maps.ndim - 2),
        "resample": Donors(maps.roll(1, 0)),
    }


def full_forward(network, model, layer, inputs, unit, written_N):
    """With a hook on the model; where the layer is no module's output, the graph is edited."""

    def write(value):
        value = value.clone()
        view = value.movedim(layer.axis, 1)
        view[:, unit] = written_N.expand_as(view[:, unit])
        return value

    modules = dict(model.named_modules())
    with torch.no_grad():
        if layer.name not in modules:
            return network.traced.editing([layer.node])(inputs, {layer.node: write})
        handle = modules[layer.name].register_forward_hook(lambda module, taken, made: write(made))
        try:
            return model(inputs)
        finally:
            handle.remove()


def exactness(name, make, size):
    torch.manual_seed(0)
    model = no_zero_heads(make()).eval()
    inputs, labels = torch.randn(N, 3, size, size), torch.arange(N)
    network = Network.prepare(model, inputs[:2])
    decided = undecided = wrong = 0
    for layer in network.layers:
        replay = NeuronReplay(network, layer)
        held = replay.hold(Tile(inputs, labels, N, np.arange(N)))
        units = torch.randperm(layer.units)[:SAMPLED]
        images_R, units_R = torch.arange(N).repeat_interleave(len(units)), units.repeat(N)
        for replacement in replacements(held.maps).values():
            found = torch.cat(list(replay.logits(held.values, images_R, units_R, replacement)))
            for place, unit in enumerate(units.tolist()):
                written_N = replacement.of(torch.arange(N), torch.full((N,), unit))
                expected_NC = full_forward(network, model, layer, inputs, unit, written_N)
                found_NC = found.view(N, len(units), -1)[:, place]
                off = (found_NC - expected_NC).abs().max()
                assert off <= 1e-4 * expected_NC.abs().max(), (name, layer.name, unit)
                first, second = expected_NC.topk(2).values.T
                wide, same = first - second > 2 * off, found_NC.argmax(1) == expected_NC.argmax(1)
                wrong += int((wide & ~same).sum())
                decided, undecided = decided + int(wide.sum()), undecided + int((~wide).sum())
    assert wrong == 0
    assert undecided < 0.001 * (decided + undecided)
    return decided


@pytest.mark.parametrize("name", SMALL)
def test_sampled_neurons_of_every_layer(name):
    assert exactness(name, *SMALL[name]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_sampled_neurons_of_every_layer_of_large_models(name):
    assert exactness(name, *LARGE[name]) > 100
