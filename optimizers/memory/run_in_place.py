"""Run in place: a result is written over an operand that nobody reads any more.

## Why it is slow
An elementwise operator reads a tensor and writes another of the same size. Often that is the last time anybody looks at the first: for a moment both are in memory, and a moment is all that a peak takes. The
allocator is asked for a tensor, and given back one, for nothing.

## What changes
Where the operand dies with the operator, the operator in place takes its stead: `relu_` for `relu`, `add_` for `add`. It computes the same numbers with the same kernel and writes them where the operand was. What scatters a few values into a tensor touches
only those, and copies the others no more. The picture
shows it as a node that has its operand's memory. Sums and products may be written over either operand.

## When it does not apply
The operand is read later (in training, mostly by backward), or is an input, a parameter or an output, whose memory is not the graph's to write into. It is a part of a larger tensor, or has another shape,
precision or order in memory than the result; or torch has no such operator in place (`sigmoid_backward`, softmax). Parameters are written over by their own update only, and that is another step (`update-in-place`).

A graph that writes in place means what it means in this order only. So a step behind this one works on the same graph without the writing, and what wrote in place does so again where it still may; a step that would lose
more by that than it gains leaves the graph alone and says so. What that step makes new is not in place until this one comes again: it is best near the end.

## Try it
Train `zoo/chain` with `depth=16` and `batch=4096`: 18 operators, nearly all of them in backward, write over an operand, and the peak falls by one activation. Then put a step behind this one and look which nodes are in place still.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from graphs.in_place import MEMORY, in_place_overload
from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.overwriting import could_overwrite, memory_of, operands, put_in_place, why_not
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Operators whose operand's memory dies with them and fits the result."""
    memory = memory_of(gm)
    for node in gm.graph.nodes:
        if not could_overwrite(node):
            continue
        if in_place_overload(node.target) is None:
            yield Miss(node, f"torch has no {node.target.overloadpacket.__name__} in place.")
            continue
        reasons = [(operand, why_not(node, operand, memory)) for operand in operands(node)]
        operand = next((operand for operand, reason in reasons if not reason), None)
        if operand is None:
            yield Miss(node, reasons[0][1])
        else:
            yield Match(
                node,
                (node,),
                data=node.args.index(operand),
                note=f"{memory.bytes[memory.owner[operand.name]]:,} bytes less are allocated (counted)",
            )


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The operator in place, the written operand first."""
    put_in_place(match.anchor, match.data, MEMORY)


def _activated(x: Tensor) -> Tensor:
    return torch.relu(x @ x.t()) * 2


def _residual(x: Tensor) -> Tensor:
    inner = x @ x
    return (inner + inner.tanh()).exp()


def _two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    product = x @ x
    return product, product.relu()


def _inputs() -> tuple[Tensor]:
    return (torch.randn(16, 16),)


def _wanting() -> tuple[Tensor]:
    return (torch.randn(16, 16, requires_grad=True),)


OPTIMIZATION = Optimization(
    name="run-in-place",
    summary="Writes results over operands that die with the operator.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="same", bytes_moved="lower", peak_bytes="lower"),
    examples=(
        Example(lambda: Function(_activated), _inputs, matches=2),
        Example(lambda: Function(_residual), _inputs, matches=2),
    ),
    refusals=(
        Example(lambda: Function(torch.relu), _inputs, reason="is an input"),
        Example(lambda: Function(_two_results), _inputs, reason="output of the graph"),
        Example(lambda: Function(lambda x: (x @ x)[:8] + 1), _inputs, reason="is a part of"),
        Example(lambda: Function(lambda x: (x @ x) > 0), _inputs, reason="another shape, precision"),
        Example(lambda: Function(lambda x: (x @ x).sin() * 2), _wanting, "training", reason="read by backward"),
        Example(lambda: Function(_residual), _inputs, reason="read again later"),
    ),
    exactness="bitwise",
    in_place=True,
)
