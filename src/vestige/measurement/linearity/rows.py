"""How the rows of the table "linearity" are named."""

LOGITS, INPUT, ALL = "logits", "input", "all"
"""The layer of a measure of the network's output, of its input, of the network as a whole."""
Row = tuple[str, str, str]
"""measure, layer, other."""
