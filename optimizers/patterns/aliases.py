"""Who shares memory with whom: may a reader of one value read another in its place?

The values are equal, and still the answer can be no. Who gets two results of a graph may write to one of them; if both were the same
memory, the other would change too. So a result must not come to share memory with another result, an input, a constant, or what is kept
between runs, unless it did so already.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from graphs.cost import is_view
from graphs.in_place import written_operand
from graphs.regions import region_of


def same_layout(one: object, other: object) -> bool:
    """Same shape, dtype, device and steps in memory; the step of a dimension with one element means nothing."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and _steps(one) == _steps(other)


def _steps(value: Tensor) -> tuple[int, ...]:
    if value.numel() == 0:
        return ()
    return tuple(step if size > 1 else 0 for size, step in zip(value.shape, value.stride(), strict=True))


class Aliases:
    """Groups of nodes that share memory, kept up to date while an optimization plans its replacements."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self._owner: dict[fx.Node, fx.Node] = {}
        self._lasting: set[fx.Node] = set()
        self._written: set[fx.Node] = set()
        self._by_steps: set[fx.Node] = set()
        for node in gm.graph.nodes:
            shown = written_operand(node) or (node.all_input_nodes[0] if node.all_input_nodes and _shares(node) else None)
            self._owner[node] = node if shown is None else self.owner(shown)
            if node.op in ("placeholder", "get_attr") or region_of(node) is not None:
                self._lasting.add(node)
            if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
                self._written.update(self.owner(read) for read in node.all_input_nodes)
            if node.target is torch.ops.aten.as_strided.default:
                self._by_steps.add(self._owner[node])
        self._results = {self.owner(read) for read in gm.graph.output_node().all_input_nodes}

    def owner(self, node: fx.Node) -> fx.Node:
        """The node whose memory this one is in."""
        while (above := self._owner.get(node, node)) is not node:
            node = above
        return node

    def why_not(self, old: fx.Node, new: fx.Node) -> str:
        """Why readers of `old` must not read `new`; empty where they may."""
        one, other = self.owner(old), self.owner(new)
        if one is other:
            return ""
        if one in self._written or other in self._written:
            return "Somebody writes to this memory, so the copy is needed."
        if one in self._results and other in self._results:
            return f"Two results of the graph would share the memory of {other.name}: who writes to one would change the other."
        if one in self._results and other in self._lasting:
            return (
                f"A result of the graph would share memory with {other.name}, which outlives the run: who writes to one would change both."
            )
        return ""

    def read_by_steps(self, node: fx.Node) -> bool:
        """Does somebody read this memory by its steps (as_strided), so that no other layout will do?"""
        return self.owner(node) in self._by_steps

    def join(self, old: fx.Node, new: fx.Node) -> None:
        """From here on readers of `old` read `new`."""
        one, other = self.owner(old), self.owner(new)
        if one is other:
            return
        self._owner[one] = other
        for group in (self._results, self._lasting, self._by_steps):
            if one in group:
                group.add(other)


def _shares(node: fx.Node) -> bool:
    """Is the node's value in its first input's memory? A part of several results is where the operator says they are."""
    if node.target is operator.getitem:
        whole = node.args[0]
        return isinstance(whole, fx.Node) and (_shares(whole) or region_of(whole) is not None)
    return node.op == "call_function" and is_view(node.target)
