import hooked
import numpy as np
import polars as pl
import pytest
import torch
from hooked import TILE, N

from vestige.config import CumulativeConfig
from vestige.errors import ConfigError, DataError
from vestige.measurement.ablation.cumulative import ablate_cumulatively, split_halves
from vestige.measurement.ranking import replaced_first
from vestige.runs.tables import SCHEMAS

CONFIG = CumulativeConfig(
    orders=("csi-desc", "csi-asc", "activity-matched", "random"),
    fractions=5,
    draws=2,
    values=("zero", "mean"),
)


@pytest.fixture(scope="module", name="table")
def _table(network, images, ranking):
    return ablate_cumulatively(network, hooked.tiles(*images, TILE), ranking=ranking, config=CONFIG)


def slow_point(model, images, network, ranking, scope, value, sets):
    """Top-1 and loss by hooks, with the given neurons of each layer of the scope replaced."""
    replaced = {
        layer.name: (
            list(sets[layer.name]),
            torch.tensor([ranking.mean[layer.name][u].item() if value == "mean" else 0.0 for u in sets[layer.name]]),
        )
        for layer in network.layers
        if scope in ("all", layer.stage)
    }
    inputs, labels = images
    logits = hooked.hooked_forward(model, inputs, replaced).double()
    loss = -torch.log(logits.softmax(1))[torch.arange(len(labels)), labels].mean()
    return {"top1": (logits.argmax(1) == labels).double().mean().item(), "loss": loss.item()}


def point(table, **where):
    rows = table.filter(*(pl.col(name) == value for name, value in where.items())).select("top1", "loss").unique()
    assert len(rows) == 1
    return rows.row(0, named=True)


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("scope", ["layer1", "layer2", "layer3", "all"])
def test_both_ends_equal_hooks(model, images, network, ranking, table, scope, value):
    nothing = {layer.name: [] for layer in network.layers}
    everything = {layer.name: range(layer.units) for layer in network.layers}
    for fraction, sets in ((0.0, nothing), (1.0, everything)):
        expected = slow_point(model, images, network, ranking, scope, value, sets)
        found = point(table, scope=scope, value=value, fraction=fraction)  # the same in all orders and draws
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("order", "sign"), [("csi-desc", -1), ("csi-asc", 1)])
@pytest.mark.parametrize("scope", ["layer2", "all"])
@pytest.mark.parametrize("value", ["zero", "mean"])
def test_half_of_the_neurons_equals_hooks(model, images, network, ranking, table, scope, value, order, sign):
    sets = {
        layer.name: sorted(range(layer.units), key=lambda u: sign * ranking.csi[layer.name][u].item())[
            : layer.units // 2
        ]
        for layer in network.layers
    }
    expected = slow_point(model, images, network, ranking, scope, value, sets)
    found = point(table, scope=scope, value=value, fraction=0.5, order=order)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found["loss"] != point(table, scope=scope, value=value, fraction=0.0)["loss"]


