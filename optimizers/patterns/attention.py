"""Recognizes attention however it is written: scores, softmax, weighted sum, and in a training graph its backward.

`read` starts at a softmax and walks both ways through operators that only move, cast, scale or mask. It raises NotAttention with the
reason where something else stands in the way. What it finds is described in the indices of the product of queries and keys, so that no
layout (heads first or last, three dimensions or five, einsum's order) is a case of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import fx

from optimizers.patterns.attention_axes import MOVES, Axes, shape, swapped, through, whole
from optimizers.patterns.attention_backward import Backward, read_backward
from optimizers.patterns.attention_products import NotAttention, Product, is_live, product
from optimizers.patterns.attention_scores import Scores, Softmax, read_scores, softmax_at

aten = torch.ops.aten
CHECKS = (aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_async.default)


@dataclass
class Probabilities:
    """The softmax's result in all its shapes.

    Attributes:
        axes: every node that shows it -> which index of the scores each dimension is.
        dropout: the dropout that acts on it, None without one.
        dropped: the nodes that show it after dropout.
        readers: (reader, what it reads) for all that use it.
        idle: nodes that read it and whose result nobody reads.
    """

    axes: dict[fx.Node, Axes]
    dropout: fx.Node | None = None
    dropped: set[fx.Node] = field(default_factory=set)
    readers: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    idle: list[fx.Node] = field(default_factory=list)


@dataclass
class Attention:
    """softmax(scale · queries @ keysᵀ + masks) @ values.

    Attributes:
        softmax: where it was found.
        scores: the product of queries and keys and what is done to it.
        out: the product of probabilities and values.
        values: its operand that holds the values; `values_first` when it stands on the left, transposed.
        dropout: native_dropout on the probabilities, with a probability above 0; `dropout_axes` are those of what it acts on.
        nodes: every node that the kernel takes the place of.
        idle: nodes to remove with them, which nobody reads.
    """

    softmax: Softmax
    scores: Scores
    out: Product
    values: fx.Node
    values_first: bool
    dropout: fx.Node | None
    nodes: list[fx.Node]
    idle: list[fx.Node]
    dropout_axes: Axes = ()
    backward: Backward | None = None


def read(node: fx.Node, dead: Collection[fx.Node]) -> Attention | None:
    """The attention around a softmax; None when the node is no softmax.

    Args:
        dead: nodes without readers, directly or in the end.

    Raises:
        NotAttention: with the reason, one sentence.
    """
    softmax = softmax_at(node)
    if softmax is None:
        return None
    if 0 in shape(node):
        raise NotAttention("A dimension is empty: there is nothing to compute.")
    scores = read_scores(softmax, dead)
    shown = _spread(softmax, scores, dead)
    forward, gradient, value_products = _readers(shown)
    if forward is None:
        raise NotAttention("Nothing multiplies its probabilities with values.")
    out, first = _weighted_sum(forward, shown, scores)
    nodes = [*scores.nodes, *softmax.nodes, *shown.axes, out.node]
    found = Attention(softmax, scores, out, out.left if first else out.right, first, shown.dropout, list(dict.fromkeys(nodes)), shown.idle)
    found.dropout_axes = shown.axes[shown.dropout] if shown.dropout else ()
    if gradient is not None or value_products:
        if gradient is None or not isinstance(softmax.node.target, torch._ops.OpOverload) or len(softmax.nodes) > 1:
            raise NotAttention("Its backward is in pieces: the softmax is written out by hand, or only the values have a gradient.")
        found.backward = read_backward(scores, shown.axes, out, first, gradient, value_products, shown.dropout, dead)
    return found


def _spread(softmax: Softmax, scores: Scores, dead: Collection[fx.Node]) -> Probabilities:
    """Follows the probabilities through every operator that only shows them in another shape."""
    shown = Probabilities({softmax.node: scores.axes})
    queue = [softmax.node]
    while queue:
        node = queue.pop()
        for user in node.users:
            if not is_live(user, dead):
                shown.idle.append(user)
            elif user.op == "output":
                raise NotAttention("The probabilities are an output of the graph.")
            elif user.target in MOVES:
                axes = through(user, shown.axes[node])
                if axes is None:
                    raise NotAttention(f"The probabilities are repeated, cut apart or rounded to integers at {user.name}.")
                shown.axes[user] = axes
                if node in shown.dropped:
                    shown.dropped.add(user)
                queue.append(user)
            elif user.target is aten.native_dropout.default:
                queue += _dropped(shown, user, node)
            else:
                shown.readers.append((user, node))
    return shown


def _dropped(shown: Probabilities, dropout: fx.Node, node: fx.Node) -> list[fx.Node]:
    """Dropout's first output goes on as the probabilities; its second, the mask that it drew, is for backward."""
    parts = [user for user in dropout.users if user.target is operator.getitem and user.args[1] == 0]
    if dropout.args[2] is not False and float(dropout.args[1]) != 0.0:  # type: ignore[arg-type]
        if shown.dropout is not None:
            raise NotAttention("Dropout acts on the probabilities twice.")
        shown.dropout = dropout
        shown.dropped.update(parts)
    elif node in shown.dropped:
        shown.dropped.update(parts)
    shown.axes.update(dict.fromkeys((dropout, *parts), shown.axes[node]))
    return parts


def _readers(shown: Probabilities) -> tuple[tuple[fx.Node, fx.Node] | None, fx.Node | None, list[fx.Node]]:
    """(the product with the values and what it reads, softmax's gradient, products of backward)."""
    forward, gradient, others = None, None, []
    for reader, read_from in shown.readers:
        backward = reader.meta["origin"].phase == "backward"
        if product(reader) is not None and not backward:
            if forward is not None and forward[0] is not reader:
                raise NotAttention("The probabilities are multiplied twice.")
            if shown.dropout is not None and read_from not in shown.dropped:
                raise NotAttention("The probabilities are multiplied as they were before dropout.")
            forward = (reader, read_from)
        elif product(reader) is not None:
            others.append(reader)
        elif reader.target is aten._softmax_backward_data.default and reader.args[1] is read_from:
            if gradient is not None or read_from in shown.dropped:
                raise NotAttention("The softmax has two backwards, or one that reads it after dropout.")
            gradient = reader
        else:
            raise NotAttention(f"The probabilities are also read by {reader.name}, so they must exist.")
    return forward, gradient, others


def _weighted_sum(reader: tuple[fx.Node, fx.Node], shown: Probabilities, scores: Scores) -> tuple[Product, bool]:
    """The product with the values, and whether the values stand on its left (transposed)."""
    node, read_from = reader
    found = product(node)
    assert found is not None
    if found.left is found.right:
        raise NotAttention("The probabilities are multiplied with themselves.")
    first = found.right is read_from
    axes = swapped(shown.axes[read_from]) if first else shown.axes[read_from]
    wanted = (whole(scores.queries, scores.sizes[scores.queries]), whole(scores.keys, scores.sizes[scores.keys]))
    if axes[-2:] != wanted:
        raise NotAttention("The product with the probabilities does not sum over the keys of each query.")
    if axes[:-2] not in ((), (whole("N", scores.sizes["N"]),)):
        raise NotAttention("Batch and heads are joined in another order for the values than for the scores.")
    if found.added is not None or found.alpha != 1.0:
        raise NotAttention("Something is added to the weighted sum in the same operator.")
    return found, first
