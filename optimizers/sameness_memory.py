"""Whose memory a value is, and whether an operator that writes into it can be read as one that computes a new value. Part of the proof in `sameness`.

`relu_` gives the bits of `relu` and leaves them where its operand was. Whoever reads its result reads those bits; whoever reads the operand, or a view of it, after that would
read them too, and not what the operand was. So an operator in place is its twin out of place if nobody reads that memory later but through its result.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from graphs.cost import is_pointwise
from graphs.in_place import out_of_place_overload, writes_in_place
from graphs.regions import region_of

Owner = tuple[fx.Node, Any]


class Aliases:
    """Which nodes of a graph show which memory, read once."""

    def __init__(self, graph: fx.Graph) -> None:
        self._place = {node: at for at, node in enumerate(graph.nodes)}
        self._showing: dict[Owner, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "call_function":
                self._showing.setdefault(owner(node), []).append(node)

    def twin(self, node: fx.Node) -> tuple[torch._ops.OpOverload | None, str]:
        """The operator out of place that computes what the node leaves in memory; or None, and why it cannot be read so."""
        target = out_of_place_overload(node.target) if writes_in_place(node) else None  # type: ignore[arg-type]
        if target is None or not is_pointwise(target) or not isinstance(node.args[0], fx.Node):
            return None, "may write into memory, so what others read depends on when they read it"
        written = owner(node.args[0])
        if written[0].op != "call_function":
            return None, f"writes into `{written[0].name}`, which the graph did not make"
        if region_of(written[0]) is not None:
            return None, f"writes into what `{written[0].name}` gave out, which may be memory of its operands"
        others = [read for read in node.all_input_nodes if read is not node.args[0] and owner(read) == written]
        if others:
            return None, f"writes into memory that it reads as `{others[0].name}` too"
        late = self._late_reader(node, written)
        return (None, f"writes into memory that `{late.name}` reads later") if late is not None else (target, "")

    def _late_reader(self, node: fx.Node, written: Owner) -> fx.Node | None:
        """Who reads the memory behind the node, and not through its result."""
        through = {node}
        for each in self._showing[written]:
            if viewed(each) in through:
                through.add(each)
            if each not in through:
                late = next((user for user in each.users if self._place[user] > self._place[node] and user not in through), None)
                if late is not None:
                    return late
        return None


def owner(node: fx.Node) -> Owner:
    """The node that makes the memory of a value, and which part of its result it is."""
    if node.target is operator.getitem:
        made, part = node.args
        shown = viewed(made)  # type: ignore[arg-type]
        return owner(shown) if shown is not None else (made, part)  # type: ignore[return-value]
    shown = viewed(node)
    return (node, None) if shown is None else owner(shown)


def viewed(node: fx.Node) -> fx.Node | None:
    """The operand whose memory the result shows or is written into, by the operator's own word."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    schema = node.target._schema
    if not any(result.alias_info is not None for result in schema.returns):
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return given if isinstance(given, fx.Node) else None
    return None
