"""`vestige.ablate` on small networks, against full forwards with hooks."""

from dataclasses import replace

import hooked
import numpy as np
import polars as pl
import pytest
import torch
import torchvision
from hooked import hooked_forward
from polars.testing import assert_frame_equal
from torch import nn

import vestige
from vestige.errors import ConfigError, DataError, StoreError
from vestige.measurement.ablation.blocks import BLOCK_IMAGES
from vestige.runs.tables import IDENTITY, SCHEMAS

N = 37
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module", name="images")
def _images():
    return hooked.images(N, 1, 8)


@pytest.fixture(scope="module", name="result")
def _result(model, images):
    return vestige.ablate(model, images, value=("zero", "mean", "resample"), batch_norm="stored", batch_size=8)


def expected_changes(model: nn.Module, images, layer: str, unit: int, fill: torch.Tensor | float) -> np.ndarray:
    """Change of cross-entropy of each image, by a hook, float64."""
    inputs, labels = images

    def hook(_module, _inputs, output):
        output = output.clone()
        output[:, unit] = fill
        return output

    before = model(inputs)
    handle = model.get_submodule(layer).register_forward_hook(hook)
    after = model(inputs)
    handle.remove()
    losses = [nn.functional.cross_entropy(logits.double(), labels, reduction="none") for logits in (before, after)]
    return (losses[1] - losses[0]).detach().numpy()


@torch.no_grad()
def test_every_value_equals_hooked_forwards(model, images, result):
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.clone()}))
        for name in ("layer1.0", "layer2.0", "layer3.0")
    ]
    model(images[0])
    for handle in handles:
        handle.remove()
    assert result.table.height == 3 * (8 + 16 + 32)
    for layer, maps in seen.items():
        for unit in (0, 3, 7):
            fills = {"zero": 0.0, "mean": maps[:, unit].mean(), "resample": maps[(torch.arange(N) + N // 2) % N, unit]}
            for value, fill in fills.items():
                row = result.table.row(
                    by_predicate=(pl.col("layer") == layer) & (pl.col("neuron") == unit) & (pl.col("value") == value),
                    named=True,
                )
                changes = expected_changes(model, images, layer, unit, fill)
                assert row["loss_delta"] == pytest.approx(changes.mean(), abs=3e-6)
                assert row["loss_delta_se"] == pytest.approx(changes.std(ddof=1) / np.sqrt(N), abs=3e-6)
                assert row["approximation_se"] == 0


def test_tables_are_those_of_the_schemas(model, images, result):
    for table, kind in ((result.table, "ablation"), (result.by_class, "ablation-by-class")):
        assert dict(table.schema) == {name: kind for name, kind in SCHEMAS[kind].items() if name not in IDENTITY}
    logits, labels = model(images[0]), images[1]
    assert result.intact["n"] == N
    assert result.intact["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert result.intact["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.groups is None
    assert result.ranking.columns == ["layer", "neuron", "csi", "mean", "preferred_class"]
    assert "Preferred classes and the means that replace neurons are of the same images." in result.notes
    assert result.settings["block_images"] == BLOCK_IMAGES
    measured = vestige.measure(model, images, permutations=0, batch_norm="stored")
    assert result.ranking["csi"].to_numpy() == pytest.approx(measured.table["csi"].to_numpy(), abs=1e-6)


@pytest.mark.parametrize("memory", [1, "1GiB"])
@pytest.mark.parametrize("kind", ["pieces", "loader", "list"])
def test_numbers_depend_on_neither_memory_nor_source_nor_folder(model, images, result, tmp_path, memory, kind):
    inputs, labels = images
    data = {
        "pieces": images,
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*images), batch_size=5),
        "list": [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])],
    }[kind]
    found = vestige.ablate(
        model,
        data,
        value=("zero", "mean", "resample"),
        batch_norm="stored",
        batch_size=8,
        memory=memory,
        folder=tmp_path / "f" if kind == "pieces" else None,
    )
    assert_frame_equal(found.table, result.table, check_exact=True)
    assert_frame_equal(found.by_class, result.by_class, check_exact=True)


