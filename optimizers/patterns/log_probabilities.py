"""Recognizes log-softmax written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optimizers.patterns.expressions import forward_readers, operands, value
from optimizers.patterns.gradients import NotWhole, Part, part
from optimizers.patterns.numbering import Numbering, through

aten = torch.ops.aten


def read_log_softmax(node: fx.Node, numbers: Numbering) -> tuple[Part, int] | None:
    """The part that is a log-softmax of its input, and over which dimension; starts at a logarithm or a logsumexp.

    Raises:
        NotWhole: with the reason why it is not.
    """
    if node.target is aten.logsumexp.default:
        dim = _one_dim(node, node.args[1])
        x = through(node.args[0])  # type: ignore[arg-type]
        return (part(_less(node, x, dim, numbers), x), dim) if dim is not None and _goes_into_difference(node) else None
    inside = through(node.args[0])  # type: ignore[arg-type]
    if inside.target is aten._softmax.default:
        if inside.args[2] is True:
            raise NotWhole("Its softmax also casts.")
        return part(node, through(inside.args[0])), inside.args[1]  # type: ignore[return-value, arg-type]
    return _from_exponentials(node, inside, numbers)


def _from_exponentials(node: fx.Node, total: fx.Node, numbers: Numbering) -> tuple[Part, int] | None:
    """s − log Σ exp(s), where s is x less its maximum."""
    raised = through(total.args[0]) if total.target is aten.sum.dim_IntList else None  # type: ignore[arg-type]
    if raised is None or raised.target is not aten.exp.default or not _goes_into_difference(node):
        return None
    dim = _one_dim(total, total.args[1])
    shifted = through(raised.args[0])  # type: ignore[arg-type]
    less = operands(shifted, (aten.sub.Tensor,))
    if less is None or not _is_maximum(less[1], less[0], dim, numbers):
        raise NotWhole("exp overflows where no maximum is taken away first, and the kernel does not: the values differ.")
    if dim is None:
        return None
    return part(_less(node, shifted, dim, numbers, total), less[0]), dim


def _one_dim(node: fx.Node, dims: Any) -> int | None:
    rank = value(node.args[0]).dim()  # type: ignore[arg-type]
    return dims[0] % rank if isinstance(dims, (list, tuple)) and len(dims) == 1 and rank else None


def _is_maximum(node: Any, x: fx.Node, dim: int | None, numbers: Numbering) -> bool:
    """Is it the maximum of x over the dimension, which stays?"""
    if not isinstance(node, fx.Node):
        return False
    node = through(node)
    if node.target is aten.amax.default:
        return _one_dim(node, node.args[1]) == dim and len(node.args) > 2 and node.args[2] is True and numbers.same(node.args[0], x)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.target is not aten.max.dim or node.args[1] != 0 or len(source.args) < 3:
        return False
    return source.args[1] % value(x).dim() == dim and source.args[2] is True and numbers.same(source.args[0], x)  # type: ignore[operator]


def _goes_into_difference(node: fx.Node) -> bool:
    """A logsumexp that is a result of its own is no log-softmax."""
    following = [
        user
        for reader in forward_readers(node)
        for user in ([reader] if reader.target is not aten.unsqueeze.default else forward_readers(reader))
    ]
    return any(user.target is aten.sub.Tensor for user in following)


def _less(node: fx.Node, x: fx.Node, dim: int | None, numbers: Numbering, total: fx.Node | None = None) -> fx.Node:
    """The difference of x and the logarithm of its sum of exponentials."""
    source = total or node
    keeps = len(source.args) > 2 and source.args[2] is True
    readers = [reader for reader in forward_readers(node) if reader.op != "output"]
    if not keeps and len(readers) == 1 and readers[0].target is aten.unsqueeze.default:
        if readers[0].args[1] % value(x).dim() != dim:  # type: ignore[operator]
            raise NotWhole("Its logsumexp is spread over another dimension.")
        node, keeps = readers[0], True
        readers = [reader for reader in forward_readers(node) if reader.op != "output"]
    pair = operands(readers[0], (aten.sub.Tensor,)) if len(readers) == 1 else None
    if pair is None or not keeps or not (numbers.same(pair[0], x) and numbers.same(pair[1], node)):
        raise NotWhole(f"{node.name} is not only taken from the values that it sums.")
    return readers[0]
