"""vestige.SelectivityPenalty in loops of one's own: against float64 loops, wrappers, several processes."""

import copy
import doctest
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import vestige
from vestige.errors import ConfigError, DataError, ModelError
from vestige.training import penalising

BATCHES = {
    "balanced": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3],
    "unbalanced": [0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 3],
    "classes absent": [1, 3, 3, 1, 1, 1, 3, 3, 3, 3, 3, 1],
}
MODES = {
    "csi, mean": {},
    "csi, running": {"estimator": "running", "momentum": 0.6},
    "csi, sum": {"estimator": "sum"},
    "eta2": {"index": "eta2"},
}


class Net(nn.Module):
    """ReLUs as a module and as functions, in place of what is before them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        a = self.relu(self.first(x))
        b = torch.relu_(self.second(a * 2.0))
        return self.head(b.mean((2, 3)))


class Smooth(Net):
    """Activations that can be negative, as a module and as a function."""

    def __init__(self):
        super().__init__()
        self.gelu = nn.GELU()

    def forward(self, x):
        a = self.gelu(self.first(x))
        b = nn.functional.silu(self.second(a * 2.0))
        return self.head(b.mean((2, 3)))


def images(n=12, dtype=torch.float64):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return Net().to(dtype)


def reference(model, inputs, labels, mode, past, functions=(torch.relu, torch.relu)):
    """One neuron and one class at a time, in float64, from a forward written out."""
    first = functions[0](model.first(inputs))
    second = functions[1](model.second(first * 2))
    total, settings = 0.0, MODES[mode]
    for name, maps in (("first", first), ("second", second)):
        indices = []
        for u in range(maps.shape[1]):
            values = [(maps[i, u].sum() / maps[i, u].numel()).abs() for i in range(len(labels))]
            by_class = {c: [v for v, label in zip(values, labels, strict=True) if label == c] for c in range(4)}
            if settings.get("index") == "eta2":
                mean = sum(values) / len(values)
                between = sum(len(vs) * (sum(vs) / len(vs) - mean) ** 2 for vs in by_class.values() if vs)
                indices.append(between / sum((v - mean) ** 2 for v in values))
                continue
            if settings.get("estimator") == "sum":
                stats = {c: sum(vs, start=torch.zeros((), dtype=torch.float64)) for c, vs in by_class.items()}
            else:
                stats = {c: sum(vs) / len(vs) for c, vs in by_class.items() if vs}
            if settings.get("estimator") == "running":
                before = past.setdefault((name, u), {})
                stats = {c: 0.6 * before[c] + 0.4 * v if c in before else v for c, v in stats.items()}
                stats = {**before, **stats}
                past[name, u] = {c: v.detach() for c, v in stats.items()}
            best = max(stats, key=lambda c: stats[c].item())
            rest = sum(v for c, v in stats.items() if c != best) / (len(stats) - 1)
            indices.append((stats[best] - rest) / (stats[best] + rest + 1e-6))
        total = total + sum(indices) / len(indices) / 2
    return 3.0 * total


def gradients(value, model):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


@pytest.mark.parametrize("mode", MODES)
def test_value_and_gradient_are_those_of_a_float64_loop(mode):
    """Over three batches of other classes, since running means go on; one stage a layer."""
    model, past = net(), {}
    penalty = vestige.SelectivityPenalty(
        model, alpha=-3.0, layers=["relu", "relu_"], stages=["relu", "relu_"], **MODES[mode]
    )
    for number, (name, labels) in enumerate(BATCHES.items()):
        inputs = images() + number
        with penalty:
            model(inputs)
        value = penalty(torch.tensor(labels))
        expected = reference(model, inputs, labels, mode, past)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8), name
        for ours, theirs in zip(gradients(value, model), gradients(expected, model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_of_signed_layers_absolute_values_of_spatial_means_are_taken(mode):
    """As `vestige.measure` takes them: a neuron's index then lies in [0, 1], and so does their mean."""
    torch.manual_seed(0)
    model, past = Smooth().double(), {}
    names = ["gelu", "silu"]
    penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=names, stages=names, **MODES[mode])
    for name, labels in BATCHES.items():
        with penalty:
            model(images())
        value = penalty(torch.tensor(labels))
        functions = (nn.functional.gelu, nn.functional.silu)
        expected = reference(model, images(), labels, mode, past, functions)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8), name
        assert 0 <= value.item() / 3 <= 1
        for ours, theirs in zip(gradients(value, model), gradients(expected, model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_under_autocast_it_computes_in_float32(mode):
    model, inputs, labels = net(torch.float32), images(dtype=torch.float32), torch.tensor(BATCHES["unbalanced"])
    values = []
    for enabled in (False, True):
        penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu", "relu_"], **MODES[mode])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            with penalty:
                model(inputs)
            values.append(penalty(labels))
    assert values[1].dtype in (torch.float32, torch.float64)
    assert values[1].item() == pytest.approx(values[0].item(), rel=0.02)
    assert all(g.isfinite().all() for g in gradients(values[1], model))


def test_a_batch_of_one_class_is_zero_with_a_gradient_of_zero():
    model = net()
    penalty = vestige.SelectivityPenalty(model, layers=["relu"])
    with penalty:
        logits = model(images())
    value = penalty(torch.full((12,), 2))
    assert value.item() == 0.0
    (value + logits.sum()).backward()
    alone = copy.deepcopy(model)
    alone.zero_grad()
    alone(images()).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_the_model_is_left_as_it_was():
    model = net()
    penalty = vestige.SelectivityPenalty(model, layers=["relu"])
    plain = model(images())
    with penalty:
        assert torch.equal(model(images()), plain)
    assert torch.equal(model(images()), plain)
    hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert hooks == []
    with pytest.raises(RuntimeError, match=r"channels"), penalty:
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert [h for m in model.modules() for h in m._forward_hooks.values()] == []
    with penalty:
        copied = copy.deepcopy(model)
    assert torch.equal(copied(images()), plain)


def test_micro_batches_add_up_as_the_loss_does():
    model, labels = net(), torch.tensor(BATCHES["unbalanced"])
    penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu"])
    parts = []
    for part in (slice(0, 7), slice(5, 12)):
        with penalty:
            model(images()[part])
        value = penalty(labels[part]) / 2
        value.backward()
        parts.append(gradients(alone(model, images()[part], labels[part]) / 2, model))
    for p, a, b in zip(model.parameters(), *parts, strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, a + b)


def alone(model, inputs, labels):
    penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu"])
    with penalty:
        model(inputs)
    return penalty(labels)


def test_two_forwards_in_one_context_are_one_batch():
    model, labels = net(), torch.tensor(BATCHES["unbalanced"])
    penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu"])
    with penalty:
        model(images()[:5])
        model(images()[5:])
    assert penalty(labels).item() == pytest.approx(alone(model, images(), labels).item(), rel=1e-12)


FAMILIES = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=4), (3, 64, 64)),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=4), (3, 64, 64)),
    "torchvision vit": (lambda: _vit(), (3, 32, 32)),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=4), (3, 64, 64)),
    "timm efficientnet": (lambda: timm.create_model("tf_efficientnetv2_b0", num_classes=4, drop_rate=0.2), (3, 64, 64)),
}


