"""Chunk MLP: the hidden layer of a feed-forward block in pieces of rows, so that it never exists whole.

## Why it is slow
The feed-forward block of a transformer makes every token four times as wide (gated ones 8/3 times, twice), applies an activation, and makes it narrow
again. For a long sequence the wide values are the largest tensors of inference, and in training backward keeps them.

## What changes
No row of the block depends on another. So the rows are cut into `pieces`: the first linear layer, the activation or gate, and the last linear layer run
for one piece after the other, and their results are put together (Kitaev et al. 2020, *Reformer*, section 4). In training the wide values are not kept: backward goes through
the same pieces, computes the wide values of a piece once more from the block's input, and adds up the gradients of the weights. That is the forward pass of
the block without its last product, a second time.

Weights are read once for each piece, and launches are counted as they run: **both rise. What falls is the peak**, where the block is at the peak.

## When it does not apply
When somebody else reads the wide values, when a random draw (dropout) stands between the layers, when something in between couples rows, or when the
rows cannot be cut into equal pieces. Nor where it would not pay: with few rows, the sums of
gradients that wait are larger than the wide values.

## Try it
Run `zoo/llama` for inference with `seq=512`, `pieces=2`, then 8. Why does the peak fall less and less?
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, phase_of
from optimizers.record import Claim, Parameter
from optimizers.slicing.states import Sliced, Together, shape
from optimizers.slicing.stretch import LEFT, Gain, Plans, Stretch, cut, stretch_before, write_cut

aten = torch.ops.aten
LINEAR = (aten.mm.default, aten.addmm.default)


def find(gm: fx.GraphModule, pieces: int) -> Iterator[Match | Miss]:
    """Every linear layer that follows an activation of other linear layers."""
    gain: Gain | None = None
    for node in gm.graph.nodes:
        if node.target not in LINEAR or phase_of(node) == "backward":
            continue
        try:
            stretch = stretch_before(node, _grows)
            if stretch is None:
                continue
            plans = cut(stretch, _rows(stretch), pieces)
            gain = gain or Gain(gm)
            was, now = gain.check(plans)
        except Together as reason:
            yield Miss(node, str(reason))
            continue
        yield _match(stretch, plans, pieces, was, now)


def _grows(last: fx.Node, between: tuple[fx.Node, ...]) -> bool:
    """Do only linear layers stand in it, and is it wider than its end?"""
    firsts = [node for node in between if node.target in LEFT]
    return all(node.target in LINEAR for node in firsts) and max(shape(node)[-1] for node in firsts) > shape(last)[-1]


def _rows(stretch: Stretch) -> Iterator[tuple[Sliced, int]]:
    """Single rows, then whole sequences: where a view in between takes rows apart, a cut must not go through them."""
    rows = shape(stretch.last)[0]
    yield Sliced(0), rows
    for node in stretch.between:
        value = node.meta.get("val")
        count = 1
        for size in value.shape[:-2] if isinstance(value, Tensor) else ():
            count *= size
            if count > 1 and rows % count == 0:
                yield Sliced(0, 1, rows // count), count


def _match(stretch: Stretch, plans: Plans, pieces: int, was: int, now: int) -> Match:
    nodes = (*plans.forward.own, *(plans.backward.own if plans.backward else ()))
    wide = max(shape(node)[-1] for node in stretch.firsts)
    note = f"{shape(stretch.last)[0]} rows of {wide} in {pieces} pieces; while it runs {was:,} bytes become {now:,} (predicted)"
    return Match(stretch.last, nodes, pieces, note)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Piece after piece, forward and backward."""
    write_cut(gm, match.anchor, _grows, _rows, match.data)


class _Block(nn.Module):
    """A feed-forward block, plain or gated."""

    def __init__(self, gated: bool = False, between: nn.Module | None = None, width: int = 64) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)
        self.gate = nn.Linear(8, width, bias=False) if gated else None
        self.between = between or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        wide = self.up(x)
        wide = nn.functional.silu(self.gate(x)) * wide if self.gate is not None else nn.functional.gelu(wide)
        return x + self.down(self.between(wide))


def _rows_of_8() -> tuple[Tensor]:
    return (torch.randn(128, 8),)


def _sequences() -> tuple[Tensor]:
    return (torch.randn(8, 32, 8),)


OPTIMIZATION = Optimization(
    name="chunk-mlp",
    summary="The wide values of a feed-forward block piece by piece; they never exist whole.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="any", peak_bytes="lower"),
    parameters=(Parameter("pieces", 4, 2, 1 << 16, "pieces of rows, one after the other"),),
    examples=(
        Example(_Block, _rows_of_8, matches=1),
        Example(lambda: _Block(gated=True), _sequences, matches=1),
        Example(lambda: _Block(gated=True), _sequences, "training", matches=1),
    ),
    refusals=(
        Example(_Block, _rows_of_8, reason="can be cut into 3", settings={"pieces": "3"}),
        Example(lambda: _Block(between=nn.Dropout(0.5)), _rows_of_8, "training", reason="draws random numbers"),
        Example(lambda: _Block(between=nn.Softmax(0)), _rows_of_8, reason="along the dimension that is sliced"),
        Example(_Block, lambda: (torch.randn(4, 8),), "training", reason="peak would rise"),
    ),
    exactness="rounding",
    costly=True,
)