def test_random_points_equal_hooks(model, images, network, ranking, table):
    for draw in (0, 1):
        sets = {}
        for layer in network.layers:
            csi_U, mean_U = ranking.csi[layer.name].numpy(), ranking.mean[layer.name].numpy()
            first_U = replaced_first("random", csi_U, mean_U, layer=layer.name, draw=draw)
            sets[layer.name] = first_U[: 3 * layer.units // 4].tolist()
        expected = slow_point(model, images, network, ranking, "all", "zero", sets)
        found = point(table, scope="all", value="zero", fraction=0.75, order="random", draw=draw)
        assert found == pytest.approx(expected, abs=1e-5)


def test_table_has_a_row_a_point(table):
    identity = ["condition", "seed", "step", "epoch", "protocol", "dataset", "split", "n"]
    assert set(table.columns) == set(SCHEMAS["cumulative"]) - set(identity)
    assert len(table) == len(table.unique(["order", "scope", "value", "draw", "fraction"])) == 4 * 2 * 6 * 5
    assert sorted(table["fraction"].unique()) == [0, 0.25, 0.5, 0.75, 1]


def test_table_does_not_depend_on_how_images_are_tiled(network, images, ranking, table):
    found = ablate_cumulatively(network, hooked.tiles(*images, N), ranking=ranking, config=CONFIG)
    assert found["top1"].to_list() == pytest.approx(table["top1"].to_list(), abs=1e-9)
    assert found["loss"].to_list() == pytest.approx(table["loss"].to_list(), abs=1e-6)


def test_one_value_alone_gives_the_same_bits(network, images, ranking, table):
    config = CONFIG.model_copy(update={"values": ("mean",)})
    found = ablate_cumulatively(network, hooked.tiles(*images, TILE), ranking=ranking, config=config)
    assert found.equals(table.filter(pl.col("value") == "mean"))


def test_halves_alternate_within_each_class():
    ranking, ablation = split_halves(np.array([3, 1, 3, 3, 1, 0, 3]))
    assert ranking.tolist() == [0, 1, 3, 5]
    assert ablation.tolist() == [2, 4, 6]


def test_halves_of_single_images():
    with pytest.raises(DataError) as caught:
        split_halves(np.array([2, 0, 1]))
    assert str(caught.value) == (
        "halving the images, to rank neurons on one half and ablate on the other: none of 3 images shares "
        "its class with another. Give at least two images of each class."
    )


def test_ranking_equals_slow_loops_over_hooks(model, network, ranking):
    inputs, labels = hooked.images(40, 1, 8, seed=9)
    for layer in network.layers:
        seen = []
        handle = model.get_submodule(layer.name).register_forward_hook(
            lambda module, arguments, output, seen=seen: seen.append(output.double().numpy())
        )
        hooked.hooked_forward(model, inputs, {})
        handle.remove()
        (maps,) = seen
        for u in range(layer.units):
            means = [maps[labels.numpy() == c, u].mean() if (labels == c).any() else -1 for c in range(hooked.CLASSES)]
            present = sorted(m for m in means if m >= 0)
            highest, rest = present[-1], sum(present[:-1]) / len(present[:-1])
            assert ranking.mean[layer.name][u].item() == pytest.approx(maps[:, u].mean(), abs=1e-6)
            assert ranking.preferred[layer.name][u].item() == int(np.argmax(means))
            csi = (highest - rest) / (highest + rest + 1e-6)
            assert ranking.csi[layer.name][u].item() == pytest.approx(csi, abs=1e-5)


CSI_U, MEAN_U = np.random.default_rng(5).random((2, 60))


def order_of(order, layer="a", draw=0):
    return replaced_first(order, CSI_U, MEAN_U, layer=layer, draw=draw)


@pytest.mark.parametrize("order", ["csi-desc", "csi-asc", "activity-matched", "random"])
def test_an_order_has_every_neuron_once(order):
    assert sorted(order_of(order)) == list(range(60))


def test_orders_by_csi():
    csi_U = np.array([0.2, 0.0, 0.9, 0.0])
    assert replaced_first("csi-desc", csi_U, csi_U, layer="a", draw=0).tolist() == [2, 0, 1, 3]
    assert replaced_first("csi-asc", csi_U, csi_U, layer="a", draw=0).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("order", ["activity-matched", "random"])
def test_drawn_orders_differ_by_draw_and_layer_and_are_fixed(order):
    orders = {tuple(order_of(order, layer, draw)) for layer in "ab" for draw in range(3)}
    assert len(orders) == 6
    assert (order_of(order) == order_of(order)).all()


def test_random_orders_stay_those_of_published_results():
    few_U = np.zeros(8)
    order_U = replaced_first("random", few_U, few_U, layer="layer1.0", draw=0)
    assert order_U.tolist() == [3, 6, 7, 5, 2, 4, 1, 0]


def test_activity_matched_has_the_deciles_of_csi_desc_at_every_place():
    decile_U = np.searchsorted(np.quantile(MEAN_U, np.arange(1, 10) / 10), MEAN_U)
    matched, descending = order_of("activity-matched"), order_of("csi-desc")
    assert (decile_U[matched] == decile_U[descending]).all()
    assert (matched != descending).sum() > 20


def test_unknown_order():
    with pytest.raises(ConfigError, match=r"ordering neurons to ablate: there is no order 'csi'. Did you mean 'csi-"):
        order_of("csi")
