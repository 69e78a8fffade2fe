"""What processes share is what one process does: real ones of torchrun, over gloo, with batches that do not divide."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torchvision
from shared_runs import EPOCHS, MODES, run, study
from torch import nn

from vestige.data.datasets import open_images
from vestige.data.loader import TrainingLoader, part_of
from vestige.errors import ModelError
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder
from vestige.training.bench import with_shared_batch_norm

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every mode trained by one process, and by two that begin each step with the weights that the one had."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for mode in MODES:
        run(mode, one / mode)
    worker = str(Path(__file__).with_name("shared_runs.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, worker, str(one), str(two)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return one, two


def step_of(folder, mode, step, rank=0):
    return torch.load(folder / mode / "steps" / f"{step}-{rank}.pt", weights_only=True)


def off(found, expected):
    """Norm of the difference, over all parameters, relative to the norm."""
    found, expected = (torch.cat([t.double().flatten() for t in tensors]) for tensors in (found, expected))
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("mode", MODES)
def test_every_step_from_the_same_weights_gives_the_gradient_of_one_process(mode, folders):
    one, two = folders
    steps = 6 * EPOCHS.get(mode, 1)
    assert steps == (54 if mode == "none" else 6)
    worst, split = 0.0, set()
    for step in range(steps):
        expected = step_of(one, mode, step)
        parts = [step_of(two, mode, step, rank) for rank in range(2)]
        split.add(tuple(part["rows"] for part in parts))
        for part in parts:
            worst = max(worst, off(part["gradient"], expected["gradient"]))
        assert all(map(torch.equal, parts[0]["gradient"], parts[1]["gradient"]))
    assert split == {(4, 5), (1, 1)}, "a part that is empty has an image of the other's, which does not count"
    print(f"{mode}: {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.parametrize(
    "mode", [mode for mode, one in MODES.items() if one and one["kind"] in ("selectivity", "eta2")]
)
def test_value_and_gradient_of_every_penalty_are_those_of_one_process(mode, folders):
    one, two = folders
    seen = 0
    for step in range(6):
        expected = step_of(one, mode, step)
        parts = [step_of(two, mode, step, rank) for rank in range(2)]
        for part in parts:
            assert part["penalty"].item() == pytest.approx(expected["penalty"].item(), rel=1e-5, abs=1e-6)
        if not expected["penalty"].item():  # one image, and so one class
            assert not any(g.any() for part in parts for g in part["penalty gradient"])
            continue
        mean = [(a + b) / 2 for a, b in zip(*(part["penalty gradient"] for part in parts), strict=True)]
        seen += 1
        print(f"{mode}, step {step}: {off(mean, expected['penalty gradient']):.1e}")
        assert off(mean, expected["penalty gradient"]) < 1e-5
    assert seen >= 5


@pytest.mark.parametrize("mode", MODES)
def test_the_history_is_that_of_one_process(mode, folders):
    """Means over the whole batch, whatever the parts; doses, of norms over the whole batch."""
    alone, shared = (pl.read_parquet(RunFolder(folder / mode).history) for folder in folders)
    assert alone.columns == shared.columns
    for column in alone.columns:
        if alone[column].dtype.is_float():
            np.testing.assert_allclose(shared[column], alone[column], rtol=1e-4, atol=1e-6, err_msg=column)
        else:
            assert shared[column].equals(alone[column], null_equal=True)


def test_evaluation_is_that_of_one_process_to_the_last_bit(folders):
    """30 images in tiles of 16, none of them counted twice: of the same weights, those of the beginning."""
    tests = [
        pl.read_parquet(RunFolder(folder / "none").history).filter(pl.col("step") == 0, pl.col("split") == "test")
        for folder in folders
    ]
    assert tests[0].select("loss", "top1", "top5").rows() == tests[1].select("loss", "top1", "top5").rows()
    assert tests[0].height == 1


def test_the_first_process_alone_writes_and_the_manifest_says_how_many_there_were(folders):
    manifests = [read_manifest(RunFolder(folder / "none")) for folder in folders]
    assert [manifest.made["processes"] for manifest in manifests] == [1, 2]
    assert all(manifest.complete for manifest in manifests)
    assert sorted(manifests[0].checkpoints) == sorted(manifests[1].checkpoints)


def test_all_processes_say_what_one_has_found(folders):
    said = [(folders[1] / f"said-{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert said[0] == said[1]
    one, first, uneven, drifting = said[0]
    assert one == "reading an image: a bad one in process 1. Mend it."
    assert first == "reading an image: a bad one in process 0. Mend it."
    assert uneven.startswith(
        "adding the penalty of the intervention 'Uneven': it is another in each of the 2 processes: "
    )
    assert uneven.endswith("Compute it from the whole batch: `state.whole(tensor)` joins the rows of all processes.")
    assert "at step 3: 'layer1.0.0.weight' is not the same in the 2 processes. Let nothing but the batch" in drifting


@pytest.mark.parametrize(("n", "world"), [(9, 2), (1, 2), (10, 4), (3, 8), (256, 7)])
def test_parts_are_the_whole_and_nearly_equal(n, world):
    parts = [list(range(n))[part_of(n, (rank, world))] for rank in range(world)]
    assert [place for part in parts for place in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("world", [2, 3, 16])
def test_images_are_augmented_alike_however_many_share_a_batch(world):
    config = study([], augment={"crop_padding": 1, "flip": True}).data
    images = open_images("digits", "train", config)
    whole = TrainingLoader(images, config, 9, seed=3)
    shares = [TrainingLoader(images, config, 9, 3, (rank, world)) for rank in range(world)]
    for step in (0, 5, 7):  # of 9 images, of one, of the next epoch
        batch = whole.batch(step)
        parts = [loader.batch(step) for loader in shares]
        rows = [part_of(len(batch.labels), loader.share) for loader in shares]
        joined = torch.cat([part.inputs[: own.stop - own.start] for part, own in zip(parts, rows, strict=True)])
        assert torch.equal(joined, batch.inputs)
        assert all(np.array_equal(part.indices, batch.indices) for part in parts)
        assert all(torch.equal(part.labels, batch.labels) for part in parts)
        assert all(len(part.inputs) for part in parts)


def test_batch_norm_is_refused_without_a_gpu_and_where_a_process_would_have_no_image():
    settings = study([])
    for device, images, found in (
        ("cpu", 45, "it has batch norm ('bn1'), which is shared between GPUs only (SyncBatchNorm)"),
        (
            "cuda",
            46,
            "it has batch norm, and the last batch of an epoch has 1 images, too few for each process to get one",
        ),
    ):
        with pytest.raises(ModelError) as error:
            with_shared_batch_norm(torchvision.models.resnet18(), settings, device, images, 2)
        assert str(error.value) == (
            f"sharing the training of the model {settings.model.name!r} among 2 processes: {found}. Train with one "
            "process (without torchrun; compute.workers runs train side by side), or take a network with GroupNorm "
            "or LayerNorm."
        )
    shared = with_shared_batch_norm(torchvision.models.resnet18(), settings, "cuda", 45, 2)
    kinds = {type(module) for module in shared.modules() if "Norm" in type(module).__name__}
    assert kinds == {nn.SyncBatchNorm}


def test_a_batch_norm_of_another_kind_is_refused():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ModelError, match="its batch norm '1' is a kind of its own, which SyncBatchNorm cannot stand"):
        with_shared_batch_norm(nn.Sequential(nn.BatchNorm2d(2), Own(2)), study([]), "cuda", 45, 2)
