"""May a result be written over an operand? Who else looks at that memory, and when.

Memory of the graph's own may be written over by the last who reads it. Memory of a parameter, a buffer or an optimizer's state may be
written over on the way to its own new value: by a run of operators, each over the result of the one before, once everybody has read the old value.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphs.cost import is_pointwise, is_view
from graphs.in_place import IN_PLACE, in_place_overload, new_value, written_operand
from graphs.lifetimes import lifetimes
from graphs.recompute import FORWARD
from graphs.regions import Prepared, region_of
from graphs.snapshot import body_snapshot
from optimizers.base import is_random, phase_of
from optimizers.patterns.aliases import same_layout

aten = torch.ops.aten
# Not elementwise, or torch does not say so; each is a copy of its first operand, changed in places, or a sum on top of it.
OTHERS = (aten.gelu, aten.masked_fill, aten.index_put, aten.index_add, aten.scatter, aten.scatter_add, aten.baddbmm, aten.tril, aten.triu)
COMMUTE = (aten.add.Tensor, aten.mul.Tensor)
LONGEST = 32  # operators from an old value to the new one
SUFFIX = "_in_place"  # of a node's name


@dataclass(frozen=True)
class Memory:
    """Who owns the memory of each node, until which position it lives, and how large it is.

    Attributes:
        owner: node -> name of the node that made its memory; position: of every node.
        end, bytes: of memory that the graph itself allocates, by its owner.
        made_by: the owners that are nodes of the graph itself.
    """

    owner: dict[str, str]
    position: dict[str, int]
    end: dict[str, int]
    bytes: dict[str, int]
    made_by: dict[str, fx.Node]
    outputs: frozenset[str]


def memory_of(gm: fx.GraphModule) -> Memory:
    """The memory of a graph as it is."""
    record = body_snapshot(gm)
    owner = {node.name: node.storage for node in record.nodes}
    lives = lifetimes(record.nodes, record.outputs)
    return Memory(
        owner=owner,
        position={node.name: at for at, node in enumerate(record.nodes)},
        end={life.name: life.end for life in lives},
        bytes={life.name: life.bytes for life in lives},
        made_by={node.name: node for node in gm.graph.nodes},
        outputs=frozenset(owner[name] for name in record.outputs),
    )


def could_overwrite(node: fx.Node) -> bool:
    """Is it an operator whose result has the place of an operand's elements, and that is not in place yet?"""
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or is_view(target) or is_random(node):
        return False
    if not (is_pointwise(target) or target.overloadpacket in OTHERS) or not isinstance(value, Tensor):
        return False
    return bool(operands(node)) and all(isinstance(size, int) for size in value.shape) and value.numel() > 0


def operands(node: fx.Node) -> list[fx.Node]:
    """What the result could be written over."""
    both = node.target in COMMUTE and not node.kwargs
    return [operand for operand in node.args[: 2 if both else 1] if isinstance(operand, fx.Node)]


def why_not(node: fx.Node, operand: fx.Node, memory: Memory) -> str:
    """Why the result may not be written over the operand, whose memory is the graph's own; empty where it may."""
    owner = memory.owner[operand.name]
    made = memory.made_by.get(owner)
    if made is not None and (made.op != "call_function" or isinstance(made.target, Prepared)):
        return f"Its operand {operand.name} is {_what(made)}: that memory is not the graph's to write into."
    if made is None or owner not in memory.end or _may_share(made):
        return f"Its operand {operand.name} comes from an operator that may give out memory of its own operands."
    if owner in memory.outputs:
        return f"Its operand {operand.name} is an output of the graph."
    if not same_layout(node.meta["val"], operand.meta.get("val")):
        return f"Its operand {operand.name} has another shape, precision or order in memory than the result."
    if memory.bytes[owner] != node.meta["val"].numel() * node.meta["val"].element_size():
        return f"Its operand {operand.name} is a part of {owner}, which would live on with it."
    if memory.end[owner] > memory.position[node.name]:
        return _read_later(node, operand, owner, memory)
    others = [read for read in node.all_input_nodes if read is not operand and memory.owner[read.name] == owner]
    if others or not is_pointwise(node.target) and list(map(str, node.args)).count(str(operand)) > 1:
        return f"It reads the memory of {operand.name} a second time, as {(others or [operand])[0].name}."
    return ""


