"""Reorder matmul chain: choose the brackets of a product of matrices.

## Why it is slow
(A·B)·C and A·(B·C) are the same matrix, but not the same work: with A [n, d], B [d, n], C [n, d] the first takes 4·n²·d operations and the second
4·n·d². Attention without softmax is such a product; so is a low-rank adapter merged the wrong way, (A·B)·x.

## What changes
Dynamic programming over where the last product splits the chain finds the brackets with the fewest operations, in the cube of the chain's
length (Godbole 1973; Cormen et al., *Introduction to Algorithms*, section 14.2). In inference, a product of weights alone costs nothing,
as it is done once. A bias on the last product stays with the last product.

## When it does not apply
When somebody else reads a product in the middle, as backward does: it must exist. When anything but a view stands between two products, such as
softmax. When the brackets are best as they are. Other brackets round otherwise.

## Try it
Linear attention, (Q·Kᵀ)·V: double the sequence, and see that the work before grows with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import prepare, weights_that_stand_still
from optimizers.patterns.linear import PRODUCTS, behind_views, multiply, read_product
from optimizers.patterns.views import RESHAPES
from optimizers.record import Claim

LIMIT = 64  # factors: the program takes the cube of that


@dataclass(frozen=True)
class Plan:
    """A factor by its place, or the product of two plans; `flops` per matrix of a batch."""

    flops: int
    constant: bool
    factor: int = -1
    left: Plan | None = None
    right: Plan | None = None

    def __str__(self) -> str:
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[self.factor % 26] if self.left is None else f"({self.left}{self.right})"


@dataclass(frozen=True)
class Chain:
    """The factors, each [rows, columns] or [batch, rows, columns], the products between them, and their brackets."""

    factors: tuple[fx.Node, ...]
    products: tuple[fx.Node, ...]
    plan: Plan


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Chains, named by their last product."""
    still = weights_that_stand_still(gm)
    inner: set[fx.Node] = set()
    for node in reversed(gm.graph.nodes):
        if node.target not in PRODUCTS or node in inner or node in still or not node.users:
            continue
        if not value_of(node).is_floating_point():
            continue
        chain = _chain(node, still)
        if chain is None:
            continue
        inner.update(chain.products)
        if len(chain.products) == 1:
            yield from _why_alone(node)
            continue
        best = cheapest(_sizes(chain.factors), [factor in still for factor in chain.factors])
        if best.flops >= chain.plan.flops:
            yield Miss(node, f"The brackets {chain.plan} are the cheapest.")
        else:
            note = f"{chain.plan} with {chain.plan.flops:,} operations becomes {best} with {best.flops:,}"
            yield Match(node, chain.products, (best, still), note)


def _chain(node: fx.Node, still: Collection[fx.Node]) -> Chain | None:
    """Walks from the last product to both sides through products that only this chain reads."""
    products: list[fx.Node] = []

    def walk(given: fx.Node, last: bool) -> tuple[list[fx.Node], Plan] | None:
        made = read_product(given)
        if made is None or given in still or made.bias is not None and not last:
            return None
        products.append(given)
        sides = []
        for operand in (made.left, made.right):
            inside = _product_behind(operand, node) if len(products) < LIMIT else None
            sides.append(walk(inside, False) if inside else None)
            if sides[-1] is None:
                sides[-1] = [operand], Plan(0, operand in still, 0)
        (left, one), (right, two) = sides
        return left + right, _joined(one, two, _flops(made.left, made.right))

    found = walk(node, True)
    if found is None:
        return None
    return Chain(tuple(found[0]), tuple(products), _numbered(found[1]))


def _numbered(plan: Plan) -> Plan:
    """Factors by their place in the chain."""
    places = iter(range(LIMIT * 2))

    def walk(each: Plan) -> Plan:
        if each.left is None or each.right is None:
            return Plan(each.flops, each.constant, next(places))
        left = walk(each.left)
        return Plan(each.flops, each.constant, -1, left, walk(each.right))

    return walk(plan)


def _product_behind(operand: fx.Node, end: fx.Node) -> fx.Node | None:
    """The product that the operand shows, in the same shape and read through views by nobody else."""
    chain = behind_views(operand)
    last = chain[-1]
    alone = len(operand.users) == 1 and last.target in PRODUCTS and value_of(last).shape == value_of(operand).shape
    return last if alone and phase_of(last) == phase_of(end) else None


