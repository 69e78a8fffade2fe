"""`vestige.measure` on other people's models: numbers by hooks on the model itself, and a model left as it was."""

import warnings
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vestige
from vestige.errors import ConfigError, DataError, ModelError

torch.set_num_threads(1)

N, C = 12, 4
LABELS_N = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2])

MODELS = {
    "torchvision resnet50": (lambda: torchvision.models.resnet50(num_classes=C), 64),
    "torchvision vgg16_bn": (lambda: torchvision.models.vgg16_bn(num_classes=C), 32),
    "torchvision densenet121": (lambda: torchvision.models.densenet121(num_classes=C), 32),
    "torchvision convnext_tiny": (lambda: torchvision.models.convnext_tiny(num_classes=C), 64),
    "torchvision efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=C), 64),
    "torchvision mobilenet_v3_large": (lambda: torchvision.models.mobilenet_v3_large(num_classes=C), 64),
    "torchvision mobilenet_v3_large at full size": (  # measured channels-last
        lambda: torchvision.models.mobilenet_v3_large(num_classes=C),
        224,
    ),
    "torchvision regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(num_classes=C), 64),
    "torchvision vit_b_16": (lambda: torchvision.models.vit_b_16(num_classes=C, image_size=64), 64),
    "torchvision swin_t": (lambda: torchvision.models.swin_t(num_classes=C), 64),
    "timm resnet50": (lambda: timm.create_model("resnet50", num_classes=C), 64),
    "timm vit_small_patch16_224": (lambda: timm.create_model("vit_small_patch16_224", num_classes=C, img_size=64), 64),
    "timm convnext_atto": (lambda: timm.create_model("convnext_atto", num_classes=C), 64),
    "timm mobilevit_s": (lambda: timm.create_model("mobilevit_s", num_classes=C), 64),
}
SIGNED = ("convnext", "efficientnet", "mobilenet", "vit", "swin")


def state_of(model):
    """Everything of a model that measuring could change."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [(getattr(module, "inplace", None), [p.stride() for p in module.parameters()]) for module in model.modules()],
        [(p.requires_grad, p.grad is None or p.grad.clone()) for p in model.parameters()],
    )


def assert_same_state(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:4] == after[1:4]
    for (needs, grad), (needs_after, grad_after) in zip(before[4], after[4], strict=True):
        assert needs == needs_after
        assert torch.equal(torch.as_tensor(grad), torch.as_tensor(grad_after))


def pooled_by_hooks(model, inputs, layers):
    """Spatial means in float64 of what each layer's module returns, by hooks on the model itself."""
    found = defaultdict(list)

    def hook(module, _inputs, output, name):
        # Copied at once: the network may overwrite it.
        found[name].append(output.detach().double().numpy().copy())

    modules = dict(model.named_modules())
    # A module that is called again is numbered: its path alone is hooked, and its calls counted.
    paths = {layer.name: layer.name if layer.name in modules else layer.name.rpartition("_")[0] for layer in layers}
    hooked = [path for path in dict.fromkeys(paths.values()) if path]
    handles = [modules[p].register_forward_hook(lambda *a, n=p: hook(*a, n)) for p in hooked]
    given = []
    if "classifier" in modules:
        handles.append(
            modules["classifier"].register_forward_pre_hook(lambda _m, x: given.append(x[0].double().numpy()))
        )
    was = model.training
    with torch.no_grad():
        model.eval()(inputs)
    model.train(was)
    for handle in handles:
        handle.remove()
    pooled = {}
    for layer in layers:
        if layer.name == "relu":  # DenseNet's last, a function: its pooled value is what the classifier is given
            pooled[layer.name] = given[0]
            continue
        call = 0 if layer.name in modules else int(layer.name.rpartition("_")[2])
        maps = found[paths[layer.name]][call]
        pooled[layer.name] = maps.mean(tuple(d for d in range(1, maps.ndim) if d != layer.axis))
    return pooled


@pytest.mark.parametrize("name", MODELS)
def test_class_means_of_any_model_and_the_model_is_left_as_it_was(name):
    make, size = MODELS[name]
    torch.manual_seed(0)
    model = make()
    inputs = torch.randn(N, 3, size, size)
    if name == "torchvision resnet50":  # gradients, too, must stay
        nn.functional.cross_entropy(model(inputs[:2]), LABELS_N[:2]).backward()
    before = state_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = vestige.measure(model, (inputs, LABELS_N), batch_size=5, permutations=3)
    assert_same_state(before, state_of(model))
    assert len(result.table) == sum(layer.units for layer in result.layers)
    assert any("Observed as it runs" in note for note in result.notes) == (name == "timm mobilevit_s")
    signed = any(kind in name for kind in SIGNED)
    assert any(layer.signed for layer in result.layers) == signed
    for layer, pooled_NU in pooled_by_hooks(model, inputs, result.layers).items():
        a_NU = (
            np.abs(pooled_NU) if signed and (result.table.filter(layer=layer)["rectify"] == "abs").all() else pooled_NU
        )
        expected_CU = np.array([a_NU[c == LABELS_N].mean(0) for c in range(C)])
        scale = np.abs(expected_CU).max()
        np.testing.assert_allclose(result.class_means[layer].numpy(), expected_CU, rtol=1e-5, atol=1e-5 * scale)


