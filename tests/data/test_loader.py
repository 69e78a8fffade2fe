"""Training batches, tiles and recalibration batches are functions of their arguments and of nothing else."""

import threading

import numpy as np
import pytest
import torch
from image_files import write_folder
from scipy import stats

from processes import wait_for
from vestige.config import AugmentConfig, DataConfig
from vestige.data import datasets
from vestige.data.datasets import ImageSet, open_images
from vestige.data.loader import TrainingLoader, epoch_order, recalibration_batches, tiles
from vestige.data.transforms import Stream, normalise, uniform
from vestige.errors import DataError

PLAIN = DataConfig(channels=1)
AUGMENTED = DataConfig(channels=1, mean=(0.3,), std=(0.4,), augment=AugmentConfig(crop_padding=2, flip=True))
CROPPED = DataConfig(channels=1, size=8, augment=AugmentConfig(random_resized_crop=True, flip=True))


def test_epoch_order_is_a_permutation_of_its_own():
    orders = [epoch_order(500, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert (np.sort(order) == np.arange(500)).all()
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert abs(stats.spearmanr(a, b).statistic) < 0.15
            assert (a == b).sum() < 8  # expected 1


def test_every_image_comes_equally_often_at_every_place():
    first = [int(epoch_order(20, seed, epoch)[0]) for seed in range(40) for epoch in range(50)]
    assert stats.chisquare(np.bincount(first, minlength=20)).pvalue > 1e-3


@pytest.fixture(params=["held", "streamed"])
def enlarged(request, tmp_path, digits, monkeypatch):
    """90 digits of 12 x 12 pixels, held in memory or streamed."""
    root = write_folder(tmp_path, digits, range(9), 10, size=12)

    def open_with(config: DataConfig) -> ImageSet:
        if request.param == "streamed":
            monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
        found = open_images(f"folder:{root}", "train", config)
        assert found.streamed == (request.param == "streamed")
        return found

    return open_with


@pytest.mark.parametrize("config", [PLAIN, AUGMENTED, CROPPED], ids=["plain", "augmented", "cropped"])
def test_any_step_reached_directly_is_that_of_the_sequence(enlarged, config):
    images = enlarged(config)
    whole = list(TrainingLoader(images, config, 40, seed=3).batches(0, 7))
    assert [len(batch.labels) for batch in whole] == [40, 40, 10, 40, 40, 10, 40]
    for step in (6, 2, 0, 4):
        alone = TrainingLoader(images, config, 40, seed=3).batch(step)
        assert alone.inputs.dtype == torch.float32
        assert alone.labels.dtype == torch.int64
        assert torch.equal(alone.inputs, whole[step].inputs)
        assert torch.equal(alone.labels, whole[step].labels)
    resumed = list(TrainingLoader(images, config, 40, seed=3).batches(4, 7))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(resumed, whole[4:], strict=True))


@pytest.mark.parametrize("config", [AUGMENTED, CROPPED], ids=["augmented", "cropped"])
def test_batch_size_changes_no_image(enlarged, config):
    images = enlarged(config)

    def second_epoch(batch_size: int) -> torch.Tensor:
        loader = TrainingLoader(images, config, batch_size, seed=5)
        n = loader.steps_per_epoch
        return torch.cat([batch.inputs for batch in loader.batches(n, 2 * n)])

    expected = second_epoch(90)
    for batch_size in (1, 7, 64, 200):
        assert torch.equal(second_epoch(batch_size), expected)


def test_epochs_show_every_image_once_and_differently():
    images = open_images("digits", "train", AUGMENTED)
    loader = TrainingLoader(images, AUGMENTED, 128, seed=0)
    assert loader.steps_per_epoch == 4
    for epoch in (0, 1):
        labels = torch.cat([loader.batch(epoch * 4 + k).labels for k in range(4)])
        assert np.bincount(labels.numpy()).tolist() == [50] * 10
    first, second = (loader.augmented(np.arange(500), epoch) for epoch in (0, 1))
    same = (first == second).flatten(1).all(1).float().mean()
    assert same < 0.1  # 1 in 50: five rows, five columns, two sides
    other_seed = TrainingLoader(images, AUGMENTED, 128, seed=1).augmented(np.arange(500), 0)
    assert (first == other_seed).flatten(1).all(1).float().mean() < 0.1


def test_augmented_image_is_the_slow_loop():
    images = open_images("digits", "train", AUGMENTED)
    indices = np.array([7, 400, 33])
    got = TrainingLoader(images, AUGMENTED, 3, seed=9).augmented(indices, epoch=2)[:, 0].numpy()
    for k, i in enumerate(indices):
        pixels = np.pad(images.images([i])[0, 0].numpy(), 2)
        top, left = (int(u * 5) for u in uniform(9, 2, [i], Stream.CROP, (2,))[0])
        pixels = pixels[top : top + 8, left : left + 8]
        if uniform(9, 2, [i], Stream.FLIP)[0] < 0.5:
            pixels = pixels[:, ::-1]
        assert (got[k] == pixels).all()


def test_unaugmented_batches_are_the_images():
    images = open_images("digits", "train", PLAIN)
    batch = TrainingLoader(images, PLAIN, 50, seed=0).batch(11)
    indices = epoch_order(500, 0, 1)[50:100]
    assert torch.equal(batch.inputs, normalise(images.images(indices), (0.5,), (0.5,)))
    assert batch.labels.tolist() == images.labels[indices].tolist()


def test_labels_of_a_batch_may_be_changed():
    images = open_images("digits", "train", PLAIN)
    loader = TrainingLoader(images, PLAIN, 50, seed=0)
    before = loader.batch(0).labels.clone()
    loader.batch(0).labels.zero_()
    loader.batch(0).inputs.zero_()
    assert torch.equal(loader.batch(0).labels, before)
    assert loader.batch(0).inputs.abs().sum() > 0


def test_an_abandoned_epoch_leaves_no_thread(enlarged):
    images = enlarged(PLAIN)
    batches = TrainingLoader(images, PLAIN, 10, seed=0).batches(0, 9)
    next(batches)
    batches.close()
    assert wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("batches")], 20)


