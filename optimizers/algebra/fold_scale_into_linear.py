"""Fold scale into linear: factors and shifts of features become a part of the weight beside them.

## Why it is slow
Multiplying by the weight of an RMS norm, by the 1/√d of attention, or by a layer's own scale is a kernel that reads and writes a whole
activation for one operation per number.

## What changes
Behind a product, (x·W + b)·R + P = x·(W·R) + (b·R + P). In front of it, (x·R + P)·W + b = x·(diag(R)·W) + (P·W + b), for each
product that reads the scaled tensor: an RMS norm's weight goes into queries, keys and values at once. The new weights
are computed once, in float64.

## When it does not apply
In training the weights change with every step. A tensor that somebody other than linear layers reads must exist as it is. A number for
each row, or for each sample, is no factor of a feature.

## Try it
Llama: the weight of every RMS norm goes into the projections behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import prepare, viewed, weights_that_stand_still
from optimizers.patterns.linear import Product, can_be_viewed, multiply, read_bytes, read_product
from optimizers.patterns.scale import WORDS, Step, factor_and_shift, read_step, steps_after, weights_of
from optimizers.patterns.views import RESHAPES
from optimizers.record import Claim

BEHIND, IN_FRONT = "behind", "in front"


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Chains of steps behind a product, then steps whose readers are products."""
    still = weights_that_stand_still(gm)
    taken: set[fx.Node] = set()
    for node in gm.graph.nodes:
        product = _linear(node, still)
        if product is None:
            continue
        last = _last_view(node)
        steps = steps_after(last, -1, still) if last else []
        if last and steps:
            taken.update(step.node for step in steps)
            yield Match(node, (node, *(step.node for step in steps)), (BEHIND, steps), ", ".join(step.word for step in steps))
    for node in gm.graph.nodes:
        if node.target in WORDS and node not in taken and node.users and node not in still:
            yield from _in_front(node, still)


def _linear(node: fx.Node, still: Collection[fx.Node]) -> Product | None:
    """A product of a matrix with weights, plus a bias that is one too."""
    product = read_product(node)
    if product is None or product.rank != 2 or product.right not in still or product.left in still:
        return None
    return product if product.bias is None or product.bias in still else None


def _last_view(node: fx.Node) -> fx.Node | None:
    """The last of the views, each the only reader of the one before, that keep features apart: [M, N] as [B, S, N]."""
    width = value_of(node).shape[-1]
    while len(node.users) == 1:
        (user,) = node.users
        if user.target not in RESHAPES or value_of(user).shape[-1:] != (width,) or value_of(user).numel() != value_of(node).numel():
            break
        node = user
    return node


def _in_front(node: fx.Node, still: Collection[fx.Node]) -> Iterator[Match | Miss]:
    readers = _readers(node)
    products = [_linear(reader, still) for reader in readers]
    step = read_step(node, -1, still)
    if not any(reader is not None for reader in map(read_product, readers)):
        return
    if step is None:
        yield Miss(node, "It is no factor or shift of features that is the same in every run.")
        return
    for reader, product in zip(readers, products, strict=True):
        if product is None or product.right in readers:
            yield Miss(node, f"{reader.name}, which is no product with weights that stand still, reads it too.")
            return
        if value_of(product.left).shape[-1] != value_of(node).shape[-1]:
            yield Miss(node, f"{reader.name} reads it with features split or joined.")
            return
    given = value_of(next(read for read in node.all_input_nodes if read is not step.other))
    copied = next((product for product in products if product and not can_be_viewed(given, value_of(product.left).shape)), None)
    if copied is not None:
        yield Miss(node, f"What it scales lies so that {copied.node.name} could read it only as a copy.")
        return
    added = sum(_row_bytes(product) for product in products if product and product.bias is None and step.shifts)
    if added > 2 * read_bytes(node):
        yield Miss(node, f"Biases of {added:,} bytes would be read in place of {2 * read_bytes(node):,} bytes moved here.")
        return
    yield Match(node, (node, *readers), (IN_FRONT, step), f"{step.word} in front of {len(readers)} products")


