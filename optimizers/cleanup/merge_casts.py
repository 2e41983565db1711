"""Merge casts: one conversion where there were two, none where the value comes back unchanged.

## Why it is slow
Mixed precision casts at every border between layers: float32 in, bfloat16 out, and back again. Each cast is a launch that reads and
writes the whole tensor.

## What changes
`bfloat16 → float32 → bfloat16` is the identity: float32 holds every bfloat16 number. `bfloat16 → float32 → float64` is one cast. In
general `A → B → C` is `A → C` where B holds every number of A.

## When it does not apply
`float32 → bfloat16 → float32` is no identity: 16 of 24 binary digits are gone after the first cast. It is rounding that the model asked
for. Neither is `int64 → float32 → int64` above 2^24, nor `float64 → int32 → float64`, which drops fractions. What a float
outside of an integer's range becomes is not defined and depends on the way, so a way to an integer stays as it is.

## Try it
Apply it to a model in bfloat16 whose norms compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.chains import dtype_of
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.record import Claim

CAST = torch.ops.aten._to_copy.default
# dtype -> binary digits that it holds exactly as an integer, sign apart, and whether it has a sign.
WHOLE = {
    torch.bool: (1, False),
    torch.uint8: (8, False),
    torch.int8: (7, True),
    torch.int16: (15, True),
    torch.int32: (31, True),
    torch.int64: (63, True),
}
DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
WIDER = {
    torch.float16: (torch.float16, torch.float32, torch.float64),
    torch.bfloat16: (torch.bfloat16, torch.float32, torch.float64),
    torch.float32: (torch.float32, torch.float64),
    torch.float64: (torch.float64,),
}


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Does every number of `narrow` have an exact form in `wide`?"""
    if narrow in WIDER:
        return wide in WIDER[narrow]
    if narrow not in WHOLE:
        return False
    digits, signed = WHOLE[narrow]
    if wide in DIGITS:
        return digits <= DIGITS[wide]
    return wide in WHOLE and digits <= WHOLE[wide][0] and (WHOLE[wide][1] or not signed)


def merged(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`A → B → C`."""
    inner = reading.inner(call.args[0], CAST)
    if inner is None:
        return None
    if set(call.kwargs) != {"dtype"} or set(inner.kwargs) != {"dtype"}:
        return No("One of the casts also moves the tensor to another device or order.")
    x = inner.args[0]
    first, middle, last = dtype_of(x), dtype_of(call.args[0]), dtype_of(node)
    if first is None or middle is None or last is None:
        return None
    if not holds(middle, first):
        return No(
            f"{_short(middle)} does not hold every number of {_short(first)}: the cast in between changes the value, and the model asked for that."
        )
    if first is last:
        return Same(x)
    if not _one_way(first, middle, last):
        return No(f"What {_short(first)} gives as {_short(last)} outside of its range depends on the way, so the way stays.")
    return Call(CAST, (x,), {"dtype": last})


def _one_way(first: torch.dtype, middle: torch.dtype, last: torch.dtype) -> bool:
    """Is the last cast the same from the first dtype as from the one in between? A float outside of an integer's range may become anything."""
    if last not in WHOLE or last is torch.bool:
        return True
    return middle in WHOLE or holds(last, first)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


RULES = by_operator({"A → B → C = A → C": ((CAST,), merged)})


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """The later of two casts."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The later cast starts from what the earlier one started from, or is not needed."""
    rewrite_by(gm, match, RULES)


def _there_and_back(x: Tensor) -> Tensor:
    return x.sin().double().float().exp()


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float() * 2


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="merge-casts",
    summary="Merges conversions between dtypes that lose nothing.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_there_and_back), _numbers, matches=1),
        Example(lambda: Function(lambda n: n.int().double() * 2), lambda: (torch.arange(4, dtype=torch.int16),), matches=1),
        Example(lambda: Function(lambda x: x.bfloat16().float().double().bfloat16().float() * 2), _numbers, matches=2),
    ),
    refusals=(
        Example(lambda: Function(_rounded), _numbers, reason="changes the value"),
        Example(lambda: Function(lambda n: n.float().long()), lambda: (torch.arange(4),), reason="does not hold every number"),
        Example(lambda: Function(lambda x: x.double().int()), _numbers, reason="depends on the way"),
        Example(lambda: Function(lambda x: x.double().float()), _numbers, reason="outlives the run"),
    ),
    exactness="bitwise",
)
