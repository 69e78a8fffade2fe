import numpy as np
import pytest
import torch

from vestige.errors import VestigeError
from vestige.formulas.null import labellings
from vestige.formulas.selectivity import class_sums, csi, csi_from_sums, means_from_sums

torch.set_num_threads(1)

N, U = 90, 70
LABELS = {
    "balanced": (torch.arange(N) % 5, 5),
    "unbalanced, some absent": (torch.arange(N).sqrt().long() * 2, 20),
    "more classes than a block": (torch.arange(N) % 45 * 400, 18_000),
}


def permuted(labels_N, number):
    generator = torch.Generator().manual_seed(1)
    return torch.stack([labels_N] + [labels_N[torch.randperm(N, generator=generator)] for _ in range(number)])


@pytest.fixture(name="activations_NU")
def _activations():
    a_NU = torch.rand(N, U, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a_NU[:, 3] = 0  # dead
    a_NU[:, 4] = 1.5  # constant
    return a_NU


@pytest.mark.parametrize("kind", LABELS)
def test_every_labelling_gives_the_index_of_its_class_means_and_sums(kind, activations_NU):
    labels_N, classes = LABELS[kind]
    labels_PN = permuted(labels_N, 3)
    sums = [class_sums(activations_NU, row_N, classes) for row_N in labels_PN]
    of_means_PU = torch.stack([csi(means_from_sums(*s)) for s in sums])
    torch.testing.assert_close(labellings(labels_PN, classes).csi(activations_NU), of_means_PU, rtol=0, atol=1e-12)
    of_sums_PU = torch.stack([csi_from_sums(sums_CU) for sums_CU, _ in sums])
    found_PU = labellings(labels_PN, classes, from_sums=True).csi(activations_NU)
    torch.testing.assert_close(found_PU, of_sums_PU, rtol=0, atol=1e-12)
    assert not found_PU[:, 3].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_neurons_bits_do_not_depend_on_its_neighbours(threads, activations_NU):
    labels_N, classes = LABELS["unbalanced, some absent"]
    labels_PN = permuted(labels_N, 3)
    torch.set_num_threads(threads)
    whole_PU = labellings(labels_PN, classes).csi(activations_NU)
    torch.set_num_threads(1)
    for some in ([0], [33, 69], list(range(40, 70))):
        assert torch.equal(labellings(labels_PN, classes).csi(activations_NU[:, some]), whole_PU[:, some])
    assert torch.equal(labellings(labels_PN[2:], classes).csi(activations_NU), whole_PU[2:])


def test_labellings_that_do_not_matter_to_a_neuron_tie_exactly():
    """It fires for images 5 and 6, of one class in both labellings: the class's name and the rest do not count."""
    a_NU = torch.zeros(N, 1)
    a_NU[[5, 6], 0] = torch.tensor([0.1, 0.7])
    labels_N = torch.arange(N) // 5 % 6
    other_N = (labels_N + 2) % 6
    found_PU = labellings(torch.stack([labels_N, other_N]), 6).csi(a_NU)
    assert found_PU[0, 0] == found_PU[1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_of_float64(dtype, activations_NU):
    labels_N, classes = LABELS["balanced"]
    rounded_NU = activations_NU.to(dtype)
    found_PU = labellings(labels_N[None], classes).csi(rounded_NU)
    expected_U = csi(means_from_sums(*class_sums(rounded_NU.double(), labels_N, classes)))
    np.testing.assert_allclose(found_PU[0], expected_U, rtol=0, atol=1e-12)


def test_no_labellings(activations_NU):
    assert labellings(torch.empty(0, N, dtype=torch.int64), 5).csi(activations_NU).shape == (0, U)


def test_one_class_is_an_error(activations_NU):
    with pytest.raises(VestigeError) as error:
        labellings(torch.full((2, N), 1), 3).csi(activations_NU)
    assert str(error.value) == (
        "computing class selectivity: 1 of 3 classes has images. "
        "Give images of at least two classes (in a training batch: a larger batch)."
    )
