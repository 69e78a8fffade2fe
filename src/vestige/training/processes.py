"""The processes of `torchrun`: how they share the steps of a training and stay of one mind.

Each runs the network forwards and backwards on its part of a batch. What is small is joined: logits and pooled
activations of the whole batch are in every process, which computes the loss, penalties included, from them as one
process would. The gradient is the mean over the processes of theirs, rows that were joined counting `world` times:

    d loss / d weights = mean over processes of d loss(joined rows) / d weights
    d joined rows / d own rows = world

Thus parts may differ in size or be empty, and a term that every process computes from the weights alone is right too.
DistributedDataParallel is not used: it averages parts as if they were equal, and reduces in `backward` alone, where
penalties need the gradient of each term, of the whole batch, before its norm is taken.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from vestige.config import ComputeConfig
from vestige.data.loader import part_of
from vestige.errors import ConfigError, TrainingError, VestigeError
from vestige.ranks import Ranks
from vestige.training.runtime import seed_step

PATIENCE = timedelta(days=7)
"""The others wait while the first measures; that a process is dead is seen at once, whatever this says."""
FAILING = timedelta(seconds=20)
"""What a process waits for the others to fail as it did."""
APART = 1e-3
"""Relative difference between the norms of a weight in two processes that is no rounding."""

_Thing = TypeVar("_Thing")


class OnlyHereError(Exception):
    """A process failed where the others did not: they cannot go on without it."""

    def __init__(self, error: VestigeError):
        super().__init__(error)
        self.error = error


class Processes(Ranks):
    """Those that share a training."""

    @property
    def share(self) -> tuple[int, int]:
        """Rank and world."""
        return self.rank, self.world

    def whole(self, rows: Tensor, n: int) -> Tensor:
        """The rows of all processes, (n, ...), in the order of the batch; differentiable.

        Args:
          rows: of this process's part; one whose part is empty may give any, for their shape.
          n: rows of the whole batch.
        """
        return rows if self.world == 1 else _Whole.apply(rows, self, n)  # pyright: ignore[reportReturnType]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    def average(self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The mean over the processes of the gradients of some parameters; None where no process has one."""
        if self.world == 1:
            return list(gradients)
        pairs = list(zip(gradients, parameters, strict=True))
        # None becomes zeros: what one process sends has the shape of what the others do, whatever its network did.
        flat = self.total(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
        parts = (flat / self.world).split([p.numel() for p in parameters])
        return [
            None if g is None and not part.any() else torch.empty_like(p).copy_(part.view_as(p))
            for (g, p), part in zip(pairs, parts, strict=True)
        ]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether any process has raised it."""
        if self.world == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int64)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def from_first(self, thing: _Thing) -> _Thing:
        """What the first process gives."""
        if self.world == 1:
            return thing
        box: list[Any] = [thing if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def together(self, action: Callable[[], _Thing]) -> _Thing:
        """Do what may fail in one process alone, and in which none waits for another.

        Raises:
          VestigeError: it failed in one; all raise the error of the first that has one.
        """
        if self.world == 1:
            return action()
        done, problem = None, None
        try:
            done = action()
        except VestigeError as error:
            problem = error
        if self.any_of(problem is not None)[0]:
            problems: list[Any] = [None] * self.world
            distributed.all_gather_object(problems, problem)
            raise next(one for one in problems if one is not None) from problem
        return done  # pyright: ignore[reportReturnType]

    def at_first(self, action: Callable[[], _Thing]) -> _Thing | None:
        """Do something in the first process alone, where files are written; the others wait, and fail with it."""
        return self.together(action if self.rank == 0 else lambda: None)

    @contextmanager
    def failing_alike(self, name: str) -> Iterator[None]:
        """A block that fails in all processes, or in none.

        Raises:
          VestigeError: all have failed.
          OnlyHereError: this one has, and the others wait for it in vain.
        """
        try:
            yield
        except VestigeError as error:
            if self.world == 1:
                raise
            store = distributed.distributed_c10d._get_default_store()
            store.set(f"vestige failed {name} {self.rank}", "")
            try:
                store.wait([f"vestige failed {name} {rank}" for rank in range(self.world)], FAILING)
            except RuntimeError:
                raise OnlyHereError(error) from error
            raise

    @contextmanager
    def drawing_apart(self, device: torch.device, seed: int, step: int) -> Iterator[None]:
        """In the block, a forward, each process draws its own random numbers; before and behind it, all the same."""
        if self.world > 1:
            seed_step(device, seed, step, self.rank)
        yield
        if self.world > 1:
            seed_step(device, seed, step)

    def check_penalty(self, name: str, penalty: Tensor) -> None:
        """A penalty must be that of the whole batch, and so the same in every process.

        Raises:
          TrainingError: it is not.
        """
        if self.world == 1:
            return
        values = self._of_all(penalty.detach().double().reshape(1))[:, 0]
        if bool((values - values[0]).abs().max() > 1e-4 * values.abs().max()):
            told = ", ".join(f"{value:.6g}" for value in values.tolist())
            raise TrainingError(
                f"adding the penalty of the intervention {name!r}",
                found=f"it is another in each of the {self.world} processes: {told}",
                remedy="Compute it from the whole batch: `state.whole(tensor)` joins the rows of all processes",
            )

    @torch.no_grad()
    def check_same(self, doing: str, model: nn.Module) -> None:
        """Weights and buffers must be the same in all processes.

        Raises:
          TrainingError: one is not.
        """
        if self.world == 1:
            return
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        norms = self._of_all(torch.stack([tensor.double().norm() for tensor in tensors.values()]))
        apart = (norms - norms[0]).abs().amax(0) > APART * norms.abs().amax(0)
        for name, wrong in zip(tensors, apart.tolist(), strict=True):
            if wrong:
                raise TrainingError(
                    doing,
                    found=f"{name!r} is not the same in the {self.world} processes",
                    remedy="Let nothing but the batch differ between them: buffers that follow the batch "
                    "(running statistics) and random changes to weights do; or train with one process",
                )

    def _of_all(self, row: Tensor) -> Tensor:
        """The rows that the processes give, (world, ...)."""
        rows = row.new_zeros(self.world, *row.shape)
        rows[self.rank] = row
        return self.total(rows)


class _Whole(torch.autograd.Function):
    """Rows of all processes from those of each; see the top of this file for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes, n: int) -> Tensor:
        ctx.part, ctx.world, ctx.rows = part_of(n, processes.share), processes.world, len(rows)
        # A sum with zeros is exact, and takes parts of any size; half precision is not summed everywhere.
        dtype = torch.promote_types(rows.dtype, torch.float32)
        joined = rows.new_zeros(n, *rows.shape[1:], dtype=dtype)
        joined[ctx.part] = rows[: ctx.part.stop - ctx.part.start].to(dtype)
        distributed.all_reduce(joined)
        return joined.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = gradients[0][ctx.part] * ctx.world
        unused = own.new_zeros(ctx.rows - len(own), *own.shape[1:])
        return torch.cat([own, unused]), None, None


