"""Recognizes activations written by hand: x times a gate of x, in any order of factors.

`read_gated` starts at the one operator that cannot be written otherwise (tanh, erf, sigmoid) and multiplies out what stands around it: its argument must be
a given polynomial of x, and what it is multiplied with a given multiple of x.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from optimizers.editing import call
from optimizers.patterns.expressions import (
    ADDITIONS,
    PRODUCTS,
    QUOTIENTS,
    forward_readers,
    number,
    operands,
    plus_number,
    times_number,
    value,
)
from optimizers.patterns.gradients import Backward, NotWhole, Part, erase, part, replace_terms
from optimizers.patterns.numbering import Numbering, through

aten = torch.ops.aten
Polynomial = dict[int, float]
DEEPEST = 12


def polynomial(node: Any, x: fx.Node, numbers: Numbering, depth: int = DEEPEST) -> Polynomial | None:
    """Exponent -> coefficient, where a value is a polynomial of x."""
    constant = number(node)
    if constant is not None:
        return {0: constant}
    if not isinstance(node, fx.Node) or depth == 0:
        return None
    if numbers.same(node, x):
        return {1: 1.0}
    node = through(node)
    if node.target is aten.pow.Tensor_Scalar:
        inner, exponent = polynomial(node.args[0], x, numbers, depth - 1), number(node.args[1])
        return _to_power(inner, int(exponent)) if inner and exponent in (1.0, 2.0, 3.0) else None
    for targets, combine in (
        (ADDITIONS, _sum),
        ((aten.sub.Tensor, aten.sub.Scalar), _difference),
        (PRODUCTS, _product),
        (QUOTIENTS, _quotient),
    ):
        pair = operands(node, targets)
        if pair:
            one, other = (polynomial(each, x, numbers, depth - 1) for each in pair)
            return combine(one, other) if one is not None and other is not None else None
    return None


def _sum(one: Polynomial, other: Polynomial) -> Polynomial:
    return {power: one.get(power, 0.0) + other.get(power, 0.0) for power in one.keys() | other.keys()}


def _difference(one: Polynomial, other: Polynomial) -> Polynomial:
    return _sum(one, {power: -factor for power, factor in other.items()})


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for power, factor in one.items():
        for second, times in other.items():
            found[power + second] = found.get(power + second, 0.0) + factor * times
    return found


def _quotient(one: Polynomial, other: Polynomial) -> Polynomial | None:
    divisor = other.get(0, 0.0)
    return {power: factor / divisor for power, factor in one.items()} if divisor and other.keys() == {0} else None


def _to_power(inner: Polynomial, exponent: int) -> Polynomial:
    found: Polynomial = {0: 1.0}
    for _ in range(exponent):
        found = _product(found, inner)
    return found


def is_polynomial(found: Polynomial | None, wanted: Mapping[int, float], dtype: torch.dtype) -> bool:
    """Are they equal to the precision of float32, or of a wider dtype?"""
    if found is None or {power for power, factor in found.items() if factor} != wanted.keys():
        return False
    tolerance = 4 * min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return all(math.isclose(found[power], factor, rel_tol=tolerance) for power, factor in wanted.items())


def repeated_operands(node: fx.Node, numbers: Numbering) -> list[fx.Node]:
    """The values that an expression of sums, products and powers reads more than once, the outermost first: what it may be a polynomial of."""
    times: Counter[fx.Node] = Counter()
    level = [through(node)]
    for _ in range(DEEPEST):
        following = []
        for each in dict.fromkeys(level):
            pair = operands(each, (*ADDITIONS, *PRODUCTS, *QUOTIENTS))
            whole = each.target is aten.pow.Tensor_Scalar and number(each.args[1]) in (2.0, 3.0)
            inner = [through(each.args[0])] * 2 if whole else [arg for arg in pair or () if isinstance(arg, fx.Node)]  # type: ignore[arg-type]
            times.update(numbers.of(arg) for arg in inner)
            following.extend(inner)
        level = following
    return [value for value, count in times.items() if count > 1]


def variable_of_multiple(node: fx.Node) -> tuple[fx.Node, float]:
    """x and c of c · x, where c may come in several factors; c is 1 where there is none."""
    factor = 1.0
    while found := times_number(node):
        node, factor = found[0], factor * found[1]
    return through(node), factor


def read_gated(gate: fx.Node, x: fx.Node, factor: float, numbers: Numbering, plus_one: bool) -> Part:
    """factor · x · gate, or factor · x · (1 + gate).

    Raises:
        NotWhole: it is multiplied with something else.
    """
    node = gate
    if plus_one:
        readers = _inner_readers(gate)
        added = plus_number(readers[0]) if len(readers) == 1 else None
        if added is None or added[1] != 1.0:
            raise NotWhole(f"Nothing adds 1 to {gate.name} alone.")
        node = readers[0]
    so_far: Polynomial = {0: 1.0}
    dtype = value(x).dtype
    while not is_polynomial(so_far, {1: factor}, dtype):
        readers = _inner_readers(node)
        if len(readers) != 1:
            raise NotWhole(f"{node.name} is read by {len(readers)} others, not by one product with its argument.")
        so_far = _times(so_far, node, readers[0], x, numbers)
        node = readers[0]
    if value(node).shape != value(x).shape or value(node).dtype != dtype:
        raise NotWhole("The result has another shape or dtype than its argument.")
    return part(node, x)


def _inner_readers(node: fx.Node) -> list[fx.Node]:
    """Readers but the graph's output, for which there is a reason of its own."""
    return [reader for reader in forward_readers(node) if reader.op != "output"]


def _times(so_far: Polynomial, node: fx.Node, reader: fx.Node, x: fx.Node, numbers: Numbering) -> Polynomial:
    pair = operands(reader, PRODUCTS) or operands(reader, QUOTIENTS)
    if pair is None:
        raise NotWhole(f"{node.name} goes into {reader.name}, not into a product with its argument.")
    divides = reader.target in QUOTIENTS
    other = pair[1] if numbers.same(pair[0], node) else pair[0]
    factors = polynomial(other, x, numbers)
    if factors is None or (divides and not numbers.same(pair[0], node)):
        raise NotWhole("It multiplies another value than its own argument: a gate between two values.")
    found = _quotient(so_far, factors) if divides else _product(so_far, factors)
    if found is None or len(found) != 1 or not set(found) <= {0, 1}:
        raise NotWhole("It is multiplied with another multiple of its argument.")
    return found


def put_kernel(gm: fx.GraphModule, part: Part, backward: Backward | None, forward: Any, back: Any, **settings: str) -> None:
    """An elementwise operator of one argument, and its backward, in the place of a part."""
    with gm.graph.inserting_before(part.output):
        x = part.read(0)
        out = call(gm, forward, x, **settings)
    if backward:
        with gm.graph.inserting_before(backward.first()):
            gradient = call(gm, back, backward.grad, x, **settings)
        replace_terms(gm, backward, 0, gradient)
    part.output.replace_all_uses_with(out)
    erase([*part.nodes, *(backward.nodes if backward else ())])
