"""What the browser shows of a neuron: columns, their names, and where they come from."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "class", "flag"]


@dataclass(frozen=True)
class Column:
    """A column of the browser.

    Attributes:
      id: in the page; of ablation `<column>:<value>`.
      title: in full.
      short: in the header of the table, and in a filter.
      kind: how it is shown.
      shown: whether the table shows it before anybody chose columns.
      said: what it is, in a few words.
    """

    id: str
    title: str
    short: str
    kind: Kind = "number"
    shown: bool = False
    said: str = ""


SELECTIVITY = (
    Column("csi", "Class selectivity index (CSI)", "csi", shown=True, said="biased upward by noise: see its null"),
    Column("csi_null_mean", "CSI of permuted labels, mean", "null", shown=True),
    Column("csi_null_q95", "CSI of permuted labels, 95% quantile", "null_q95"),
    Column("csi_cv", "Cross-validated CSI", "csi_cv", shown=True, said="0 on average without signal"),
    Column("eta2", "Variance explained by class (η²)", "eta2", shown=True),
    Column("eta2_adj", "η² adjusted for the number of classes", "eta2_adj"),
    Column("preferred_class", "Preferred class", "preferred", "class", shown=True, said="the highest class mean"),
    Column("second_class", "Second class", "second", "class"),
    Column("p_value", "p of CSI", "p", shown=True, said="against permuted labels, pooled over the layer"),
    Column("selective", "Selective", "selective", "flag", shown=True, said="significant, and above step 0"),
    Column("reliability", "Reliability of the class means", "reliability"),
    Column("sparsity", "Sparsity", "sparsity", shown=True, said="1 - (mean a)² / mean(a²)"),
    Column("closed", "Share of exact zeros", "closed", shown=True, said="over images and positions"),
    Column("mean", "Mean activation", "mean"),
    Column("mu_max", "Mean activation, preferred class", "mu_max"),
    Column("mu_rest", "Mean activation, other classes", "mu_rest"),
    Column("auroc", "AUROC of the preferred class", "auroc"),
    Column("informedness", "Informedness", "informedness"),
    Column("precision_at_k", "Precision at k", "precision_at_k"),
    Column("mutual_information", "Mutual information with the class (bits)", "mutual_information"),
    Column("dead", "Dead: never fires", "dead", "flag"),
)
_ABLATION = (
    Column("loss_delta", "Change of loss (nats)", "loss", shown=True),
    Column("loss_delta_se", "Standard error of the change of loss", "loss_se"),
    Column("top1_delta", "Change of accuracy", "accuracy"),
    Column("right_to_wrong", "Right to wrong", "broken", said="share of the images"),
    Column("wrong_to_right", "Wrong to right", "mended", said="share of the images"),
    Column("preferred_delta", "Change of accuracy, preferred class", "pref_acc", shown=True),
    Column("others_delta", "Change of accuracy, other classes", "others_acc"),
)
ABLATION_COLUMNS = tuple(column.id for column in _ABLATION)


def ablation_columns(value: str, *, first: bool) -> tuple[Column, ...]:
    """The columns of ablation by one value; only those of the first are shown at first."""
    return tuple(
        Column(
            f"{column.id}:{value}",
            f"{column.title}, ablated ({value})",
            f"{column.short}:{value}",
            column.kind,
            shown=column.shown and first,
            said=column.said,
        )
        for column in _ABLATION
    )