def launched() -> int:
    """How many processes `torchrun` has started, by the environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes of `torchrun`, where it started this one; CPU tensors go by gloo, those of a GPU by nccl."""
    if launched() < 2 or distributed.is_initialized():
        yield Processes.here()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    _end_with_parent()
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield Processes.here()
    distributed.destroy_process_group()  # not after an error: it would wait for those that are gone


def own_compute(compute: ComputeConfig, processes: Processes) -> ComputeConfig:
    """Where this process computes: each has a GPU of its own.

    Raises:
      ConfigError: all were to use one GPU, or there are fewer GPUs than processes.
    """
    if processes.world == 1 or not torch.cuda.is_available() or compute.device == "cpu":
        return compute
    own, count = int(os.environ.get("LOCAL_RANK", processes.rank)), torch.cuda.device_count()
    named = compute.device not in ("auto", "cuda")
    if named or own >= count:
        raise ConfigError(
            f"choosing the device {compute.device!r} (compute.device)",
            found=f"{processes.world} processes would use it" if named else f"process {own} finds {count} GPUs",
            remedy="Choose 'auto' or 'cuda', and start as many processes as there are GPUs (--nproc-per-node)",
        )
    return compute.model_copy(update={"device": f"cuda:{own}"})


def _end_with_parent() -> None:
    """End this process soon after `torchrun`, even by SIGKILL: no orphan must go on writing."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
