"""Which kernel computes an attention that was found, and the nodes that call it, forward and backward."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

import graphs.blockwise_attention  # noqa: F401  # registers the operators
from optimizers.editing import call
from optimizers.patterns.attention import Attention
from optimizers.patterns.attention_axes import FLOATS, VIEWS, shape
from optimizers.patterns.attention_causal import is_causal
from optimizers.patterns.attention_products import NotAttention

aten = torch.ops.aten


@dataclass(frozen=True)
class Kernel:
    """`name` is what it is called in a note; the dtype is that of its operands; a causal one makes the mask by itself."""

    name: str
    dtype: torch.dtype
    causal: bool = False


@dataclass
class Operands:
    """Query, key and value [B, H, S, D], the mask to add, what dropout keeps, and queries that see no key [B, H, Sq, 1]."""

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: fx.Node | None
    keep: fx.Node | None
    p: float
    scale: float
    blind: fx.Node | None = None


def part(gm: fx.GraphModule, node: fx.Node, index: int) -> fx.Node:
    """One of a node's results."""
    found = gm.graph.call_function(operator.getitem, (node, index))
    found.meta["val"] = node.meta["val"][index]
    return found


def choose(found: Attention) -> Kernel:
    """The kernel for this device, dtype, mask and dropout.

    Raises:
        NotAttention: there is none.
    """
    product = found.scores.product
    values = [node.meta["val"] for node in (product.left, product.right, found.values)]
    dtype, device = values[0].dtype, values[0].device
    for value in values:
        dtype = torch.promote_types(dtype, value.dtype)
    if dtype not in FLOATS:
        raise NotAttention(f"No kernel computes attention in {str(dtype).removeprefix('torch.')}.")
    if 0 in (*found.scores.sizes.values(), *shape(product.left), *shape(found.values)):
        raise NotAttention("A dimension is empty, and the kernel would divide by its size.")
    inner = shape(product.left)[-1]
    width = shape(found.values)[-2 if found.values_first else -1]
    learned = found.backward is not None and found.backward.read_outside
    if device.type == "cpu":
        plain = found.dropout is None and not learned and inner == width
        return Kernel("flash, for CPUs", dtype, is_causal(found.scores)) if plain else Kernel("block by block", dtype)
    if device.type != "cuda":
        raise NotAttention(f"No kernel is known for the device {device.type}.")
    return _on_gpu(found, dtype, inner, width, learned)


def _on_gpu(found: Attention, dtype: torch.dtype, inner: int, width: int, learned: bool) -> Kernel:
    """FlashAttention for 16-bit floats without a mask, the memory-efficient kernel for the rest."""
    if found.dropout is not None:
        raise NotAttention("Dropout acts on the probabilities, and the GPU's kernel would draw other random numbers.")
    if dtype is torch.float64:
        raise NotAttention("The GPU's kernels do not compute in float64.")
    causal = not learned and is_causal(found.scores)
    if dtype is not torch.float32 and (causal or not found.scores.maskings) and inner == width and inner % 8 == 0 and inner <= 256:
        return Kernel("flash", dtype, causal)
    step = 4 if dtype is torch.float32 else 8
    if inner % step or width % step:
        raise NotAttention(f"The GPU's kernel needs a width per head that is a multiple of {step}, and here it is {inner} and {width}.")
    return Kernel("memory-efficient", dtype, causal)


def forward(gm: fx.GraphModule, kernel: Kernel, given: Operands, training: bool) -> fx.Node:
    """The kernel's node; its first result is [B, H, Sq, Dv], its second one number per row."""
    three = (given.query, given.key, given.value)
    if kernel.name == "block by block":
        target = torch.ops.fxscope.blockwise_attention.default
        return call(gm, target, *three, given.mask, given.keep, given.p, given.scale)
    if kernel.name == "flash, for CPUs":
        target = aten._scaled_dot_product_flash_attention_for_cpu.default
        return call(gm, target, *three, 0.0, kernel.causal, attn_mask=given.mask, scale=given.scale)
    if kernel.name == "flash":
        return call(gm, aten._scaled_dot_product_flash_attention.default, *three, 0.0, kernel.causal, False, scale=given.scale)
    target = aten._scaled_dot_product_efficient_attention.default
    return call(gm, target, *three, given.mask, training, 0.0, kernel.causal, scale=given.scale)


