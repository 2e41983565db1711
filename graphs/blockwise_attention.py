"""Attention block by block as an operator of our own, for what torch's CPU kernel lacks: a dropout mask that was drawn before, a gradient
for the mask that is added to the scores, and values of another width than the keys.

A block of queries meets all keys at a time (Dao et al. 2022, *FlashAttention*, section 3.1, with the keys of a block whole), and its
scores, at most 1 MiB, stay in the cache of a core. The matrix of probabilities is never whole in memory. Backward computes each block
anew from one number per row, the logarithm of the sum of its exponentials (section 3.1 and appendix B.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 20  # bytes of scores in a block


@dataclass(frozen=True)
class Plan:
    """How many batch entries, heads and queries are in a block."""

    batch: int
    heads: int
    rows: int

    def blocks(self, batch: int, heads: int, rows: int) -> Iterator[tuple[slice, slice, slice]]:
        """Every block: which batch entries, heads and queries; of several batch entries always all heads."""
        for b in range(0, batch, self.batch):
            for h in range(0, heads, self.heads):
                for r in range(0, rows, self.rows):
                    yield slice(b, min(b + self.batch, batch)), slice(h, min(h + self.heads, heads)), slice(r, min(r + self.rows, rows))


def plan(batch: int, heads: int, rows: int, keys: int, itemsize: int) -> Plan:
    """Blocks of at most `BLOCK` bytes of scores, or of one query where that is more."""
    room = BLOCK // itemsize
    at_once = max(1, min(rows, room // keys))
    together = max(1, min(heads, room // (keys * at_once)))
    entries = max(1, min(batch, room // (keys * at_once * heads))) if together == heads else 1
    return Plan(entries, together, at_once)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _flat(x: Tensor) -> Tensor:
    """[B, H, S, D] -> [B·H, S, D] in the precision of the computation."""
    return x.to(_wide(x)).reshape(-1, *x.shape[2:])


def _whole(x: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    return None if x is None else x.expand(*query.shape[:3], key.shape[2])


def _scores(rows: Tensor, keys: Tensor, mask: Tensor | None, at: tuple[slice, slice, slice]) -> Tensor:
    """Scores of a block, [B·H, rows, keys]."""
    scores = torch.bmm(rows, keys.transpose(1, 2))
    if mask is not None:
        part = mask[at]
        scores.view(part.shape).add_(part)
    return scores


def _keep(weights: Tensor, keep: Tensor | None, at: tuple[slice, slice, slice]) -> Tensor:
    """The weights that dropout left, not yet made larger for it."""
    if keep is None:
        return weights
    part = keep[at]
    return (weights.view(part.shape) * part).view(weights.shape)


def _flat_part(at: tuple[slice, slice, slice], heads: int) -> slice:
    """The block's place in batch · heads."""
    b, h, _ = at
    return slice(b.start * heads + h.start, (b.stop - 1) * heads + h.stop)


def _larger(p: float) -> float:
    """What dropout multiplies the kept weights with."""
    return 0.0 if p == 1 else 1 / (1 - p)


