"""Value numbers: one number for each different value of a graph (Aho, Lam, Sethi, Ullman, *Compilers*, section 6.1.2).

A number stands for an operator and the numbers of its operands. Two nodes with the same number have the same value. Numbers are given out
as values are first met: an input when the first node reads it, a result when it is computed. What only passes a value on (`alias`,
`detach`) has the number of what it passes on.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx

from graphs.names import stem
from optimizers.base import is_random
from optimizers.patterns.aliases import same_layout

aten = torch.ops.aten
COPIES = (aten.alias.default, aten.detach.default)
# Operators whose two operands may change places without a bit changing.
COMMUTATIVE = (
    aten.add.Tensor, aten.mul.Tensor, aten.maximum.default, aten.minimum.default, aten.eq.Tensor, aten.ne.Tensor, aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor, aten.bitwise_xor.Tensor, aten.logical_and.default, aten.logical_or.default,
)  # fmt: skip
UNDEFINED = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided")


class ValueNumbers:
    """The numbers of a graph's nodes.

    Attributes:
        of: node -> number.
        first: number -> the first node that has it.
        twin: node -> an earlier node that computes the same from the same operands, also where the two must stay apart.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.of: dict[fx.Node, int] = {}
        self.first: dict[int, fx.Node] = {}
        self.twin: dict[fx.Node, fx.Node] = {}
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[Hashable, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "call_function":
                self._compute(node)
        for read in graph.output_node().all_input_nodes:
            self._number(read)

    def words(self, node: fx.Node) -> str:
        """`value 7 = mul(3, 3), first computed by mul_2`."""
        number = self.of[node]

        def word(value: Any) -> str:
            if isinstance(value, fx.Node):
                return str(self.of[value])
            return f"[{', '.join(map(word, value))}]" if isinstance(value, (list, tuple)) else f"{value!r:.40}"

        given = ", ".join([*map(word, node.args), *(f"{key}={word(value)}" for key, value in node.kwargs.items())])
        return f"value {number} = {stem(node)}({given}), first computed by {self.first[number].name}"

    def _number(self, node: fx.Node) -> int:
        if node not in self.of:
            self._give(node, len(self.first) + 1)
        return self.of[node]

    def _give(self, node: fx.Node, number: int) -> None:
        self.of[node] = number
        self.first.setdefault(number, node)

    def _compute(self, node: fx.Node) -> None:
        for read in node.all_input_nodes:
            self._number(read)
        key = self._key(node)
        twin = self._known.setdefault(key, node) if key is not None else node
        if twin is not node and not _alike(twin, node):
            twin = node  # of swapped operands the first decides on the layout
        if twin is not node:
            self.twin[node] = twin
        if node.target in COPIES:
            self._give(node, self.of[node.all_input_nodes[0]])
        elif twin is not node and not is_random(node) and not is_undefined(node):
            self._give(node, self.of[twin])
        else:
            self._number(node)

    def _key(self, node: fx.Node) -> Hashable | None:
        """Operator and arguments, every node as its number; None when they cannot be compared."""

        def frozen(value: Any) -> Hashable:
            if isinstance(value, fx.Node):
                return self.of[value]
            if isinstance(value, (list, tuple)):
                return tuple(map(frozen, value))
            return (type(value).__name__, str(value))

        args = [frozen(arg) for arg in node.args]
        if node.target in COMMUTATIVE and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args):
            args.sort()  # type: ignore[type-var]
        try:
            key = (node.target, tuple(args), tuple((key, frozen(node.kwargs[key])) for key in sorted(node.kwargs)))
            hash(key)
        except TypeError:
            return None
        return key


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Same operands in the same order give the same layout; swapped ones may not."""
    return one.target not in COMMUTATIVE or same_layout(one.meta.get("val"), other.meta.get("val"))


def is_undefined(node: fx.Node) -> bool:
    """Does the operator give memory that nobody has written to yet?"""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.name in UNDEFINED
