"""Matrix products as their rewrites see them: operands, and what a concatenation costs.

A product is `mm`, `addmm` with a plain bias, or `bmm`. The same tensor reaches several products through views of their own
(`view(x, [B·S, K])` once for each of query, key and value), so operands are compared past views (`numbering.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optimizers.base import value_of
from optimizers.editing import behind_weights, call, prepare
from optimizers.patterns.views import RESHAPES, TURNS, keeps_values, permutation

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default)


@dataclass(frozen=True)
class Product:
    """left [.., M, K] · right [.., K, N] + bias [N]."""

    node: fx.Node
    left: fx.Node
    right: fx.Node
    bias: fx.Node | None = None

    @property
    def rank(self) -> int:
        return value_of(self.node).dim()


def read_product(node: fx.Node) -> Product | None:
    """The node as a product, or None; an `addmm` only where it adds one number for each column, unscaled."""
    if node.target in (aten.mm.default, aten.bmm.default) and not node.kwargs and len(node.args) == 2:
        return Product(node, *node.args)  # type: ignore[arg-type]
    if node.target is aten.addmm.default and all(number == 1 for number in node.kwargs.values()):
        bias, left, right = node.args
        if value_of(bias).shape == value_of(node).shape[1:]:  # type: ignore[arg-type]
            return Product(node, left, right, bias)  # type: ignore[arg-type]
    return None


def multiply(gm: fx.GraphModule, left: fx.Node, right: fx.Node, bias: fx.Node | None = None) -> fx.Node:
    """A new product."""
    if bias is not None:
        return call(gm, aten.addmm.default, bias, left, right)
    return call(gm, aten.bmm.default if value_of(left).dim() == 3 else aten.mm.default, left, right)


def can_be_viewed(value: Tensor, shape: Sequence[int]) -> bool:
    """Is it a view of that shape, or does it take a copy?"""
    try:
        torch.empty_strided(value.shape, value.stride(), device="meta").view(list(shape))
    except (RuntimeError, ValueError):
        return False
    return True


def behind_views(node: fx.Node) -> list[fx.Node]:
    """The node, what it is a reshaping of, and so on to the first that is no reshaping; all but the node are read by the next alone."""
    chain = [node]
    while chain[-1].target in RESHAPES and keeps_values(chain[-1]):
        read = chain[-1].args[0]
        if not isinstance(read, fx.Node) or len(read.users) != 1:
            break
        chain.append(read)
    return chain


def depths(gm: fx.GraphModule) -> dict[fx.Node, int]:
    """How many products stand on the longest path to each node, itself included: two products of one depth never need each other."""
    found: dict[fx.Node, int] = {}
    for node in gm.graph.nodes:
        before = max((found[read] for read in node.all_input_nodes), default=0)
        found[node] = before + (node.target in PRODUCTS)
    return found


def depends_on_another(members: Sequence[fx.Node]) -> fx.Node | None:
    """The first of these nodes that is computed from another of them."""
    inside, order = set(members), sorted(members)
    tainted: set[fx.Node] = {order[0]}
    node = order[0].next
    while node is not order[-1].next:
        if any(read in tainted for read in node.all_input_nodes):
            if node in inside:
                return node
            tainted.add(node)
        elif node in inside:
            tainted.add(node)
        node = node.next
    return None


def read_bytes(node: fx.Node) -> int:
    """Bytes behind a node's value: an expanded dimension is read once."""
    value = value_of(node)
    count = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        count *= size if stride else 1
    return count * value.element_size()


def through_permutes(node: fx.Node) -> tuple[fx.Node, tuple[int, ...]]:
    """(the tensor before transposes, the order of its dimensions that gives the node)."""
    order = tuple(range(value_of(node).dim()))
    while node.target in TURNS:
        order = tuple(permutation(node)[dim] for dim in order)
        node = node.args[0]  # type: ignore[assignment]
    return node, order


def repeated_dims(values: Sequence[Tensor], axis: int) -> list[int]:
    """Dimensions, but the axis, along which each of the tensors is one slice read many times."""
    return [dim for dim in range(values[0].dim()) if dim != axis and all(value.stride(dim) == 0 < value.shape[dim] for value in values)]


