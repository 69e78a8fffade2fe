"""Convolutions of small maps with fewer multiplications (Winograd), as products of matrices.

Along an axis of H positions, H' outputs in t tiles of m, each from n products (Toom-Cook):

    y = A [(G w) * (D x)]            D (t n, H), G (n, 3), A (H', t n)

and along both, with the sum over channels as the product of matrices that takes nearly all of the time:

    y = A1 A2 [ (D1 D2 x) @ (G1 G2 w) ]

A 3x3 convolution then costs (n / m)^2 multiply-adds an output and channel, 2.25 for tiles of 4, instead of 9.

Shapes: P images, C channels in, O channels out, H and W positions; maps lie in memory as (H, W, P, C), so that both
changes of basis and the sum over channels are products of matrices as they lie.

References:
  Lavin and Gray (2016), Fast Algorithms for Convolutional Neural Networks, CVPR.
  Barabasz et al. (2020), Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks,
    ACM TOMS 46(4): the points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KERNEL = 3
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where polynomials are evaluated, infinity besides."""
LARGEST_TILE = 4


class Axis(NamedTuple):
    """A convolution along one axis as products: `outputs @ ((kernel @ w) * (inputs @ x))`, float64.

    Attributes:
      inputs: D, (t, n, H).
      kernel: G, (n, 3).
      outputs: A, (H', t, n).
    """

    inputs: Tensor
    kernel: Tensor
    outputs: Tensor

    @property
    def tiles(self) -> int:
        """How many: t."""
        return self.inputs.shape[0]

    @property
    def products(self) -> int:
        """Of each tile: n."""
        return self.inputs.shape[1]


class WinogradConv:
    """A 3x3 convolution, padded by 1, of maps of one size.

    Args:
      weight: (O, C, 3, 3).
      bias: (O,) or None.
      stride: of rows and columns, 1 or 2.
      size: (H, W) of the maps that it takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], size: tuple[int, int]):
        rows, columns = (axis(length, step) for length, step in zip(size, stride, strict=True))
        self._tiles, self._products = (rows.tiles, columns.tiles), (rows.products, columns.products)
        kernel = torch.einsum("ai, bj, ocij -> abco", rows.kernel, columns.kernel, weight.double())
        self._kernel_NCO, self._bias = kernel.flatten(0, 1).to(weight).contiguous(), bias
        # Of rows each tile lies together, of columns each product: then those of one tile of rows are one bmm.
        self._rows_in = rows.inputs.flatten(0, 1).to(weight)
        self._columns_in = columns.inputs.transpose(0, 1).flatten(0, 1).to(weight).contiguous()
        self._rows_out = rows.outputs.flatten(1).to(weight)
        self._columns_out = columns.outputs.transpose(1, 2).flatten(1).to(weight).contiguous()

    def __call__(self, maps_HWPC: Tensor) -> Tensor:
        """Convolve contiguous (H, W, P, C); returns contiguous (H', W', P, O)."""
        height, width, images, channels = maps_HWPC.shape
        (t1, t2), (n1, n2), outputs = self._tiles, self._products, self._kernel_NCO.shape[2]
        taken = (self._rows_in @ maps_HWPC.view(height, -1)).view(t1 * n1, width, -1)
        taken = torch.bmm(self._columns_in.expand(t1 * n1, -1, -1), taken).view(t1, n1 * n2, t2 * images, channels)
        made = taken.new_empty(t1, n1 * n2, t2 * images, outputs)
        for tile in range(t1):
            torch.bmm(taken[tile], self._kernel_NCO, out=made[tile])
        made = torch.bmm(self._columns_out.expand(t1 * n1, -1, -1), made.view(t1 * n1, n2 * t2, -1))
        found = (self._rows_out @ made.view(t1 * n1, -1)).view(len(self._rows_out), -1, images, outputs)
        return found if self._bias is None else found.add_(self._bias)


class PointwiseConv:
    """A 1x1 convolution of maps that lie so: one product of matrices.

    Args:
      weight: (O, C, 1, 1).
      bias: (O,) or None.
      stride: of rows and columns.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]):
        self._weight_CO, self._bias, self._stride = weight[:, :, 0, 0].T.contiguous(), bias, stride

    def __call__(self, maps_HWPC: Tensor) -> Tensor:
        """Convolve (H, W, P, C); returns contiguous (H', W', P, O)."""
        rows, columns = self._stride
        taken = maps_HWPC[::rows, ::columns]
        found = (taken.reshape(-1, taken.shape[-1]) @ self._weight_CO).unflatten(0, taken.shape[:-1])
        return found if self._bias is None else found.add_(self._bias)


