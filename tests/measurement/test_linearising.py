"""`vestige.linearity` on other people's models and data: numbers by hand, and a model left as it was."""

import json
import math
import warnings

import numpy as np
import polars as pl
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vestige
from vestige.errors import ConfigError, DataError, ModelError
from vestige.measurement import linearising
from vestige.models.zoo import ResNet
from vestige.runs.tables import SCHEMAS

torch.set_num_threads(1)

N, C = 36, 3
LABELS_N = torch.arange(N) % C


def measured(model, data, *arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vestige.linearity(model, data, *arguments, **{"batch_size": 16} | settings)


def values(table, measure, column="value"):
    rows = table.filter(pl.col("measure") == measure)
    return {(row["layer"], row["other"]): row[column] for row in rows.iter_rows(named=True)}


def resnet8():
    torch.manual_seed(0)
    return ResNet(8, classes=C, width=4)


def mlp(act=nn.ReLU, width=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), act(), nn.Linear(width, C))


@pytest.fixture(scope="module", name="images")
def _images():
    return torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", name="numbers")
def _numbers():
    return torch.randn(N, 5, generator=torch.Generator().manual_seed(2))


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [getattr(module, "inplace", None) for module in model.modules()],
        [(p.requires_grad, p.grad is None, p.stride(), p.data_ptr()) for p in model.parameters()],
    )


@pytest.mark.parametrize("make", [resnet8, lambda: torchvision.models.resnet18(num_classes=C)])
def test_a_model_is_left_as_it_was(make, images):
    model = make().train()
    before = state_of(model)
    result = measured(model, (images, LABELS_N), pairs=4, cka_images=4, training_data=images)
    after = state_of(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
    assert set(result.table.columns) == {"measure", "layer", "other", "value", "anchor"}
    assert result.table.select(SCHEMAS["linearity"].keys() & set(result.table.columns)).width == 5


def test_numbers_by_hand(numbers):
    """Midpoints over the three rounds through four images are the only ones there are."""
    model, few = mlp().double(), numbers[:4].double()
    result = measured(model, (few, LABELS_N[:4]), dtype="float64", top_k=(1,))
    with torch.no_grad():
        logits = model(few)
        found = []
        for order in ([0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 1, 3]):
            first, second = few[order], few[[*order[1:], order[0]]]
            h1, h2, mid = (h - h.mean(1, keepdim=True) for h in map(model, (first, second, (first + second) / 2)))
            found.append(((mid - (h1 + h2) / 2).norm() / ((h1 - h2) / 2).norm()).item())
    assert any(values(result.table, "midpoint")["logits", ""] == pytest.approx(one, rel=1e-9) for one in found)
    assert max(values(result.table, "midpoint", "anchor").values()) < 1e-12
    assert result.top1 == (logits.argmax(1) == LABELS_N[:4]).double().mean().item()
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, LABELS_N[:4]).item(), rel=1e-12)
    assert result.n == 4
    assert [note.split(" (")[0] for note in result.notes] == ["How much a linear model of the inputs explains"]


def test_every_kind_of_data_gives_the_same_table(images):
    model, dataset = resnet8(), TensorDataset(images, LABELS_N)
    loader = DataLoader(dataset, batch_size=16)
    expected = measured(model, (images, LABELS_N))
    for data in (dataset, loader, list(loader), iter(loader), (images.numpy(), LABELS_N.numpy())):
        result = measured(model, data)
        assert result.table.equals(expected.table)
        assert (result.top1, result.loss, result.n) == (expected.top1, expected.loss, expected.n)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.head = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, C)

    def forward(self, left, right):
        return {"logits": self.head(self.act(self.up(torch.cat([left, right.flatten(1)], 1))))}


def test_inputs_of_several_tensors_are_averaged_together(numbers):
    """The same network that takes one tensor gives the same numbers, its note apart."""
    torch.manual_seed(3)
    model = Two()
    alone = nn.Sequential(model.up, model.act, model.head)
    one = measured(alone, (numbers, LABELS_N), batch_norm="stored")
    for inputs in ((numbers[:, :1], numbers[:, 1:].unflatten(1, (2, 2))), None):
        given = inputs or {"left": numbers[:, :1], "right": numbers[:, 1:].unflatten(1, (2, 2))}
        two = measured(model, (given, LABELS_N), batch_norm="stored")
        np.testing.assert_allclose(two.table["value"], one.table["value"], rtol=1e-5, atol=1e-6)
        assert any("Observed as it runs" in note for note in two.notes)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x.float() / 255)


