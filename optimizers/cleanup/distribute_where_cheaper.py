"""Distribute where cheaper: take a common factor out of a sum.

## Why it is slow
`a * x + b * x` multiplies twice. Where `a` and `b` are small beside `x`, as scales of channels are, `(a + b) * x` does nearly all its
work once; where they are numbers, `7 * x` is one launch where there were three. Two matrix products with a common operand cost twice what
one costs.

## What changes
The factor that both products share is multiplied once, with the sum of the others: `x * y + x * z` becomes `x * (y + z)`, `3 * x + x`
becomes `4 * x`, and `x @ y + x @ z` becomes `x @ (y + z)`. The same for differences.

## When it does not apply
Two products round otherwise than one, so values change in their last digits. Left alone:
- a product that others read too: it would be computed anyway;
- matrices whose sum is larger than what it saves: adding two 4096 × 4096 matrices for the sake of one row is no gain;
- products that overflow are not looked for: where `x * y` is infinite and `x * z` is minus infinity, their sum is no number, and `x * (y + z)` may be one;
- whole numbers of another dtype than the sum, and constants that overflow.

## Try it
Write a layer with two scales, `x * a + x * b`, with `a` and `b` of shape (8,) and `x` of shape (1024, 8), and look at the bytes moved
before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.chains import MUL, dtype_of, one_dtype
from optimizers.patterns.constants import is_normal, rounded
from optimizers.patterns.rules import Answer, Call, No, Reading, by_operator, find_by, rewrite_by
from optimizers.record import Claim

aten = torch.ops.aten
SUMS = {aten.add.Tensor: 1, aten.sub.Tensor: -1}
MATMULS = (aten.mm.default, aten.bmm.default)


@dataclass(frozen=True)
class Product:
    """One side of a sum: a factor, and what it is multiplied with; a lone `x` is `x · 1`."""

    node: fx.Node
    factor: fx.Node
    other: Any


def factored(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x · y ± x · z`."""
    if call.kwargs or len(call.args) != 2 or not all(isinstance(arg, fx.Node) for arg in call.args):
        return None
    pair = _with_common_factor(*(_ways(reading.source(arg), reading) for arg in call.args))
    if pair is None:
        return None
    one, two = pair
    if one.node is two.node:
        return No("Both terms are one and the same product, which is computed once already.")
    dtype = one_dtype(node, one.node, two.node, one.factor)
    if dtype is None or dtype.is_complex or dtype is torch.bool:
        return No("The dtype changes between product and sum.")
    for side in pair:
        if side.node is not side.factor and not reading.read_once(side.node):
            return No(reading.shared(side.node))
    return _factored(call, node, one, two, dtype)


def _ways(node: fx.Node, reading: Reading) -> list[Product]:
    """The node as a product, in each order, and as itself times 1."""
    inner = reading.inner(node, *MUL)
    found = [Product(node, node, 1)]
    if inner is not None and not inner.kwargs:
        x, y = inner.args
        found.append(Product(node, x, y))
        if isinstance(y, fx.Node):
            found.append(Product(node, y, x))
    return found


def _with_common_factor(ones: list[Product], twos: list[Product]) -> tuple[Product, Product] | None:
    """x + x is left as it is: one launch either way."""
    pairs = [(one, two) for one in ones for two in twos if one.factor is two.factor]
    return next((pair for pair in pairs if not all(side.node is side.factor for side in pair)), None)


def _factored(call: Call, node: fx.Node, one: Product, two: Product, dtype: torch.dtype) -> Answer:
    numbers = [side.other for side in (one, two) if isinstance(side.other, (int, float))]
    if len(numbers) == 2:
        constant = numbers[0] + SUMS[call.target] * numbers[1]
        return _times_constant(one.factor, constant, numbers, dtype)
    if any(isinstance(number, float) and not dtype.is_floating_point for number in numbers):
        return No("The dtype changes between product and sum.")
    kinds = {dtype_of(side.other) for side in (one, two) if isinstance(side.other, fx.Node)}
    if kinds != {dtype}:
        return No("The factors have different dtypes.")
    first, second = one.other, two.other
    if not isinstance(first, fx.Node):
        return _number_first(call, one, two)
    return Call(aten.mul.Tensor, (one.factor, Call(call.target, (first, second))))


