"""Operators in place: `relu_` writes into its first operand and gives the same memory back; `relu` computes the same into new memory.

Captured graphs are functional. A graph writes in place only after a step that chose to, and then its order is part of its meaning.
"""

from __future__ import annotations

import functools

import torch
from torch import fx

Overload = torch._ops.OpOverload


def written_operand(node: fx.Node) -> fx.Node | None:
    """The operand that the node writes into and gives back as its value; None for an operator that computes into new memory."""
    if not isinstance(node.target, Overload) or not node.target._schema.is_mutable:
        return None
    if not any(result.alias_info is not None and result.alias_info.is_write for result in node.target._schema.returns):
        return None
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return given if isinstance(given, fx.Node) else None
    return None


def writes_in_place(node: fx.Node) -> bool:
    """Is it an operator of torch in place, for which there is one that is not?"""
    return isinstance(node.target, Overload) and node.target._schema.is_mutable and out_of_place_overload(node.target) is not None


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
