"""Which axis of an activation counts its neurons: that of what made the value, else of what takes it."""

import math
from collections.abc import Mapping, Sequence

from vestige.models.operations import Operation

_ALONG = ("activation", "sigmoid", "identity", "elementwise", "add", "pieces")
_CHANNELS_FIRST = ("conv", "channel_norm", "pool", "resize")
_FEATURES_LAST = ("linear", "feature_norm")


class Axes:
    """Neuron axes in a recorded forward.

    Args:
      operations: by name, in the order they ran.
    """

    def __init__(self, operations: Mapping[str, Operation]):
        self._operations = operations
        self._takers: dict[str, list[Operation]] = {}
        for operation in operations.values():
            for source in operation.sources:
                self._takers.setdefault(source, []).append(operation)
        self._made: dict[str, int | None] = {}

    def of(self, name: str) -> int:
        """The neuron axis of an operation's value, counted from the front.

        A convolution or batch norm says the second axis, a linear layer or layer norm the last, looked for
        through elementwise operations, permutations and reshapes; else the last of three, else the second.
        """
        axis = self._making(name)
        if axis is None:
            axis = self._taking(name, set())
        shape = self._operations[name].shape
        if axis is None or not 0 < axis < len(shape):
            return 2 if len(shape) == 3 else 1
        return axis

    def _making(self, name: str) -> int | None:
        if name not in self._made:
            self._made[name] = None  # no way round a circle
            self._made[name] = self._made_by(self._operations[name])
        return self._made[name]

    def _made_by(self, operation: Operation) -> int | None:
        if (fixed := _fixed(operation.kind, len(operation.shape))) is not None:
            return fixed
        for source in operation.sources:
            before = self._operations[source].shape
            forth = moves(operation, before)
            if forth is not None and (axis := self._making(source)) is not None and forth[axis] is not None:
                return forth[axis]
        return None

    def _taking(self, name: str, seen: set[str]) -> int | None:
        shape = self._operations[name].shape
        for taker in self._takers.get(name, ()):
            if (fixed := _fixed(taker.kind, len(shape))) is not None:
                return fixed
            forth = moves(taker, shape)
            if forth is None or taker.name in seen:
                continue
            seen.add(taker.name)
            axis = self._taking(taker.name, seen)
            if axis is not None and axis in forth:
                return forth.index(axis)
        return None


def moves(operation: Operation, before: Sequence[int]) -> list[int | None] | None:
    """Where an operation takes each axis of a source of shape `before`; None: where it leaves them is not known."""
    after, kind = operation.shape, operation.kind
    same: list[int | None] = list(range(len(before)))
    if kind in _ALONG:
        return same if len(before) == len(after) and (kind == "pieces" or tuple(before) == tuple(after)) else None
    if kind == "reshape":
        return _reshaped(before, after)
    numbers = [s for s in _flat(operation.settings) if isinstance(s, int) and not isinstance(s, bool)]
    numbers = [n % len(before) for n in numbers]
    if kind == "permute" and sorted(numbers) == same:
        return [numbers.index(axis) for axis in range(len(before))]
    if kind == "transpose" and len(numbers) == 2:
        a, b = numbers
        return [b if axis == a else a if axis == b else axis for axis in same]
    if kind == "movedim" and len(numbers) == 2:
        order = [axis for axis in range(len(before)) if axis != numbers[0]]
        order.insert(numbers[1], numbers[0])
        return [order.index(axis) for axis in range(len(before))]
    return None


def _fixed(kind: str, ndim: int) -> int | None:
    if kind in _CHANNELS_FIRST:
        return 1
    return ndim - 1 if kind in _FEATURES_LAST else None


def _reshaped(before: Sequence[int], after: Sequence[int]) -> list[int | None]:
    """An axis is kept if it is as long as before, and what stands before it is as much as before."""
    places = {(math.prod(after[:i]), size): i for i, size in reversed(list(enumerate(after)))}
    return [places.get((math.prod(before[:i]), size)) for i, size in enumerate(before)]


def _flat(values):
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
