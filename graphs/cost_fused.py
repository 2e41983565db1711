"""Operations of kernels that do more than one thing: a matmul or a convolution, and for each element what follows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx


def _has(number: int) -> Callable[[Mapping[str, Any]], int]:
    return lambda _given: number


def _by_name(*names: str) -> Callable[[Mapping[str, Any]], int]:
    """One operation for each of these arguments that names a function; `none` and nothing name none."""
    return lambda given: sum(given.get(name) not in (None, "", "none") for name in names)


# By the operator's name, as some builds of torch lack some: operations for each element after the product.
AFTER: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "mkldnn::_linear_pointwise": _by_name("attr"),
    "mkldnn::_linear_pointwise.binary": _by_name("attr"),
    "mkldnn::_convolution_pointwise": _by_name("attr"),
    "mkldnn::_convolution_pointwise.binary": _by_name("binary_attr", "unary_attr"),
    "aten::_addmm_activation": _has(1),
    "aten::cudnn_convolution_relu": _has(1),
    "aten::cudnn_convolution_add_relu": _has(2),
}


def fused_operations(node: fx.Node) -> tuple[int, int] | None:
    """(operations of the product, operations of what follows it); None for any other operator.

    Every element of the result is a sum of products with one row of the weight [rows, …], 2 operations each.
    """
    target = node.target
    after = AFTER.get(target.name()) if isinstance(target, torch._ops.OpOverload) else None
    if after is None or not isinstance(node.meta.get("val"), Tensor):
        return None
    given = _arguments(node)
    size = node.meta["val"].numel()
    row = given["mat1"].shape[1:] if "mat1" in given else given["W" if "W" in given else "weight"].shape[1:]
    return 2 * size * math.prod(row), size * after(given)


def _arguments(node: fx.Node) -> dict[str, Any]:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {name: value.meta.get("val") if isinstance(value, fx.Node) else value for name, value in given.items()}
