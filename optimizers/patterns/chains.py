"""Two constants in a row: `(x + 3) + 4` is `x + 7`, `(x · 2) · 3` is `x · 6`. Exact for whole numbers, rounded otherwise for others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from optimizers.patterns.constants import is_normal, rounded
from optimizers.patterns.rules import Answer, Call, No, Reading

aten = torch.ops.aten
ADD = (aten.add.Tensor, aten.add.Scalar)
SUB = (aten.sub.Tensor, aten.sub.Scalar)
MUL = (aten.mul.Tensor, aten.mul.Scalar)
DIV = (aten.div.Tensor, aten.div.Scalar)
RSUB = (aten.rsub.Scalar,)


def tensor_and_number(call: Call | None) -> tuple[fx.Node, int | float] | None:
    """The operands of `x ∘ c`; None with a factor `alpha`, with two tensors, or with a truth value."""
    if call is None or call.kwargs or len(call.args) != 2:
        return None
    x, number = call.args
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return (x, number) if isinstance(x, fx.Node) and is_number else None


def dtype_of(value: Any) -> torch.dtype | None:
    """The dtype of a node's tensor."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return found.dtype if isinstance(found, Tensor) else None


def one_dtype(*nodes: Any) -> torch.dtype | None:
    """The dtype that all nodes have; None where they differ: then the operator converts, and the equation is about other numbers."""
    kinds = {dtype_of(node) for node in nodes}
    return kinds.pop() if len(kinds) == 1 else None


def sums(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`(x ± a) ± b` and `c − (x ± a)`: one addition of what the constants come to."""
    outer = tensor_and_number(call)
    inner = reading.inner(outer[0], *ADD, *SUB, *RSUB) if outer else None
    operands = tensor_and_number(inner)
    if outer is None or inner is None or operands is None:
        return None
    (middle, b), (x, a) = outer, operands
    a = -a if inner.target in SUB else a
    if call.target in RSUB:  # b − (…)
        target, constant = (aten.add.Tensor, b - a) if inner.target in RSUB else (aten.rsub.Scalar, b - a)
    else:
        b = -b if call.target in SUB else b
        target, constant = (aten.rsub.Scalar if inner.target in RSUB else aten.add.Tensor), a + b
    return _one(node, reading, middle, x, (a, b), target, constant)


def products(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`(x · a) · b`, `(x · a) / b`, `(x / a) · b`, `(x / a) / b`: one multiplication or division."""
    outer = tensor_and_number(call)
    inner = reading.inner(outer[0], *MUL, *DIV) if outer else None
    operands = tensor_and_number(inner)
    if outer is None or inner is None or operands is None:
        return None
    (middle, b), (x, a) = outer, operands
    divides = call.target in DIV, inner.target in DIV
    if (divides[0] and b == 0) or (divides[1] and a == 0):
        return No("It divides by 0.")
    target = aten.div.Tensor if all(divides) else aten.mul.Tensor
    constant = a / b if divides == (True, False) else b / a if divides == (False, True) else a * b
    return _one(node, reading, middle, x, (a, b), target, constant)


def _one(node: fx.Node, reading: Reading, middle: fx.Node, x: fx.Node, given: tuple[float, float], target: Any, constant: float) -> Answer:
    dtype = one_dtype(node, middle, x)
    if dtype is None or dtype.is_complex or dtype is torch.bool:
        return No("The dtype changes between the two operations, so the constants are not of one kind.")
    if not reading.read_once(middle):
        return No(reading.shared(middle))
    if not dtype.is_floating_point:
        whole = rounded(_wrapped(int(constant), dtype), dtype) if all(isinstance(each, int) for each in (*given, constant)) else None
        return None if whole is None else Call(target, (x, whole))
    if not all(is_normal(each, dtype) for each in (*given, constant)):
        return No(f"With {constant:g} as one constant, {str(dtype).removeprefix('torch.')} would overflow or lose digits.")
    return Call(target, (x, constant))


def _wrapped(number: int, dtype: torch.dtype) -> int:
    """The number in the dtype's range: arithmetic of whole numbers goes round at both ends, so the sum may do so too."""
    limits = torch.iinfo(dtype)
    return (number - limits.min) % (limits.max - limits.min + 1) + limits.min
