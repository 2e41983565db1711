"""Reassociate constants: let constants that meet in a row become one.

## Why it is slow
`(x + 3) + 4` writes `x + 3` to memory and reads it back, only to add again; so do a scale after a scale, and a root whose reciprocal is
taken.

## What changes
`(x + 3) + 4` becomes `x + 7`, `(x * 2) / 3` becomes `x * (2 / 3)`, also with `-` and with the constant on the left; `1 / sqrt(x)` becomes
`rsqrt(x)`, `x * (1 / y)` becomes `x / y`, and `x + 0` becomes `x`. Each saves a launch and a round trip through memory.

## When it does not apply
The values are the same in mathematics, and rounded otherwise in a machine: floating-point addition is not associative (Goldberg, *What
every computer scientist should know about floating-point arithmetic*, 1991). One operation rounds once where two rounded twice; -0.0 may
become 0.0. Left alone:
- what others read too: both operations would stay;
- constants that together overflow the dtype: `x * 1e30 * 1e30` is 0 where x is 0, `x * inf` is not a number;
- whole numbers, whose arithmetic is exact: simplify-arithmetic takes those.

## Try it
Apply it to `(x + 3) - 3`: it leaves `x + 0`. Apply it once more and that goes too: one optimization opens a place for the next, even for
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.chains import ADD, DIV, MUL, RSUB, SUB, dtype_of, one_dtype, products, sums, tensor_and_number
from optimizers.patterns.constants import uniform
from optimizers.patterns.rules import Answer, Call, No, Reading, Rule, Same, by_operator, find_by, rewrite_by
from optimizers.record import Claim

aten = torch.ops.aten
RECIPROCAL = aten.reciprocal.default


def _of_floats(rule: Rule) -> Rule:
    """The rule, for real numbers only."""

    def asked(call: Call, node: fx.Node, reading: Reading) -> Answer:
        answer = rule(call, node, reading)
        dtype = dtype_of(node)
        if isinstance(answer, Call) and (dtype is None or not dtype.is_floating_point):
            return No("Arithmetic of whole numbers is exact: simplify-arithmetic does it.")
        return answer

    return asked


def added_zero(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x + 0`, which differs from `x` in the sign of zero alone."""
    if call.kwargs or len(call.args) != 2:
        return None
    for x, other in (call.args, call.args[::-1]):
        number = uniform(other, reading)
        if isinstance(x, fx.Node) and number is not None and number == 0:
            return Same(x)
    return None


def root_below(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`1 / sqrt(x)`."""
    inner = reading.inner(call.args[0], aten.sqrt.default)
    if inner is None or one_dtype(node, call.args[0], inner.args[0]) is None:
        return None
    if not reading.read_once(call.args[0]):
        return No(reading.shared(call.args[0]))
    return Call(aten.rsqrt.default, (inner.args[0],))


def times_reciprocal(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x · (1 / y)` and `(1 / y) · c`."""
    if call.kwargs or len(call.args) != 2:
        return None
    for x, y in (call.args, call.args[::-1]):
        inner = reading.inner(y, RECIPROCAL)
        if inner is None or not isinstance(x, fx.Node) or one_dtype(node, x, y, inner.args[0]) is None:
            continue
        if reading.source(x) is reading.source(y):
            return No("It is the square of a reciprocal, which has to stay for the other factor.")
        if not reading.read_once(y):
            return No(reading.shared(y))
        return Call(aten.div.Tensor, (x, inner.args[0]))
    return None


def difference_turned(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`-(x − y)` is `y − x`, but for the sign of zero."""
    inner = reading.inner(call.args[0], *SUB, *RSUB)
    if inner is None or inner.kwargs or not reading.read_once(call.args[0]):
        return None
    x, y = inner.args
    if one_dtype(node, call.args[0], x) is None:
        return None
    if inner.target in RSUB:
        return Call(aten.sub.Tensor, (x, y))
    if tensor_and_number(inner) is not None:
        return Call(aten.rsub.Scalar, (x, y))
    return Call(aten.sub.Tensor, (y, x)) if one_dtype(node, y) is not None else None


RULES = by_operator({
    "x + 0 = x": (ADD, _of_floats(added_zero)),
    "(x + a) + b = x + (a + b)": ((*ADD, *SUB, *RSUB), _of_floats(sums)),
    "(x * a) * b = x * (a * b)": ((*MUL, *DIV), _of_floats(products)),
    "x * (1 / y) = x / y": (MUL, _of_floats(times_reciprocal)),
    "1 / sqrt(x) = rsqrt(x)": ((RECIPROCAL,), _of_floats(root_below)),
    "-(x - y) = y - x": ((aten.neg.default,), _of_floats(difference_turned)),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """The later of two operations with constants."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One operation in the place of two."""
    rewrite_by(gm, match, RULES)


def _chain(x: Tensor) -> Tensor:
    return torch.sin(2 - (((x + 3) + 4) - 5)) * 2 / 3


def _normalized(x: Tensor) -> Tensor:
    return x * (1 / (x.abs() + 1).sqrt())


def _shared(x: Tensor) -> Any:
    once = x + 3
    return once + 4, once * 2


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="reassociate-constants",
    summary="Merges constants that meet in a row.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_chain), _numbers, matches=4),
        Example(lambda: Function(lambda x: torch.sin(x) + 0), _numbers, matches=1),
        Example(lambda: Function(_normalized), _numbers, matches=1),
        Example(lambda: Function(lambda x: 1 / torch.sqrt(x.abs())), _numbers, matches=1),
        Example(lambda: Function(lambda x: -(x - x.sin())), _numbers, matches=1),
    ),
    refusals=(
        Example(lambda: Function(_shared), _numbers, reason="read elsewhere"),
        Example(lambda: Function(lambda x: x * 1e30 * 1e30), _numbers, reason="overflow"),
        Example(lambda: Function(lambda n: n + 3 + 4), lambda: (torch.arange(4),), reason="exact"),
        Example(lambda: Function(lambda x: x + 0), _numbers, reason="share memory"),
        Example(lambda: Function(lambda x: (lambda y: y * y)(x.reciprocal())), _numbers, reason="square of a reciprocal"),
    ),
    exactness="rounding",
)
