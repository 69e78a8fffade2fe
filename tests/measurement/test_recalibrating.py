"""Which inputs batch-norm statistics are recomputed from."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from vestige.measurement.recalibrating import recalibration_inputs

N = 65
SORTED = torch.arange(N).float()[:, None]  # sorted by class, as folders are


class Duck:
    def __len__(self):
        return N

    def __getitem__(self, index):
        return SORTED[index], 0


KINDS = {
    "tensors": (SORTED, torch.zeros(N, dtype=torch.int64)),
    "inputs alone": SORTED,
    "arrays": (SORTED.numpy(), np.zeros(N, dtype=np.int64)),
    "dataset": TensorDataset(SORTED, torch.zeros(N, dtype=torch.int64)),
    "no Dataset": Duck(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_can_be_chosen_are_drawn_from_everywhere_in_near_equal_batches(kind):
    batches = [batch[:, 0].tolist() for batch in recalibration_inputs(KINDS[kind], 1000, 32)]
    assert [len(batch) for batch in batches] == [22, 22, 21]
    assert sorted(chain.from_iterable(batches)) == list(range(N))
    assert all(min(batch) < 20 and max(batch) > 45 for batch in batches)
    some = [batch[:, 0].tolist() for batch in recalibration_inputs(KINDS[kind], 20, 10)]
    assert [len(batch) for batch in some] == [10, 10]
    assert max(chain.from_iterable(some)) > 45
    assert some == [batch[:, 0].tolist() for batch in recalibration_inputs(KINDS[kind], 20, 10)]


def test_a_loaders_first_batches_without_a_small_last_one():
    loader = DataLoader(TensorDataset(SORTED, torch.zeros(N)), batch_size=16)
    assert [len(batch) for batch in recalibration_inputs(loader, 1000, 8)] == [16] * 4  # and not the one of 1
    assert [len(batch) for batch in recalibration_inputs(loader, 20, 8)] == [16, 16]


def test_several_inputs_are_taken_together():
    pairs = ({"a": SORTED, "b": -SORTED}, torch.zeros(N, dtype=torch.int64))
    for batch in recalibration_inputs(pairs, 10, 5):
        assert torch.equal(batch["a"], -batch["b"])