def _may_share(made: fx.Node) -> bool:
    """A compiled part of the graph may give out a view of what it was given."""
    whole = made.args[0] if made.target is operator.getitem else made
    return isinstance(whole, fx.Node) and region_of(whole) is not None


def _what(made: fx.Node) -> str:
    if made.op == "placeholder":
        return "a parameter or a buffer" if made.meta.get("role") in ("parameter", "buffer") else "an input"
    return "a constant" if made.op == "get_attr" else "prepared from weights"


def _read_later(node: fx.Node, operand: fx.Node, owner: str, memory: Memory) -> str:
    """Names one who reads the memory behind the node."""
    after = memory.position[node.name]
    alias = [each for name, each in memory.made_by.items() if memory.owner.get(name) == owner]
    late = sorted(user for each in alias for user in each.users if memory.position.get(user.name, 0) > after)
    in_backward = [user for user in late if phase_of(user) not in FORWARD and user.op == "call_function"]
    if in_backward and phase_of(node) in FORWARD:
        return f"Its operand {operand.name} is read by backward, at {in_backward[0].name}."
    return (
        f"Its operand {operand.name} is read again later, at {late[0].name}." if late else f"Its operand {operand.name} is looked at later."
    )


def put_in_place(node: fx.Node, position: int, kind: str) -> fx.Node:
    """The operator in place instead of the node, over the operand at a position of its arguments. Gives the new node.

    Args:
        kind: MEMORY or INPUT of `graphs/in_place.py`.
    """
    target = in_place_overload(node.target)  # type: ignore[arg-type]
    assert target is not None
    args = node.args if position == 0 else (node.args[1], node.args[0])
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args, dict(node.kwargs))
    made.meta.update({"val": node.meta["val"], "origin": node.meta["origin"], IN_PLACE: kind})
    name = node.name.removesuffix(SUFFIX)
    node.replace_all_uses_with(made)
    node.graph.erase_node(node)
    made._rename(f"{name}{SUFFIX}")
    return made


def way_to_new_value(old: fx.Node, marked: bool = False) -> list[tuple[fx.Node, fx.Node]]:
    """(node, its operand) from a placeholder to its new value, each of which could be written over the one before; empty where there is no such way.

    Args:
        marked: only by nodes that bear the mark of writing in place, over their first operand.
    """
    new = new_value(old)
    fruitless: set[fx.Node] = set()

    def way(node: fx.Node, left: int) -> list[tuple[fx.Node, fx.Node]] | None:
        if node is old:
            return []
        if not left or node in fruitless or not _could_renew(node, marked):
            return None
        fruitless.add(node)
        for operand in operands(node)[: 1 if marked else 2]:
            before = way(operand, left - 1)
            if before is not None:
                return [*before, (node, operand)]
        return None

    return (way(new, LONGEST) or []) if new is not None else []


def _could_renew(node: fx.Node, marked: bool) -> bool:
    if node.op != "call_function" or marked and IN_PLACE not in node.meta:
        return False
    return could_overwrite(node) and in_place_overload(node.target) is not None  # type: ignore[arg-type]


def why_not_renewed(old: fx.Node, steps: list[tuple[fx.Node, fx.Node]]) -> str:
    """Why an input may not be written over on the way to its new value; empty where it may."""
    value = old.meta["val"]
    if any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True)):
        return f"Elements of {old.name} share memory."
    for node, operand in steps:
        if not same_layout(node.meta["val"], operand.meta.get("val")):
            return f"{node.name} has another shape, precision or order in memory than {operand.name}."
        for shown in _shown(operand):
            late = next((user for user in shown.users if user is not node and not user < node), None)
            if late is not None:
                where = "is an output of the graph" if late.op == "output" else f"is read later, at {late.name}"
                return f"The old value {where}, as {shown.name}."
        reads = [read for read in node.all_input_nodes if read is not operand and read in _shown(operand)]
        if reads or not is_pointwise(node.target) and list(map(str, node.args)).count(str(operand)) > 1:
            return f"{node.name} reads the old value a second time, as {(reads or [operand])[0].name}."
    return ""


def _shown(value: fx.Node) -> list[fx.Node]:
    """The node, its views, and what may be one: results of compiled parts. Not what is written over it, which is the next value."""
    found = [value]
    for node in found:
        for user in node.users:
            shows = is_view(user.target) or user.target is operator.getitem or region_of(user) is not None
            if shows and written_operand(user) is None and user not in found:
                found.append(user)
    return found
