"""Two graphs that do not come from one another: which node of the one is which of the other, so that they can be compared.

Nodes of one capture have names of their own, and those of another capture count differently. Nodes are counterparts when phase, module
and operator agree and the order of both graphs is kept; the union of both is then free of cycles.
"""

from __future__ import annotations

import functools
from difflib import SequenceMatcher

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
    matcher = SequenceMatcher(None, [_kind(node) for node in one.nodes], [_kind(node) for node in two.nodes], autojunk=False)
    for first, second, length in matcher.get_matching_blocks():
        for step in range(length):
            found[two.nodes[second + step].name] = one.nodes[first + step].name
    taken = {node.name for node in one.nodes}
    for node in two.nodes:
        if node.name not in found:
            name = node.name
            while name in taken:
                name += MARK
            taken.add(name)
            found[node.name] = name
    return found


def _kind(node: NodeRecord) -> tuple[str, str, str, str]:
    target = node.target if node.op != "call_function" else node.target.rpartition(".")[0] or node.target
    return node.op, node.phase, node.module, target


def _renamed(node: NodeRecord, names: dict[str, str]) -> str:
    """The arguments' text with the new names: a node is not changed only because what it reads is called otherwise."""
    text = node.detail
    for read in sorted(set(node.inputs), key=len, reverse=True):
        text = text.replace(f"%{read}", f"%\0{names[read]}")
    return text.replace("\0", "")
