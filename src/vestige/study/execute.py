"""Run work units on a pool of spawned processes that die with their parent.

A unit holds a lock while it runs. Where another `vestige run` holds it, the unit waits its turn, and is found done.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from typing import Any, Literal

from vestige.errors import StoreError, VestigeError
from vestige.runs.store import StudyFolder, try_lock
from vestige.study.plan import Plan, Unit
from vestige.study.spawning import die_with_parent, environment, without_main, worker_environment

Outcome = Literal["done", "busy"]

RETRY_SECONDS = 0.3
SAVING_SECONDS = 60.0
"""What a worker that is asked to end has for the step it is at, and for writing its state."""


class Listener:
    """What hears how the work goes on; this one says nothing."""

    def advanced(self, unit: Unit, done: int, total: int) -> None:
        """A unit has done so much of so much."""

    def finished(self, unit: Unit) -> None:
        """A unit is done."""

    def failed(self, unit: Unit, error: VestigeError) -> None:
        """A unit ended in an error."""

    def waiting(self, unit: Unit) -> None:
        """Another `vestige run` holds a unit."""


def execute(
    plan: Plan,
    folder: StudyFolder,
    units: Iterable[Unit],
    *,
    workers: int,
    verify: bool,
    listener: Listener,
    train: Callable[..., None] | None = None,
) -> dict[Unit, VestigeError]:
    """Do all units, each after the one it needs; a unit that fails stops only those that need it.

    Args:
      plan: the study laid out.
      folder: where it lives.
      units: what to do.
      workers: units side by side.
      verify: hash every file again, rather than trust its size.
      listener: hears how it goes on.
      train: stands for `train_run`, and is called in this process for one run after another; None: the workers train.

    Returns:
      The units that failed, with their errors.
    """
    todo = list(units)
    if not todo:
        return {}
    context = multiprocessing.get_context("spawn")
    messages: SimpleQueue[tuple[Unit, int, int]] = context.SimpleQueue()
    with (
        environment(worker_environment(plan.study.compute.threads)),
        without_main(),
        _listening(messages, listener),
        ProcessPoolExecutor(
            min(workers, len(todo)),
            context,
            initializer=_start_worker,
            initargs=(plan, folder, verify, messages),
        ) as pool,
    ):
        try:
            with ending_on_sigterm():
                doing = _Doing(plan, folder, verify, listener, pool, train)
                return _Schedule(plan, todo, doing, workers, listener).run()
        except BaseException:
            processes = list((pool._processes or {}).values())
            for process in processes:
                process.terminate()  # one that trains keeps its full state first
            pool.shutdown(wait=False, cancel_futures=True)
            last = time.monotonic() + SAVING_SECONDS
            for process in processes:
                process.join(max(0.0, last - time.monotonic()))
            raise


class _Schedule:
    """Which units run, which wait for what, and which are held by another process."""

    def __init__(self, plan: Plan, todo: list[Unit], doing: "_Doing", workers: int, listener: Listener):
        self.plan, self.doing, self.workers, self.listener = plan, doing, workers, listener
        self.pending = todo
        self.unfinished = set(todo)
        self.running: dict[Future[Outcome], Unit] = {}
        self.not_before: dict[Unit, float] = {}
        self.errors: dict[Unit, VestigeError] = {}
        self.causes: dict[Unit, VestigeError] = {}  # of all that cannot be done

    def run(self) -> dict[Unit, VestigeError]:
        while self.pending or self.running:
            self._submit()
            if not self.running:  # all that is left is held by another process
                time.sleep(RETRY_SECONDS)
                continue
            ended, _ = wait(self.running, timeout=RETRY_SECONDS, return_when=FIRST_COMPLETED)
            for future in ended:
                self._collect(self.running.pop(future), future)
        return self.errors

    def _submit(self) -> None:
        now = time.monotonic()
        for unit in list(self.pending):
            if len(self.running) >= self.workers:
                return
            needs = self.plan.needs(unit)
            failed = next((need for need in needs if need in self.causes), None)
            if failed is not None:
                self.pending.remove(unit)
                self.unfinished.discard(unit)
                self.causes[unit] = self.causes[failed]
                if unit.step is None:  # those that measure it fail with it, which goes without saying
                    self.errors[unit] = self.causes[unit]
            elif self.unfinished.isdisjoint(needs) and self.not_before.get(unit, 0.0) <= now:
                self.pending.remove(unit)
                self.running[self.doing.begin(unit)] = unit

    def _collect(self, unit: Unit, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except VestigeError as error:
            self.errors[unit] = self.causes[unit] = error
            self.unfinished.discard(unit)
            self.listener.failed(unit, error)
        except BrokenProcessPool as error:
            raise StoreError(
                f"working on {unit.name}",
                found="a worker process ended without a word (out of memory, or killed)",
                remedy="Run again: what is done is kept (with fewer workers, --compute.workers 1, if memory was short)",
            ) from error
        else:
            if outcome == "busy":
                self.not_before[unit] = time.monotonic() + RETRY_SECONDS
                self.pending.append(unit)
                self.listener.waiting(unit)
            else:
                self.unfinished.discard(unit)
                self.listener.finished(unit)


@dataclass(frozen=True)
class _Doing:
    """Where units are done: by the workers; trainings here, one after the other, where `train` is given."""

    plan: Plan
    folder: StudyFolder
    verify: bool
    listener: Listener
    pool: ProcessPoolExecutor
    train: Callable[..., None] | None

    def begin(self, unit: Unit) -> Future[Outcome]:
        """Begin a unit; one that is done here has ended when this returns."""
        if unit.step is not None or self.train is None:
            return self.pool.submit(_work, unit)
        ended: Future[Outcome] = Future()
        try:
            ended.set_result(self._train(unit, self.train))
        except VestigeError as error:
            ended.set_exception(error)
        return ended

    def _train(self, unit: Unit, train: Callable[..., None]) -> Outcome:
        from vestige.study import work

        with try_lock(self.folder.lock(unit.name)) as held:
            if not held:
                return "busy"
            progress = partial(self.listener.advanced, unit)
            work.do(self.plan, unit, self.folder, verify=self.verify, progress=progress, train=train)
            return "done"


class _Worker:
    """What a worker process knows; set once, when it starts."""

    plan: Plan
    folder: StudyFolder
    verify: bool
    messages: Any


def _start_worker(plan: Plan, folder: StudyFolder, verify: bool, messages: Any) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _Worker.plan, _Worker.folder, _Worker.verify, _Worker.messages = plan, folder, verify, messages
    import torch

    torch.set_num_threads(plan.study.compute.threads)


def _work(unit: Unit) -> Outcome:
    from vestige.study import work

    plan, folder = _Worker.plan, _Worker.folder
    with try_lock(folder.lock(unit.name)) as held:
        if not held:
            return "busy"
        work.do(plan, unit, folder, verify=_Worker.verify, progress=_throttled(unit))
        return "done"


def _throttled(unit: Unit) -> Any:
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 0.2 or done == total:
            last = time.monotonic()
            _Worker.messages.put((unit, done, total))

    return progress


@contextlib.contextmanager
def _listening(messages: Any, listener: Listener) -> Iterator[None]:
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            if messages._reader.poll(RETRY_SECONDS):  # so that the end needs no lock which a killed worker may hold
                with contextlib.suppress(OSError):  # a closed terminal is no reason to stop
                    listener.advanced(*messages.get())

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, in order; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
