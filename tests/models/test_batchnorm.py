"""Recalibrated statistics equal a float64 loop over batches."""

import copy

import pytest
import timm
import torch
from torch import nn

from vestige.errors import ModelError
from vestige.models.batchnorm import recalibrate
from vestige.models.graph import Graph
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


def two_norms():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.ReLU(), nn.Dropout(0.9), nn.Flatten(1, 2),
        nn.BatchNorm1d(15), nn.Flatten(), nn.Linear(45, 2),
    )  # fmt: skip


def reference(model, batches):
    """Mean over batches of each batch's mean and unbiased variance, in float64, channel by channel."""
    conv, norm, second = (copy.deepcopy(model[i]).double() for i in (0, 1, 5))
    totals = [torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, 15, dtype=torch.float64)]
    for batch in batches:
        x = conv(batch.double())
        for c in range(5):
            values = x[:, c].flatten()
            mean, n = values.sum() / len(values), len(values)
            squares = ((values - mean) ** 2).sum()
            totals[0][:, c] += torch.stack([mean, squares / (n - 1)])
            x[:, c] = (x[:, c] - mean) / (squares / n + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
        x = x.clamp_min(0).flatten(1, 2)  # no dropout: everything else is in eval mode
        for c in range(second.num_features):
            values = x[:, c].flatten()
            mean = values.sum() / len(values)
            totals[1][:, c] += torch.stack([mean, ((values - mean) ** 2).sum() / (len(values) - 1)])
    return [total / len(batches) for total in totals]


@pytest.mark.parametrize("sizes", [(6, 6, 6), (7, 7, 6), (20,), (4, 3, 3, 3, 3, 3)])
@torch.no_grad()
def test_statistics_equal_a_float64_reference(sizes):
    torch.manual_seed(0)
    model = two_norms()
    nn.init.uniform_(model[1].weight, 0.5, 2)
    nn.init.normal_(model[1].bias)
    model.train()
    model[3].eval()
    model[1].running_mean.fill_(77)
    batches = [3 + torch.randn(n, 3, 5, 5) for n in sizes]
    modes = [module.training for module in model.modules()]
    recalibrate(model, iter(batches))
    for norm, expected in zip((model[1], model[5]), reference(model, batches), strict=True):
        torch.testing.assert_close(norm.running_mean.double(), expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), expected[1], rtol=1e-5, atol=1e-6)
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    assert [module.training for module in model.modules()] == modes


def test_weights_stay_and_a_traced_copy_can_be_recalibrated():
    torch.manual_seed(0)
    model = ResNet(8, classes=4)
    graph = Graph.trace(model)
    batches = list(torch.randn(3, 8, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    recalibrate(graph.module, batches)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    recalibrate(model, batches)
    assert not model.bn1.running_var.equal(before["bn1.running_var"])
    torch.testing.assert_close(graph.module.state_dict(), model.state_dict())
    assert model.conv1.weight.equal(before["conv1.weight"])
    assert model.training
    assert not any(module.training for module in graph.module.modules())


def test_what_a_norm_holds_stays_in_eval_mode():
    norm = nn.BatchNorm1d(3)
    norm.drop = nn.Dropout()
    modes = []
    norm.register_forward_hook(lambda *_: modes.append((norm.training, norm.drop.training)))
    recalibrate(norm, [torch.randn(4, 3)])
    assert modes == [(True, False)]


def test_without_batch_norm_nothing_is_run():
    batches = iter([torch.zeros(4, 2)])
    recalibrate(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), batches)
    assert len(list(batches)) == 1


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.aux = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.aux(x) if self.training else self.norm(x)


def test_a_norm_that_is_not_reached_keeps_its_statistics():
    model = Auxiliary()
    model.aux.running_mean.fill_(5)
    recalibrate(model, [torch.randn(4, 3)])
    assert model.aux.running_mean.eq(5).all()
    assert model.norm.running_mean.abs().sum() > 0


@pytest.mark.parametrize("name", ["resnetv2_50", "mobilenetv3_small_050"])
def test_a_norm_that_tracing_looked_into_is_an_error(name):
    model = timm.create_model(name, num_classes=2)
    graph = Graph.trace(model)
    before = copy.deepcopy(graph.module.state_dict())
    with pytest.raises(ModelError, match=r"fixed in the mode it was traced in\. Recompute them in the model"):
        recalibrate(graph.module, [torch.randn(4, 3, 32, 32)])
    torch.testing.assert_close(graph.module.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], r"there are no images\. Give at least one batch"),
        ([torch.randn(4, 3), torch.randn(1, 3)], "a batch gives a channel a single value"),
    ],
)
def test_batches_that_cannot_be_used_leave_the_statistics_as_they_were(batches, message):
    norm = nn.BatchNorm1d(3, momentum=0.2)
    norm(torch.randn(8, 3))
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(ModelError, match=message):
        recalibrate(norm, batches)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    assert norm.momentum == 0.2
    assert norm.training
