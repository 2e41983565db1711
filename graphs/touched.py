"""How many elements an operator that scatters in place touches: those that it selects. The one that is not in place copies all others too."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
BY_INDEX = (aten.scatter_, aten.scatter_add_)


def touched(node: fx.Node) -> tuple[int, bool] | None:
    """(elements of the first operand that are written, are they read too); None for other operators, and where the values of a mask decide."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in (aten.index_put_, aten.index_add_, *BY_INDEX):
        return None
    given: Any = fx.map_arg((node.args, node.kwargs), lambda read: read.meta.get("val"))
    args, kwargs = given
    if packet is aten.index_put_:
        count = _selected(args[0], args[1])
        return None if count is None else (count, bool(args[3] if len(args) > 3 else kwargs.get("accumulate", False)))
    if packet is aten.index_add_:
        return args[3].numel(), True
    return args[2].numel(), packet is aten.scatter_add_ or "reduce" in kwargs


def _selected(value: Tensor, indices: Any) -> int | None:
    """Elements of `value[indices]`."""
    chosen = [one for one in indices if one is not None]
    if any(one.dtype in (torch.bool, torch.uint8) for one in chosen):
        return None
    rest = [size for at, size in enumerate(value.shape) if at >= len(indices) or indices[at] is None]
    return math.prod(torch.broadcast_shapes(*(one.shape for one in chosen))) * math.prod(rest)
