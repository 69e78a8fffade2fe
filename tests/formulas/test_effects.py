import math

import numpy as np
import pytest
import torch

from vestige.formulas.effects import Outcomes, class_effects, neuron_effects, outcomes, totals

N, C, U = 40, 4, 3


@pytest.fixture(name="logits_NC")
def _logits():
    return torch.randn(N, C, generator=torch.Generator().manual_seed(0))


@pytest.fixture(name="ablated_UNC")
def _ablated(logits_NC):
    return logits_NC + torch.randn(U, N, C, generator=torch.Generator().manual_seed(1))


@pytest.fixture(name="labels_N")
def _labels():
    labels_N = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(2))
    return labels_N.where(labels_N != 2, 3)  # class 2 has no image


def sums_of(logits_NC, ablated_UNC, labels_N, classes=C):
    parts = [outcomes(logits, labels_N) for logits in ablated_UNC]
    ablated = Outcomes(torch.stack([p.loss for p in parts]), torch.stack([p.correct for p in parts]))
    return totals(outcomes(logits_NC, labels_N), ablated, labels_N, classes)


def slow_loss(logits, label):
    """Cross-entropy of one image from Python floats, without log-softmax."""
    return math.log(sum(math.exp(x) for x in logits)) - logits[label]


def test_outcomes_of_hand_computed_logits():
    logits_NC = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = outcomes(logits_NC, torch.tensor([1, 1, 1]))
    assert found.loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)], abs=1e-12)
    assert found.correct.tolist() == [True, False, False]  # of equal logits the first counts


def test_loss_is_taken_in_float64():
    """In float32 the loss of a confident right answer is 0."""
    loss = outcomes(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).loss.item()
    assert loss == pytest.approx(math.log1p(math.exp(-20)), rel=1e-6)


def test_effects_equal_slow_loops(logits_NC, ablated_UNC, labels_N):
    preferred_U = torch.tensor([0, 1, 3])
    found = neuron_effects(sums_of(logits_NC, ablated_UNC, labels_N), preferred_U)
    labels, intact = labels_N.tolist(), logits_NC.tolist()
    for u in range(U):
        ablated = ablated_UNC[u].tolist()
        change = [slow_loss(ablated[i], labels[i]) - slow_loss(intact[i], labels[i]) for i in range(N)]
        right = [int(max(intact[i]) == intact[i][labels[i]]) for i in range(N)]
        still = [int(max(ablated[i]) == ablated[i][labels[i]]) for i in range(N)]
        chosen = [i for i in range(N) if labels[i] == preferred_U[u]]
        others = [i for i in range(N) if labels[i] != preferred_U[u]]
        expected = {
            "loss_delta": sum(change) / N,
            "loss_delta_se": np.std(change, ddof=1) / math.sqrt(N),
            "top1_delta": sum(still) / N - sum(right) / N,
            "right_to_wrong": sum(a and not b for a, b in zip(right, still, strict=True)) / N,
            "wrong_to_right": sum(b and not a for a, b in zip(right, still, strict=True)) / N,
            "preferred_delta": sum(still[i] - right[i] for i in chosen) / len(chosen),
            "others_delta": sum(still[i] - right[i] for i in others) / len(others),
        }
        assert {name: effect[u].item() for name, effect in found.items()} == pytest.approx(expected, abs=1e-9)


def test_class_effects_equal_slow_loops(logits_NC, ablated_UNC, labels_N):
    found = class_effects(sums_of(logits_NC, ablated_UNC, labels_N))
    labels, intact = labels_N.tolist(), logits_NC.tolist()
    assert found["class_n"].tolist() == [labels.count(c) for c in range(C)]
    for u in range(U):
        ablated = ablated_UNC[u].tolist()
        for c in (0, 1, 3):
            chosen = [i for i in range(N) if labels[i] == c]
            change = [slow_loss(ablated[i], c) - slow_loss(intact[i], c) for i in chosen]
            top1 = [int(np.argmax(ablated[i]) == c) - int(np.argmax(intact[i]) == c) for i in chosen]
            assert found["class_loss_delta"][u, c].item() == pytest.approx(np.mean(change), abs=1e-9)
            assert found["class_top1_delta"][u, c].item() == pytest.approx(np.mean(top1), abs=1e-12)


def test_a_class_without_images_has_no_effect_to_speak_of(logits_NC, ablated_UNC, labels_N):
    sums = sums_of(logits_NC, ablated_UNC, labels_N)
    assert class_effects(sums)["class_loss_delta"][:, 2].isnan().all()
    effects = neuron_effects(sums, torch.tensor([2, 2, 2]))
    assert effects["preferred_delta"].isnan().all()
    torch.testing.assert_close(effects["others_delta"], effects["top1_delta"])


def test_sums_of_parts_add_up(logits_NC, ablated_UNC, labels_N):
    whole = sums_of(logits_NC, ablated_UNC, labels_N)
    parts = sums_of(logits_NC[:13], ablated_UNC[:, :13], labels_N[:13])
    parts = parts + sums_of(logits_NC[13:], ablated_UNC[:, 13:], labels_N[13:])
    for mine, theirs in zip(whole, parts, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_no_change_is_exactly_zero_with_no_error(logits_NC, labels_N):
    found = neuron_effects(sums_of(logits_NC, logits_NC[None], labels_N), torch.tensor([0]))
    assert all(effect.item() == 0 for effect in found.values())


def test_one_image_has_no_standard_error(logits_NC, ablated_UNC, labels_N):
    sums = sums_of(logits_NC[:1], ablated_UNC[:, :1], labels_N[:1])
    assert neuron_effects(sums, torch.tensor([0, 0, 0]))["loss_delta_se"].isnan().all()
