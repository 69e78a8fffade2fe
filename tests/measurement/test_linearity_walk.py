"""Every image and every midpoint goes through the network once, whatever the numbers."""

from itertools import pairwise

import pytest
import torch

from vestige.measurement.linearity.sampling import Image, Sample
from vestige.measurement.linearity.steps import walk


def images(n):
    return [Image(torch.tensor([float(i)]), i % 3, -1) for i in range(n)]


@pytest.mark.parametrize("tile", [2, 3, 4, 7, 16, 100])
@pytest.mark.parametrize(("n", "pairs"), [(10, 9), (10, 4), (10, 1), (10, 10), (10, 50), (4, 4), (9, 8)])
def test_a_walk_meets_all_images_and_their_midpoints_once(n, pairs, tile):
    inputs = [torch.tensor([float(2**i)]) for i in range(n)]
    seen, middles = [], []
    for step in walk(inputs, pairs, tile):
        assert len(step.inputs) == tile
        assert step.start == len(seen)
        values = step.inputs[:, 0].tolist()
        seen += values[: step.new]
        middles += values[step.ends : step.ends + step.middles]
    assert seen == [2**i for i in range(n)]
    way = seen + seen[:1] if n <= pairs else seen[: pairs + 1]
    assert middles == [(a + b) / 2 for a, b in pairwise(way)]
    assert len(middles) == min(n, pairs)


def test_a_sample_and_the_others_are_all_images_once():
    sample = Sample(7)
    others = list(sample.others(images(30)))
    chosen = [int(image.input) for image in sample.chosen()]
    assert len(chosen) == 7
    assert sorted(chosen + [int(image.input) for image in others]) == list(range(30))
    assert all(image.label == int(image.input) % 3 for image in [*others, *sample.chosen()])


def test_a_sample_does_not_depend_on_how_the_images_come():
    whole, parts = Sample(7), Sample(7)
    list(whole.others(images(30)))
    for start in (0, 3, 4, 20):
        list(parts.others(images(30)[start : {0: 3, 3: 4, 4: 20}.get(start, 30)]))
    assert [int(i.input) for i in whole.chosen()] == [int(i.input) for i in parts.chosen()]


def test_a_larger_sample_begins_with_the_smaller():
    samples = [Sample(size) for size in (5, 12, 99)]
    for sample in samples:
        list(sample.others(images(30)))
    few, more, every = ([int(image.input) for image in sample.chosen()] for sample in samples)
    assert few == more[:5] == every[:5]
    assert more == every[:12]
    assert sorted(every) == list(range(30))
    assert every != sorted(every)
