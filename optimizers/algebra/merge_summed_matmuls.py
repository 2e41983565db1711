"""Merge summed matmuls: a sum of products is one product.

## Why it is slow
Each product writes a whole result, and each addition reads two and writes a third. In backward, the gradient of what queries, keys and values
read is such a sum: dX = dQ·Wqᵀ + dK·Wkᵀ + dV·Wvᵀ. A recurrent cell adds x·W and h·U.

## What changes
x₁·W₁ + x₂·W₂ = [x₁ x₂]·[W₁; W₂]: the sum inside of a product does the addition. Where the x are one and the same and the weights
stand still, x·(W₁ + W₂), which is half the work. Weights are put together once in inference; in training it is a copy in every step, unless
`merge-parallel-matmuls` has made that copy for forward already.

## When it does not apply
When putting operands side by side moves more bytes than the additions did: in the gradient of a gated MLP, whose two parts are wider than
their sum. When one of the products is read elsewhere.

## Try it
Train BERT with a large batch: the three products of dX in each layer become one, and `merge-parallel-matmuls` then merges
the weights' gradients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import call, prepare, viewed, weights_that_stand_still
from optimizers.patterns.linear import (
    Concatenation,
    Product,
    arrangement,
    behind_views,
    concatenation,
    multiply,
    read_bytes,
    read_product,
)
from optimizers.patterns.numbering import numbers_past_views
from optimizers.record import Claim

aten = torch.ops.aten


@dataclass(frozen=True)
class Sum:
    """Products that are added, and what else is added to them."""

    products: tuple[Product, ...]
    others: tuple[fx.Node, ...]
    adds: tuple[fx.Node, ...]


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Trees of additions that hold at least two products of one shape."""
    still = weights_that_stand_still(gm)
    numbers = numbers_past_views(gm)
    for node in gm.graph.nodes:
        if not _is_plain_add(node) or _is_inner(node):
            continue
        found = _read(node)
        if found is None:
            continue
        shared = len({numbers[one.left] for one in found.products}) == 1 and all(one.right in still for one in found.products)
        reason = _why_not(found, shared, still)
        if reason:
            yield Miss(node, reason)
            continue
        nodes = (node, *(one.node for one in found.products), *(add for add in found.adds if add is not node))
        yield Match(node, nodes, (shared, still), f"{len(found.products)} products are added")


def _is_plain_add(node: fx.Node) -> bool:
    """An addition of two tensors of the result's own shape and dtype."""
    if node.target is not aten.add.Tensor or node.kwargs or not all(isinstance(read, fx.Node) for read in node.args):
        return False
    value = value_of(node)
    reads = [value_of(read) for read in node.args]  # type: ignore[arg-type]
    return value.is_floating_point() and all(read.shape == value.shape and read.dtype == value.dtype for read in reads)


def _is_inner(node: fx.Node) -> bool:
    """Is it added to something else, and nothing more?"""
    user = next(iter(node.users), None)
    return len(node.users) == 1 and user is not None and _is_plain_add(user) and phase_of(user) == phase_of(node)


def _read(root: fx.Node) -> Sum | None:
    """The tree below an addition; of its products the largest set of one shape."""
    adds, leaves, queue = [], [], [root]
    while queue:
        node = queue.pop()
        if node is root or _is_plain_add(node) and _is_inner(node):
            adds.append(node)
            queue += node.args  # type: ignore[arg-type]
        else:
            leaves.append(node)
    shapes: dict[Hashable, list[tuple[Product, fx.Node]]] = defaultdict(list)
    for leaf in leaves:
        product = read_product(behind_views(leaf)[-1]) if len(leaf.users) == 1 else None
        if product is not None and product.rank == 2 and len(product.node.users) == 1:
            shapes[value_of(product.node).shape, phase_of(product.node)].append((product, leaf))
    best = max(shapes.values(), key=len, default=[])
    if len(best) < 2:
        return None
    taken = {leaf for _, leaf in best}
    products = sorted((product for product, _ in best), key=lambda one: one.node)
    products = [products[at] for at in arrangement([one.right for one in products], 0)]
    others = [leaf for leaf in reversed(leaves) if leaf not in taken]
    return Sum(tuple(products), tuple(others), tuple(adds))