@pytest.fixture(scope="module", name="model")
def _model():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=C).train()


@pytest.fixture(scope="module", name="inputs")
def _inputs():
    return torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", name="labels")
def _labels():
    return torch.randint(0, C, (40,), generator=torch.Generator().manual_seed(2))


def measured(model, data, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vestige.measure(model, data, **{"permutations": 5, "batch_size": 16} | settings)


def test_every_kind_of_data_gives_the_same_table(model, inputs, labels):
    dataset = TensorDataset(inputs, labels)
    loader = DataLoader(dataset, batch_size=16)
    expected = measured(model, (inputs, labels)).table
    for data in (dataset, loader, list(loader), iter(list(loader)), (inputs.numpy(), labels.numpy())):
        assert measured(model, data).table.equals(expected, null_equal=True)


def test_where_activations_are_kept_changes_no_bit(model, inputs, labels, monkeypatch):
    monkeypatch.setattr("vestige.measurement.keeping.SPILL_BYTES", 10_000)  # so that it spills more than once
    memory, disk = (measured(model, (inputs, labels), keep=keep).table for keep in ("memory", "disk"))
    assert disk.equals(memory, null_equal=True)
    assert set(disk["mode"]) == {"exact"}


def test_streaming_keeps_a_sample_for_what_needs_all_images(model, inputs, labels):
    exact, sampled = (measured(model, (inputs, labels), keep=k, sample=20) for k in ("memory", "nothing"))
    assert set(sampled.table["mode"]) == {"streamed"}
    for column in ("csi", "csi_cv", "eta2", "csi_null_mean", "p_value"):
        np.testing.assert_allclose(sampled.table[column], exact.table[column], rtol=0, atol=1e-9)
    assert sampled.table["auroc"].is_between(0, 1).all()
    assert not sampled.table["auroc"].equals(exact.table["auroc"])
    none = measured(model, (inputs, labels), keep="nothing", sample=0).table
    assert none["auroc"].is_nan().all()


def test_a_stream_of_unknown_labels_has_no_null_and_says_so(model, inputs, labels):
    batches = [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])]
    result = measured(model, batches, keep="nothing")
    assert result.table["p_value"].is_nan().all()
    assert result.table["selective"].is_null().all()
    assert any("there is no null" in note for note in result.notes)
    assert not any("there is no null" in note for note in measured(model, batches).notes)


