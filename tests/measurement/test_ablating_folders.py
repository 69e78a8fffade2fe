"""Folders that `vestige.ablate` goes on in: never one that another model, other images or layers filled."""

from dataclasses import replace

import hooked
import pytest
import torch
from torch import nn

import vestige
from vestige.errors import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_folder_of_another_model_is_refused(model, images, tmp_path):
    options = {"neurons": {"layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
    vestige.ablate(model, images, **options)
    with pytest.raises(StoreError) as caught:
        vestige.ablate(hooked.randomised(hooked.resnet8(), seed=1), images, **options)
    assert str(caught.value).startswith(
        f"going on in {tmp_path / 'pieces'}: its pieces were made by other settings: weights is "
    )
    assert str(caught.value).endswith("Give another folder, or delete this one.")


class Scaled(nn.Module):
    """A network whose weights do not say all that it does."""

    def __init__(self, model: nn.Module, buffer: float = 1.0, constant: float = 1.0):
        super().__init__()
        self.model, self.constant = model, constant
        self.register_buffer("scale", torch.tensor(buffer), persistent=False)

    def forward(self, x):
        return self.model(x * self.constant) * self.scale


@pytest.mark.parametrize(("change", "said"), [({"buffer": 2.0}, "buffers is"), ({"constant": 2.0}, "intact is")])
def test_a_folder_of_another_forward_is_refused(model, images, tmp_path, change, said):
    options = {"neurons": {"model.layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
    for _ in range(2):
        vestige.ablate(Scaled(model), images, **options)
    with pytest.raises(StoreError, match=said):
        vestige.ablate(Scaled(model, **change), images, **options)


@pytest.mark.parametrize("kind", ["tensors", "batches", "dataset", "ranking_data"])
def test_a_folder_of_other_images_is_refused(model, images, tmp_path, kind):
    changed = images[0].clone()
    changed[-1] += 1

    def ablate(inputs):
        pairs = list(zip(inputs, images[1].tolist(), strict=True))
        data = {
            "tensors": (inputs, images[1]),
            "batches": [(inputs[:15], images[1][:15]), (inputs[15:], images[1][15:])],
            "dataset": Listed(pairs),
            "ranking_data": images,
        }[kind]
        other = (inputs, images[1]) if kind == "ranking_data" else None
        options = {"neurons": {"layer1.0": [0]}, "batch_norm": "stored", "batch_size": 8, "folder": tmp_path}
        return vestige.ablate(model, data, ranking_data=other, **options)

    for _ in range(2):
        ablate(images[0])
    with pytest.raises(StoreError, match=r"data\.inputs is"):
        ablate(changed)


class Listed(torch.utils.data.Dataset):
    """A map-style dataset."""

    def __init__(self, pairs: list):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index: int):
        return self.pairs[index]


def test_layers_of_one_name_have_pieces_of_their_own(model, images, tmp_path):
    """A layer that is read elsewhere under the name that another had."""
    first, second = (
        vestige.ablate(model, images, layers=[name], neurons={name: [0]}, batch_norm="stored")
        for name in ("layer1.0", "layer3.0")
    )
    renamed = replace(second.layers[0], name="layer1.0")
    for layers, expected in ((first.layers, first), ([renamed], second)):
        options = {"layers": layers, "neurons": {"layer1.0": [0]}, "batch_norm": "stored", "folder": tmp_path}
        found = vestige.ablate(model, images, **options)
        assert found.table["loss_delta"].to_list() == expected.table["loss_delta"].to_list()