def axis(length: int, stride: int) -> Axis:
    """A convolution along an axis that is padded by 1, in tiles of one size: that which takes the fewest products.

    Args:
      length: H.
      stride: 1 or 2.
    """
    outputs = -(-length // stride)
    sizes = range(1, min(LARGEST_TILE, outputs) + 1)
    size = min(sizes, key=lambda size: -(-outputs // size) * _tile(size, stride).products)
    tile, tiles = _tile(size, stride), -(-outputs // size)
    seen, apart = tile.inputs.shape[2], size * stride
    inputs = torch.zeros(tiles, tile.products, max(length + 2, apart * (tiles - 1) + seen), dtype=torch.float64)
    results = torch.zeros(tiles * size, tiles, tile.products, dtype=torch.float64)
    for place in range(tiles):
        inputs[place, :, place * apart : place * apart + seen] = tile.inputs[0]
        results[place * size : (place + 1) * size, place] = tile.outputs[:, 0]
    inputs = inputs[:, :, 1 : length + 1]
    of_use = inputs.abs().sum((0, 2)) > 0  # a product with padding alone is 0
    return Axis(inputs[:, of_use], tile.kernel[of_use], results[:outputs, :, of_use])


def products(length: int, stride: int) -> int:
    """How many products an axis takes."""
    made = axis(length, stride)
    return made.tiles * made.products


def largest_step(shape: Sequence[int], outputs: int, stride: Sequence[int]) -> int:
    """Entries of the largest value that a convolution makes on the way, for each image.

    Args:
      shape: (P, C, H, W) of the maps that it takes.
      outputs: O.
      stride: of rows and columns.
    """
    _, channels, height, width = shape
    return products(height, stride[0]) * products(width, stride[1]) * max(channels, outputs)


def toom_cook(outputs: int, taps: int) -> Axis:
    """`outputs` results of a kernel of some taps, without padding, from outputs + taps - 1 products."""
    points = torch.tensor(POINTS[: outputs + taps - 2], dtype=torch.float64)
    kernel, results, all_of = (_powers(points, count) for count in (taps, outputs, outputs + taps - 1))
    return Axis(torch.linalg.inv(all_of).T[None], kernel, results.T[:, None])


def _powers(points: Tensor, count: int) -> Tensor:
    """Powers 0 to count - 1 of each point, and of infinity."""
    infinity = torch.zeros(1, count, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([points[:, None] ** torch.arange(count), infinity])


def _tile(size: int, stride: int) -> Axis:
    """Some successive outputs, of padded inputs."""
    if stride == 2:
        return _every_second(size)
    return toom_cook(size, KERNEL) if size > 1 else _by_definition()


def _by_definition() -> Axis:
    """A single output; at a border the taps that meet padding then fall away."""
    taps = torch.eye(KERNEL, dtype=torch.float64)
    return Axis(taps[None], taps, torch.ones(1, 1, KERNEL, dtype=torch.float64))


def _every_second(size: int) -> Axis:
    """Outputs two positions apart: the outer taps meet every second position, the middle tap those between."""
    outer, middle = toom_cook(size, KERNEL - 1), torch.eye(size, dtype=torch.float64)
    inputs = torch.zeros(1, outer.products + size, 2 * size + 1, dtype=torch.float64)
    inputs[0, : outer.products, ::2], inputs[0, outer.products :, 1::2] = outer.inputs[0], middle
    kernel = torch.zeros(outer.products + size, KERNEL, dtype=torch.float64)
    kernel[: outer.products, ::2], kernel[outer.products :, 1] = outer.kernel, 1
    return Axis(inputs, kernel, torch.cat([outer.outputs, middle[:, None]], 2))
