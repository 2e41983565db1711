"""Views as geometry. A view reads memory that is there: sizes say how many elements, steps (strides) how far apart they are.

Two views of one memory, from the same first element, with the same sizes and steps, are the same tensor, whatever chain of views led to
them. So the shortest chain from a tensor to a view of it can be read off the two pairs of sizes and steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from optimizers.patterns.aliases import same_layout
from optimizers.patterns.rules import Call, Same

aten = torch.ops.aten
# Views that begin where what they view begins: no slice, no select.
WHOLE_VIEWS = frozenset({
    aten.view.default, aten._unsafe_view.default, aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.squeeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.expand.default, aten.alias.default, aten.detach.default,
})  # fmt: skip
TURNS = frozenset({aten.t.default, aten.transpose.int, aten.permute.default})
# The same elements in the same order, as long as there are not more of them.
RESHAPES = frozenset({aten.view.default, aten._unsafe_view.default, aten.alias.default, aten.detach.default, aten.expand.default})


def tensor_of(node: object) -> Tensor | None:
    """The node's one tensor."""
    found = node.meta.get("val") if isinstance(node, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def shortest(base: fx.Node, view: fx.Node) -> Same | Call | None:
    """The base itself, or one operator on it, that is the same as the view; None where it takes more."""
    old, new = tensor_of(base), tensor_of(view)
    if old is None or new is None or old.dtype != new.dtype:
        return None
    if same_layout(old, new):
        return Same(base)
    if old.numel() == new.numel() and old.is_contiguous() and new.is_contiguous():
        return Call(aten.view.default, (base, list(new.shape)))
    order = _order(old, new)
    if order is not None:
        return turned(base, order)
    if _expands(old, new):
        return Call(aten.expand.default, (base, list(new.shape)))
    return None


def turned(base: Any, order: list[int]) -> Call:
    """The dimensions in another order, by the plainest of torch's three operators for it."""
    moved = [place for place, dim in enumerate(order) if place != dim]
    if len(moved) != 2:
        return Call(aten.permute.default, (base, order))
    return Call(aten.t.default, (base,)) if len(order) == 2 else Call(aten.transpose.int, (base, *moved))


def order_of(call: Call, dims: int) -> list[int] | None:
    """Which dimension of its input each dimension of a turned tensor is; None where the operator does not turn."""
    order = list(range(dims))
    if call.target is aten.permute.default:
        return [dim % dims for dim in call.args[1]]
    if call.target is aten.transpose.int and dims:
        one, other = (dim % dims for dim in call.args[1:])
        order[one], order[other] = order[other], order[one]
        return order
    return order[::-1] if call.target is aten.t.default else None


def permutation(node: fx.Node) -> tuple[int, ...]:
    """The same for the node of a turning view."""
    return tuple(order_of(Call(node.target, node.args), node.meta["val"].dim()) or ())


def keeps_values(node: fx.Node) -> bool:
    """A turning or reshaping view with the same elements: an `expand` that repeats some is none."""
    return node.target in TURNS or node.target in RESHAPES and node.meta["val"].numel() == node.args[0].meta["val"].numel()  # type: ignore[union-attr]


def _order(old: Tensor, new: Tensor) -> list[int] | None:
    """Each dimension of the view found among those of the base, by size and step."""
    if old.dim() != new.dim():
        return None
    free = list(range(old.dim()))
    order: list[int] = []
    for size, step in zip(new.shape, new.stride(), strict=True):
        found = next((dim for dim in free if old.shape[dim] == size and (size == 1 or old.stride(dim) == step)), None)
        if found is None:
            return None
        free.remove(found)
        order.append(found)
    return order


def _expands(old: Tensor, new: Tensor) -> bool:
    """Is the view the base with dimensions of one element read many times, or with new ones in front?"""
    front = new.dim() - old.dim()
    if front < 0 or 0 in new.shape:
        return False
    sides = zip((1,) * front + tuple(old.shape), (0,) * front + old.stride(), new.shape, new.stride(), strict=True)
    return all(size == wide and (size == 1 or step == wide_step) or size == 1 and wide_step == 0 for size, step, wide, wide_step in sides)
