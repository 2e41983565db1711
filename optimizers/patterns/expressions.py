"""Small questions about how an expression is written: which number, which operand, a cast of what, a mean over which dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.patterns.numbering import Numbering, readers, through

aten = torch.ops.aten
ADDITIONS = (aten.add.Tensor, aten.add.Scalar)
PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)
QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)
CAST_KEYS = {"dtype", "layout", "device", "pin_memory", "non_blocking", "memory_format"}


def value(node: fx.Node) -> Tensor:
    """The node's fake tensor."""
    return node.meta["val"]


def number(given: Any) -> float | None:
    """A Python number, or a constant of the graph with one element."""
    if isinstance(given, bool):
        return None
    if isinstance(given, (int, float)):
        return float(given)
    if isinstance(given, fx.Node):
        if given.target is aten.full.default and not given.args[0]:
            return number(given.args[1])
        if given.target is aten.scalar_tensor.default:
            return number(given.args[0])
        if given.target is aten._to_copy.default:
            return number(given.args[0])
    return None


def close(one: float | None, other: float, dtype: torch.dtype) -> bool:
    """Is a constant the one that a kernel has inside, to the precision of the values that it meets?"""
    return one is not None and math.isclose(one, other, rel_tol=4 * torch.finfo(dtype).eps)


def operands(node: Any, targets: tuple[Any, ...]) -> tuple[Any, Any] | None:
    """The two operands where the node is one of the operators, without a factor `alpha`."""
    if not isinstance(node, fx.Node):
        return None
    node = through(node)
    if node.target not in targets or node.kwargs or len(node.args) != 2:
        return None
    return tuple(through(arg) if isinstance(arg, fx.Node) else arg for arg in node.args)  # type: ignore[return-value]


def plus_number(node: fx.Node) -> tuple[fx.Node, float] | None:
    """x and c of x + c or c + x."""
    pair = operands(node, ADDITIONS)
    return _with_number(pair)


def times_number(node: fx.Node) -> tuple[fx.Node, float] | None:
    """x and c of x · c, c · x or x / (1 / c)."""
    pair = operands(node, QUOTIENTS)
    if pair and isinstance(pair[0], fx.Node):
        divisor = number(pair[1])
        return (pair[0], 1 / divisor) if divisor else None
    return _with_number(operands(node, PRODUCTS))


def _with_number(pair: tuple[Any, Any] | None) -> tuple[fx.Node, float] | None:
    for one, other in (pair, pair[::-1]) if pair else ():
        found = number(other)
        if isinstance(one, fx.Node) and found is not None and number(one) is None:
            return one, found
    return None


def uncast(node: fx.Node) -> fx.Node:
    """The value before it was cast to a wider floating-point dtype."""
    node = through(node)
    if node.target is aten._to_copy.default and is_float_cast(node) and value(node.args[0]).dtype.itemsize <= value(node).dtype.itemsize:  # type: ignore[arg-type]
        return through(node.args[0])  # type: ignore[arg-type]
    return node


def is_float_cast(node: fx.Node) -> bool:
    """A cast from one floating-point dtype to another, on the same device."""
    if node.target is not aten._to_copy.default or not set(node.kwargs) <= CAST_KEYS:
        return False
    before, after = value(node.args[0]), value(node)  # type: ignore[arg-type]
    return before.is_floating_point() and after.is_floating_point() and before.device == after.device


def power(node: Any, exponent: float) -> fx.Node | None:
    """x of x to that power: as `pow`, as x · x, as a root or a reciprocal."""
    if not isinstance(node, fx.Node):
        return None
    node = through(node)
    if node.target is aten.pow.Tensor_Scalar and number(node.args[1]) == exponent:
        return through(node.args[0])  # type: ignore[arg-type]
    named = {2.0: aten.square.default, 0.5: aten.sqrt.default, -0.5: aten.rsqrt.default, -1.0: aten.reciprocal.default}.get(exponent)
    if named is not None and node.target is named:
        return through(node.args[0])  # type: ignore[arg-type]
    return None


def square_of(node: Any, numbers: Numbering) -> fx.Node | None:
    """x of x²."""
    pair = operands(node, PRODUCTS)
    if pair and numbers.same(*pair):
        return pair[0]
    return power(node, 2.0)


def mean_of(node: Any) -> tuple[fx.Node, tuple[int, ...]] | None:
    """The operand, and the sizes of the last dimensions over which its mean is taken; the dimensions stay, with size 1."""
    if not isinstance(node, fx.Node):
        return None
    node = through(node)
    if node.target is aten.mean.dim:
        return _over_last(node)
    scaled = times_number(node)
    if scaled and scaled[0].target is aten.sum.dim_IntList:
        found = _over_last(scaled[0])
        if found and math.isclose(scaled[1], 1 / math.prod(found[1]), rel_tol=1e-12):
            return found
    return None


def _over_last(node: fx.Node) -> tuple[fx.Node, tuple[int, ...]] | None:
    operand = node.args[0]
    if not isinstance(operand, fx.Node) or len(node.args) < 3 or node.args[2] is not True or node.kwargs.get("dtype"):
        return None
    sizes = last_sizes(operand, node.args[1])
    return (through(operand), sizes) if sizes else None


def last_sizes(operand: fx.Node, dims: Any) -> tuple[int, ...] | None:
    """Sizes of the dimensions where these are the last ones."""
    shape = value(operand).shape
    wanted = sorted(dim % len(shape) for dim in dims) if dims and shape else []
    if not wanted or wanted != list(range(len(shape) - len(wanted), len(shape))) or not math.prod(shape[wanted[0] :]):
        return None
    return tuple(shape[wanted[0] :])


def forward_readers(node: fx.Node) -> list[fx.Node]:
    """Readers outside of the backward pass."""
    return [reader for reader in readers(node) if reader.op == "output" or reader.meta["origin"].phase != "backward"]
