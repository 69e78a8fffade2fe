"""The suite that every intervention goes through: value, gradient, statelessness, no effect, logs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import PENALTIES
from torch import nn

from vestige.config import Eta2PenaltyConfig, SelectivityPenaltyConfig
from vestige.errors import ConfigError
from vestige.models.layers import Layer
from vestige.training.events import LoopState
from vestige.training.interventions import build, name_interventions

LAYERS = tuple(
    Layer(name=f"layer{s}.{b}", stage=f"layer{s}", node=f"relu_{s}{b}", units=units, axis=1, why="made up")
    for s, b, units in [(1, 0, 3), (1, 1, 5), (2, 0, 4), (3, 0, 6)]
)
LABELS = {
    "balanced": [0, 1, 2, 0, 1, 2, 0, 1],
    "unbalanced": [0, 0, 0, 0, 0, 1, 2, 2],
    "a class absent": [0, 3, 3, 0, 3, 0, 0, 0],
}
CLASSES = 4
ALPHA = -3.0


def make(mode, **changes):
    settings = {"alpha": ALPHA, **PENALTIES[mode], **changes}
    kind = {"selectivity": SelectivityPenaltyConfig, "eta2": Eta2PenaltyConfig}[settings["kind"]]
    return kind(**settings)


def make_state(labels, *, seed=0, step=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(1, 1)
    labels = torch.tensor(labels)
    maps = {
        layer.node: torch.rand((len(labels), layer.units, 2, 3), generator=generator, dtype=torch.float64)
        .sub(0.3)
        .relu()
        .to(dtype)
        .requires_grad_()
        for layer in LAYERS
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    state = LoopState(model, optimizer, torch.device("cpu"), seed, CLASSES, 10, step=step)
    state.labels = state.labels_cpu = labels
    state.training_labels = np.array([*labels.tolist(), *range(CLASSES)] * 3)
    state.indices = np.arange(len(labels))
    state.activations = maps
    return state


def slow_csi(values, labels, estimator):
    """CSI of one neuron, one class at a time; of a first batch `running` has the batch's means."""
    by_class = []
    for c in range(CLASSES):
        mine = [v for v, label in zip(values, labels, strict=True) if label == c]
        if estimator == "sum":
            by_class.append(sum(mine, start=torch.zeros((), dtype=torch.float64)))
        elif mine:
            by_class.append(sum(mine) / len(mine))
    best = max(range(len(by_class)), key=lambda c: by_class[c].item())
    rest = sum(m for c, m in enumerate(by_class) if c != best) / (len(by_class) - 1)
    return (by_class[best] - rest) / (by_class[best] + rest + 1e-6)


def slow_eta2(values, labels):
    """eta squared of one neuron, one class at a time."""
    mean = sum(values) / len(values)
    total = sum((v - mean) ** 2 for v in values)
    between = 0.0
    for c in sorted(set(labels)):
        mine = [v for v, label in zip(values, labels, strict=True) if label == c]
        between = between + len(mine) * (sum(mine) / len(mine) - mean) ** 2
    return between / total


def slow_penalty(settings, state, layers, labels):
    """-alpha * mean over stages of (mean over that stage's neurons of the index)."""
    by_stage = {}
    for layer in layers:
        maps = state.activations[layer.node]
        for u in range(layer.units):
            values = [maps[i, u].sum() / maps[i, u].numel() for i in range(len(labels))]
            values = [-v if layer.signed and v.item() < 0 else v for v in values]
            if settings["kind"] == "eta2":
                index = slow_eta2(values, labels)
            else:
                index = slow_csi(values, labels, settings.get("estimator", "mean"))
            by_stage.setdefault(layer.stage, []).append(index)
    means = [sum(indices) / len(indices) for indices in by_stage.values()]
    return -ALPHA * sum(means) / len(means)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("mode", PENALTIES)
