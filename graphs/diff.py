"""What a step removed, added, changed, moved and kept: two snapshots in, one record out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from graphs.record import Diff, GraphSnapshot, NodeRecord


def diff(before: GraphSnapshot, after: GraphSnapshot) -> Diff:
    """Compares two graphs by node name; a node is changed when its target, arguments, inputs or output differ. Moved are the fewest nodes
    without which the others stand in the same order as before."""
    old, new = before.by_name(), after.by_name()
    both = [name for name in new if name in old]
    changed = tuple(name for name in both if _content(old[name]) != _content(new[name]))
    return Diff(
        removed=tuple(name for name in old if name not in new),
        added=tuple(name for name in new if name not in old),
        changed=changed,
        kept=len(both) - len(changed),
        moved=_moved(list(old), both),
    )


def _moved(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    place = {name: at for at, name in enumerate(before)}
    places = [place[name] for name in after]
    still = set(longest_rising(places))
    return tuple(name for name, at in zip(after, places, strict=True) if at not in still)


def longest_rising(numbers: Sequence[int]) -> list[int]:
    """The longest rising subsequence of different numbers."""
    ends, at, before = list[int](), list[int](), dict[int, int]()
    for index, number in enumerate(numbers):
        length = bisect_left(ends, number)
        ends[length : length + 1] = [number]
        at[length : length + 1] = [index]
        if length:
            before[index] = at[length - 1]
    found, index = list[int](), at[-1] if at else -1
    while index >= 0:
        found.append(numbers[index])
        index = before.get(index, -1)
    return found[::-1]


def _content(node: NodeRecord) -> tuple[object, ...]:
    return (node.op, node.target, node.detail, node.inputs, node.shape, node.dtype, node.phase)
