from collections import defaultdict

import hooked
import numpy as np
import pytest
import torch
from hooked import CLASSES
from scipy.stats import spearmanr
from torch import nn

from scripts import docs_script
from vestige.errors import DataError
from vestige.formulas.control import controlled_effects
from vestige.formulas.effects import Totals, neuron_effects
from vestige.measurement.ablation import controlled as module
from vestige.measurement.ablation import sampling
from vestige.measurement.ablation.blocks import Blocks, blocks
from vestige.measurement.ablation.controlled import Exact, controlled, screened
from vestige.measurement.ablation.estimating import Job
from vestige.measurement.ablation.pieces import FolderPieces, MemoryPieces, Pieces
from vestige.measurement.ablation.singles import Singles, as_totals
from vestige.measurement.inputs import batches
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking, rank

VALUES = ("zero", "mean", "resample")


def blocked(inputs, labels, tile: int = 64) -> Blocks:
    return blocks(batches((inputs, labels), batch_size=tile), 4 * tile, tile=tile)


def exactly(network: Network, of: Blocks, ranking: Ranking, job: Job) -> Totals:
    """Sums of running all images."""
    singles = Singles(network, job.layer, job.value, ranking.mean[job.layer.name], job.units)
    sums = [as_totals(singles.piece(block, per_input=False, tell=lambda _: None)) for block in of]
    return sum(sums[1:], sums[0])


@pytest.fixture(scope="module", name="trained")
def _trained():
    """A small network, trained on a third of the digits, and the others."""
    return docs_script("explanation/control_variates.py").trained(width=8)


@pytest.fixture(scope="module", name="network")
def _network(trained):
    model, inputs, _ = trained
    return Network.prepare(model, inputs[:2])


@pytest.fixture(scope="module", name="test_images")
def _test_images(trained):
    return blocked(*trained[1:])


@pytest.fixture(scope="module", name="ranking")
def _ranking(network, test_images):
    return rank(network, test_images.tiles())


@pytest.fixture(scope="module", name="truth")
def _truth(network, test_images, ranking):
    """Exact sums of all neurons by value and layer name."""
    return {
        (value, layer.name): exactly(network, test_images, ranking, Job(layer, value))
        for value in VALUES
        for layer in network.layers
    }


def jobs(network: Network, *values: str) -> list[Job]:
    return [Job(layer, value) for value in values for layer in network.layers]


@pytest.fixture(scope="module", name="found")
def _found(network, test_images, ranking):
    asked = jobs(network, *VALUES)
    made = controlled(network, test_images, asked, ranking=ranking, precision=1.1, pieces=MemoryPieces())
    return dict(zip([(job.value, job.layer.name) for job in asked], made, strict=True))


def test_the_network_has_learned_something(trained):
    model, inputs, labels = trained
    with torch.no_grad():
        assert (model(inputs).argmax(1) == labels).float().mean() > 0.8


@pytest.mark.parametrize("value", VALUES)
def test_sums_agree_with_exact_ones_within_their_errors(value, network, found, truth, ranking):
    off, ratios, shares = [], [], []
    for layer in network.layers:
        exact, near = truth[value, layer.name], found[value, layer.name]
        assert torch.equal(near.sums.counts, exact.counts)
        preferred_U = ranking.preferred[layer.name]
        expected, effects = (
            neuron_effects(exact, preferred_U),
            controlled_effects(near.sums, near.variance, preferred_U),
        )
        off.append((effects["loss_delta"] - expected["loss_delta"]) / effects["approximation_se"].clamp(min=1e-8))
        ratios.append(effects["loss_delta_se"] / expected["loss_delta_se"].clamp(min=1e-8))
        shares.append(near.images / float(exact.counts.sum()))
        for name in ("top1_delta", "right_to_wrong", "wrong_to_right", "preferred_delta", "others_delta"):
            torch.testing.assert_close(effects[name], expected[name], rtol=0, atol=0.06)
        torch.testing.assert_close(near.sums.squares.sum(1), exact.squares.sum(1), rtol=0.35, atol=0.5)
    off_U, ratio_U, share_U = torch.cat(off), torch.cat(ratios), torch.cat(shares)
    assert 0.5 < off_U.square().mean().sqrt() < 1.6  # standard deviations
    assert (off_U.abs() < 5).all()
    assert ratio_U.median() < 1.1
    assert ratio_U.max() < 1.4
    assert share_U.max() <= 1
    assert share_U.mean() < 0.5
    assert share_U[-network.layers[-1].units :].mean() < 0.2  # where estimates are all but exact