def _why_alone(node: fx.Node) -> Iterator[Miss]:
    """A product whose operand is a product too, but is not for it alone."""
    for operand in node.all_input_nodes:
        path = [operand]
        while path[-1].target in RESHAPES:
            path.append(path[-1].args[0])  # type: ignore[arg-type]
        if path[-1].target in PRODUCTS and any(len(each.users) > 1 for each in path):
            yield Miss(node, f"{path[-1].name}, a product before it, is also read elsewhere, so it must exist.")


def _sizes(factors: Sequence[fx.Node]) -> list[int]:
    """Rows of the first factor, then columns of each."""
    return [value_of(factors[0]).shape[-2], *(value_of(factor).shape[-1] for factor in factors)]


def _flops(left: fx.Node, right: fx.Node) -> int:
    rows, inner = value_of(left).shape[-2:]
    return 2 * rows * inner * value_of(right).shape[-1]


def _joined(left: Plan, right: Plan, flops: int) -> Plan:
    constant = left.constant and right.constant
    return Plan(0 if constant else left.flops + right.flops + flops, constant, -1, left, right)


def cheapest(sizes: Sequence[int], constant: Sequence[bool]) -> Plan:
    """The brackets with the fewest operations for factors of sizes[i] × sizes[i + 1]; a product of constant ones is free."""
    count = len(sizes) - 1
    best = {(at, at): Plan(0, constant[at], at) for at in range(count)}
    for length in range(1, count):
        for start in range(count - length):
            end = start + length
            plans = (
                _joined(best[start, cut], best[cut + 1, end], 2 * sizes[start] * sizes[cut + 1] * sizes[end + 1])
                for cut in range(start, end)
            )
            best[start, end] = min(plans, key=lambda plan: plan.flops)
    return best[0, count - 1]


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The products in the new order, before the last of the old ones."""
    best, still = match.data
    end = match.anchor
    chain = _chain(end, still)
    if chain is None or len(chain.products) != len(match.nodes):
        return  # an earlier match changed the chain
    last = read_product(end)
    assert last is not None
    with gm.graph.inserting_before(end):
        new = _built(gm, best, chain.factors, last.bias)
    end.replace_all_uses_with(new)


def _built(gm: fx.GraphModule, plan: Plan, factors: Sequence[fx.Node], bias: fx.Node | None = None) -> fx.Node:
    if plan.left is None or plan.right is None:
        return factors[plan.factor]
    if plan.constant and bias is None:
        used: list[fx.Node] = []
        function = _as_function(plan, factors, used)
        return prepare(gm, f"product {plan} of weights", function, *used)
    return multiply(gm, _built(gm, plan.left, factors), _built(gm, plan.right, factors), bias)


def _as_function(plan: Plan, factors: Sequence[fx.Node], used: list[fx.Node]) -> Callable[..., Tensor]:
    """The plan as a function of the factors that it uses, which are noted in `used`: computed in float64, and rounded once."""
    if plan.left is None or plan.right is None:
        used.append(factors[plan.factor])
        return lambda *values: values[0]
    before = len(used)
    one = _as_function(plan.left, factors, used)
    count = len(used) - before
    two = _as_function(plan.right, factors, used)
    return lambda *values: (one(*values[:count]).double() @ two(*values[count:]).double()).to(values[0].dtype)


class _Adapted(nn.Module):
    """A low-rank adapter whose two factors are multiplied before they meet the input, in training too."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(64, 4)), nn.Parameter(torch.randn(4, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.down @ self.up)


def _linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2)) @ value


def _heads(rows: int = 64, width: int = 8) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 4, rows, width) for _ in range(3))


def _with_scores(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(-1, -2)
    return scores @ value, scores


OPTIMIZATION = Optimization(
    name="reorder-matmul-chain",
    summary="Chooses the cheapest brackets of a product of matrices.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="any", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_linear_attention), _heads, matches=1),
        Example(_Adapted, lambda: (torch.randn(4, 64),), "training", matches=1),
        Example(
            lambda: Function(lambda a, b, c, d: a @ b @ c @ d),
            lambda: (torch.randn(30, 35), torch.randn(35, 15), torch.randn(15, 5), torch.randn(5, 10)),
            matches=1,
        ),
    ),
    refusals=(
        Example(lambda: Function(_linear_attention), lambda: _heads(4, 16), reason="are the cheapest"),
        Example(lambda: Function(_with_scores), _heads, reason="also read elsewhere"),
    ),
    exactness="rounding",
)