def _vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=4, dropout=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_takes_what_find_layers_takes(family):
    make, shape = FAMILIES[family]
    torch.manual_seed(0)
    model = make().train()
    inputs, labels = torch.randn(8, *shape), torch.arange(8) % 4
    found = vestige.layers(model, inputs)
    stages = list(dict.fromkeys(layer.stage for layer in found))
    penalised = stages[:-1] or stages
    penalty = vestige.SelectivityPenalty(model, alpha=-1, stages=None if len(stages) > 1 else stages)
    with penalty:
        logits = model(inputs)
    assert [layer.name for layer in penalty.layers] == [layer.name for layer in found if layer.stage in penalised]
    (cross_entropy(logits, labels) + penalty(labels)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_compiled_model_runs_uncompiled_in_the_context():
    model = net()
    compiled = torch.compile(model, backend="eager")
    compiled(images())
    penalty = vestige.SelectivityPenalty(compiled, alpha=-3.0, layers=["relu"])
    with penalty:
        compiled(images())
    labels = torch.tensor(BATCHES["balanced"])
    assert penalty(labels).item() == pytest.approx(alone(model, images(), labels).item())


def test_activation_checkpointing_does_not_disturb_it():
    class Checkpointed(Net):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    torch.manual_seed(0)
    model, labels = Checkpointed().double(), torch.tensor(BATCHES["balanced"])
    penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu"])
    with penalty:
        model(images())
    penalty(labels).backward()
    plain = net()
    alone(plain, images(), labels).backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_what_is_overwritten_later_is_read_as_it_was():
    model, labels = net(), torch.tensor(BATCHES["unbalanced"])
    penalty = vestige.SelectivityPenalty(model, layers=["first"], index="eta2", alpha=-1)
    with penalty:
        model(images())
    pooled = model.first(images()).mean((2, 3)).abs()  # what a convolution gives is signed
    means = torch.stack([pooled[labels == c].mean(0) for c in labels])
    expected = ((means - pooled.mean(0)).square().sum(0) / (pooled - pooled.mean(0)).square().sum(0)).mean()
    assert penalty(labels).item() == pytest.approx(expected.item(), rel=1e-9)


def test_running_means_survive_a_checkpoint():
    model, labels = net(), torch.tensor(BATCHES["classes absent"])

    def one():
        return vestige.SelectivityPenalty(model, layers=["relu"], estimator="running")

    first, second = one(), one()
    with first:
        model(images())
    first(torch.tensor(BATCHES["balanced"]))
    second.load_state_dict(first.state_dict())
    values = []
    for penalty in (first, second):
        with penalty:
            model(images() * 2)
        values.append(penalty(labels).item())
    assert values[0] == values[1]


def test_running_means_learn_from_batches_of_one_class_and_not_from_what_is_not_finite():
    """Seen one after the other, two classes give what they give in one batch, for neither has a mean before."""
    model, labels = net(), torch.tensor([0] * 6 + [3] * 6)
    penalty, whole = (vestige.SelectivityPenalty(model, layers=["relu"], estimator="running") for _ in range(2))
    values = []
    for part, factor in ((slice(0, 6), 1.0), (slice(0, 6), torch.inf), (slice(6, 12), torch.inf), (slice(6, 12), 1.0)):
        with penalty:
            model(images()[part] * factor)
        values.append(penalty(labels[part]).item())
    with whole:
        model(images())
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(whole(labels).item(), rel=1e-12)
    assert penalty.state_dict()["class_means"][[0, 3]].isfinite().all()


WRONG = {
    "alpha": (
        {"alpha": 0},
        ConfigError,
        "making a SelectivityPenalty: alpha is 0, so it changes nothing. Give an alpha",
    ),
    "index": ({"index": "auroc"}, ConfigError, "index is 'auroc'. Choose 'csi' or 'eta2'."),
    "estimator": ({"estimator": "median"}, ConfigError, "estimator is 'median'. Choose 'mean' or 'running' or 'sum'."),
    "momentum": (
        {"estimator": "running", "momentum": 1.0},
        ConfigError,
        "momentum is 1. Give a number from 0 to below 1.",
    ),
    "alpha that is none": ({"alpha": float("nan")}, ConfigError, "alpha is nan. Give a finite number below or above"),
    "estimator of eta2": (
        {"index": "eta2", "estimator": "mean"},
        ConfigError,
        "estimator is 'mean', and only the index 'csi' has one. Leave estimator out, or give index='csi'.",
    ),
    "momentum of eta2": (
        {"index": "eta2", "momentum": 0.5},
        ConfigError,
        "momentum is 0.5, and only the estimator 'running' has one. Leave momentum out, or give estimator='running'.",
    ),
    "momentum of mean": ({"momentum": 0.5}, ConfigError, "momentum is 0.5, and only the estimator 'running' has one."),
    "layer": ({"layers": ["relo"]}, ModelError, "no layer and no module is called 'relo'"),
    "stage": ({"layers": ["relu"], "stages": ["relo"]}, ConfigError, "the model has no stage 'relo'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused(case):
    settings, kind, words = WRONG[case]
    with pytest.raises(kind) as error, vestige.SelectivityPenalty((model := net()), **settings):
        model(images())
    assert words in str(error.value)


def test_wrong_calls_are_refused():
    model = net()
    penalty = vestige.SelectivityPenalty(model, layers=["relu"])
    with pytest.raises(DataError, match=r"no forward was captured\. Run the model within it"):
        penalty(torch.arange(12))
    with penalty:
        model(images())
        with pytest.raises(ModelError, match="this is being done already"):
            penalty.__enter__()
    for labels, words in (
        (torch.arange(5), "labels of shape (5,) for 12 images. Give one class index an image"),
        (torch.zeros(12), "labels of type torch.float32. Give class indices: whole numbers from 0."),
        (torch.arange(12), "labels from 0 to 11, and the classes are 0 to 3. Give num_classes."),
    ):
        with pytest.raises(DataError) as error:
            penalty(labels)
        assert words in str(error.value)


def test_the_example_runs():
    failed, tried = doctest.testmod(penalising)
    assert (failed, tried > 5) == (0, True)


def test_two_processes_give_what_one_gives_on_the_global_batch(tmp_path):
    """Under DDP, with parts of unequal size and classes that one process lacks; value and gradient, two steps."""
    script = Path(__file__).with_name("penalty_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", _port()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(script), str(tmp_path)], check=True, env=environment, timeout=300)
    errors = [(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert "labels of shape (3,) for 12 images" in errors[0]
    assert "another process that shares the batch has labels or activations that cannot be used" in errors[1]
    for mode, settings in MODES.items():
        model = net()
        penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu", "relu_"], **settings)
        for step in range(2):
            inputs, labels = images() + step, torch.tensor(BATCHES["unbalanced"])
            with penalty:
                model(inputs)
            value = penalty(labels)
            expected = gradients(value, model)
            for rank in range(2):
                kept = torch.load(tmp_path / f"{mode}-{step}-{rank}.pt", weights_only=True)
                assert kept["value"].item() == pytest.approx(value.item(), rel=1e-10), mode
                for ours, theirs in zip(kept["gradients"], expected, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
