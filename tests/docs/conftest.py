"""What the pages speak of: a model, its weights, images; small, and real digits."""

import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from foreign_models import MODEL, as_inputs, digits, last_model, write_checkpoints, write_images
from vestige.models.zoo import ResNet

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

DATA = """
import torch
from foreign_models import as_inputs, digits
def batches():
    pixels, labels = digits("test", 100)
    return [(as_inputs(pixels)[i : i + 50], torch.from_numpy(labels[i : i + 50])) for i in (0, 50)]
"""


class Standing(ResNet):
    """A small network, whose first layers can be called alone."""

    def features(self, x: Tensor) -> Tensor:
        return self.layer1(self.relu(self.bn1(self.conv1(x))))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that pages speak of; to be copied, not changed."""
    home = tmp_path_factory.mktemp("pages")
    write_images(home / "val", "test", 100)
    write_images(home / "train", "train", 200)
    write_checkpoints(home / "checkpoints")
    weights = last_model(str(home / "checkpoints/last.safetensors")).state_dict()
    for name in ("weights", "model"):
        safetensors.torch.save_file(weights, home / f"{name}.safetensors")
    (home / "my_model.py").write_text(MODEL)
    (home / "my_data.py").write_text(DATA)
    (home / "classes.json").write_text(json.dumps({f"digit {c}": c + 2 for c in range(10)}))
    for name in ("groups", "neurons"):
        grouped().write_csv(home / f"{name}.csv")
    return home


@pytest.fixture
def page_home(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of a page is at work."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


@pytest.fixture
def names(stand_ins: Path) -> dict:
    """What a reader has in Python before the first block of a page."""
    model = Standing(8, classes=10, width=4)
    model.load_state_dict(safetensors.torch.load_file(stand_ins / "weights.safetensors"))
    pixels, labels = digits("test", 60)
    inputs, labels = as_inputs(pixels), torch.from_numpy(labels)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=30)
    train_loader = DataLoader(TensorDataset(as_inputs(digits("train", 100)[0]), torch.arange(100) % 10), batch_size=50)
    found = {"model": model.eval(), "loader": loader, "train_loader": train_loader, "table": grouped()}
    return {**found, "inputs": inputs, "labels": labels, "__name__": "page"}


def grouped() -> pl.DataFrame:
    """Groups of neurons."""
    rows = [("layer1.0", 0, "a"), ("layer2.0", 3, "a"), ("layer3.0", 4, "b")]
    return pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row")
