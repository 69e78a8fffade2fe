import pytest
import torch
from torch.nn.functional import cross_entropy

from vestige.formulas.linearised import SMALLEST, log_odds, predicted, rivals

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 5.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 2])


def test_rivals_are_the_highest_other_classes():
    assert rivals(LOGITS, LABELS, 2).tolist() == [[2, 1], [1, 3]]
    assert rivals(LOGITS, LABELS, 9).tolist() == [[2, 1, 3], [1, 3, 0]]


@pytest.mark.parametrize("opponents", [1, 2, 3])
def test_the_loss_follows_from_the_log_odds(opponents):
    odds_TQ = log_odds(LOGITS, LABELS, rivals(LOGITS, LABELS, opponents))
    assert odds_TQ.shape == (2, min(opponents + 1, 3))
    loss_T = torch.log1p(odds_TQ.exp().sum(1))
    torch.testing.assert_close(loss_T, cross_entropy(LOGITS, LABELS, reduction="none"))


def test_known_changes_of_all_log_odds_give_the_loss_and_margin_exactly():
    generator = torch.Generator().manual_seed(0)
    after_TUC = LOGITS[:, None] + torch.randn(2, 5, 4, generator=generator) * 3
    chosen_TK = rivals(LOGITS, LABELS, 3)
    odds_TQ = log_odds(LOGITS, LABELS, chosen_TK)
    after_TUQ = torch.stack([log_odds(after_TUC[:, u], LABELS, chosen_TK) for u in range(5)], 1)
    change_TUQ = after_TUQ - odds_TQ[:, None]
    changed_TU = torch.ones(2, 5, dtype=torch.bool)
    found = predicted(odds_TQ, change_TUQ, change_TUQ.abs(), changed_TU, 3)
    before_T = cross_entropy(LOGITS, LABELS, reduction="none")
    for u in range(5):
        torch.testing.assert_close(
            found.loss[:, u], cross_entropy(after_TUC[:, u], LABELS, reduction="none") - before_T
        )
        for t in range(2):
            label = int(LABELS[t])
            others = [float(after_TUC[t, u, c]) for c in range(4) if c != label]
            assert float(found.margin[t, u]) == pytest.approx(float(after_TUC[t, u, label]) - max(others), abs=1e-5)
            p0, p1 = LOGITS[t].double().softmax(0), after_TUC[t, u].double().softmax(0)
            size = sum(
                float((p0[c] + p1[c]) / 2)
                * abs(float((after_TUC[t, u, c] - after_TUC[t, u, label]) - (LOGITS[t, c] - LOGITS[t, label])))
                for c in range(4)
                if c != label
            )
            assert float(found.size[t, u]) == pytest.approx(size, rel=1e-4)


def test_where_nothing_changes_nothing_is_predicted_and_where_something_does_the_size_is_never_0():
    odds_TQ = log_odds(LOGITS, LABELS, rivals(LOGITS, LABELS, 3))
    change_TUQ = torch.zeros(2, 2, 3)
    found = predicted(odds_TQ, change_TUQ, change_TUQ, torch.tensor([[True, False], [False, True]]), 3)
    assert (found.loss == 0).all()
    assert found.size.tolist() == [[pytest.approx(SMALLEST), 0], [0, pytest.approx(SMALLEST)]]
    torch.testing.assert_close(found.margin, torch.tensor([[1.0, 1.0], [-4.0, -4.0]]))
