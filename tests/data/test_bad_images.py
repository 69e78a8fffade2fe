"""Images that cannot be read: an error that names the first, or left out, counted and named."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from image_files import encode, write_folder, write_parquet

from vestige.config import AugmentConfig, DataConfig
from vestige.data import datasets
from vestige.data.datasets import open_images
from vestige.data.loader import recalibration_batches, tiles
from vestige.data.transforms import CROP_TRIES, uniform
from vestige.errors import DataError

GREY = DataConfig(channels=1)


@pytest.fixture(params=["held", "streamed"])
def kind(request, monkeypatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    return request.param


@pytest.fixture
def folder(tmp_path, digits):
    """Five classes of 30 JPEGs, 16 x 16; three are damaged, each in another way."""
    root = write_folder(tmp_path / "x", digits, range(5), 30, ending=".jpg", size=16)
    bad = [root / "digit-0" / "007.jpg", root / "digit-0" / "008.jpg", root / "digit-3" / "029.jpg"]
    bad[0].write_bytes(b"hello")
    bad[1].write_bytes(bad[1].read_bytes()[:-60])
    bad[2].write_bytes(b"")
    return root, bad


def good(root, bad):
    """The others, found another way."""
    return [path for path in sorted(root.rglob("*.jpg")) if path not in bad]


def pixels_of(paths) -> torch.Tensor:
    from PIL import Image

    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("L")))[None] for path in paths])


def test_first_is_named_by_default(folder, kind):
    root, bad = folder
    with pytest.raises(DataError) as caught:
        list(tiles(open_images(f"folder:{root}", "test", GREY), range(150), GREY, 16))
    assert str(caught.value) == (
        f"reading data.test 'folder:{root}': {bad[0]} is not an image that can be read (no known image format). "
        "Replace or remove it."
    )


@pytest.mark.parametrize("size", [1, 7, 16, 150, 200])
def test_skipped_ones_are_left_out_of_tiles_and_named(folder, kind, size):
    root, bad = folder
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    assert images.streamed == (kind == "streamed")
    assert len(images) == (150 if images.streamed else 147)
    assert images.settled != images.streamed
    raw = DataConfig(channels=1, mean=(0,), std=(1,))
    found = list(tiles(images, range(len(images)), raw, size))
    for tile in found:
        assert {len(tile.inputs), len(tile.labels), len(tile.indices)} == {size}
        assert 1 <= tile.valid <= size
        assert (tile.inputs[tile.valid :] == tile.inputs[0]).all()
    inputs = torch.cat([tile.inputs[: tile.valid] for tile in found])
    expected = good(root, bad)
    assert (inputs * 255).round().to(torch.uint8).equal(pixels_of(expected))
    labels = torch.cat([tile.labels[: tile.valid] for tile in found])
    assert labels.tolist() == [int(path.parent.name[-1]) for path in expected]
    assert len(images.skipped) == 3
    for path, line in zip(bad, images.skipped, strict=True):
        assert line.startswith(f"{path} is not an image that can be read (")
    assert [tile.number for tile in found] == sorted({tile.number for tile in found})


def test_wording_is_that_of_the_error(folder, kind):
    root, bad = folder
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    images.readable(range(len(images)))
    for path, line in zip(bad, list(images.skipped), strict=True):
        with pytest.raises(DataError) as caught:
            list(tiles(open_images(f"folder:{root}", "test", GREY), range(150), GREY, 50))
        assert caught.value.found == line
        path.unlink()


def test_read_twice_named_once(folder, kind):
    root, _ = folder
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    first, second = (list(tiles(images, range(len(images)), GREY, 50)) for _ in range(2))
    assert [t.indices.tolist() for t in first] == [t.indices.tolist() for t in second]
    assert len(images.skipped) == 3


def test_shares_are_whole_tiles(folder, kind):
    root, _ = folder
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    whole = {tile.number: tile for tile in tiles(images, range(len(images)), GREY, 16)}
    for world in (2, 3):
        parts = [tile for rank in range(world) for tile in tiles(images, range(len(images)), GREY, 16, (rank, world))]
        assert sorted(tile.number for tile in parts) == sorted(whole)
        assert all(torch.equal(tile.inputs, whole[tile.number].inputs) for tile in parts)


def test_first_images_and_files_with_other_endings_may_be_bad(tmp_path, digits, kind):
    root = write_folder(tmp_path / "x", digits, [0, 1], 3)
    (root / "digit-0" / "000.png").write_bytes(b"")
    (root / "digit-1" / "notes.txt").write_text("hello")
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    assert images.readable(range(len(images)))[0].shape == (5, 1, 8, 8)
    assert [line.partition(" is ")[0] for line in images.skipped] == [
        str(root / "digit-0" / "000.png"),
        str(root / "digit-1" / "notes.txt"),
    ]


def test_class_that_loses_all_its_images(tmp_path, digits, kind):
    root = write_folder(tmp_path / "x", digits, [0, 1, 2], 2)
    for path in (root / "digit-1").iterdir():
        path.write_bytes(b"")
    images = open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    found = list(tiles(images, range(len(images)), GREY, 2))  # one tile has none to show
    assert [label for tile in found for label in tile.labels.tolist()] == [0, 0, 2, 2]
    assert images.class_names == ("digit-0", "digit-1", "digit-2")


def test_none_left(tmp_path, digits, kind):
    root = write_folder(tmp_path / "x", digits, [0, 1], 1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_images(f"folder:{root}", "test", GREY, on_bad_image="skip")
    first = f"{root}/digit-0/000.png is not an image that can be read (no known image format)"
    assert caught.value.found == f"none of the 2 images can be read; {first}"


def test_another_size_is_an_error_all_the_same(tmp_path, digits, kind):
    root = write_folder(tmp_path / "x", digits, [0, 1], 2)
    (root / "digit-0" / "000.png").write_bytes(b"")
    (root / "digit-1" / "001.png").write_bytes(encode(np.zeros((9, 7), np.uint8)))
    with pytest.raises(DataError, match=f"has 9 x 7 pixels where {root}/digit-0/001.png has 8 x 8"):
        open_images(f"folder:{root}", "test", GREY, on_bad_image="skip").readable(range(4))


def test_parquet_rows(tmp_path, digits, kind):
    pictures = [encode(x) for x in digits[0][:6]]
    path = write_parquet(tmp_path / "x.parquet", [pictures[0], None, *pictures[2:4], b"x", pictures[5]], [0, 1] * 3)
    with pytest.raises(DataError, match=f"row 1 of {path} holds no image bytes. Embed the images"):
        open_images(f"parquet:{path}", "test", GREY)
    images = open_images(f"parquet:{path}", "test", GREY, on_bad_image="skip")
    views, _ = images.readable(range(len(images)))
    assert views[:, 0].numpy().tolist() == digits[0][[0, 2, 3, 5]].tolist()
    assert images.skipped == [
        f"row 1 of {path} holds no image bytes",
        f"row 4 of {path} is not an image that can be read (no known image format)",
    ]


def test_training_with_crops_and_recalibration(folder, kind):
    root, bad = folder
    config = DataConfig(channels=1, size=16, augment=AugmentConfig(random_resized_crop=True))
    images = open_images(f"folder:{root}", "train", config, on_bad_image="skip")
    batches = recalibration_batches(images, 150, config, 40)
    assert sum(map(len, batches)) == 147
    draws = uniform(0, 0, [0, 7], 0, (CROP_TRIES, 4))
    if kind == "held":
        assert images.crops([0, 7], draws).shape == (2, 1, 16, 16)
    else:
        with pytest.raises(DataError, match=f"{bad[0]} is not an image"):
            images.crops([0, 7], draws)


def test_streamed_tiles_are_prepared_ahead_and_stop_when_left(folder, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    images = open_images(f"folder:{folder[0]}", "test", GREY, on_bad_image="skip")
    running: Any = tiles(images, range(150), GREY, 10)
    next(running)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    running.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())
