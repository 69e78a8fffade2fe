"""`vestige.layers`: what would be measured is listed for a model alone, and the model is as it was."""

import copy

import pytest
import timm
import torch
from torch import nn

from vestige.errors import ModelError
from vestige.models.listing import layers
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


def test_a_resnet_is_listed_without_inputs():
    model = ResNet(8, width=4).train()
    before = copy.deepcopy(model.state_dict())
    listed = layers(model)
    assert [(layer.name, layer.units) for layer in listed] == [(f"layer{i}.0", 2 * 2**i) for i in (1, 2, 3)]
    assert str(listed).endswith("3 layers, 28 neurons")
    assert listed.note == ""
    assert model.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Fixed(nn.Module):
    """Takes grey images of 28 by 28 only."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(1, 4, 3), nn.GELU(), nn.Linear(4 * 26 * 26, 2)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).flatten(1))


class Branching(Fixed):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


def test_channels_and_size_are_guessed_from_the_first_convolution():
    assert [(layer.name, layer.units, layer.axis) for layer in layers(Fixed())] == [("act", 4, 1)]
    listed = layers(Branching())
    assert [layer.name for layer in listed] == ["act"]
    assert listed.note.startswith("Observed as it runs: it cannot be traced (TraceError")
    assert str(listed).endswith(listed.note)


def test_what_timm_says_of_the_inputs_is_taken():
    model = timm.create_model("test_vit", in_chans=3)
    channels, height, _ = model.pretrained_cfg["input_size"]
    seen = []
    model.patch_embed.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape[1:])))
    listed = layers(model)
    assert set(seen) == {(channels, height, height)}
    assert {layer.why for layer in listed} == {"GELU"}


def test_vectors_and_given_inputs():
    mlp = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))
    assert [(layer.name, layer.units) for layer in layers(mlp)] == [("1", 5)]
    tokens = layers(mlp, torch.randn(2, 3, 7))
    assert [(layer.axis, layer.units) for layer in tokens] == [(2, 5)]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Linear(3 * 5 * 9, 2)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).flatten(1))


def test_where_no_guess_fits_inputs_are_asked_for():
    with pytest.raises(ModelError, match=r"what a Odd takes: .*Give some of its inputs: layers\(model, inputs"):
        layers(Odd())
    assert len(layers(Odd(), torch.zeros(1, 2, 5, 9))) == 1
    with pytest.raises(ModelError, match=r"a Odd: it cannot take inputs of shape \(1, 2, 5, 8\)"):
        layers(Odd(), torch.zeros(1, 2, 5, 8))
