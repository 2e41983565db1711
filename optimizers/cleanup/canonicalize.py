"""Canonicalize: one way to write each thing, so that equal things look equal.

## Why it is slow
It is not: `a * b` costs what `b * a` costs. But merge-common-subexpressions compares nodes as they are written, and cannot see that `a *
b` and `b * a`, `sum(x, -1)` and `sum(x, 1)`, `x - 3` and `x + -3`, or `transpose(w, -1, -2)` and `t(w)` are one value. A normal form
makes it see, and lets every other optimization know one form where there were five.

## What changes
Nothing in value, cost or number of nodes. The forms:
- the operands of `+`, `·`, `max`, `min`, `and`, `or` in the order of the graph, a number on the right (`mul.Scalar` and a constant of one
  element become `mul.Tensor` with a number);
- `x − c` becomes `x + (−c)`; a whole number beside a float tensor becomes a float: `x * 2` and `x * 2.0` are one;
- dimensions counted from the front, sizes written out (`view(x, [-1, 8])` → `view(x, [4, 8])`), the end of a slice within the tensor;
- a permutation of two dimensions is a `transpose`, of a matrix a `t`; `_unsafe_view` is a `view`.

## When it does not apply
`x − 0` stays: `x + 0` turns -0.0 into +0.0. `x − c` of unsigned numbers stays. Operands whose layouts differ keep their order: the first
one decides how the result lies in memory. A number that the tensor's dtype would round stays a tensor.

## Try it
Write `x * y + y * x`. merge-common-subexpressions finds nothing; after canonicalize it finds one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.patterns.aliases import same_layout
from optimizers.patterns.chains import one_dtype, tensor_and_number
from optimizers.patterns.constants import rounded, uniform
from optimizers.patterns.numbering import COMMUTATIVE
from optimizers.patterns.rules import Answer, Call, No, Reading, by_operator, find_by, rewrite_by
from optimizers.patterns.views import order_of, tensor_of, turned
from optimizers.record import Claim

aten = torch.ops.aten
SCALARS = {
    aten.add.Scalar: aten.add.Tensor, aten.sub.Scalar: aten.sub.Tensor, aten.mul.Scalar: aten.mul.Tensor, aten.div.Scalar: aten.div.Tensor,
}  # fmt: skip
WITH_NUMBER = (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor)
# operator -> the places of its arguments that are dimensions
DIMENSIONS: dict[Any, tuple[int, ...]] = {
    aten.sum.dim_IntList: (1,), aten.mean.dim: (1,), aten.amax.default: (1,), aten.amin.default: (1,), aten._softmax.default: (1,),
    aten._log_softmax.default: (1,), aten.transpose.int: (1, 2), aten.permute.default: (1,), aten.slice.Tensor: (1,), aten.select.int: (1,),
    aten.squeeze.dim: (1,), aten.cumsum.default: (1,), aten.argmax.default: (1,), aten.split.Tensor: (2,), aten.gather.default: (1,),
}  # fmt: skip
LARGEST_WHOLE = 2**24  # whole numbers up to here are floats of 32 bits


def ordered(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`b ∘ a` where `a` stands first in the graph."""
    if call.kwargs or len(call.args) != 2 or not all(isinstance(arg, fx.Node) for arg in call.args):
        return None
    one, two = call.args
    if not two < one:
        return None
    if not same_layout(one.meta.get("val"), two.meta.get("val")):
        return No("Its operands differ in shape or layout, and the first decides how the result lies in memory.")
    return Call(call.target, (two, one))


