"""Data from the user's own Python file, and mistakes in it."""

import textwrap

import numpy as np
import pytest
import torch

from vestige.config import DataConfig
from vestige.data import datasets, userdata
from vestige.data.datasets import open_images
from vestige.data.fingerprint import dataset_name, fingerprint, resolve, split_spec
from vestige.data.userdata import holds_images, load_data
from vestige.errors import DataError

GREY = DataConfig(channels=1)

SETS = '''
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, Subset, TensorDataset

bunch = load_digits()
PIXELS = np.round(bunch.images / 16 * 255).astype(np.uint8)[:40]
LABELS = bunch.target[:40]
HERE = Path(__file__).parent

class Digits(Dataset):
    """Of one form; the labels are told beforehand, or not."""
    classes = [f"digit-{c}" for c in range(10)]

    def __init__(self, form, told=True, n=40):
        self.form, self.n = form, n
        if told:
            self.targets = LABELS[:n].tolist()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return self.form(i), LABELS[i]

def png(i):
    path = HERE / f"{i}.png"
    if not path.exists():
        Image.fromarray(PIXELS[i]).save(path)
    return path

pillow = Digits(lambda i: Image.fromarray(PIXELS[i]))
colour = Digits(lambda i: Image.fromarray(PIXELS[i]).convert("RGB"))
array = Digits(lambda i: PIXELS[i])
array_hw1 = Digits(lambda i: PIXELS[i][:, :, None])
tensor = Digits(lambda i: torch.from_numpy(PIXELS[i])[None])
tensor_rgb = Digits(lambda i: torch.from_numpy(PIXELS[i])[None].expand(3, -1, -1))
path = Digits(png)
text = Digits(lambda i: str(png(i)))
encoded = Digits(lambda i: png(i).read_bytes())
lazy = Digits(lambda i: Image.open(png(i)))
untold = Digits(lambda i: PIXELS[i], told=False)
subset = Subset(array, range(40))
pairs = [(PIXELS[i], int(LABELS[i])) for i in range(40)]

def make():
    return array

def by_split(split):
    return Digits(lambda i: PIXELS[i], n={"train": 30, "test": 10}[split])

def by_train(train, limit=None):
    return Digits(lambda i: PIXELS[i], n=30 if train else 10)

class Made(Digits):
    def __init__(self, train):
        super().__init__(lambda i: PIXELS[i], n=30 if train else 10)

floats = Digits(lambda i: torch.from_numpy(PIXELS[i])[None] / 255)
arrays_of_floats = Digits(lambda i: PIXELS[i] / 255)
numbers = Digits(lambda i: 7)
class Triples(Digits):
    def __getitem__(self, i):
        return 1, 2, 3
triples = Triples(None)
class Failing(Digits):
    def __getitem__(self, i):
        return {}["x"]
failing = Failing(None)
class TextLabels(Digits):
    def __getitem__(self, i):
        return PIXELS[i], "seven"
text_labels = TextLabels(None, told=False)
class Negative(Digits):
    def __init__(self):
        super().__init__(lambda i: PIXELS[i])
        self.targets[3] = -1
negative = Negative()
empty = Digits(None, n=0)
number = 7
pair = (torch.zeros(3, 1, 8, 8), torch.arange(3))
two_bytes = (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2))
tensors = TensorDataset(torch.zeros(12, 1, 8, 8), torch.arange(12) % 3)

def needs(root):
    return array
def gives_nothing():
    pass

class SomeBad(Digits):
    def __getitem__(self, i):
        if i in (0, 5):
            raise OSError("image file is truncated")
        return super().__getitem__(i)
bad = SomeBad(lambda i: PIXELS[i])
bad_untold = SomeBad(lambda i: PIXELS[i], told=False)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "my_data.py"
    path.write_text(textwrap.dedent(SETS))
    return path


@pytest.mark.parametrize("limit", [datasets.MEMORY_LIMIT, 0])
@pytest.mark.parametrize("name", [
    "pillow", "colour", "array", "array_hw1", "tensor", "tensor_rgb", "path", "text", "encoded", "lazy", "untold",
    "subset", "pairs", "make",
])  # fmt: skip
def test_every_form_of_image(file, digits, name, limit, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
    images = open_images(f"{file}:{name}", "test", GREY)
    pixels, labels = digits
    assert images.images(range(40))[:, 0].numpy().tolist() == pixels[:40].tolist()
    assert images.labels.tolist() == labels[:40].tolist()
    names = tuple(map(str, range(10))) if name == "pairs" else tuple(f"digit-{c}" for c in range(10))
    assert images.class_names == names
    assert images.name == f"my_data.py:{name}"
    assert holds_images(load_data(f"{file}:{name}", "test"))


@pytest.mark.parametrize("name", ["by_split", "by_train", "Made"])
def test_split_is_told_as_far_as_it_is_taken(file, name):
    assert [len(open_images(f"{file}:{name}", split, GREY)) for split in ("train", "test")] == [30, 10]


def test_limit_and_size(file, digits):
    images = open_images(f"{file}:pillow", "test", DataConfig(channels=3, size=4, limit_test=20))
    assert images.images(range(20)).shape == (20, 3, 4, 4)
    assert np.bincount(images.labels).tolist() == [2] * 10


def test_inputs_that_are_preprocessed_already(file):
    for name in ("floats", "pair", "tensors", "two_bytes"):
        assert not holds_images(load_data(f"{file}:{name}", "test"))
    assert load_data(f"{file}:floats", "test")[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "floats",
            "item 0 of my_data.py:floats is a tensor of float32 of shape (1, 8, 8): preprocessed already, where an "
            "image is needed. Give images: Pillow's, uint8 pixels, or paths of image files (data.size, mean and std "
            "prepare them). Inputs as they are can be measured by vestige.measure.",
        ),
        ("arrays_of_floats", "item 0 of my_data.py:arrays_of_floats is an array of float64 of shape (8, 8): prepro"),
        ("numbers", "item 0 of my_data.py:numbers is an int. Give images: Pillow's, uint8 pixels, or paths"),
        ("triples", "item 0 of my_data.py:triples is a tuple of 3. Give pairs of (image, label)."),
        ("failing", "reading item 0 of my_data.py:failing raises KeyError in line "),
        ("text_labels", "item 0 of my_data.py:text_labels has the label 'seven'. Give class indices from 0."),
        ("negative", "item 3 of my_data.py:negative has label -1. Give class indices from 0."),
        ("empty", "there is no image in it. Give at least one image of two classes each."),
        ("number", "it is an int. Name a Dataset, or what makes one."),
        ("pair", "item 0 of my_data.py:pair is a tensor. Give pairs of (image, label)."),
        ("tensors", "item 0 of my_data.py:tensors is a tensor of float32 of shape (1, 8, 8): preprocessed already"),
        ("needs", "calling it with () raises TypeError: needs() missing 1 required positional argument: 'root'. Let"),
        ("gives_nothing", "calling it gives nothing. Return a map-style Dataset of (image, label) from it."),
        ("arary", "there is no 'arary' in {}. Did you mean 'array'"),
        ("bad", "item 0 of my_data.py:bad is not an image that can be read (image file is truncated). Replace or"),
        ("bad_untold", "item 0 of my_data.py:bad_untold is not an image that can be read (image file is truncated). "),
    ],
)  # fmt: skip
def test_mistakes(file, name, message):
    spec = f"{file}:{name}"
    with pytest.raises(DataError) as caught:
        open_images(spec, "test", GREY)
    assert str(caught.value).startswith(f"reading data.test {spec!r}: {message.format(file)}")


@pytest.mark.parametrize("name", ["bad", "bad_untold"])
def test_unreadable_items_are_skipped(file, digits, name):
    images = open_images(f"{file}:{name}", "test", GREY, on_bad_image="skip")
    kept = [i for i in range(40) if i not in (0, 5)]
    assert images.labels.tolist() == digits[1][kept].tolist()
    assert images.images(range(38))[:, 0].numpy().tolist() == digits[0][kept].tolist()
    assert images.skipped == [
        f"item {i} of my_data.py:{name} is not an image that can be read (image file is truncated)" for i in (0, 5)
    ]


def test_specification(file):
    assert split_spec(f"{file}:make") == ("python", "make", file)
    assert split_spec("a:b/x.py:y.z").path == (file.parent / "x" / "a:b/x.py").relative_to(file.parent / "x")
    assert dataset_name("../x/mine.py:make") == "mine.py:make"
    assert resolve("mine.py:make", file.parent) == f"{file.parent}/mine.py:make"
    for spec in (str(file), f"{file}:"):
        with pytest.raises(DataError) as caught:
            split_spec(spec)
        assert str(caught.value) == (
            f"reading the data {spec!r}: it names a file, but nothing in it. "
            f"Name the dataset, or the function that makes it, too: {file}:NAME."
        )
    missing = f"{file.parent}/my_dat.py:make"
    with pytest.raises(DataError) as caught:
        open_images(missing, "test", GREY)
    assert str(caught.value) == (
        f"reading data.test {missing!r}: there is no file '{file.parent}/my_dat.py'. Did you mean '{file}'?"
    )


def test_identity(file, tmp_path):
    def identity(name: str = "make", split: str = "train", path=file) -> str:
        return fingerprint(f"{path}:{name}", split)

    assert identity() == identity()
    assert identity().startswith("python:train:")
    assert len({identity(), identity("by_split"), identity("by_split", "test"), identity("untold")}) == 4
    copy = tmp_path / "elsewhere.py"
    copy.write_text(file.read_text())
    assert identity(path=copy) == identity()
    copy.write_text(file.read_text() + "\n# changed\n")
    assert identity(path=copy) != identity()


def test_identity_follows_what_the_object_tells(tmp_path):
    (tmp_path / "data.py").write_text(
        "from pathlib import Path\n"
        "class Set:\n"
        "    targets = [int(c) for c in Path(__file__).with_name('labels.txt').read_text()]\n"
        "    def __len__(self): return len(self.targets)\n"
        "    def __getitem__(self, i): raise RuntimeError('no item is read')\n"
        "made = Set()\n"
    )
    found = []
    for labels in ("010", "011", "0110"):
        userdata._made.cache_clear()
        userdata._object.cache_clear()
        (tmp_path / "labels.txt").write_text(labels)
        found.append(fingerprint(f"{tmp_path}/data.py:made", "train"))
    assert len(set(found)) == 3