def _row_bytes(product: Product) -> int:
    return value_of(product.node).shape[-1] * value_of(product.node).element_size()


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads the node, through views that keep features apart."""
    found, queue = [], [node]
    while queue:
        for user in queue.pop().users:
            if user.target in RESHAPES and value_of(user).shape[-1:] == value_of(node).shape[-1:] and user.users:
                queue.append(user)
            else:
                found.append(user)
    return list(dict.fromkeys(found))


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """New weights; behind: for one product; in front: for all that read the step."""
    where, what = match.data
    if where == BEHIND:
        product = read_product(match.anchor)
        assert product is not None
        last: fx.Node = what[-1].node
        with gm.graph.inserting_before(last):
            weight, bias = _weight(gm, product, what, BEHIND), _bias(gm, product, what, BEHIND)
            new = viewed(gm, multiply(gm, product.left, weight, bias), tuple(value_of(last).shape))
        last.replace_all_uses_with(new)
        return
    step: Step = what
    # Read anew: a chain behind one of the products may have been folded into it, and what the step is applied to replaced.
    products = [read_product(reader) for reader in _readers(step.node) if reader.users]
    for product in products:
        assert product is not None
        node = product.node
        with gm.graph.inserting_before(node):
            given = next(read for read in step.node.all_input_nodes if read is not step.other)
            left = viewed(gm, given, tuple(value_of(product.left).shape))
            weight, bias = _weight(gm, product, [step], IN_FRONT), _bias(gm, product, [step], IN_FRONT)
            new = multiply(gm, left, weight, bias)
        node.replace_all_uses_with(new)


def _weight(gm: fx.GraphModule, product: Product, steps: Sequence[Step], where: str) -> fx.Node:
    if all(step.shifts for step in steps):
        return product.right
    channels = value_of(product.right).shape[1 if where == BEHIND else 0]

    def scaled(weight: Tensor, *values: Tensor) -> Tensor:
        factor, _ = factor_and_shift(steps, values or (weight,), channels)
        return (weight.double() * (factor if where == BEHIND else factor[:, None])).to(weight.dtype)

    return prepare(gm, f"weight of {product.node.name}, scaled", scaled, product.right, *weights_of(steps))


def _bias(gm: fx.GraphModule, product: Product, steps: Sequence[Step], where: str) -> fx.Node | None:
    if product.bias is None and not any(step.shifts for step in steps):
        return None
    if where == IN_FRONT and not any(step.shifts for step in steps):
        return product.bias
    given = [] if product.bias is None else [product.bias]
    channels = value_of(product.right).shape[1 if where == BEHIND else 0]

    def shifted(weight: Tensor, *values: Tensor) -> Tensor:
        factor, shift = factor_and_shift(steps, values[len(given) :] or (weight,), channels)
        if where == IN_FRONT:
            shift = shift @ weight.double()
            return (values[0].double() + shift if given else shift).to(weight.dtype)
        return (values[0].double() * factor + shift if given else shift).to(weight.dtype)

    return prepare(gm, f"bias of {product.node.name}, shifted", shifted, product.right, *given, *weights_of(steps))


class _Normed(nn.Module):
    """A norm's weight in front of two products, and a scale and shift behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.scale = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(8))
        self.one, self.two = nn.Linear(16, 8), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.gamma
        return torch.sin(self.one(normed) / 4) + torch.cos(self.two(normed) * self.scale + 1)


class _AlsoRead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.layer = nn.Parameter(torch.randn(16)), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * self.gamma
        return scaled + self.layer(scaled)


def _by_row(x: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    return (x * rows) @ weight


def _rows() -> tuple[Tensor]:
    return (torch.randn(2, 4, 16),)


OPTIMIZATION = Optimization(
    name="fold-scale-into-linear",
    summary="Factors and shifts of features become a part of the weight beside them.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Normed, _rows, matches=3),),
    refusals=(
        Example(_AlsoRead, _rows, reason="reads it too"),
        Example(lambda: Function(_by_row), lambda: (torch.randn(4, 8), torch.randn(4, 1), torch.randn(8, 8)), reason="no factor or shift"),
    ),
    exactness="rounding",
)
