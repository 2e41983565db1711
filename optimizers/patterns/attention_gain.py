"""Is a kernel in the place of an attention worth it, and can its operands be shown to it without knowing all sizes?"""

from __future__ import annotations

import math

import torch
from torch import fx

from graphs.cost import cost
from optimizers.editing import forced_copies
from optimizers.patterns.attention import Attention
from optimizers.patterns.attention_axes import VIEWS, before_joining, is_symbolic, shape
from optimizers.patterns.attention_kernels import Kernel
from optimizers.patterns.attention_masks import Layout, shape_of
from optimizers.patterns.attention_products import NotAttention
from optimizers.patterns.linear import can_be_viewed

aten = torch.ops.aten
Sizes = tuple[int, ...]


def operand_sizes(found: Attention, layout: Layout) -> tuple[Sizes, Sizes, Sizes]:
    """The left and the right operand of the product of queries and keys, and the values, in four dimensions and as they lie."""
    batch, heads, rows, columns = layout.sizes
    first, second = (rows, columns) if found.scores.queries == "R" else (columns, rows)
    inner = shape(found.scores.product.left)[-1]
    width = shape(found.values)[-2 if found.values_first else -1]
    value = (width, columns) if found.values_first else (columns, width)
    return (batch, heads, first, inner), (batch, heads, inner, second), (batch, heads, *value)


def check_symbols(found: Attention, layout: Layout) -> None:
    """With unknown sizes no new view can be written: everything must be there in four dimensions.

    Raises:
        NotAttention: it is not.
    """
    product = found.scores.product
    if not any(map(is_symbolic, (product.node, found.out.node))):
        return
    if found.backward or found.dropout:
        raise NotAttention("Its sizes are symbols, with which only inference without dropout is rewritten.")
    operands = (product.left, product.right, found.values)
    if any(before_joining(node, sizes) is None for node, sizes in zip(operands, operand_sizes(found, layout), strict=True)):
        raise NotAttention("Its sizes are symbols, and an operand never has the dimensions batch, heads, rows, columns.")
    for masking in found.scores.maskings:
        if layout.order(masking.axes) != layout.parts or len(masking.axes) != 4 or shape_of(masking.axes) != layout.sizes:
            raise NotAttention("Its sizes are symbols, and its mask is not applied in the dimensions batch, heads, queries, keys.")
    batch, heads, rows, _ = layout.sizes
    wanted = (batch, heads, rows, shape(found.out.node)[-1])
    if found.values_first or any(shape(user) != wanted for user in found.out.node.users):
        raise NotAttention("Its sizes are symbols, and the weighted sum is read with batch and heads joined.")


def check_bytes(found: Attention, layout: Layout, kernel: Kernel) -> None:
    """Copies that the kernel needs may cost more than it saves where there are few queries.

    Raises:
        NotAttention: it would move more bytes than the graph as it is.
    """
    if is_symbolic(found.scores.product.node):
        return
    back = found.backward.nodes if found.backward else []
    costs = [cost(node) for node in (*found.nodes, *back)]
    now = sum(one.bytes_read + one.bytes_written for one in costs)
    then = _bytes_then(found, layout, kernel)
    if then > now:
        raise NotAttention(f"The kernel with the copies that it needs would move {then:,} bytes, and the graph as it is moves {now:,}.")


def _bytes_then(found: Attention, layout: Layout, kernel: Kernel) -> int:
    """An upper bound: the kernel's operands and results, copies of operands, and the making of the mask."""
    size, training = kernel.dtype.itemsize, found.backward is not None
    product = found.scores.product
    nodes = (product.left, product.right, found.values)
    sizes = operand_sizes(found, layout)
    three = sum(math.prod(one) for one in sizes) * size
    out = math.prod((*layout.sizes[:3], shape(found.out.node)[-2 if found.values_first else -1])) * size
    sums, scores = math.prod(layout.sizes[:3]) * 4, math.prod(layout.sizes)
    copies = sum(_copied(node, one, row, kernel) for node, one, row in zip(nodes, sizes, _rows_last(found), strict=True))
    total = three + out + sums + copies
    if training:
        total += 2 * three + 2 * out + sums + _copied_gradients(found, layout, kernel)
    if training and found.backward is not None and found.backward.read_outside:
        total += scores * size
    if found.dropout is not None:
        total += scores * (2 + training)
    masks = [shape(masking.mask) for masking in found.scores.maskings]
    whole = math.prod(torch.broadcast_shapes(*masks)) if masks else 0
    made = any(masking.fill is not None for masking in found.scores.maskings) + (len(masks) - 1 if masks else 0)
    return total + whole * 4 * (1 + training + 3 * made)


def _copied_gradients(found: Attention, layout: Layout, kernel: Kernel) -> int:
    """Bytes of the copies that readers of the gradients need: library kernels let the heads of one row lie side by side."""
    back = found.backward
    if back is None or kernel.name == "block by block":
        return 0
    left = back.left and (back.left[0], back.left[1])
    right = back.right and (back.right[0], not back.right[1])
    values = back.values and (back.values[0], back.values[1] != found.values_first)
    return 2 * sum(_copies_behind(node, turned, layout) for node, turned in filter(None, (left, right, values)))


def _copies_behind(product: fx.Node, turned: bool, layout: Layout) -> int:
    """Bytes that must be copied when the kernel gives what this product gave, transposed where `turned`."""
    batch, heads, *_ = layout.sizes
    *_, rows, width = (*shape(product)[:-2], *reversed(shape(product)[-2:])) if turned else shape(product)
    whole = torch.empty(batch, rows, heads, width, dtype=product.meta["val"].dtype, device="meta").transpose(1, 2)
    whole = whole.mT if turned else whole
    views = [user for user in product.users if user.target in VIEWS and shape(user) == tuple(whole.shape)]
    copies = [size for view in views for size in forced_copies(view, whole)]
    if len(views) < len(product.users):
        joined = whole.reshape(shape(product))
        copies += forced_copies(product, joined) if can_be_viewed(whole, joined.shape) else [joined.nbytes]
    return sum(copies)


def _rows_last(found: Attention) -> tuple[bool, bool, bool]:
    """For each operand: does its last dimension stay the last in the kernel?"""
    return True, False, not found.values_first


def _copied(node: fx.Node, sizes: Sizes, rows_last: bool, kernel: Kernel) -> int:
    """Bytes of the copy that an operand needs because its dtype is another or its rows are not dense."""
    value = (before_joining(node, sizes) or node).meta["val"]
    dense = value.stride(-1 if rows_last else -2) == 1 or value.shape[-1 if rows_last else -2] == 1
    cast = value.dtype != kernel.dtype
    return math.prod(sizes) * ((value.element_size() + kernel.dtype.itemsize if cast else 0) + (0 if dense else 2 * kernel.dtype.itemsize))
