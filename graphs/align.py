"""Two graphs that do not come from one another: which node of the one is which of the other, so that they can be compared.

Nodes of one capture have names of their own, and those of another capture count differently. Nodes are counterparts when phase, module
and operator agree and the order of both graphs is kept; the union of both is then free of cycles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import msgspec

from graphs.record import GraphSnapshot, NodeRecord

MARK = "′"  # behind the name of a node that has no counterpart, where the other graph has another node of that name


@functools.lru_cache(maxsize=8)
def aligned(one: GraphSnapshot, two: GraphSnapshot) -> GraphSnapshot:
    """The second graph, its nodes under the names of their counterparts in the first."""
    names = _names(one, two)
    nodes = tuple(
        msgspec.structs.replace(
            node,
            name=names[node.name],
            storage=names.get(node.storage, node.storage),
            inputs=tuple(names[read] for read in node.inputs),
            detail=_renamed(node, names),
        )
        for node in two.nodes
    )
    return msgspec.structs.replace(two, nodes=nodes, outputs=tuple(names[name] for name in two.outputs))


def _names(one: GraphSnapshot, two: GraphSnapshot) -> dict[str, str]:
    """Name in the second graph -> name to take."""
    found: dict[str, str] = {}
    for first, second in longest_common([_kind(node) for node in one.nodes], [_kind(node) for node in two.nodes]):
        found[two.nodes[second].name] = one.nodes[first].name
    taken = {node.name for node in one.nodes}
    for node in two.nodes:
        if node.name not in found:
            name = node.name
            while name in taken:
                name += MARK
            taken.add(name)
            found[node.name] = name
    return found


def longest_common(one: Sequence[Hashable], two: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Positions of the longest common subsequence, in order.

    All columns of a row of the table of lengths are one number of len(two) bits, and a row follows from the one before by a sum (Hyyrö, "Bit-parallel LCS-length
    computation revisited", 2004, section 4): a bit is 0 where one more of `two` makes the common part longer. Some rows are kept, those between are computed again
    on the way back.
    """
    start = 0
    while start < min(len(one), len(two)) and one[start] == two[start]:
        start += 1
    end = 0
    while end < min(len(one), len(two)) - start and one[-1 - end] == two[-1 - end]:
        end += 1
    inner = _between(one[start : len(one) - end], two[start : len(two) - end])
    return [
        *((at, at) for at in range(start)),
        *((start + first, start + second) for first, second in inner),
        *((len(one) - at, len(two) - at) for at in range(end, 0, -1)),
    ]


def _between(one: Sequence[Hashable], two: Sequence[Hashable]) -> list[tuple[int, int]]:
    places: dict[Hashable, int] = {}
    for at, symbol in enumerate(two):
        places[symbol] = places.get(symbol, 0) | 1 << at
    whole = (1 << len(two)) - 1
    stride = math.isqrt(len(one)) + 1

    def rows(before: int, symbols: Sequence[Hashable]) -> list[int]:
        found = [before]
        for symbol in symbols:
            both = before & places.get(symbol, 0)
            before = ((before + both) | (before - both)) & whole
            found.append(before)
        return found

    kept = [whole]
    for at in range(0, len(one), stride):
        kept.append(rows(kept[-1], one[at : at + stride])[-1])
    pairs = list[tuple[int, int]]()
    column = len(two)
    for block in reversed(range(len(kept) - 1)):
        table = rows(kept[block], one[block * stride : (block + 1) * stride])
        row = len(table) - 1
        while row and column:
            if table[row] >> (column - 1) & 1:
                column -= 1
                continue
            row -= 1
            if table[row] >> (column - 1) & 1:
                column -= 1
                pairs.append((block * stride + row, column))
    return pairs[::-1]


def _kind(node: NodeRecord) -> tuple[str, str, str, str]:
    target = node.target if node.op != "call_function" else node.target.rpartition(".")[0] or node.target
    return node.op, node.phase, node.module, target


def _renamed(node: NodeRecord, names: dict[str, str]) -> str:
    """The arguments' text with the new names: a node is not changed only because what it reads is called otherwise."""
    text = node.detail
    for read in sorted(set(node.inputs), key=len, reverse=True):
        text = text.replace(f"%{read}", f"%\0{names[read]}")
    return text.replace("\0", "")
