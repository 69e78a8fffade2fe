"""How a replay computes its convolutions, and how maps lie for it: torch's, or on small maps fewer multiplications."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from vestige.models.graph import Graph
from vestige.models.map_layouts import Layout, fastest_for_torch, laid_out, ordered, seen_from
from vestige.models.operations import Operation
from vestige.models.winograd import KERNEL, PointwiseConv, WinogradConv, largest_step, products

SMALL_MAP = 256
"""Positions of maps up to which changes of basis cost less than they save (`bench/convolutions.py`)."""
FEWEST_CHANNELS = 32
"""Of those that come in, and of those that go out: with fewer the changes of basis take longer than the products."""
WORTHWHILE = 0.6
"""Products over multiplications below which Winograd's convolution is faster, its changes of basis counted."""


class Convolver:
    """The convolutions of a replay.

    Small maps lie with positions first, as Winograd's convolutions want them, if any that gives them is one, and
    torch's are only where the size of maps changes: else maps would be laid out anew again and again.

    Args:
      graph: of the network.
      nodes: the convolutions that are computed on whole maps, or updated.
      operations: a record of a forward of the graph.
      dtype: to compute in. In bfloat16 Winograd's convolutions would be too coarse; GPUs' libraries have their own.
    """

    def __init__(self, graph: Graph, nodes: Iterable[fx.Node], operations: Mapping[str, Operation], dtype: torch.dtype):
        self._graph, self._operations = graph, operations
        small = [node for node in nodes if _is_small(operations[node.name].shape)]
        self._by_products = {node for node in small if self._suits(node)}
        on_cpu = all(weight.device.type == "cpu" for weight in graph.module.parameters())
        others = [node for node in small if node not in self._by_products and self._keeps_size(node)]
        self._positions_first = (
            dtype in (torch.float32, torch.float64)
            and on_cpu
            and not others
            and any(self._module(node).kernel_size != (1, 1) for node in self._by_products)
        )

    def layout(self, shape: Sequence[int]) -> Layout:
        """Of maps of a shape (P, C, H, W)."""
        return Layout.SPATIAL_FIRST if self._positions_first and _is_small(shape) else fastest_for_torch(shape)

    def convolution(self, node: fx.Node, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        """What computes a convolution of whole maps (P, C, H, W), in whatever layout they are."""
        conv, made = self._module(node), self._operations[node.name].shape
        if self._positions_first and node in self._by_products:
            fast, first = self._fast(node, weight, bias), Layout.SPATIAL_FIRST
            return lambda maps: seen_from(fast(ordered(maps, first).contiguous()), first)
        settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
        layout, wanted = fastest_for_torch(made), self.layout(made)
        weight = laid_out(weight, layout)

        def convolve(maps: Tensor) -> Tensor:
            found = functional.conv2d(laid_out(maps, layout), weight, bias, *settings)  # pyright: ignore[reportCallIssue, reportArgumentType]
            return found if layout is wanted else laid_out(found, wanted)

        return convolve

    def largest_step(self) -> int:
        """Entries of the largest value that a convolution makes on the way, for each image; 0 where none does."""
        fast = [(node, self._module(node)) for node in self._by_products if self._positions_first]
        return max(
            (
                largest_step(self._taken(node), conv.out_channels, conv.stride)
                for node, conv in fast
                if conv.kernel_size != (1, 1)
            ),
            default=0,
        )

    def _fast(self, node: fx.Node, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        _, _, height, width = self._taken(node)
        rows, columns = self._module(node).stride
        if self._module(node).kernel_size == (1, 1):
            return PointwiseConv(weight, bias, (rows, columns))
        return WinogradConv(weight, bias, (rows, columns), (height, width))

    def _suits(self, node: fx.Node) -> bool:
        """Whether Winograd's convolution, or a product over channels, can take the place of torch's and is faster."""
        conv, taken = self._module(node), self._taken(node)
        if conv.groups != 1 or conv.dilation != (1, 1):
            return False
        if conv.kernel_size == (1, 1):
            return conv.padding == (0, 0)
        if conv.kernel_size != (KERNEL, KERNEL) or conv.padding != (1, 1) or max(conv.stride) > 2:
            return False
        if min(conv.in_channels, conv.out_channels) < FEWEST_CHANNELS:
            return False
        multiplications = KERNEL**2 * math.prod(self._operations[node.name].shape[2:])
        return _is_small(taken) and math.prod(map(products, taken[2:], conv.stride)) < WORTHWHILE * multiplications

    def _keeps_size(self, node: fx.Node) -> bool:
        return self._taken(node)[2:] == self._operations[node.name].shape[2:]

    def _module(self, node: fx.Node) -> nn.Conv2d:
        module = self._graph.submodule(node)
        assert isinstance(module, nn.Conv2d)
        return module

    def _taken(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of the maps that a convolution takes."""
        return self._operations[node.all_input_nodes[0].name].shape


def _is_small(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] <= SMALL_MAP
