"""Weights of others load whatever wraps them, all or none, and what does not fit is explained."""

import argparse
import copy
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from vestige.errors import ModelError
from vestige.models.weights import load_weights, read_weights
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


def state(seed=1, **settings):
    torch.manual_seed(seed)
    return ResNet(8, **{"classes": 4, "width": 4, **settings}).state_dict()


def prefixed(prefix):
    return {prefix + name: value for name, value in state().items()}


GIVEN = {
    "plain": lambda: state(),
    "data-parallel": lambda: prefixed("module."),
    "lightning": lambda: {"state_dict": prefixed("model."), "epoch": 3},
    "compiled": lambda: prefixed("_orig_mod."),
    "compiled-in-parallel": lambda: {"model": prefixed("module._orig_mod.")},
    "compiled-part": lambda: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in state().items()},
    "averaged": lambda: {"state_dict_ema": {**prefixed("module."), "n_averaged": torch.tensor(3)}},
    "wrapped-twice": lambda: {"model": {"state_dict": state()}, "optimizer": {"lr": 1}},
    "without-counts": lambda: {n: v for n, v in state().items() if "num_batches" not in n},
    "half": lambda: {n: v.half() if v.is_floating_point() else v for n, v in state().items()},
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("given", GIVEN)
def test_wrappers_and_prefixes(given, compiled):
    model = ResNet(8, classes=4, width=4)
    load_weights(torch.compile(model) if compiled else model, GIVEN[given](), "a test")
    expected = state()
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)
            assert value.dtype == torch.float32


def test_a_model_that_has_the_prefix_itself():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    source, target = Outer(), Outer()
    load_weights(target, source.state_dict(), "a test")
    assert target.model.weight.equal(source.model.weight)
    load_weights(target, {f"module.{k}": v + 1 for k, v in source.state_dict().items()}, "a test")
    assert target.model.weight.equal(source.model.weight + 1)


UNFITTING = {
    "classes": (
        lambda: state(classes=9),
        "they do not fit the ResNet: 2 of another shape (fc.weight 9x16 for 4x16, fc.bias 9 for 4). "
        "They were trained for 9 classes, the model has 4",
    ),
    "channels": (
        lambda: state(channels=1),
        "1 of another shape (conv1.weight 4x1x3x3 for 4x3x3x3). They take inputs of 1 channels, the model of 3",
    ),
    "width": (lambda: state(width=8), "They are of another variant of the model (depth, width, block)"),
    "other": (
        lambda: nn.Sequential(nn.Linear(2, 3)).state_dict(),
        "2 unexpected (0.weight, 0.bias). They are of another architecture",
    ),
    "incomplete": (
        lambda: {n: v for n, v in state().items() if not n.startswith("layer3.0.bn2")},
        "4 missing (layer3.0.bn2.weight, layer3.0.bn2.bias, layer3.0.bn2.running_mean, "
        "layer3.0.bn2.running_var). They are incomplete",
    ),
    "more": (
        lambda: {**state(), "aux.weight": torch.ones(2)},
        "1 unexpected (aux.weight). They are of another variant",
    ),
    "no-tensors": (lambda: {"epoch": 3}, "there are no tensors among 'epoch'"),
    "nothing": (dict, "there are no tensors among nothing"),
}


@pytest.mark.parametrize("given", UNFITTING)
def test_unfitting_weights_are_explained_and_change_nothing(given):
    make, message = UNFITTING[given]
    model = ResNet(8, classes=4, width=4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError) as error:
        load_weights(model, make(), "old.pt")
    assert str(error.value).startswith("loading weights from old.pt: ")
    assert message in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "legacy.pth"])
def test_files_are_read_and_truncated_ones_are_named(tmp_path, name):
    file = tmp_path / name
    if name.endswith("safetensors"):
        safetensors.torch.save_file(state(), file)
    else:
        torch.save(
            {"model": state(), "args": argparse.Namespace(lr=0.1)},
            file,
            _use_new_zipfile_serialization=name != "legacy.pth",
        )
    model = ResNet(8, classes=4, width=4)
    load_weights(model, read_weights(file), str(file))
    torch.testing.assert_close(model.state_dict(), state(), rtol=0, atol=0)
    whole = file.read_bytes()
    for length in (len(whole) // 2, len(whole) - 20, 5, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"reading weights .*(truncated|damaged).*(anew)"):
            read_weights(file)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file ran')",))


def test_a_file_never_runs_code(tmp_path):
    file = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, file)
    with pytest.raises(ModelError, match="holds more than tensors and plain values"):
        read_weights(file)
    file.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ModelError, match="holds more than tensors and plain values"):
        read_weights(file)


def test_files_that_are_no_weights(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"it holds a Tensor, not tensors by name\. Save the state_dict"):
        read_weights(tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"there is no such file\. Did you mean 'tensor\.pt'"):
        read_weights(tmp_path / "tenser.pt")
    with pytest.raises(ModelError, match=r"it is a folder"):
        read_weights(tmp_path)
    with pytest.raises(ModelError, match=r"there is no such file\. Check the path"):
        read_weights("nowhere/weights.pt")