def test_class_sums_add_up_and_agree(network, found, truth):
    for (value, name), near in found.items():
        exact = truth[value, name]
        spread = (near.sums.loss - exact.loss).square().sum() / exact.loss.square().sum()
        assert spread < 0.05
        assert np.corrcoef(near.sums.lost.flatten(), exact.lost.flatten())[0, 1] > (
            0.9 if exact.lost.sum() > 200 else 0
        )


class Counting(FolderPieces):
    """Counts what is made, and may fail."""

    made, left = 0, 10**9

    def _write(self, name, piece):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.made += 1
        super()._write(name, piece)


def equal(a, b) -> bool:
    return all(
        torch.equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip((*one.sums, *one[1:]), (*other.sums, *other[1:]), strict=True)
    )


def test_numbers_depend_neither_on_where_estimates_lie_nor_on_being_interrupted(
    network, test_images, ranking, tmp_path, monkeypatch
):
    asked = jobs(network, "zero", "resample")
    settings = {"ranking": ranking, "precision": 1.2}
    expected = controlled(network, test_images, asked, pieces=MemoryPieces(), **settings)
    monkeypatch.setattr(sampling, "_AT_ONCE", 5000)
    pieces = Counting(tmp_path, {})
    for left in (2, 9):
        pieces.left = left
        with pytest.raises(KeyboardInterrupt):
            controlled(network, test_images, asked, pieces=pieces, **settings)
    pieces.left = 10**9
    found = controlled(network, test_images, asked, pieces=pieces, memory=0, **settings)
    assert equal(found, expected)
    assert pieces.made == 3 * len(test_images)
    again = controlled(network, test_images, asked, pieces=pieces, **settings)
    assert equal(again, expected)
    assert pieces.made == 3 * len(test_images)


def test_another_seed_draws_other_images_and_some_neurons_are_drawn_as_among_all(network, test_images, ranking):
    settings = {"ranking": ranking, "precision": 1.2, "pieces": MemoryPieces()}
    layer, units = network.layers[0], torch.tensor([1, 5])
    (one,) = controlled(network, test_images, [Job(layer, "zero")], seed=0, **settings)
    (other,) = controlled(network, test_images, [Job(layer, "zero")], seed=1, **settings)
    assert not torch.equal(one.sums.loss, other.sums.loss)
    (some,) = controlled(network, test_images, [Job(layer, "zero", units)], seed=0, **settings)
    assert some.sums.loss.shape == (2, CLASSES)
    pilots = {}
    for which, job in (("all", Job(layer, "zero")), ("some", Job(layer, "zero", units))):
        with module.estimated(
            network, test_images, [job], ranking=ranking, pieces=MemoryPieces(), opponents=3
        ) as estimates:
            among_N = module._pilot_images(estimates, 0)
            exact = Exact(network, test_images, [job], ranking, MemoryPieces(), estimates, 0, None)
            plans = [module.pilot_plan(estimates, estimates.jobs[0], among_N)]
            (truths,) = exact.truths("pilot", plans, 1)
            pilots[which] = {(int(job.neurons[u]), int(i)) for u, i in zip(truths.units, truths.images, strict=True)}
    assert pilots["some"] == {pair for pair in pilots["all"] if pair[0] in (1, 5)}


