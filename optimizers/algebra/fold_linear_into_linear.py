"""Fold linear into linear: two layers with nothing between them are one.

## Why it is slow
(x·W₁ + b₁)·W₂ + b₂ writes a hidden activation and reads it again, though nothing but products happens to it.

## What changes
The product of the weights, W₁·W₂, and the bias b₁·W₂ + b₂ are computed once, in float64, and one layer remains. Factorized embeddings,
merged adapters and projections that follow one another have this form.

## When it does not apply
Where an activation or a norm stands between the two: the composition is no longer linear. Where the hidden width is small, as in a low-rank
adapter: W₁ [K, H] and W₂ [H, N] with K·N > H·(K + N) are cheaper apart. In training the weights change with every step.

## Try it
Widen the hidden layer of the example, and see where two layers become cheaper than one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import prepare, weights_that_stand_still
from optimizers.patterns.linear import Product, behind_views, multiply, read_product
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Pairs of layers; of three in a row the first two."""
    still = weights_that_stand_still(gm)
    taken: set[fx.Node] = set()
    for node in gm.graph.nodes:
        second = read_product(node)
        if second is None or second.rank != 2 or second.left in still or not value_of(node).is_floating_point():
            continue
        shown = behind_views(second.left)[-1]
        first = read_product(shown)
        if first is None:
            between = _product_before(shown)
            if between:
                yield Miss(node, f"{shown.name} stands between it and {between.name}: only products can be folded.")
            continue
        reason = _why_not(first, second, still)
        if reason:
            yield Miss(node, reason)
        elif first.node not in taken:
            taken.add(node)
            width = value_of(first.node).shape[1]
            yield Match(node, (first.node, node), still, f"{first.node.name} and {node.name}, without the hidden width of {width}")


def _product_before(node: fx.Node) -> fx.Node | None:
    """The product whose result the node changes in a way that is not linear."""
    if node.op != "call_function" or len(node.all_input_nodes) != 1:
        return None
    before = behind_views(node.all_input_nodes[0])[-1]
    return before if read_product(before) else None


def _why_not(first: Product, second: Product, still: Collection[fx.Node]) -> str:
    if len(second.left.users) > 1 or len(first.node.users) > 1:
        return f"The hidden result, {first.node.name}, is also read elsewhere, so it must exist."
    weights = [first.right, second.right, *(each.bias for each in (first, second) if each.bias is not None)]
    if not all(weight in still for weight in weights):
        return "The weights are not the same in every run."
    if first.rank != 2 or value_of(first.node).shape != value_of(second.left).shape:
        return "Views between the two mix rows and features."
    rows, wide = value_of(first.left).shape
    hidden, out = value_of(second.right).shape
    if wide * out > hidden * (wide + out):
        return f"One layer of {wide} × {out} is more work than two with a hidden width of {hidden}."
    biases = [0 if each.bias is None else value_of(each.bias).numel() for each in (first, second)]
    before = hidden * (wide + out) + 2 * rows * hidden + sum(biases)
    if wide * out + (out if any(biases) else 0) > before:
        return "The bias that the first layer leaves would cost more than the fold saves."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One layer in the place of the second."""
    one, two = (read_product(node) for node in match.nodes)
    assert one is not None
    assert two is not None
    with gm.graph.inserting_before(two.node):
        weight = prepare(gm, f"{one.node.name} · {two.node.name}", _product, one.right, two.right)
        new = multiply(gm, one.left, weight, _bias(gm, one, two))
    two.node.replace_all_uses_with(new)
    gm.graph.erase_node(two.node)


def _product(one: Tensor, two: Tensor) -> Tensor:
    return (one.double() @ two.double()).to(one.dtype)


def _bias(gm: fx.GraphModule, one: Product, two: Product) -> fx.Node | None:
    if one.bias is None:
        return two.bias

    def through(bias: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        moved = bias.double() @ weight.double()
        return (moved + rest[0].double() if rest else moved).to(bias.dtype)

    return prepare(gm, f"bias of {two.node.name}", through, one.bias, two.right, *([two.bias] if two.bias is not None else []))


class _Two(nn.Module):
    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, hidden), nn.Linear(hidden, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).relu()


class _Bent(_Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


def _rows() -> tuple[Tensor]:
    return (torch.randn(2, 4, 16),)


OPTIMIZATION = Optimization(
    name="fold-linear-into-linear",
    summary="Two linear layers with nothing between them become one.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Two, _rows, matches=1),),
    refusals=(
        Example(_Bent, _rows, reason="stands between"),
        Example(lambda: _Two(4), _rows, reason="more work than two"),
        Example(_Two, _rows, "training", reason="also read elsewhere"),
    ),
    exactness="rounding",
)
