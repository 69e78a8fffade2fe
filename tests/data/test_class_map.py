"""Labels of the data to class indices of the model, from every form in which people keep them."""

import json

import numpy as np
import pytest

from vestige.data.class_map import class_map, read_class_map
from vestige.errors import DataError

NAMES = ("n01440764", "n02102040", "n03028079")  # three of ImageNet's classes, at 0, 217, 497
WNIDS = {"n01440764": 0, "n01443537": 1, "n02102040": 217, "n03028079": 497}
EXPECTED = [0, 217, 497]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.json", "[0, 217, 497]"),
        ("by-name.json", json.dumps(WNIDS)),
        ("by-label.json", '{"2": 497, "0": 0, "1": 217}'),
        ("keras.json", json.dumps({"0": ["n01440764", "tench"], "217": ["n02102040", "x"], "497": ["n03028079", "y"]})),
        ("id2label.json", json.dumps({str(i): name for name, i in WNIDS.items()})),
        ("names.json", json.dumps(["n01440764", *["?"] * 216, "n02102040", *["?"] * 279, "n03028079"])),
        ("list.txt", "0\n217\n\n497\n"),
        ("pairs.txt", "# of a paper\nn03028079 497\nn01440764\t0\nn02102040, 217\n"),
        ("no-ending", json.dumps(WNIDS)),
        (
            "synset_words.txt",
            "n01440764 tench, Tinca\n" + "n09 x\n" * 216 + "n02102040 dog\n" + "n0 y\n" * 279 + "n03028079 z",
        ),
    ],
)  # fmt: skip
def test_forms(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    found = read_class_map(tmp_path / file, NAMES, outputs=1000)
    assert found.dtype == np.int64
    assert found.tolist() == EXPECTED


def test_names_that_end_in_a_number_are_names(tmp_path):
    (tmp_path / "x.txt").write_text("class 2\nclass 1\n")
    assert read_class_map(tmp_path / "x.txt", ["class 1", "class 2"]).tolist() == [1, 0]


def test_numerals_for_class_names_are_names():
    # Folders 0, 1, 10, 2 sort so: label 2 is the class named "10".
    assert class_map({"0": 0, "1": 1, "2": 2, "10": 10}, ["0", "1", "10", "2"]).tolist() == [0, 1, 10, 2]


@pytest.mark.parametrize(
    "given", [[2, 0, 1], np.array([2, 0, 1]), (2, 0, 1), {0: 2, 1: 0, 2: 1}, {"a": 2, "b": 0, "c": 1}, ["b", "c", "a"]]
)
def test_from_python(given):
    assert class_map(given, ["a", "b", "c"], outputs=3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n01440764": 0, "n02102040": 1, "n03028078": 2}, "class 'n03028079' has no index. Did you mean 'n03028078'"),
        ([0, 1], "2 indices for the 3 classes of the data. Give one index for each class, in the order of the labels."),
        ([0, 5, 5], "classes 'n02102040' and 'n03028079' both have index 5. Give each class an index of its own."),
        ([0, 1, 1000], "class 'n03028079' has index 1000; the model's classes are 0 to 999. Give indices"),
        ([0, -1, 2], "class 'n02102040' has index -1; the model's classes are 0 to 999. "),
        ([0, 1.5, 2], "class 'n02102040' has the index 1.5. Give whole numbers from 0."),
        ([0, True, 2], "class 'n02102040' has the index True. Give whole numbers from 0."),
        (["n01440764", "n02102040"], "class 'n03028079' has no index. Did you mean 'n0"),
        (["n01440764", "n02102040", "n03028079", "n02102040"], "class 'n02102040' is named 2 times. Give {class name"),
        ({}, "nothing to map by in a dict. Give a list of indices, {class name or label: index}, or the names of"),
        ("abc", "nothing to map by in a str."),
    ],
)  # fmt: skip
def test_mistakes(given, message):
    with pytest.raises(DataError) as caught:
        class_map(given, NAMES, outputs=1000)
    assert str(caught.value).startswith(f"mapping classes: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory. Give a JSON or text file."),
        (b"\xff\xfe\x00", "it is not text. Give a JSON or text file."),
        (b"{", "it is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)). "),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "map.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_class_map(path, NAMES)
    assert str(caught.value).startswith(f"reading the class map {path}: {message}")
