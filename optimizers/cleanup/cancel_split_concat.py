"""Cancel split and concat: do not put together what was taken apart, nor take apart what was put together.

## Why it is slow
`cat` copies every element of every part. Code that splits a tensor, treats some of its parts and joins them again copies the others for
nothing; so does a layer that joins what the next one splits.

## What changes
`cat(split(x))` becomes `x`, `split(cat(a, b))` becomes `a` and `b` where the sizes agree; the same for `chunk`, `unbind` and `stack`, and
for slices that tile a tensor in order. `cat(cat(a, b), c)` becomes `cat(a, b, c)`: `a` and `b` are copied once, not twice.

## When it does not apply
When a part is missing, comes twice, or in another order; when the sizes or the dimension differ. When the parts of a joined tensor are
read along with all of it, the joined one stays, and only the reading moves. No value changes; but a part of a joined tensor has gaps in
memory where the tensor itself has none, so that a reduction that reads it may add up in another order.

## Try it
Write rotary positions as `cat((-x2, x1))` of two halves: the order differs, and nothing can be cancelled.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.patterns.views import tensor_of
from optimizers.record import Claim

aten = torch.ops.aten
CAT, STACK, SLICE, SELECT, UNBIND = aten.cat.default, aten.stack.default, aten.slice.Tensor, aten.select.int, aten.unbind.int
SPLITS = (
    aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default, aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default, aten.unsafe_chunk.default,
)  # fmt: skip


def _at(args: tuple[Any, ...], place: int, otherwise: Any) -> Any:
    return args[place] if len(args) > place else otherwise


def _span(value: Any, reading: Reading) -> tuple[fx.Node, int, int, int] | None:
    """(whole, dimension, begin, end) of a part: from a split or a slice; None for what is no part."""
    call = reading.call(value)
    if call is None:
        return None
    if call.target is SLICE:
        whole = tensor_of(call.args[0])
        if whole is None or _at(call.args, 4, 1) != 1:
            return None
        dim = _at(call.args, 1, 0) % whole.dim()
        begin, end, _ = slice(_at(call.args, 2, None), _at(call.args, 3, None)).indices(whole.shape[dim])
        return reading.source(call.args[0]), dim, begin, end
    if call.target is not operator.getitem or not isinstance(call.args[0], fx.Node):
        return None
    split = reading.call(call.args[0])
    whole = tensor_of(split.args[0]) if split is not None and split.target in SPLITS else None
    if split is None or whole is None:
        return None
    dim = _at(split.args, 2, split.kwargs.get("dim", 0)) % whole.dim()
    sizes = [part.shape[dim] for part in call.args[0].meta["val"]]
    begin = sum(sizes[: call.args[1]])
    return reading.source(split.args[0]), dim, begin, begin + sizes[call.args[1]]


def joined_again(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`cat` of all parts of a tensor."""
    result = tensor_of(node)
    if result is None or len(call.args[0]) < 2:
        return None
    dim = _at(call.args, 1, call.kwargs.get("dim", 0)) % max(1, result.dim())
    spans = [_span(part, reading) for part in call.args[0]]
    if not all(spans) or len({span[0] for span in spans if span}) != 1:
        return None
    known = [span for span in spans if span]
    whole = known[0][0]
    if any(span[1] != dim for span in known):
        return No("The parts are joined along another dimension than they were cut along.")
    ends = [0, *(span[3] for span in known)]
    if any(span[2] != end for span, end in zip(known, ends, strict=False)):
        return No("The parts are joined in another order, or some come twice or not at all.")
    return Same(whole) if ends[-1] == whole.meta["val"].shape[dim] else No(f"A part of {whole.name} is missing.")


