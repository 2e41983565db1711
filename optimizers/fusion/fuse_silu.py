"""Fuse SiLU: one kernel for x · sigmoid(x), and for Mish.

## Why it is slow
`x * torch.sigmoid(x)` is two operators, and the sigmoid a tensor of the size of x that is written, read, and in training kept until backward. `x * tanh(softplus(x))` is
three.

## What changes
`silu` and `mish` read x and write y; their backwards need x alone (Elfwing, Uchibe, Doya 2017, *Sigmoid-weighted linear units*, section 2; Misra 2019, *Mish*, equation 1).

## When it does not apply
A sigmoid that multiplies another value than its own argument is a gate, as in GLU and LSTM. `log(1 + exp(x))` is not fused to `softplus`: it overflows in float32 above 88, where
softplus is x. When somebody else reads the sigmoid, it must exist.

## Try it
Write the activation of a Swish network by hand and compare the peak in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of
from optimizers.patterns.activations import put_kernel, read_gated, variable_of_multiple
from optimizers.patterns.expressions import forward_readers, operands, plus_number, times_number, value
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part
from optimizers.patterns.numbering import Numbering, through
from optimizers.record import Claim

aten = torch.ops.aten


@dataclass(frozen=True)
class _Found:
    part: Part
    backward: Backward | None
    kernel: Any
    gradient: Any


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every sigmoid that multiplies something, and every tanh of a softplus."""
    numbers = Numbering(gm.graph)
    gradients = Gradients(numbers)
    for gate in gm.graph.nodes:
        if gate.target not in READ or phase_of(gate) == "backward":
            continue
        try:
            whole = READ[gate.target](gate, numbers)
            if whole is None:
                continue
            backward = gradients.whole(whole)
        except NotWhole as reason:
            yield Miss(gate, str(reason))
            continue
        kernel, gradient = KERNELS[gate.target]
        nodes = (*whole.nodes, *(backward.nodes if backward else ()))
        yield Match(gate, nodes, _Found(whole, backward, kernel, gradient), f"{kernel._opname}, {len(nodes)} nodes")


def _by_sigmoid(gate: fx.Node, numbers: Numbering) -> Part | None:
    argument: fx.Node = gate.args[0]  # type: ignore[assignment]
    if not value(argument).is_floating_point() or not any(operands(reader, (aten.mul.Tensor,)) for reader in forward_readers(gate)):
        return None
    x, factor = variable_of_multiple(argument)
    if factor != 1.0 and any(_multiplies(reader, x, numbers) for reader in forward_readers(gate)):
        return None  # fuse-gelu explains x · sigmoid(1.702 · x)
    return read_gated(gate, through(argument), 1.0, numbers, plus_one=False)


def _multiplies(reader: fx.Node, x: fx.Node, numbers: Numbering) -> bool:
    return any(numbers.same(each, x) for each in operands(reader, (aten.mul.Tensor,)) or ())


def _by_softplus(gate: fx.Node, numbers: Numbering) -> Part | None:
    inner: fx.Node = through(gate.args[0])  # type: ignore[arg-type]
    if inner.target is not aten.softplus.default:
        return None
    if len(inner.args) > 1 and (inner.args[1] != 1 or inner.args[2:] not in ((), (20,))):
        raise NotWhole("Its softplus has another slope or limit than Mish.")
    return read_gated(gate, through(inner.args[0]), 1.0, numbers, plus_one=False)  # type: ignore[arg-type]


def _by_logarithm(gate: fx.Node, numbers: Numbering) -> Part | None:
    inner: fx.Node = through(gate.args[0])  # type: ignore[arg-type]
    if gate.target is aten.log.default:
        added = plus_number(inner)
        inner = added[0] if added and added[1] == 1.0 else gate
    if inner.target is not aten.exp.default or times_number(inner):
        return None
    raise NotWhole("log(1 + exp(x)) overflows for large x, where softplus gives x: the values differ.")


READ = {
    aten.sigmoid.default: _by_sigmoid,
    aten.tanh.default: _by_softplus,
    aten.log.default: _by_logarithm,
    aten.log1p.default: _by_logarithm,
}
KERNELS = {
    aten.sigmoid.default: (aten.silu.default, aten.silu_backward.default),
    aten.tanh.default: (aten.mish.default, aten.mish_backward.default),
}


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    put_kernel(gm, found.part, found.backward, found.kernel, found.gradient)


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(nn.functional.softplus(x))


def _gated(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return one * torch.sigmoid(other)


def _with_gate(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    return x * gate, gate


def _layers(activation: object) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), Function(activation), nn.Linear(64, 16))  # type: ignore[arg-type]


def _one() -> tuple[Tensor]:
    return (torch.randn(8, 16),)


OPTIMIZATION = Optimization(
    name="fuse-silu",
    summary="One kernel for x · sigmoid(x), and for Mish.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: _layers(_swish), _one, matches=1),
        Example(lambda: _layers(_swish), _one, "training", matches=1),
        Example(lambda: _layers(_mish), _one, "training", matches=1),
    ),
    refusals=(
        Example(lambda: Function(_gated), _one, reason="a gate between two values"),
        Example(lambda: Function(_with_gate), _one, reason="output of the graph"),
        Example(lambda: Function(lambda x: torch.log(1 + x.exp())), _one, reason="overflows"),
    ),
    exactness="rounding",
)
