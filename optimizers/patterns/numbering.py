"""Which nodes of a graph have equal values: value numbering (Aho, Sethi, Ullman, *Compilers*, section 6.1.2).

A part of a model that was written out by hand computes `x - mean` once or three times, and reads a value itself or a detached alias of it. Patterns that ask
"is it the same value?" and not "is it the same node?" need not care.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from graphs.randomness import is_random

aten = torch.ops.aten
SAME_VALUE = (aten.detach.default, aten.alias.default)
COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)
CHECKS = (aten._assert_tensor_metadata.default,)


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


class Numbering:
    """Numbers for the values of a graph: nodes with one number have equal values. Linear in the nodes."""

    def __init__(self, graph: fx.Graph) -> None:
        self.has_backward = False
        self._first: dict[fx.Node, fx.Node] = {}
        self._members: dict[Hashable, list[fx.Node]] = {}
        for node in graph.nodes:
            origin = node.meta.get("origin")
            self.has_backward = self.has_backward or (origin is not None and origin.phase == "backward")
            self._first[node] = self._first[through(node)] if node.target in SAME_VALUE else node
            key = self._key(node.target, node.args, node.kwargs) if node.op == "call_function" and not is_random(node) else None
            if key is not None and node.target not in SAME_VALUE:
                members = self._members.setdefault(key, [])
                members.append(node)
                self._first[node] = members[0]

    def same(self, one: Any, other: Any) -> bool:
        """Are the two nodes' values equal?"""
        return isinstance(one, fx.Node) and isinstance(other, fx.Node) and self.of(one) is self.of(other)

    def of(self, node: fx.Node) -> fx.Node:
        """The first node with this value; a node made since is its own."""
        return self._first.get(node, node)

    def alike(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[fx.Node]:
        """Nodes that apply the operator to values equal to these."""
        return self._members.get(self._key(target, args, kwargs), [])

    def _key(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Hashable | None:
        frozen = tuple(map(self._frozen, args))
        if target in COMMUTATIVE and not kwargs and all(isinstance(each, fx.Node) for each in frozen):
            frozen = tuple(sorted(frozen, key=id))
        try:
            key = (target, frozen, tuple((name, self._frozen(kwargs[name])) for name in sorted(kwargs)))
            hash(key)
        except TypeError:
            return None
        return key

    def _frozen(self, value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            return self.of(value)
        if isinstance(value, (list, tuple)):
            return tuple(map(self._frozen, value))
        return value if isinstance(value, (bool, torch.dtype)) else (type(value).__name__, str(value))
