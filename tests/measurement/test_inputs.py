"""Batches of every kind of data: each input once, in order, under its own label, however many processes share them."""

import numpy as np
import pytest
import torch
from kinds_of_data import INPUTS, KINDS, KNOWN, LABELS, SIZE, Batched, Items, N, loader
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from vestige.config import DataConfig
from vestige.data import datasets
from vestige.data.datasets import open_images
from vestige.errors import DataError
from vestige.measurement.inputs import batches


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
        lambda: DataLoader(list(INPUTS), SIZE),  # pyright: ignore[reportArgumentType]
    ])  # fmt: skip
    def test_inputs_alone_will_do(self, make):
        feed = batches(make(), batch_size=SIZE, labelled=False)
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
    with pytest.raises(DataError, match=r"a HeldImages is nothing to measure on. Give \(images, config\)."):
        batches(images, batch_size=4)
