"""Fuse attention: one kernel for scores, softmax and weighted sum.

## Why it is slow
Attention written by hand makes the matrix of scores, one number for every pair of query and key, writes it to memory, reads it to
scale, mask and normalize it, and writes it again each time. In training the probabilities are kept until backward:
batch · heads · sequence² numbers for every layer.

## What changes
`scaled_dot_product_attention`'s kernel works block by block on the chip and never writes the matrix (Dao et al. 2022,
*FlashAttention*, section 3.1). In a training graph its backward takes over too: it keeps one number per row and computes the
probabilities anew.

## When it does not apply
When somebody else reads the probabilities or the scores, they must exist. Dropout on the probabilities would draw other random
numbers. A mask that is learned needs the gradient of the scores. Sums are taken in another order, so results differ by rounding.

## Try it
Double `seq`: bytes moved before grow with its square, after in proportion.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.patterns.attention import Attention, Backward, NotAttention, read, shape
from optimizers.record import Claim

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every softmax, as attention or with the reason why not."""
    for node in list(gm.graph.nodes):
        if node.target is not aten._softmax.default:
            continue
        try:
            found = read(node)
            _check(found)
        except NotAttention as reason:
            yield Miss(node, str(reason))
            continue
        nodes = [*found.nodes, *(found.backward.nodes if found.backward else [])]
        rows, columns = shape(node)[-2:]
        yield Match(node, tuple(dict.fromkeys(nodes)), found, f"{rows} queries × {columns} keys, {len(nodes)} nodes")


def _check(found: Attention) -> None:
    """What the kernel asks for."""
    if not value_of(found.softmax).numel():
        raise NotAttention("It has no scores at all, so there is nothing to save.")
    query, key_t, value = (value_of(node) for node in (found.query, found.key_t, found.value))
    if not query.dtype == key_t.dtype == value.dtype:
        raise NotAttention("Query, key and value differ in dtype.")
    if query.shape[-1] != value.shape[-1]:
        raise NotAttention("Query and value differ in width per head.")
    if query.device.type == "cuda" and found.backward and found.mask:
        raise NotAttention("The CUDA kernel with a mask keeps a padded copy of it for backward, which this rewrite does not make.")
    leaving = [found.out, *([found.backward.query, found.backward.key, found.backward.value] if found.backward else [])]
    for product in leaving:
        wanted = (*shape(found.softmax)[:2], *shape(product)[-2:])
        if any(user.target not in VIEWS or shape(user) != wanted for user in product.users):
            raise NotAttention(f"{product.name} is read with batch and heads joined.")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: Attention = match.data
    with gm.graph.inserting_before(found.out):
        key = _transposed(gm, found.key_t)
        operands = [_rows_dense(gm, node) for node in (found.query, key, found.value)]
        mask = _mask(gm, found)
        fused, out, row_sums = _forward(gm, found, operands, mask)
    del fused
    _take_over(found.out, out)
    if found.backward:
        _rewrite_backward(gm, found, found.backward, operands, mask, out, row_sums)


def _call(gm: fx.GraphModule, target: object, *args: object, **kwargs: object) -> fx.Node:
    """A new node with its fake value, since later steps of the rewrite look at strides."""
    node = gm.graph.call_function(target, args, kwargs)  # type: ignore[arg-type]
    real_args, real_kwargs = fx.map_arg((args, kwargs), lambda read: read.meta["val"])  # type: ignore[misc]
    mode = next(v.fake_mode for v in _tensors(real_args))
    with mode, torch.no_grad():
        node.meta["val"] = target(*real_args, **real_kwargs)  # type: ignore[operator]
    return node


def _tensors(value: object) -> Iterator[torch._subclasses.FakeTensor]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch._subclasses.FakeTensor):
            yield leaf


def _transposed(gm: fx.GraphModule, key_t: fx.Node) -> fx.Node:
    """The key before it was transposed, or a view that transposes it back."""
    if key_t.target is aten.transpose.int and set(_dims(key_t)) == {2, 3}:
        return key_t.args[0]  # type: ignore[return-value]
    return _call(gm, aten.transpose.int, key_t, -1, -2)


def _dims(node: fx.Node) -> tuple[int, int]:
    return node.args[1] % 4, node.args[2] % 4  # type: ignore[operator, return-value]


