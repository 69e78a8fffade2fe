"""`vestige.ablate` on small networks, against full forwards with hooks."""

import platform
from pathlib import Path

import hooked
import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

import vestige
from vestige.measurement.ablation import quickening
from vestige.measurement.ablation.blocks import BLOCK_IMAGES
from vestige.runs.tables import IDENTITY, SCHEMAS

N = 37
CPUINFO = Path("/proc/cpuinfo")
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
def test_other_precisions(model, images, result, dtype, monkeypatch):
    monkeypatch.setattr(quickening, "multiplies_bfloat16", lambda device: True)
    found = vestige.ablate(
        model, images, neurons={"layer2.0": range(8)}, batch_norm="stored", batch_size=8, dtype=dtype
    )
    same = result.table.filter((pl.col("layer") == "layer2.0") & (pl.col("neuron") < 8) & (pl.col("value") == "zero"))
    off = np.abs(found.table["loss_delta"].to_numpy() - same["loss_delta"].to_numpy()).max()
    assert 0 < off < (3e-6 if dtype == "float64" else 0.05)
    assert any("bfloat16: on the first" in note for note in found.notes) == (dtype == "bfloat16")


def test_bfloat16_where_it_is_slower_is_float32(model, images, result, monkeypatch):
    monkeypatch.setattr(quickening, "multiplies_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match="no matrix units for it and is slower in it than in float32, which was used"):
        found = vestige.ablate(
            model, images, neurons={"layer2.0": range(8)}, batch_norm="stored", batch_size=8, dtype="bfloat16"
        )
    same = result.table.filter((pl.col("layer") == "layer2.0") & (pl.col("neuron") < 8) & (pl.col("value") == "zero"))
    assert_frame_equal(found.table, same, check_exact=True)
    assert found.settings["dtype"] == "float32"


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.exists(), reason="processors are asked otherwise")
def test_whether_a_processor_multiplies_in_bfloat16():
    assert quickening.multiplies_bfloat16(torch.device("cpu")) == ("amx_bf16" in CPUINFO.read_text())
    assert quickening.multiplies_bfloat16(torch.device("cuda"))


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


def test_one_neuron_is_too_few_to_check_screening(model, images):
    found = vestige.ablate(model, images, neurons={"layer1.0": [0]}, value="zero", mode="screen", batch_norm="stored")
    assert found.settings["screening_spearman"] is None
    assert any("too few neurons" in note for note in found.notes)
