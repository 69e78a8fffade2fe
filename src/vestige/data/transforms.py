"""Stateless augmentation: what happens to image i in epoch e of seed s is a function of (s, e, i) alone.

Shapes: B images of a batch, C channels, H x W pixels. Draws: uniform numbers in [0, 1), float64.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

CROP_TRIES = 10
"""Boxes tried for a random resized crop, before the central one is taken (as torchvision does)."""
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent. The numbers are part of the results."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    RESIZED_CROP = 3
    DIGITS_SPLIT = 4
    KEPT = 5


def uniform(seed: int, epoch: int, indices: ArrayLike, stream: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Uniform numbers in [0, 1) that depend on nothing but the arguments: a counter-based generator.

    Each argument in turn advances a splitmix64 state by a multiple of its increment and is mixed in by its
    finaliser.

    Args:
      seed: of the run; any whole number (modulo 2^64), as are `epoch`, `indices` and `stream`.
      epoch: from 0.
      indices: (B,), of images.
      stream: what the numbers are for, see `Stream`.
      shape: so many numbers for each image.

    Returns:
      (B, *shape) float64, multiples of 2^-53.

    References:
      Steele, Lea, Flood (2014). Fast splittable pseudorandom number generators. OOPSLA.
    """
    state = np.zeros(1, np.uint64)
    for part in (seed, epoch, stream):
        state = _absorb(state, np.array([part % 2**64], np.uint64))
    state = _absorb(state, np.asarray(indices).astype(np.uint64).reshape(-1))
    if shape:
        state = _absorb(state[:, None], np.arange(math.prod(shape), dtype=np.uint64))
    return ((state >> np.uint64(11)) * 2.0**-53).reshape(-1, *shape)


def pad_crop(images: Tensor, padding: int, draws_B2: np.ndarray) -> Tensor:
    """Pad with zeros on every side, then crop to the original size at a random place.

    Args:
      images: (B, C, H, W).
      padding: pixels on each side, P.
      draws_B2: for the first row and the first column of the crop, each one of the 2P + 1 there are.

    Returns:
      (B, C, H, W).
    """
    if not padding:
        return images
    height, width = images.shape[2:]
    row, column = torch.from_numpy((draws_B2 * (2 * padding + 1)).astype(np.int64)).unbind(1)
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, row, column]


def flip(images: Tensor, draws_B: np.ndarray) -> Tensor:
    """Mirror left-right those images whose draw is below 1/2.

    Args:
      images: (B, C, H, W).
      draws_B: one number for each image.
    """
    mirrored = torch.from_numpy(draws_B < 0.5)[:, None, None, None]
    return torch.where(mirrored, images.flip(-1), images)


def crop_box(draws: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """A random part of an image: 8% to 100% of its area, aspect ratio 3/4 to 4/3, as torchvision draws it.

    Args:
      draws: (CROP_TRIES, 4); area, log aspect, row, column of each try.
      height, width: of the image, in pixels.

    Returns:
      top, left, height, width of the first try that fits; if none, of the largest central box.

    References:
      Szegedy et al. (2015). Going deeper with convolutions. CVPR.
    """
    low, high = CROP_AREA
    log_low, log_high = (math.log(ratio) for ratio in CROP_ASPECT)
    for area, aspect, row, column in draws.tolist():
        target = height * width * (low + area * (high - low))
        ratio = math.exp(log_low + aspect * (log_high - log_low))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(row * (height - h + 1)), int(column * (width - w + 1)), h, w
    w = min(width, round(height * CROP_ASPECT[1]))
    h = min(height, round(width / CROP_ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The network's input: (pixel / 255 - mean) / std.

    Args:
      images: (B, C, H, W) uint8.
      mean: of pixels in [0, 1]; one number a channel, or one for all.
      std: likewise.

    Returns:
      (B, C, H, W) float32.
    """
    mean_C11, std_C11 = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None] for values in (mean, std)
    )
    return images.float().div_(255).sub_(mean_C11).div_(std_C11)


def _absorb(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, `value` + 1 increments on."""
    z = state + (value + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