def with_number(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x ∘ tensor(c)` as `x ∘ c`."""
    if call.kwargs or len(call.args) != 2:
        return None
    sides = [call.args] if call.target in (aten.sub.Tensor, aten.div.Tensor) else [call.args, call.args[::-1]]
    for x, other in sides:
        shape = tensor_of(other)
        if shape is None or shape.dim() or not isinstance(x, fx.Node):
            continue
        number, dtype = uniform(other, reading), one_dtype(node, x)
        if number is None or isinstance(number, bool) or dtype is None or dtype.is_complex or dtype is torch.bool or not value_of(x).dim():
            continue
        if rounded(number, dtype) != number:
            return No(f"{number:g} has no exact form in {str(dtype).removeprefix('torch.')}: as a number it would be rounded otherwise.")
        return Call(call.target, (x, float(number) if dtype.is_floating_point else number))
    return None


def plain_number(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`mul.Scalar` as `mul.Tensor`, and a whole number beside floats as a float."""
    found = tensor_and_number(call)
    if found is None or call.target is aten.sub.Tensor:
        return None
    x, number = found
    dtype = one_dtype(node, x)
    target = SCALARS.get(call.target, call.target)
    if dtype is not None and dtype.is_floating_point and isinstance(number, int) and abs(number) <= LARGEST_WHOLE:
        number = float(number)
    same = target is call.target and type(number) is type(found[1])
    return None if same else Call(target, (x, number))


def sum_of_negative(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x − c` as `x + (−c)`."""
    found = tensor_and_number(call)
    if found is None:
        return None
    x, number = found
    dtype = one_dtype(node, x)
    if dtype is None or dtype.is_complex:
        return None
    if dtype.is_floating_point:
        return No("x - 0 is x, and x + 0 is not where x is -0.0.") if number == 0 else Call(aten.add.Tensor, (x, -float(number)))
    if dtype is torch.uint8 or not isinstance(number, int):
        return No("Unsigned numbers have no negative ones.") if dtype is torch.uint8 else None
    return Call(aten.add.Tensor, (x, -number))


def counted_from_front(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """Negative dimensions."""
    value = tensor_of(call.args[0])
    if value is None or not value.dim():
        return None
    args = list(call.args)
    for place in DIMENSIONS[call.target]:
        if place < len(args) and args[place] is not None:
            given = args[place]
            args[place] = [dim % value.dim() for dim in given] if isinstance(given, (list, tuple)) else given % value.dim()
    same = all(_alike(old, new) for old, new in zip(call.args, args, strict=True))
    return None if same else Call(call.target, tuple(args), call.kwargs)


def _alike(old: Any, new: Any) -> bool:
    return list(old) == new if isinstance(new, list) and isinstance(old, (list, tuple)) else old is new or old == new


def sizes_written_out(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`view` with -1, and `_unsafe_view`, as a `view` with all sizes."""
    value = tensor_of(node)
    if value is None or call.target is aten.view.default and list(call.args[1]) == list(value.shape):
        return None
    return Call(aten.view.default, (call.args[0], list(value.shape)))


def plain_turn(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`permute`, `transpose`, `t`: the plainest of the three that does it, its dimensions in order."""
    value = tensor_of(call.args[0])
    order = order_of(call, value.dim()) if value is not None else None
    if order is None or order == list(range(len(order))):
        return None
    plain = turned(call.args[0], order)
    same = plain.target is call.target and all(_alike(old, new) for old, new in zip(call.args, plain.args, strict=True))
    return None if same else plain


def end_within(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x[2:9223372036854775807]` as `x[2:8]`, with every argument written out."""
    value = tensor_of(call.args[0])
    if value is None or not value.dim():
        return None
    given = (*call.args[1:], *(0, None, None, 1)[len(call.args) - 1 :])
    dim, begin, end, step = int(given[0] or 0) % value.dim(), given[1], given[2], given[3]
    begin, end, _ = slice(begin, end).indices(value.shape[dim])
    args = (call.args[0], dim, begin, max(begin, end), step)
    plain = args[:4] if step == 1 else args
    return None if call.args == plain else Call(call.target, plain)


RULES = by_operator({
    "mul.Scalar(x, c) is mul(x, c)": ((*SCALARS, *WITH_NUMBER), plain_number),
    "x * tensor(c) is x * c": (WITH_NUMBER, with_number),
    "x - c is x + (-c)": ((aten.sub.Tensor,), sum_of_negative),
    "b * a is a * b": (COMMUTATIVE, ordered),
    "permute and t are transpose": ((aten.permute.default, aten.transpose.int, aten.t.default), plain_turn),
    "x[a:] is x[a:b]": ((aten.slice.Tensor,), end_within),
    "dimension -1 is the last": ([target for target in DIMENSIONS if target is not aten.slice.Tensor], counted_from_front),
    "view(-1) is view(n)": ((aten.view.default, aten._unsafe_view.default), sizes_written_out),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Nodes that are not in their normal form."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The same node in its normal form."""
    rewrite_by(gm, match, RULES)


def _two_ways(x: Tensor, y: Tensor) -> Tensor:
    return (x * y + y * x).sum(-1) + (x - 3).sum(1) + (x + -3.0).sum(1) + (y.mT * 2).sum(0)


def _numbers() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 8), torch.randn(4, 8)


OPTIMIZATION = Optimization(
    name="canonicalize",
    summary="Writes equal things in one way.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_two_ways), _numbers, matches=5),
        Example(lambda: Function(lambda x: x[1:].permute(1, 0).reshape(-1)), lambda: _numbers()[:1], matches=3),
        Example(lambda: Function(lambda x: x.softmax(-1) * torch.tensor(2.0)), lambda: _numbers()[:1], matches=2),
    ),
    refusals=(
        Example(lambda: Function(lambda x: x - 0), lambda: _numbers()[:1], reason="-0.0"),
        Example(lambda: Function(lambda x, y: y.exp() + x), lambda: (torch.randn(4), torch.randn(4, 4)), reason="differ in shape"),
        Example(lambda: Function(lambda n: n - 3), lambda: (torch.ones(4, dtype=torch.uint8),), reason="Unsigned"),
    ),
    exactness="bitwise",
)
