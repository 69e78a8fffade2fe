"""How fast the convolutions of ResNet-18 at 32 px are alone, by layout, dtype and images a forward.

    python bench/convolutions.py

Gflop/s, median of 7; the environment of bench/ablation.py. What `FORWARD_BYTES` and `SMALL_MAP` of the replays are
follows from it.
"""

import time
from collections.abc import Callable

import torch
from torch.nn.functional import conv2d

from pairing import setting

SHAPES = (
    (64, 64, 32, 3, 1),
    (64, 128, 32, 3, 2),
    (64, 128, 32, 1, 2),
    (128, 128, 16, 3, 1),
    (128, 256, 16, 3, 2),
    (256, 256, 8, 3, 1),
    (256, 512, 8, 3, 2),
    (512, 512, 4, 3, 1),
)
"""Channels in and out, pixels a side, kernel, stride."""
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


@torch.no_grad()
def speed(shape: tuple[int, ...], images: int, layout: torch.memory_format, dtype: torch.dtype) -> float:
    channels, outputs, side, kernel, stride = shape
    inputs = torch.randn(images, channels, side, side, dtype=dtype).relu_().contiguous(memory_format=layout)
    weight = torch.randn(outputs, channels, kernel, kernel, dtype=dtype).contiguous(memory_format=layout)
    bias = torch.randn(outputs, dtype=dtype)
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
            found = {
                name: [speed(shape, images, layout, dtype) for images in (16, 32, 64, 128, 256)]
                for name, layout in LAYOUTS.items()
            }
            shown = "; ".join(f"{name} {', '.join(f'{v:.0f}' for v in values)}" for name, values in found.items())
            print(f"{str(dtype)[6:]} {shape}, 16 to 256 images: {shown}", flush=True)


if __name__ == "__main__":
    main()
