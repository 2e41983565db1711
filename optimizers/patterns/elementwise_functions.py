"""Activations as operators of their own, and written by hand.

What is written by hand is known by what it computes, not by how it is spelled: a few elementwise operators that depend on one
value and on numbers are evaluated at many points, in float64, and compared with the functions that have a name. That tells what a graph
without a backward computes. `activations.py` reads how it is written, which it must: it has to find the backward that autograd wrote for
each spelling, to tell constants apart to the precision of float64, and to say at which operator a near-miss goes wrong.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from graphs.cost import is_pointwise

aten = torch.ops.aten
LONGEST = 12  # operators; a hard gate or a GELU by hand has at most 9
NAMES = {
    aten.relu.default: "relu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.silu.default: "swish",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
}


@dataclass(frozen=True)
class Activation:
    """A function of each element, in oneDNN's words: its name, its numbers, and which of several formulas."""

    name: str
    numbers: tuple[float, ...] = ()
    formula: str = ""


KNOWN: tuple[tuple[Activation, Callable[[Tensor], Tensor]], ...] = (
    (Activation("relu"), torch.relu),
    (Activation("sigmoid"), torch.sigmoid),
    (Activation("tanh"), torch.tanh),
    (Activation("swish"), functional.silu),
    (Activation("hardswish"), functional.hardswish),
    (Activation("hardsigmoid"), functional.hardsigmoid),
    (Activation("gelu", formula="none"), functional.gelu),
    (Activation("gelu", formula="tanh"), lambda x: functional.gelu(x, approximate="tanh")),
)


def activation_of(node: fx.Node) -> Activation | None:
    """The activation that one node is."""
    if node.target in NAMES:
        return Activation(NAMES[node.target])  # type: ignore[index]
    if node.target is aten.gelu.default:
        formula = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
        return Activation("gelu", formula=str(formula))
    if node.target is aten.leaky_relu.default:
        return Activation("leaky_relu", (_number(node, 1, 0.01),))
    if node.target is aten.hardtanh.default:
        return _limits(_number(node, 1, -1.0), _number(node, 2, 1.0))
    if node.target is aten.clamp.default and len(node.args) == 3 and None not in node.args:
        return _limits(_number(node, 1, 0.0), _number(node, 2, 0.0))
    if node.target is aten.clamp_min.default and node.args[1] == 0:
        return Activation("relu")
    return None


def _limits(low: float, high: float) -> Activation | None:
    return Activation("hardtanh", (low, high)) if low <= high else None


def _number(node: fx.Node, place: int, default: float) -> float:
    return float(node.args[place]) if len(node.args) > place else default  # type: ignore[arg-type]


def written_by_hand(value: fx.Node) -> tuple[list[fx.Node], Activation] | None:
    """The operators, in order, that make an activation of a value, which nobody else reads; the last gives the result."""
    waiting, cone = list(value.users), [value]
    heapq.heapify(waiting)
    inside, results = {value}, {value: _points()}
    while waiting and len(cone) <= LONGEST:
        node = heapq.heappop(waiting)
        if node in inside:
            continue
        if not _is_elementwise(node, value, inside):
            return None
        results[node] = _evaluated(node, results)
        cone.append(node)
        inside.add(node)
        if all(user in inside for read in cone[:-1] for user in read.users):
            found = _named(results[node])
            if found is not None:
                return cone[1:], found
        for user in node.users:
            heapq.heappush(waiting, user)
    return None


def _is_elementwise(node: fx.Node, value: fx.Node, inside: set[fx.Node]) -> bool:
    """Does it compute each element from the same element of nodes inside, in the value's shape and dtype?"""
    result = node.meta.get("val")
    if not is_pointwise(node.target) or not isinstance(result, Tensor):
        return False
    if any(read not in inside for read in node.all_input_nodes) or not all(_is_plain(arg) for arg in (*node.args, *node.kwargs.values())):
        return False
    return result.shape == value.meta["val"].shape and result.dtype == value.meta["val"].dtype


def _is_plain(arg: Any) -> bool:
    return arg is None or isinstance(arg, (fx.Node, int, float, str))


def _evaluated(node: fx.Node, results: dict[fx.Node, Tensor]) -> Tensor:
    args, kwargs = fx.map_arg((node.args, node.kwargs), results.__getitem__)  # type: ignore[misc]
    return node.target(*args, **kwargs)  # type: ignore[operator]


@functools.cache
def _points() -> Tensor:
    """Dense where activations bend, and far out on both sides."""
    sizes = torch.logspace(-6, 4, 200, dtype=torch.float64)
    far = torch.tensor([-1e30, 0.0, 1e30], dtype=torch.float64)
    return torch.cat([torch.linspace(-8, 8, 401, dtype=torch.float64), sizes, -sizes, far])


@functools.cache
def _known_results() -> tuple[tuple[Activation, Tensor], ...]:
    return tuple((activation, function(_points())) for activation, function in KNOWN)


def _named(result: Tensor) -> Activation | None:
    """The activation with these values, up to what constants written with eight digits make of it."""
    allowed = 1e-7 * _points().abs().clamp_min(1)
    for activation, known in _known_results():
        if bool(((result - known).abs() <= allowed).all()):
            return activation
    return None
