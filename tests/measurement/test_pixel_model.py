import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.linearity import pixels
from vestige.measurement.linearity.pixels import PENALTIES, PixelModel, fit_pixels, images_to_fit

torch.set_num_threads(1)


def tiles_of(inputs, labels, size=64):
    """Tiles padded with a strange image, which must not count."""
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], labels[start : start + size]
        short = size - len(x)
        x_T = torch.cat([x, torch.full((short, *x.shape[1:]), 9.0)])
        yield Tile(x_T, torch.cat([y, y.new_zeros(short)]), len(x), np.arange(size))


@pytest.fixture(scope="module", name="digits")
def _digits():
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None]
    return images, torch.from_numpy(data.target).long()


def test_the_model_is_scikit_learns_of_standardised_pixels(digits):
    images, labels = digits
    model = fit_pixels(tiles_of(images[:600], labels[:600]))
    flat = images.flatten(1).numpy()
    scaler = StandardScaler().fit(flat[:600])
    own = LogisticRegression(C=1 / (model.penalty * 600), max_iter=5000, tol=1e-7)
    own.fit(scaler.transform(flat[:600]), labels[:600])
    found = model.predict(images[600:])
    assert found.dtype == torch.int64
    assert (found.numpy() == own.predict(scaler.transform(flat[600:]))).mean() > 0.995
    assert (found == labels[600:]).double().mean() > 0.85
    assert (model.images, model.converged) == (600, True)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 7], [2, 5, 6]])
def test_what_is_written_and_read_predicts_what_scikit_learn_does(digits, classes, tmp_path, monkeypatch):
    images, labels = (part[torch.isin(digits[1], torch.tensor(classes))] for part in digits)
    kept, fit = [], pixels._fit
    monkeypatch.setattr(pixels, "_fit", lambda *given: (kept.append(fit(*given)), kept[-1])[1])
    model = fit_pixels(tiles_of(images[:100], labels[:100]))
    model.write(tmp_path / "model.safetensors", "key", ["of few images"])
    read = PixelModel.read(tmp_path / "model.safetensors", "key")
    assert read is not None
    again, said = read
    assert said == ["of few images"]
    assert (again.penalty, again.converged, again.images) == (model.penalty, model.converged, 100)
    flat = (images.flatten(1).numpy() - model.mean) / model.scale
    expected = kept[-1][0].predict(flat)
    assert set(expected.tolist()) == set(classes)
    for found in (model, again):
        assert found.predict(images).tolist() == expected.tolist()


def test_a_model_that_was_made_otherwise_or_is_damaged_is_not_taken(digits, tmp_path):
    path = tmp_path / "model.safetensors"
    assert PixelModel.read(path, "key") is None
    fit_pixels(tiles_of(digits[0][:100], digits[1][:100])).write(path, "key")
    assert PixelModel.read(path, "other") is None
    path.write_bytes(path.read_bytes()[:-9])
    assert PixelModel.read(path, "key") is None


def test_the_penalty_is_that_of_the_smallest_loss_on_every_fifth_image_of_a_class(digits):
    """Chosen by a loop that fits each penalty from scratch; noisy labels want a stronger one."""
    images, labels = digits[0][:300], digits[1][:300]
    noisy = torch.where(torch.arange(300) % 3 == 0, labels.flip(0), labels)
    chosen = []
    for target in (labels, noisy):
        model = fit_pixels(tiles_of(images, target))
        seen, held_out = {}, np.zeros(300, bool)
        for place, label in enumerate(target.tolist()):
            seen[label] = seen.get(label, 0) + 1
            held_out[place] = seen[label] % 5 == 0
        x, y = (images.flatten(1).numpy() - model.mean) / model.scale, target.numpy()
        losses = []
        for penalty in PENALTIES:
            own = LogisticRegression(C=1 / (penalty * (~held_out).sum()), max_iter=5000).fit(x[~held_out], y[~held_out])
            chances = own.predict_proba(x[held_out])
            losses.append(-np.log(chances[np.arange(held_out.sum()), y[held_out]]).mean())
        assert model.penalty == PENALTIES[int(np.argmin(losses))]
        chosen.append(model.penalty)
    assert chosen[0] < chosen[1]


def test_the_model_is_the_same_again_and_in_other_tiles(digits):
    images, labels = digits[0][:200], digits[1][:200]
    first, again, other = (fit_pixels(tiles_of(images, labels, size)) for size in (64, 64, 7))
    for model in (again, other):
        np.testing.assert_array_equal(model.weights_KD, first.weights_KD)


def test_constant_pixels_and_their_rounding_do_no_harm(digits):
    images, labels = digits[0][:200].clone(), digits[1][:200]
    images[:, :, 0] = 0.1
    images[::2, :, 0, 3] += 1e-8
    model = fit_pixels(tiles_of(images, labels))
    assert np.isfinite(model.weights_KD).all()
    assert (model.scale[:8] == 1).all()


def test_of_many_images_the_first_are_fitted(digits, monkeypatch):
    monkeypatch.setattr(pixels, "VALUES", 100 * 64 + 5)
    assert images_to_fit((1, 8, 8)) == 100
    images, labels = digits
    found = fit_pixels(tiles_of(images, labels))
    assert found.images == 100
    np.testing.assert_array_equal(found.weights_KD, fit_pixels(tiles_of(images[:100], labels[:100])).weights_KD)


def test_a_fit_that_does_not_end_is_told(digits, monkeypatch):
    monkeypatch.setattr(pixels, "ITERATIONS", 3)
    with pytest.warns(UserWarning, match=r"was still changing after 3 steps of its optimiser: kalimeris compares"):
        model = fit_pixels(tiles_of(digits[0][:200], digits[1][:200]))
    assert not model.converged


def test_large_images_are_averaged_to_32_pixels_a_side():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 2
    coarse = torch.randn(24, 3, 32, 32, generator=generator)
    coarse[:, 0] += labels[:, None, None]
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(3, 3)
    model = fit_pixels(tiles_of(fine, labels))
    assert model.mean.shape == (3 * 32 * 32,)
    np.testing.assert_allclose(model.weights_KD, fit_pixels(tiles_of(coarse, labels)).weights_KD, rtol=1e-3, atol=1e-6)
    assert images_to_fit((3, 224, 224)) == images_to_fit((3, 32, 32)) == 21_845


def test_rows_of_numbers_are_taken_as_they_are():
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    labels = (rows[:, 0] > 0).long()
    assert (fit_pixels(tiles_of(rows, labels)).predict(rows) == labels).double().mean() > 0.9


@pytest.mark.parametrize("count", [0, 1])
def test_images_of_one_class_are_named(count):
    with pytest.raises(DataError) as error:
        fit_pixels(tiles_of(torch.zeros(5 * count, 1, 2, 2), torch.zeros(5 * count, dtype=torch.int64)))
    assert str(error.value) == (
        f"fitting the linear model of the pixels: the training images are of {count} class{'es' * (count != 1)}. "
        "Give training images of two classes or more."
    )


def test_inputs_that_are_no_rows_of_numbers_are_named():
    with pytest.raises(DataError, match=r"the inputs are a dict. Leave kalimeris out for such a model"):
        fit_pixels([Tile({"x": torch.zeros(2, 3)}, torch.tensor([0, 1]), 2, np.arange(2))])
