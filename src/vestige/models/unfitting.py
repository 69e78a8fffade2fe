"""Why weights do not fit a model: what is missing, unexpected or of another shape, and the likely cause."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vestige.errors import ModelError

_SHOWN = 4
_QUANTISED = ("_packed_params", "zero_point", "qweight", "qzeros", "absmax", "quant_map", "quant_state", ".SCB")
_ADAPTERS = ("lora_", "hada_", "adapter")
_REPARAMETRISED = ("weight_g", "weight_v", "weight_orig", "weight_mask", "parametrizations.")
_POSITIONS = ("pos_embed", "pos_embedding", "relative_position", "attn_mask")


@dataclass(frozen=True)
class _Misfit:
    wanted: Mapping[str, Tensor]
    given: Mapping[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    """Of another shape."""
    mistyped: list[str]
    """Whole numbers where the model has fractions."""

    @classmethod
    def of(cls, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> "_Misfit":
        both = [name for name in wanted if name in given]
        return cls(
            wanted,
            given,
            [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")],
            [name for name in given if name not in wanted],
            [name for name in both if wanted[name].shape != given[name].shape],
            [name for name in both if wanted[name].is_floating_point() and not given[name].is_floating_point()],
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen or self.mistyped)


def unfitting(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], kind: str, source: str) -> ModelError | None:
    """The error for weights that do not fit.

    Args:
      wanted: the model's own tensors by name.
      given: those to be loaded, by the names that fit best.
      kind: of the model, for the message.
      source: where they come from, for the message.

    Returns:
      None where they fit; counts of batches may be missing.
    """
    misfit = _Misfit.of(wanted, given)
    if not misfit:
        return None
    shapes = [f"{name} {_shape(given[name])} for {_shape(wanted[name])}" for name in misfit.misshapen]
    types = [f"{name} {str(given[name].dtype).removeprefix('torch.')}" for name in misfit.mistyped]
    lists = (
        ("missing", misfit.missing),
        ("unexpected", misfit.unexpected),
        ("of another shape", shapes),
        ("of whole numbers", types),
    )
    return ModelError(
        f"loading weights from {source}",
        found=f"they do not fit the {kind}: "
        + "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in lists if names),
        remedy=_cause(misfit),
    )


def fitting_classes(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], classes: int) -> int | None:
    """The number of classes that `given` is for, where that is all in which it differs; else None."""
    misfit = _Misfit.of(wanted, given)
    if misfit.missing or misfit.unexpected or misfit.mistyped:
        return None
    if not misfit.misshapen:
        return classes
    widths = {_width_of_head(wanted[name], given[name], classes) for name in misfit.misshapen}
    return widths.pop() if len(widths) == 1 else None


def _width_of_head(wanted: Tensor, given: Tensor, classes: int) -> int | None:
    """Rows of `given` where it is `wanted` but for its `classes` rows."""
    if wanted.ndim and given.ndim == wanted.ndim and len(wanted) == classes and wanted.shape[1:] == given.shape[1:]:
        return len(given)
    return None


def _cause(misfit: _Misfit) -> str:
    names = [*misfit.unexpected, *misfit.mistyped]
    if misfit.mistyped or _any(names, _QUANTISED):
        return "They are quantised: give those from before quantisation"
    if _any(names, _ADAPTERS):
        return "They are adapters (LoRA) or hold some: merge them into the model where it was made, and save that"
    if _any(names, _REPARAMETRISED):
        return "Their layers were pruned or re-parametrised (weight norm): undo that where they were made, then save"
    return _cause_by_head(misfit) or _cause_by_input(misfit) or _cause_by_names(misfit)


def _cause_by_head(misfit: _Misfit) -> str:
    if misfit.unexpected or not misfit.misshapen:
        return ""
    last = list(misfit.wanted)[-1].rpartition(".")[0]
    in_head = [name for name in (*misfit.misshapen, *misfit.missing) if name.rpartition(".")[0] == last]
    if len(in_head) < len(misfit.misshapen) + len(misfit.missing):
        return ""
    name = misfit.misshapen[0]
    return (
        f"They were trained for {misfit.given[name].shape[0]} classes, the model has {misfit.wanted[name].shape[0]}: "
        "use the data they were trained on"
    )


def _cause_by_input(misfit: _Misfit) -> str:
    if misfit.missing or misfit.unexpected or not misfit.misshapen:
        return ""
    first = next((name for name, tensor in misfit.wanted.items() if tensor.ndim == 4), "")
    if misfit.misshapen == [first]:
        a, b = misfit.given[first].shape, misfit.wanted[first].shape
        if a[0] == b[0] and a[2:] == b[2:]:
            return f"They take inputs of {a[1]} channels, the model of {b[1]}: set data.channels"
    if all(any(part in name for part in _POSITIONS) for name in misfit.misshapen):
        return "They take inputs of another size, in more or fewer patches: give that size"
    return ""


def _cause_by_names(misfit: _Misfit) -> str:
    if misfit.missing and _shapes(misfit.wanted, misfit.missing) == _shapes(misfit.given, misfit.unexpected):
        return (
            "Their shapes are right and their names are not: they are of the same architecture in another library, "
            "so check the model's name (torchvision: or timm:)"
        )
    if len(misfit.missing) > len(misfit.wanted) // 2:
        return "They are of another architecture, or named otherwise: check the model's name"
    if misfit.missing and not misfit.unexpected and not misfit.misshapen:
        return "They are incomplete, or of a smaller model: check the model's name"
    return "They are of another variant of the model (depth, width, block): check the model's name and settings"


def _shapes(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tensors[name].shape) for name in names if not name.endswith("num_batches_tracked"))


def _any(names: Sequence[str], parts: Sequence[str]) -> bool:
    return any(part in name for name in names for part in parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
