"""Matrix products of a graph, and which of them are gradients of which."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from optimizers.patterns.attention_axes import places, shape

aten = torch.ops.aten
Turned = tuple[fx.Node, bool]  # a node, and whether its last two dimensions are exchanged


class NotAttention(Exception):
    """A softmax that is not (or not only) attention's; `str(error)` is the reason."""


@dataclass(frozen=True)
class Product:
    """alpha · left @ right + beta · added; the operands are [N, rows, inner] and [N, inner, columns], or without N."""

    node: fx.Node
    left: fx.Node
    right: fx.Node
    alpha: float = 1.0
    beta: float = 1.0
    added: fx.Node | None = None


def product(node: Any) -> Product | None:
    """The node as a product; None when it is none."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    if node.target in (aten.bmm.default, aten.mm.default):
        return Product(node, *node.args[:2])  # type: ignore[arg-type]
    if node.target in (aten.baddbmm.default, aten.addmm.default):
        alpha, beta = (float(node.kwargs.get(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
        added, left, right = node.args[:3]
        if not alpha:
            return None
        return Product(node, left, right, alpha, beta, added if beta else None)  # type: ignore[arg-type]
    return None


def is_live(node: fx.Node, dead: Collection[fx.Node]) -> bool:
    """Does anything come of the node?"""
    return node not in dead


def peeled(node: Any) -> Turned:
    """The node under plain exchanges of the last two dimensions, and whether they leave it exchanged."""
    turned = False
    while isinstance(node, fx.Node):
        rank = len(shape(node))
        if node.target in (aten.detach.default, aten.alias.default):
            pass
        elif (
            node.target is aten.t.default
            and rank == 2
            or node.target is aten.transpose.int
            and set(places(list(node.args[1:3]), rank)) == {rank - 2, rank - 1}
            or node.target is aten.permute.default
            and places(node.args[1], rank) == [*range(rank - 2), rank - 1, rank - 2]
        ):
            turned = not turned
        else:
            break
        node = node.args[0]
    return node, turned


def gradient_of_left(candidate: Product, right: fx.Node) -> tuple[Turned, bool] | None:
    """(G, is it transposed) when the candidate is G @ rightᵀ or its transpose: the gradient of `left` in left @ right."""
    base, turned = peeled(right)
    if peeled(candidate.right) == (base, not turned):
        return peeled(candidate.left), False
    if peeled(candidate.left) == (base, turned):
        gradient, over = peeled(candidate.right)
        return (gradient, not over), True
    return None


def gradient_of_right(candidate: Product, left: fx.Node) -> tuple[Turned, bool] | None:
    """(G, is it transposed) when the candidate is leftᵀ @ G or its transpose: the gradient of `right` in left @ right."""
    base, turned = peeled(left)
    if peeled(candidate.left) == (base, not turned):
        return peeled(candidate.right), False
    if peeled(candidate.right) == (base, turned):
        gradient, over = peeled(candidate.left)
        return (gradient, not over), True
    return None
