"""The loop: what it computes, what it writes, when hooks are called, and how it fails."""

import json
import logging

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import KEY, PENALTIES, small_study, train, weights
from torch.nn import functional

from vestige.config import ComputeConfig, DataConfig, ModelConfig
from vestige.data.datasets import open_images
from vestige.data.loader import TrainingLoader
from vestige.data.transforms import normalise
from vestige.errors import ConfigError, TrainingError
from vestige.models.zoo import build
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder, file_hash, read_tensors
from vestige.runs.tables import SCHEMAS
from vestige.training import bench as bench_module
from vestige.training.events import Event, Intervention
from vestige.training.history import Meter, evaluate
from vestige.training.loop import Parent, train_run
from vestige.training.runtime import choose_device, session

STEPS = [0, 2, 4, 8, 12]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """An undisturbed run of the small study."""
    return train(small_study(), tmp_path_factory.mktemp("baseline"), onsets=(5, 8))


def test_weights_are_those_of_a_loop_written_out(baseline):
    """SGD with momentum and weight decay by hand: v = 0.9 v + g + wd w; w = w - lr v."""
    study = small_study(recipe={"schedule": "step", "step_epochs": [2], "warmup_epochs": 0.5, "nesterov": False})
    data = DataConfig(limit=40, limit_test=30, channels=1)
    loader = TrainingLoader(open_images("digits", "train", data), data, 10, seed=0)
    model = build(ModelConfig(name="resnet8", width=8), classes=10, channels=1, size=8, seed=0)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in range(12):
        inputs, labels, _ = loader.batch(step)
        loss = functional.cross_entropy(model(inputs), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        lr = 0.05 * min(1.0, (step + 1) / 2) / (10 if step >= 8 else 1)
        with torch.no_grad():
            for (name, p), g in zip(model.named_parameters(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + g + 1e-4 * p
                p -= lr * velocity[name]
    run = train(study, baseline.path.parent / "by-hand")
    kept, _ = read_tensors(run.checkpoint(12))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-3, atol=1e-5)


def test_what_a_run_leaves(baseline):
    manifest = read_manifest(baseline)
    assert manifest.complete
    assert (manifest.key, manifest.parent) == (KEY, None)
    assert sorted(manifest.checkpoints) == STEPS
    for step, (epoch, artifact) in manifest.checkpoints.items():
        assert epoch == step / 4
        assert artifact.sha256 == file_hash(baseline.checkpoint(step))
    states = {f"state/step-{step:08d}.safetensors" for step in (5, 8, 12)}
    assert {path.relative_to(baseline.path).as_posix() for path in baseline.path.glob("state/*")} == states
    assert set(manifest.artifacts) == states | {"history.parquet"}
    model = build(ModelConfig(name="resnet8", width=8), classes=10, channels=1, size=8, seed=0)
    initial, _ = read_tensors(baseline.checkpoint(0))
    assert set(initial) == set(model.state_dict())
    assert all(torch.equal(initial[name], tensor) for name, tensor in model.state_dict().items())


def test_history_has_a_row_a_split_at_every_checkpoint(baseline):
    history = pl.read_parquet(baseline.history)
    assert dict(history.schema) == SCHEMAS["history"]
    rows = history.select("step", "split").rows()
    assert rows == [(0, "test")] + [(step, split) for step in STEPS[1:] for split in ("train", "test")]
    assert history["epoch"].to_list() == [step / 4 for step in history["step"]]
    assert history.null_count().sum_horizontal().item() == 0


def test_test_rows_are_those_of_the_kept_weights(baseline):
    data = DataConfig(limit=40, limit_test=30, channels=1)
    test = open_images("digits", "test", data)
    model = build(ModelConfig(name="resnet8", width=8), classes=10, channels=1, size=8, seed=5).eval()
    model.load_state_dict(read_tensors(baseline.checkpoint(8))[0])
    losses, first, among_five = [], 0, 0
    for i in range(len(test)):
        inputs = normalise(test.images([i]), data.mean, data.std)
        scores = model(inputs)[0].double().tolist()
        label = int(test.labels[i])
        losses.append(np.logaddexp.reduce(scores) - scores[label])
        ranked = sorted(range(10), key=lambda c: -scores[c])
        first, among_five = first + (ranked[0] == label), among_five + (label in ranked[:5])
    row = pl.read_parquet(baseline.history).filter(step=8, split="test").row(0, named=True)
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert (row["top1"], row["top5"]) == pytest.approx((first / 30, among_five / 30))


def test_evaluation_leaves_modes_and_statistics_alone():
    data = DataConfig(limit_test=7, channels=1)
    model = build(ModelConfig(name="resnet8", width=8), classes=10, channels=1, size=8, seed=0)
    model.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = open_images("digits", "test", data)
    result = evaluate(model, images, data, tile=4, classes=10, device=torch.device("cpu"), dtype="float32")
    assert set(result) == {"loss", "top1", "top5"}
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_meter_weights_batches_by_their_images():
    meter = Meter(classes=3)
    for step, (n, loss) in enumerate([(4, 1.0), (1, 6.0)]):
        logits = torch.eye(3)[[0] * n]
        labels = torch.tensor([0, 0, 0, 1][:n])
        meter.add_batch(step, 0.1, torch.tensor(0.0), torch.tensor(loss), logits, labels)
        meter.add_scalar("x", step)
    assert meter.take() == pytest.approx({"loss": 2.0, "top1": 0.8, "x": 0.5})
    assert meter.take() == {}


def test_meter_sums_do_not_depend_on_when_they_are_looked_at():
    whole, looked_at = Meter(3), Meter(3)
    for step, value in enumerate(torch.rand(50, generator=torch.Generator().manual_seed(0))):
        whole.add_scalar("x", value)
        looked_at.add_scalar("x", value)
        if step % 7 == 0:
            looked_at.flush()
            looked_at = Meter(3, json.loads(json.dumps(looked_at.sums)))
    assert whole.take() == looked_at.take()


@pytest.mark.parametrize("mode", PENALTIES)
def test_until_its_onset_a_run_is_its_baseline(mode, baseline, tmp_path):
    study = small_study([{**PENALTIES[mode], "window": {"start": 4, "stop": 8}}])
    run = train(study, tmp_path, "changed")
    assert [step for step in STEPS if weights(run, step) == weights(baseline, step)] == [0, 2, 4]
    history = pl.read_parquet(run.history)
    logged = [name for name in history.columns if "." in name]
    assert [name.split(".")[1] for name in logged] == ["penalty", "csi", "eta2", "closed", "dose"]
    acting = history.filter(pl.col(logged[0]).is_not_null())
    assert acting.select("step", "split").rows() == [(8, "train")]
    assert acting.select(logged).null_count().sum_horizontal().item() == 0


def test_an_intervention_reaches_its_aim(tmp_path):
    curves = {}
    for alpha in (-20.0, 20.0):
        run = train(small_study([{"kind": "selectivity", "alpha": alpha}]), tmp_path / str(alpha), "changed")
        curves[alpha] = pl.read_parquet(run.history)["selectivity.csi"].drop_nulls().to_list()
    assert curves[-20.0][-1] < 0.7 * curves[-20.0][0]
    assert curves[20.0][-1] > 1.2 * curves[20.0][0]


class Recorder(Intervention):
    def __init__(self, window):
        super().__init__("recorder", window)
        self.heard = []

    def on(self, event, state):
        self.heard.append((state.step, event))


def test_events_come_in_the_order_drawn(tmp_path, monkeypatch):
    recorder = Recorder((1, 2))
    study = small_study([{"kind": "eta2"}], recipe={"epochs": 1})
    monkeypatch.setattr(bench_module.interventions, "build", lambda *_: (recorder,))
    train(study, tmp_path, "changed")
    step = [e for e in Event if e not in (Event.RUN_START, Event.CHECKPOINT, Event.RUN_END)]
    assert recorder.heard == [
        (0, Event.RUN_START),
        (0, Event.CHECKPOINT),
        *[(1, event) for event in step],
        (1, Event.CHECKPOINT),
        (3, Event.CHECKPOINT),
        (3, Event.RUN_END),
    ]


@pytest.mark.parametrize(
    "recipe", [{"dtype": "bfloat16"}, {"channels_last": False}, {"momentum": 0.0}, {"nesterov": True}]
)
def test_recipes(recipe, baseline, tmp_path):
    run = train(small_study([{"kind": "eta2", "alpha": -1}], recipe=recipe), tmp_path, "baseline")
    loss, reference = (pl.read_parquet(r.history).filter(split="test")["loss"] for r in (run, baseline))
    assert loss[0] == pytest.approx(reference[0], rel=2e-2)  # at initialisation only the arithmetic differs
    assert loss[-1] < loss[0]
    train(small_study([{"kind": "eta2", "alpha": -1}], recipe=recipe), tmp_path / "changed", "changed")


def test_dropout_is_a_function_of_seed_and_step(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import torch\n"
        "def net(classes, channels, size):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size**2, 16),\n"
        "        torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(16, classes))\n"
    )
    study = small_study(model={"name": f"{source}:net"})
    runs = []
    for name in ("one", "two"):
        torch.rand(3)
        runs.append(train(study, tmp_path / name))
    assert weights(runs[0], 12) == weights(runs[1], 12)
    other = train(study, tmp_path / "other", seed=1)
    assert weights(other, 12) != weights(runs[0], 12)


def test_diverging_run_stops_before_its_weights_are_kept(tmp_path):
    study = small_study(recipe={"lr": 1e30})
    with pytest.raises(TrainingError) as error:
        train(study, tmp_path)
    message = str(error.value)
    assert message.startswith("training 'baseline', seed 0, at step 1: the loss is ")
    assert "at learning rate 1e+30; the last good checkpoint is that of step 0. Lower recipe.lr" in message
    assert sorted(read_manifest(RunFolder(tmp_path)).checkpoints) == [0]
    assert not RunFolder(tmp_path).checkpoint(2).exists()


@pytest.mark.parametrize("mode", PENALTIES)
def test_diverging_with_a_penalty_says_so_too(mode, tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf|-inf), at learning rate 1e\+30, dose of [a-z0-9-]+ \d"
    ):
        train(small_study([PENALTIES[mode]], recipe={"lr": 1e30}), tmp_path, "changed")


def test_what_diverged_names_a_checkpoint_and_no_state_between(tmp_path):
    """Checkpoints at steps 4 and 8, a state at each step, and a learning rate that is too high from step 6."""
    wild = {"kind": "lr", "factor": 1e32, "window": {"start": 6}}
    study = small_study([wild], compute={"state_minutes": 1e-9})
    with pytest.raises(TrainingError, match=r"; the last good checkpoint is that of step 4\. Lower recipe.lr"):
        train(study, tmp_path / "whole", "changed")
    base = train(study, tmp_path / "baseline", onsets=(6,))
    parent = Parent(base, "baseline", 0, 6)
    with pytest.raises(TrainingError, match=r"no checkpoint since it branched from 'baseline' at step 6\. Lower"):
        train(study, tmp_path / "branch", "changed", parent=parent)


def test_why_a_run_stopped_stands_in_its_manifest_until_it_goes_on(tmp_path):
    with pytest.raises(TrainingError) as error:
        train(small_study(recipe={"lr": 1e30}), tmp_path)
    failed = read_manifest(RunFolder(tmp_path)).failed
    assert failed.startswith("at step 1 the loss is ")
    assert failed.endswith("at learning rate 1e+30; the last good checkpoint is that of step 0")
    assert failed.removeprefix("at step 1 ") in str(error.value)
    train(small_study(), tmp_path)
    assert read_manifest(RunFolder(tmp_path)).failed == ""


def test_progress_ends_at_the_last_step(tmp_path):
    told = []
    train(small_study(), tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)
    assert told == sorted(told)


def test_another_key_begins_anew(tmp_path, caplog):
    train(small_study(), tmp_path)
    with caplog.at_level(logging.WARNING, logger="vestige"):
        run = train(small_study(recipe={"epochs": 2}), tmp_path, key="1" * 32)
    assert "was made by other settings: training begins anew" in caplog.text
    manifest = read_manifest(run)
    assert sorted(manifest.checkpoints) == [0, 2, 4, 8]
    assert {artifact.key for _, artifact in manifest.checkpoints.values()} == {"1" * 32}
    assert pl.read_parquet(run.history)["step"].max() == 8


def test_a_session_puts_everything_back():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    with session(ComputeConfig(device="cpu", threads=threads + 1)):
        assert torch.get_num_threads() == threads + 1
        torch.manual_seed(1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("name", "found"),
    [("gpu", "torch knows no such device"), ("meta", "does not train on 'meta'"), ("cuda:99", "GPUs here")],
)
def test_unknown_device(name, found):
    with pytest.raises(ConfigError, match=found):
        choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(dtype, tmp_path):
    configs = [{"kind": "selectivity", "labels": "permuted"}, {"kind": "eta2"}]
    study = small_study(configs, recipe={"dtype": dtype}, compute={"device": "cuda"})
    train_run(study, "changed", 0, RunFolder(tmp_path), key=KEY, settings={})
    loss = pl.read_parquet(RunFolder(tmp_path).history)["loss"]
    assert loss.is_finite().all()
