"""Matmuls that may be generated and not called: which they are, and what `addmm` and `baddbmm` are in parts.

Apart from the template itself, which imports all of Inductor.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BATCHED = 3  # dimensions of a product of many matrices


def _added(add: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`addmm` and `baddbmm` as a product and a sum."""
    product = left @ right if left.dim() < BATCHED else torch.bmm(left, right)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (add if beta == 1 else add * beta)


DECOMPOSITIONS = {aten.addmm.default: _added, aten.baddbmm.default: _added}


def has_product(body: fx.GraphModule) -> bool:
    """Is there a matmul that the template could be for?"""
    return any(why_not(node) == "" for node in _products(body))


def why_called(body: fx.GraphModule) -> str:
    """Why the body's first matmul that has no template has none; empty where there may be one for all."""
    return next(filter(None, map(why_not, _products(body))), "")


def _products(body: fx.GraphModule) -> list[fx.Node]:
    return [node for node in body.graph.nodes if node.target in PRODUCTS]


def why_not(product: fx.Node) -> str:
    """Why there is no template for a matmul, as far as its operands tell; empty where there may be one."""
    left, right = (read.meta["val"] for read in product.args[-2:])  # type: ignore[union-attr]
    if left.device.type != "cpu":
        return "The template that is generated here is the one in C++, for CPUs."
    if left.dtype not in DTYPES:
        return f"The template multiplies float32, bfloat16 and float16, not {str(left.dtype).removeprefix('torch.')}."
    if not left.numel() or not right.numel():
        return "It is empty."
    if left.stride(-1) != 1:
        return "The elements of its first matrix's rows are not side by side, and would have to be copied."
    return ""
