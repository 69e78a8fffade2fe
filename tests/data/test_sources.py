"""Folders, Parquet files, digits and torchvision's sets: what they hold, and what is said of bad ones."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from image_files import encode, write_folder, write_parquet
from pyarrow import parquet as pq

from vestige.config import DataConfig
from vestige.data import datasets
from vestige.data.datasets import open_images
from vestige.data.fingerprint import walk
from vestige.errors import DataError

GREY = DataConfig(channels=1)


def message(spec: str, config: DataConfig = GREY, split: str = "train") -> str:
    """What is found and advised, after the name of the data."""
    with pytest.raises(DataError) as caught:
        open_images(spec, split, config)
    doing, _, rest = str(caught.value).partition(f"{spec!r}: ")
    assert doing == f"reading data.{split} "
    return rest


def test_digits_are_scikit_learns_each_once(digits):
    images, labels = digits
    train, test = (open_images("digits", split, GREY) for split in ("train", "test"))
    assert (len(train), len(test)) == (500, 1297)
    assert (train.shape, train.name, train.class_names) == ((1, 8, 8), "digits", tuple("0123456789"))
    assert np.bincount(train.labels).tolist() == [50] * 10
    got = [
        (part.images([i])[0, 0].numpy().tobytes(), int(part.labels[i]))
        for part in (train, test)
        for i in range(len(part))
    ]
    assert sorted(got) == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_digits_split_never_changes():
    train = open_images("digits", "train", GREY)
    assert train.labels[:12].tolist() == [3, 3, 4, 5, 2, 5, 2, 4, 5, 7, 8, 0]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
def test_folder(tmp_path, digits, ending):
    write_folder(tmp_path, digits, [3, 1], 4, ending=ending, size=16)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "digit-1" / ".hidden").write_text("x")
    (tmp_path / "readme.txt").write_text("about these images")
    found = open_images(f"folder:{tmp_path}", "test", GREY)
    assert found.class_names == ("digit-1", "digit-3")
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    assert found.labels.dtype == np.int64
    assert found.shape == (1, 16, 16)
    if ending == ".png":
        from PIL import Image

        with Image.open(tmp_path / "digit-3" / "002.png") as picture:
            assert (found.images([6])[0, 0].numpy() == np.asarray(picture)).all()


def test_order_of_images_is_not_the_file_systems(tmp_path, digits, monkeypatch):
    spec = f"folder:{write_folder(tmp_path, digits, [0, 1], 4)}"
    expected = open_images(spec, "train", GREY).images(range(8))
    monkeypatch.setattr("vestige.data.sources.walk", lambda folder: reversed(list(walk(folder))))
    assert torch.equal(open_images(spec, "train", GREY).images(range(8)), expected)


def test_folder_with_folders_within_and_images_without_ending(tmp_path, digits):
    write_folder(tmp_path, digits, [0], 2)
    (tmp_path / "digit-0" / "more").mkdir()
    (tmp_path / "digit-0" / "more" / "image").write_bytes(encode(digits[0][5]))
    found = open_images(f"folder:{tmp_path}", "train", GREY)
    assert len(found) == 3
    assert (found.images([2])[0, 0].numpy() == digits[0][5]).all()


def test_folder_without_classes(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(np.zeros((3, 3), np.uint8)))
    assert message(f"folder:{tmp_path}") == (
        f"{tmp_path} has no folders in it. Put the images of each class into a folder of its own."
    )


def test_class_folder_without_image(tmp_path, digits):
    write_folder(tmp_path, digits, [0, 1], 2)
    (tmp_path / "digit-7").mkdir()
    (tmp_path / "digit-7" / ".keep").touch()
    assert message(f"folder:{tmp_path}") == (
        f"class folder {tmp_path}/digit-7 has no image in it. Put images into it, or remove it."
    )


@pytest.mark.parametrize("limit", [datasets.MEMORY_LIMIT, 0])
@pytest.mark.parametrize(("name", "content"), [("004.png", b"hello"), ("notes.txt", b"hello"), ("004.jpg", b"")])
def test_file_that_is_not_an_image(tmp_path, digits, monkeypatch, limit, name, content):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
    write_folder(tmp_path, digits, [0, 1], 3)
    bad = tmp_path / "digit-1" / name
    bad.write_bytes(content)
    spec = f"folder:{tmp_path}"
    with pytest.raises(DataError) as caught:
        open_images(spec, "train", GREY).images(range(7))
    assert str(caught.value) == (
        f"reading data.train {spec!r}: {bad} is not an image that can be read (no known image format). "
        "Replace or remove it."
    )


def test_truncated_jpeg(tmp_path, digits):
    write_folder(tmp_path, digits, [0, 1], 2, ending=".jpg")
    bad = tmp_path / "digit-0" / "001.jpg"
    bad.write_bytes(bad.read_bytes()[:-60])
    assert message(f"folder:{tmp_path}").startswith(f"{bad} is not an image that can be read (")


def test_images_of_several_sizes(tmp_path, digits):
    write_folder(tmp_path, digits, [0, 1], 2)
    odd = tmp_path / "digit-1" / "001.png"
    odd.write_bytes(encode(np.zeros((9, 7), np.uint8)))
    assert message(f"folder:{tmp_path}") == (
        f"{odd} has 9 x 7 pixels where {tmp_path}/digit-0/000.png has 8 x 8. "
        "Give data.size, to which all images are then resized and cropped."
    )
    assert open_images(f"folder:{tmp_path}", "train", DataConfig(channels=1, size=8)).shape == (1, 8, 8)


def test_resize_below_the_crop(tmp_path, digits):
    write_folder(tmp_path, digits, [0, 1], 2)
    assert message(f"folder:{tmp_path}", DataConfig(size=10, resize=9)) == (
        "data.resize 9 is less than data.size 10. Resize to the size of the crop or more."
    )


def test_unreadable_folder(tmp_path, digits, monkeypatch):
    write_folder(tmp_path, digits, [0], 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vestige.data.sources.walk", refuse)
    assert message(f"folder:{tmp_path}") == (
        f"{tmp_path}/digit-0 cannot be read (Permission denied). Make it readable."
    )


def test_parquet(tmp_path, digits):
    images, labels = digits
    path = write_parquet(
        tmp_path / "x.parquet",
        [encode(x) for x in images[:9]],
        labels[:9].tolist(),
        [f"n{c}" for c in range(10)],
    )
    found = open_images(f"parquet:{path}", "train", GREY)
    assert found.name == "parquet:x.parquet"
    assert found.class_names == tuple(f"n{c}" for c in range(10))
    assert found.labels.tolist() == labels[:9].tolist()
    assert (found.images(range(9))[:, 0].numpy() == images[:9]).all()


def test_parquet_of_plain_binary_without_class_names(tmp_path, digits):
    table = pa.table({"label": pa.array([2, 0], pa.uint8()), "image": [encode(x) for x in digits[0][:2]]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = open_images(f"parquet:{tmp_path}/x.parquet", "train", GREY)
    assert found.class_names == ("0", "1", "2")
    assert (found.images([1])[0, 0].numpy() == digits[0][1]).all()


def good() -> bytes:
    return encode(np.zeros((4, 4), np.uint8))


PARQUET_ROWS = {
    "row that is not an image": (
        [good(), good(), b"GIF?"], [0, 1, 1], None,
        "row 2 of {} is not an image that can be read (no known image format). Replace or remove it.",
    ),
    "row without image": (
        [good(), None], [0, 1], None, "row 1 of {} holds no image bytes. Embed the images in the file."
    ),
    "row without label": (
        [good(), good()], [0, None], None, "row 1 of {} has no label. Label it, or remove it."
    ),
    "label beyond the classes": (
        [good(), good(), good()], [0, 1, 2], ["a", "b"],
        "row 2 of {} has label 2, of 2 classes. Give class indices from 0 to 1.",
    ),
    "negative label": (
        [good(), good()], [-1, 1], None,
        "row 0 of {} has label -1, of 2 classes. Give class indices from 0 to 1.",
    ),
    "labels in words": (
        [good()], ["cat"], None, "column 'label' is of type string. Give class indices from 0."
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PARQUET_ROWS)
def test_bad_parquet_rows(tmp_path, what):
    images, labels, names, expected = PARQUET_ROWS[what]
    path = write_parquet(tmp_path / "x.parquet", images, labels, names)
    assert message(f"parquet:{path}") == expected.format(path)


def test_parquet_without_rows(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [], [], ["a", "b"], kind=pa.int64())
    assert message(f"parquet:{path}") == "there is no image in it. Give at least one image of two classes each."


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"img": [b"x"], "label": [0]},
            "no column 'image' among ['img', 'label']. Name the column of images 'image' and that of class "
            "indices 'label'.",
        ),
        (
            {"pixels": [b"x"]},
            "no column 'image' and no column 'label' among ['pixels']. Name the column of images 'image' "
            "and that of class indices 'label'.",
        ),
        (
            {"image": [1.5], "label": [0]},
            "column 'image' is of type double. Give encoded images: a binary column, or a struct with a "
            "binary field 'bytes'.",
        ),
        (
            {"image": [{"path": "x.png"}], "label": [0]},
            "column 'image' is of type struct<path: string>. Give encoded images: a binary column, or a "
            "struct with a binary field 'bytes'.",
        ),
    ],
)
def test_parquet_without_the_columns(tmp_path, columns, expected):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert message(f"parquet:{tmp_path}/x.parquet") == expected


@pytest.mark.parametrize("damage", [lambda b: b"not parquet at all", lambda b: b[:-10], lambda b: b""])
def test_file_that_is_not_parquet(tmp_path, damage):
    path = write_parquet(tmp_path / "x.parquet", [good()] * 20, [0] * 20)
    path.write_bytes(damage(path.read_bytes()))
    found = message(f"parquet:{path}")
    assert found.startswith("not a whole Parquet file (")
    assert found.endswith("). Give a Parquet file of images.")


def test_parquet_damaged_within(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [bytes(range(256)) * 40] * 20, [0] * 20)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    assert message(f"parquet:{path}").startswith("not a whole Parquet file (")


def cifar_batch(path, n, seed):
    rng = np.random.default_rng(seed)
    batch = {"data": rng.integers(0, 256, (n, 3072), np.uint8), "labels": rng.integers(0, 10, n).tolist()}
    path.write_bytes(pickle.dumps(batch))
    return batch


def test_torchvision_set(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    batches = [cifar_batch(root / f"data_batch_{k}", 3, k) for k in range(1, 6)]
    test = cifar_batch(root / "test_batch", 4, 0)
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))
    spec = f"torchvision:CIFAR10:{tmp_path}"
    found = {split: open_images(spec, split, DataConfig()) for split in ("train", "test")}
    assert found["train"].labels.tolist() == [c for batch in batches for c in batch["labels"]]
    assert found["test"].class_names[3] == "c3"
    assert (found["test"].images(range(4)).numpy().reshape(4, -1) == test["data"]).all()


def test_torchvision_set_that_is_not_whole(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
    found = message(f"torchvision:CIFAR10:{tmp_path}", DataConfig())
    assert "not found or corrupted" in found
    assert found.endswith("Download torchvision's CIFAR10 there first: vestige never downloads.")


def test_real_parquet(real):
    path = real("tiny-imagenet-a-val.parquet")
    found = open_images(f"parquet:{path}", "test", DataConfig(limit_test=200))
    assert len(found.class_names) == 50
    assert np.bincount(found.labels, minlength=50).tolist() == [4] * 50
    assert found.images(range(200)).shape == (200, 3, 64, 64)
    grey = open_images(f"parquet:{path}", "test", DataConfig(limit_test=200, channels=1)).images(range(200))
    colour = found.images(range(200)).double()
    luma = (colour * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert (grey - luma).abs().max() <= 1
