"""A small network, its images and a ranking of its neurons: what single and cumulative ablation are tried on."""

import hooked
import pytest
import torch
from hooked import TILE, N

from vestige.measurement.network import Network
from vestige.measurement.ranking import rank


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", name="model")
def _model():
    return hooked.resnet8()


@pytest.fixture(scope="module", name="images")
def _images():
    return hooked.images(N, 1, 8)


@pytest.fixture(scope="module", name="network")
def _network(model, images):
    return Network.prepare(model, images[0][:2])


@pytest.fixture(scope="module", name="ranking")
def _ranking(network):
    return rank(network, hooked.tiles(*hooked.images(40, 1, 8, seed=9), TILE))
