"""Specifications taken apart, their short names, and their identity by content."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import encode, write_folder, write_parquet

from vestige.data.fingerprint import dataset_name, digits_file, fingerprint, locate, resolve, split_spec, walk
from vestige.errors import DataError


@pytest.mark.parametrize(
    ("spec", "parts", "name"),
    [
        ("digits", ("digits", "", None), "digits"),
        ("folder:a/val", ("folder", "", Path("a/val")), "folder:val"),
        ("folder:a/val/", ("folder", "", Path("a/val")), "folder:val"),
        ("parquet:/x/a-test.parquet", ("parquet", "", Path("/x/a-test.parquet")), "parquet:a-test.parquet"),
        ("torchvision:CIFAR10:/data:1", ("torchvision", "CIFAR10", Path("/data:1")), "torchvision:CIFAR10"),
    ],
)
def test_parts_and_short_name(spec, parts, name):
    assert split_spec(spec) == parts
    assert dataset_name(spec) == name


def test_name_of_the_working_directory(monkeypatch, tmp_path):
    (tmp_path / "val").mkdir()
    monkeypatch.chdir(tmp_path / "val")
    assert dataset_name("folder:.") == "folder:val"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "reading the data 'digit': unknown kind 'digit'. Did you mean 'digits'?"),
        ("foldr:x", "reading the data 'foldr:x': unknown kind 'foldr'. Did you mean 'folder'?"),
        ("parqet:x", "reading the data 'parqet:x': unknown kind 'parqet'. Did you mean 'parquet'?"),
        (
            "zip:x",
            "reading the data 'zip:x': unknown kind 'zip'. Choose one of 'digits', 'folder', 'parquet', 'torchvision'.",
        ),
        (
            "a/x.parquet",
            "reading the data 'a/x.parquet': unknown kind 'a/x.parquet'. Write 'parquet:a/x.parquet'.",
        ),
        ("parquet:", "reading the data 'parquet:': no path. Write 'parquet:FILE'."),
        ("folder", "reading the data 'folder': no path. Write 'folder:PATH'."),
        ("digits:x", "reading the data 'digits:x': a path, which digits do not have. Write 'digits'."),
        (
            "torchvision:CIFAR10",
            "reading the data 'torchvision:CIFAR10': no path. Write 'torchvision:NAME:PATH'.",
        ),
        (
            "torchvision:cifar10:x",
            "reading the data 'torchvision:cifar10:x': unknown torchvision set 'cifar10'. "
            "Choose one of 'CIFAR10', 'CIFAR100'",
        ),
        (
            "torchvision:CIFAR:x",
            "reading the data 'torchvision:CIFAR:x': unknown torchvision set 'CIFAR'. "
            "Did you mean 'CIFAR10' or 'CIFAR100'?",
        ),
    ],
)
def test_misspelt_specifications(spec, message):
    for call in (
        split_spec,
        dataset_name,
        lambda s: resolve(s, Path.cwd()),
        lambda s: fingerprint(s, "train"),
    ):
        with pytest.raises(DataError) as caught:
            call(spec)
        assert str(caught.value).startswith(message)


def test_a_bare_folder_is_told_how_to_write_it(tmp_path):
    with pytest.raises(DataError, match=f"Write 'folder:{tmp_path}'"):
        split_spec(str(tmp_path))


def test_resolve(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    base = Path("/home/here")
    assert resolve("digits", base) == "digits"
    assert resolve("parquet:../x.parquet", base) == "parquet:/home/x.parquet"
    assert resolve("folder:/data/val", base) == "folder:/data/val"
    assert resolve("folder:~/val", base) == "folder:/home/someone/val"
    assert resolve("torchvision:MNIST:data", base) == "torchvision:MNIST:/home/here/data"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("parquet:{}/none.parquet", "{}/none.parquet does not exist. Give the path of a file that does."),
        ("folder:{}/none", "{}/none does not exist. Give the path of a folder that does."),
        ("parquet:{}", "{} is a folder. Give one Parquet file."),
        ("folder:{}/file", "{}/file is not a folder. Give the folder that holds the images."),
        ("torchvision:MNIST:{}/none", "{}/none does not exist. Give the path of a folder that does."),
        (
            "torchvision:MNIST:{}",
            "{} holds no MNIST/raw. Download torchvision's MNIST there first: vestige never downloads.",
        ),
    ],
)
def test_paths_that_are_not_there(tmp_path, spec, found):
    (tmp_path / "file").touch()
    spec = spec.format(tmp_path)
    for call in (locate, fingerprint):
        with pytest.raises(DataError) as caught:
            call(spec, "test")
        assert str(caught.value) == f"reading data.test {spec!r}: {found.format(tmp_path)}"


def test_digits_file_is_scikit_learns():
    import sklearn.datasets

    assert digits_file() == Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    assert digits_file().exists()
    assert fingerprint("digits", "train") != fingerprint("digits", "test")


def test_identity_of_a_file_is_its_content_and_not_its_path(tmp_path, digits):
    images, _ = digits
    a = write_parquet(tmp_path / "a.parquet", [encode(x) for x in images[:4]], list(range(4)))
    b = tmp_path / "b.parquet"
    shutil.copy(a, b)
    before = fingerprint(f"parquet:{a}", "train")
    assert fingerprint(f"parquet:{b}", "test") == before
    write_parquet(a, [encode(x) for x in images[1:5]], list(range(4)))
    assert fingerprint(f"parquet:{a}", "train") != before


def test_identity_of_a_folder_is_its_names_and_sizes(tmp_path, digits):
    a = write_folder(tmp_path / "a", digits, [0, 1], 3)
    shutil.copytree(a, tmp_path / "b" / "elsewhere")
    before = fingerprint(f"folder:{a}", "train")
    assert fingerprint(f"folder:{tmp_path}/b/elsewhere", "train") == before
    (a / ".DS_Store").write_bytes(b"litter")
    (a / "digit-0" / "Thumbs.db").write_bytes(b"litter")
    assert fingerprint(f"folder:{a}", "train") == before
    os.utime(a / "digit-0" / "000.png")
    assert fingerprint(f"folder:{a}", "train") == before
    (a / "digit-0" / "000.png").rename(a / "digit-1" / "000x.png")
    moved = fingerprint(f"folder:{a}", "train")
    assert moved != before
    with (a / "digit-1" / "000x.png").open("ab") as file:
        file.write(b"x")
    assert fingerprint(f"folder:{a}", "train") not in (before, moved)


def test_identity_of_a_folder_is_not_in_the_file_systems_order(tmp_path, digits, monkeypatch):
    spec = f"folder:{write_folder(tmp_path, digits, [0, 1], 3)}"
    before = fingerprint(spec, "train")
    monkeypatch.setattr("vestige.data.fingerprint.walk", lambda folder: reversed(list(walk(folder))))
    assert fingerprint(spec, "train") == before


def test_identity_of_a_torchvision_set_knows_its_split_and_only_its_own_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"123")
    before = fingerprint(f"torchvision:MNIST:{tmp_path}", "train")
    (tmp_path / "another.tar.gz").write_bytes(b"1")
    assert fingerprint(f"torchvision:MNIST:{tmp_path}", "train") == before
    assert fingerprint(f"torchvision:MNIST:{tmp_path}", "test") != before


def test_needs_no_torch_and_no_sklearn():
    code = (
        "import sys; from vestige.data.fingerprint import fingerprint; fingerprint('digits', 'train');"
        "assert not {'torch', 'sklearn', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