def stacked_again(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`stack` of all slices of a tensor along a dimension."""
    result = tensor_of(node)
    places = [_place(part, reading) for part in call.args[0]]
    if result is None or not all(places) or len({place[0] for place in places if place}) != 1:
        return None
    known = [place for place in places if place]
    whole, dim = known[0][0], _at(call.args, 1, call.kwargs.get("dim", 0)) % result.dim()
    if any(place[1] != dim for place in known):
        return No("The slices are stacked along another dimension than they were taken along.")
    if [place[2] for place in known] != list(range(whole.meta["val"].shape[dim])):
        return No("The slices are stacked in another order, or some come twice or not at all.")
    return Same(whole)


def _place(value: Any, reading: Reading) -> tuple[fx.Node, int, int] | None:
    """(whole, dimension, index) of a slice that unbind or select took."""
    call = reading.call(value)
    if call is None:
        return None
    if call.target is SELECT:
        whole = tensor_of(call.args[0])
        if whole is None:
            return None
        dim = call.args[1] % whole.dim()
        return reading.source(call.args[0]), dim, call.args[2] % whole.shape[dim]
    inner = reading.inner(call.args[0], UNBIND) if call.target is operator.getitem else None
    whole = tensor_of(inner.args[0]) if inner is not None else None
    if inner is None or whole is None:
        return None
    return reading.source(inner.args[0]), _at(inner.args, 1, inner.kwargs.get("dim", 0)) % whole.dim(), call.args[1]


def taken_apart(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """A part of a joined tensor that is one of what was joined."""
    if call.target is not SLICE and not isinstance(call.args[1], int):
        return None
    span = _span(node, reading)
    joined = reading.inner(span[0], CAT) if span is not None else None
    if span is None or joined is None:
        return _slice_of_stack(node, reading)
    whole, dim, begin, end = span
    if _at(joined.args, 1, joined.kwargs.get("dim", 0)) % whole.meta["val"].dim() != dim:
        return No("It is cut along another dimension than it was joined along.")
    at = 0
    for part in joined.args[0]:
        sizes = part.meta["val"].shape
        size = sizes[dim] if len(sizes) == whole.meta["val"].dim() else 0  # torch lets an empty list of numbers take part
        if (at, at + size) == (begin, end):
            return Same(part)
        at += size
    return No(f"Its part from {begin} to {end} is not one of the tensors that were joined.")


def _slice_of_stack(node: fx.Node, reading: Reading) -> Answer:
    place = _place(node, reading)
    joined = reading.inner(place[0], STACK) if place is not None else None
    if place is None or joined is None:
        return None
    whole, dim, index = place
    if _at(joined.args, 1, joined.kwargs.get("dim", 0)) % whole.meta["val"].dim() != dim:
        return No("It is taken along another dimension than it was stacked along.")
    return Same(joined.args[0][index])


def flattened(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`cat` of `cat`."""
    result = tensor_of(node)
    if result is None or result.dim() == 0:
        return None
    dim = _at(call.args, 1, call.kwargs.get("dim", 0)) % result.dim()
    parts: list[fx.Node] = []
    for part in call.args[0]:
        inner = reading.inner(part, CAT)
        same = inner is not None and _at(inner.args, 1, inner.kwargs.get("dim", 0)) % result.dim() == dim
        free = same and reading.read_once(part) and part.meta["val"].dtype == result.dtype
        parts += inner.args[0] if inner is not None and free else [part]
    return Call(CAT, (parts, dim)) if len(parts) > len(call.args[0]) else None


RULES = by_operator({
    "cat(split(x)) = x": ((CAT,), joined_again),
    "stack(unbind(x)) = x": ((STACK,), stacked_again),
    "split(cat(a, b)) = a, b": ((operator.getitem, SLICE, SELECT), taken_apart),
    "cat(cat(a, b), c) = cat(a, b, c)": ((CAT,), flattened),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Joints of parts, and parts of joints."""
    return find_by(gm, RULES, any_layout=True)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Readers read what was there before."""
    rewrite_by(gm, match, RULES, any_layout=True)


def _split_and_joined(x: Tensor) -> Tensor:
    return torch.cat(x.sin().split(2)) + torch.stack(x.cos().unbind(1), 1) + torch.cat((x[:1], x[1:])).exp()


def _joined_and_split(x: Tensor, y: Tensor) -> Tensor:
    one, two = torch.cat((x.sin(), y.sin()), 1).split(8, 1)
    return one * two + torch.stack((x.sin(), y.cos()))[1]


def _swapped(x: Tensor) -> Tensor:
    one, two = x.chunk(2)
    return torch.cat((two, one))


def _numbers() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 8), torch.randn(4, 8)


OPTIMIZATION = Optimization(
    name="cancel-split-concat",
    summary="Cancels joining against taking apart.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_split_and_joined), lambda: _numbers()[:1], matches=3),
        Example(lambda: Function(_joined_and_split), _numbers, matches=3),
        Example(lambda: Function(lambda x, y: torch.cat((torch.cat((x, y)), x)) * 2), _numbers, matches=1),
    ),
    refusals=(
        Example(lambda: Function(_swapped), lambda: _numbers()[:1], reason="another order"),
        Example(lambda: Function(lambda x: torch.cat(x.chunk(2), 1)), lambda: _numbers()[:1], reason="another dimension"),
        Example(lambda: Function(lambda x: torch.cat((x[:1], x[1:3]))), lambda: _numbers()[:1], reason="missing"),
        Example(lambda: Function(lambda x, y: torch.cat((x, y))[:5]), _numbers, reason="not one of the tensors"),
    ),
    exactness="rounding",
)
