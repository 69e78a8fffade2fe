"""Processes of torchrun share the images, which do not divide evenly, and give the table that one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

WORKER = Path(__file__).with_name("sharing_worker.py")
KINDS = ("tensors", "loader", "untold", "list", "missing")


@pytest.mark.parametrize("keep", ["memory", "nothing"])
def test_two_and_three_processes_give_the_table_of_one(keep, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for name, command in (("one", [sys.executable]), ("two", [*torchrun, "2"]), ("three", [*torchrun, "3"])):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [*command, str(WORKER), str(tmp_path / name), keep],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    metric = json.loads((tmp_path / "one" / "metric-0.json").read_text())
    for path in [*tmp_path.glob("two/metric-*.json"), *tmp_path.glob("three/metric-*.json")]:
        found = json.loads(path.read_text())
        # Halves are alternate images as each process sees them.
        assert {k: v for k, v in found.items() if "cv" not in k} == pytest.approx(
            {k: v for k, v in metric.items() if "cv" not in k}, abs=1e-9
        )
    for path in tmp_path.glob("t*/sharded-*.txt"):
        assert "processes read different batches from list_iterator. Give every process all" in path.read_text()
    for kind in KINDS:
        alone = pl.read_parquet(tmp_path / "one" / f"{kind}-0.parquet")
        for name, processes in (("two", 2), ("three", 3)):
            for rank in range(processes):
                shared = pl.read_parquet(tmp_path / name / f"{kind}-{rank}.parquet")
                for column in alone.columns:
                    if alone[column].dtype.is_float():
                        np.testing.assert_allclose(shared[column], alone[column], rtol=0, atol=1e-9, err_msg=column)
                    else:
                        assert shared[column].equals(alone[column], null_equal=True), (kind, column)
                scores = json.loads((tmp_path / name / f"{kind}-{rank}.json").read_text())
                expected = json.loads((tmp_path / "one" / f"{kind}-0.json").read_text())
                assert scores == pytest.approx(expected, abs=1e-9)
