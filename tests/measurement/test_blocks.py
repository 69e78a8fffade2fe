import numpy as np
import pytest
import torch
from hooked import images
from torch.utils.data import DataLoader, TensorDataset

from vestige.config import DataConfig
from vestige.data.datasets import open_images
from vestige.errors import DataError
from vestige.measurement.ablation.blocks import Blocks, blocks
from vestige.measurement.inputs import batches

N, TILE = 45, 4
INPUTS, LABELS = images(N, 1, 8)


class Plain:
    """Batches of all sizes, read from the beginning each time."""

    def __init__(self, order: np.ndarray | None = None):
        self.order, self.read = order if order is not None else np.arange(N), 0

    def __iter__(self):
        for part in np.split(self.order, [7, 8, 20, 44]):
            self.read += 1
            yield INPUTS[part], LABELS[part]


class Counted(TensorDataset):
    read = 0

    def __getitem__(self, i: int):
        self.read += 1
        return super().__getitem__(i)


class Nested(torch.utils.data.Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i: int):
        return {"x": INPUTS[i], "more": (INPUTS[i, 0, 0],)}, LABELS[i]


KINDS = {
    "tensors": lambda: (INPUTS, LABELS),
    "dataset": lambda: TensorDataset(INPUTS, LABELS),
    "loader": lambda: DataLoader(TensorDataset(INPUTS, LABELS), batch_size=7),
    "listed": lambda: [(INPUTS[:10], LABELS[:10]), (INPUTS[10:], LABELS[10:])],
    "plain": Plain,
}


def opened(data, **options) -> Blocks:
    return blocks(batches(data, batch_size=5), images=10, tile=TILE, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [0, 3000, float("inf")])
def test_tiles_are_the_same_whatever_they_are_read_from(kind: str, held: float):
    made = opened(KINDS[kind](), held=held)
    assert len(made) == 6  # of two tiles of 4 each, which is as many as make no more than 10 images
    assert made.images == N
    for _ in range(2):
        number = 0
        for block in made:
            for tile in block.tiles():
                rows = range(number * TILE, min((number + 1) * TILE, N))
                padded = [*rows, *[rows[0]] * (TILE - len(rows))]
                assert (tile.number, tile.valid, tile.indices.tolist()) == (number, len(rows), padded)
                assert torch.equal(tile.inputs, INPUTS[padded])
                assert torch.equal(tile.labels, LABELS[padded])
                number += 1
        assert number == 12


@pytest.mark.parametrize("kind", KINDS)
def test_some_places_only(kind: str):
    places = np.array([0, 3, 4, 9, 20, 21, 22, 23, 44])
    made = opened(KINDS[kind](), places=places)
    found = torch.cat([tile.inputs[: tile.valid] for tile in made.tiles()])
    assert torch.equal(found, INPUTS[places])


@pytest.mark.parametrize("kind", ["tensors", "plain"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 9, 13, 45])
def test_donors_are_one_fixed_derangement(kind: str, n: int):
    made = opened(KINDS[kind](), places=np.arange(n))
    seen = 0
    for block in list(made)[::-1]:
        for tile, donors in block.with_donors():
            wanted = [(i + n // 2) % n for i in tile.indices[: tile.valid]]
            assert len(donors) == TILE
            assert torch.equal(donors[: tile.valid], INPUTS[wanted])
            assert all(i != j for i, j in zip(tile.indices, wanted, strict=False))
            seen += tile.valid
    assert seen == n


def test_one_image_has_no_donor():
    with pytest.raises(DataError) as caught:
        list(opened((INPUTS[:1], LABELS[:1]))[0].with_donors())
    assert "there is no other image" in str(caught.value)


def test_inputs_of_several_tensors_and_their_donors():
    made = blocks(batches(Nested(), batch_size=5), images=8, tile=TILE)
    tile, donors = next(made[1].with_donors())
    assert torch.equal(tile.inputs["x"], INPUTS[8:12])
    assert torch.equal(donors["more"][0], INPUTS[30:34, 0, 0])


def test_only_what_is_asked_for_is_read_and_held_tiles_are_not_read_again():
    data = Counted(INPUTS, LABELS)
    made = opened(data)
    data.read = 0
    list(made[3].tiles())
    list(made[3].tiles())
    assert data.read == 2 * TILE
    small = opened(data, held=0)
    data.read = 0
    list(small[3].tiles())
    list(small[3].tiles())
    assert data.read == 3 * TILE  # the first tile is held in any case
    plain = Plain()
    made = opened(plain)
    assert len(made) == 6
    plain.read = 0
    list(made[0].tiles())
    assert plain.read == 2  # batches until the block is whole


def test_images_of_this_library_are_padded_alike():
    config = DataConfig(channels=1, limit_test=30)
    digits = open_images("digits", "test", config)
    made = blocks(batches((digits, config), batch_size=5), images=8, tile=TILE)
    tiles = list(made.tiles())
    assert [len(tile.inputs) for tile in tiles] == [TILE] * 8
    assert torch.equal(
        torch.cat([t.inputs[: t.valid] for t in tiles]), next(iter(batches((digits, config), batch_size=30))).inputs
    )


def test_data_whose_order_changes_are_refused():
    data = Plain()
    made = opened(data)
    list(made.tiles())
    data.order = np.arange(N)[::-1].copy()
    with pytest.raises(DataError) as caught:
        list(opened_again(made))
    assert str(caught.value) == (
        "reading the images in blocks: the Plain gives its inputs in another order than it did before. "
        "Give data of a fixed order (shuffle=False): they are read several times."
    )
    data.order = np.arange(42)
    with pytest.raises(DataError, match="fewer inputs than it did before"):
        list(made[5].tiles())


def opened_again(made: Blocks):
    made.labels  # noqa: B018 (seen before)
    return made[0].tiles()


def test_data_that_can_be_read_once_are_refused():
    with pytest.raises(DataError) as caught:
        opened(iter(Plain()))
    assert "can be read only once, and ablation reads the images several times" in str(caught.value)
