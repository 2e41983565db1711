"""Operators that read memory in one layout only: what they are given in another must be copied first.

Most operators take any strides. These assume some, as whatever calls them in torch sees to it; a rewrite that gives their operand other strides has to see to it
too. PyTorch's attention for CPUs reads rows whose elements are side by side, and computes nonsense on others; its group norm refuses.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ROWS = {
    aten._scaled_dot_product_flash_attention_for_cpu.default: 3,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: 5,
}  # the first so many operands are read by rows
WHOLE = {aten.native_group_norm.default: 1, aten.native_group_norm_backward.default: 2}


def unreadable(node: fx.Node) -> list[fx.Node]:
    """The operands that the node cannot read as they lie."""
    rows, whole = ROWS.get(node.target, 0), WHOLE.get(node.target, 0)  # type: ignore[arg-type]
    reads = [read for read in node.args[: rows or whole] if isinstance(read, fx.Node)]
    return [read for read in reads if not takes(node, read.meta["val"])]


def takes(node: fx.Node, value: Tensor) -> bool:
    """Can the node read an operand that lies like this?"""
    if node.target in ROWS:
        return value.dim() == 0 or value.shape[-1] == 1 or value.stride(-1) == 1
    if node.target in WHOLE:
        last = torch.channels_last if value.dim() == 4 else torch.channels_last_3d
        return value.is_contiguous() or value.dim() in (4, 5) and value.is_contiguous(memory_format=last)
    return True
