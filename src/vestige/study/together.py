"""The processes of `torchrun` at one study: the first does what `vestige` does alone, the others train with it.

The first plans, writes, measures (with its workers), judges and prints. At each training it tells the others, which
otherwise wait, what to train; at the end it tells them what to exit with.
"""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from torch import distributed

from vestige.errors import StoreError, VestigeError
from vestige.study.execute import ending_on_sigterm
from vestige.training.loop import train_run
from vestige.training.processes import OnlyHereError, Processes, joined

SAYING = "vestige says why"
"""In the store of the processes: how many have begun to say why all end."""
SECONDS = 1.0
"""What a process that has lost another gives it to say why."""


class Followers:
    """The other processes, as the first sees them.

    Attributes:
      world: how many there are, the first included.
    """

    def __init__(self, processes: Processes):
        self._processes, self.world = processes, processes.world

    def train(self, *arguments: Any, progress: Any = None, **settings: Any) -> None:
        """`train_run` in all of them."""
        self._processes.from_first((arguments, settings))
        train_run(*arguments, progress=progress, **settings)

    def dismiss(self, code: int) -> None:
        """Let them end, with this exit code."""
        self._processes.from_first(code)


def led(lead: Callable[[Followers], int]) -> int:
    """Run a command in the first process, the others following; the exit code, which is the same in all.

    Args:
      lead: the command; the errors of users are its to say.
    """
    with joined() as processes:
        try:
            with ending_on_sigterm():
                if processes.rank:
                    code = _follow(processes)
                else:
                    followers = Followers(processes)
                    code = lead(followers)
                    followers.dismiss(code)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the slower ones, where the code is not 0
            return code
        except OnlyHereError as alone:
            _first_to_say()
            print(f"error: {alone.error}", file=sys.stderr)
            raise SystemExit(2) from alone
        except BaseException as error:
            if not _is_loss(error):
                _first_to_say()
                raise
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(SECONDS)
            if _first_to_say():
                print(f"error: {_lost()}", file=sys.stderr)
            raise SystemExit(2) from error


def _follow(processes: Processes) -> int:
    while True:
        told: Any = processes.from_first(None)
        if isinstance(told, int):
            return told
        arguments, settings = told
        try:
            train_run(*arguments, **settings)
        except VestigeError:
            continue  # the first has failed alike, and will say so


def _is_loss(error: BaseException | None) -> bool:
    """Whether gloo or nccl say that another process is gone, or have said it when torchrun ended this one for that."""
    if error is None:
        return False
    lost = isinstance(error, RuntimeError) and "gloo" in str(error)
    return lost or isinstance(error, distributed.DistError) or _is_loss(error.__context__)


def _lost() -> StoreError:
    return StoreError(
        "sharing a training between processes",
        found="another one of them ended without a word (out of memory, or killed)",
        remedy="Run the same command again: what is done is kept",
    )


def _first_to_say() -> bool:
    """Whether no other process has begun to say why all end; none will after this one."""
    try:
        return distributed.distributed_c10d._get_default_store().add(SAYING, 1) == 1
    except RuntimeError:  # the store went with torchrun
        return True
