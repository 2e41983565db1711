"""Fuse attention: one kernel for scores, softmax and weighted sum.

## Why it is slow
Attention written by hand makes the matrix of scores, one number for every pair of query and key, writes it to memory, reads it to
scale, mask and normalize it, and writes it again each time. In training the probabilities are kept until backward:
batch · heads · sequence² numbers for every layer.

## What changes
`scaled_dot_product_attention`'s kernel works block by block on the chip and never writes the matrix (Dao et al. 2022,
*FlashAttention*, section 3.1). In a training graph its backward takes over too: it keeps one number per row and computes the
probabilities anew. A mask that constants of the graph prove to be the causal one is left to the kernel, which needs no mask for it.

Dropout on the probabilities stays what it was, draw for draw: the mask that dropout would draw is drawn at its place, one byte per
number instead of the probabilities and their product with it. Torch's CPU kernel takes no such mask, and gives no gradient for a
learned one (the position bias of T5), nor values of another width than the keys. There an operator of our own computes a block of
queries at a time: less memory and fewer bytes, but one kernel for each step on each block, so that launches rise with the sequence.

## When it does not apply
When somebody else reads the probabilities or the scores, they must exist. What stands between product and softmax must be a
scale, a mask or another layout: a cap by tanh is none of them. A GPU's kernels draw dropout in their own way, so there it is left alone.
Sums are taken in another order, so results differ by rounding. A row whose keys are all hidden by −∞ is not a number by hand and 0 here.
A number of −10,000 or less that a mask puts in the place of scores is taken to hide the key. Infinities and what is not a number in
queries, keys or values may spread otherwise than by hand, and so may the gradient of a row that an added mask of finite numbers hides whole.

## Try it
Double `seq`: bytes moved before grow with its square, after in proportion. With dropout, compare peak memory and launches.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call, viewed
from optimizers.patterns.attention import Attention, read
from optimizers.patterns.attention_axes import before_joining, shape
from optimizers.patterns.attention_gain import check_bytes, check_symbols, operand_sizes
from optimizers.patterns.attention_kernels import Kernel, Operands, backward, choose, forward, padded_for_gpu, part, ungrouped
from optimizers.patterns.attention_masks import Layout, blind_rows, build_mask
from optimizers.patterns.attention_products import NotAttention, peeled
from optimizers.patterns.attention_scores import SHALLOWEST, scale_of
from optimizers.record import Claim

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
NEIGHBOURS = 1_000  # nodes around a match that are looked at for what is left over


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every softmax, as attention or with the reason why not."""
    dead = _dead(gm.graph)
    for node in gm.graph.nodes:
        if node.op != "call_function" or node in dead:
            continue
        try:
            found = read(node, dead)
            if found is None:
                continue
            kernel = _checked(found)
        except NotAttention as reason:
            yield Miss(node, str(reason))
            continue
        nodes = [*found.nodes, *(found.backward.nodes if found.backward else []), *found.idle]
        sizes = found.scores.sizes
        rows, columns = sizes[found.scores.queries], sizes[found.scores.keys]
        masked = ", causal" if kernel.causal else ""
        note = f"{rows} queries × {columns} keys, {len(nodes)} nodes, kernel: {kernel.name}{masked}"
        yield Match(node, tuple(dict.fromkeys(nodes)), dead, note)


def _dead(graph: fx.Graph) -> set[fx.Node]:
    """Nodes of which nothing comes."""
    dead: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and all(user in dead for user in node.users):
            dead.add(node)
    return dead


def _checked(found: Attention) -> Kernel:
    """The kernel, when it can take the place of what was found."""
    kernel = choose(found)
    fills = {masking.fill for masking in found.scores.maskings if masking.fill is not None}
    if len(fills) > 1:
        raise NotAttention("Two masks put different numbers in the place of scores.")
    if any(masking.fill is not None and masking.fill * masking.factor > SHALLOWEST for masking in found.scores.maskings):
        raise NotAttention("The scale after its mask raises what the mask puts in the place of scores, so that it may not hide a key.")
    keys = found.scores.sizes[found.scores.keys]
    if found.backward and isinstance(keys, int) and keys == 1:
        raise NotAttention(
            "Over one key every probability is 1, and the scores' gradients are zero, where the kernel leaves rounding errors."
        )
    layout = Layout(found.scores)
    if any(layout.order(axes) is None for axes in (found.scores.axes, *(masking.axes for masking in found.scores.maskings))):
        raise NotAttention("Its mask cuts the batch, the heads or the keys at other places than the scores.")
    check_symbols(found, layout)
    check_bytes(found, layout, kernel)
    return kernel


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    try:
        found = read(match.anchor, match.data)  # anew, since an earlier match may have changed what stands around it
        kernel = _checked(found) if found else None
    except NotAttention:
        return
    if found is None or kernel is None:
        return
    layout = Layout(found.scores)
    keep = _draw(gm, found, layout) if found.dropout is not None else None
    with gm.graph.inserting_before(found.out.node):
        given = _operands(gm, found, layout, kernel, keep)
        fused = forward(gm, kernel, given, found.backward is not None)
        _take_over(gm, found.out.node, part(gm, fused, 0), found.values_first)
    if found.backward:
        _rewrite_backward(gm, found, layout, kernel, given, fused)
    _erase(gm, found)


