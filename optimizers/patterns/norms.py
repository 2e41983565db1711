"""Recognizes norms written by hand: x, or x less its mean, divided by the root of the mean of its squares.

`read` starts at the root: √(variance + eps) and its inverse are the one thing that every spelling has. It walks up to what is normed and down over a weight, a
bias and casts. Where the casts stand decides how much of it one kernel can be, so several choices are given, the longest first.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from optimizers.patterns.expressions import (
    ADDITIONS,
    PRODUCTS,
    QUOTIENTS,
    forward_readers,
    is_float_cast,
    last_sizes,
    mean_of,
    number,
    operands,
    plus_number,
    power,
    square_of,
    times_number,
    uncast,
    value,
)
from optimizers.patterns.gradients import NotWhole, Part, part
from optimizers.patterns.numbering import Numbering, through

aten = torch.ops.aten


@dataclass(frozen=True)
class Choice:
    """One way to cut the norm out: of x's dtype throughout at its borders.

    Attributes:
        part: reads x, then the weight and the bias where there are any.
    """

    part: Part
    has_weight: bool
    has_bias: bool


@dataclass(frozen=True)
class Norm:
    """(x − mean) / √(var + eps) · weight + bias, or without the mean.

    Attributes:
        centred: is the mean taken away?
        shape: sizes of the last dimensions, over which the mean is taken.
        choices: the longest first.
    """

    centred: bool
    shape: tuple[int, ...]
    eps: float
    choices: tuple[Choice, ...]


def roots(graph: fx.Graph) -> list[fx.Node]:
    """Every square root and vector norm: the places where a norm may be."""
    found = []
    for target in (aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.std.correction, aten.linalg_vector_norm.default):
        found.extend(node for node in graph.find_nodes(op="call_function", target=target) if node.meta["origin"].phase != "backward")
    return sorted(node for node in found if node.target is not aten.pow.Tensor_Scalar or node.args[1] in (0.5, -0.5))


def read(root: fx.Node, numbers: Numbering) -> Norm | None:
    """The norm around a root; None where nothing looks like one.

    Raises:
        NotWhole: it looks like one, and the reason why it is not, or not one that a kernel computes.
    """
    if root.target is aten.linalg_vector_norm.default:
        return _from_vector_norm(root, numbers)
    if root.target is aten.std.correction:
        _refuse_std(root)
        return None
    inside = power(root, 0.5) or power(root, -0.5)
    assert inside is not None
    with_eps = plus_number(inside)
    variance, eps = with_eps or (inside, 0.0)
    spread = _spread(variance, numbers)
    if spread is None:
        return None
    values, shape, centred = spread
    rate, divides = _rate(root)
    normal = _applied(rate, divides, values, numbers, centred)
    return _norm(normal, values, shape, eps, centred, numbers)


def _refuse_std(root: fx.Node) -> None:
    if any(plus_number(reader) or reader.target in QUOTIENTS for reader in forward_readers(root)):
        raise NotWhole("It divides by the standard deviation with eps outside of the root, or none; the kernel adds eps to the variance.")


def _spread(variance: fx.Node, numbers: Numbering) -> tuple[fx.Node, tuple[int, ...], bool] | None:
    """The value whose squares are averaged (uncast), the sizes, and whether it is centred."""
    variance = through(variance)
    if variance.target is aten.var.correction or _is_first_of_var_mean(variance):
        source = variance if variance.target is aten.var.correction else variance.args[0]
        return _from_var(source)  # type: ignore[arg-type]
    averaged = mean_of(variance)
    squared = square_of(averaged[0], numbers) if averaged else None
    if averaged is None or squared is None:
        return None
    less = operands(squared, (aten.sub.Tensor,))
    if less and _is_mean_of(less[1], less[0], numbers):
        return less[0], averaged[1], True
    return squared, averaged[1], False


def _is_first_of_var_mean(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    return isinstance(source, fx.Node) and source.target is aten.var_mean.correction and bool(node.args[1] == 0)


def _from_var(source: fx.Node) -> tuple[fx.Node, tuple[int, ...], bool] | None:
    operand = source.args[0]
    sizes = last_sizes(operand, source.args[1] if len(source.args) > 1 else None)  # type: ignore[arg-type]
    if sizes is None or source.kwargs.get("keepdim") is not True:
        return None
    correction = source.kwargs.get("correction", 1)
    if correction is None or number(correction) != 0:
        raise NotWhole(f"Its variance is unbiased: it divides by n − 1, the kernel by n = {math.prod(sizes)}.")
    return through(operand), sizes, True  # type: ignore[arg-type]


def _is_mean_of(node: fx.Node, operand: fx.Node, numbers: Numbering) -> bool:
    """Is it the mean of the operand, perhaps given by `var_mean`?"""
    if not isinstance(node, fx.Node):
        return False
    node = through(node)
    if node.args and isinstance(node.args[0], fx.Node) and node.args[0].target is aten.var_mean.correction:
        return bool(node.args[1] == 1) and numbers.same(node.args[0].args[0], operand)
    found = mean_of(node)
    return found is not None and numbers.same(uncast(found[0]), uncast(operand))


def _rate(root: fx.Node) -> tuple[fx.Node, bool]:
    """The node that multiplies (1/√) or divides (√) the values."""
    if power(root, -0.5):
        return root, False
    readers = forward_readers(root)
    inverse = readers[0] if len(readers) == 1 and power(readers[0], -1.0) else None
    if inverse:
        following = forward_readers(inverse)
        times = times_number(following[0]) if len(following) == 1 else None
        return (following[0] if times and times[1] == 1.0 else inverse), False  # 1 / x is written as reciprocal · 1
    if any(plus_number(reader) for reader in readers):
        raise NotWhole("Its eps is added to the root; the kernel adds it to the mean of squares, inside the root.")
    if any(reader.target in (aten.clamp_min.default, aten.clamp.default, aten.maximum.default) for reader in readers):
        raise NotWhole("The root is kept above a limit, which the kernel does not do.")
    return root, True


def _applied(rate: fx.Node, divides: bool, values: fx.Node, numbers: Numbering, centred: bool) -> fx.Node:
    """The node that brings values and rate together."""
    readers = [reader for reader in forward_readers(rate) if reader.op != "output"]
    targets = QUOTIENTS if divides else PRODUCTS
    found = [reader for reader in readers if reader.target in targets]
    if len(readers) != 1 or len(found) != 1:
        others = ", ".join(reader.name for reader in readers) or "nothing"
        raise NotWhole(f"The root of its mean of squares is read by {others}, not by one product with the values.")
    pair = operands(found[0], targets)
    assert pair is not None
    if divides and not numbers.same(pair[1], rate):
        raise NotWhole("The root is divided and does not divide.")
    other = pair[0] if numbers.same(pair[1], rate) else pair[1]
    if not isinstance(other, fx.Node):
        raise NotWhole("The root meets a number, not the values.")
    for candidate in (other, *(operands(other, PRODUCTS) or ())):  # weight · (x − mean) / root
        if _is_normed(candidate, values, numbers, centred):
            return found[0]
    raise NotWhole("What it divides is not the value whose squares it averages.")


def _is_normed(node: object, values: fx.Node, numbers: Numbering, centred: bool) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if not centred:
        return numbers.same(uncast(node), uncast(values))
    less = operands(node, (aten.sub.Tensor,))
    return less is not None and numbers.same(less[0], values) and _is_mean_of(less[1], values, numbers)


def _from_vector_norm(root: fx.Node, numbers: Numbering) -> Norm | None:
    """x / (‖x‖ / √n): eps is zero."""
    order = number(root.args[1]) if len(root.args) > 1 else 2.0
    sizes = last_sizes(root.args[0], root.args[2]) if len(root.args) > 3 and root.args[3] else None  # type: ignore[arg-type]
    if order != 2.0 or sizes is None:
        return None
    readers = forward_readers(root)
    if any(reader.target in (aten.clamp_min.default, aten.clamp.default, aten.maximum.default) for reader in readers):
        raise NotWhole("The length is kept above a limit, so that zeros stay zeros; the kernel has no such limit.")
    scaled = times_number(readers[0]) if len(readers) == 1 else None
    if scaled is None:
        return None
    if not math.isclose(scaled[1], math.prod(sizes) ** -0.5, rel_tol=1e-9):
        raise NotWhole(f"The length is not divided by the root of n = {math.prod(sizes)}.")
    values = through(root.args[0])  # type: ignore[arg-type]
    if any(plus_number(reader) for reader in forward_readers(readers[0])):
        raise NotWhole("Its eps is added to the root; the kernel adds it to the mean of squares, inside the root.")
    normal = _applied(readers[0], True, values, numbers, False)
    return _norm(normal, values, sizes, 0.0, False, numbers)


def _norm(normal: fx.Node, values: fx.Node, shape: tuple[int, ...], eps: float, centred: bool, numbers: Numbering) -> Norm:
    """Walks down from the normalized values over weight, bias and casts; every stop is a choice."""
    weight: fx.Node | None = _weight_inside(normal, values, shape)
    bias: fx.Node | None = None
    stops: list[tuple[fx.Node, fx.Node | None, fx.Node | None]] = [(normal, weight, bias)]
    node = normal
    while len(readers := forward_readers(node)) == 1 and readers[0].op == "call_function":
        following = readers[0]
        if is_float_cast(following):
            pass
        elif weight is None and bias is None and (found := _vector_beside(following, node, PRODUCTS, shape, numbers)):
            weight = found
        elif centred and bias is None and (found := _vector_beside(following, node, ADDITIONS, shape, numbers)):
            bias = found
        else:
            break
        stops.append((following, weight, bias))
        if value(following).dtype.itemsize < value(node).dtype.itemsize:
            break  # a kernel rounds at its end: what follows a rounding is not in it
        node = following
    choices = []
    for output, scale, shift in reversed(stops):
        for x in dict.fromkeys((uncast(values), values)):
            reads = [each for each in (x, scale, shift) if each is not None]
            if {value(each).dtype for each in (output, *reads)} == {value(x).dtype} and value(output).shape == value(x).shape:
                with contextlib.suppress(NotWhole):
                    choices.append(Choice(part(output, *reads), scale is not None, shift is not None))
    if not choices:
        raise NotWhole("Values, weight and result differ in dtype, and the kernel takes one.")
    return Norm(centred, shape, eps, tuple(choices))


def _weight_inside(normal: fx.Node, values: fx.Node, shape: tuple[int, ...]) -> fx.Node | None:
    """The weight of weight · x / root."""
    pair = operands(normal, (*PRODUCTS, *QUOTIENTS))
    for arg in pair or ():
        if isinstance(arg, fx.Node) and through(arg) is values:
            continue  # what is normalized may be a product with a weight itself
        inner = operands(arg, PRODUCTS)
        for one in inner or ():
            if isinstance(one, fx.Node) and tuple(value(one).shape) == shape and value(values).dim() > len(shape):
                return one
    return None


def _vector_beside(node: fx.Node, operand: fx.Node, targets: tuple[Any, ...], shape: tuple[int, ...], numbers: Numbering) -> fx.Node | None:
    """The other operand, where it has the shape of a weight."""
    pair = operands(node, targets)
    if pair is None or numbers.same(*pair):
        return None
    other = pair[1] if numbers.same(pair[0], operand) else pair[0]
    return other if isinstance(other, fx.Node) and tuple(value(other).shape) == shape and number(other) is None else None
