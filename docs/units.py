"""The unit of every column of every table, for the reference: by the column's name, or by `table.column`."""

_BY_UNIT = {
    "name": "condition protocol dataset split stage layer value mode rectify order scope measure other",
    "number": "seed",
    "steps": "step",
    "epochs": "epoch",
    "images": "n class_n k",
    "index": "neuron class preferred_class second_class label draw rank input",
    "ratio": "csi csi_null_mean csi_null_q95 csi_excess csi_cv sparsity",
    "correlation": "reliability",
    "share of variance": "eta2 eta2_adj",
    "share": "closed fraction",
    "share of images": "precision_at_k top1 top5 top1_delta right_to_wrong wrong_to_right preferred_delta others_delta"
    " class_top1_delta",
    "probability": "p_value auroc",
    "difference of rates": "informedness",
    "yes or no": "selective dead",
    "activation": "mu_max mu_rest mean class_means activation",
    "nats": "loss loss_delta loss_delta_se approximation_se class_loss_delta",
    "bits": "mutual_information",
    "of the measure": "linearity.value anchor",
    "none": "lr",
}
UNITS = {column: unit for unit, columns in _BY_UNIT.items() for column in columns.split()}


def unit_of(kind: str, column: str) -> str:
    """The unit of a column of a kind of table.

    Raises:
      KeyError: nobody says it.
    """
    return UNITS[f"{kind}.{column}" if f"{kind}.{column}" in UNITS else column]
