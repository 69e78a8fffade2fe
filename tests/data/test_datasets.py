"""Sets of images: subsets, what is held and what is streamed, and both the same."""

import numpy as np
import pytest
import torch
from image_files import encode, write_folder, write_parquet

from vestige.config import AugmentConfig, DataConfig
from vestige.data import datasets
from vestige.data.datasets import HeldImages, StreamedImages, check_same_classes, open_images
from vestige.data.subsets import balanced_indices
from vestige.data.transforms import CROP_TRIES, crop_box, uniform
from vestige.errors import DataError

CROPS = AugmentConfig(random_resized_crop=True)


def test_all_where_no_number_is_given():
    labels = np.array([1, 0, 0])
    for n in (None, 3, 10):
        assert balanced_indices(labels, n).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [1]),  # class 0 first
        (2, [0, 1]),
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 3, 4]),
        (6, [0, 1, 2, 3, 4, 5]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_first_of_each_class(n, expected):
    labels = np.array([2, 0, 7, 0, 2, 7, 0, 2, 7])
    assert balanced_indices(labels, n).tolist() == expected


@pytest.mark.parametrize("n", [1, 7, 30, 31, 40, 99, 138])
def test_unbalanced_classes_give_what_they_have(n):
    sizes = [100, 3, 30, 6]
    labels = np.random.default_rng(n).permutation(np.repeat(range(4), sizes))
    chosen = balanced_indices(labels, n)
    assert len(np.unique(chosen)) == n
    assert (np.diff(chosen) > 0).all()
    given = np.bincount(labels[chosen], minlength=4)
    most = given.max()
    for c, size in enumerate(sizes):
        assert given[c] in (min(size, most), min(size, most - 1))  # level, unless exhausted
        assert (chosen[labels[chosen] == c] == np.flatnonzero(labels == c)[: given[c]]).all()


def test_limits(digits, tmp_path):
    config = DataConfig(channels=1, limit=30, limit_test=20)
    train, test = (open_images("digits", split, config) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [3] * 10
    assert np.bincount(test.labels).tolist() == [2] * 10
    whole = open_images("digits", "train", DataConfig(channels=1))
    rows = balanced_indices(whole.labels, 30)
    assert (train.images(range(30)) == whole.images(rows)).all()


@pytest.fixture
def streamed(monkeypatch):
    """Open a set as if it did not fit in memory."""

    def open_streamed(*arguments) -> StreamedImages:
        with monkeypatch.context() as patch:
            patch.setattr(datasets, "MEMORY_LIMIT", 0)
            found = open_images(*arguments)
        assert isinstance(found, StreamedImages)
        return found

    return open_streamed


@pytest.mark.parametrize("config", [
    DataConfig(channels=1),
    DataConfig(channels=3, size=10, resize=13),
    DataConfig(channels=3, size=10, limit=33),
    DataConfig(channels=1, size=10, augment=CROPS),
])  # fmt: skip
def test_held_and_streamed_are_the_same(tmp_path, digits, streamed, config):
    spec = f"folder:{write_folder(tmp_path, digits, range(5), 30, ending='.jpg', size=16)}"
    held, on_demand = open_images(spec, "train", config), streamed(spec, "train", config)
    assert isinstance(held, HeldImages)
    assert (held.streamed, on_demand.streamed) == (False, True)
    assert held.shape == on_demand.shape == tuple(held.images([0]).shape[1:])
    assert (held.labels == on_demand.labels).all()
    indices = np.random.default_rng(0).permutation(len(held))  # more than one thread's share
    assert (held.images(indices) == on_demand.images(indices)).all()
    if config.augment.random_resized_crop:
        draws = uniform(0, 0, indices, 0, (CROP_TRIES, 4))
        assert (held.crops(indices, draws) == on_demand.crops(indices, draws)).all()


def test_images_are_as_asked_for(digits):
    found = open_images("digits", "test", DataConfig(channels=1))
    assert (found.images([5, 3, 5]) == torch.stack([found.images([i])[0] for i in (5, 3, 5)])).all()
    assert found.images([]).shape == (0, 1, 8, 8)


def test_crops_are_of_the_images_as_they_came(tmp_path, digits):
    from PIL import Image

    root = write_folder(tmp_path, digits, [0, 1], 2, size=40)
    found = open_images(f"folder:{root}", "train", DataConfig(channels=1, size=8, augment=CROPS))
    draws = uniform(3, 0, [2], 0, (CROP_TRIES, 4))
    top, left, h, w = crop_box(draws[0], 40, 40)
    with Image.open(root / "digit-1" / "000.png") as picture:
        part = picture.crop((left, top, left + w, top + h)).resize((8, 8), Image.Resampling.BILINEAR)
    assert (found.crops([2], draws)[0, 0].numpy() == np.asarray(part)).all()


def test_images_of_several_sizes_are_streamed_for_random_resized_crops(tmp_path, digits):
    write_folder(tmp_path / "x", digits, [0, 1], 2)
    (tmp_path / "x" / "digit-1" / "001.png").write_bytes(encode(np.zeros((9, 7), np.uint8)))
    spec, config = f"folder:{tmp_path}/x", DataConfig(channels=1, size=8, augment=CROPS)
    assert isinstance(open_images(spec, "train", config), StreamedImages)
    assert isinstance(open_images(spec, "test", config), HeldImages)


def test_streamed_image_of_another_size_is_named(tmp_path, digits, streamed):
    write_folder(tmp_path, digits, [0, 1], 2)
    odd = tmp_path / "digit-1" / "001.png"
    odd.write_bytes(encode(np.zeros((9, 7), np.uint8)))
    found = streamed(f"folder:{tmp_path}", "test", DataConfig(channels=1))
    found.images([0, 1, 2])
    with pytest.raises(DataError, match=f"{odd} has 9 x 7 pixels where {tmp_path}/digit-0/000.png has 8 x 8"):
        found.images([3])


def test_streamed_image_that_vanished_is_named(tmp_path, digits, streamed):
    write_folder(tmp_path, digits, [0, 1], 2)
    found = streamed(f"folder:{tmp_path}", "test", DataConfig(channels=1))
    gone = tmp_path / "digit-1" / "001.png"
    gone.unlink()
    with pytest.raises(DataError, match=rf"{gone} is not an image that can be read \(No such file"):
        found.images([3])


def parquet_set(path, names, labels):
    write_parquet(path, [encode(np.zeros((2, 2), np.uint8))] * len(labels), labels, names)
    return open_images(f"parquet:{path}", "test", DataConfig())


def test_classes_of_training_and_test_set_must_agree(tmp_path):
    abc = parquet_set(tmp_path / "abc.parquet", ["a", "b", "c"], [0, 1, 2])
    ab = parquet_set(tmp_path / "ab.parquet", ["a", "b"], [0, 1])
    ac = parquet_set(tmp_path / "ac.parquet", ["a", "c"], [0, 1])
    check_same_classes(abc, abc)
    check_same_classes(abc, ab)  # labels mean the same
    with pytest.raises(DataError) as caught:
        check_same_classes(abc, ac)
    assert str(caught.value) == (
        "comparing the classes of 'parquet:abc.parquet' and 'parquet:ac.parquet': "
        "class 1 is 'b' in the first and 'c' in the second. Give both the same classes."
    )
    with pytest.raises(DataError, match="2 classes in the first and 3 in the second"):
        check_same_classes(ab, abc)


def test_real_images_decode_to_pillows_pixels(real):
    import io

    from PIL import Image
    from pyarrow import parquet as pq

    path = real("cifar10-test.parquet")
    found = open_images(f"parquet:{path}", "test", DataConfig(limit_test=300))
    column = pq.read_table(path)["image"]
    rows = balanced_indices(pq.read_table(path)["label"].to_numpy(), 300)
    for i in range(0, 300, 7):
        with Image.open(io.BytesIO(column[int(rows[i])].as_py()["bytes"])) as picture:
            assert (found.images([i])[0].permute(1, 2, 0).numpy() == np.asarray(picture)).all()
