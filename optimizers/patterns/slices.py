"""Tensors that are the slices of one: side by side in memory already, so that stacking them is a view."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from optimizers.base import value_of
from optimizers.editing import call
from optimizers.patterns.linear import RESHAPES

aten = torch.ops.aten


def slices_of_one(lefts: Sequence[fx.Node]) -> tuple[fx.Node, list[int], list[int]] | None:
    """(a tensor whose slices the operands are, how to lay out its slicing dimension, how to view that as [n, M, K]), if that is a view."""
    places = [place(left) for left in lefts]
    if None in places or len({found[:3] for found in places if found}) != 1:
        return None
    whole, dim, width, _ = places[0]  # type: ignore[misc]
    if [found[3] for found in places if found] != list(range(len(lefts))) or value_of(whole).shape[dim] != width * len(lefts):
        return None
    value = value_of(whole)
    wide = [
        *value.shape[:dim],
        len(lefts),
        *([width] if _root(lefts[0]).target is operator.getitem and width > 1 else []),
        *value.shape[dim + 1 :],
    ]
    order = [dim, *(each for each in range(len(wide)) if each != dim)]
    try:
        with torch.no_grad():
            value.view(wide).permute(order).view(len(lefts), *value_of(lefts[0]).shape)
    except RuntimeError:
        return None  # the slices lie so that stacking them is a copy
    return whole, wide, order


def place(node: fx.Node) -> tuple[fx.Node, int, int, int] | None:
    """(the tensor that the node is a slice of, along which dimension, how wide, the how many-th), seen through views."""
    node = _root(node)
    whole = node.args[0] if node.args else None
    if not isinstance(whole, fx.Node):
        return None
    if node.target is aten.select.int:
        rank, length = value_of(whole).dim(), value_of(whole).shape[node.args[1]]  # type: ignore[index]
        return whole, node.args[1] % rank, 1, node.args[2] % length  # type: ignore[operator, return-value]
    if node.target is not operator.getitem or whole.target not in (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default):
        return None
    given: fx.Node = whole.args[0]  # type: ignore[assignment]
    at = 1 if whole.target is aten.unbind.int else 2
    dim = (whole.args[at] if len(whole.args) > at else 0) % value_of(given).dim()  # type: ignore[operator]
    if whole.target is aten.unbind.int:
        return given, dim, 1, node.args[1]  # type: ignore[return-value]
    widths = {piece.shape[dim] for piece in whole.meta["val"]}
    return (given, dim, widths.pop(), node.args[1]) if len(widths) == 1 else None  # type: ignore[return-value]


def _root(node: fx.Node) -> fx.Node:
    while node.target in RESHAPES and value_of(node).numel() == value_of(node.args[0]).numel():  # type: ignore[arg-type]
        node = node.args[0]  # type: ignore[assignment]
    return node


def batch(gm: fx.GraphModule, lefts: Sequence[fx.Node]) -> fx.Node:
    """The operands as one [n, M, K]: a view where they are slices of one tensor, else a copy."""
    found = slices_of_one(lefts)
    if found is None:
        return call(gm, aten.stack.default, list(lefts))
    whole, wide, order = found
    view = call(gm, aten.permute.default, call(gm, aten.view.default, whole, wide), order)
    return call(gm, aten.view.default, view, [len(lefts), *value_of(lefts[0]).shape])
