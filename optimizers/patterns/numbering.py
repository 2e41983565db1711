"""Which nodes of a graph have equal values: value numbering (Aho, Lam, Sethi, Ullman, *Compilers*, section 6.1.2).

A number stands for an operator and the numbers of its operands; two nodes with the same number have the same value. A part of a model
that was written out by hand computes `x - mean` once or three times, and reads a value itself or a detached alias of it: who asks
"is it the same value?" and not "is it the same node?" need not care.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphs.names import stem
from graphs.randomness import is_random
from optimizers.patterns.aliases import same_layout
from optimizers.patterns.views import TURNS, keeps_values, permutation

aten = torch.ops.aten
SAME_VALUE = (aten.detach.default, aten.alias.default)
# Operators whose two operands may change places without a bit changing.
COMMUTATIVE = (
    aten.add.Tensor, aten.mul.Tensor, aten.maximum.default, aten.minimum.default, aten.eq.Tensor, aten.ne.Tensor, aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor, aten.bitwise_xor.Tensor, aten.logical_and.default, aten.logical_or.default,
)  # fmt: skip
CHECKS = (aten._assert_tensor_metadata.default,)
UNDEFINED = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided")


def through(node: fx.Node) -> fx.Node:
    """The node whose value a detached or aliased node shows."""
    while node.target in SAME_VALUE:
        node = node.args[0]  # type: ignore[assignment]
    return node


def readers(node: fx.Node) -> Iterator[fx.Node]:
    """Who reads the value, itself or as an alias; checks of dtype and device, which the captured shapes answer, are none."""
    for user in node.users:
        if user.target in SAME_VALUE:
            yield from readers(user)
        elif user.target not in CHECKS:
            yield user


def is_undefined(node: fx.Node) -> bool:
    """Does the operator give memory that nobody has written to yet?"""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.name in UNDEFINED


class Numbering:
    """Numbers for the values of a graph, given out as values are first met: an input when the first node reads it, a result when it is
    computed. Linear in the nodes.

    Args:
        by_layout: are equal values in another order of memory two values? Operands that changed places can make such.

    Attributes:
        number: node -> number.
        twin: node -> an earlier node that computes the same from the same operands, also where the two must stay apart.
        has_backward: is there a backward pass?
    """

    def __init__(self, graph: fx.Graph, by_layout: bool = False) -> None:
        self.number: dict[fx.Node, int] = {}
        self.twin: dict[fx.Node, fx.Node] = {}
        self.has_backward = False
        self._by_layout = by_layout
        self._first: dict[int, fx.Node] = {}
        self._members: dict[Hashable, list[fx.Node]] = {}
        for node in graph.nodes:
            origin = node.meta.get("origin")
            self.has_backward = self.has_backward or (origin is not None and origin.phase == "backward")
            if node.op == "call_function":
                self._compute(node)
        for read in graph.output_node().all_input_nodes:
            self._give(read)

    def same(self, one: Any, other: Any) -> bool:
        """Are the two nodes' values equal?"""
        return isinstance(one, fx.Node) and isinstance(other, fx.Node) and self.of(one) is self.of(other)

    def of(self, node: fx.Node) -> fx.Node:
        """The first node with this value; a node made since is its own."""
        return self._first[self.number[node]] if node in self.number else node

    def alike(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[fx.Node]:
        """Nodes that apply the operator to values equal to these."""
        members = self._members.get(self._key(target, args, kwargs), [])
        return [] if members and is_random(members[0]) else members

    def words(self, node: fx.Node) -> str:
        """`value 7 = mul(3, 3), first computed by mul_2`."""

        def word(value: Any) -> str:
            if isinstance(value, fx.Node):
                return str(self.number[value])
            return f"[{', '.join(map(word, value))}]" if isinstance(value, (list, tuple)) else f"{value!r:.40}"

        given = ", ".join([*map(word, node.args), *(f"{key}={word(value)}" for key, value in node.kwargs.items())])
        return f"value {self.number[node]} = {stem(node)}({given}), first computed by {self.of(node).name}"

    def _give(self, node: fx.Node, number: int | None = None) -> None:
        """A number for a node that has none yet: this one, or a new one."""
        if node not in self.number:
            self.number[node] = len(self._first) + 1 if number is None else number
            self._first.setdefault(self.number[node], node)

    def _compute(self, node: fx.Node) -> None:
        for read in node.all_input_nodes:
            self._give(read)
        key = self._key(node.target, node.args, node.kwargs)
        members = self._members.setdefault(key, []) if key is not None else []
        twin = members[0] if members and self._alike(members[0], node) else None
        members.append(node)
        if twin is not None:
            self.twin[node] = twin
        if node.target in SAME_VALUE:
            self._give(node, self.number[node.all_input_nodes[0]])
        elif twin is not None and not is_random(node) and not is_undefined(node):
            self._give(node, self.number[twin])
        else:
            self._give(node)

    def _alike(self, one: fx.Node, other: fx.Node) -> bool:
        """Same operands in the same order give the same layout; swapped ones may not: the first decides."""
        return not self._by_layout or one.target not in COMMUTATIVE or same_layout(one.meta.get("val"), other.meta.get("val"))

    def _key(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
        """Operator and arguments, every node as its number; None when they cannot be compared."""
        frozen = tuple(map(self._frozen, args))
        if target in COMMUTATIVE and not kwargs and all(isinstance(arg, fx.Node) for arg in args):
            frozen = tuple(sorted(frozen, key=hash))
        try:
            key = (target, frozen, tuple((name, self._frozen(kwargs[name])) for name in sorted(kwargs)))
            hash(key)
        except TypeError:
            return None
        return key

    def _frozen(self, value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            return self.number.get(value, value)
        if isinstance(value, (list, tuple)):
            return tuple(map(self._frozen, value))
        return (type(value).__name__, str(value))


def numbers_past_views(gm: fx.GraphModule) -> dict[fx.Node, int]:
    """One number for all nodes that hold the same values in the same shape, seen through views of one tensor; what is computed twice is
    two values here."""
    known: dict[Hashable, int] = {}
    numbers: dict[fx.Node, int] = {}
    unshaped: dict[int, tuple[int, tuple[int, ...]]] = {}  # of a reshaped value: the value before, and its shape
    permuted: dict[int, tuple[int, tuple[int, ...]]] = {}  # of a permuted value: the value before, and the order

    def number(key: Hashable) -> int:
        return known.setdefault(key, len(known))

    for node in gm.graph.nodes:
        value = node.meta.get("val")
        read = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if not isinstance(value, Tensor) or read not in numbers or not keeps_values(node):
            numbers[node] = number(node)
        elif node.target in TURNS:
            base, order = permuted.get(numbers[read], (numbers[read], tuple(range(value.dim()))))
            order = tuple(order[dim] for dim in permutation(node))
            numbers[node] = base if order == tuple(range(len(order))) else number(("permute", base, order))
            permuted[numbers[node]] = (base, order)
        else:
            base, shape = unshaped.get(numbers[read], (numbers[read], tuple(read.meta["val"].shape)))
            numbers[node] = base if shape == tuple(value.shape) else number(("view", base, tuple(value.shape)))
            unshaped[numbers[node]] = (base, shape)
    return numbers
