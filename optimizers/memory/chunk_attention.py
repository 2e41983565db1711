"""Chunk attention: scores and weights of attention for some heads or queries at a time.

## Why it is slow
Attention written with products makes a score for every query and every key: heads · s² numbers, which are scaled, masked, turned into weights by a softmax, and
in training kept for backward. From some length of the sequence on they are the largest tensors of a model.

## What changes
No head depends on another, and a softmax over all keys needs one query's scores only. So scores, softmax and values run for one piece after the other: `pieces` groups of
sequences and heads, or where these cannot be shared out, groups of queries against all keys (Rabe and Staats 2021, *Self-attention Does Not Need O(n²) Memory*, with pieces of queries only). In
training weights are not kept: backward goes through the same pieces, computes the scores of a piece once more, and adds up the gradients of keys and values
where queries were cut.

The s × s matrix never exists whole. Launches are counted as they run: they rise, and in training operations too. A kernel such as flash attention goes
further: it needs no piece in memory at all.

## When it does not apply
Where one kernel computes attention already. When somebody else reads scores or weights, when dropout draws a mask for them, when the softmax is over another
dimension than the keys of a query, or when nothing can be cut into equal pieces.

## Try it
`zoo/attention` for inference with `seq=512`: how does the peak change with `pieces`? Then compare with `fuse-attention`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, phase_of
from optimizers.record import Claim, Parameter
from optimizers.slicing.states import Sliced, Together, shape
from optimizers.slicing.stretch import Gain, Plans, Stretch, cut, stretch_before, write_cut

aten = torch.ops.aten
SOFTMAX = (aten._softmax.default, aten._safe_softmax.default)
FUSED = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "blockwise_attention",
)


def find(gm: fx.GraphModule, pieces: int) -> Iterator[Match | Miss]:
    """Every product of weights and values behind a softmax of a product."""
    gain: Gain | None = None
    for node in gm.graph.nodes:
        if getattr(getattr(node.target, "overloadpacket", None), "__name__", "") in FUSED:
            yield Miss(node, "One kernel computes this attention already, without the matrix of scores.")
        if node.target is not aten.bmm.default or phase_of(node) == "backward":
            continue
        try:
            stretch = stretch_before(node, _has_softmax)
            if stretch is None:
                yield from _watched(node)
                continue
            plans = cut(stretch, _axes(stretch), pieces)
            gain = gain or Gain(gm)
            was, now = gain.check(plans)
        except Together as reason:
            yield Miss(node, str(reason))
            continue
        yield _match(stretch, plans, pieces, was, now)


def _has_softmax(last: fx.Node, between: tuple[fx.Node, ...]) -> bool:
    return any(node.target in SOFTMAX for node in between)


def _watched(last: fx.Node) -> Iterator[Miss]:
    """The reason where a softmax stands right before, and yet no stretch."""
    node = last.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target in SOFTMAX:
            yield Miss(last, "Scores or weights are read outside as well, so they must exist.")
            return
        node = node.args[0] if node.args and len(node.all_input_nodes) == 1 else None


def _axes(stretch: Stretch) -> Iterator[tuple[Sliced, int]]:
    """Groups of sequences and heads first, which need no sums; then queries."""
    groups = shape(stretch.last)[0]
    yield Sliced(0), groups
    for node in stretch.between:  # a mask for each sequence lets sequences be cut, not heads
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] * value.shape[1] == groups:
            yield Sliced(0, 1, value.shape[1]), value.shape[0]
    yield Sliced(1), shape(stretch.last)[1]


def _match(stretch: Stretch, plans: Plans, pieces: int, was: int, now: int) -> Match:
    nodes = (*plans.forward.own, *(plans.backward.own if plans.backward else ()))
    along = "queries" if plans.forward.following.seeds[stretch.firsts[0].args[0]].dim else "sequences and heads"  # type: ignore[index]
    note = f"{pieces} pieces along {along}; while it runs {was:,} bytes become {now:,} (predicted)"
    return Match(stretch.last, nodes, pieces, note)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Piece after piece, forward and backward."""
    write_cut(gm, match.anchor, _has_softmax, _axes, match.data)


class _Attention(nn.Module):
    """Attention by hand, with options that make it hard."""

    def __init__(self, causal: bool = False, drop: float = 0.0, over: int = -1, fused: bool = False) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.causal, self.drop, self.over, self.fused = causal, drop, over, fused

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, width = x.shape
        query, key, value = self.into(x).view(batch, rows, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-1, -2) * 0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones(rows, rows, dtype=torch.bool).triu(1), float("-inf"))
            mixed = nn.functional.dropout(scores.softmax(self.over), self.drop, self.training) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, rows, width))


def _sequences() -> tuple[Tensor]:
    return (torch.randn(2, 32, 8),)


OPTIMIZATION = Optimization(
    name="chunk-attention",
    summary="Attention by hand for some heads or queries at a time; the matrix of scores never exists whole.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="any", bytes_moved="any", peak_bytes="lower"),
    parameters=(Parameter("pieces", 4, 2, 1 << 16, "pieces, one after the other"),),
    examples=(
        Example(lambda: _Attention(causal=True), _sequences, matches=1),
        Example(lambda: _Attention(causal=True), _sequences, "training", matches=1),
        Example(lambda: _Attention(causal=True), _sequences, "training", matches=1, settings={"pieces": "8"}),
    ),
    refusals=(
        Example(lambda: _Attention(fused=True), _sequences, reason="One kernel computes this attention"),
        Example(lambda: _Attention(drop=0.5), _sequences, "training", reason="draws random numbers"),
        Example(lambda: _Attention(over=-2), _sequences, reason="along the dimension that is sliced", settings={"pieces": "32"}),
        Example(_Attention, _sequences, reason="can be cut into 5", settings={"pieces": "5"}),
    ),
    exactness="rounding",
    costly=True,
)
