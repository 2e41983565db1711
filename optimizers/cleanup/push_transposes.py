"""Push transposes: move a transposition through elementwise operators until it meets the opposite one.

## Why it is slow
`relu(x.t()).t()` turns a matrix there and back. The turns are views, but with a copy between them (`x.t().contiguous()`), whole tensors
are put in another order for the sake of an operator that does not care: elementwise operators treat every element alike, wherever it
lies.

## What changes
A `transpose`, `permute` or `t` is followed upwards through elementwise operators, casts and copies. Where every path ends in the opposite
turn, both ends go, and so do the copies between them: `T(f(T'(x))) = f(x)`. An operator with two tensors needs the opposite turn above
both.

## When it does not apply
When something other than an elementwise operator is between the turns: a sum or a softmax knows which dimension it works on. When a value
between them is read elsewhere too: it would be computed twice. When the turns are not opposite. No value changes, but where a copy goes
the result lies in another order, and a reduction that reads it may add up in that order.

## Try it
Apply it to a channels-last convolution block written with `permute`, then remove-no-ops: a `contiguous()` after the last turn has nothing
left to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from graphs.cost import is_pointwise
from optimizers.base import Example, Function, Match, Miss, Optimization, is_random
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.patterns.views import TURNS, order_of, tensor_of
from optimizers.record import Claim

aten = torch.ops.aten
FARTHEST = 24  # operators between two turns


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    """Why a turn gets no farther."""


def met(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """What is between two opposite turns, without them."""
    value = tensor_of(call.args[0])
    if value is None or value.dim() < 2 or _starts_here(call, reading):
        return None
    order = order_of(call, value.dim())
    assert order is not None
    climb = _Climb(reading, order)
    try:
        found = climb.above(call.args[0], 0)
    except _Refused as refused:
        return No(str(refused)) if climb.passed else None
    if climb.copies and not all(_in_order(leaf) for leaf in climb.leaves):
        return No("Without the copy, the result would lie in an order that its readers may not take.")
    return found if isinstance(found, Call) else Same(found)


def _starts_here(call: Call, reading: Reading) -> bool:
    """Two turns in a row are cancel-views' to take, and the turn of an input has nothing above it."""
    above = reading.call(call.args[0])
    return above is None or above.target in TURNS


def _in_order(leaf: fx.Node) -> bool:
    value = tensor_of(leaf)
    return value is not None and value.is_contiguous()


class _Climb:
    """The way of one turn upwards."""

    def __init__(self, reading: Reading, order: list[int]) -> None:
        self.reading, self.order = reading, order
        self.leaves: list[fx.Node] = []
        self.known: dict[fx.Node, Any] = {}  # y * y needs y once
        self.passed = self.copies = 0

    def above(self, value: fx.Node, depth: int) -> Any:
        """The value as if the turn had been above it: a node, or calls on nodes."""
        node = self.reading.source(value)
        if node not in self.known:
            self.known[node] = self._above(node, depth)
        return self.known[node]

    def _above(self, node: fx.Node, depth: int) -> Any:
        found = self.reading.call(node)
        shaped = tensor_of(node)
        if found is None or shaped is None or depth > FARTHEST:
            raise _Refused("There is no opposite turn above.")
        if found.target in TURNS:
            return self._at_turn(found, shaped.dim())
        if not self.reading.read_once(node):
            raise _Refused(self.reading.shared(node))
        if found.target is aten.clone.default:
            self.copies += 1
            return self.above(found.args[0], depth + 1)
        if not _is_elementwise(found, node) or any(isinstance(each, fx.Node) for each in found.kwargs.values()):
            raise _Refused(f"{node.name} is not elementwise: it knows which dimension is which.")
        self.passed += 1
        return Call(found.target, tuple(self._operand(arg, node, depth) for arg in found.args), found.kwargs)

    def _at_turn(self, found: Call, dims: int) -> fx.Node:
        upper = order_of(found, dims)
        if upper is None or [upper[dim] for dim in self.order] != list(range(dims)):
            self.passed += 1
            raise _Refused("The turn above is not the opposite of this one.")
        leaf = self.reading.source(found.args[0])
        self.leaves.append(leaf)
        return leaf

    def _operand(self, arg: Any, node: fx.Node, depth: int) -> Any:
        if not isinstance(arg, fx.Node):
            return arg
        value, whole = tensor_of(arg), tensor_of(node)
        if value is not None and value.dim() == 0:
            return arg
        if value is None or whole is None or value.shape != whole.shape:
            raise _Refused(f"{node.name} broadcasts an operand, whose dimensions would have to turn too.")
        return self.above(arg, depth + 1)


def _is_elementwise(call: Call, node: fx.Node) -> bool:
    if call.target is aten._to_copy.default:
        return set(call.kwargs) == {"dtype"}
    return is_pointwise(call.target) and not is_random(node)


RULES = by_operator({"T(f(T'(x))) = f(x)": (TURNS, met)})


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Turns with the opposite turn above, and only elementwise operators between them."""
    return find_by(gm, RULES, any_layout=True)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The operators between the turns, on what was there before the first one."""
    rewrite_by(gm, match, RULES, any_layout=True)


def _there_and_back(x: Tensor) -> Tensor:
    return torch.relu(x.t().contiguous() * 2).t().exp()


def _two(x: Tensor, y: Tensor) -> Tensor:
    return (x.transpose(1, 2).exp() + y.transpose(1, 2)).transpose(1, 2)


def _three(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1).sin().permute(1, 2, 0).contiguous()


def _squared(x: Tensor) -> Tensor:
    y = x.t().sin()
    return (y * y).t()


def _not_alike(x: Tensor) -> Tensor:
    return x.t().softmax(-1).exp().t()


def _read_elsewhere(x: Tensor) -> Any:
    y = x.t().sin()
    return y.exp().t(), y


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 8)))


OPTIMIZATION = Optimization(
    name="push-transposes",
    summary="Lets a transposition meet its opposite through elementwise operators.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_there_and_back), lambda: (_numbers(),), matches=1),
        Example(lambda: Function(_two), lambda: (_numbers(2, 3, 4), _numbers(2, 3, 4)), matches=1),
        Example(lambda: Function(_three), lambda: (_numbers(2, 3, 4),), matches=1),
        Example(lambda: Function(_squared), lambda: (_numbers(),), matches=1),
    ),
    refusals=(
        Example(lambda: Function(_not_alike), lambda: (_numbers(),), reason="not elementwise"),
        Example(lambda: Function(_read_elsewhere), lambda: (_numbers(),), reason="read elsewhere"),
        Example(lambda: Function(lambda x, b: (x.t().sin() + b).t()), lambda: (_numbers(), _numbers(4)), reason="broadcasts"),
        Example(
            lambda: Function(lambda x: x.permute(1, 2, 0).sin().transpose(0, 1)), lambda: (_numbers(2, 3, 4),), reason="not the opposite"
        ),
    ),
    exactness="rounding",
)