def side_by_side(values: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors put together along an axis; what all of them repeat is stored once."""
    short = list(values)
    for dim in repeated_dims(values, axis):
        short = [value.narrow(dim, 0, 1) for value in short]
    whole = torch.cat(short, axis)
    return whole.expand([-1 if at == axis else size for at, size in enumerate(values[0].shape)])


@dataclass(frozen=True)
class Concatenation:
    """Operands side by side along `dim`, as a tensor that exists already, or weights put together once, or a copy in every run.

    Attributes:
        roots: the operands before transposes that all of them share; concatenated along `axis`, then permuted by `order`.
    """

    roots: tuple[fx.Node, ...]
    axis: int
    order: tuple[int, ...]
    constant: bool
    existing: fx.Node | None

    @property
    def bytes(self) -> int:
        """Bytes that a run moves for it: read once, written once; and what its reader reads more of it than of the operands, which may repeat
        one row many times."""
        if self.existing:
            return 0
        whole = sum(value_of(root).numel() * value_of(root).element_size() for root in self.roots)
        read = sum(map(read_bytes, self.roots))
        if self.constant:
            repeated = repeated_dims([value_of(root) for root in self.roots], self.axis)
            return whole // math.prod(value_of(self.roots[0]).shape[dim] for dim in repeated) - read
        return read + whole + (whole - read)

    @property
    def launches(self) -> int:
        return 0 if self.constant or self.existing else 1

    @property
    def needs(self) -> tuple[fx.Node, ...]:
        """Nodes that must stand before it."""
        if self.constant:
            return tuple(behind_weights(self.roots)[0])
        return (self.existing,) if self.existing else self.roots

    def make(self, gm: fx.GraphModule) -> fx.Node:
        """The node, at the graph's insertion point."""
        if self.existing:
            whole = self.existing
        elif self.constant:
            whole = prepare(gm, f"{len(self.roots)} weights side by side", lambda *parts: side_by_side(parts, self.axis), *self.roots)
        else:
            whole = call(gm, aten.cat.default, list(self.roots), self.axis)
        if self.order == tuple(range(len(self.order))):
            return whole
        return call(gm, aten.t.default, whole) if len(self.order) == 2 else call(gm, aten.permute.default, whole, list(self.order))


def concatenation(operands: Sequence[fx.Node], dim: int, constant: Collection[fx.Node] = ()) -> Concatenation:
    """How the operands come to stand side by side. `constant`: nodes whose work is done once."""
    looked = [through_permutes(operand) for operand in operands]
    orders = {order for _, order in looked}
    plain = tuple(range(value_of(operands[0]).dim()))
    roots, order = (tuple(root for root, _ in looked), orders.pop()) if len(orders) == 1 else (tuple(operands), plain)
    axis = order[dim % len(order)]
    still = all(operand in constant for operand in operands)
    return Concatenation(roots, axis, order, still, None if still else _existing(roots, axis))


def arrangement(operands: Sequence[fx.Node], dim: int) -> list[int]:
    """The order in which these operands stand side by side in a tensor that exists already; as they are, where there is none."""
    plain = list(range(len(operands)))
    roots, axis = (found := concatenation(operands, dim)).roots, found.axis
    if len(set(roots)) < len(roots):
        return plain
    for user in roots[0].users:
        if user.target is aten.cat.default and set(user.args[0]) == set(roots):  # type: ignore[arg-type]
            order = [roots.index(each) for each in user.args[0]]  # type: ignore[union-attr, arg-type]
            if _existing(tuple(roots[at] for at in order), axis):
                return order
    return plain


def _existing(roots: tuple[fx.Node, ...], axis: int) -> fx.Node | None:
    """A concatenation of the same tensors, or the tensor that they are all the parts of, in order."""
    rank = value_of(roots[0]).dim()
    for user in roots[0].users:
        if user.target is aten.cat.default and tuple(user.args[0]) == roots and (user.args[1] if len(user.args) > 1 else 0) % rank == axis:  # type: ignore[arg-type, operator]
            return user
    whole = roots[0].args[0] if roots[0].args else None
    if not isinstance(whole, fx.Node) or whole.target is not aten.split_with_sizes.default:
        return None
    dim = (whole.args[2] if len(whole.args) > 2 else 0) % rank  # type: ignore[operator]
    in_order = [root.args for root in roots] == [(whole, index) for index in range(len(whole.args[1]))]  # type: ignore[arg-type]
    return whole.args[0] if dim == axis and in_order else None  # type: ignore[return-value]