def test_with_few_images_all_are_run(trained, network, ranking):
    of = blocked(trained[1][:90], trained[2][:90], tile=32)
    asked = jobs(network, "zero", "resample")
    found = controlled(network, of, asked, ranking=ranking, precision=1.1, pieces=MemoryPieces())
    for job, near in zip(asked, found, strict=True):
        exact = exactly(network, of, ranking, job)
        assert (near.variance == 0).all()
        for one, other in zip(near.sums, exact, strict=True):
            one = one.sum(1, keepdim=True) if other.ndim == 2 and other.shape[1] == 1 else one
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_dead_neuron_changes_nothing(trained):
    model, inputs, labels = trained
    model = hooked.resnet8()
    with torch.no_grad():
        model.layer2[0].bn2.weight[3] = model.layer2[0].downsample[1].weight[3] = 0
        model.layer2[0].bn2.bias[3] = model.layer2[0].downsample[1].bias[3] = -1
    network = Network.prepare(model, inputs[:2])
    of = blocked(inputs[:300], labels[:300])
    (near,) = controlled(
        network,
        of,
        [Job(network.layers[1], "zero")],
        ranking=rank(network, of.tiles()),
        precision=1.1,
        pieces=MemoryPieces(),
    )
    assert near.images[3] == 0
    assert near.variance[3] == 0
    assert all((column[3] == 0).all() for column in near.sums[:4])
    assert near.images[2] > 0