def test_some_neurons_only(model, images, result):
    table = pl.DataFrame({"layer": ["layer1.0", "layer3.0", "layer3.0"], "neuron": [2, 31, 0]})
    wanted = result.table.filter(pl.col("value") == "zero").join(table, on=["layer", "neuron"], how="semi")
    options = {"batch_norm": "stored", "batch_size": 8}
    for neurons in (table, table.to_pandas(), {"layer1.0": [2], "layer3.0": torch.tensor([31, 0])}):
        found = vestige.ablate(model, images, neurons=neurons, **options)
        assert_frame_equal(found.table, wanted, check_exact=True)


@torch.no_grad()
def test_groups_are_ablated_together(model, images):
    rows = [
        ("layer1.0", 1, "b"),
        ("layer3.0", 5, "b"),
        ("layer1.0", 2, "a"),
        ("layer2.0", 3, "b"),
        ("layer2.0", 4, "c"),
    ]
    groups = pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row")
    found = vestige.ablate(model, images, groups=groups, value=("mean", "resample"), batch_norm="stored", batch_size=8)
    assert found.groups is not None
    assert found.groups.columns == [
        "group",
        "neurons",
        "value",
        "loss_delta",
        "loss_delta_se",
        "top1_delta",
        "right_to_wrong",
        "wrong_to_right",
    ]
    assert found.groups.select("group", "neurons", "value").rows() == [
        (group, n, value) for value in ("mean", "resample") for group, n in (("b", 3), ("a", 1), ("c", 1))
    ]
    inputs, labels = images
    mean = {(r["layer"], r["neuron"]): r["mean"] for r in found.ranking.to_dicts()}
    before = model(inputs)
    replaced = {layer: ([u], torch.tensor([mean[layer, u]])) for layer, u, group in rows if group == "b"}
    after = hooked_forward(model, inputs, replaced)
    losses = [nn.functional.cross_entropy(x.double(), labels, reduction="none") for x in (before, after)]
    right = [x.argmax(1) == labels for x in (before, after)]
    row = found.groups.row(0, named=True)
    assert row["loss_delta"] == pytest.approx((losses[1] - losses[0]).mean().item(), abs=3e-6)
    assert row["loss_delta_se"] == pytest.approx((losses[1] - losses[0]).std().item() / N**0.5, abs=3e-6)
    assert row["right_to_wrong"] == pytest.approx((right[0] & ~right[1]).double().mean().item())
    assert row["wrong_to_right"] == pytest.approx((~right[0] & right[1]).double().mean().item())
    # a group of one is the neuron alone, which is in the table too
    singles = {(r["layer"], r["neuron"], r["value"]): r["loss_delta"] for r in found.table.to_dicts()}
    assert len(singles) == 2 * len(rows)
    for row in found.groups.filter(pl.col("group") == "a").to_dicts():
        assert row["loss_delta"] == pytest.approx(singles["layer1.0", 2, row["value"]], abs=3e-6)


def test_without_the_last_layer_only_the_bias_of_the_head_is_left(model, images):
    inputs, labels = images
    groups = {"layer": ["layer3.0"] * 32, "neuron": list(range(32)), "group": ["all"] * 32}
    found = vestige.ablate(model, images, groups=groups, neurons={}, value="zero", batch_norm="stored").groups
    with torch.no_grad():
        logits = model(inputs).double()
        (head,) = (module for module in model.modules() if isinstance(module, nn.Linear))
        bias = head.bias.double().expand(N, -1)
        losses = [nn.functional.cross_entropy(rows, labels) for rows in (bias, logits)]
        right = [(rows.argmax(1) == labels).double().mean() for rows in (bias, logits)]
    row = found.row(0, named=True)
    assert row["loss_delta"] == pytest.approx(float(losses[0] - losses[1]), abs=1e-6)
    assert row["top1_delta"] == pytest.approx(float(right[0] - right[1]), abs=1e-6)


