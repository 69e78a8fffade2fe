import hooked
import pytest
import torch
from hooked import CLASSES, TILE, N
from torch import nn
from torch.nn.functional import cross_entropy

from vestige.errors import ModelError
from vestige.measurement.ablation.replacing import Constant, Donors, constant
from vestige.measurement.ablation.screening import Screen
from vestige.measurement.network import Network

ALL = CLASSES - 1


def replacement(value: str, maps_TU: torch.Tensor, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    if value == "resample":
        return Donors(maps_TU.roll(1, 0))
    return constant(value, torch.rand(maps_TU.shape[1], generator=generator), maps_TU)


@pytest.fixture(name="tile")
def _tile(images):
    return hooked.tiles(*images, 32)[0]  # padded


def exact_changes(model: nn.Module, layer, inputs, labels, written_TU) -> torch.Tensor:
    """Changes of loss, (T, U), by full forwards in float64 with one channel written at a time."""
    model = model.double()
    module = model.get_submodule(layer.name)

    def loss(unit: int | None) -> torch.Tensor:
        def hook(_module, _arguments, output):
            output = output.clone()
            if unit is not None:
                output[:, unit] = written_TU[:, unit].double()
            return output

        handle = module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                return cross_entropy(model(inputs.double()), labels, reduction="none")
        finally:
            handle.remove()

    return torch.stack([loss(unit) - loss(None) for unit in range(layer.units)], 1)


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_what_is_followed_by_linear_operations_alone_is_exact(value, model, images, network, tile):
    screen = Screen(network, opponents=ALL)
    run, layer = screen.run(tile), network.layers[-1]
    maps_TU = run.maps[layer.name]
    replaced = replacement(value, maps_TU)
    (found,) = screen.estimates(run, [(layer, replaced)])
    written_TU = (
        replaced.maps_TU if isinstance(replaced, Donors) else replaced.fills_U[:, None, None].expand_as(maps_TU)
    )
    expected_TU = exact_changes(hooked.resnet8(), layer, *images, written_TU)
    assert expected_TU.abs().max() > 0.05
    torch.testing.assert_close(found.loss.double(), expected_TU, rtol=1e-4, atol=1e-6)
    assert found.loss.shape == (N, layer.units)
    torch.testing.assert_close(run.logits, model(images[0]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opponents", [3, ALL])
def test_estimates_are_those_of_slow_derivatives(opponents, images, network, tile):
    """In float64, one neuron and one image at a time, at a layer that is followed by a residual block."""
    layer = network.layers[1]
    screen = Screen(network, [layer], opponents)
    run = screen.run(tile)
    replaced = replacement("mean", run.maps[layer.name])
    (found,) = screen.estimates(run, [(layer, replaced)])
    model, inputs, labels = hooked.resnet8().double(), images[0].double(), images[1]
    activations = []
    model.get_submodule(layer.name).register_forward_hook(lambda _m, _a, output: activations.append(output))
    for image in (0, 7, 20):
        activations.clear()
        logits_C = model(inputs[image : image + 1])[0]
        ranked = logits_C.detach()
        label = int(labels[image])
        others = sorted((c for c in range(CLASSES) if c != label), key=lambda c: -float(ranked[c]))
        odds = [logits_C[c] - logits_C[label] for c in others[:opponents]]
        if others[opponents:]:
            odds.append(torch.logsumexp(logits_C[others[opponents:]], 0) - logits_C[label])
        gradients = [torch.autograd.grad(o, activations[0], retain_graph=True)[0][0] for o in odds]
        for unit in (0, 3, layer.units - 1):
            change = replaced.fills_U[unit] - activations[0][0, unit].detach()
            moved = torch.stack([(g[unit] * change).sum() for g in gradients])
            absolute = torch.stack([(g[unit] * change).abs().sum() for g in gradients])
            before = torch.stack(odds).detach()
            after = before + moved
            total = [torch.log(1 + o.exp().sum()) for o in (before, after)]
            assert float(found.loss[image, unit]) == pytest.approx(float(total[1] - total[0]), rel=1e-3, abs=1e-6)
            weights = (before.exp() / (1 + before.exp().sum()) + after.exp() / (1 + after.exp().sum())) / 2
            assert float(found.size[image, unit]) == pytest.approx(float((weights * absolute).sum()), rel=1e-3)
            assert float(found.margin[image, unit]) == pytest.approx(
                -float(after[:opponents].max()), rel=1e-3, abs=1e-5
            )


def test_all_layers_together_are_each_alone(network, tile):
    screen = Screen(network)
    run = screen.run(tile)
    asked = [
        (layer, replacement(value, run.maps[layer.name])) for layer in network.layers for value in ("zero", "mean")
    ]
    together = screen.estimates(run, asked)
    for (layer, replaced), found in zip(asked, together, strict=True):
        alone = Screen(network, [layer])
        (expected,) = alone.estimates(alone.run(tile), [(layer, replaced)])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_silent_neuron_is_predicted_to_do_nothing(model, images, tile):
    model = hooked.resnet8()
    with torch.no_grad():
        model.layer3[0].bn2.weight[5] = 0
        model.layer3[0].bn2.bias[5] = -100
    network = Network.prepare(model, images[0][:2])
    screen = Screen(network)
    run, layer = screen.run(tile), network.layers[-1]
    (found,) = screen.estimates(run, [(layer, replacement("zero", run.maps[layer.name]))])
    assert (found.size[:, 5] == 0).all()
    assert (found.loss[:, 5] == 0).all()
    torch.testing.assert_close(found.margin[:, 5], run.margin)
    changed_TU = run.maps[layer.name].flatten(2).any(2)
    assert torch.equal(found.size > 0, changed_TU)


class Branching(nn.Module):
    """A network that cannot be traced; its activations are overwritten after they were made."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, CLASSES)
        self.relu = nn.ReLU()

    def forward(self, x):
        a = self.relu(self.first(x))
        if float(a.sum()) > -1:
            a.mul_(2)
        return self.second(a)


def test_a_network_that_is_not_traced_is_estimated_too():
    torch.manual_seed(0)
    model = Branching().eval()
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(5, 6, generator=generator), torch.tensor([0, 1, 2, 3, 4])
    network = Network.prepare(model, inputs[:2])
    assert not network.graph.traced
    screen = Screen(network, opponents=ALL)
    run, layer = screen.run(hooked.tiles(inputs, labels, 8)[0]), network.layers[0]
    (found,) = screen.estimates(run, [(layer, Constant(torch.zeros(12), 0))])
    with torch.no_grad():
        hidden = (inputs @ model.first.weight.T + model.first.bias).relu()
        torch.testing.assert_close(run.maps[layer.name], hidden)

        def loss(hidden):
            return cross_entropy(2 * hidden @ model.second.weight.T + model.second.bias, labels, reduction="none")

        for unit in range(12):
            without = hidden.clone()
            without[:, unit] = 0
            torch.testing.assert_close(found.loss[:, unit], loss(without) - loss(hidden), rtol=1e-4, atol=1e-6)


def test_a_network_that_has_diverged_is_refused(images):
    model = hooked.resnet8()
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.nan
    screen = Screen(Network.prepare(model, images[0][:2]))
    with pytest.raises(ModelError, match="its output gives values that are not finite"):
        screen.run(hooked.tiles(*images, TILE)[0])


class Rooted(nn.Module):
    """A square root of activations that are 0 in places: the gradient there is infinite."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.second(torch.sqrt(self.relu(self.first(x))).mean((2, 3)))


@pytest.fixture(name="rooted")
def _rooted():
    torch.manual_seed(0)
    return Rooted().eval()


def test_infinite_gradients_do_nothing_where_nothing_changes(rooted, images):
    """Set to zero, what is 0 stays it; elsewhere the estimate is the slow first-order one."""
    network, tile = Network.prepare(rooted, images[0][:2]), hooked.tiles(*images, 32)[0]
    screen = Screen(network, opponents=ALL)
    run, layer = screen.run(tile), network.layers[0]
    maps_TU = run.maps[layer.name]
    assert (maps_TU == 0).any()
    (found,) = screen.estimates(run, [(layer, replacement("zero", maps_TU))])
    # The root's gradient times the change is -sqrt(a) / 2.
    pooled_TU = maps_TU.sqrt().mean((2, 3))
    with torch.no_grad():
        for unit in range(layer.units):
            half = pooled_TU.clone()
            half[:, unit] /= 2
            before, after = (cross_entropy(rooted.second(x), images[1], reduction="none") for x in (pooled_TU, half))
            torch.testing.assert_close(found.loss[:, unit], after - before, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_estimated_is_drawn_as_often_as_anything(rooted, images):
    network, tile = Network.prepare(rooted, images[0][:2]), hooked.tiles(*images, 32)[0]
    screen = Screen(network)
    run, layer = screen.run(tile), network.layers[0]
    (found,) = screen.estimates(run, [(layer, Constant(torch.full((layer.units,), 0.1), 2))])
    unknown_TU = (run.maps[layer.name] == 0).flatten(2).any(2)
    assert unknown_TU.any()
    for estimate in found:
        assert estimate.isfinite().all()
    assert (found.loss[unknown_TU] == 0).all()
    assert (found.size[unknown_TU] == found.size.max()).all()
