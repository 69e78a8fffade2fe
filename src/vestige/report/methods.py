"""The paragraph on methods of a measured model, ready for a paper, with nothing in it that was not done."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from vestige.report.style import count

CSI = (
    "The class selectivity index is (μ_max − μ_rest) / (μ_max + μ_rest + 10⁻⁶), where μ_max is the highest "
    "class-conditional mean activation and μ_rest the mean of the others (Morcos et al. 2018)."
)
CV = (
    "Cross-validated CSI chooses the class on one half of the images of each class and evaluates it on the other, both "
    "ways, and averages; its expectation without signal is 0. η² is the between-class share of the total sum of "
    "squares."
)
SELECTIVE = (
    "A neuron is called selective where its CSI exceeds what permuted labels give, with p-values pooled over the "
    "neurons of a layer and a false discovery rate of 5% (Benjamini and Hochberg 1995)"
)


def methods(record: Mapping[str, Any], tables: Sequence[pl.DataFrame]) -> str:
    """The paragraph.

    Args:
      record: the contents of `measured.json`.
      tables: of each of its checkpoints.
    """
    settings, data, made, table = record["settings"], record["data"], record["made"]["versions"], tables[-1]
    results = [result for entry in record["checkpoints"] for result in entry["results"]]
    neurons, layers = table.select("layer", "neuron").unique().height, table["layer"].n_unique()
    sets = count(len(tables), "set")
    ways: dict[str, None] = dict.fromkeys(result["batch_norm"] for result in results)
    protocols: dict[str, None] = dict.fromkeys(result["protocol"] for result in results)
    sentences = [
        f"Class selectivity of {count(neurons, 'neuron')} in {count(layers, 'layer')} of {record['model']['name']} "
        f"({sets} of weights) was measured with vestige {made['vestige']} (PyTorch {made['torch']}, "
        f"{settings['dtype']}) on {count(results[-1]['n'], 'image')} of "
        f"{count(data['classes'], 'class', 'classes')} from {data['name']} (inputs: {data['preprocess']}).",
        "A neuron is one channel of a layer's output, averaged over positions"
        + (", of which the absolute value was taken where it can be negative." if _absolute(table) else "."),
        f"Batch-norm statistics: {'; '.join(ways)}.",
        *map(_index, protocols),
        CV,
        _null(table, record, results),
    ]
    return " ".join(sentences)


def _index(protocol: str) -> str:
    if protocol == "corrected":
        return CSI
    return (
        "Under the faithful protocol CSI is taken of class sums instead of class means, with the batch-norm statistics "
        "that were stored, as the released code of Ranadive et al. (2023) does."
    )


def _null(table: pl.DataFrame, record: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    if not table["csi_null_mean"].is_finite().any():
        return "No permutations of the labels were made, so no neuron was tested."
    how = count(results[-1]["permutations"], "permutation")
    at_start = any(entry["step"] == 0 for entry in record["checkpoints"]) and len(record["checkpoints"]) > 1
    more = " and its cross-validated CSI the 95% quantile of its layer at step 0" if at_start else ""
    return f"{SELECTIVE}{more}; the null distribution is of {how} of the labels, shared by all neurons."


def _absolute(table: pl.DataFrame) -> bool:
    return "rectify" in table.columns and bool((table["rectify"] == "abs").any())