def test_each_image_s_change_is_written(model, images, result, tmp_path):
    vestige.ablate(model, images, batch_norm="stored", batch_size=8, per_input=True, folder=tmp_path)
    changes = np.load(tmp_path / "per_input/zero/layer2.0.npy")
    assert changes.shape == (16, N)
    assert changes.dtype == np.float32
    expected = expected_changes(model, images, "layer2.0", 3, 0.0)
    np.testing.assert_allclose(changes[3], expected, atol=2e-5)
    table = result.table.filter((pl.col("layer") == "layer2.0") & (pl.col("value") == "zero"))
    np.testing.assert_allclose(changes.mean(1), table["loss_delta"].to_numpy(), atol=1e-6)


class Forked(nn.Module):
    """A network that no tracer takes: what it does depends on its input."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) if x.sum() < 1e9 else self.model(-x)


def test_a_network_that_is_not_traced(model, images, result):
    groups = {"layer": ["model.layer1.0", "model.layer3.0"], "neuron": [1, 5], "group": [0, 0]}
    neurons = {"model.layer2.0": [0, 3]}
    options = {"value": ("zero", "mean", "resample"), "batch_norm": "stored", "batch_size": 8}
    found = vestige.ablate(Forked(model), images, neurons=neurons, groups=groups, **options)
    assert any("runs whole forwards" in note for note in found.notes)
    same = result.table.filter((pl.col("layer") == "layer2.0") & pl.col("neuron").is_in([0, 3]))
    columns = ["neuron", "value", "loss_delta", "loss_delta_se", "top1_delta", "preferred_class"]
    assert_frame_equal(found.table.select(columns), same.select(columns), abs_tol=3e-6, check_exact=False)
    traced = vestige.ablate(model, images, neurons={}, groups={**groups, "layer": ["layer1.0", "layer3.0"]}, **options)
    assert_frame_equal(found.groups, traced.groups, abs_tol=3e-6, check_exact=False)


def test_estimated_modes(model):
    images = hooked.images(300, 1, 8)
    options = {"batch_norm": "stored", "value": ("zero", "resample")}
    exact = vestige.ablate(model, images, **options)
    controlled = vestige.ablate(model, images, mode="controlled", precision=1.5, seed=3, **options)
    screen = vestige.ablate(model, images, mode="screen", **options)
    keys = ["stage", "layer", "neuron", "value"]
    assert_frame_equal(controlled.table.select(keys), exact.table.select(keys))
    assert_frame_equal(screen.table.select(keys), exact.table.select(keys))
    off = np.abs((controlled.table["loss_delta"] - exact.table["loss_delta"]).to_numpy())
    error = controlled.table["approximation_se"].to_numpy()
    assert (off <= 5 * error + 1e-6).all()
    assert (error > 0).any()
    total = controlled.table["loss_delta_se"].to_numpy()
    assert (total >= error).all()
    assert set(controlled.table["mode"]) == {"controlled"}
    assert controlled.settings["precision"] == 1.5
    for value, said in screen.settings["screening_spearman"].items():
        of_value = screen.table["value"] == value
        both = [t.filter(of_value)["loss_delta"].rank().to_numpy() for t in (screen.table, exact.table)]
        assert said == pytest.approx(np.corrcoef(*both)[0, 1], abs=0.05)  # 56 neurons: all are in the sample
        assert f"{said:.3f} ({value})" in screen.notes[-2]
    assert screen.table["approximation_se"].is_nan().all()


def test_held_out_and_ranking_data(model, images):
    inputs, labels = images
    options = {"value": "mean", "batch_norm": "stored", "batch_size": 8}
    halves = vestige.ablate(model, images, held_out=True, **options)
    first = np.zeros(N, dtype=bool)
    for c in range(10):
        first[np.flatnonzero(labels.numpy() == c)[::2]] = True
    ranked_on = (inputs[first], labels[first])
    other = vestige.ablate(model, (inputs[~first], labels[~first]), ranking_data=ranked_on, **options)
    assert halves.intact["n"] == (~first).sum()
    assert_frame_equal(halves.table, other.table, check_exact=True)
    assert "Preferred classes and the means that replace neurons are of the other half of the images." in halves.notes
    assert "Preferred classes and the means that replace neurons are of ranking_data." in other.notes


def test_layers_that_can_be_negative_get_their_mean():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    found = vestige.ablate(model, (torch.randn(30, 6), torch.arange(30) % 3))
    assert dict(found.table.select("layer", "value").unique().rows()) == {"1": "mean", "3": "zero"}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions(model, images, result, dtype):
    found = vestige.ablate(
        model, images, neurons={"layer2.0": range(8)}, batch_norm="stored", batch_size=8, dtype=dtype
    )
    same = result.table.filter((pl.col("layer") == "layer2.0") & (pl.col("neuron") < 8) & (pl.col("value") == "zero"))
    off = np.abs(found.table["loss_delta"].to_numpy() - same["loss_delta"].to_numpy()).max()
    assert 0 < off < (3e-6 if dtype == "float64" else 0.05)
    assert any("bfloat16: on the first" in note for note in found.notes) == (dtype == "bfloat16")


def test_groups_in_bfloat16_of_a_network_that_is_deep():
    """Replays round otherwise than the whole network, by more than float32 would ever."""
    model, images = hooked.randomised(torchvision.models.resnet18(num_classes=10)), hooked.images(12, 3, 32)
    groups = {"layer": ["layer1.0", "layer2.0"], "neuron": [1, 2], "group": ["a", "a"]}
    deltas = []
    for dtype in ("float32", "bfloat16"):
        found = vestige.ablate(model, images, groups=groups, batch_norm="stored", dtype=dtype)
        assert found.groups is not None
        deltas.append(found.groups["loss_delta"].item())
    assert 0 < abs(deltas[0] - deltas[1]) < 0.05


def test_a_class_map(model, images, result):
    inputs, labels = images
    found = vestige.ablate(
        model, (inputs, 9 - labels), class_map=list(range(10))[::-1], batch_norm="stored", batch_size=8
    )
    assert_frame_equal(found.table, result.table.filter(pl.col("value") == "zero"), check_exact=True)


def test_only_what_is_a_caveat_is_warned_of(model, images, recwarn):
    result = vestige.ablate(model, images, neurons={"layer3.0": [0]}, batch_norm="stored")
    assert result.notes == ("Preferred classes are of the same images.",)
    assert not [one for one in recwarn if one.category is UserWarning]
    with pytest.warns(UserWarning, match="rank correlation with exact ablation"):
        vestige.ablate(model, images, neurons={"layer3.0": [0, 1, 2]}, batch_norm="stored", mode="screen")


def test_progress_reaches_its_end(model, images):
    seen = []
    vestige.ablate(
        model,
        images,
        neurons={"layer3.0": [1, 2]},
        batch_norm="stored",
        batch_size=8,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen[-1] == (2 * N, 2 * N)
    assert seen == sorted(seen)
    assert len(seen) > 4


def test_tables_are_written_with_what_made_them(result, tmp_path):
    result.to_parquet(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "ablation.parquet",
        "ablation_by_class.parquet",
        "ranking.parquet",
    }
    assert_frame_equal(pl.read_parquet(tmp_path / "ablation.parquet"), result.table, check_exact=True)


BAD = {
    "value": (
        {"value": "nought"},
        "ablating neurons: there is no value 'nought'. Choose one of 'zero', 'mean', 'resample'.",
    ),
    "mode": ({"mode": "exactly"}, "ablating neurons: there is no mode 'exactly'. Did you mean 'exact'?"),
    "precision": ({"precision": 1.0}, "ablating neurons: precision is 1.0. Give a number above 1, such as 1.1."),
    "memory": (
        {"memory": "1 banana"},
        "reading the memory limit: '1 banana' is no amount of memory. Write bytes, '4GiB' or '500MB'.",
    ),
    "no memory": (
        {"memory": 0},
        "reading the memory limit: '0' is no amount of memory. Write bytes, '4GiB' or '500MB'.",
    ),
    "neuron": (
        {"neurons": {"layer1.0": [0, 8]}},
        "choosing neurons to ablate: layer 'layer1.0' has no neuron 8. Its neurons are 0 to 7.",
    ),
    "no index": (
        {"neurons": {"layer1.0": ["first"]}},
        "choosing neurons to ablate: layer 'layer1.0' has no neuron 'first'. Its neurons are 0 to 7.",
    ),
    "none": (
        {"neurons": {"layer1.0": []}},
        "choosing neurons to ablate: none is named. Name one at least, or leave it out for all.",
    ),
    "no table": (
        {"neurons": 3},
        "choosing neurons to ablate: neurons is a int. Give a table with the columns layer and neuron.",
    ),
    "groups": (
        {"groups": {"layer": ["layer1.0"], "neuron": [0]}},
        "reading the groups of neurons: the table has no column 'group', but layer and neuron. "
        "Give a table with the columns layer, neuron and group.",
    ),
    "no groups": (
        {"groups": {"layer": [], "neuron": [], "group": []}},
        "reading the groups of neurons: the table has no row. Give a row for each neuron of a group.",
    ),
    "per_input": (
        {"per_input": True},
        "ablating neurons: per_input=True without a folder. Give a folder, and mode='exact'.",
    ),
    "both": (
        {"held_out": True, "ranking_data": (torch.zeros(1), torch.zeros(1))},
        "ablating neurons: both ranking_data and held_out=True. Give one of them.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_said(model, images, name):
    options, message = BAD[name]
    with pytest.raises(ConfigError) as caught:
        vestige.ablate(model, images, **options)
    assert str(caught.value) == message


def test_an_unknown_layer_is_said(model, images):
    for options in ({"neurons": {"layer9": [0]}}, {"groups": {"layer": ["layer9"], "neuron": [0], "group": [0]}}):
        with pytest.raises(ValueError, match="layer9"):
            vestige.ablate(model, images, **options)


def test_a_folder_of_another_model_is_refused(model, images, tmp_path):
    options = {"neurons": {"layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
    vestige.ablate(model, images, **options)
    with pytest.raises(StoreError) as caught:
        vestige.ablate(hooked.randomised(hooked.resnet8(), seed=1), images, **options)
    assert str(caught.value).startswith(
        f"going on in {tmp_path / 'pieces'}: its pieces were made by other settings: weights is "
    )
    assert str(caught.value).endswith("Give another folder, or delete this one.")


class Scaled(nn.Module):
    """A network whose weights do not say all that it does."""

    def __init__(self, model: nn.Module, buffer: float = 1.0, constant: float = 1.0):
        super().__init__()
        self.model, self.constant = model, constant
        self.register_buffer("scale", torch.tensor(buffer), persistent=False)

    def forward(self, x):
        return self.model(x * self.constant) * self.scale


@pytest.mark.parametrize(("change", "said"), [({"buffer": 2.0}, "buffers is"), ({"constant": 2.0}, "intact is")])
def test_a_folder_of_another_forward_is_refused(model, images, tmp_path, change, said):
    options = {"neurons": {"model.layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
    for _ in range(2):
        vestige.ablate(Scaled(model), images, **options)
    with pytest.raises(StoreError, match=said):
        vestige.ablate(Scaled(model, **change), images, **options)


@pytest.mark.parametrize("kind", ["tensors", "batches", "dataset", "ranking_data"])
def test_a_folder_of_other_images_is_refused(model, images, tmp_path, kind):
    changed = images[0].clone()
    changed[-1] += 1

    def ablate(inputs):
        pairs = list(zip(inputs, images[1].tolist(), strict=True))
        data = {
            "tensors": (inputs, images[1]),
            "batches": [(inputs[:30], images[1][:30]), (inputs[30:], images[1][30:])],
            "dataset": Listed(pairs),
            "ranking_data": images,
        }[kind]
        other = (inputs, images[1]) if kind == "ranking_data" else None
        options = {"neurons": {"layer1.0": [0]}, "batch_norm": "stored", "batch_size": 8, "folder": tmp_path}
        return vestige.ablate(model, data, ranking_data=other, **options)

    for _ in range(2):
        ablate(images[0])
    with pytest.raises(StoreError, match=r"data\.inputs is"):
        ablate(changed)


class Listed(torch.utils.data.Dataset):
    """A map-style dataset."""

    def __init__(self, pairs: list):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index: int):
        return self.pairs[index]


def test_layers_of_one_name_have_pieces_of_their_own(model, images, tmp_path):
    """A layer that is read elsewhere under the name that another had."""
    first, second = (
        vestige.ablate(model, images, layers=[name], neurons={name: [0]}, batch_norm="stored")
        for name in ("layer1.0", "layer3.0")
    )
    renamed = replace(second.layers[0], name="layer1.0")
    for layers, expected in ((first.layers, first), ([renamed], second)):
        options = {"layers": layers, "neurons": {"layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
        found = vestige.ablate(model, images, **options)
        assert found.table["loss_delta"].to_list() == expected.table["loss_delta"].to_list()


def test_data_that_can_be_read_once_are_refused(model, images):
    with pytest.raises(DataError, match="can be read only once"):
        vestige.ablate(model, iter([images]))


@pytest.mark.parametrize("mode", ["screen", "controlled"])
@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_infinite_gradients_leave_no_hole_in_the_table(mode, value, images):
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.second = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Linear(6, 10)

        def forward(self, x):
            return self.second(torch.sqrt(self.relu(self.first(x))).mean((2, 3)))

    torch.manual_seed(0)
    found = vestige.ablate(Rooted().eval(), images, mode=mode, value=value, batch_norm="stored").table
    for column in ("loss_delta", "top1_delta", "preferred_delta"):
        assert found[column].is_finite().all()


ROWS = {"layer": ["layer1.0"] * 3, "neuron": [0, 1, 2]}
NO_GROUPS = {
    "nan": ({**ROWS, "group": ["a", float("nan"), "a"]}, "a group is named nan. Name every group by text or a number."),
    "none": ({**ROWS, "group": ["a", None, "a"]}, "a group is named None. Name every group by text or a number."),
    "list": ({**ROWS, "group": [[1], [1], [2]]}, "a group is named [1], a list. Name every group by text or a number."),
    "alike": (
        {**ROWS, "group": ["1", 1, 1]},
        "2 groups are named 1, as text and otherwise. Give each a name of its own, of one type.",
    ),
    "unequal": (
        {**ROWS, "group": ["a", "b"]},
        "the columns layer, neuron and group have 3, 3 and 2 rows. Give columns of equal length.",
    ),
}


@pytest.mark.parametrize("name", NO_GROUPS)
@pytest.mark.parametrize("layers", [None, ["layer1.0"]])
def test_groups_that_cannot_be_read_are_said_before_any_work(name, layers, model):
    groups, message = NO_GROUPS[name]
    with pytest.raises(ConfigError) as caught:  # the images would be refused when they are read
        vestige.ablate(model, None, layers, groups=groups)
    assert str(caught.value) == f"reading the groups of neurons: {message}"


def test_neurons_in_columns_of_unequal_length_are_said_before_any_work(model):
    with pytest.raises(ConfigError) as caught:
        vestige.ablate(model, None, neurons={"layer": ["layer1.0"], "neuron": [0, 1]})
    assert str(caught.value) == (
        "choosing neurons to ablate: the columns layer and neuron have 1 and 2 rows. Give columns of equal length."
    )


def test_groups_are_named_as_text(model, images):
    found = vestige.ablate(model, images, groups={**ROWS, "group": ["a", 1, 1]}, batch_norm="stored", batch_size=8)
    assert found.groups is not None
    assert found.groups.select("group", "neurons").rows() == [("a", 1), ("1", 2)]


def test_a_value_that_is_given_twice_is_ablated_once(model, images):
    options = {"neurons": {"layer1.0": [0, 1]}, "batch_norm": "stored", "batch_size": 8}
    twice = vestige.ablate(model, images, value=["zero", "zero"], groups={**ROWS, "group": ["a"] * 3}, **options)
    assert twice.groups is not None
    assert twice.table.height == 2
    assert twice.groups.height == 1
    assert_frame_equal(twice.table, vestige.ablate(model, images, value="zero", **options).table)


def test_one_neuron_is_too_few_to_check_screening(model, images):
    found = vestige.ablate(model, images, neurons={"layer1.0": [0]}, value="zero", mode="screen", batch_norm="stored")
    assert found.settings["screening_spearman"] is None
    assert any("too few neurons" in note for note in found.notes)
