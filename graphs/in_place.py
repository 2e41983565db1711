"""Operators in place: `relu_` writes into its first operand and gives the same memory back; `relu` computes the same into new memory.

Captured graphs are functional. A graph writes in place only after a step that chose to, and then its order is part of its meaning. Such a step marks the nodes
(`IN_PLACE`): the mark stays where the runner makes a graph functional for the length of another step (`optimizers/in_place.py`), and says which nodes are to write in
place again. A parameter, a buffer or an optimizer's state may be overwritten by its own new value and by nothing else.
"""

from __future__ import annotations

import functools

import torch
from torch import fx

Overload = torch._ops.OpOverload
IN_PLACE = "in_place"  # key of a node's meta
MEMORY, INPUT = "memory", "input"  # its values: written over memory of the graph's own, or over an input that the value replaces
BEHIND_FORWARD = ("backward", "update")
SUCCESSOR = "successor"  # key of a placeholder's meta: the position among the outputs of its new value


def written_operand(node: fx.Node) -> fx.Node | None:
    """The operand that the node writes into and gives back as its value; None for an operator that computes into new memory."""
    if not isinstance(node.target, Overload):
        return None
    if not node.target._schema.is_mutable:
        return node.all_input_nodes[0] if _counts_in_place(node) else None
    if not any(result.alias_info is not None and result.alias_info.is_write for result in node.target._schema.returns):
        return None
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return given if isinstance(given, fx.Node) else None
    return None


def _counts_in_place(node: fx.Node) -> bool:
    """Functional for the length of a step, and to be in place again: is its memory known meanwhile? In forward it is not, for there a value that is written
    over may be wanted again."""
    mark = node.meta.get(IN_PLACE)
    return mark == INPUT or mark == MEMORY and node.meta["origin"].phase in BEHIND_FORWARD


def writes_in_place(node: fx.Node) -> bool:
    """Is it an operator of torch in place, for which there is one that is not?"""
    return isinstance(node.target, Overload) and node.target._schema.is_mutable and out_of_place_overload(node.target) is not None


def new_value(placeholder: fx.Node) -> fx.Node | None:
    """The output that is the new value of a parameter, a buffer or a state; None where there is none."""
    at = placeholder.meta.get(SUCCESSOR)
    given = placeholder.graph.output_node().args[0]
    made = given[at] if at is not None and isinstance(given, tuple | list) and at < len(given) else None
    return made if isinstance(made, fx.Node) else None


def overwritten(graph: fx.Graph) -> list[fx.Node]:
    """The placeholders whose new value is written where the old one was: who runs the graph loses the old one."""
    found = []
    for placeholder in graph.find_nodes(op="placeholder"):
        node = new_value(placeholder)
        while node is not None and node is not placeholder:
            node = written_operand(node)
        if node is placeholder and new_value(placeholder) is not placeholder:
            found.append(placeholder)
    return found


@functools.cache
def in_place_overload(target: Overload) -> Overload | None:
    """`aten.relu.default` -> `aten.relu_.default`; None where torch has no operator in place with the same arguments."""
    return _twin(target, f"{target._schema.name.partition('::')[2]}_")


@functools.cache
def out_of_place_overload(target: Overload) -> Overload | None:
    """`aten.relu_.default` -> `aten.relu.default`."""
    name = target._schema.name.partition("::")[2]
    return _twin(target, name[:-1]) if name.endswith("_") and not name.endswith("__") else None


def _twin(target: Overload, name: str) -> Overload | None:
    if target.namespace != "aten":
        return None
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, each) for each in packet.overloads()] if packet is not None else []
    return next((each for each in overloads if _arguments(each) == _arguments(target)), None)


def _arguments(target: Overload) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in target._schema.arguments]
