"""Which index of a product each dimension of a reshaped tensor stands for.

Scores leave a batched product as [N, rows, columns] and reach their softmax through views, permutations and copies. Every dimension on
the way is written as a list of atoms: `("N", 12, 4)` is the part of index N that steps by 12 and takes 4 values. Two tensors hold the same
elements at the same places when their atoms agree, whatever route they took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
Atom = tuple[str, int, int]  # index of the product, step, number of values
Dim = tuple[Atom, ...]
Axes = tuple[Dim, ...]

VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
SAME = (aten.clone.default, aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
CASTS = (aten._to_copy.default,)
PERMUTES = (aten.transpose.int, aten.permute.default, aten.t.default)
SHAPES = (*VIEWS, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.expand.default)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOVES = frozenset((*SHAPES, *SAME, *CASTS, *PERMUTES))


def shape(node: Any) -> tuple[int, ...]:
    """The node's shape; empty for what is no tensor. A symbol stands as a large prime of its own, so that sizes which are equal or divide
    one another do so whatever the symbols are."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(map(_number, value.shape)) if isinstance(value, Tensor) else ()


def is_symbolic(node: fx.Node) -> bool:
    """Is a size of the node unknown?"""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape)


_primes: dict[str, int] = {}


def _number(size: Any) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    for symbol in sorted(expression.free_symbols, key=str):
        _primes.setdefault(str(symbol), _next_prime(max(_primes.values(), default=10_006)))
    return int(expression.subs({symbol: _primes[str(symbol)] for symbol in expression.free_symbols}))


def _next_prime(after: int) -> int:
    number = after + 1
    while any(number % factor == 0 for factor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


def places(dims: Any, rank: int) -> list[int]:
    """Dimensions, one or several, counted from the front."""
    return [int(dim) % rank for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]


def whole(root: str, size: int) -> Dim:
    """A dimension that is an index of the product, undivided."""
    return ((root, 1, size),) if size != 1 else ()


def joined(atoms: Sequence[Atom]) -> Dim:
    """Neighbouring parts of one index as one atom."""
    found: list[Atom] = []
    for root, step, size in atoms:
        if size == 1:
            continue
        if found and found[-1][0] == root and found[-1][1] == step * size:
            found[-1] = (root, step, found[-1][2] * size)
        else:
            found.append((root, step, size))
    return tuple(found)


def regrouped(axes: Axes, sizes: Sequence[int]) -> Axes | None:
    """The axes of a view with these sizes; None where a dimension is cut at a place that is no whole part of an index."""
    left = [atom for dim in axes for atom in dim]
    found: list[Dim] = []
    for size in sizes:
        taken: list[Atom] = []
        missing = size
        while missing > 1:
            if not left:
                return None
            root, step, have = left.pop(0)
            if missing % have == 0:
                taken.append((root, step, have))
                missing //= have
            elif have % missing == 0:
                rest = have // missing
                taken.append((root, step * rest, missing))
                left.insert(0, (root, step, rest))
                missing = 1
            else:
                return None
        found.append(joined(taken))
    return None if left else tuple(found)


def through(node: fx.Node, axes: Axes) -> Axes | None:
    """The axes of what a moving operator gives, from those of what it is given; None where they cannot be told."""
    target, rank = node.target, len(axes)
    if target in SAME:
        return axes
    if target in CASTS:
        return axes if node.meta["val"].dtype in FLOATS else None
    if target is aten.t.default:
        return tuple(reversed(axes))
    if target is aten.transpose.int:
        order = list(range(rank))
        one, other = (places(dim, rank)[0] for dim in node.args[1:3])
        order[one], order[other] = other, one
        return tuple(axes[dim] for dim in order)
    if target is aten.permute.default:
        return tuple(axes[dim] for dim in places(node.args[1], rank))
    if target is aten.expand.default and math.prod(shape(node)) != math.prod(shape(node.args[0])):
        return None
    return regrouped(axes, shape(node)) if target in SHAPES else None


def swapped(axes: Axes) -> Axes:
    """The axes after exchanging the last two dimensions."""
    return (*axes[:-2], axes[-1], axes[-2])


def cut(axes: Sequence[Dim], root: str, size: int) -> list[Atom]:
    """The index `root`, of `size` values, divided wherever one of the dimensions divides it; outermost part first."""
    marks = {1, size}
    for dim in axes:
        for name, step, have in dim:
            marks |= {step, step * have} if name == root else set()
    ordered = sorted(marks, reverse=True)
    return [(root, low, high // low) for high, low in zip(ordered, ordered[1:], strict=False)]


def divided(dim: Dim, parts: Sequence[Atom]) -> list[Atom]:
    """A dimension as the finest parts that it consists of, in its own order."""
    found = []
    for root, step, size in dim:
        inside = [part for part in parts if part[0] == root and step <= part[1] < step * size]
        found += sorted(inside, key=lambda part: -part[1])
    return found


def before_joining(node: fx.Node, sizes: tuple[int, ...]) -> fx.Node | None:
    """The operand of a product as it had these sizes, before batch and heads were joined (often with a copy); None when it never had."""
    best = None
    while True:
        best = node if shape(node) == sizes else best
        if node.target not in SAME and node.target not in SHAPES:
            return best
        node = node.args[0]  # type: ignore[assignment]
