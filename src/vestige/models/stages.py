"""What layers are called, and the stages they belong to, from their paths."""

from collections.abc import Mapping, Sequence

from vestige.models.operations import Operation


def block_names(paths: Sequence[str], blocks: Sequence[str]) -> list[str]:
    """The block that each operation ends; its own path where it ends none, or not alone."""
    return [block if block and blocks.count(block) == 1 else path for path, block in zip(paths, blocks, strict=True)]


def block_stages(names: Sequence[str]) -> list[str]:
    """The shortest leading part of the paths that tells groups apart; the first part where none groups."""
    parts = [name.split(".") for name in names]
    for depth in range(1, max(map(len, parts))):
        groups = [".".join(p[:depth]) for p in parts]
        if 1 < len(set(groups)) < len(groups):
            return groups
    return [p[0] for p in parts]


def function_stages(
    paths: Sequence[str], nodes: Sequence[str], operations: Mapping[str, Operation], path_of: Mapping[str, str]
) -> list[str]:
    """Leading parts of the paths, the largest group divided further; numbered by the poolings between its members.

    Args:
      paths: of the layers.
      nodes: theirs, in the same order.
      operations: all, in the order they ran.
      path_of: paths by node name.
    """
    named = _groups([tuple(path.split(".")) for path in paths])
    passed = _pools_before(operations, path_of)
    flat = {
        group
        for group in set(named)
        if all(path.count(".") <= group.count(".") + 1 for path, g in zip(paths, named, strict=True) if g == group)
    }
    order = {name: place for place, name in enumerate(operations)}
    numbers = [sum(place < order[node] for place in passed.get(g, ())) for g, node in zip(named, nodes, strict=True)]
    parted = {g for g in flat if len({number for number, h in zip(numbers, named, strict=True) if h == g}) > 1}
    return [f"{g}.{number}" if g in parted else g for g, number in zip(named, numbers, strict=True)]


def stage_of(name: str, known: Sequence[str]) -> str:
    """The stage of a module: a known one that it lies in, else the first part of its path."""
    inside = [stage for stage in known if name == stage or name.startswith(f"{stage}.")]
    return max(inside, key=len, default=name.partition(".")[0])


def _groups(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """For each path the leading part that is its group: a group of more than half of them is divided, if it divides."""
    depth = [1] * len(parts)
    while True:
        heads = [p[:d] for p, d in zip(parts, depth, strict=True)]
        largest = max(heads, key=heads.count)
        members = [i for i, head in enumerate(heads) if head == largest]
        if 2 * len(members) <= len(parts) or not (deeper := _divided([parts[i] for i in members], len(largest))):
            return [".".join(head) for head in heads]
        for i in members:
            depth[i] = deeper


def _divided(parts: Sequence[tuple[str, ...]], depth: int) -> int:
    """The next depth at which paths fall into fewer groups than there are paths; 0: none."""
    for deeper in range(depth + 1, max(map(len, parts))):
        heads = {p[:deeper] for p in parts}
        if 1 < len(heads) < len(parts):
            return deeper
    return 0


def _pools_before(operations: Mapping[str, Operation], path_of: Mapping[str, str]) -> dict[str, list[int]]:
    """For each module, where in the order stand the poolings right in it that everything passes through."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(operations):
        if operations[name].kind == "pool" and _all_passes(operations, place):
            found.setdefault(path_of[name].rpartition(".")[0], []).append(place)
    return found


def _all_passes(operations: Mapping[str, Operation], place: int) -> bool:
    """Whether nothing that depends on the input goes past the operation at a place of the order."""
    order = list(operations)
    before = {name for name in order[:place] if operations[name].depends}
    return not any(before.intersection(operations[later].sources) for later in order[place + 1 :])
