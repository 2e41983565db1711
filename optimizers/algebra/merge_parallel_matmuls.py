"""Merge parallel matmuls: products that share an operand become one product.

## Why it is slow
Queries, keys and values are three products of the same input, gate and up projection two more. Each is a kernel of its own, and each
reads the whole input from memory again. A small product also fills fewer of a GPU's units than a large one.

## What changes
The weights are put side by side, x·[W₁ W₂ W₃] is one product, and a split, which copies nothing, hands each reader its columns (the
merged QKV of Jia et al. 2019, *TASO*, figure 2, and of Megatron-LM). Biases are put side by side too, with zeros where there is none;
widths may differ, as with grouped-query attention. Products that share the right operand, [x₁; x₂]·W, are merged by rows.
In inference the weights are put together once, so the product reads the same weights as before and its input once instead of n times; the
weights put together stand in memory beside the old ones as long as those are kept.

## When it does not apply
In training the weights change in every step, so putting them together is a copy in every step: 2·K·ΣN numbers, against (n − 1)·M·K that
are no longer read. It pays for many rows only. Products of which one needs the other's result stay apart. Where a reader could not take its
part without a copy, the copy is counted against the gain. Products that different activations follow stay apart, since a kernel can do its product's
activation at once (`fuse-matmul-epilogue`); the gate of a gated unit, which one loop multiplies with the other half, does not.

## Try it
Llama with `seq=8`: three products of a layer's attention become one, and gate and up another. In training, make the batch larger until
the copy of the weights pays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import (
    behind_weights,
    between,
    forced_copies,
    move_readers_behind,
    prepare,
    split,
    weights_that_stand_still,
)
from optimizers.patterns.followers import activation_behind
from optimizers.patterns.linear import (
    Product,
    arrangement,
    concatenation,
    depends_on_another,
    depths,
    multiply,
    read_bytes,
    read_product,
)
from optimizers.patterns.numbering import numbers_past_views
from optimizers.record import Claim

Group = list[Product]
LEFT, RIGHT = "left", "right"


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Groups of products that share the left operand, then of those that remain, the right one."""
    still = weights_that_stand_still(gm)
    taken: set[fx.Node] = set()
    depth, numbers = depths(gm), numbers_past_views(gm)
    for side in (LEFT, RIGHT):
        for group in _groups(gm, side, still, taken, numbers):
            for members in [alike for apart in _independent(group, depth) for alike in _by_what_follows(apart)]:
                if len(members) < 2:
                    yield Miss(members[0].node, _why_alone(members[0], group))
                    continue
                reason = _why_not(_arranged(members, side), side, still)
                if reason:
                    yield Miss(members[0].node, reason)
                    continue
                nodes = tuple(one.node for one in members)
                taken.update(nodes)
                yield Match(nodes[0], nodes, (side, still), f"{len(nodes)} products share their {side} operand")


def _groups(
    gm: fx.GraphModule, side: str, still: Collection[fx.Node], taken: Collection[fx.Node], numbers: dict[fx.Node, int]
) -> Iterator[Group]:
    """Products, in execution order, that have one operand in common and can have one shape."""
    groups: dict[Hashable, Group] = defaultdict(list)
    for node in gm.graph.nodes:
        product = read_product(node)
        if product is None or not node.users or node in taken or product.left is product.right:
            continue
        shared, other = _operands(product, side)
        constant = other in still
        if side == RIGHT and product.bias is not None or constant and shared in still:
            continue
        # Some with a bias and some without are merged where the zeros cost nothing.
        biased = None if constant and (product.bias is None or product.bias in still) else product.bias is not None
        groups[numbers[shared], product.rank, value_of(node).dtype, constant, biased, phase_of(node)].append(product)
    return (group for group in groups.values() if len(group) > 1)


def _operands(product: Product, side: str) -> tuple[fx.Node, fx.Node]:
    """(the shared one, the other)."""
    return (product.left, product.right) if side == LEFT else (product.right, product.left)


def _independent(group: Group, depth: dict[fx.Node, int]) -> list[Group]:
    """The group, or where one of it is computed from another, those of equal depth."""
    if len({depth[one.node] for one in group}) == 1 or not depends_on_another([one.node for one in group]):
        return [group]
    by_depth: dict[int, Group] = defaultdict(list)
    for one in group:
        by_depth[depth[one.node]].append(one)
    return list(by_depth.values())


def _by_what_follows(group: Group) -> list[Group]:
    """Apart where different activations follow, or one here and none there: a kernel can do product and activation at once."""
    nodes = [one.node for one in group]
    alike: dict[Hashable, Group] = defaultdict(list)
    for one in group:
        alike[activation_behind(one.node, nodes)].append(one)
    return list(alike.values())


def _why_alone(product: Product, group: Group) -> str:
    late = depends_on_another([one.node for one in group])
    if late:
        return f"{late} is computed from it."
    return "Another activation follows it than follows the others, or none: each can be done in the kernel of its own product."


def _arranged(group: Group, side: str) -> Group:
    """In the order in which their operands stand side by side already, if they do."""
    return [group[at] for at in arrangement([_operands(one, side)[1] for one in group], -1 if side == LEFT else -2)]


