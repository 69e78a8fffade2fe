"""SIGTERM of a study: every training keeps its state, no process is left, and it goes on to the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_killed import alive, children, results, wait_for


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="waits for a system with /proc")
def test_sigterm_keeps_states_and_leaves_no_process(vestige, tiny: Path, tmp_path: Path, environment, finished: Path):
    study = tmp_path / "ended"
    command = [sys.executable, "-m", "vestige", "run", str(tiny), "--out", "ended"]
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert wait_for(lambda: len(list(study.glob("runs/*/*/checkpoints/*.safetensors"))) >= 3, 120)
    workers = children(parent.pid)
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=90)
    assert parent.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; what was done is kept: run the same command again to go on" in said
    assert "Traceback" not in said
    assert wait_for(lambda: not any(alive(pid) for pid in workers), 10)
    assert list(study.glob("runs/*/*/state/*.safetensors"))
    again = vestige("run", "ended")
    assert again.returncode == 0, again.stderr
    assert results(study) == results(finished)
