"""Decoding against Pillow and torchvision, for every kind of image that comes up."""

import io

import numpy as np
import pytest
import torch
from image_files import encode
from PIL import Image
from torchvision.transforms import functional as reference

from vestige.data.decode import cut, decode, fit, size_of


@pytest.fixture
def colour() -> np.ndarray:
    """A smooth image, so that JPEG keeps most of it: (40, 56, 3)."""
    y, x = np.mgrid[0:40, 0:56]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], -1).astype(np.uint8)


def pillow(content: bytes, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture.convert(mode))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_in_a_set_of_one_or_three_channels(colour, form, grey, channels):
    content = encode(colour[..., 0] if grey else colour, form)
    got = decode(content, channels)
    assert got.dtype == torch.uint8
    assert got.shape == (channels, 40, 56)
    assert (got.numpy() == pillow(content, "L" if channels == 1 else "RGB")).all()
    if grey and channels == 3 and form != "WEBP":  # which stores colour only, lossy
        assert (got[0] == got[1]).all()
        assert (got[0] == got[2]).all()


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 20}])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_the_same_without_torchvisions_decoder(colour, options, channels, monkeypatch):
    content = encode(colour, "JPEG", **options)
    fast = decode(content, channels)
    monkeypatch.setattr("vestige.data.decode.decode_jpeg", None)
    assert (decode(content, channels) == fast).all()
    assert (fast.numpy() == pillow(content, "L" if channels == 1 else "RGB")).all()


def test_cmyk_jpeg(colour):
    buffer = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(buffer, "JPEG")
    got = decode(buffer.getvalue(), 3).numpy().astype(int)
    assert np.abs(got - colour.transpose(2, 0, 1)).mean() < 4


def test_palette_image_gives_its_colours_and_not_its_indices(recwarn):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 150, 100])
    picture.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=b"\x00\xff")
    assert decode(buffer.getvalue(), 3).tolist() == [[[10, 200]], [[20, 150]], [[30, 100]]]
    assert not recwarn.list


def test_sixteen_bit_grey_keeps_its_upper_eight_bits():
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for channels in (1, 3):
        got = decode(encode(deep), channels)
        assert got.shape == (channels, 1, 5)
        assert got[-1].tolist() == [[0, 0, 1, 128, 255]]


def test_transparency_is_dropped():
    rgba = np.array([[[1, 2, 3, 0], [4, 5, 6, 255]]], np.uint8)
    assert decode(encode(rgba), 3).tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]


def test_black_and_white_image():
    assert decode(encode(np.array([[True, False]])), 1).tolist() == [[[255, 0]]]


def test_pixels_are_taken_as_they_are(colour):
    assert (decode(colour, 3).numpy() == colour.transpose(2, 0, 1)).all()
    assert (decode(colour[..., 1], 3).numpy() == colour[..., 1]).all()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"not an image", "no known image format"),
        (lambda content: b"", "no known image format"),
        (lambda content: content[: len(content) // 2], "(?i)truncated"),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_damaged_files(colour, damage, reason, form):
    with pytest.raises(ValueError, match=reason):
        decode(damage(encode(colour, form)), 3)


def test_floating_point_images_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 3), np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="its pixels are floating-point numbers"):
        decode(buffer.getvalue(), 1)


def test_integers_beyond_sixteen_bits_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3), 70_000, np.int32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="its pixels have more than 16 bits"):
        decode(buffer.getvalue(), 1)


def test_size_from_the_header_alone(colour):
    assert size_of(encode(colour)[:60]) == (40, 56)
    assert size_of(colour) == (40, 56)


@pytest.mark.parametrize(("size", "resize"), [(32, None), (32, 36), (64, None), (24, 80), (40, None), (None, 20)])
@pytest.mark.parametrize("turned", [False, True])
def test_evaluation_view_is_torchvisions(colour, size, resize, turned):
    colour = np.ascontiguousarray(colour.transpose(1, 0, 2)) if turned else colour
    got = fit(decode(colour, 3), size, resize)
    picture = reference.resize(Image.fromarray(colour), [resize or size])
    expected = reference.center_crop(picture, [size, size]) if size else picture
    assert (got.numpy() == np.asarray(expected).transpose(2, 0, 1)).all()


def test_view_of_an_image_as_it_is(colour):
    image = decode(colour, 3)
    assert (fit(image, None, None) == image).all()
    assert (fit(image, 40, None) == image[:, :, 8:48]).all()


def test_cut_is_torchvisions_resized_crop(colour):
    got = cut(decode(colour, 3), (3, 5, 20, 30), 16)
    expected = reference.resized_crop(Image.fromarray(colour), 3, 5, 20, 30, [16, 16])
    assert (got.numpy() == np.asarray(expected).transpose(2, 0, 1)).all()
