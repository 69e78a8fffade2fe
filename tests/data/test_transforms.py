"""The counter-based generator against scipy's tests of uniformity; augmentation against slow loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import functional as reference

from vestige.config import DataConfig
from vestige.data.decode import Interpolation, cut, fit
from vestige.data.transforms import CROP_TRIES, Stream, crop_box, flip, normalise, pad_crop, uniform
from vestige.study.facts import identify_data

N = 20_000


def splitmix64(state: int, value: int) -> int:
    """One step in Python's unbounded integers."""
    mask = 2**64 - 1
    z = (state + (value + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_splitmix64_gives_its_published_first_numbers():
    # Of the reference implementation (Vigna, splitmix64.c) for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, i) for i in range(4)] == expected


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 5])
def test_uniform_is_a_chain_of_splitmix64(seed):
    got = uniform(seed, 3, [0, 1, 999_999_999_999], Stream.CROP, (2, 3))
    for i, index in enumerate([0, 1, 999_999_999_999]):
        for j in range(6):
            state = 0
            for part in (seed, 3, int(Stream.CROP), index, j):
                state = splitmix64(state, part)
            assert got[i, j // 3, j % 3] == (state >> 11) / 2**53


def test_numbers_never_change():
    """They are part of every result: another value here makes all studies stale."""
    got = uniform(0, 0, [0, 1], Stream.ORDER)
    assert got.tolist() == [0.1296456182997474, 0.049920065672091285]


def test_no_warning_and_any_order(recwarn):
    forward = uniform(5, 1, np.arange(100), Stream.FLIP)
    shuffled = np.random.default_rng(0).permutation(100)
    assert (uniform(5, 1, shuffled, Stream.FLIP) == forward[shuffled]).all()
    assert not recwarn.list


@pytest.mark.parametrize(("seed", "epoch", "stream"), [(0, 0, 0), (0, 1, 0), (1, 0, 1), (123, 89, 3)])
def test_draws_are_uniform(seed, epoch, stream):
    draws = uniform(seed, epoch, np.arange(N), stream)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    counts = np.bincount((draws * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    low_bits = np.bincount((draws * 2**53).astype(np.uint64).astype(np.int64) % 256, minlength=256)
    assert stats.chisquare(low_bits).pvalue > 1e-3


NEIGHBOURS = {
    "indices": lambda: (uniform(0, 0, np.arange(N), 1), uniform(0, 0, np.arange(1, N + 1), 1)),
    "epochs": lambda: (uniform(0, 4, np.arange(N), 1), uniform(0, 5, np.arange(N), 1)),
    "seeds": lambda: (uniform(0, 0, np.arange(N), 1), uniform(1, 0, np.arange(N), 1)),
    "streams": lambda: (uniform(0, 0, np.arange(N), 1), uniform(0, 0, np.arange(N), 2)),
    "places": lambda: uniform(0, 0, np.arange(N), 1, (2,)).T,
    "seed and epoch exchanged": lambda: (uniform(2, 3, np.arange(N), 1), uniform(3, 2, np.arange(N), 1)),
}


@pytest.mark.parametrize("what", NEIGHBOURS)
def test_neighbouring_draws_are_independent(what):
    x, y = NEIGHBOURS[what]()
    assert stats.pearsonr(x, y).pvalue > 1e-3
    table = np.histogram2d(x, y, bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    assert len(np.intersect1d(x, y)) <= (N - 1 if what == "indices" else 0)


def images(n=6, channels=3, height=5, width=7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("padding", "channels"), [(0, 3), (1, 1), (4, 3), (9, 3)])
def test_pad_crop_is_the_slow_loop(padding, channels):
    batch, draws = images(channels=channels), uniform(0, 0, np.arange(6), 1, (2,))
    got = pad_crop(batch, padding, draws).numpy()
    for i, image in enumerate(batch.numpy()):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        top, left = (math.floor(u * (2 * padding + 1)) for u in draws[i])
        assert (got[i] == padded[:, top : top + 5, left : left + 7]).all()


def test_every_place_of_the_crop_is_as_likely():
    marked = torch.zeros(4000, 1, 5, 5, dtype=torch.uint8)
    marked[:, :, 2, 2] = 1
    cropped = pad_crop(marked, 2, uniform(0, 0, np.arange(4000), 1, (2,)))
    counts = cropped.sum(0)[0].long().numpy()  # sums of uint8 are int64
    assert counts.sum() == 4000
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_flip_mirrors_those_with_a_low_draw():
    batch = images(4)
    got = flip(batch, np.array([0.0, 0.49999, 0.5, 0.99])).numpy()
    for i, mirrored in enumerate([True, True, False, False]):
        expected = batch[i].numpy()[:, :, ::-1] if mirrored else batch[i].numpy()
        assert (got[i] == expected).all()


def test_normalise_is_torchvisions():
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    got = normalise(images(), mean, std)
    expected = torch.stack([reference.normalize(x.double() / 255, mean, std) for x in images()])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=0)


def test_normalise_with_one_number_for_all_channels():
    got = normalise(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1), (0.5,), (0.25,))
    assert got.flatten().tolist() == pytest.approx([-2.0, -1.2, 2.0], abs=1e-6)


def test_crop_boxes_lie_within_and_have_the_stated_area_and_aspect():
    height, width = 400, 600
    for draws in uniform(0, 0, np.arange(500), Stream.RESIZED_CROP, (CROP_TRIES, 4)):
        top, left, h, w = crop_box(draws, height, width)
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert 0.079 < h * w / (height * width) <= 1
        assert 0.74 < w / h < 1.35


def test_crop_area_is_uniform_where_every_try_fits():
    # At most 30% of the area at an aspect near 1 always fits a square.
    draws = uniform(0, 0, np.arange(3000), Stream.RESIZED_CROP, (CROP_TRIES, 4))
    areas = np.array([h * w / 1000**2 for _, _, h, w in (crop_box(d, 1000, 1000) for d in draws)])
    small = areas[areas < 0.5]
    assert stats.kstest(small, "uniform", args=(0.08, 0.42)).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_crop_of_a_strip_is_its_centre(height, width, box):
    # All tries ask for the whole area at aspect 1, which does not fit.
    assert crop_box(np.full((CROP_TRIES, 4), [0.999, 0.5, 0.5, 0.5]), height, width) == box


def test_studies_begun_before_interpolation_was_a_field_stay_valid():
    known = identify_data(DataConfig(size=8))
    assert "interpolation" not in known
    assert identify_data(DataConfig(size=8, interpolation="bicubic")) == {**known, "interpolation": "bicubic"}


def test_resizing_is_pillows_of_either_kind():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8))
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    found = {}
    kinds: tuple[tuple[Interpolation, Image.Resampling], ...]
    kinds = (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC))
    for name, filter_ in kinds:
        whole = np.asarray(picture.resize((15, 10), filter_))[1:9, 4:12]
        found[name] = fit(pixels, 8, 10, name)
        assert found[name].permute(1, 2, 0).numpy().tolist() == whole.tolist()
        part = np.asarray(picture.crop((5, 2, 17, 18)).resize((8, 8), filter_))
        assert cut(pixels, (2, 5, 16, 12), 8, name).permute(1, 2, 0).numpy().tolist() == part.tolist()
    assert not found["bilinear"].equal(found["bicubic"])
