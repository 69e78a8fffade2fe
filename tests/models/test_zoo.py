"""Networks are what their papers say, repeatable from a seed, and mistakes in naming one are explained."""

import random

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from vestige.config import ModelConfig
from vestige.errors import ModelError
from vestige.models.zoo import ResNet, build, check_classes

torch.set_num_threads(1)

PROJECTIONS = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def make(name, *, classes=10, channels=3, size=32, seed=0, **settings):
    return build(ModelConfig(name=name, **settings), classes=classes, channels=channels, size=size, seed=seed)


@pytest.mark.parametrize(("depth", "published"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_parameter_counts_are_the_published_ones_plus_projections(depth, published):
    """He et al. 2016, table 6: 0.27M, 0.46M, 0.66M, 0.85M, with shortcuts padded by zeros."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ResNet(depth).parameters())
    assert count == published + PROJECTIONS


def test_names_are_torchvisions():
    assert set(ResNet(8).state_dict()) < set(torchvision.models.resnet18().state_dict())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 28, 64])
def test_sizes_and_channels(size, channels):
    model = make("resnet8", size=size, channels=channels, classes=7, width=4)
    assert model.training
    check_classes(model, torch.randn(2, channels, size, size), 7)


def test_seeds_and_global_random_states():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    a, b, c = make("resnet8", seed=3), make("resnet8", seed=3), make("resnet8", seed=4)
    assert all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not a.conv1.weight.equal(c.conv1.weight)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.get_rng_state().equal(states[2])


def test_initial_weights_have_kaimings_spread():
    weight = make("resnet8", width=64).layer1[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "channels", "kwargs"),
    [
        ("torchvision:resnet18", 3, {"zero_init_residual": True}),
        ("timm:resnet18", 1, {}),
        ("timm:resnet10t", 3, {"drop_rate": 0.1}),
    ],
)
def test_models_of_torchvision_and_timm(name, channels, kwargs):
    model = make(name, classes=5, channels=channels, kwargs=kwargs)
    check_classes(model, torch.randn(2, channels, 32, 32), 5)
    if "zero_init_residual" in kwargs:
        assert not model.layer1[0].bn2.weight.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet565", "building the model: unknown model 'resnet565'. Did you mean 'resnet56' or"),
        ("resnet50", "unknown model 'resnet50'. Did you mean 'torchvision:resnet50'?"),
        ("torchvision:resnet51", "unknown model 'torchvision:resnet51'. Did you mean 'torchvision:resnet50'"),
        ("timm:resnet26z", "unknown model 'timm:resnet26z'. Did you mean 'timm:resnet26"),
        ("xyz", "unknown model 'xyz'. Choose one of 'resnet8', 'resnet20'"),
        ("net.py", "it names a file, but nothing in it. Name the class or function too: net.py:NAME"),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(ModelError) as error:
        make(name)
    assert message in str(error.value)


def test_settings_that_a_model_cannot_have():
    with pytest.raises(ModelError, match="inputs of 224 pixels a side; it is made for 8 to 64"):
        make("resnet20", size=224)
    with pytest.raises(ModelError, match="inputs of 1 channel; torchvision's models take 3"):
        make("torchvision:resnet18", channels=1)
    with pytest.raises(ModelError, match=r"TypeError: .*'widht'.*Check model.kwargs"):
        make("torchvision:resnet18", kwargs={"widht": 3})


OWN = """
import torch
from torch import nn
import beside

class Net(nn.Module):
    def __init__(self, classes, hidden=4, *, size):
        super().__init__()
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, hidden))
        self.relu = nn.ReLU()
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc(self.relu(self.flat(x)))

def anything(**kwargs):
    assert sorted(kwargs) == ["channels", "classes", "depth", "size"], kwargs
    return Net(kwargs["classes"], size=kwargs["size"])

def fixed():
    return Net(10, size=8).double().eval()

class Space:
    net = Net(10, size=8)

