"""What each operation of a network is, whatever way it was written, and what a forward made of some inputs."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _LPPoolNd,
    _MaxPoolNd,
)
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

# For each activation function, by its class's or function's name without case and underscores: how it is
# called in words, and whether it can give negative values. Sigmoid, tanh and softmax are none.
ACTIVATIONS = {
    "relu": ("ReLU", False),
    "relu6": ("ReLU6", False),
    "softplus": ("Softplus", False),
    "leakyrelu": ("LeakyReLU", True),
    "prelu": ("PReLU", True),
    "rrelu": ("RReLU", True),
    "elu": ("ELU", True),
    "selu": ("SELU", True),
    "celu": ("CELU", True),
    "gelu": ("GELU", True),
    "gelutanh": ("GELU", True),
    "newgelu": ("GELU", True),
    "quickgelu": ("QuickGELU", True),
    "silu": ("SiLU", True),
    "swish": ("SiLU", True),
    "hardswish": ("Hardswish", True),
    "mish": ("Mish", True),
    "hardmish": ("HardMish", True),
    "hardtanh": ("Hardtanh", True),
}
_SIGMOIDS = ("sigmoid", "hardsigmoid")
_MODULE_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("conv", (_ConvNd,)),
    ("channel_norm", (_NormBase, nn.GroupNorm, nn.LocalResponseNorm, torchvision.ops.FrozenBatchNorm2d)),
    ("feature_norm", (nn.LayerNorm, nn.RMSNorm)),
    ("linear", (nn.Linear, nn.Bilinear)),
    ("pool", (_MaxPoolNd, _AvgPoolNd)),
    ("resize", (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _LPPoolNd, nn.Upsample)),
    ("identity", (nn.Identity, _DropoutNd, torchvision.ops.StochasticDepth)),
    ("reshape", (nn.Flatten, nn.Unflatten)),
)
_FUNCTION_KINDS = {
    "add": ("add", "iadd", "radd"),
    "elementwise": (
        *("sub", "isub", "rsub", "mul", "imul", "rmul", "multiply", "div", "truediv", "itruediv", "pow", "ipow"),
        *("neg", "abs", "square", "sqrt", "exp", "clamp", "clip", "clampmin", "tanh", "softmax", "where", "lerp"),
        *("maskedfill", "addcmul", "nantonum", "roll", "pad", "flip"),
    ),
    "identity": (
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "featuredropout", "contiguous", "clone"),
        *("to", "typeas", "returned", "float", "half", "bfloat16", "double", "detach", "identity", "stochasticdepth"),
    ),
    "linear": ("linear", "bilinear"),
    "conv": ("conv1d", "conv2d", "conv3d", "convtranspose1d", "convtranspose2d", "convtranspose3d", "deformconv2d"),
    "channel_norm": ("batchnorm", "instancenorm", "groupnorm", "fastgroupnorm", "localresponsenorm"),
    "feature_norm": ("layernorm", "fastlayernorm", "rmsnorm", "fastrmsnorm", "simplenorm", "fastsimplenorm"),
    "pool": ("maxpool1d", "maxpool2d", "maxpool3d", "avgpool1d", "avgpool2d", "avgpool3d"),
    "resize": (
        *("adaptiveavgpool1d", "adaptiveavgpool2d", "adaptivemaxpool1d", "adaptivemaxpool2d", "interpolate"),
        *("upsample", "pixelunshuffle", "pixelshuffle"),
    ),
    "permute": ("permute",),
    "transpose": ("transpose", "swapaxes", "swapdims"),
    "movedim": ("movedim", "moveaxis"),
    "reshape": ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshapeas", "viewas"),
    "pieces": ("cat", "concat", "concatenate", "chunk", "split", "tensorsplit", "splitwithsizes", "getitem", "narrow"),
}
_KIND_OF_FUNCTION = {name: kind for kind, names in _FUNCTION_KINDS.items() for name in names}


@dataclass(frozen=True)
class Operation:
    """One operation of a forward, as it ran.

    Attributes:
      name: of the node.
      kind: `"activation"`, `"sigmoid"`, `"add"`, `"linear"`, `"conv"`, ...; `""`: of no kind known here.
      label: an activation function in words, `"GELU"`.
      signed: whether an activation function can give negative values.
      sources: names of the operations whose values it takes.
      shape: of its value; of the first tensor in it.
      settings: its arguments, None standing for tensors.
      variable: number of the tensors it takes that depend on the network's inputs.
    """

    name: str
    kind: str
    label: str
    signed: bool
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    settings: tuple[Any, ...]
    variable: int

    @property
    def depends(self) -> bool:
        """Whether its value depends on the network's inputs."""
        return self.variable > 0


