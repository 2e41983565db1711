"""Batch equal matmuls: independent products of one shape become one batched product.

## Why it is slow
Experts of a mixture, a layer of its own for each head, two towers of one form: many small products that don't need one another, each with a
launch of its own, and each too small to fill a GPU.

## What changes
The left operands are stacked, the weights are stacked once, and one `bmm` does what n products did. Where the left
operands are the slices of one tensor, stacking them is a view and costs nothing.

## When it does not apply
When one product needs another's result, as layers in a row do. When stacking would move more than a quarter of what the products move
themselves. In training the weights would be stacked in every step. When some read the same input: `merge-parallel-matmuls` merges those without
stacking.

## Try it
Give every head a linear layer of its own, and raise the number of heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import behind_weights, between, call, move_readers_behind, part, prepare, weights_that_stand_still
from optimizers.patterns.linear import Product, depends_on_another, depths, read_bytes, read_product
from optimizers.patterns.numbering import numbers_past_views
from optimizers.patterns.slices import batch, slices_of_one
from optimizers.record import Claim

aten = torch.ops.aten
SHARE = 4  # stacking may move one in so many of the bytes that the products move


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Groups of products of one shape that stand equally deep in the graph, so that none needs another."""
    still = weights_that_stand_still(gm)
    depth, numbers = depths(gm), numbers_past_views(gm)
    shapes: dict[Hashable, dict[int, list[Product]]] = defaultdict(lambda: defaultdict(list))
    for node in gm.graph.nodes:
        product = read_product(node)
        if product is not None and product.rank == 2 and node.users and product.left not in still:
            form = (value_of(product.left).shape, value_of(product.right).shape, value_of(node).dtype, product.bias is None, phase_of(node))
            shapes[form][depth[node]].append(product)
    for levels in shapes.values():
        for group in levels.values():
            first = group[0].node
            if len(group) == 1:
                if len(levels) > 1:
                    yield Miss(first, "Other products of its shape need its result, or it theirs.")
                continue
            shared = len({numbers[one.left] for one in group}) < len(group)
            reason = "Some of them share their input: those are merged without stacking." if shared else _why_not(group, still)
            if reason:
                yield Miss(first, reason)
            else:
                yield Match(first, tuple(one.node for one in group), still, f"{len(group)} products of one shape")


def _why_not(group: list[Product], still: Collection[fx.Node]) -> str:
    if not all(one.right in still and (one.bias is None or one.bias in still) for one in group):
        return "Its weights are not the same in every run: stacking them would cost a copy of them in every run."
    if slices_of_one([one.left for one in group]) is not None:
        return ""
    stacked = 2 * sum(read_bytes(one.left) for one in group)
    moved = sum(read_bytes(one.left) + read_bytes(one.right) + read_bytes(one.node) for one in group)
    if SHARE * stacked > moved:
        return f"Stacking the inputs moves {stacked:,} bytes, the {len(group)} products {moved:,}: more than one in {SHARE}."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One batched product behind the last operand, and a slice of it for each."""
    still: Collection[fx.Node] = match.data
    group: list[Product] = [read_product(node) for node in match.nodes]  # type: ignore[misc]
    first, weights = group[0].node, [one.right for one in group]
    biases = [one.bias for one in group if one.bias is not None]
    last = max((*(one.left for one in group), *behind_weights([*weights, *biases])[0]))
    if last > first and depends_on_another(match.nodes) or not all(weight in still for weight in weights):
        return  # an earlier match has tied them
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        left = batch(gm, [one.left for one in group])
        right = prepare(gm, f"{len(group)} weights stacked", lambda *parts: torch.stack(parts), *weights)
        if biases:
            bias = prepare(gm, f"{len(group)} biases stacked", lambda *parts: torch.stack(parts).unsqueeze(1), *biases)
            product = call(gm, aten.baddbmm.default, bias, left, right)
        else:
            product = call(gm, aten.bmm.default, left, right)
        slices = call(gm, aten.unbind.int, product)
        parts = [part(gm, slices, index) for index in range(len(group))]
    for one, new in zip(group, parts, strict=True):
        one.node.replace_all_uses_with(new)
    move_readers_behind(first, between(before.next, parts[-1]))
    for one in group:
        gm.graph.erase_node(one.node)


class _Heads(nn.Module):
    """A linear layer for each head, and two towers with inputs of their own."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(8, 8) for _ in range(heads))
        self.one, self.two = nn.Linear(32, 48, bias=False), nn.Linear(32, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.cat([head(part) for head, part in zip(self.heads, x.chunk(len(self.heads), -1), strict=True)], -1)
        return self.one(mixed.sin()) * self.two(mixed.cos())


class _Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x.sin()) * self.two(x.cos())


class _Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


OPTIMIZATION = Optimization(
    name="batch-equal-matmuls",
    summary="Independent products of one shape become one batched product.",
    find=find,
    rewrite=rewrite,
    # Lower where weights were computed in every run and are now prepared.
    claim=Claim(launches="lower", flops="lower", bytes_moved="any", peak_bytes="any"),
    examples=(Example(_Heads, lambda: (torch.randn(3, 32),), matches=2),),
    refusals=(
        Example(_Rows, lambda: (torch.randn(64, 8),), reason="Stacking the inputs"),
        Example(_Row, lambda: (torch.randn(4, 8),), reason="need its result"),
        Example(_Heads, lambda: (torch.randn(3, 32),), "training", reason="not the same in every run"),
    ),
    exactness="rounding",
)
