"""What every process needs that is spawned to share work: its environment, and an end when its parent ends."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Iterator, Mapping

WORKER_ENVIRONMENT = {
    # Read when a process starts. The allocator otherwise gives large tensors back at every step, and the page faults
    # halve the speed of training on a CPU.
    "OMP_WAIT_POLICY": "PASSIVE",
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def die_with_parent() -> None:
    """End this process as soon as its parent ends, even by SIGKILL, so that no orphan keeps writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Spawned processes would run the user's script again, which has begun this study; ours need nothing of it."""
    main = sys.modules["__main__"]
    before = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    for name in before:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(main, name, value)


def worker_environment(threads: int) -> dict[str, str]:
    """Of a process that computes with so many threads."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    return {**WORKER_ENVIRONMENT, **dict.fromkeys(counts, str(threads))}


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
