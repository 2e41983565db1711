"""A rule's side in a graph of ATen operators: where it stands, and how it is built there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.editing import call
from optimizers.substitution.terms import Term

aten = torch.ops.aten
COMMUTATIVE = ("add", "mul")
Binding = dict[str, fx.Node]


def operator_of(node: fx.Node) -> tuple[str, tuple[fx.Node, ...]] | None:
    """The term operator that a node is, with its operands; None where it is none. Matrices of two dimensions and equal shapes only."""
    if node.op != "call_function" or not _is_matrix(node):
        return None
    rule = READ.get(node.target)  # type: ignore[arg-type]
    return rule(node) if rule else None


def _is_matrix(node: object) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()


def _of_two(name: str) -> Callable[[fx.Node], tuple[str, tuple[fx.Node, ...]] | None]:
    def read(node: fx.Node) -> tuple[str, tuple[fx.Node, ...]] | None:
        one, other = node.args[:2]
        if node.kwargs or not (_is_matrix(one) and _is_matrix(other)):
            return None
        alike = name == "matmul" or one.meta["val"].shape == other.meta["val"].shape  # type: ignore[union-attr]
        return (name, (one, other)) if alike and one.meta["val"].dtype == other.meta["val"].dtype else None  # type: ignore[union-attr, return-value]

    return read


def _of_one(name: str) -> Callable[[fx.Node], tuple[str, tuple[fx.Node, ...]] | None]:
    return lambda node: (name, (node.args[0],)) if _is_matrix(node.args[0]) else None  # type: ignore[return-value]


def _transposed(node: fx.Node) -> tuple[str, tuple[fx.Node, ...]] | None:
    given: Any = node.args[1:]
    if node.target is aten.t.default:
        given = (1, 0)
    elif node.target is aten.permute.default:
        given = node.args[1]
    dims = {int(dim) % 2 for dim in given}
    moved = dims == {0, 1} and (node.target is aten.transpose.int or int(given[0]) % 2 == 1)
    return ("t", (node.args[0],)) if moved and _is_matrix(node.args[0]) else None  # type: ignore[return-value]


def _joined(node: fx.Node) -> tuple[str, tuple[fx.Node, ...]] | None:
    parts: Any = node.args[0]
    dim = int(node.args[1]) % 2 if len(node.args) > 1 else 0  # type: ignore[arg-type]
    if len(parts) != 2 or not all(map(_is_matrix, parts)):
        return None
    return ("rows", "columns")[dim], tuple(parts)


READ: dict[Any, Callable[[fx.Node], tuple[str, tuple[fx.Node, ...]] | None]] = {
    aten.add.Tensor: _of_two("add"), aten.sub.Tensor: _of_two("sub"), aten.mul.Tensor: _of_two("mul"), aten.mm.default: _of_two("matmul"),
    aten.neg.default: _of_one("neg"), aten.relu.default: _of_one("relu"), aten.t.default: _transposed, aten.transpose.int: _transposed,
    aten.permute.default: _transposed, aten.cat.default: _joined,
}  # fmt: skip
WRITE: dict[str, tuple[Any, ...]] = {
    "add": (aten.add.Tensor,), "sub": (aten.sub.Tensor,), "mul": (aten.mul.Tensor,), "matmul": (aten.mm.default,), "neg": (aten.neg.default,),
    "relu": (aten.relu.default,), "t": (aten.t.default,),
}  # fmt: skip


def bindings(pattern: Term, node: fx.Node) -> Iterator[tuple[Binding, tuple[fx.Node, ...]]]:
    """What the pattern's variables stand for when its root is this node, and the nodes that are its operators."""
    yield from _bound(pattern, node, {}, ())


def _bound(pattern: Term, node: fx.Node, known: Binding, seen: tuple[fx.Node, ...]) -> Iterator[tuple[Binding, tuple[fx.Node, ...]]]:
    if isinstance(pattern, str):
        if known.get(pattern, node) is node:
            yield {**known, pattern: node}, seen
        return
    read = operator_of(node)
    if read is None or read[0] != pattern[0]:
        return
    orders = [read[1], read[1][::-1]] if read[0] in COMMUTATIVE and read[1][0] is not read[1][1] else [read[1]]
    for operands in orders:
        yield from _all_bound(pattern[1:], operands, known, (*seen, node))


def _all_bound(
    patterns: tuple[Term, ...], operands: tuple[fx.Node, ...], known: Binding, seen: tuple[fx.Node, ...]
) -> Iterator[tuple[Binding, tuple[fx.Node, ...]]]:
    if not patterns:
        yield known, seen
        return
    for binding, nodes in _bound(patterns[0], operands[0], known, seen):
        yield from _all_bound(patterns[1:], operands[1:], binding, nodes)


def build(gm: fx.GraphModule, term: Term, binding: Binding) -> fx.Node:
    """New nodes for a term, at the graph's insertion point; equal subterms once."""
    made: dict[Term, fx.Node] = {}

    def one(each: Term) -> fx.Node:
        if isinstance(each, str):
            return binding[each]
        if each not in made:
            operands = [one(operand) for operand in each[1:]]
            if each[0] in ("rows", "columns"):
                made[each] = call(gm, aten.cat.default, operands, ("rows", "columns").index(each[0]))
            else:
                made[each] = call(gm, WRITE[each[0]][0], *operands)
        return made[each]

    return one(term)
