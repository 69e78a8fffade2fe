"""Further processes that share a piece of work in a folder; they end with the process that started them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vestige.study.spawning import die_with_parent, environment, without_main, worker_environment


@contextmanager
def helped(more: int, work: Callable[[Any], object], argument: Any, *, threads: int) -> Iterator[None]:
    """Let other processes do the same work while the block runs; what they are still at when it ends is left.

    Args:
      more: processes.
      work: a function of a module, called with `argument` in each of them; its errors are met by this process too.
      argument: what can be pickled.
      threads: of each.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_begin, args=(work, argument, threads), daemon=True) for _ in range(more)]
    with environment(worker_environment(threads)), without_main():
        for process in processes:
            process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _begin(work: Callable[[Any], object], argument: Any, threads: int) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what there is to say, the first process says
        os.dup2(null, descriptor)
    import torch

    torch.set_num_threads(threads)
    work(argument)