def test_an_error_in_the_background_comes_up(tmp_path, digits, monkeypatch):
    root = write_folder(tmp_path, digits, range(3), 10)
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    images = open_images(f"folder:{root}", "train", PLAIN)
    (root / "digit-2" / "004.png").write_bytes(b"damaged meanwhile")
    with pytest.raises(DataError, match=r"digit-2/004\.png is not an image that can be read"):
        list(TrainingLoader(images, PLAIN, 5, seed=0).batches(0, 6))


@pytest.mark.parametrize("size", [1, 7, 60, 64, 256])
def test_tiles_are_padded_with_their_first_image(size):
    images = open_images("digits", "test", PLAIN)
    indices = np.arange(3, 300, 5)  # 60 of them
    parts = list(tiles(images, indices, PLAIN, size))
    assert len(parts) == -(-60 // size)
    for tile in parts:
        assert len(tile.inputs) == len(tile.labels) == len(tile.indices) == size
        assert (tile.indices[tile.valid :] == tile.indices[0]).all()
        assert all(torch.equal(x, tile.inputs[0]) for x in tile.inputs[tile.valid :])
        assert tile.labels.tolist() == images.labels[tile.indices].tolist()
    assert np.concatenate([tile.indices[: tile.valid] for tile in parts]).tolist() == indices.tolist()
    inputs = torch.cat([tile.inputs[: tile.valid] for tile in parts])
    assert torch.equal(inputs, normalise(images.images(indices), PLAIN.mean, PLAIN.std))


def test_no_image_is_no_tile():
    assert list(tiles(open_images("digits", "test", PLAIN), [], PLAIN, 8)) == []


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(100, 30, [25] * 4), (95, 30, [24, 24, 24, 23]), (20, 30, [20]), (2048, 256, [250, 250])],
)
def test_recalibration_batches_are_balanced_and_near_equal(n, size, lengths):
    images = open_images("digits", "train", AUGMENTED)
    batches = recalibration_batches(images, n, AUGMENTED, size)
    assert [len(batch) for batch in batches] == lengths
    chosen = datasets.balanced_indices(images.labels, n)
    expected = normalise(images.images(chosen), AUGMENTED.mean, AUGMENTED.std)  # unaugmented
    keys = [sorted(x.numpy().tobytes() for x in part) for part in (torch.cat(batches), expected)]
    assert keys[0] == keys[1]
    again = recalibration_batches(images, n, AUGMENTED, size)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_recalibration_batches_of_a_sorted_folder_mix_the_classes(enlarged):
    images = enlarged(PLAIN)
    batches = recalibration_batches(images, 90, PLAIN, 30)
    within = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean()
    total = torch.cat(batches).var((0, 2, 3))
    assert within / total > 0.97
    lookup = {x.numpy().tobytes(): int(c) for x, c in zip(images.images(range(90)), images.labels, strict=True)}
    for batch in batches:
        raw = ((batch * 0.5 + 0.5) * 255).round().byte()
        assert len({lookup[x.numpy().tobytes()] for x in raw}) >= 6