class Record:
    """What a forward did, operation after operation; values are known by their identity, and not kept.

    Args:
      module: what runs.
      inputs: of the forward.
    """

    def __init__(self, module: nn.Module, inputs: Any):
        self.operations: dict[str, Operation] = {}
        self.outputs: tuple[str, ...] = ()
        self._constants = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._maker: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in tensors(inputs):
            self._maker[tensor] = ""

    def add(self, name: str, target: Any, args: Any, kwargs: Mapping[str, Any], value: Any) -> None:
        """Note that `target`, a module or a function or the name of a method, made `value`."""
        taken, made = list(tensors((args, kwargs))), list(tensors(value))
        if not made:
            return
        makers = [self._maker.get(tensor) for tensor in taken]
        variable = sum(self._depends(tensor, maker) for tensor, maker in zip(taken, makers, strict=True))
        kind, label, signed = kind_of(target)
        settings = tree_map_only(Tensor, lambda _: None, (*args, *kwargs.values()))
        if kind == "feature_norm" and any(isinstance(s, tuple | list) and len(s) > 1 for s in settings):
            kind = "elementwise"  # over channels and positions at once
        sources = tuple(dict.fromkeys(maker for maker in makers if maker))
        shape = tuple(made[0].shape)
        self.operations[name] = Operation(name, kind, label, signed, sources, shape, settings, variable)
        for tensor in made:
            self._maker[tensor] = name

    def close(self, output: Any) -> None:
        """Note what the forward returned."""
        makers = (self._maker.get(tensor) for tensor in tensors(output))
        self.outputs = tuple(dict.fromkeys(maker for maker in makers if maker))

    def _depends(self, tensor: Tensor, maker: str | None) -> bool:
        if maker is None:  # unless a weight, made where nothing was seen
            return id(tensor) not in self._constants
        return maker == "" or self.operations[maker].depends


class Names:
    """Numbers what is called again: `"relu"`, `"relu_1"`, ..."""

    def __init__(self):
        self._given: dict[str, int] = {}

    def give(self, name: str) -> str:
        """A name that was not given before."""
        number = self._given.get(name, -1) + 1
        self._given[name] = number
        if not number:
            return name
        numbered = f"{name}_{number}"
        return self.give(name) if numbered in self._given else self._reserve(numbered)

    def _reserve(self, name: str) -> str:
        self._given[name] = 0
        return name


def function_name(function: Any) -> str:
    """What a function or method is called in paths: `"relu"`, `"add"`."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "") or type(function).__name__
    if name == "__get__":
        return "getattr"
    name = name.strip("_") if name.startswith("__") else name
    return re.sub(r"_\d+$", "", name)


def kind_of(target: Any) -> tuple[str, str, bool]:
    """The kind of a module, function or method; for an activation function also its name and whether it is signed."""
    if isinstance(target, nn.Module):
        if found := activation_class(target):
            return ("sigmoid", "", False) if found in _SIGMOIDS else ("activation", *ACTIVATIONS[found])
        if isinstance(target, nn.LayerNorm) and len(target.normalized_shape) > 1:
            return "elementwise", "", False
        return next((kind for kind, classes in _MODULE_KINDS if isinstance(target, classes)), ""), "", False
    name = function_name(target).lower().replace("_", "")
    if name in ACTIVATIONS:
        return ("activation", *ACTIVATIONS[name])
    return ("sigmoid" if name in _SIGMOIDS else _KIND_OF_FUNCTION.get(name, "")), "", False


def activation_class(module: nn.Module) -> str:
    """Which activation function (or sigmoid) a module is, by the name of its class or of one it derives from."""
    if next(module.children(), None) is not None:
        return ""
    for kind in type(module).__mro__:
        name = kind.__name__.lower().removesuffix("activation").removesuffix("me").replace("_", "")
        if name in ACTIVATIONS or name in _SIGMOIDS:
            return name
    return ""


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function, and no sigmoid."""
    return activation_class(module) in ACTIVATIONS


def hides_activation(module: nn.Module) -> bool:
    """Whether there is an activation function within a module."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return True  # as an attribute that may be a function
    return any(is_activation(part) or hides_activation(part) for part in module.children())


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, from first to last."""
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def call(function: Callable, inputs: Any) -> Any:
    """Call with inputs: a tuple or list are several arguments, a dict named ones."""
    if isinstance(inputs, Mapping):
        return function(**inputs)
    if isinstance(inputs, tuple | list):
        return function(*inputs)
    return function(inputs)


def own(inputs: Any) -> Any:
    """A copy of inputs, for a network that may work in place on what it is given."""
    return tree_map_only(Tensor, Tensor.clone, inputs)


def only_tensor(inputs: Any) -> Any:
    """The one argument of a traced network, out of a tuple or list of one."""
    return inputs[0] if isinstance(inputs, tuple | list) and len(inputs) == 1 else inputs


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