@torch.library.custom_op("fxscope::blockwise_attention", mutates_args=())
def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keep: Tensor | None, p: float, scale: float
) -> tuple[Tensor, Tensor]:
    """(dropout(softmax(scale · query @ keyᵀ + mask)) @ value, logarithm of each row's sum of exponentials).

    Args:
        query, key, value: [B, H, Sq, D], [B, H, Sk, D], [B, H, Sk, Dv].
        mask: numbers to add, broadcast to [B, H, Sq, Sk].
        keep: what dropout of probability p keeps, drawn before; the same shape.
    """
    batch, heads, count, _ = query.shape
    rows, keys, values = _flat(query) * scale, _flat(key), _flat(value) * _larger(p)
    mask, keep = _whole(mask, query, key), _whole(keep, query, key)
    out = rows.new_empty(batch * heads, count, value.shape[3])
    sums = rows.new_empty(batch * heads, count)
    for at in plan(batch, heads, count, key.shape[2], rows.element_size()).blocks(batch, heads, count):
        part = _flat_part(at, heads)
        scores = _scores(rows[part, at[2]], keys[part], mask, at)
        # A row of which all is hidden gives 0, as torch's kernel does.
        total = torch.logsumexp(scores, -1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        weights = _keep(scores.sub_(total).exp_(), keep, at)
        out[part, at[2]] = torch.bmm(weights, values[part])
        sums[part, at[2]] = total.squeeze(-1)
    return out.view(batch, heads, count, -1).to(query.dtype), sums.view(batch, heads, count)


@torch.library.custom_op("fxscope::blockwise_attention_backward", mutates_args=())
def blockwise_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    mask: Tensor | None,
    keep: Tensor | None,
    p: float,
    scale: float,
    with_scores: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, and of the masked scores [B, H, Sq, Sk] (empty unless asked for), from those of `out`.

    With P the probabilities, Z what dropout kept over 1 − p, and g the gradient: dV = (P∘Z)ᵀg; dP = Z∘(gVᵀ); dS = P∘(dP − rowsum(g∘out)).
    """
    batch, heads, count, width = query.shape
    rows, keys, values = _flat(query) * scale, _flat(key), _flat(value)
    mask, keep = _whole(mask, query, key), _whole(keep, query, key)
    upper, totals = _flat(grad), sums.reshape(batch * heads, count, 1)
    delta = (upper * _flat(out)).sum(-1, keepdim=True)
    upper = upper * _larger(p)
    of_query, of_key, of_value = torch.empty_like(rows), torch.zeros_like(keys), torch.zeros_like(values)
    of_scores = rows.new_empty(batch, heads, count, key.shape[2]) if with_scores else rows.new_empty(0)
    for at in plan(batch, heads, count, key.shape[2], rows.element_size()).blocks(batch, heads, count):
        part = _flat_part(at, heads)
        here, up = rows[part, at[2]], upper[part, at[2]]
        weights = _scores(here, keys[part], mask, at).sub_(totals[part, at[2]]).exp_()
        of_value[part].baddbmm_(_keep(weights, keep, at).transpose(1, 2), up)
        change = _keep(torch.bmm(up, values[part].transpose(1, 2)), keep, at).sub_(delta[part, at[2]]).mul_(weights)
        if with_scores:
            of_scores[at] = change.view(of_scores[at].shape)
        of_query[part, at[2]] = torch.bmm(change, keys[part])
        of_key[part].baddbmm_(change.transpose(1, 2), here)
    found = (of_query.mul_(scale), of_key, of_value)
    shaped = [x.view(y.shape).to(y.dtype) for x, y in zip(found, (query, key, value), strict=True)]
    return shaped[0], shaped[1], shaped[2], of_scores.to(query.dtype)


@blockwise_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, mask: Any, keep: Any, p: float, scale: float) -> tuple[Tensor, Tensor]:
    return query.new_empty(*query.shape[:3], value.shape[3]), query.new_empty(query.shape[:3], dtype=_wide(query))


@blockwise_attention_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Any,
    sums: Any,
    mask: Any,
    keep: Any,
    p: float,
    scale: float,
    with_scores: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores = query.new_empty(*query.shape[:3], key.shape[2]) if with_scores else query.new_empty(0)
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape), scores


def _blocks(query: Tensor, key: Tensor) -> int:
    batch, heads, rows, _ = query.shape
    chosen = plan(batch, heads, rows, key.shape[2], max(4, query.element_size()))
    return -(-batch // chosen.batch) * -(-heads // chosen.heads) * -(-rows // chosen.rows)


def _preparing(*given: Tensor) -> int:
    """Copies that put rows of all heads one after another, and casts of 16-bit floats."""
    return sum((not x.is_contiguous()) + (_wide(x) != x.dtype) for x in given)


def kernels(query: Tensor, key: Tensor, value: Tensor, mask: Any, keep: Any, *_: Any) -> int:
    """How many kernels the forward runs: 8 for each block and what mask and dropout add, 2 before, and copies and casts around them."""
    narrow = _wide(query) != query.dtype
    blocks = _blocks(query, key) * (8 + (mask is not None) + (keep is not None))
    return blocks + 2 + _preparing(query, key, value) + narrow


def kernels_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Any,
    sums: Any,
    mask: Any,
    keep: Any,
    p: Any,
    scale: Any,
    with_scores: bool,
) -> int:
    """How many kernels the backward runs: 10 for each block, and what mask, dropout and the gradient of the mask add; 7 and copies and
    casts around them."""
    narrow = _wide(query) != query.dtype
    blocks = _blocks(query, key) * (10 + (mask is not None) + 2 * (keep is not None) + with_scores)
    return blocks + 7 + _preparing(query, key, value, grad, out) + narrow * (3 + with_scores)
