"""Recognizes attention written by hand: scores, softmax, weighted sum, and in a training graph its backward.

`read` starts at a softmax and walks both ways through operators that only reshape or cast. It raises NotAttention with the reason
where something else stands in the way.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
)
CASTS = (aten._to_copy.default,)
SCALES: dict[Any, int] = {aten.mul.Tensor: 1, aten.mul.Scalar: 1, aten.div.Tensor: -1, aten.div.Scalar: -1}


class NotAttention(Exception):
    """A softmax that is not (or not only) attention's; `str(error)` is the reason."""


@dataclass
class Mask:
    """An added mask, or a condition under which scores are replaced by `fill`."""

    node: fx.Node
    kind: str  # "add", "fill where true", "fill where false"
    fill: float = 0.0


@dataclass
class Backward:
    """The backward of one attention: its first node, the gradient that enters, and the three products that leave."""

    first: fx.Node
    grad_out: fx.Node
    query: fx.Node
    key: fx.Node
    value: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)


@dataclass
class Attention:
    """softmax(scale · query @ keyᵀ + mask) @ value; query [B, H, Sq, D], key transposed [B, H, D, Sk], value [B, H, Sk, Dv]."""

    softmax: fx.Node
    query: fx.Node
    key_t: fx.Node
    value: fx.Node
    out: fx.Node
    scale: float
    mask: Mask | None
    nodes: list[fx.Node]
    backward: Backward | None = None


def shape(node: fx.Node) -> tuple[int, ...]:
    """The node's shape."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def read(softmax: fx.Node) -> Attention:
    """The attention around a softmax.

    Raises:
        NotAttention: with the reason, one sentence.
    """
    if len(shape(softmax)) != 4 or softmax.args[1] not in (-1, 3):
        raise NotAttention("It is not over the last dimension of scores of shape batch, heads, queries, keys.")
    scores, scale, mask, upstream = _scores(softmax)
    weights, readers = _spread(softmax)
    product, gradient = None, None
    value_gradient = None
    for reader, read_from in readers:
        if reader.target is aten.bmm.default and reader.args[0] is read_from and reader.meta["origin"].phase != "backward":
            product = _only(product, reader, "The probabilities are multiplied twice.")
        elif reader.target is aten.bmm.default and reader.args[0] is read_from:
            value_gradient = _only(value_gradient, reader, "The probabilities' gradient is read twice.")
        elif reader.target is aten._softmax_backward_data.default and reader.args[1] is read_from:
            gradient = _only(gradient, reader, "The softmax has two backwards.")
        else:
            raise NotAttention(f"The probabilities are also read by {reader.name}, so they must exist.")
    if product is None:
        raise NotAttention("Nothing multiplies its probabilities with values.")
    query, key_t, value = (_four(node, shape(softmax)) for node in (*scores.args[:2], product.args[1]))  # type: ignore[misc]
    found = Attention(softmax, query, key_t, value, product, scale, mask, [*upstream, softmax, *weights, product])
    if gradient is not None or value_gradient is not None:
        if gradient is None or value_gradient is None:
            raise NotAttention("Only a part of its backward is in the graph.")
        found.backward = _backward(found, scores, gradient, value_gradient)
    return found


def _only(old: fx.Node | None, new: fx.Node, reason: str) -> fx.Node:
    if old is not None:
        raise NotAttention(reason)
    return new


def _scores(softmax: fx.Node) -> tuple[fx.Node, float, Mask | None, list[fx.Node]]:
    """Walks up from the softmax to the product of queries and keys."""
    node, scale, mask, passed = softmax.args[0], 1.0, None, []
    while True:
        assert isinstance(node, fx.Node)
        if node.meta["origin"].phase == "backward":
            raise NotAttention("Its scores are computed in backward.")
        passed.append(node)
        if node.target is aten.bmm.default:
            return node, scale, mask, list(reversed(passed))
        if _readers_outside(node, passed, softmax):
            raise NotAttention(f"The scores are also read outside, at {node.name}.")
        if node.target in RESHAPES or node.target in CASTS:
            node = node.args[0]
        elif node.target in SCALES and isinstance(node.args[1], (int, float)):
            scale *= float(node.args[1]) ** SCALES[node.target]
            node = node.args[0]
        else:
            step, found = _mask(node)
            if mask is not None:
                raise NotAttention("Its scores are masked twice.")
            if scale != 1.0:
                raise NotAttention("Its mask is scaled together with the scores.")
            mask, node = found, step


def _readers_outside(node: fx.Node, passed: list[fx.Node], softmax: fx.Node) -> bool:
    return any(user not in passed and user is not softmax and user.users for user in node.users)


def _mask(node: fx.Node) -> tuple[fx.Node, Mask]:
    """(the scores before the mask, the mask)."""
    if node.target is aten.add.Tensor and node.kwargs.get("alpha", 1) == 1:
        a, b = node.args[:2]
        if isinstance(a, fx.Node) and isinstance(b, fx.Node):
            scores, mask = (a, b) if _leads_to_product(a) else (b, a)
            if shape(scores) == shape(node) and len(shape(mask)) in (2, 4):
                return scores, Mask(mask, "add")
    if node.target is aten.masked_fill.Scalar and len(shape(node.args[1])) in (2, 4):  # type: ignore[arg-type]
        return node.args[0], Mask(node.args[1], "fill where true", float(node.args[2]))  # type: ignore[arg-type, return-value]
    if node.target in (aten.where.self, aten.where.ScalarOther):
        fill = _number(node.args[2])
        if fill is not None and len(shape(node.args[0])) in (2, 4):  # type: ignore[arg-type]
            return node.args[1], Mask(node.args[0], "fill where false", fill)  # type: ignore[arg-type, return-value]
    raise NotAttention(f"Between the product of queries and keys and the softmax stands {node.name}, which the kernel cannot do.")


def _leads_to_product(node: Any) -> bool:
    while isinstance(node, fx.Node) and (node.target in RESHAPES or node.target in CASTS or node.target in SCALES):
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target is aten.bmm.default


def _number(value: Any) -> float | None:
    """A number, or the number that a filled scalar holds."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, fx.Node) and value.target in (aten.full.default, aten.scalar_tensor.default):
        filled = value.args[1] if value.target is aten.full.default else value.args[0]
        return float(filled) if isinstance(filled, (int, float)) else None
    return None


