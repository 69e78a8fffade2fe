"""How fast the convolutions of ResNet-18 at 32 px and ResNet-50 are alone: torch's by layout and dtype, and Winograd's.

    python bench/convolutions.py

Gflop/s by 16 to 256 images a forward, median of 7; Winograd's are counted as if they did all multiplications. The
environment of bench/ablation.py. `FORWARD_BYTES`, `FEW_POSITIONS`, `SMALL_MAP` and `WORTHWHILE` follow from it.
"""

import time
from collections.abc import Callable

import torch
from torch.nn.functional import conv2d

from pairing import setting
from vestige.models.map_layouts import Layout, laid_out, ordered
from vestige.models.winograd import WinogradConv

SHAPES = (
    (64, 64, 32, 3, 1),
    (64, 128, 32, 3, 2),
    (64, 128, 32, 1, 2),
    (128, 128, 16, 3, 1),
    (128, 256, 16, 3, 2),
    (256, 256, 8, 3, 1),
    (256, 512, 8, 3, 2),
    (512, 512, 4, 3, 1),
    (256, 256, 14, 3, 1),
    (512, 512, 14, 3, 2),
    (512, 512, 7, 3, 1),
)
"""Channels in and out, pixels a side, kernel, stride."""
IMAGES = (16, 32, 64, 128, 256)


@torch.no_grad()
def speed(shape: tuple[int, ...], images: int, layout: Layout, dtype: torch.dtype) -> float:
    channels, outputs, side, kernel, stride = shape
    inputs = laid_out(torch.randn(images, channels, side, side, dtype=dtype).relu_(), layout)
    weight = torch.randn(outputs, channels, kernel, kernel, dtype=dtype)
    bias = torch.randn(outputs, dtype=dtype)
    if layout is Layout.SPATIAL_FIRST:
        fast, maps = WinogradConv(weight, bias, (stride, stride), (side, side)), ordered(inputs, layout)
        took = median_seconds(lambda: fast(maps))
    else:
        weight = laid_out(weight, layout)
        took = median_seconds(lambda: conv2d(inputs, weight, bias, stride, kernel // 2))
    return 2 * images * outputs * channels * kernel**2 * (side // stride) ** 2 / took / 1e9


def median_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[2:])[3]


def main() -> None:
    print(setting())
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            ways = {"torch, channels last": Layout.CHANNELS_LAST, "torch, channels first": Layout.CHANNELS_FIRST}
            if dtype is torch.float32:
                ways["Winograd"] = Layout.SPATIAL_FIRST
            found = {name: [speed(shape, images, layout, dtype) for images in IMAGES] for name, layout in ways.items()}
            shown = "; ".join(f"{name} {', '.join(f'{v:.0f}' for v in values)}" for name, values in found.items())
            print(f"{str(dtype)[6:]} {shape}: {shown}", flush=True)


if __name__ == "__main__":
    main()