class Wavering(nn.Module):
    """Cannot be traced."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 24), nn.Linear(24, 16), nn.Linear(16, CLASSES)
        self.relu, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.relu(self.first(x.flatten(1)))
        return self.third(self.relu2(self.second(x if float(x.sum()) > -1 else 2 * x)))


def test_a_network_that_is_not_traced(trained):
    _, inputs, labels = trained
    torch.manual_seed(0)
    network = Network.prepare(Wavering().eval(), inputs[:2])
    assert not network.graph.traced
    of = blocked(inputs[:600], labels[:600])
    ranking = rank(network, of.tiles())
    asked = jobs(network, "zero")
    found = controlled(network, of, asked, ranking=ranking, precision=1.5, pieces=MemoryPieces())
    for job, near in zip(asked, found, strict=True):
        exact = exactly(network, of, ranking, job)
        off_U = (near.sums.loss - exact.loss).sum(1) / near.variance.sqrt().clamp(min=1e-6)
        assert (off_U.abs() < 5).all()


def test_screening_ranks_neurons_as_exact_ablation_does(network, test_images, ranking, truth):
    asked = jobs(network, "zero")
    found = screened(network, test_images, asked, ranking=ranking, pieces=MemoryPieces())
    estimates, exact, lost, right = [], [], [], []
    for job, sums in zip(asked, found, strict=True):
        estimates.append(sums.loss.sum(1))
        exact.append(truth["zero", job.layer.name].loss.sum(1))
        lost.append(sums.lost.sum(1))
        right.append(truth["zero", job.layer.name].lost.sum(1))
    assert spearmanr(torch.cat(estimates), torch.cat(exact))[0] > 0.9
    assert np.corrcoef(torch.cat(lost), torch.cat(right))[0, 1] > 0.8
    assert (torch.cat(lost) == torch.cat(lost).round()).all()


def test_labels_outside_the_classes_are_refused(trained, network, ranking):
    of = blocked(trained[1][:70], trained[2][:70] + 1)
    with pytest.raises(DataError, match="labels from 1 to 10, but the model's classes are 0 to 9"):
        controlled(network, of, jobs(network, "zero"), ranking=ranking, precision=1.1, pieces=MemoryPieces())


class Remembering(Pieces):
    """Makes the estimates once."""

    def __init__(self):
        self._kept = {}

    def all(self, names, make):
        for name in names:
            if name.startswith("screen"):
                if name not in self._kept:
                    self._kept[name] = make(name)
                yield self._kept[name]
            else:
                yield make(name)

    def done(self, names):
        return []


@pytest.fixture(scope="module", name="outcomes", params=["zero", "resample"])
def _outcomes(request, network, test_images, ranking):
    """Change of loss, and right before and after, of all pairs: (U, N) each, by layer name."""
    found = defaultdict(list)
    for layer in network.layers:
        singles = Singles(network, layer, request.param, ranking.mean[layer.name], None)
        for tile, donors in (pair for block in test_images for pair in block.with_donors()):
            intact, ablated = singles.outcomes(tile, donors)
            found[layer.name].append(
                (ablated.loss - intact.loss, intact.correct.expand_as(ablated.correct), ablated.correct)
            )
    columns = {name: [torch.cat(column, 1) for column in zip(*parts, strict=True)] for name, parts in found.items()}
    return request.param, columns


@pytest.mark.parametrize("repetitions", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_intervals_cover_what_exact_ablation_gives(repetitions, network, test_images, ranking, outcomes, monkeypatch):
    """Only the drawing is repeated: outcomes are looked up."""
    value, outcomes = outcomes
    asked = jobs(network, value)

    def looked_up(_self, _block, pairs):
        piece = {}
        for number, (units_R, images_R, _) in enumerate(pairs):
            found = (column[units_R, images_R] for column in outcomes[asked[number].layer.name])
            piece |= {f"{name}/{number}": one for name, one in zip(("change", "before", "after"), found, strict=True)}
        return piece

    monkeypatch.setattr(Exact, "_run", looked_up)
    pieces, n = Remembering(), len(next(iter(outcomes.values()))[0][0])
    off, errors, top1 = [], [], []
    for seed in range(repetitions):
        found = controlled(network, test_images, asked, ranking=ranking, precision=1.1, pieces=pieces, seed=seed)
        exact_U = torch.cat([outcomes[job.layer.name][0].sum(1) for job in asked])
        net_U = torch.cat([(o[2].double() - o[1].double()).sum(1) for o in (outcomes[j.layer.name] for j in asked)])
        off.append(torch.cat([near.sums.loss.sum(1) for near in found]) - exact_U)
        errors.append(torch.cat([near.variance.sqrt() for near in found]))
        top1.append(torch.cat([(near.sums.gained - near.sums.lost).sum(1) for near in found]) - net_U)
    off_SU, error_SU, top1_SU = torch.stack(off), torch.stack(errors), torch.stack(top1)
    sampled_U = torch.cat([outcomes[job.layer.name][0].std(1) for job in asked]) * n**0.5
    # In the last layer the estimate is exact but for rounding, and there is nothing to cover.
    judged_U = error_SU.mean(0) > 1e-3 * sampled_U
    assert 20 < judged_U.sum() < len(judged_U)
    assert (off_SU.abs() <= 1e-2 * sampled_U)[:, ~judged_U].all()
    covered_U = (off_SU.abs() <= 1.96 * error_SU)[:, judged_U].double().mean(0)
    flips_U = torch.cat([(o[1] != o[2]).double().mean(1) for o in (outcomes[job.layer.name] for job in asked)])
    deciles = [float(covered_U[part].mean()) for part in flips_U[judged_U].argsort().tensor_split(10)]
    print(f"{value}: covered {covered_U.mean():.4f}, by decile of flip rate {', '.join(f'{d:.3f}' for d in deciles)}")
    slack = 0.0 if repetitions == 200 else 0.04
    assert 0.93 - slack < covered_U.mean() < 0.97 + slack
    assert min(deciles) >= 0.90 - slack * 2
    for error_of_mean in (
        off_SU.mean(0) / (off_SU.std(0) / repetitions**0.5).clamp(min=1e-6 * n),
        top1_SU.mean(0) / (top1_SU.std(0) / repetitions**0.5).clamp(min=1e-3),
    ):
        assert error_of_mean.square().mean().sqrt() < 1.5