def _spread(softmax: fx.Node) -> tuple[list[fx.Node], list[tuple[fx.Node, fx.Node]]]:
    """Every node that shows the probabilities in another shape, and (reader, what it reads) for all that use them."""
    shown, readers, queue = [], [], [softmax]
    while queue:
        node = queue.pop()
        for user in node.users:
            if user.target in (
                *RESHAPES,
                *CASTS,
                aten.transpose.int,
                aten.permute.default,
                aten.t.default,
            ) or _no_dropout(user):
                shown.append(user)
                queue.append(user)
            elif user.op == "output":
                raise NotAttention("The probabilities are an output of the graph.")
            elif user.target is aten.native_dropout.default:
                raise NotAttention("Dropout acts on the probabilities: the kernel would draw other random numbers.")
            else:
                readers.append((user, node))
    return shown, readers


def _no_dropout(node: fx.Node) -> bool:
    """A dropout of probability 0, or its first output."""
    if node.target is operator.getitem:
        return node.args[1] == 0 and _no_dropout(node.args[0])  # type: ignore[arg-type]
    return node.target is aten.native_dropout.default and float(node.args[1]) == 0.0  # type: ignore[arg-type]


def _four(node: Any, scores: tuple[int, ...]) -> fx.Node:
    """The operand of a batched product as it was before batch and heads were joined: [B, H, rows, columns]."""
    wanted = (*scores[:2], *shape(node)[-2:])
    while isinstance(node, fx.Node) and node.target in RESHAPES:
        before = node.args[0]
        if shape(before) != wanted and len(shape(node)) == 4:  # type: ignore[arg-type]
            break
        node = before
    if not isinstance(node, fx.Node) or shape(node) != wanted:
        raise NotAttention("Its operands do not have the shape batch, heads, rows, columns.")
    return node


def _backward(found: Attention, scores: fx.Node, gradient: fx.Node, value_gradient: fx.Node) -> Backward:
    """The backward: products with the probabilities, with the values, and after softmax's gradient with queries and keys."""
    wide = shape(found.softmax)
    grad_out = _four(value_gradient.args[1], wide)
    into, passed = gradient.args[0], []
    while isinstance(into, fx.Node) and into.target is not aten.bmm.default:
        if not (into.target in RESHAPES or into.target in CASTS or _dropout_gradient(into)):
            raise NotAttention(f"Its gradient passes {into.name}, which the kernel's backward cannot do.")
        passed.append(into)
        into = into.args[0]
    assert isinstance(into, fx.Node)
    if _four(into.args[0], wide) is not grad_out:
        raise NotAttention("Its backward mixes gradients of two outputs.")
    query_gradient, key_gradient, path = _score_gradients(gradient)
    first = min(into, value_gradient, key=list(gradient.graph.nodes).index)
    nodes = [into, *passed, gradient, *path, query_gradient, key_gradient, value_gradient]
    return Backward(first, grad_out, query_gradient, key_gradient, value_gradient, nodes)


def _dropout_gradient(node: fx.Node) -> bool:
    return node.target is aten.native_dropout_backward.default and float(node.args[2]) == 1.0  # type: ignore[arg-type]


def _score_gradients(gradient: fx.Node) -> tuple[fx.Node, fx.Node, list[fx.Node]]:
    """Walks down from softmax's gradient to the products that give the gradients of query and key."""
    node, path = gradient, []
    while True:
        users = [user for user in node.users if user.target is not aten.transpose.int or user.users]
        products = [user for user in users if user.target is aten.bmm.default]
        if len(products) == 2 and len(users) == 2:
            query = next((product for product in products if product.args[0] is node), None)
            key = next((product for product in products if product.args[1] is node), None)
            if query is None or key is None:
                raise NotAttention("Its backward is not that of a product of queries and keys.")
            return query, key, path
        if len(users) != 1:
            raise NotAttention("The gradient of its scores is needed elsewhere (is the mask learned?).")
        node = users[0]
        allowed = (*RESHAPES, *CASTS, *SCALES, aten.masked_fill.Scalar, aten.where.self, aten.where.ScalarOther)
        if node.target not in allowed:
            raise NotAttention(f"The gradient of its scores passes {node.name}, which the kernel's backward cannot do.")
        path.append(node)
