"""Encoded images to uint8 tensors (C, H, W), and the resizing and cropping of single images.

Resizing is Pillow's, in whole numbers: the same bits with any number of threads.
"""

import io
import struct
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

try:
    from torchvision.io import decode_jpeg  # a third of Pillow's time on small images, the same pixels
except ImportError:  # torchvision means to remove it
    decode_jpeg = None

Content = bytes | np.ndarray | Image.Image
"""An encoded image file, or its pixels: uint8, (H, W) or (H, W, 3); or Pillow's image, read or not yet."""
Interpolation = Literal["bilinear", "bicubic"]
UNREADABLE = (ValueError, OSError, EOFError, SyntaxError, struct.error)
"""What Pillow's readers raise on files that are damaged or no images."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(content: Content, channels: int) -> Tensor:
    """The pixels of an image; greyscale and colour become each other, transparency is dropped.

    Args:
      content: JPEG, PNG or whatever else Pillow reads; 16-bit greyscale keeps its upper 8 bits.
      channels: 1 or 3.

    Returns:
      (C, H, W) uint8.

    Raises:
      ValueError: it is no image that can be read; the message says why.
    """
    if decode_jpeg and isinstance(content, bytes) and content[:2] == b"\xff\xd8":
        try:
            pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            assert isinstance(pixels, Tensor)
            if len(pixels) == channels:
                return pixels
            if len(pixels) in (
                1,
                3,
            ):  # grey from colour in one way for all formats, and not as JPEG's own luma
                return _pixels(_picture(pixels), channels)
        except RuntimeError:
            pass  # Pillow reads more kinds of JPEG, and says better what is wrong with the rest
    try:
        return _pixels(_open(content), channels)
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        raise ValueError(_reason(error)) from error


def size_of(content: Content) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
      ValueError: it is no image.
    """
    if isinstance(content, np.ndarray):
        return content.shape[0], content.shape[1]
    if isinstance(content, Image.Image):
        return content.height, content.width
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.height, picture.width
    except Exception as error:
        raise ValueError(_reason(error)) from error


def fit(image: Tensor, size: int | None, resize: int | None, interpolation: Interpolation = "bilinear") -> Tensor:
    """The evaluation view: shorter side resized (antialiased) to `resize`, centre crop to `size`.

    Args:
      image: (C, H, W) uint8.
      size: side after the crop; None: no crop.
      resize: shorter side before it; None: `size`.
      interpolation: of the resizing.

    Returns:
      (C, size, size) uint8; without `size` all that the resizing leaves.
    """
    height, width = image.shape[1:]
    short = resize or size
    if short and short != min(height, width):
        longer = int(short * max(height, width) / min(height, width))
        height, width = (longer, short) if height > width else (short, longer)
        picture = _picture(image).resize((width, height), _RESAMPLING[interpolation])
        image = _pixels(picture, len(image))
    if size:
        top, left = round((height - size) / 2), round((width - size) / 2)
        image = image[:, top : top + size, left : left + size]
    return image


def cut(image: Tensor, box: tuple[int, int, int, int], size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """A part of an image, resized (antialiased).

    Args:
      image: (C, H, W) uint8.
      box: top, left, height, width, in pixels.
      size: side of the result.
      interpolation: of the resizing.

    Returns:
      (C, size, size) uint8.
    """
    top, left, height, width = box
    part = _picture(image[:, top : top + height, left : left + width])
    return _pixels(part.resize((size, size), _RESAMPLING[interpolation]), len(image))


def _open(content: Content) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    picture = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))
    picture.load()
    return picture


def _pixels(picture: Image.Image, channels: int) -> Tensor:
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        picture = Image.fromarray((deep >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    elif picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    picture = picture.convert("L" if channels == 1 else "RGB")
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0)).contiguous().numpy())


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format"
    return " ".join(str(error).split()) or type(error).__name__
