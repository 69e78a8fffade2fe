"""That each intervention does what its README says, against loops and hooks written out here."""

import copy

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import given, measured, small_study, train, weights
from test_interventions import LAYERS, make_state, slow_csi
from torch.nn import functional

from vestige.errors import StoreError
from vestige.runs.store import RunFolder, read_tensors
from vestige.training.bench import prepare
from vestige.training.events import Event, Intervention
from vestige.training.history import Meter
from vestige.training.interventions import Given, build
from vestige.training.interventions.choosing import from_ranking
from vestige.training.interventions.dose import Dose, is_due
from vestige.training.interventions.offsets import Openings, fit
from vestige.training.interventions.penalty import partition
from vestige.training.loop import Parent, _step

DEVICE = torch.device("cpu")


class Looking(Intervention):
    """Keeps the gradient of the step."""

    def __init__(self):
        super().__init__("looking", (0, 99))
        self.gradients = []

    def on(self, event, state):
        if event is Event.BACKWARD_END:
            self.gradients.append(flat(p.grad for p in state.model.parameters()))


def flat(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def stepped(intervention, steps=3):
    """Gradients of the first steps with an intervention, and those of the cross-entropy at the same weights."""
    study = small_study([intervention])
    bench = prepare(study, "changed", 0, DEVICE)
    looking, plain, models = Looking(), [], []
    bench.interventions = (*bench.interventions, looking)
    for step, batch in enumerate(bench.loader.batches(0, steps)):
        model = copy.deepcopy(bench.state.model)
        models.append(copy.deepcopy(model))
        loss = functional.cross_entropy(model(batch.inputs.to(memory_format=bench.layout)), batch.labels)
        plain.append(flat(torch.autograd.grad(loss, list(model.parameters()))))
        _step(bench, step, batch, Meter(10))
    return bench, looking.gradients, plain, models


def csi_penalty_gradient(model, batch):
    """Gradient of the mean CSI of the first two stages, through forward hooks, class means by loops."""
    seen = []
    hooks = [
        getattr(model, f"layer{s}").register_forward_hook(lambda _m, _i, out: seen.append(out.mean((2, 3))))
        for s in (1, 2)
    ]
    model(batch.inputs.to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    total = 0.0
    for pooled in seen:
        means = torch.stack([pooled[batch.labels == c].mean(0) for c in sorted(set(batch.labels.tolist()))])
        best = means.max(0).values
        rest = (means.sum(0) - best) / (len(means) - 1)
        total = total + ((best - rest) / (best + rest + 1e-6)).mean() / 2
    gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return flat(torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True))


@pytest.mark.parametrize(("alpha", "share"), [(-20.0, 0.5), (7.0, 0.1)])
def test_a_matched_penalty_has_its_share_of_the_gradient(alpha, share):
    bench, gradients, plain, models = stepped(
        {"kind": "selectivity", "dose": "matched", "alpha": alpha, "share": share}
    )
    for step, (ours, cross_entropy, model) in enumerate(zip(gradients, plain, models, strict=True)):
        added = ours - cross_entropy
        assert added.norm() / cross_entropy.norm() == pytest.approx(share, rel=0.01)
        along = csi_penalty_gradient(model, bench.loader.batch(step))
        assert float(added @ along / added.norm() / along.norm()) == pytest.approx(-np.sign(alpha), abs=1e-3)


def test_a_penalty_by_alpha_is_not_rescaled():
    bench, gradients, plain, models = stepped({"kind": "selectivity", "alpha": -20.0})
    for step, (ours, cross_entropy, model) in enumerate(zip(gradients, plain, models, strict=True)):
        expected = cross_entropy + 20.0 * csi_penalty_gradient(model, bench.loader.batch(step))
        assert (ours - expected).norm() / expected.norm() < 1e-4


def test_noise_is_of_its_norm_and_of_no_direction():
    _, gradients, plain, _ = stepped({"kind": "noise", "share": 0.5})
    noise = [ours - cross_entropy for ours, cross_entropy in zip(gradients, plain, strict=True)]
    for one, cross_entropy in zip(noise, plain, strict=True):
        assert one.norm() / cross_entropy.norm() == pytest.approx(0.5, rel=0.01)
        assert abs(float(one @ cross_entropy / one.norm() / cross_entropy.norm())) < 0.06
    assert abs(float(noise[0] @ noise[1] / noise[0].norm() / noise[1].norm())) < 0.06
    again = stepped({"kind": "noise", "share": 0.5})[1]
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_the_dose_is_the_sum_of_rates_times_norms(tmp_path):
    _, gradients, plain, _ = stepped({"kind": "noise", "share": 0.5}, steps=4)
    expected = sum(0.05 * float((a - b).norm()) for a, b in zip(gradients, plain, strict=True))
    run = train(small_study([{"kind": "noise", "share": 0.5}]), tmp_path, "changed")
    doses = pl.read_parquet(run.history).filter(split="train")
    assert doses.filter(step=4)["noise.dose"].item() == pytest.approx(expected, rel=1e-3)
    assert doses["noise.dose"].is_sorted()


def test_a_dose_that_is_looked_at_now_and_then():
    """A norm that falls as 1 / (1 + step): the sum is known, and what is logged lies within 3% of it."""
    dose, steps = Dose(), 400
    looks = 0
    for step in range(steps):
        due = is_due(step)
        looks += due
        dose.add(0.1, torch.tensor(1 / (1 + step / 20)) if due else None)
    assert looks < 22
    assert float(dose.total) == pytest.approx(0.1 * sum(1 / (1 + step / 20) for step in range(steps)), rel=0.03)
    again = Dose()
    again.restore({"dose": dose.keep()})
    assert float(again.total) == float(dose.total)
    lost = Dose()
    lost.restore({})
    lost.add(0.1, torch.tensor(1.0))
    assert np.isnan(float(lost.total)), "what was not kept is not known"


def test_running_means_are_those_of_a_loop():
    (penalty,) = build([config({"kind": "selectivity", "estimator": "running", "momentum": 0.8, "alpha": -3})], LAYERS)
    means = {}
    for step, labels in enumerate([[0, 0, 1, 1, 2, 0], [2, 2, 2, 2], [1, 3, 3, 2, 1]]):
        state = make_state(labels, step=step, dtype=torch.float64)
        state.activations = {n: (a.detach() * (1 + step)).requires_grad_() for n, a in state.activations.items()}
        total = 0.0
        for layer in LAYERS[:-1]:
            pooled = state.activations[layer.node].mean((2, 3))
            for u in range(layer.units):
                now = {}
                for c in range(4):
                    mine = [v for v, label in zip(pooled[:, u], labels, strict=True) if label == c]
                    before = means.get((layer.node, u, c))
                    if mine:
                        mean = sum(mine) / len(mine)
                        now[c] = mean if before is None else 0.8 * before + 0.2 * mean
                    elif before is not None:
                        now[c] = before
                means |= {(layer.node, u, c): value.detach() for c, value in now.items()}
                best = max(now.values(), key=lambda value: value.detach().item())
                rest = (sum(now.values()) - best) / (len(now) - 1)
                index = (best - rest) / (best + rest + 1e-6)
                stage = sum(other.units for other in LAYERS[:-1] if other.stage == layer.stage)
                total = total + 3 * index / stage / 2
        value = penalty.penalty(state)
        assert value.item() == pytest.approx(total.item(), rel=1e-9), step
        maps = [state.activations[layer.node] for layer in LAYERS[:-1]]
        for ours, theirs in zip(torch.autograd.grad(value, maps), torch.autograd.grad(total, maps), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-13)


def test_running_means_learn_from_batches_of_one_class_and_not_from_what_is_not_finite():
    """Classes 0, then 1, then 0 again; an overflow between them changes nothing, and goes into no state."""
    (penalty,) = build([config({"kind": "selectivity", "estimator": "running", "momentum": 0.8, "alpha": -1})], LAYERS)

    def value(label, factor):
        state = make_state([label] * 3)
        state.activations = {node: maps.detach() * factor for node, maps in state.activations.items()}
        found = penalty.penalty(state)
        return None if found is None else float(found)

    assert value(0, float("inf")) is None
    assert penalty.keep()["class_means"].isnan().all()
    assert value(0, 1.0) is None
    assert np.isnan(value(1, float("inf")))
    index = [value(1, 2.0), value(0, 3.0)]
    assert penalty.keep()["class_means"][:2].isfinite().all()
    state, by_hand = make_state([0, 0, 0]), [0.0, 0.0]
    for layer in LAYERS[:-1]:
        units = sum(other.units for other in LAYERS[:-1] if other.stage == layer.stage)
        for mean in state.activations[layer.node].detach().mean((0, 2, 3)).tolist():
            by_hand[0] += (2 * mean - mean) / (2 * mean + mean + 1e-6) / units / 2
            again = 0.8 * mean + 0.2 * 3 * mean  # class 0, first the mean and now three times that
            by_hand[1] += (2 * mean - again) / (2 * mean + again + 1e-6) / units / 2
    assert index == pytest.approx(by_hand, rel=1e-9)
    damaged = penalty.keep()
    damaged["class_means"][0, 0] = float("inf")
    penalty.restore(damaged)
    assert value(0, 5.0) == pytest.approx(_csi_of_two(state, 2.0, 5.0)), "class 0 is seen for the first time"


def _csi_of_two(state, one, other):
    """Mean over stages of CSI where the means of two classes are so many times those of a state."""
    by_stage = {}
    for layer in LAYERS[:-1]:
        means = state.activations[layer.node].detach().mean((0, 2, 3)) * torch.tensor([[one], [other]])
        high, low = means.max(0).values, means.min(0).values
        by_stage.setdefault(layer.stage, []).append((high - low) / (high + low + 1e-6))
    return sum(float(torch.cat(indices).mean()) for indices in by_stage.values()) / len(by_stage)


def config(settings):
    return small_study([settings]).conditions["changed"].interventions[0]


def test_sums_are_those_of_the_released_procedure():
    """Activations of a batch summed by class, absent classes 0; by hand for one neuron of three images."""
    (penalty,) = build([config({"kind": "selectivity", "estimator": "sum", "alpha": -1})], LAYERS[:2] + LAYERS[3:])
    labels = [0, 0, 1]
    state = make_state(labels)
    for node, maps in state.activations.items():
        state.activations[node] = torch.zeros_like(maps)
        state.activations[node][:, 0] = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[:, None, None]
    # Class sums 3, 4, 0, 0: the highest is 4 and the mean of the others 1. Class means would be 1.5 and 4.
    one = (4 - 1) / (4 + 1 + 1e-6)
    units = sum(layer.units for layer in LAYERS[:2])
    assert penalty.penalty(state).item() == pytest.approx(2 * one / units, rel=1e-12)
    assert slow_csi([torch.tensor(v, dtype=torch.float64) for v in (1.0, 2.0, 4.0)], labels, "sum").item() == (
        pytest.approx(one, rel=1e-12)
    )


def test_a_partition_is_a_fixed_relabelling_of_the_same_sizes(tmp_path):
    labels = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    drawn = partition(labels, seed=3)
    assert np.bincount(drawn).tolist() == [10, 20, 30, 40, 50]
    assert 0.1 < (drawn == labels).mean() < 0.5
    assert (partition(labels, seed=3) == drawn).all()
    assert (partition(labels, seed=4) != drawn).any()
    bench = prepare(small_study([{"kind": "eta2", "labels": "partition"}]), "changed", 0, DEVICE)
    seen = {}
    for step, batch in enumerate(bench.loader.batches(0, 8)):
        _step(bench, step, batch, Meter(10))
        for index, label in zip(
            batch.indices.tolist(), bench.interventions[0]._labels(bench.state).tolist(), strict=True
        ):
            assert seen.setdefault(index, label) == label
    assert len(seen) == 40


def test_another_learning_rate_is_that_of_another_recipe(tmp_path):
    run = train(small_study([{"kind": "lr", "factor": 0.3}]), tmp_path / "factor", "changed")
    other = train(small_study(recipe={"lr": 0.05 * 0.3}), tmp_path / "recipe")
    assert weights(run, 12) == weights(other, 12)
    assert set(pl.read_parquet(run.history).filter(pl.col("step") > 0)["lr"]) == {0.05 * 0.3}


def test_a_clamp_is_a_mask_behind_the_layer(tmp_path):
    table = tmp_path / "neurons.csv"
    table.write_text("layer,neuron\nlayer1.0,2\nlayer3.0,0\nlayer3.0,5\n")
    study = small_study([{"kind": "clamp", "table": str(table)}])
    bench = prepare(study, "changed", 0, DEVICE)
    model = copy.deepcopy(bench.state.model)
    for path, neurons in (("layer1.0", [2]), ("layer3.0", [0, 5])):

        def mask(_module, _inputs, output, neurons=neurons):
            keep = torch.ones(output.shape[1])
            keep[neurons] = 0
            return output * keep[:, None, None]

        model.get_submodule(path).register_forward_hook(mask)
    batch = bench.loader.batch(0)
    loss = functional.cross_entropy(model(batch.inputs.to(memory_format=bench.layout)), batch.labels)
    expected = flat(torch.autograd.grad(loss, list(model.parameters())))
    looking = Looking()
    bench.interventions = (*bench.interventions, looking)
    _step(bench, 0, batch, Meter(10))
    assert (looking.gradients[0] - expected).norm() < 1e-6 * expected.norm()
    assert bench.state.loss.item() == pytest.approx(loss.item())
    plain = stepped({"kind": "noise"}, steps=1)[2][0]
    dose = bench.interventions[0].log()["dose"]
    assert float(dose) == pytest.approx(0.05 * float((expected - plain).norm()), rel=1e-3)
    for name, buffer in model.named_buffers():
        assert torch.allclose(buffer, bench.state.model.get_buffer(name)), "looking at the dose moved the statistics"


def test_clamped_neurons_are_those_the_table_ranks_first():
    rows = [("layer1.0", u, c) for u, c in enumerate([0.1, float("nan"), 0.9, 0.4])]
    table = pl.DataFrame(rows, schema=["layer", "neuron", "csi"], orient="row")

    def chosen(**settings):
        layer = LAYERS[0].__class__("layer1.0", "layer1", "n", 4, 1, "")
        return from_ranking("a test", config({"kind": "clamp", **settings}), table, [layer])["layer1.0"]

    assert chosen(fraction=0.5) == (2, 3)
    assert chosen(fraction=0.01) == (2,)
    assert chosen(fraction=0.5, order="asc") == (0, 3)
    assert len(chosen(fraction=0.75, order="random")) == 3


def test_rewound_layers_have_the_earlier_weights(tmp_path):
    """Together with a learning rate of 0, what is rewound stays as it was at step 2, and the rest as at step 8."""
    window = {"start": 8}
    rewound = {"kind": "rewind", "to": 2, "modules": ["layer2", "fc"], "window": window}
    held = {"kind": "lr", "factor": 0, "window": window}
    run = train(small_study([rewound, held]), tmp_path, "changed")
    early, late, end = (read_tensors(run.checkpoint(step))[0] for step in (2, 8, 12))
    parameters = [name for name in end if "running" not in name and "num_batches" not in name]
    for name in parameters:
        source = early if name.startswith(("layer2.", "fc.")) else late
        assert torch.equal(end[name], source[name]), name
    assert any(not torch.equal(early[name], late[name]) for name in parameters if name.startswith("layer2."))
    moved = sum(
        float((late[n] - early[n]).double().square().sum()) for n in parameters if n.startswith(("layer2.", "fc."))
    )
    history = pl.read_parquet(run.history).filter(step=12, split="train")
    assert history["rewind.dose"].item() == pytest.approx(moved**0.5, rel=1e-5)


@pytest.mark.parametrize(("of", "begun"), [("baseline", 0), ("run", 8), ("run", 0)])
def test_a_checkpoint_that_is_not_what_was_written_is_not_gone_back_to(of, begun, tmp_path, monkeypatch):
    """Of the baseline, of the run it branches from, its own: by the hash, and before training where it is there."""
    window = {"start": 8}
    study = small_study([{"kind": "rewind", "to": 2, "of": of, "modules": ["layer2"], "window": window}])
    base = train(small_study(), tmp_path / "baseline", onsets=(8,))
    of_own = of == "run" and not begun
    damaged = RunFolder(tmp_path / "changed") if of_own else base
    seen = []

    def start(**options):
        parent = Parent(base, "baseline", 0, 8) if begun else None
        options = {"parent": parent, "given": Given(baseline=base), **options}
        return train(study, tmp_path / "changed", "changed", progress=lambda done, _: seen.append(done), **options)

    def swap():
        damaged.checkpoint(2).write_bytes(damaged.checkpoint(4).read_bytes())

    if of_own:
        monkeypatch.setattr("vestige.training.loop._look", lambda bench, *_: bench.state.step == 7 and swap())
        with pytest.raises(StoreError) as error:
            start()
    else:
        swap()
        with pytest.raises(StoreError) as error:
            start()
        assert seen == [], "a step was taken"
        damaged.checkpoint(2).unlink()
        with pytest.raises(StoreError, match=r"step-00000002.safetensors: it is damaged \(it is gone\)"):
            start()
    assert str(damaged.checkpoint(2)) in str(error.value)
    assert "it is damaged (its hash is not the one that was recorded)" in str(error.value)


def test_openings_are_those_of_values_shifted_one_by_one():
    generator = torch.Generator().manual_seed(0)
    values, labels = (
        torch.randn(12, 3, 5, generator=generator) * torch.tensor([1.0, 3.0, 0.2])[:, None],
        torch.arange(12) % 4,
    )
    batches = [(values[:5], labels[:5]), (values[5:], labels[5:])]
    grid = torch.tensor([-0.7, 0.0, 1.3], dtype=torch.float64)
    found = Openings.of(lambda: batches, 4, grid)
    for g, offset in enumerate(grid):
        for u in range(3):
            x = values[:, u].double()
            shifted = (x + offset * x.std(correction=0)).relu()
            assert float(found.closed_GU[g, u]) == pytest.approx(float((shifted == 0).double().mean()))
            for c in range(4):
                assert float(found.means_GCU[g, c, u]) == pytest.approx(float(shifted[labels == c].mean()))


def test_the_sham_has_the_closed_gates_and_the_selectivity_of_its_target(tmp_path):
    """As the study's own measurement sees them at the window's end, to 5%; and nothing but biases was set."""
    data = {"limit": 200, "limit_test": 300}
    target = small_study([{"kind": "selectivity", "window": {"stop": 8}}], data=data, recipe={"batch_size": 50})
    table = measured(target, train(target, tmp_path / "target", "changed"), 8)
    sham = small_study([{"kind": "offset-sham", "window": {"stop": 8}}], data=data, recipe={"batch_size": 50})
    plain = train(sham, tmp_path / "plain", "baseline")
    run = train(sham, tmp_path / "sham", "changed", given=type(given())(tables={"offset-sham": table}))

    def means(table):
        stages = table.filter(pl.col("layer").is_in(["layer1.0", "layer2.0"]))
        return stages.group_by("layer").agg(pl.col("closed", "csi").mean()).select("closed", "csi").mean().row(0)

    aim, found, before = means(table), means(measured(sham, run, 8)), means(measured(sham, plain, 8))
    assert found == pytest.approx(aim, rel=0.05)
    assert before != pytest.approx(aim, rel=0.2), "the target is no other than the baseline"
    old, new = read_tensors(plain.checkpoint(8))[0], read_tensors(run.checkpoint(8))[0]
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"layer1.0.bn2.bias", "layer2.0.bn2.bias"}


@pytest.mark.parametrize(("closed", "index"), [(0.45, 0.15), (0.2, 0.05), (0.25, 0.01), (0.125, 0.003), (0.6, 0.3)])
def test_offsets_reach_targets_far_from_where_they_start(closed, index):
    """From 0.5 closed and a CSI of 0.24; the last but one needs neurons shut and others wide open."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 10
    drive = 0.6 * torch.randn(10, 16, generator=generator)
    values = torch.randn(200, 16, 9, generator=generator) + drive[labels][..., None]
    offsets = fit(Openings.of(lambda: [(values, labels)], 10), closed, index)
    opened = (values.double() + offsets[:, None]).relu()
    means = torch.stack([opened.mean(2)[labels == c].mean(0) for c in range(10)])
    best = means.max(0).values
    rest = (means.sum(0) - best) / 9
    assert float((opened == 0).double().mean()) == pytest.approx(closed, rel=0.02)
    assert float(((best - rest) / (best + rest + 1e-6)).mean()) == pytest.approx(index, rel=0.02)
