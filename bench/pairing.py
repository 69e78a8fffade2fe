"""Two ways of doing the same, timed in turn in one run: the machines are shared, so only ratios mean anything."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from vestige.runs.manifest import provenance


@dataclass(frozen=True)
class Ratio:
    """How many times as long B took as A: the median over alternations, with a bootstrap interval of 95%."""

    median: float
    low: float
    high: float
    a_seconds: float
    b_seconds: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.median:.3f}x [{self.low:.3f}, {self.high:.3f}] (medians {self.a_seconds:.3f} s and "
            f"{self.b_seconds:.3f} s, n = {self.n})"
        )


def alternate(a: Callable[[], object], b: Callable[[], object], n: int, warm_up: int = 1) -> Ratio:
    """Time A and B in turn, the one that comes first changing from pair to pair."""
    for _ in range(warm_up):
        a()
        b()
    seconds = np.empty((n, 2))
    for pair in range(n):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            seconds[pair, which] = _timed((a, b)[which])
    ratios = seconds[:, 1] / seconds[:, 0]
    draws = np.random.default_rng(0).integers(n, size=(10_000, n))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    a_median, b_median = np.median(seconds, axis=0)
    return Ratio(float(np.median(ratios)), float(low), float(high), float(a_median), float(b_median), n)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def setting() -> str:
    """Hardware and versions, a line each."""
    lines = [f"{name} {version(name)}" for name in ("vestige", "torch", "torchvision", "numpy")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    processor = provenance()["hardware"]["processor"]
    return (
        f"{processor}, {torch.get_num_threads()} threads of {os.cpu_count()} cores{gpu}; {load}\n"
        f"Python {platform.python_version()}, {', '.join(lines)}; {time.strftime('%Y-%m-%d')}"
    )