def _draw(gm: fx.GraphModule, found: Attention, layout: Layout) -> fx.Node:
    """The mask that dropout would have drawn, by the same draw at the same place, without the probabilities."""
    assert found.dropout is not None
    given, p = found.dropout.args[:2]
    with gm.graph.inserting_before(found.dropout):
        one = call(gm, aten.full.default, [], False, dtype=torch.bool, device=value_of(given).device)  # type: ignore[arg-type]
        drawn = call(gm, aten.bernoulli.p, call(gm, aten.expand.default, one, list(shape(given))), 1.0 - float(p))  # type: ignore[arg-type]
        return layout.into_kernel(gm, drawn, found.dropout_axes)


def _operands(gm: fx.GraphModule, found: Attention, layout: Layout, kernel: Kernel, keep: fx.Node | None) -> Operands:
    """Query, key and value as the kernel wants them."""
    scores, product = found.scores, found.scores.product
    of_left, of_right, of_value = operand_sizes(found, layout)
    left = _four(gm, product.left, of_left)
    right = _turned(gm, _four(gm, product.right, of_right))
    query, key = (left, right) if scores.queries == "R" else (right, left)
    value = _four(gm, found.values, of_value)
    value = _turned(gm, value) if found.values_first else value
    key, value = ungrouped(kernel, key, value, found.backward is not None)
    mask = None if kernel.causal else build_mask(gm, scores, layout, kernel.dtype, value_of(query).device)
    p = float(found.dropout.args[1]) if found.dropout else 0.0  # type: ignore[arg-type]
    blind = None if kernel.causal or not found.backward else blind_rows(gm, scores, layout)
    if blind is not None and mask is not None:
        mask = call(gm, aten.masked_fill.Scalar, mask, blind, 0.0)
        query = call(gm, aten.masked_fill.Scalar, query, blind, 0.0)
    if mask is not None and kernel.name == "memory-efficient":
        mask = padded_for_gpu(gm, mask, layout.sizes, kernel.dtype)
    query, key, value = (_ready(gm, node, kernel.dtype) for node in (query, key, value))
    return Operands(query, key, value, mask, keep, p, scores.scale, blind)


def _four(gm: fx.GraphModule, node: fx.Node, sizes: tuple[int, ...]) -> fx.Node:
    """An operand in the kernel's four dimensions."""
    return before_joining(node, sizes) or viewed(gm, node, sizes)


