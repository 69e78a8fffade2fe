"""Batches of every kind of data: each input once, in order, under its own label, however many processes share them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

from vestige.config import DataConfig
from vestige.data import datasets
from vestige.data.datasets import open_images
from vestige.errors import DataError
from vestige.measurement.inputs import batches

N, SIZE = 23, 4  # the last batch has 3; 6 batches divide into 2 and 3 shares, 5 into neither
INPUTS = torch.arange(N, dtype=torch.float32)[:, None] * torch.ones(3)
LABELS = torch.arange(N) * 7 % 5


class Items(Dataset):
    """Items as users write them; counts what is read."""

    def __init__(self, labels=LABELS, told: str | None = None, target_transform=None):
        self.values, self.target_transform = labels, target_transform
        self.read: list[int] = []
        if told:
            setattr(self, told, labels.tolist())

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int):
        if i >= len(self):
            raise IndexError(i)
        self.read.append(i)
        label = int(self.values[i])
        return INPUTS[i], self.target_transform(label) if self.target_transform else label


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(INPUTS, LABELS.tolist(), strict=True)


class Batched:
    """Batches again and again, labels as lists."""

    def __init__(self, wrap=list):
        self.wrap = wrap

    def __iter__(self):
        for start in range(0, N, SIZE):
            yield INPUTS[start : start + SIZE], self.wrap(LABELS[start : start + SIZE].tolist())


def loader(dataset=None, **settings) -> DataLoader:
    return DataLoader(Items(told="targets") if dataset is None else dataset, batch_size=SIZE, **settings)


KINDS = {
    "tensors": lambda: (INPUTS, LABELS),
    "arrays": lambda: (INPUTS.numpy(), LABELS.numpy().astype(np.uint8)),
    "lists of labels": lambda: [INPUTS, LABELS.tolist()],
    "column of labels": lambda: (INPUTS, LABELS[:, None]),
    "Dataset": lambda: Items(),
    "Dataset with targets": lambda: Items(told="targets"),
    "TensorDataset": lambda: TensorDataset(INPUTS, LABELS),
    "Subset": lambda: Subset(TensorDataset(INPUTS.flip(0), LABELS.flip(0)), range(N - 1, -1, -1)),
    "DataLoader": loader,
    "DataLoader, workers": lambda: loader(num_workers=2),
    "DataLoader of batches": lambda: DataLoader(
        TensorDataset(INPUTS, LABELS), sampler=[range(i, min(i + SIZE, N)) for i in range(0, N, SIZE)], batch_size=None
    ),
    "DataLoader, batch sampler": lambda: DataLoader(
        Items(), batch_sampler=[list(range(i, min(i + SIZE, N))) for i in range(0, N, SIZE)]
    ),
    "DataLoader of a stream": lambda: loader(Stream()),
    "list of batches": lambda: list(Batched()),
    "iterable": Batched,
    "iterable of arrays": lambda: Batched(np.array),
    "generator": lambda: (pair for pair in Batched(torch.tensor)),
}
KNOWN = {"tensors", "arrays", "lists of labels", "column of labels", "Dataset with targets", "TensorDataset", "Subset"}
KNOWN |= {"DataLoader", "DataLoader, workers"}


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_every_share(kind, world):
    found = {}
    for rank in range(world):
        feed = batches(KINDS[kind](), batch_size=SIZE, share=(rank, world))
        tiles = list(feed)
        assert [tile.number for tile in tiles] == list(range(rank, 6, world))
        found |= {tile.number: tile for tile in tiles}
        assert (feed.labels is not None) == (kind in KNOWN)
        if feed.labels is not None:
            assert feed.labels.dtype == np.int64
            assert feed.labels.tolist() == LABELS.tolist()
        assert feed.length in (N, None)
        assert feed.notes == ()
        assert feed.skipped == []
    for number in range(6):
        tile, rows = found[number], slice(number * SIZE, min(N, (number + 1) * SIZE))
        assert tile.inputs.dtype == torch.float32
        assert tile.inputs.equal(INPUTS[rows])
        assert tile.labels.dtype == torch.int64
        assert tile.labels.equal(LABELS[rows])
        assert tile.valid == len(tile.inputs)
        assert tile.indices.tolist() == list(range(N)[rows])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "generator" not in kind])
def test_read_again(kind):
    feed = batches(KINDS[kind](), batch_size=SIZE)
    assert not feed.once
    for _ in range(2):
        assert torch.cat([tile.labels for tile in feed]).equal(LABELS)


def test_a_generator_is_read_once():
    feed = batches(KINDS["generator"](), batch_size=SIZE)
    assert feed.once
    list(feed)
    with pytest.raises(DataError) as caught:
        list(feed)
    assert str(caught.value) == (
        "reading the data: a generator can be read only once, and was. Give what can be read again: a DataLoader, "
        "a list of batches, a Dataset, or tensors."
    )


@pytest.mark.parametrize("make", [lambda items: items, lambda items: loader(items)], ids=["Dataset", "DataLoader"])
def test_only_the_own_share_is_read(make):
    for rank in (0, 1):
        items = Items()
        list(batches(make(items), batch_size=SIZE, share=(rank, 2)))
        assert items.read == [i for i in range(N) if i // SIZE % 2 == rank]


def test_loaders_settings_serve_each_share():
    seen = []

    def collate(items):
        seen.append(len(items))
        return torch.stack([x for x, _ in items]) + 1, torch.tensor([y for _, y in items])

    feed = batches(loader(collate_fn=collate), batch_size=99, share=(1, 2))
    seen.clear()
    assert torch.cat([tile.inputs for tile in feed])[:4].equal(INPUTS[4:8] + 1)
    assert seen == [4, 4, 3]


def test_workers_read_a_dataset():
    feed = batches(Items(), batch_size=5, workers=2)
    assert torch.cat([tile.inputs for tile in feed]).equal(INPUTS)
    assert [tile.valid for tile in feed] == [5, 5, 5, 5, 3]


@pytest.mark.parametrize("make", [
    lambda: ({"a": INPUTS, "b": (INPUTS.numpy() + 1, INPUTS + 2)}, LABELS),
    lambda: [({"a": x, "b": [x + 1, x + 2]}, y) for x, y in Batched()],
    lambda: loader([({"a": x, "b": (x + 1, x + 2)}, int(y)) for x, y in zip(INPUTS, LABELS, strict=True)]),
])  # fmt: skip
def test_nested_inputs(make):
    tiles = list(batches(make(), batch_size=SIZE))
    assert len(tiles) == 6
    for k, tile in enumerate(tiles):
        expected = INPUTS[k * SIZE : (k + 1) * SIZE]
        assert tile.inputs["a"].equal(expected)
        assert isinstance(tile.inputs["b"], tuple)
        assert tile.inputs["b"][0].equal(expected + 1)
        assert tile.inputs["b"][1].equal(expected + 2)


class TestKnownLabels:
    @pytest.mark.parametrize("told", ["targets", "labels", "_labels"])
    def test_where_datasets_keep_them(self, told):
        assert batches(Items(told=told), batch_size=9).labels.tolist() == LABELS.tolist()  # pyright: ignore[reportOptionalMemberAccess]

    def test_of_parts(self):
        part = Subset(Subset(Items(told="targets"), range(2, N)), [0, 5])
        both = ConcatDataset([part, TensorDataset(INPUTS, LABELS)])
        expected = [int(LABELS[2]), int(LABELS[7]), *LABELS.tolist()]
        feed = batches(both, batch_size=9)
        assert feed.labels is not None
        assert feed.labels.tolist() == expected == torch.cat([tile.labels for tile in feed]).tolist()

    def test_in_the_order_of_the_loader(self):
        lists = [[5, 2], [7], [0, 1, 3]]
        feed = batches(DataLoader(Items(told="targets"), batch_sampler=lists), batch_size=9)
        assert feed.labels is not None
        assert feed.labels.tolist() == LABELS[[5, 2, 7, 0, 1, 3]].tolist()
        assert torch.cat([tile.labels for tile in feed]).tolist() == feed.labels.tolist()

    @pytest.mark.parametrize(
        "dataset",
        [
            Items(told="targets", target_transform=lambda y: y + 1),
            ConcatDataset([Items(told="targets"), Items()]),
            Subset(Items(), range(3)),
            TensorDataset(INPUTS, INPUTS, LABELS),
        ],
    )
    def test_not_where_something_may_change_them(self, dataset):
        assert batches(dataset, batch_size=9).labels is None

    def test_not_where_items_show_others(self):
        class Reversed(Items):
            def __getitem__(self, i):
                return INPUTS[i], 4 - int(self.values[i])

        assert batches(Reversed(told="targets"), batch_size=9).labels is None
        changing = loader(collate_fn=lambda items: (torch.stack([x for x, _ in items]), [y + 1 for _, y in items]))
        assert batches(changing, batch_size=9).labels is None

    def test_names_of_classes_are_no_labels(self):
        items = Items()
        items.labels = ["cat", "dog"]  # pyright: ignore[reportAttributeAccessIssue]
        assert batches(items, batch_size=9).labels is None

    @pytest.mark.parametrize("share", [(0, 1), (0, 2)])
    def test_others_in_a_batch_are_an_error(self, share):
        items = Items(told="targets")
        items.values = LABELS.clone()
        items.values[10] += 1
        with pytest.raises(DataError) as caught:
            list(batches(loader(items), batch_size=9, share=share))
        assert str(caught.value) == (
            "reading the data: batch 2 has other labels than the dataset tells beforehand (in targets or labels). "
            "Let them agree, or give iter(loader), of which no labels are asked beforehand."
        )


class TestOrders:
    def test_shuffling_is_followed_and_said(self):
        feed = batches(loader(shuffle=True), batch_size=9)
        assert feed.labels is None
        assert feed.notes == (
            "the DataLoader's order is drawn by its RandomSampler: the halves of csi_cv follow that order, and change "
            "from run to run unless it is seeded",
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


def test_inputs_of_different_shapes_cannot_be_batched():
    ragged = [(torch.zeros(3), 0), (torch.zeros(4), 1)]
    assert error(DataLoader(ragged, batch_size=2)).startswith("reading batch 0 raises RuntimeError: ")  # pyright: ignore[reportArgumentType]


class TestWithoutLabels:
    @pytest.mark.parametrize("make", [
        lambda: INPUTS,
        lambda: INPUTS.numpy(),
        lambda: (INPUTS, LABELS),
        lambda: (INPUTS, LABELS.tolist()),
        lambda: INPUTS.split(SIZE),
        lambda: [(x,) for x in INPUTS.split(SIZE)],
        lambda: [(x, None) for x in INPUTS.split(SIZE)],
        lambda: TensorDataset(INPUTS),
        lambda: loader(TensorDataset(INPUTS)),
        lambda: loader(shuffle=False),
        lambda: list(INPUTS),
    ])  # fmt: skip
    def test_inputs_alone_will_do(self, make):
        data = make()
        feed = batches(DataLoader(data, SIZE) if isinstance(data, list) and data[0].__class__ is Tensor else data,
                       batch_size=SIZE, labelled=False)  # fmt: skip
        tiles = list(feed)
        assert torch.cat([tile.inputs for tile in tiles]).equal(INPUTS)
        assert feed.labels is None
        assert all(tile.labels.equal(torch.zeros(tile.valid, dtype=torch.int64)) for tile in tiles)

    def test_two_batches_are_no_pair(self):
        feed = batches([INPUTS[:4], INPUTS[4:8]], batch_size=SIZE, labelled=False)
        assert torch.cat([tile.inputs for tile in feed]).equal(INPUTS[:8])


@pytest.fixture
def folder(tmp_path):
    for c in range(3):
        (tmp_path / f"class-{c}").mkdir()
        for k in range(7):
            Image.new("L", (8, 8), 10 * c + k).save(tmp_path / f"class-{c}" / f"{k}.png")
    return tmp_path


@pytest.mark.parametrize("memory", [datasets.MEMORY_LIMIT, 0])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_images_come_in_padded_tiles(folder, monkeypatch, memory, world):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", memory)
    config = DataConfig(channels=1, mean=(0,), std=(1 / 255,))
    images = open_images(f"folder:{folder}", "test", config)
    found = {}
    for rank in range(world):
        feed = batches((images, config), batch_size=4, share=(rank, world))
        assert feed.labels is not None
        assert (feed.length, feed.labels.tolist(), feed.name) == (21, images.labels.tolist(), f"folder:{folder.name}")
        found |= {tile.number: tile for tile in feed}
    assert sorted(found) == list(range(6))
    assert all(tile.inputs.shape == (4, 1, 8, 8) for tile in found.values())
    tiles = [found[number] for number in range(6)]
    values = torch.cat([tile.inputs[: tile.valid, 0, 0, 0] for tile in tiles])
    assert values.round().tolist() == [10 * c + k for c in range(3) for k in range(7)]
    assert np.concatenate([tile.indices[: tile.valid] for tile in tiles]).tolist() == list(range(21))


@pytest.mark.parametrize("memory", [datasets.MEMORY_LIMIT, 0])
def test_skipped_images_are_named_and_labels_are_not_foretold_while_some_may_be(folder, monkeypatch, memory):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", memory)
    config = DataConfig(channels=1)
    for name in ("class-0/2.png", "class-1/0.png", "class-2/6.png"):
        (folder / name).write_bytes(b"no image")
    feed = batches((open_images(f"folder:{folder}", "test", config, on_bad_image="skip"), config), batch_size=4)
    assert (feed.labels is None) == (memory == 0)
    labels = [label for tile in feed for label in tile.labels[: tile.valid].tolist()]
    assert labels == [0] * 6 + [1] * 6 + [2] * 6
    assert len(feed.skipped) == 3
    assert feed.skipped[0] == f"{folder}/class-0/2.png is not an image that can be read (no known image format)"


def test_images_need_their_config(folder):
    images = open_images(f"folder:{folder}", "test", DataConfig())
    assert error(images) == "a HeldImages is nothing to measure on. Give (images, config)."