def _why_not(group: Group, side: str, still: Collection[fx.Node]) -> str:
    """Counts bytes and launches before and after."""
    dim = -1 if side == LEFT else -2
    parts = [concatenation([_operands(one, side)[1] for one in group], dim, still)]
    if group[0].bias is not None and group[0].bias not in still:
        parts.append(concatenation([one.bias for one in group if one.bias], 0))
    saved = (len(group) - 1) * read_bytes(_operands(group[0], side)[0])
    spent = sum(each.bytes for each in parts) + _zeros(group)
    copies = []
    if spent <= saved:
        copies = [size for one, value in zip(group, _values_after(group, dim), strict=True) for size in forced_copies(one.node, value)]
        spent += 2 * sum(copies)
    launches = sum(each.launches for each in parts) + len(copies)
    if spent > saved:
        return (
            f"The {len(group)} products would read {saved:,} bytes less, but the copies that put operands side by side, and those that"
            f" readers then need, or zeros in the place of biases, move {spent:,}."
        )
    if launches > len(group) - 1:
        return f"{launches} copies would take the place of {len(group) - 1} products."
    return ""


def _zeros(group: Group) -> int:
    """Bytes of the zeros for products without a bias, beside one that has one."""
    if all(one.bias is None for one in group):
        return 0
    return sum(value_of(one.node).shape[-1] * value_of(one.node).element_size() for one in group if one.bias is None)


def _values_after(group: Group, dim: int) -> tuple[Tensor, ...]:
    """Each result as a part of one tensor."""
    values = [value_of(one.node) for one in group]
    shape = list(values[0].shape)
    shape[dim] = sum(value.shape[dim] for value in values)
    whole = torch.empty(shape, dtype=values[0].dtype, device="meta")
    return torch.split(whole, [value.shape[dim] for value in values], dim)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One product before the first, or behind what the last operand needs, and a part of it for each."""
    side, still = match.data
    found: Group = [read_product(node) for node in match.nodes]  # type: ignore[misc]
    first, group = match.anchor, _arranged(found, side)
    dim = -1 if side == LEFT else -2
    shared = _operands(found[0], side)[0]
    whole = concatenation([_operands(one, side)[1] for one in group], dim, still)
    biases = [one.bias for one in group]
    given = [bias for bias in biases if bias is not None]
    needs = [shared, *whole.needs, *behind_weights([bias for bias in given if bias in still])[0]]
    needs += [bias for bias in given if bias not in still]
    last = max(needs)
    if last > first and depends_on_another(match.nodes):
        return  # an earlier match has tied them
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        other = whole.make(gm)
        sizes = [value_of(one.node).shape[dim] for one in group]
        operands = (shared, other) if side == LEFT else (other, shared)
        product = multiply(gm, *operands, _bias(gm, biases, sizes, still))
        parts = split(gm, product, sizes, value_of(product).dim() + dim)
    for one, new in zip(group, parts, strict=True):
        one.node.replace_all_uses_with(new)
    move_readers_behind(first, between(before.next, parts[-1]))
    for one in group:
        gm.graph.erase_node(one.node)


def _bias(gm: fx.GraphModule, biases: list[fx.Node | None], sizes: list[int], still: Collection[fx.Node]) -> fx.Node | None:
    """Biases side by side; zeros for a product without one."""
    given = [bias for bias in biases if bias is not None]
    if not given:
        return None
    if not all(bias in still for bias in given):
        return concatenation(given, 0).make(gm) if len(given) == len(biases) else None

    def together(*values: Tensor) -> Tensor:
        rest = iter(values)
        return torch.cat([values[0].new_zeros(size) if bias is None else next(rest) for bias, size in zip(biases, sizes, strict=True)])

    return prepare(gm, f"{len(given)} biases side by side", together, *given)


class _Projections(nn.Module):
    """Queries, and fewer keys and values, of one input, without a bias for keys."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 16, bias=False), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x).view(2, 4, -1, 8).transpose(1, 2).sin() for layer in (self.query, self.key, self.value))


class _Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x).relu() * self.up(x)


class _Experts(nn.Module):
    """Two layers that an activation follows, and a gate that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.one, self.other = nn.Linear(32, 2), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.gate(x).unbind(-1)
        return first.unsqueeze(-1) * self.one(x).relu().cumsum(0) + second.unsqueeze(-1) * self.other(x).relu().cumsum(0)


def _rows(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return x @ w, y @ w


def _again(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).tanh() @ w


OPTIMIZATION = Optimization(
    name="merge-parallel-matmuls",
    summary="Products that share an operand, such as queries, keys and values, become one.",
    find=find,
    rewrite=rewrite,
    # Lower where weights were computed in every run and are now prepared.
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_Projections, lambda: (torch.randn(2, 4, 32),), matches=1),
        Example(_Gated, lambda: (torch.randn(256, 8),), "training", matches=1),
        Example(lambda: Function(_rows), lambda: (torch.randn(2, 16), torch.randn(3, 16), torch.randn(16, 16)), matches=1),
    ),
    refusals=(
        Example(_Gated, lambda: (torch.randn(2, 8),), "training", reason="side by side"),
        Example(_Experts, lambda: (torch.randn(2, 32),), reason="Another activation follows"),
        Example(lambda: Function(_again), lambda: (torch.randn(2, 8), torch.randn(8, 8)), reason="is computed from it"),
    ),
    exactness="rounding",
)