def test_whole_numbers_are_averaged_where_the_model_takes_the_averages(numbers):
    pixels = (numbers * 50 + 128).clamp(0, 255).to(torch.uint8)
    found = measured(Scaled(), (pixels, LABELS_N))
    expected = measured(Scaled(), (pixels.float(), LABELS_N))
    assert found.table.equals(expected.table)
    words = nn.Sequential(nn.Embedding(256, 4), nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, C))
    with pytest.raises(DataError) as error:
        measured(words, (pixels.long(), LABELS_N))
    assert str(error.value).startswith(
        "measuring linearity: the network takes inputs of type int64, and no averages of them (Expected tensor"
    )
    assert "Give the part of it that takes numbers" in str(error.value)


def test_a_network_without_relus_has_no_anchor(numbers):
    result = measured(mlp(nn.GELU), (numbers, LABELS_N))
    assert result.table["anchor"].is_nan().all()
    assert (result.table["value"].is_finite()).all()
    assert (
        "There is no anchor: the network has no ReLU (nn.ReLU, relu), so without its ReLUs it is the same."
        in result.notes
    )
    assert result.settings["anchor"] is False


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.act, self.head = torch.jit.script(mlp(width=4)), nn.ReLU(), nn.Linear(C, C)

    def forward(self, x):
        return self.head(self.act(self.body(x)))


def test_where_relus_cannot_be_taken_out_there_is_no_anchor(numbers):
    torch.manual_seed(0)
    model = Scripted()
    result = measured(model, (numbers, LABELS_N))
    assert result.table["anchor"].is_nan().all()
    assert any("'body' is a scripted module, which may hide one" in note for note in result.notes)
    open_body = nn.Sequential(*mlp(width=4), nn.ReLU(), model.head)
    expected = measured(open_body, (numbers, LABELS_N), ["3"])
    assert values(result.table, "midpoint")["logits", ""] == pytest.approx(
        values(expected.table, "midpoint")["logits", ""], rel=1e-6
    )


def test_an_anchor_that_is_not_affine_is_said(images):
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, C))
    note = next(n for n in measured(pooled, (images, LABELS_N)).notes if "not affine" in n)
    assert "at 'logits'" in note
    assert "such as max-pooling" in note
    pooled[2] = nn.AvgPool2d(2)
    assert not any("not affine" in n for n in measured(pooled, (images, LABELS_N)).notes)


def test_batch_norm_is_recomputed_or_stored(images):
    model = resnet8()
    stored = measured(model, (images, LABELS_N), batch_norm="stored")
    recomputed = measured(model, (images, LABELS_N), training_data=images, batch_size=N)
    silent = measured(model, (images, LABELS_N))
    assert silent.table.equals(stored.table)
    assert any("Batch-norm statistics are the stored ones" in note for note in silent.notes)
    assert not any("Batch-norm" in note for note in (*stored.notes, *recomputed.notes))
    by_hand = resnet8()
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        by_hand.train()(images)
    expected = measured(by_hand.eval(), (images, LABELS_N), batch_norm="stored", batch_size=N)
    np.testing.assert_allclose(recomputed.table["value"], expected.table["value"], rtol=1e-3, atol=1e-4)
    assert recomputed.loss != stored.loss


class Same:
    """A linear model that says what the network says."""

    def __init__(self, model):
        self.model = model

    def predict(self, inputs):
        with torch.no_grad():
            return self.model(inputs).argmax(1)


class Blind:
    def predict(self, inputs):
        return torch.zeros(len(inputs), dtype=torch.int64)


