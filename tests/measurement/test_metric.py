"""The metric gives what the formulas give, batch after batch and merged, and what vestige.measure gives."""

import pytest
import torch
from torchmetrics import MetricCollection

import vestige
from vestige.errors import DataError
from vestige.formulas import selectivity as formulas

C = 3


@pytest.fixture(name="batches")
def _batches():
    generator = torch.Generator().manual_seed(0)
    return [
        ({"a": torch.rand(n, 7, 2, 2, generator=generator), "b": torch.rand(n, 4, generator=generator).round()}, y)
        for n in (30, 1, 16)
        for y in [torch.randint(0, C, (n,), generator=generator)]
    ]


def metric_of(batches, **settings):
    metric = vestige.ClassSelectivity(num_classes=C, **settings)
    for activations, labels in batches:
        metric.update(activations, labels)
    return metric


def test_agrees_with_the_formulas_on_all_images_at_once(batches):
    found = metric_of(batches).compute()
    labels_N = torch.cat([labels for _, labels in batches])
    expected = {}
    for name in ("a", "b"):
        a_NU = torch.cat([activations[name].double().flatten(2 if name == "a" else 1) for activations, _ in batches])
        a_NU = a_NU.mean(2) if name == "a" else a_NU
        live_U = (a_NU != 0).any(0)
        expected[f"csi/{name}"] = formulas.csi(formulas.class_means(a_NU, labels_N, C))[live_U].mean()
        expected[f"eta2/{name}"] = formulas.eta2(a_NU, labels_N, C)[live_U].mean()
    for key, value in expected.items():
        assert found[key].item() == pytest.approx(value.item(), abs=1e-6)
    assert found["csi"].item() == pytest.approx((expected["csi/a"] + expected["csi/b"]).item() / 2, abs=1e-6)


def test_halves_are_alternate_images_of_a_class(batches):
    whole = metric_of(batches).compute()["csi_cv/b"]
    a_NU, labels = (torch.cat(parts) for parts in zip(*((a["b"].double(), y) for a, y in batches), strict=True))
    half = torch.zeros_like(labels)
    for c in range(C):
        half[(labels == c).nonzero()[1::2, 0]] = 1
    means = [formulas.class_means(a_NU[half == h], labels[half == h], C) for h in (0, 1)]
    assert whole.item() == pytest.approx(formulas.cross_validated_csi(*means).mean().item(), abs=1e-9)


def test_dead_neurons_and_too_few_classes():
    metric = vestige.ClassSelectivity(num_classes=C)
    metric.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1]))
    found = metric.compute()
    assert found["csi"].item() == pytest.approx(0.5, abs=1e-6)  # (3 - 1) / (3 + 1), the dead neuron left out
    assert found["csi_cv"].isnan()
    metric.reset()
    metric.update(torch.ones(2, 2), torch.tensor([1, 1]))
    assert metric.compute()["csi"].isnan()


def test_used_as_others_are(batches):
    metrics = MetricCollection({"selectivity": vestige.ClassSelectivity(num_classes=C)})
    for activations, labels in batches:
        metrics(activations["a"], labels)
    expected = metric_of([(activations["a"], labels) for activations, labels in batches]).compute()
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )


def test_features_last_and_signed_activations():
    tokens = torch.randn(8, 5, 6)
    labels = torch.arange(8) % C
    found = metric_of([(tokens, labels)], axis=-1, rectify=True).compute()
    expected = formulas.csi(formulas.class_means(tokens.double().mean(1).abs(), labels, C)).mean()
    assert found["csi"].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "labels", "message"),
    [
        (2, [0, 3], "updating ClassSelectivity: labels from 0 to 3 of 3 classes. Give class indices from 0 to 2."),
        (3, [0, 1], "updating ClassSelectivity: 3 activations and 2 labels. Give one label an image."),
    ],
)
def test_batches_that_make_no_sense(n, labels, message):
    with pytest.raises(DataError) as error:
        vestige.ClassSelectivity(num_classes=C).update(torch.rand(n, 4), torch.tensor(labels))
    assert str(error.value) == message


def test_metrics_that_add_up_other_numbers_are_not_merged(batches):
    signed = [
        ({"a": activations["a"] - 0.5 * (number > 0)}, labels) for number, (activations, labels) in enumerate(batches)
    ]
    metrics = MetricCollection({f"{r}": vestige.ClassSelectivity(num_classes=C, rectify=r) for r in (False, True)})
    for activations, labels in signed:  # the first batch looks the same to both
        metrics.update(activations, labels)
    alone = {r: metric_of(signed, rectify=r).compute()["csi"].item() for r in (False, True)}
    found = {r: metrics[str(r)].compute()["csi"].item() for r in (False, True)}
    assert found == pytest.approx(alone)
    assert alone[False] != pytest.approx(alone[True])


def test_labels_of_any_whole_dtype():
    a_TU = torch.rand(6, 4)
    labels = torch.arange(6) % C
    expected = metric_of([(a_TU, labels)]).compute()["csi"]
    assert metric_of([(a_TU, labels.int())]).compute()["csi"] == expected
