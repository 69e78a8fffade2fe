"""`torchrun -m vestige run`: its processes share every training; ended and begun again, to the same bytes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from processes import alive, children, wait_for
from vestige.errors import ConfigError, ModelError, StoreError
from vestige.runs.manifest import read_manifest
from vestige.runs.store import StudyFolder
from vestige.study.study import Study

NET = Path(__file__).parents[1] / "training/group_norm_net.py"
STUDY = f"""
name: shared
data: {{train: digits, test: digits, limit: 100, limit_test: 60, channels: 1, mean: [0.3], std: [0.38]}}
model: {{name: "{NET}:Net"}}
recipe: {{epochs: 16, batch_size: 9, lr: 0.02, schedule: constant}}
checkpoints: {{log_spaced: 2, young_epochs: 16, per_young_epoch: 2}}
conditions:
  baseline: {{}}
  late: {{interventions: [{{kind: selectivity, estimator: running, window: {{start: 100, stop: 150}}}}]}}
seeds: [0]
measurements:
  selectivity: {{permutations: 5, conditions: [late]}}
  cumulative: null
  linearity: null
  ablation: null
claims: null
compute: {{workers: 1}}
"""
"""Eleven batches of 9 images and one of a single image an epoch; a late run that branches."""


def torchrun(*arguments, home, environment, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "vestige", *arguments],
        cwd=home,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that two processes have run, and what they said."""
    home = tmp_path_factory.mktemp("whole")
    (home / "shared.yaml").write_text(STUDY)
    environment = os.environ | {"VESTIGE_CACHE": str(home / "cache")}
    running = torchrun("run", "shared.yaml", "--out", "study", home=home, environment=environment)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-4000:]
    return home / "study", out, err


def trained(study: Path) -> dict[str, bytes]:
    kept = [*study.glob("runs/*/*/checkpoints/*.safetensors"), *study.glob("runs/*/*/history.parquet")]
    return {path.relative_to(study).as_posix(): path.read_bytes() for path in kept}


def checkpoints(study: Path) -> int:
    return len(list(study.glob("runs/*/*/checkpoints/*.safetensors")))


def test_two_processes_run_a_study_and_one_speaks(whole):
    study, out, err = whole
    assert out.count("report:") == 1
    said = re.findall(r"^(training|measuring) .* time left \S+$|(.+)", err, re.M)
    assert [other for _, other in said if other] == [], err
    assert (study / "report/index.html").is_file()
    assert yaml.safe_load((study / "study.yaml").read_text())["compute"]["processes"] == 2
    for condition in ("baseline", "late"):
        manifest = read_manifest(StudyFolder(study).run(condition, 0))
        assert (manifest.complete, manifest.made["processes"], manifest.settings["compute"]["processes"]) == (
            True,
            2,
            2,
        )
    assert len(list(study.glob("runs/late/*/selectivity-corrected-test/*"))) == len(manifest.checkpoints) > 10
    assert pl.read_parquet(StudyFolder(study).run("late", 0).history)["selectivity.csi"].drop_nulls().len() > 5


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="waits for a system with /proc")
def test_ended_in_any_way_and_begun_again_it_comes_to_the_same_bytes(whole, tmp_path, environment):
    (tmp_path / "shared.yaml").write_text(STUDY)
    study = tmp_path / "ended"

    def begin(until):
        running = torchrun("train", "shared.yaml", "--out", "ended", home=tmp_path, environment=environment)
        assert wait_for(lambda: checkpoints(study) >= until or running.poll() is not None, 120)
        assert running.poll() is None, running.communicate()[1]
        return running, children(running.pid)

    running, ranks = begin(until=4)
    running.kill()
    running.communicate()
    assert len(ranks) >= 2
    assert wait_for(lambda: not any(map(alive, ranks)), 20), "orphans go on without torchrun"

    running, ranks = begin(until=14)
    os.kill(next(pid for pid in ranks if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()), signal.SIGKILL)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert err.count("error: sharing a training between processes: another one of them ended without a word") == 1, err

    running, ranks = begin(until=24)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert err.count("stopped by SIGTERM; what was done is kept") == 1, err
    assert not any(map(alive, ranks))

    running = torchrun("train", "ended", home=tmp_path, environment=environment)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert trained(study) == trained(whole[0])


def test_what_was_trained_by_two_is_measured_by_one(whole):
    study, _, _ = whole
    table = next(study.glob("runs/*/*/selectivity-corrected-test/*.parquet"))
    before = table.read_bytes()
    table.unlink()
    assert not Study.load(study).run(parts=("train", "measure")).errors
    assert table.read_bytes() == before


def test_one_process_does_not_go_on_with_what_two_began(whole):
    study, _, _ = whole
    shared = Study.load(study, overrides=[("seeds", [0, 1])])
    with pytest.raises(ConfigError) as error:
        shared.run(parts=("train",))
    assert str(error.value) == (
        "starting to train: compute.processes is 2, so many are to share each run, and started are 1. Start as many: "
        "`torchrun --nproc-per-node 2 -m vestige run ...`."
    )
    with pytest.raises(StoreError, match=re.escape("was made by other settings: compute.processes is None, was 2")):
        Study.load(study, overrides=[("compute.processes", 1)]).run(parts=("train",))


def test_batch_norm_is_refused_before_anything_is_written(tiny, tmp_path):
    study = Study.load(tiny, out=tmp_path / "study", overrides=[("compute.processes", 2), ("compute.device", "cpu")])
    with pytest.raises(ModelError, match=r"it has batch norm \('bn1'\), which is shared between GPUs only"):
        study.run(parts=("train",), followers=SimpleNamespace(world=2, train=None))
    assert not list((tmp_path / "study").glob("*.yaml"))