def test_value_and_gradient_are_those_of_a_slow_reference(mode, labels):
    state = make_state(LABELS[labels])
    (penalty,) = build([make(mode)], LAYERS)
    value = penalty.penalty(state)
    used = penalty._labels(state).tolist()
    nodes = [layer.node for layer in LAYERS]
    gradients = torch.autograd.grad(value, [state.activations[n] for n in nodes], allow_unused=True)

    expected = slow_penalty(PENALTIES[mode], state, LAYERS[:-1], used)
    witness = torch.autograd.grad(expected, [state.activations[n] for n in nodes], allow_unused=True)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert gradients[-1] is None, "the last stage is left out by default"
    for ours, theirs in zip(gradients[:-1], witness[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mode", PENALTIES)
def test_of_a_signed_layer_absolute_values_of_means_are_taken(mode):
    """As in measuring: the index, and what is logged as csi, then lie in [0, 1]; layer1 can be negative, layer2 not."""
    layers = [replace(layer, signed=layer.stage == "layer1") for layer in LAYERS]
    state = make_state(LABELS["unbalanced"])
    for layer in layers[:2]:
        negative = state.activations[layer.node].detach() - 0.2
        state.activations[layer.node] = negative.requires_grad_()
    (penalty,) = build([make(mode)], layers)
    value = penalty.penalty(state)
    expected = slow_penalty(PENALTIES[mode], state, layers[:-1], penalty._labels(state).tolist())
    maps = [state.activations[layer.node] for layer in layers[:-1]]
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert 0 <= value.item() / -ALPHA <= 1
    for ours, theirs in zip(torch.autograd.grad(value, maps), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    (plain,) = build([make("selectivity, mean", stages=("layer1",))], layers)
    logged = slow_csi_of_layers(state, layers[:2])
    plain.penalty(state)
    assert float(plain.log()["csi"]) == pytest.approx(logged, rel=1e-12)
    assert 0 <= logged <= 1


def slow_csi_of_layers(state, layers):
    """Mean over layers of the mean over neurons of csi, from absolute values of spatial means."""
    labels, means = state.labels.tolist(), []
    for layer in layers:
        pooled_NU = state.activations[layer.node].detach().mean((2, 3)).abs()
        means.append(sum(slow_csi(list(pooled_NU[:, u]), labels, "mean").item() for u in range(layer.units)))
    return sum(total / layer.units for total, layer in zip(means, layers, strict=True)) / len(layers)


@pytest.mark.parametrize("mode", PENALTIES)
def test_stages_can_be_named(mode):
    state = make_state(LABELS["balanced"])
    (penalty,) = build([make(mode, stages=("layer3",))], LAYERS)
    value = penalty.penalty(state)
    used = penalty._labels(state).tolist()
    assert value.item() == pytest.approx(slow_penalty(PENALTIES[mode], state, LAYERS[3:], used).item())


@pytest.mark.parametrize("mode", PENALTIES)
def test_bfloat16_activations_are_averaged_in_float32(mode):
    state = make_state(LABELS["balanced"], dtype=torch.bfloat16)
    (penalty,) = build([make(mode)], LAYERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty.penalty(state)
    state.activations = {node: maps.detach().double() for node, maps in state.activations.items()}
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(penalty.penalty(state).item(), rel=1e-5)


@pytest.mark.parametrize("mode", PENALTIES)
def test_a_batch_of_one_class_adds_nothing(mode):
    state = make_state([2, 2, 2])
    state.training_labels = np.full(3, 2)
    (penalty,) = build([make(mode)], LAYERS)
    assert penalty.penalty(state) is None
    assert penalty.log()["penalty"] == 0.0


@pytest.mark.parametrize("mode", PENALTIES)
def test_what_it_logs(mode):
    state = make_state(LABELS["unbalanced"])
    (penalty,) = build([make(mode)], LAYERS)
    value = penalty.penalty(state)
    logged = {name: float(scalar) for name, scalar in penalty.log().items()}
    layers, labels = LAYERS[:-1], LABELS["unbalanced"]

    def mean_over_layers(of_neuron):
        means = []
        for layer in layers:
            pooled_NU = state.activations[layer.node].mean((2, 3))
            means.append(sum(of_neuron(list(pooled_NU[:, u])).item() for u in range(layer.units)) / layer.units)
        return sum(means) / len(means)

    zeros = [(state.activations[layer.node] == 0).double().mean().item() for layer in layers]
    assert set(logged) == set(penalty.quantities)
    assert logged["penalty"] == value.item()
    assert logged["csi"] == pytest.approx(mean_over_layers(lambda v: slow_csi(v, labels, "mean")))
    assert logged["eta2"] == pytest.approx(mean_over_layers(lambda v: slow_eta2(v, labels)))
    assert logged["closed"] == pytest.approx(sum(zeros) / len(zeros))


@pytest.mark.parametrize("mode", PENALTIES)
def test_its_labels_are_a_function_of_seed_and_step(mode):
    (penalty,) = build([make(mode)], LAYERS)
    labels = list(range(CLASSES)) * 5
    drawn = [penalty._labels(make_state(labels, seed=s, step=t)).tolist() for s, t in [(0, 0), (0, 1), (1, 0)]]
    torch.rand(7)  # whatever else is drawn meanwhile
    again = penalty._labels(make_state(labels, seed=0, step=0)).tolist()
    assert again == drawn[0]
    if penalty.labels != "partition":  # whose classes are as large in the whole training set
        assert all(sorted(one) == sorted(labels) for one in drawn)
    assert len({tuple(one) for one in [*drawn, labels]}) == {"true": 1, "permuted": 4, "partition": 3}[penalty.labels]
    assert (drawn[0] == drawn[1]) == (penalty.labels != "permuted")


@pytest.mark.parametrize("mode", PENALTIES)
def test_it_acts_within_its_window_only(mode):
    (penalty,) = build([make(mode)], LAYERS, [(3, 5)])
    assert [step for step in range(10) if penalty.active(step)] == [3, 4]


NO_EFFECT = {
    "alpha 0": ({"alpha": 0.0}, (0, 5), "{}: alpha is 0, so it changes nothing", "or leave it out."),
    "empty window": ({}, (5, 5), "{}: its window [5, 5] holds no step", "End the window after its start."),
    "unknown stage": ({"stages": ("layer4",)}, (0, 5), "the model has no stage 'layer4'", "'layer3' or"),
    "no stage": ({"stages": ()}, (0, 5), "{}: it acts on no stage", "stages: [layer1, layer2, layer3]."),
}


@pytest.mark.parametrize("mode", PENALTIES)
@pytest.mark.parametrize("case", NO_EFFECT)
def test_no_effect_is_an_error(mode, case):
    changes, window, found, remedy = NO_EFFECT[case]
    config = make(mode, **changes)
    with pytest.raises(ConfigError) as error:
        build([config], LAYERS, [window])
    (name,) = name_interventions([config])
    assert found.format(f"setting up the intervention {name!r}") in str(error.value)
    assert remedy in str(error.value)


def test_a_network_of_one_stage_has_none_left_by_default():
    with pytest.raises(ConfigError, match=r"the last stage is left out by default; there are: layer1\)"):
        build([make("eta2")], LAYERS[:2])


def test_names_are_unique():
    configs = [make(mode) for mode in ("eta2", "eta2, permuted", "selectivity, sum", "eta2")]
    assert name_interventions(configs) == ["eta2", "eta2-permuted", "selectivity", "eta2-2"]
