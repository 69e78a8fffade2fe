"""Weights of others load whatever wraps them, all or none, and what does not fit is explained."""

import argparse
import copy
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from vestige.errors import ModelError
from vestige.models.weights import classes_of_weights, load_weights, read_weights, weights_hash
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
    "another-prefix": lambda: {"state_dict": prefixed("net.backbone.")},
    "another-wrapper": lambda: {"ema_weights": state(), "optimizer": {"state": {0: torch.ones(2)}}},
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
    "depth": (
        lambda: {**state(), **nn.ModuleDict({"layer1": nn.Linear(2, 2)}).state_dict()},
        "2 unexpected (layer1.weight, layer1.bias). They are of another variant of the model (depth, width, block)",
    ),
    "renamed": (
        lambda: {n.replace("layer", "stage"): v for n, v in state().items()},
        "Their shapes are right and their names are not: they are of the same architecture in another library",
    ),
    "quantised": (
        lambda: {n: v.to(torch.int8) if n.endswith("conv2.weight") else v for n, v in state().items()},
        "3 of whole numbers (layer1.0.conv2.weight int8, layer2.0.conv2.weight int8, layer3.0.conv2.weight int8). "
        "They are quantised",
    ),
    "packed": (lambda: {**state(), "fc._packed_params._packed_params": torch.ones(1)}, "They are quantised"),
    "adapters": (
        lambda: {f"fc.lora_{part}.weight": torch.ones(2, 2) for part in "AB"},
        "2 unexpected (fc.lora_A.weight, fc.lora_B.weight). They are adapters (LoRA)",
    ),
    "weight-norm": (lambda: {**state(), "fc.weight_g": torch.ones(4, 1)}, "pruned or re-parametrised (weight norm)"),
    "optimiser": (
        lambda: torch.optim.SGD(ResNet(8).parameters(), lr=0.1).state_dict(),
        "it is the state of an optimiser, which holds no weights",
    ),
    "two-sets": (
        lambda: {"student": state(), "teacher": state(2)},
        "it holds several sets of tensors: 'student', 'teacher'. Save the one that you mean alone: "
        "torch.save(content['student'], FILE)",
    ),
    "twice": (
        lambda: prefixed("student.") | prefixed("teacher."),
        "they hold the whole model more than once, under 'student.', 'teacher.'",
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


def test_what_is_opened_and_left_out_is_said():
    model = ResNet(8, classes=4, width=4)
    assert load_weights(model, {"state_dict": prefixed("model.")}, "a test") == ()
    given = {"state_dict": prefixed("model.") | {"loss.weight": torch.ones(4)}, "state_dict_ema": state(2)}
    assert load_weights(model, given, "a test") == (
        "the weights are those under 'state_dict'; there is also 'state_dict_ema'",
        "1 tensors outside of 'model.' were left out (loss.weight)",
    )
    torch.testing.assert_close(model.state_dict(), state(), rtol=0, atol=0)


def test_the_positions_of_a_transformer_tell_the_size_of_its_inputs():
    import timm

    small, large = (timm.create_model("vit_tiny_patch16_224", img_size=size, depth=1) for size in (32, 64))
    with pytest.raises(ModelError, match=r"pos_embed 1x17x192 for 1x5x192\)\. They take inputs of another size"):
        load_weights(small, large.state_dict(), "a test")


@pytest.mark.parametrize("classes", [4, 7, 1000])
def test_the_number_of_classes_is_seen_in_the_weights(classes):
    import torchvision

    model = torchvision.models.squeezenet1_1(num_classes=4)  # its head is a convolution that does not come last
    given = {"state_dict": {f"module.{n}": v for n, v in with_classes(classes).state_dict().items()}}
    assert classes_of_weights(model, given, 4, "a test") == classes


def with_classes(classes):
    import torchvision

    return torchvision.models.squeezenet1_1(num_classes=classes)


def test_the_number_of_classes_is_not_guessed_where_more_differs():
    model = ResNet(8, classes=4, width=4)
    assert classes_of_weights(model, state(classes=9, width=8), 4, "a test") is None
    assert classes_of_weights(model, {**state(classes=9), "more": torch.ones(1)}, 4, "a test") is None


def test_the_hash_is_of_the_tensors_and_not_of_their_file(tmp_path):
    plain, counted = state(), dict(reversed(state().items()))
    safetensors.torch.save_file(plain, tmp_path / "a.safetensors")
    torch.save(plain, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        assert weights_hash(read_weights(tmp_path / name)) == weights_hash(plain)
    counted["bn1.num_batches_tracked"] += 5
    assert weights_hash(counted) == weights_hash(plain)
    assert weights_hash(state(2)) != weights_hash(plain)
    assert weights_hash({"a": torch.ones(2)}) != weights_hash({"b": torch.ones(2)})
    assert weights_hash({"a": torch.ones(2, 1)}) != weights_hash({"a": torch.ones(2)})
    changed = {**plain, "fc.bias": plain["fc.bias"].nextafter(torch.tensor(9.0))}
    assert weights_hash(changed) != weights_hash(plain)


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_arguments_and_paths_beside_the_weights_do_no_harm(tmp_path, zipped):
    beside = {
        "best": np.float64(0.9),
        "random": np.random.get_state(),
        "args": argparse.Namespace(lr=0.1),
        "data": tmp_path,
    }
    torch.save({"state_dict": state(), **beside}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    content = read_weights(tmp_path / "a.pt")
    assert content["best"] == 0.9
    load_weights(ResNet(8, classes=4, width=4), content, "a.pt")


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


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_told_from_damage_and_not_run(tmp_path, zipped):
    file = tmp_path / "module.pt"
    torch.save({"model": nn.Sequential(nn.Linear(2, 2))}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"it holds a whole module \(torch\.nn\.modules.*Save its weights alone"):
        read_weights(file)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    with pytest.raises(ModelError, match=r"it is a TorchScript archive, which holds code\. Save its weights alone"):
        read_weights(file)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"it is an ONNX graph\. Give safetensors"):
        read_weights(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").unlink()
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"it holds a Tensor, not tensors by name\. Save the state_dict"):
        read_weights(tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"there is no such file\. Did you mean 'tensor\.pt'"):
        read_weights(tmp_path / "tenser.pt")
    with pytest.raises(ModelError, match=r"it is a folder"):
        read_weights(tmp_path)
    with pytest.raises(ModelError, match=r"there is no such file\. Check the path"):
        read_weights("nowhere/weights.pt")
