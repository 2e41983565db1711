"""Which values are one number everywhere: a number, a filled tensor, or a view, cast or copy of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from graphs.cost import is_pointwise
from optimizers.base import is_random
from optimizers.patterns.rules import Reading

aten = torch.ops.aten
FILLED: dict[Any, float | int] = {
    aten.zeros.default: 0, aten.ones.default: 1, aten.zeros_like.default: 0, aten.ones_like.default: 1,
    aten.new_zeros.default: 0, aten.new_ones.default: 1,
}  # fmt: skip
GIVEN = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2, aten.scalar_tensor.default: 0}
CREATORS = (*FILLED, *GIVEN)
KEEPS = (
    aten.lift_fresh_copy.default, aten._to_copy.default, aten.clone.default, aten.view.default, aten._unsafe_view.default, aten.expand.default,
    aten.unsqueeze.default, aten.permute.default, aten.transpose.int, aten.t.default, aten.alias.default, aten.detach.default,
    aten.slice.Tensor, aten.select.int, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.repeat.default,
)  # fmt: skip


def uniform(value: Any, reading: Reading) -> bool | int | float | None:
    """The number that every element is; None where they differ or nobody knows."""
    if isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, fx.Node):
        return None
    node = reading.source(value)
    if node.op == "get_attr":
        return _held(node)
    found = reading.call(node)
    if found is None:
        return None
    number: Any = FILLED.get(found.target)
    if found.target in GIVEN:
        number = found.args[GIVEN[found.target]]
    elif found.target in KEEPS:
        number = uniform(found.args[0], reading)
    return _as(number, node.meta.get("val")) if isinstance(number, (bool, int, float)) else None


def one_element(node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Tensor | None:
    """A tensor of as many dimensions, each of one element, for a value that is one number everywhere; None for others.

    Args:
        known: the same for what the node reads.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype.is_complex or any(read not in known for read in node.all_input_nodes):
        return None
    if node.target in CREATORS:
        target: Any = node.target
        number = node.args[GIVEN[target]] if target in GIVEN else FILLED[target]
        given = rounded(number, value.dtype) if isinstance(number, (bool, int, float)) else None
    elif node.target in KEEPS and node.all_input_nodes:
        given = rounded(known[node.all_input_nodes[0]].item(), value.dtype)
    elif is_pointwise(node.target) and node.all_input_nodes and not is_random(node):
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)  # type: ignore[misc]
        found = node.target(*args, **kwargs)  # type: ignore[operator]
        return found if isinstance(found, Tensor) and found.dtype == value.dtype and found.numel() == 1 else None
    else:
        return None
    return None if given is None else torch.full((1,) * value.dim(), given, dtype=value.dtype)


def _held(node: fx.Node) -> bool | int | float | None:
    """The one element of a constant of the graph."""
    value = getattr(node.graph.owning_module, str(node.target), None)
    if (
        not isinstance(value, Tensor)
        or isinstance(value, FakeTensor)
        or value.numel() != 1
        or value.is_complex()
        or value.device.type == "meta"
    ):
        return None
    return value.item()


def _as(number: float, value: object) -> bool | int | float | None:
    """The number as the tensor's dtype holds it."""
    return rounded(number, value.dtype) if isinstance(value, Tensor) and not value.dtype.is_complex else None


def rounded(number: float, dtype: torch.dtype) -> bool | int | float | None:
    """The number as the dtype holds it, None where it does not hold it at all."""
    try:
        return torch.tensor(number, dtype=dtype).item()
    except (RuntimeError, OverflowError):
        return None


def is_normal(number: float, dtype: torch.dtype) -> bool:
    """Is the number finite, and neither too small nor too large for the dtype's full precision? Zero is."""
    if not math.isfinite(number):
        return False
    limits = torch.finfo(dtype)
    return number == 0 or limits.tiny <= abs(number) <= limits.max


def is_power_of_two(number: float) -> bool:
    """±1, ±2, ±0.5 …: multiplying by it moves the exponent and rounds nothing."""
    return math.isfinite(number) and abs(math.frexp(number)[0]) == 0.5