def separable(n, seed):
    """Inputs of which a linear model tells the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % C
    return torch.randn(n, 5, generator=generator) + 3 * torch.eye(5)[labels], labels


def test_what_a_linear_model_explains():
    """All of it where the network is a function of the linear model, none of it where that knows nothing."""
    data, knowing = separable(300, 0), nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, C))
    with torch.no_grad():
        knowing[0].weight.copy_(torch.eye(5)), knowing[0].bias.zero_()
        knowing[2].weight.copy_(torch.eye(5)[:C]), knowing[2].bias.zero_()
    few = {"pairs": 4, "cka_images": 4}
    same, blind = (measured(knowing, data, linear_model=one, **few) for one in (Same(knowing), Blind()))
    assert values(same.table, "kalimeris")["logits", ""] == pytest.approx(1, abs=0.02)
    assert values(blind.table, "kalimeris")["logits", ""] == pytest.approx(0, abs=0.02)
    assert values(same.table, "kalimeris-linear-top1")["logits", ""] == pytest.approx(same.top1)
    assert not any("linear model" in note for note in same.notes)
    fitted = measured(knowing, data, training_data=separable(200, 1), **few)
    assert values(fitted.table, "kalimeris")["logits", ""] > 0.8
    assert values(fitted.table, "kalimeris-linear-top1")["logits", ""] > 0.9
    assert fitted.settings["linear_model"]["images"] == 200
    again = measured(knowing, data, linear_model=fitted.linear_model, **few)
    assert again.table.equals(fitted.table)
    assert fitted.linear_model is again.linear_model


def test_the_classes_of_training_data_are_mapped_too():
    model, data, places = mlp(), separable(300, 0), torch.tensor([2, 0, 1])
    expected = measured(model, (data[0], places[data[1]]), training_data=(data[0], places[data[1]]))
    found = measured(model, data, training_data=data, class_map=places.tolist())
    assert found.table.equals(expected.table)


_NOT_FINITE = "of training_data, some training inputs are NaN, infinite, or too large to be squared in float32"


def test_a_linear_model_of_the_images_that_are_measured_is_said():
    """In 5 dimensions it hardly matters; 40 images of more pixels are known by heart, and the share is 1."""
    data = separable(60, 0)
    dataset, half = TensorDataset(*data), (data[0][::2], data[1][::2])
    for same, count in ((data, 60), ((data[0].clone(), data[1]), 60), (DataLoader(dataset, 7), 60), (half, 30)):
        result = measured(mlp(), DataLoader(dataset, 16), training_data=same, pairs=4, cka_images=4)
        (said,) = [note for note in result.notes if "linear model" in note]
        assert said == (
            f"Of the 60 images measured {count} are among those that the linear model of the inputs (kalimeris) was "
            "fitted to. It may know them by heart, and then the share that it explains is too high: give other images "
            "as training data."
        )
    other = measured(mlp(), data, training_data=separable(60, 1), pairs=4, cka_images=4)
    assert not any("linear model" in note for note in other.notes)
    given = measured(mlp(), data, training_data=data, linear_model=result.linear_model, pairs=4, cka_images=4)
    assert not any("linear model" in note for note in given.notes)


def test_why_there_is_no_linear_model_is_said(numbers):
    model, data = mlp(), (numbers, LABELS_N)
    batches = [data]
    for training, why in (
        (None, "it needs training_data, with labels"),
        (numbers, "of training_data, a tensor of float32 of shape (36, 5) is nothing to measure on"),
        (iter(batches), "training_data can be read only once, and must be read twice"),
        ((numbers, LABELS_N + 1), "of training_data, labels from 1 to 3, but the model's classes are 0 to 2"),
        ((numbers, LABELS_N * 0), "of training_data, the training images are of 1 class"),
        ((numbers.where(numbers < numbers.max(), math.nan), LABELS_N), _NOT_FINITE),
        ((numbers.where(numbers < numbers.max(), math.inf), LABELS_N), _NOT_FINITE),
        ((numbers * 1e30, LABELS_N), _NOT_FINITE),
    ):
        result = measured(model, data, training_data=training)
        said = f"How much a linear model of the inputs explains (kalimeris) is left out: {why}."
        assert said in result.notes, result.notes
        assert not result.table["measure"].str.starts_with("kalimeris").any()
        assert result.linear_model is None


def test_of_many_images_the_same_number_of_each_class_is_used(numbers):
    order = LABELS_N.argsort(stable=True)
    sorted_data = (numbers[order], LABELS_N[order])
    chosen = [i for c in range(C) for i in range(12 * c, 12 * c + 4)]
    some, by_hand = measured(mlp(), sorted_data, images=12), measured(mlp(), tuple(x[chosen] for x in sorted_data))
    assert some.n == 12
    assert some.table.equals(by_hand.table)
    assert "Only 12 of the images are used (the same number of each class): `images` says how many." in some.notes
    batches = [(numbers[i : i + 9], LABELS_N[i : i + 9]) for i in range(0, N, 9)]
    first = measured(mlp(), batches, images=12)
    by_hand = measured(mlp(), [batches[0], (numbers[9:12], LABELS_N[9:12])])
    assert first.n == 12
    np.testing.assert_allclose(first.table["value"], by_hand.table["value"], rtol=1e-6)
    assert any("(the first, whatever their classes)" in note for note in first.notes)
    assert not any("Only" in note for note in measured(mlp(), batches, images=N).notes)


def test_labels_are_mapped(numbers):
    model, places = mlp(), [2, 0, 1]
    expected = measured(model, (numbers, torch.tensor(places)[LABELS_N]))
    found = measured(model, (numbers, LABELS_N), class_map=places)
    assert found.table.equals(expected.table)
    assert (found.top1, found.loss) == (expected.top1, expected.loss)


@pytest.mark.parametrize(
    ("pairs", "cka_images", "batch_size"),
    [(1000, 1000, 16), (4, 6, 16), (9, 4, 5), (35, 4, 7), (36, 4, 36), (1, 20, 64)],
)
def test_progress_ends_where_it_said_from_the_beginning(images, pairs, cka_images, batch_size):
    seen = []
    settings = {"pairs": pairs, "cka_images": cka_images, "batch_size": batch_size}
    measured(resnet8(), (images, LABELS_N), progress=lambda done, of: seen.append((done, of)), **settings)
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert {of for _, of in seen} == {counts[-1]}


def test_progress_begins_when_the_linear_model_is_there(images, monkeypatch):
    told = []
    fit = linearising.fitted
    monkeypatch.setattr(linearising, "fitted", lambda *given: (told.append("fitted"), fit(*given))[1])
    training = images.flip(0), LABELS_N.flip(0)
    measured(resnet8(), (images, LABELS_N), training_data=training, progress=lambda done, of: told.append(done))
    assert told[:2] == ["fitted", 0]


def test_progress_without_a_length_ends_too(images):
    seen = []
    batches = iter([(images[i : i + 6], LABELS_N[i : i + 6]) for i in range(0, N, 6)])
    measured(resnet8(), batches, pairs=4, cka_images=4, progress=lambda done, of: seen.append((done, of)))
    assert seen[0][1] is None
    assert seen[-1][0] == seen[-1][1]


def test_the_table_keeps_what_made_it(tmp_path, numbers):
    result = measured(mlp(), (numbers, LABELS_N), pairs=7, cka_images=9)
    result.to_parquet(tmp_path / "linearity.parquet")
    assert pl.read_parquet(tmp_path / "linearity.parquet").equals(result.table)
    about = json.loads(pl.read_parquet_metadata(tmp_path / "linearity.parquet")["vestige"])
    assert (about["pairs"], about["cka_images"], about["top_k"], about["n"]) == (7, 9, [1, 2, 3], N)
    assert about["loss"] == result.loss
    assert about["batch_norm"] == "stored"


WRONG = {
    "too few pairs": ({"pairs": 0}, "measuring linearity: pairs is 0. Give 1 or more."),
    "too few images": ({"images": 3}, "measuring linearity: images is 3. Give 4 or more."),
    "too few of CKA": ({"cka_images": 3}, "measuring linearity: cka_images is 3. Give 4 or more."),
    "no k": ({"top_k": ()}, "measuring linearity: top_k is empty. Give one k at least, such as top_k=(1,)."),
    "no whole number of pairs": ({"pairs": 2.5}, "measuring linearity: pairs is 2.5. Give a whole number."),
    "no number of images": ({"images": math.nan}, "measuring linearity: images is nan. Give a whole number."),
    "one k": ({"top_k": 2}, "measuring linearity: top_k is 2. Give several: top_k=(2,)."),
    "half a k": ({"top_k": (1.5,)}, "measuring linearity: a k of top_k is 1.5. Give a whole number."),
    "true as a k": ({"top_k": (True,)}, "measuring linearity: a k of top_k is True. Give a whole number."),
    "no linear model": (
        {"linear_model": object()},
        "measuring linearity: linear_model is a object, which has no method predict. Give what predicts the class of "
        "each input, such as .linear_model of another result.",
    ),
    "k of 0": ({"top_k": (1, 0)}, "measuring linearity: a k of top_k is 0. Give 1 or more."),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_that_make_no_sense(case, numbers):
    settings, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        measured(mlp(), (numbers, LABELS_N), **settings)
    assert str(error.value) == message


def test_data_that_cannot_be(numbers, images):
    with pytest.raises(DataError, match=r"there are 3 images. Give at least 4 images, of two classes or more"):
        measured(mlp(), (numbers[:3], LABELS_N[:3]))
    with pytest.raises(DataError, match="there is no input in the list"):
        measured(mlp(), [])
    with pytest.raises(DataError, match=r"labels from 0 to 2, but the model's classes are 0 to 1"):
        measured(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), (numbers, LABELS_N))
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C))
    mixed = [(images[:8], LABELS_N[:8]), (images[8:16, :, :6], LABELS_N[8:16])]
    with pytest.raises(DataError, match=r"inputs of shape \(3, 8, 8\) and of shape \(3, 6, 8\)"):
        measured(convolution, mixed)
    diverged = mlp()
    nn.init.constant_(diverged[2].bias, math.nan)
    with pytest.raises(ModelError, match="the network has diverged"):
        measured(diverged, (numbers, LABELS_N))
