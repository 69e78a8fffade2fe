"""Loss and accuracy through training: means over the steps since the last row, and over the test set."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from vestige.config import DataConfig
from vestige.data.datasets import ImageSet
from vestige.data.loader import tiles
from vestige.runs.tables import SCHEMAS, conform
from vestige.training.processes import Processes
from vestige.training.runtime import autocast

TOP_K = 5

Row = dict[str, Any]
"""One row of the history table, without its run's identity."""


class NotFiniteError(ArithmeticError):
    """The loss of a step was NaN or infinite."""

    def __init__(self, step: int, lr: float, loss: float):
        super().__init__(step, lr, loss)
        self.step, self.lr, self.loss = step, lr, loss


class Meter:
    """Running means since the last row of the history.

    Scalars stay on the device, unread, until `flush`; they are then added up one by one in float64, so that
    the sums do not depend on when it is called.

    Args:
      classes: C; top-5 is left out where there are five or fewer.
      sums: what an interrupted run had added up: by quantity, total and weight.
    """

    def __init__(self, classes: int, sums: Mapping[str, Sequence[float]] | None = None):
        self.classes = classes
        self.sums = {name: (float(total), float(weight)) for name, (total, weight) in (sums or {}).items()}
        self._steps: list[tuple[int, float]] = []
        self._losses: list[Tensor] = []
        self._pending: dict[str, list[tuple[Tensor, float]]] = {}
        self._latest: dict[str, Tensor | float] = {}

    def add_batch(
        self, step: int, lr: float, loss: Tensor, cross_entropy: Tensor, logits_NC: Tensor, labels_N: Tensor
    ) -> None:
        """Note a step: the loss it minimised, and cross-entropy and accuracy of its batch."""
        n = len(labels_N)
        self._steps.append((step, lr))
        self._losses.append(loss.detach())
        self.add_scalar("loss", cross_entropy, n)
        k = TOP_K if self.classes > TOP_K else 1
        hits_NK = logits_NC.detach().topk(k, dim=1).indices == labels_N[:, None]
        self.add_scalar("top1", hits_NK[:, 0].sum() / n, n)
        if k == TOP_K:
            self.add_scalar("top5", hits_NK.sum() / n, n)

    def add_scalar(self, name: str, value: Tensor | float, weight: float = 1.0) -> None:
        """Note a scalar of this step."""
        value = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        self._pending.setdefault(name, []).append((value, weight))

    def add_latest(self, name: str, value: Tensor | float) -> None:
        """Note a scalar of which the row has the last value."""
        self._latest[name] = value.detach() if isinstance(value, Tensor) else value

    def flush(self) -> None:
        """Add up what was noted.

        Raises:
          NotFiniteError: a loss is NaN or infinite.
        """
        if self._losses:
            for (step, lr), loss in zip(self._steps, torch.stack(self._losses).tolist(), strict=True):
                if not math.isfinite(loss):
                    raise NotFiniteError(step, lr, loss)
        for name, noted in self._pending.items():
            total, weights = self.sums.get(name, (0.0, 0.0))
            values = torch.stack([value.double() for value, _ in noted]).tolist()
            for value, (_, weight) in zip(values, noted, strict=True):
                total, weights = total + value * weight, weights + weight
            self.sums[name] = (total, weights)
        self.sums |= {name: (float(value), 1.0) for name, value in self._latest.items()}
        self._steps, self._losses, self._pending, self._latest = [], [], {}, {}

    def take(self) -> dict[str, float]:
        """The means since the last row; begin the next. Empty where no step was taken."""
        self.flush()
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        self.sums = {}
        return means


def evaluate(
    model: nn.Module,
    images: ImageSet,
    config: DataConfig,
    *,
    tile: int,
    classes: int,
    device: torch.device,
    dtype: str,
    memory_format: torch.memory_format = torch.contiguous_format,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Mean loss (nats), top-1 and top-5 over a whole set: eval mode, stored statistics, fixed padded tiles.

    Processes share the tiles; as their sums are added up in the order of the tiles, the result is one process's.

    Args:
      model: its modes are put back afterwards.
      images: all of them, the last partial tile included.
      config: how they are prepared.
      tile: images a forward; a forward's last bits depend on it.
      classes: C; without top-5 where there are five or fewer.
      device: where the model is.
      dtype: `float32` or `bfloat16` (autocast), as in training.
      memory_format: of the inputs.
      processes: those that share the images; each must call it.
    """
    processes = processes or Processes()
    training = [module for module in model.modules() if module.training]
    model.eval()
    k = TOP_K if classes > TOP_K else 1
    totals_T3 = torch.zeros(math.ceil(len(images) / tile), 3, dtype=torch.float64, device=device)

    def add_up() -> None:
        with torch.inference_mode(), autocast(device, dtype):
            for part in tiles(images, np.arange(len(images)), config, tile, processes.share):
                inputs = part.inputs.to(device, memory_format=memory_format)
                logits_NC = model(inputs)[: part.valid].float()
                labels_N = part.labels[: part.valid].to(device)
                hits_NK = logits_NC.topk(k, dim=1).indices == labels_N[:, None]
                loss = functional.cross_entropy(logits_NC.double(), labels_N, reduction="sum")
                totals_T3[part.number] = torch.stack([loss, hits_NK[:, 0].sum(), hits_NK.sum()])

    try:
        processes.together(add_up)
    finally:
        for module in training:
            module.training = True
    totals_3 = sum(processes.total(totals_T3).cpu(), start=torch.zeros(3, dtype=torch.float64))
    loss, top1, topk = (totals_3 / len(images)).tolist()
    return {"loss": loss, "top1": top1} | ({"top5": topk} if k == TOP_K else {})


def history_table(rows: Iterable[Row], extra: Iterable[str], *, condition: str, seed: int) -> pl.DataFrame:
    """The history of a run in its schema; quantities that a row lacks are null.

    Args:
      rows: step, epoch, split, loss, top1, lr, and where it applies top5 and what interventions log.
      extra: the columns `<intervention>.<quantity>`, which the table has whatever the rows hold.
      condition: of the run.
      seed: of the run.
    """
    identity = {"condition": condition, "seed": seed}
    types = {name: kind for name, kind in SCHEMAS["history"].items() if name not in identity}
    types |= dict.fromkeys(extra, pl.Float64)
    columns = {name: [row.get(name) for row in rows] for name in types}
    return conform(pl.DataFrame(columns, schema=types), "history", **identity)