def backward(
    gm: fx.GraphModule, kernel: Kernel, given: Operands, fused: fx.Node, grad: fx.Node, with_scores: bool
) -> tuple[Sequence[fx.Node], fx.Node | None]:
    """(gradients of query, key and value; that of the scores where asked for)."""
    three = (given.query, given.key, given.value)
    results = [user for user in fused.users if user.target is operator.getitem]
    out, sums = (next((user for user in results if user.args[1] == index), None) or part(gm, fused, index) for index in (0, 1))
    if kernel.name == "block by block":
        target = torch.ops.fxscope.blockwise_attention_backward.default
        node = call(gm, target, grad, *three, out, sums, given.mask, given.keep, given.p, given.scale, with_scores)
    elif kernel.name == "flash, for CPUs":
        target = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        node = call(gm, target, grad, *three, out, sums, 0.0, kernel.causal, attn_mask=given.mask, scale=given.scale)
    elif kernel.name == "flash":
        target = aten._scaled_dot_product_flash_attention_backward.default
        more = [None if fused.meta["val"][at] is None else part(gm, fused, at) for at in (2, 3)]
        longest = [fused.meta["val"][at] for at in (4, 5)]
        seeds = [part(gm, fused, at) for at in (6, 7)]
        node = call(gm, target, grad, *three, out, sums, *more, *longest, 0.0, kernel.causal, *seeds, scale=given.scale)
    else:
        target = aten._scaled_dot_product_efficient_attention_backward.default
        seeds = [part(gm, fused, at) for at in (2, 3)]
        wanted = [True, True, True, with_scores]
        node = call(gm, target, grad, *three, given.mask, out, sums, *seeds, 0.0, wanted, kernel.causal, scale=given.scale)
    return [part(gm, node, at) for at in range(3)], part(gm, node, 3) if with_scores else None


def padded_for_gpu(gm: fx.GraphModule, mask: fx.Node, sizes: Sequence[int], dtype: torch.dtype) -> fx.Node:
    """The memory-efficient kernel reads a mask of the query's dtype, of full shape, whose rows begin at multiples of 16 bytes."""
    if mask.meta["val"].dtype != dtype:
        mask = call(gm, aten._to_copy.default, mask, dtype=dtype)
    columns = sizes[-1]
    lacking = -columns % 8
    if shape(mask)[-1] == 1 and columns > 1:
        mask = call(gm, aten.expand.default, mask, [*shape(mask)[:-1], columns])
    if lacking:
        mask = call(gm, aten.constant_pad_nd.default, mask, [0, lacking])
        mask = call(gm, aten.slice.Tensor, mask, -1, 0, columns)
    elif mask.meta["val"].stride(-1) != 1:
        mask = call(gm, aten.clone.default, mask, memory_format=torch.contiguous_format)
    return call(gm, aten.expand.default, mask, list(sizes)) if shape(mask) != tuple(sizes) else mask


def before_repeating(node: fx.Node) -> fx.Node | None:
    """Keys or values of grouped heads before they were repeated: [B, G, S, D] for [B, H, S, D]; None when they were not."""
    if node.target not in VIEWS:
        return None
    wide = node.args[0]
    while wide.target is aten.clone.default:  # type: ignore[union-attr]
        wide = wide.args[0]  # type: ignore[union-attr]
    narrow = wide.args[0] if wide.target is aten.expand.default else None  # type: ignore[union-attr]
    if not isinstance(narrow, fx.Node) or narrow.target is not aten.unsqueeze.default or narrow.args[1] not in (2, -3):
        return None
    given, repeated = shape(narrow.args[0]), shape(wide)
    whole = len(given) == 4 and repeated == (*given[:2], repeated[2], *given[2:])
    return narrow.args[0] if whole and shape(node) == (given[0], given[1] * repeated[2], *given[2:]) else None  # type: ignore[return-value]


def ungrouped(kernel: Kernel, key: fx.Node, value: fx.Node, training: bool) -> tuple[fx.Node, fx.Node]:
    """The CPU's kernel reads one key and value for the heads of a group by itself. In training their gradients are wanted repeated."""
    one, other = before_repeating(key), before_repeating(value)
    if kernel.name != "flash, for CPUs" or training or one is None or other is None or shape(one)[1] != shape(other)[1]:
        return key, value
    return one, other
