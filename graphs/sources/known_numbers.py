"""Tensors whose numbers are known while a graph is captured: axes, shapes, pads and what is computed from them alone.

Some formats keep such numbers in tensors, and converters read them with `.item()`, which no capture can follow: a captured tensor has
a shape and no values. A `Known` tensor computes outside of the capture as long as it meets only its like, and gives its numbers to
whoever asks. Where it meets a captured tensor it is a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

LONGEST = 256
# Operators that take a Python number as their second operand, with the same result.
WITH_NUMBER = {"add", "sub", "mul", "div", "true_divide", "pow", "eq", "ne", "lt", "le", "gt", "ge"}


class Known(Tensor):
    """See the module."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not all(isinstance(one, Known) for one in tensors):
            args = _numbers_for(func, args)
            return func(*_plain(args), **_plain(dict(kwargs or {})))
        with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass():
            return pytree.tree_map_only(Tensor, known, func(*_plain(args), **_plain(dict(kwargs or {}))))


def known(value: Tensor) -> Tensor:
    """The tensor with its numbers known."""
    return value if isinstance(value, Known) else value.detach().as_subclass(Known)


def is_small(value: Tensor) -> bool:
    """May it be an axis, a shape, a scalar; rather than data?"""
    if value.is_floating_point():
        return value.dim() == 0
    return value.dim() <= 1 and value.numel() <= LONGEST and not value.is_complex()


def shape_of(value: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    """The shape as a tensor of integers, known."""
    sizes = list(value.shape)[start:end]
    if any(not isinstance(size, int) for size in sizes):
        raise NotImplementedError("the file's own computation on shapes cannot be kept symbolic: write dynamic=none")
    with _disable_current_modes():
        return known(torch.tensor(sizes, dtype=torch.int64))


def size_of(value: Tensor) -> Tensor:
    """The number of elements, known."""
    with _disable_current_modes():
        return known(torch.tensor(value.numel(), dtype=torch.int64))


def _plain(value: Any) -> Any:
    return pytree.tree_map_only(Known, lambda one: one.as_subclass(Tensor), value)


def _numbers_for(func: Any, args: Any) -> Any:
    """`x * Known(2.0)` is `x * 2.0`: an operator with one operand less, and a simpler gradient."""
    name = getattr(func, "__name__", "").strip("_")
    if name in WITH_NUMBER and len(args) == 2 and isinstance(args[1], Known) and args[1].dim() == 0:
        with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass():
            return args[0], args[1].as_subclass(Tensor).item()
    return args
