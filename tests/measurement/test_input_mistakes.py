"""Data that cannot be measured on: orders that cannot be shared, batches that are none, errors of the user's code."""

import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch
from kinds_of_data import INPUTS, LABELS, SIZE, Items, N, Stream, loader
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler

from vestige.errors import DataError
from vestige.measurement.inputs import batches


class TestOrders:
    def test_shuffling_is_followed_and_said(self):
        feed = batches(loader(shuffle=True), batch_size=9)
        assert feed.labels is None
        assert feed.notes == (
            "the DataLoader's order is drawn by its RandomSampler: which images fall into which half, or are chosen, "
            "follows that order, and changes from run to run unless it is seeded",
        )
        tiles = list(feed)
        order = torch.cat([tile.inputs[:, 0] for tile in tiles]).long()
        assert order.sort().values.tolist() == list(range(N)) != order.tolist()
        assert torch.cat([tile.labels for tile in tiles]).equal(LABELS[order])
        assert np.concatenate([tile.indices for tile in tiles]).tolist() == list(range(N))

    @pytest.mark.parametrize("seeded", [False, True])
    def test_shuffling_cannot_be_shared(self, seeded):
        generator = torch.Generator().manual_seed(0) if seeded else None
        with pytest.raises(DataError) as caught:
            batches(loader(shuffle=True, generator=generator), batch_size=9, share=(0, 2))
        assert str(caught.value) == (
            "reading the data: the DataLoader's RandomSampler shuffles: each process would read other inputs, some "
            "twice and some never. Give a DataLoader with shuffle=False."
        )

    def test_a_sampler_of_ones_own(self):
        class Backwards:
            def __iter__(self):
                return iter(range(N - 1, -1, -1))

            def __len__(self):
                return N

        class Shuffled(Backwards):
            def __iter__(self):
                return iter(np.random.permutation(N).tolist())

        found = [list(batches(loader(sampler=Backwards()), batch_size=9, share=(rank, 2))) for rank in (0, 1)]
        tiles = sorted(found[0] + found[1], key=lambda tile: tile.number)
        assert torch.cat([tile.inputs for tile in tiles]).equal(INPUTS.flip(0))
        with pytest.raises(DataError, match="the DataLoader's Shuffled shuffles"):
            batches(loader(sampler=Shuffled()), batch_size=9, share=(0, 2))

    @pytest.mark.parametrize("share", [(0, 1), (1, 2)])
    def test_distributed_sampler(self, share):
        sampler = DistributedSampler(Items(), num_replicas=2, rank=1, shuffle=False)
        with pytest.raises(DataError) as caught:
            batches(loader(sampler=sampler), batch_size=9, share=share)
        assert str(caught.value) == (
            "reading the data: the DataLoader's DistributedSampler shares the data out among 2 processes, and repeats "
            "inputs to make the shares even. Give the DataLoader without it (shuffle=False): vestige shares the "
            "batches out itself."
        )

    def test_distributed_sampler_of_one_process_is_nothing_but_a_sampler(self):
        sampler = DistributedSampler(Items(), num_replicas=1, rank=0, shuffle=False)
        assert sum(tile.valid for tile in batches(loader(sampler=sampler), batch_size=9)) == N

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_dropped_inputs_are_said(self, shuffle):
        feed = batches(loader(drop_last=True, shuffle=shuffle), batch_size=9)
        note = "the DataLoader leaves out its last 3 inputs (drop_last=True): they are not measured"
        assert feed.notes[0] == note
        assert sum(tile.valid for tile in feed) == 20
        assert feed.length == (None if shuffle else 20)
        if feed.labels is not None:
            assert len(feed.labels) == 20

    def test_sampling_with_replacement_is_drawn(self):
        feed = batches(loader(sampler=RandomSampler(range(N), replacement=True, num_samples=9)), batch_size=9)
        assert "RandomSampler" in feed.notes[0]
        assert sum(tile.valid for tile in feed) == 9


X, Y = INPUTS[:4], LABELS[:4]