def lazy(classes):
    raise RuntimeError("no luck")

def needs(depth):
    return None

number = 5
def nothing(): return None
def wrong(): return Net(3, size=8)
def conv(): return nn.Conv2d(3, 10, 1)
def crash(): return nn.Linear(7, 10)
def leave(): raise SystemExit(3)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "beside.py").write_text("value = 1\n")
    (tmp_path / "net.py").write_text(OWN)
    return f"{tmp_path}/net.py"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("Net", {"hidden": 6}), ("anything", {"depth": 1}), ("fixed", {}), ("Space.net", {})],
)
def test_the_users_own_models(own, name, kwargs):
    model = make(f"{own}:{name}", size=8, kwargs=kwargs)
    assert isinstance(model, nn.Module)
    assert model.training
    assert model.fc.weight.dtype == torch.float32
    check_classes(model, torch.randn(2, 3, 8, 8), 10)
    again = make(f"{own}:{name}", size=8, kwargs=kwargs)
    assert again.fc.weight.equal(model.fc.weight)
    if name == "Net":
        assert model.fc.in_features == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nte", "there is no 'Nte' in {own}. Did you mean 'Net'?"),
        ("", "there is no '' in {own}"),
        ("Space.nett", "there is no 'Space.nett' in {own}. Did you mean 'net'?"),
        ("lazy", "calling it with (classes=10) raises RuntimeError in line 27: no luck"),
        (
            "needs",
            "missing 1 required positional argument: 'depth'. Mend it, or give what it needs",
        ),
        ("number", "it is a int. Name a torch.nn.Module, its class, or a function that returns one"),
        ("nothing", "calling it gives a NoneType. Return a torch.nn.Module from it"),
        ("leave", "raises SystemExit in line 37: 3"),
    ],
)
def test_mistakes_in_the_users_own_models(own, name, message):
    with pytest.raises(ModelError) as error:
        make(f"{own}:{name}", size=8)
    assert message.format(own=own) in str(error.value)
    assert f"building the model '{own}:{name}'" in str(error.value)


def test_mistakes_in_the_users_own_files(own, tmp_path):
    with pytest.raises(ModelError, match=r"there is no file '.*ent\.py'\. Did you mean '.*net\.py'"):
        make(f"{tmp_path}/ent.py:Net")
    with pytest.raises(ModelError, match=r"there is no file 'nowhere/net\.py'\. Check the path"):
        make("nowhere/net.py:Net")
    (tmp_path / "bad.py").write_text("x = 1\n1 / 0\n")
    with pytest.raises(ModelError, match=r"running .*bad\.py raises ZeroDivisionError in line 2: div"):
        make(f"{tmp_path}/bad.py:Net")
    (tmp_path / "syntax.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(ModelError, match=r"raises SyntaxError in line 2: invalid syntax"):
        make(f"{tmp_path}/syntax.py:Net")
    (tmp_path / "lacking.py").write_text("import no_such_module_here\n")
    with pytest.raises(ModelError, match=r"ModuleNotFoundError in line 1: No module named 'no_such_"):
        make(f"{tmp_path}/lacking.py:Net")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("wrong", "it gives shape (2, 3), not logits of shape (2, 10)"),
        ("conv", "it gives shape (2, 10, 8, 8), not logits of shape (2, 10)"),
        ("crash", "its forward raises RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_outputs_that_are_no_logits(own, name, found):
    model = make(f"{own}:{name}", size=8)
    with pytest.raises(ModelError) as error:
        check_classes(model, torch.randn(2, 3, 8, 8), 10)
    assert found in str(error.value)
    assert "on inputs of shape (2, 3, 8, 8)" in str(error.value)
    assert model.training


def test_checking_changes_nothing():
    model = make("resnet8").train()
    model.layer2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_classes(model, torch.randn(2, 3, 32, 32), 10)
    assert model.training
    assert not model.layer2[0].training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