def _turned(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The last two dimensions exchanged."""
    above = node.args[0] if node.args else None
    if node.target in (aten.transpose.int, aten.permute.default) and peeled(node) == peeled_once(above):
        return above  # type: ignore[return-value]
    return call(gm, aten.transpose.int, node, -2, -1)


def peeled_once(node: object) -> tuple[fx.Node, bool]:
    """What a single exchange above this node peels to."""
    base, turned = peeled(node)
    return base, not turned


def _ready(gm: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """In the kernel's dtype, with the elements of a row side by side."""
    if value_of(node).dtype != dtype:
        node = call(gm, aten._to_copy.default, node, dtype=dtype)
    if value_of(node).stride(-1) != 1 and shape(node)[-1] != 1:
        node = call(gm, aten.clone.default, node, memory_format=torch.contiguous_format)
    return node


def _rewrite_backward(gm: fx.GraphModule, found: Attention, layout: Layout, kernel: Kernel, given: Operands, fused: fx.Node) -> None:
    back, scores = found.backward, found.scores
    assert back is not None
    batch, heads, rows, _ = layout.sizes
    width = shape(given.value)[-1]
    turned = back.turned != found.values_first
    with gm.graph.inserting_before(back.first):
        sizes = (batch, heads, width, rows) if turned else (batch, heads, rows, width)
        grad = _four(gm, back.grad_out, sizes)
        grad = _ready(gm, _turned(gm, grad) if turned else grad, kernel.dtype)
        three, of_scores = backward(gm, kernel, given, fused, grad, back.read_outside)
        if given.blind is not None:
            three = [call(gm, aten.masked_fill.Scalar, three[0], given.blind, 0.0), *three[1:]]
        left, right = three[:2] if scores.queries == "R" else (three[1], three[0])
        if back.left:
            _take_over_scaled(gm, back.left[0], left, back.left[1], scores.product.alpha)
        if back.right:
            _take_over_scaled(gm, back.right[0], right, not back.right[1], scores.product.alpha)
        if back.values:
            _take_over(gm, back.values[0], three[2], back.values[1] != found.values_first)
        if of_scores is not None:
            whole = layout.out_of_kernel(gm, of_scores, scores.axes, shape(back.softmax))
            back.softmax.replace_all_uses_with(_cast(gm, whole, value_of(back.softmax).dtype))


def _take_over_scaled(gm: fx.GraphModule, product: fx.Node, whole: fx.Node, turned: bool, alpha: float) -> None:
    """The kernel's gradient has the scale in it that the graph multiplies with afterwards where the product itself had one."""
    readers = list(product.users)
    if alpha != 1 and len(readers) == 1 and (scale := scale_of(readers[0])) is not None and math.isclose(scale, alpha, rel_tol=1e-9):
        product = readers[0]
    elif alpha != 1:
        whole = call(gm, aten.mul.Tensor, whole, 1 / alpha)
    _take_over(gm, product, whole, turned)


def _cast(gm: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    return node if value_of(node).dtype == dtype else call(gm, aten._to_copy.default, node, dtype=dtype)


def _take_over(gm: fx.GraphModule, product: fx.Node, whole: fx.Node, turned: bool) -> None:
    """Readers of the product read the kernel's output: its four-dimensional views directly, others a view of it."""
    if turned:
        whole = call(gm, aten.transpose.int, whole, -2, -1)
    whole = _cast(gm, whole, value_of(product).dtype)
    for view in list(product.users):
        if view.target in VIEWS and shape(view) == shape(whole):
            view.replace_all_uses_with(whole)
    if any(user.users or user.op == "output" for user in product.users):
        product.replace_all_uses_with(viewed(gm, whole, shape(product)))


def _erase(gm: fx.GraphModule, found: Attention) -> None:
    """Removes what the kernel took the place of, dropout too: left alone, it would go on drawing."""
    drawn = [user for user in found.dropout.users if user.target is operator.getitem] if found.dropout else []
    nodes: dict[fx.Node, None] = dict.fromkeys((*found.nodes, *found.idle, *drawn, *(found.backward.nodes if found.backward else [])))
    queue = list(nodes)
    while queue and len(nodes) < NEIGHBOURS:  # what only read them, such as a view that was replaced
        for user in queue.pop().users:
            if user not in nodes and user.op == "call_function":
                nodes[user] = None
                queue.append(user)
    for node in sorted(nodes, reverse=True):
        if not node.users:
            gm.graph.erase_node(node)


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


def _capped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (30 * torch.tanh(query @ key.transpose(-1, -2) / 30)).softmax(-1) @ value


def _one() -> tuple[Tensor]:
    return (torch.randn(2, 16, 32),)


def _three() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 4, 16, 8) for _ in range(3))


OPTIMIZATION = Optimization(
    name="fuse-attention",
    summary="One kernel for scores, softmax and weighted sum; the matrix of scores is never written.",
    find=find,
    rewrite=rewrite,
    # Backward computes the scores again: operations rise in training. Our own operator runs several kernels for each block.
    claim=Claim(launches="any", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_ByHand, _one, matches=1),
        Example(_ByHand, _one, "training", matches=1),
        Example(lambda: _ByHand(0.5), _one, "training", matches=1),
    ),
    refusals=(
        Example(lambda: Function(_capped), _three, reason="which the kernel cannot do"),
        Example(lambda: Function(_with_weights), _three, reason="output of the graph"),
        Example(lambda: Function(lambda x: x.softmax(-1)), lambda: (torch.randn(2, 8),), reason="No product of queries and keys"),
    ),
    exactness="rounding",
)