def test_batch_norm_is_recomputed_from_training_data_or_it_is_said(model, inputs, labels):
    with pytest.warns(UserWarning, match="Batch-norm statistics are the stored ones: without training_data"):
        stored = vestige.measure(model, (inputs, labels), permutations=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = vestige.measure(model, (inputs, labels), permutations=0, batch_norm="stored")
        recalibrated = vestige.measure(model, (inputs, labels), permutations=0, training_data=inputs)
        faithful = vestige.measure(model, (inputs, labels), permutations=0, training_data=inputs, protocol="faithful")
    assert stored.table.equals(same.table, null_equal=True)
    assert not recalibrated.table["csi_cv"].equals(stored.table["csi_cv"])
    assert faithful.table["csi_cv"].equals(stored.table["csi_cv"])
    assert (stored.settings["batch_norm"], recalibrated.settings["batch_norm"]) == ("stored", "recalibrate")
    by_hand = torchvision.models.resnet18(num_classes=C)
    by_hand.load_state_dict(model.state_dict())
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        by_hand.train()(inputs)
    expected = vestige.measure(by_hand, (inputs, labels), permutations=0, batch_norm="stored").table
    np.testing.assert_allclose(recalibrated.table["csi"], expected["csi"], atol=1e-3)


def test_faithful_takes_class_sums(model, inputs, labels):
    result = measured(model, (inputs, labels), protocol="faithful")
    pooled_NU = pooled_by_hooks(model, inputs, result.layers)["layer3.1"]
    sums_CU = np.array([pooled_NU[labels == c].sum(0) for c in range(C)])
    rest_U = (sums_CU.sum(0) - sums_CU.max(0)) / (C - 1)
    expected_U = (sums_CU.max(0) - rest_U) / (sums_CU.max(0) + rest_U + 1e-6)
    np.testing.assert_allclose(result.table.filter(layer="layer3.1")["csi"], expected_U, atol=1e-5)


def test_a_class_map_leads_to_the_models_classes(inputs, labels):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    by_hand = measured(model, (inputs, labels + 3))
    assert measured(model, (inputs, labels), class_map=[3, 4, 5, 6]).table.equals(by_hand.table, null_equal=True)
    assert measured(model, (inputs, labels), class_map={0: 3, 1: 4, 2: 5, 3: 6}).top1 == by_hand.top1
    with pytest.raises(DataError, match=r"label 3 is not in class_map\. Give the model's class index of every label"):
        measured(model, (inputs, labels), class_map=[3, 4, 5])
    with pytest.raises(ConfigError, match="label 1 is mapped to 10, and the model's classes are 0 to 9"):
        measured(model, (inputs, labels), class_map=[3, 10, 5, 6])


def test_selective_asks_for_more_than_untrained_neurons_have(model, inputs, labels):
    alone = measured(model, (inputs, labels))
    high = alone.table.with_columns(csi_cv=pl.lit(2.0))
    assert not measured(model, (inputs, labels), initial=high).table["selective"].any()
    low = alone.table.with_columns(csi_cv=pl.lit(-2.0))
    assert measured(model, (inputs, labels), initial=low).table["selective"].equals(alone.table["selective"])


def test_bfloat16_says_how_far_it_is_off(model, inputs, labels):
    exact, low = (measured(model, (inputs, labels), dtype=dtype) for dtype in ("float64", "bfloat16"))
    (note,) = [note for note in low.notes if note.startswith("bfloat16")]
    assert "on the first 16 images activations deviate from float32 by up to 0.0" in note
    assert 0 < np.abs(exact.table["csi"] - low.table["csi"]).mean() < 0.02
    rounded = np.abs(exact.table["csi"] - measured(model, (inputs, labels)).table["csi"])
    assert np.quantile(rounded, 0.99) < 1e-5
    assert rounded.max() < 1e-3  # of a neuron that hardly fires


def test_scores(model, inputs, labels):
    torch.manual_seed(0)
    wide = torchvision.models.resnet18(num_classes=9)
    result = measured(wide, (inputs, labels))
    with torch.no_grad():
        logits_NC = wide.eval()(inputs).double()
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits_NC, labels).item(), rel=1e-5)
    assert result.top1 == (logits_NC.argmax(1) == labels).double().mean().item()
    five = sum(label in row.argsort().tolist()[-5:] for row, label in zip(logits_NC, labels.tolist(), strict=True))
    assert result.top5 == five / len(labels)
    assert measured(model, (inputs, labels)).top5 is None
    assert result.class_counts.tolist() == [(labels == c).sum().item() for c in range(9)]


def test_a_file_of_the_table_says_what_made_it(model, inputs, labels, tmp_path):
    import json

    result = measured(model, (inputs, labels))
    result.to_parquet(tmp_path / "measured.parquet")
    assert pl.read_parquet(tmp_path / "measured.parquet").equals(result.table, null_equal=True)
    about = json.loads(pl.read_parquet_metadata(tmp_path / "measured.parquet")["vestige"])
    assert about["top1"] == result.top1
    assert about["model"] == "ResNet"
    assert len(about["weights"]) == 64


def test_layers_can_be_chosen(model, inputs, labels):
    result = measured(model, (inputs, labels), layers=["layer3.*"])
    assert result.table["layer"].unique(maintain_order=True).to_list() == ["layer3.0", "layer3.1"]
    with pytest.raises(vestige.VestigeError, match=r"layer9\.0.*Did you mean"):
        measured(model, (inputs, labels), layers=["layer9.0"])


def test_progress_is_told(model, inputs, labels):
    told = []
    measured(model, (inputs, labels), progress=lambda done, total: told.append((done, total)))
    assert told == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"dtype": "float16"}, ConfigError, "there is no dtype 'float16'. Did you mean"),
        ({"keep": "ram"}, ConfigError, "there is no keep='ram'. Choose one of"),
        (
            {"batch_norm": "recalibrated"},
            ConfigError,
            "there is no batch_norm 'recalibrated'. Did you mean 'recalibrate'",
        ),
        ({"rectify": "absolute"}, ConfigError, "there is no rectify 'absolute'"),
        ({"protocol": "paper"}, ConfigError, "there is no protocol 'paper'"),
        ({"device": "gpu"}, ConfigError, "measuring selectivity: device 'gpu' cannot be used: "),
        ({"device": "cuda:99"}, ConfigError, "Give 'cpu', or a GPU that is here."),
    ],
)
def test_arguments_that_make_no_sense(settings, kind, message, model, inputs, labels):
    with pytest.raises(kind) as error:
        measured(model, (inputs, labels), **settings)
    assert message in str(error.value)


def test_what_is_no_model_is_named(inputs, labels):
    with pytest.raises(ModelError, match=r"measuring selectivity: a dict\. Give a torch\.nn\.Module"):
        measured({}, (inputs, labels))
