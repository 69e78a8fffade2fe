"""Where training runs, and what it leaves as it found: device, threads, kernels, random numbers, autocast."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from vestige.config import ComputeConfig
from vestige.errors import ConfigError

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """The device that `compute.device` names; `auto` is a GPU where there is one.

    Raises:
      ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    doing = f"choosing the device {name!r} (compute.device)"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            doing, found="torch knows no such device", remedy="Choose one of 'auto', 'cpu', 'cuda', 'cuda:1'"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(doing, found=f"vestige does not train on {device.type!r}", remedy="Choose 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise ConfigError(doing, found=f"torch sees {count} GPUs here", remedy="Choose 'cpu' or 'auto'")
    return device


@contextmanager
def session(compute: ComputeConfig) -> Iterator[torch.device]:
    """Set threads and deterministic kernels for a run; put all back afterwards, random numbers too."""
    device = choose_device(compute.device)
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(devices=devices), cudnn, deterministic(on=device.type == "cuda"):
        torch.set_num_threads(compute.threads)
        try:
            yield device
        finally:
            torch.set_num_threads(threads)


@contextmanager
def deterministic(*, on: bool) -> Iterator[None]:
    """On a GPU operations give the same bits each time, or warn that they have no way to."""
    before, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


class Asked:
    """Whether the process was asked to end: true once it was."""

    def __init__(self):
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def hear(self, *_: object) -> None:
        """Be asked."""
        self._asked = True


@contextmanager
def catching_sigterm() -> Iterator[Asked]:
    """SIGTERM is noted instead of ending the process; without effect outside the main thread."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, asked.hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def stateless_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts only: no stream has to be replayed to reach a step."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_step(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Set torch's random numbers for a step: dropout and its like become functions of (seed, step, process)."""
    value = stateless_seed("step", seed, step, *([rank] if rank else []))
    # torch.manual_seed does this too, but formats a stack trace at every call where a GPU is not in use yet.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Forward and loss in `bfloat16`, or as they are."""
    low = AUTOCAST[dtype]
    return nullcontext() if low is None else torch.autocast(device.type, dtype=low)