def _rows_dense(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The kernel needs the elements of a row side by side."""
    if value_of(node).stride(-1) == 1:
        return node
    return _call(gm, aten.clone.default, node, memory_format=torch.contiguous_format)


def _mask(gm: fx.GraphModule, found: Attention) -> fx.Node | None:
    """The mask as numbers to add, in the query's dtype."""
    if found.mask is None:
        return None
    dtype, device = value_of(found.query).dtype, value_of(found.query).device
    node = found.mask.node
    if found.mask.kind == "add":
        return node if value_of(node).dtype == dtype else _call(gm, aten._to_copy.default, node, dtype=dtype)
    fill = max(found.mask.fill, torch.finfo(dtype).min) if math.isfinite(found.mask.fill) else found.mask.fill
    zeros = _call(gm, aten.zeros_like.default, node, dtype=dtype, device=device)
    hidden = node if found.mask.kind == "fill where true" else _call(gm, aten.logical_not.default, node)
    return _call(gm, aten.masked_fill.Scalar, zeros, hidden, fill)


def _forward(gm: fx.GraphModule, found: Attention, operands: list[fx.Node], mask: fx.Node | None) -> tuple[fx.Node, fx.Node, fx.Node]:
    """The kernel's node, its output [B, H, Sq, D] and one number per row for backward."""
    if value_of(found.query).device.type == "cpu":
        fused = _call(
            gm,
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            *operands,
            0.0,
            False,
            attn_mask=mask,
            scale=found.scale,
        )
    else:
        fused = _call(
            gm,
            aten._scaled_dot_product_efficient_attention.default,
            *operands,
            mask,
            bool(found.backward),
            0.0,
            False,
            scale=found.scale,
        )
    return fused, _part(gm, fused, 0), _part(gm, fused, 1)


def _part(gm: fx.GraphModule, node: fx.Node, index: int) -> fx.Node:
    part = gm.graph.call_function(operator.getitem, (node, index))
    part.meta["val"] = node.meta["val"][index]
    return part


def _rewrite_backward(
    gm: fx.GraphModule,
    found: Attention,
    back: Backward,
    operands: list[fx.Node],
    mask: fx.Node | None,
    out: fx.Node,
    row_sums: fx.Node,
) -> None:
    with gm.graph.inserting_before(back.first):
        grad = _rows_dense(gm, back.grad_out)
        if value_of(found.query).device.type == "cpu":
            target = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
            fused = _call(gm, target, grad, *operands, out, row_sums, 0.0, False, attn_mask=mask, scale=found.scale)
        else:
            kernel = out.args[0]
            target = aten._scaled_dot_product_efficient_attention_backward.default
            seeds = [_part(gm, kernel, 2), _part(gm, kernel, 3)]  # type: ignore[arg-type]
            wanted = [True, True, True, False]
            fused = _call(gm, target, grad, *operands, None, out, row_sums, *seeds, 0.0, wanted, False, scale=found.scale)
        query, key, value = (_part(gm, fused, index) for index in range(3))
        key_t = _call(gm, aten.transpose.int, key, -1, -2)
    _take_over(back.query, query)
    _take_over(back.key, key_t)
    _take_over(back.value, value)


def _take_over(product: fx.Node, whole: fx.Node) -> None:
    """Readers of the product's four-dimensional views read the kernel's output."""
    for view in list(product.users):
        view.replace_all_uses_with(whole)


class _ByHand(nn.Module):
    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.p = nn.Linear(32, 96), p

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, _ = x.shape
        query, key, value = (part.view(batch, rows, 4, 8).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = query @ key.transpose(-1, -2) / 8**0.5
        hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        weights = nn.functional.dropout(weights, self.p, self.training)
        return (weights @ value).transpose(1, 2).reshape(batch, rows, 32)


def _with_weights(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ key.transpose(-1, -2)).softmax(-1)
    return weights @ value, weights


def _one() -> tuple[Tensor]:
    return (torch.randn(2, 16, 32),)


def _three() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 4, 16, 8) for _ in range(3))


OPTIMIZATION = Optimization(
    name="fuse-attention",
    summary="One kernel for scores, softmax and weighted sum; the matrix of scores is never written.",
    find=find,
    rewrite=rewrite,
    # Backward computes the scores again: operations rise in training.
    claim=Claim(launches="lower", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_ByHand, _one, matches=1), Example(_ByHand, _one, "training", matches=1)),
    refusals=(
        Example(lambda: _ByHand(0.5), _one, "training", reason="other random numbers"),
        Example(lambda: Function(_with_weights), _three, reason="output of the graph"),
        Example(lambda: Function(lambda x: x.softmax(-1)), lambda: (torch.randn(2, 8),), reason="batch, heads"),
    ),
    exactness="rounding",
)