def _why_not(found: Sum, shared: bool, still: Collection[fx.Node]) -> str:
    """Counts bytes and launches before and after."""
    count, size = len(found.products), read_bytes(found.products[0].node)
    copies = [] if shared else [_lefts(found), _rights(found, still)]
    bytes_, launches = sum(each.bytes for each in copies), sum(each.launches for each in copies)
    biases = [one.bias for one in found.products if one.bias is not None]
    if len(biases) > 1 and not all(bias in still for bias in biases):
        bytes_ += (len(biases) - 1) * 3 * read_bytes(biases[0])
        launches += len(biases) - 1
    saved = 4 * (count - 1) * size
    if bytes_ > saved:
        return f"Putting operands side by side moves {bytes_:,} bytes; {count - 1} products and additions less save {saved:,}."
    if launches > 2 * (count - 1):
        return f"{launches} copies would take the place of {2 * (count - 1)} products and additions."
    return ""


def _lefts(found: Sum) -> Concatenation:
    return concatenation([one.left for one in found.products], 1)


def _rights(found: Sum, still: Collection[fx.Node]) -> Concatenation:
    return concatenation([one.right for one in found.products], 0, still)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One product, and the additions that remain, in the place of the last addition."""
    shared, still = match.data
    root = match.anchor
    found = _read(root)
    if found is None or len(found.products) != len(match.nodes) - len(found.adds):
        return  # an earlier match changed the sum
    with gm.graph.inserting_before(root):
        left = found.products[0].left if shared else _lefts(found).make(gm)
        if shared:
            right = prepare(gm, f"{len(found.products)} weights added", _added, *(one.right for one in found.products))
        else:
            right = _rights(found, still).make(gm)
        product = multiply(gm, left, right, _bias(gm, found, still))
        total = viewed(gm, product, tuple(value_of(root).shape))
        for other in found.others:
            total = call(gm, aten.add.Tensor, total, other)
    root.replace_all_uses_with(total)
    gm.graph.erase_node(root)


def _bias(gm: fx.GraphModule, found: Sum, still: Collection[fx.Node]) -> fx.Node | None:
    biases = [one.bias for one in found.products if one.bias is not None]
    if len(biases) < 2:
        return next(iter(biases), None)
    if all(bias in still for bias in biases):
        return prepare(gm, f"{len(biases)} biases added", _added, *biases)
    total = biases[0]
    for bias in biases[1:]:
        total = call(gm, aten.add.Tensor, total, bias)
    return total


def _added(*values: Tensor) -> Tensor:
    return torch.stack([value.double() for value in values]).sum(0).to(values[0].dtype)


class _Cell(nn.Module):
    """A recurrent cell's sum, a sum of two products of one input, and the input's gradient in training."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(16, width), nn.Linear(8, width)
        self.one, self.two = nn.Linear(width, 4), nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        hidden = torch.tanh(self.of_input(x) + self.of_state(state))
        return self.one(hidden) + self.two(hidden)


class _Projections(nn.Module):
    """Three projections of one hidden activation; in training their gradients are added."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.into = nn.Linear(16, 16)
        self.parts = nn.ModuleList(nn.Linear(16, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(x))
        return sum(part(hidden).sin() for part in self.parts)  # type: ignore[return-value]


OPTIMIZATION = Optimization(
    name="merge-summed-matmuls",
    summary="A sum of products, such as the gradient behind queries, keys and values, is one product.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_Cell, lambda: (torch.randn(32, 16), torch.randn(32, 8)), matches=2),
        Example(_Projections, lambda: (torch.randn(256, 16),), "training", matches=1),
    ),
    refusals=(Example(lambda: _Projections(64), lambda: (torch.randn(256, 16),), "training", reason="side by side"),),
    exactness="rounding",
)