def _number_first(call: Call, one: Product, two: Product) -> Answer:
    """c · x ± x · z: the sum of a number and a tensor begins with the tensor; a difference turns round."""
    target = aten.add.Tensor if call.target is aten.add.Tensor else aten.rsub.Scalar
    return Call(aten.mul.Tensor, (one.factor, Call(target, (two.other, one.other))))


def _size(value: Any) -> int:
    return value.meta["val"].numel() if isinstance(value, fx.Node) else 1


def _times_constant(x: fx.Node, constant: float, given: Sequence[float], dtype: torch.dtype) -> Answer:
    if dtype.is_floating_point:
        if not all(is_normal(each, dtype) for each in (*given, constant)):
            return No(f"A factor of {constant:g} is outside of what the dtype holds in full precision.")
    elif not isinstance(constant, int) or any(rounded(each, dtype) != each for each in (*given, constant)):
        return No("The constants do not fit the dtype.")
    return Call(aten.mul.Tensor, (x, constant))


def factored_matmul(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x @ y ± x @ z` and `x @ z ± y @ z`."""
    if call.kwargs or len(call.args) != 2:
        return None
    one, two = (reading.inner(arg, *MATMULS) for arg in call.args)
    if one is None or two is None or one.target is not two.target or call.args[0] is call.args[1]:
        return None
    side = next((side for side in (0, 1) if one.args[side] is two.args[side]), None)
    if side is None or one_dtype(node, *call.args) is None:
        return None
    for arg in call.args:
        if not reading.read_once(arg):
            return No(reading.shared(arg))
    first, second = one.args[1 - side], two.args[1 - side]
    shared, added, out = _size(one.args[side]), _size(first), _size(node)
    if 4 * added + shared + out >= 2 * shared + 2 * added + 5 * out:
        return No(f"The matrices to be added have {added:,} elements each, more than the addition of products of {out:,} saves.")
    total = Call(call.target, (first, second))
    return Call(one.target, (one.args[0], total) if side == 0 else (total, one.args[1]))


RULES = by_operator({
    "x * y + x * z = x * (y + z)": (SUMS, factored),
    "x @ y + x @ z = x @ (y + z)": (SUMS, factored_matmul),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Sums of two products with a common factor."""
    return find_by(gm, RULES, any_layout=True)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The factor, once, times a sum."""
    rewrite_by(gm, match, RULES, any_layout=True)


def _scales(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x * a + x * b


def _shared(x: Tensor, a: Tensor, b: Tensor) -> Any:
    product = x * a
    return product + x * b, product.sin()


def _twice(x: Tensor, y: Tensor) -> Tensor:
    product = x * y
    return product + product


def _channels() -> tuple[Tensor, ...]:
    return torch.randn(32, 8), torch.randn(8), torch.randn(8)


def _matrices(rows: int) -> tuple[Tensor, ...]:
    return torch.randn(rows, 16), torch.randn(16, 16), torch.randn(16, 16)


OPTIMIZATION = Optimization(
    name="distribute-where-cheaper",
    summary="Takes a common factor out of a sum.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_scales), _channels, matches=1),
        Example(lambda: Function(lambda x: x * 3 + x * 4 - x), lambda: (torch.randn(4, 8),), matches=2),
        Example(lambda: Function(lambda x, y, z: x @ y + x @ z), lambda: _matrices(16), matches=1),
        Example(lambda: Function(lambda n, m: n * m + n), lambda: (torch.arange(4), torch.arange(4)), matches=1),
    ),
    refusals=(
        Example(lambda: Function(_shared), _channels, reason="read elsewhere"),
        Example(lambda: Function(lambda x, y, z: x @ y + x @ z), lambda: _matrices(1), reason="elements each"),
        Example(lambda: Function(lambda x: x * 3e38 + x * 3e38), lambda: (torch.randn(4),), reason="full precision"),
        Example(lambda: Function(_twice), lambda: (torch.randn(4), torch.randn(4)), reason="computed once already"),
        Example(lambda: Function(lambda n: n * 2 + n * 0.5), lambda: (torch.arange(4),), reason="dtype"),
    ),
    exactness="rounding",
    finite=True,
)
