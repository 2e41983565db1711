"""Cancel views: one view where there was a chain of them.

## Why it is slow
A view costs the device nothing, and the host a call: a chain of `view`, `transpose`, `unsqueeze`, `squeeze` in each layer is time in
which no kernel is launched. Worse, a chain hides what is behind it: two matmuls that read one weight by different chains look different.

## What changes
A view is sizes, steps and a first element, nothing else (*strides*; see torch's `Tensor.stride`). Two views of one memory in which these
agree are the same tensor. So a chain is replaced by what leads from its first tensor to its last one: nothing, one `view`, one
`transpose` or `permute`, or one `expand`.

## When it does not apply
Where no single operator does it: a transposed matrix cut into heads and turned again takes two. A slice or a select starts elsewhere in
memory; chains end there. A view that others read too stays for them.

## Try it
Look at a linear layer's weight in a training graph: `t` in forward, `t` of that in backward, and once more for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.patterns.views import WHOLE_VIEWS, shortest
from optimizers.record import Claim

LONGEST = 12  # views in a row that are looked at


def collapsed(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """The farthest tensor above from which one operator, or none, leads to the view."""
    above: list[fx.Node] = []
    below: Call | None = call
    while below is not None and below.target in WHOLE_VIEWS and len(above) < LONGEST and isinstance(below.args[0], fx.Node):
        above.append(reading.source(below.args[0]))
        below = reading.call(above[-1])
    for base in reversed(above[1:]):
        found = shortest(base, node)
        if found is not None:
            return found
    if len(above) > 1 and isinstance(found := shortest(above[0], node), Same):
        return found
    return No("It takes more than one operator to get here from the start of the chain.") if len(above) > 1 else None


RULES = by_operator({"a chain of views": (WHOLE_VIEWS, collapsed)})


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Views of views."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One view of the first tensor, or that tensor itself."""
    rewrite_by(gm, match, RULES)


def _turned_back(x: Tensor) -> Tensor:
    return x.sin().t().unsqueeze(0).squeeze(0).t().exp()


def _reshaped(x: Tensor) -> Tensor:
    return x.sin().view(2, 2, 8).view(32).view(8, 4).permute(1, 0).permute(1, 0).exp()


def _turned(x: Tensor) -> Tensor:
    return x.view(2, 2, 8).permute(2, 0, 1).transpose(0, 1).sin()


def _heads(x: Tensor) -> Tensor:
    return x.view(4, 2, 4).transpose(0, 1).sin()


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="cancel-views",
    summary="Replaces a chain of views by one, or by none.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_turned_back), _numbers, matches=2),
        Example(lambda: Function(_reshaped), _numbers, matches=3),
        Example(lambda: Function(_turned), _numbers, matches=1),
        Example(lambda: Function(lambda x: x[:, None].expand(4, 2, 8).expand(3, 4, 2, 8).sin()), _numbers, matches=1),
    ),
    refusals=(Example(lambda: Function(_heads), _numbers, reason="more than one operator"),),
    exactness="bitwise",
)
