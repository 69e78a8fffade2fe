"""Inputs that have midpoints: one tensor of numbers, made of whatever tree of tensors a network takes.

Shapes: N inputs, D numbers of an input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from vestige.errors import DataError, ModelError
from vestige.measurement.network import Network, pattern


@dataclass(frozen=True)
class Rows:
    """How inputs become a tensor that can be averaged, and how the network's inputs are made of it.

    Attributes:
      shapes: of each leaf of an input, without the batch.
      spec: how the inputs are made of their leaves.
      dtype: that averages are taken in.
      doing: what an error says was being done.
    """

    shapes: tuple[torch.Size, ...]
    spec: TreeSpec
    dtype: torch.dtype
    doing: str

    @classmethod
    def like(cls, inputs: Any, network: Network, doing: str) -> "Rows":
        """Those of a batch of inputs.

        Raises:
          DataError: the network does not take averages of such inputs.
        """
        leaves, spec = tree_flatten(inputs)
        like = pattern(network.graph.module)
        rows = cls(tuple(leaf.shape[1:] for leaf in leaves), spec, torch.float32 if like is None else like.dtype, doing)
        if len(leaves) > 1 or not leaves[0].is_floating_point():
            rows._try(tree_map(lambda leaf: leaf[:2], inputs), network)
        return rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return tuple(self.shapes[0]) if len(self.shapes) == 1 else (sum(map(prod, self.shapes)),)

    def of(self, inputs: Any) -> Tensor:
        """Inputs as one tensor of `dtype`: a single tensor in its shape, several side by side, (N, D).

        Raises:
          DataError: they have another shape than the first.
        """
        leaves = tree_flatten(inputs)[0]
        shapes = tuple(leaf.shape[1:] for leaf in leaves)
        if shapes != self.shapes:
            found = f"inputs of shape {_said(self.shapes)} and of shape {_said(shapes)}"
            raise DataError(self.doing, found=found, remedy="Give inputs of one shape: averages of them are taken")
        numbers = [leaf.to(self.dtype) for leaf in leaves]
        return numbers[0] if len(numbers) == 1 else torch.cat([leaf.flatten(1) for leaf in numbers], 1)

    def inputs(self, rows: Tensor) -> Any:
        """What the network takes, of what `of` gave."""
        if len(self.shapes) == 1:
            return tree_unflatten([rows], self.spec)
        parts = rows.split([prod(shape) for shape in self.shapes], 1)
        leaves = [part.unflatten(1, shape) if shape else part[:, 0] for part, shape in _paired(parts, self.shapes)]
        return tree_unflatten(leaves, self.spec)

    def _try(self, inputs: Any, network: Network) -> None:
        """Inputs that are no floating-point numbers must mean the same as such."""
        expected, _ = network.captured(inputs, [])
        try:
            found, _ = network.captured(self.inputs(self.of(inputs)), [])
            wrong = "" if torch.allclose(found, expected, rtol=1e-4) else "it then gives other logits"
        except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
            wrong = " ".join(str(error).split())[:200]
        if wrong:
            kinds = ", ".join(dict.fromkeys(str(leaf.dtype).removeprefix("torch.") for leaf in tree_flatten(inputs)[0]))
            raise DataError(
                self.doing,
                found=f"the network takes inputs of type {kinds}, and no averages of them ({wrong})",
                remedy="Give the part of it that takes numbers, with what that part is given for its inputs",
            )


@dataclass(frozen=True)
class OfRows(Network):
    """A network, or its anchor, that is given rows.

    Attributes:
      rows: how they are made what the network takes.
      count: called with the number of rows of each forward.
    """

    rows: Rows | None = None
    count: Callable[[int], object] = int

    @classmethod
    def of(cls, network: Network, rows: Rows, count: Callable[[int], object]) -> "OfRows":
        """A network of what `Rows.of` gives."""
        return cls(network.graph, network.layers, network.classes, network.dtype, rows, count)

    def on_device(self, inputs: Any) -> Any:
        """What the network takes, of rows, where its weights are."""
        self.count(len(inputs))
        return super().on_device(inputs if self.rows is None else self.rows.inputs(inputs))


def _paired(parts: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[tuple[Tensor, torch.Size]]:
    return list(zip(parts, shapes, strict=True))


def _said(shapes: Sequence[torch.Size]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
