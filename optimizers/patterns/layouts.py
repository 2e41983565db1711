"""Operators that read memory in one layout only: what they are given in another must be copied first.

Most operators take any strides. These assume some, as whatever calls them in torch sees to it; a rewrite that gives their operand other strides has to see to it
too. PyTorch's attention for CPUs reads rows whose elements are side by side, and computes nonsense on others; its group norm refuses.
`as_strided` speaks of memory itself, and means what it meant when the graph was captured only of an operand that lies as it did then.
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


AS_CAPTURED = aten.as_strided.default
LAYOUT = "layout of its operand"


def remember(gm: fx.GraphModule) -> None:
    """Writes down how operands lie whose memory is spoken of, before a rewrite lays them out anew."""
    for node in gm.graph.find_nodes(op="call_function", target=AS_CAPTURED):
        node.meta.setdefault(LAYOUT, _lies(node.args[0].meta["val"]))


def can_be_restored(node: fx.Node) -> bool:
    """Does a copy in order lie as the operand did at first?"""
    strides, offset = node.meta[LAYOUT]
    value = node.args[0].meta["val"]  # type: ignore[union-attr]
    return offset == 0 and strides == _lies(torch.empty(value.shape, device="meta"))[0]


def _lies(value: Tensor) -> tuple[tuple[int, ...], int]:
    return tuple(step for step, size in zip(value.stride(), value.shape, strict=True) if size != 1), int(value.storage_offset())


def unreadable(node: fx.Node) -> list[fx.Node]:
    """The operands that the node cannot read as they lie."""
    rows, whole = ROWS.get(node.target, 0), WHOLE.get(node.target, 0)  # type: ignore[arg-type]
    counted = rows or whole or int(node.target is AS_CAPTURED)
    reads = [read for read in node.args[:counted] if isinstance(read, fx.Node)]
    return [read for read in reads if not takes(node, read.meta["val"])]


def takes(node: fx.Node, value: Tensor) -> bool:
    """Can the node read an operand that lies like this?"""
    if node.target in ROWS:
        return value.dim() == 0 or value.shape[-1] == 1 or value.stride(-1) == 1
    if node.target in WHOLE:
        last = torch.channels_last if value.dim() == 4 else torch.channels_last_3d
        return value.is_contiguous() or value.dim() in (4, 5) and value.is_contiguous(memory_format=last)
    if node.target is AS_CAPTURED and LAYOUT in node.meta:
        return _lies(value) == node.meta[LAYOUT]
    return True