def error(data, **settings) -> str:
    with pytest.raises(DataError) as caught:
        list(batches(data, batch_size=SIZE, **settings))
    message = str(caught.value)
    assert message.startswith("reading the data: ")
    return message.removeprefix("reading the data: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(X, Y), X, X], "batch 1 is a tensor of float32 of shape (4, 3), and not a pair of inputs and labels. Give b"),
        ([(X, Y, Y)], "batch 0 is a tuple of 3, and not a pair of inputs and labels. Give batches of (inputs, labels)"),
        ([{"image": X, "label": Y}], "batch 0 is a dict of 'image', 'label', and not a pair of inputs and labels. "),
        ([(X, Y[:3])], "batch 0 has 4 inputs and 3 labels. Give as many of both."),
        ([((X, X[:2]), Y)], "batch 0 has inputs of 4 and 2 rows. Give tensors with the batch along axis 0."),
        ((X, Y[:3]), "there are 4 inputs and 3 labels. Give as many of both."),
        (((X, X[:2]), Y), "the data has inputs of 4 and 2 rows. Give tensors with the batch along axis 0."),
        ([(X, Y.float())], "batch 0 has labels that are of type float32. Give class indices, whole numbers from 0: la"),
        ((X, Y.bfloat16()), "the data has labels that are of type float32. Give class indices, whole numbers from 0: "),
        ((X.numpy(), Y.numpy() / 2), "the data has labels that are of type float64. Give class indices, whole numbers"),
        ((X, torch.eye(4)), "the data has labels of shape (4, 4), a row for each input, as one-hot labels have. Give "),
        ((X, torch.eye(4).long()), "the data has labels of shape (4, 4), a row for each input, as one-hot labels have"),
        ([(X, torch.zeros(4, 1, 1))], "batch 0 has labels of shape (4, 1, 1). Give one class index for each input."),
        ([(X, 3)], "batch 0 has a single number for labels. Give one class index for each input."),
        ([(X, torch.tensor(3))], "batch 0 has a single number for labels. Give one class index for each input."),
        ([(X, None)], "batch 0 has a NoneType for labels. Give one class index for each input."),
        ((X, ["a", "b", "c", "d"]), "the data has labels that are text. Give class indices, whole numbers from 0."),
        ([(X, [[1], [2, 3]])], "batch 0 has a list of 2 for labels. Give one class index for each input."),
        ([(X, Y), (X, torch.tensor([1, 2, -1, 0]))], "batch 1 has label -1 (its input 2). Give class indices from 0,"),
        ([("abcd", Y)], "batch 0 has a str among its inputs. Give tensors, or mappings or tuples of tensors, with the"),
        ([({"x": X, "n": 3}, Y)], "batch 0 has an int among its inputs. Give tensors, or mappings or tuples of tensor"),
        ([(torch.tensor(1.0), Y)], "batch 0 has a tensor of float32 of shape () among its inputs. Give tensors, or "),
        ([], "there is no input in the list. Give inputs of at least two classes."),
        ((X[:0], Y[:0]), "there is no input in the tensors. Give inputs of at least two classes."),
        (iter([]), "there is no input in the list_iterator. Give inputs of at least two classes."),
        (Items(LABELS[:0]), "there is no input in the Items. Give inputs of at least two classes."),
        (loader(Items(LABELS[:0])), "there is no input in the DataLoader of Items. Give inputs of at least two classe"),
        (Stream(), "Stream has no batches. Wrap it: torch.utils.data.DataLoader(dataset, 256)."),
        (X, "a tensor of float32 of shape (4, 3) is nothing to measure on. Give a DataLoader, batches of (inputs, "),
        ("folder:val", "a str is nothing to measure on. Give a DataLoader, batches of (inputs, labels), a Dataset of "),
        (7, "an int is nothing to measure on. Give a DataLoader, batches of (inputs, labels), a Dataset of (input, "),
    ],
)  # fmt: skip
def test_mistakes(data, message):
    assert error(data).startswith(message)


def test_dataset_without_a_length():
    class Endless(Dataset):
        def __getitem__(self, i):
            return X[0], 0

    assert error(Endless()) == "Endless has no length. Give it a __len__, or give a DataLoader of it."


class Broken(Items):
    def __getitem__(self, i):
        if i == 9:
            raise KeyError("no such picture")
        return super().__getitem__(i)


@pytest.mark.parametrize(("workers", "share"), [(0, (0, 1)), (0, (0, 2)), (1, (0, 1))])
def test_errors_of_the_users_code_name_their_batch(workers, share):
    expected = "reading batch 2 raises KeyError: 'no such picture'. Mend the data; iterating over them should raise"
    assert error(Broken(), workers=workers, share=share).startswith(expected)
    assert error(loader(Broken(), num_workers=workers), share=share).startswith(expected)


def test_workers_end_when_one_of_them_fails():
    feed = batches(loader(Broken(), num_workers=2), batch_size=9)
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError):
        list(feed)
    assert set(multiprocessing.active_children()) <= before


def test_inputs_of_different_shapes_cannot_be_batched():
    ragged: Any = [(torch.zeros(3), 0), (torch.zeros(4), 1)]
    assert error(DataLoader(ragged, batch_size=2)).startswith("reading batch 0 raises RuntimeError: ")
