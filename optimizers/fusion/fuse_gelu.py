"""Fuse GELU: one kernel for a Gaussian error linear unit that was written out.

## Why it is slow
`0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`, as in GPT-2, is eight operators. Each reads and writes the widest activation of the
layer, four times the width of the model, to do one operation for each element. In training five of the results are kept until backward, which takes twelve operators more.

## What changes
`gelu` reads x and writes y, and `gelu_backward` needs x alone (Hendrycks and Gimpel 2016, *Gaussian Error Linear Units*, section 2). Both spellings of
the paper are kernels: x · Φ(x) by the error function, and its approximation by tanh.

## When it does not apply
`x * sigmoid(1.702 * x)`, the paper's second approximation, has no kernel, and neither of the others equals it. A constant that differs from the kernel's by more than
rounding (as 0.79788 in float64) makes another function. When somebody else reads a value inside, it must exist. On a CPU, oneDNN's kernel for the error function's form
makes ∞ of what is above half of the largest number, and no number of ∞: where x is made element by element from an input of the model, which may hold such values, it is
left alone. Behind a product or a norm they do not come by themselves.

## Try it
Apply it to `hf/gpt2` in training and look at the peak: whose activations are gone?
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of
from optimizers.patterns.activations import (
    is_polynomial,
    polynomial,
    put_kernel,
    read_gated,
    repeated_operands,
    variable_of_multiple,
)
from optimizers.patterns.expressions import plus_number, value
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part
from optimizers.patterns.numbering import Numbering, readers
from optimizers.record import Claim

aten = torch.ops.aten
SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715
ONEDNN = (torch.float32, torch.bfloat16)  # torch's CPU kernel for the error function's form is oneDNN's
TAMES = (
    aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.linear, aten.convolution, aten.native_layer_norm, aten.native_group_norm,
    aten._native_batch_norm_legit_functional, aten._native_batch_norm_legit_no_training, torch.ops.fxscope.rms_norm, aten._softmax,
    aten.embedding, aten.tanh, aten.sigmoid, aten.sin, aten.cos,
)  # fmt: skip


@dataclass(frozen=True)
class _Found:
    part: Part
    backward: Backward | None
    approximate: str


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every tanh, error function and sigmoid that could be a GELU's."""
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
        approximate = "tanh" if gate.target is aten.tanh.default else "none"
        nodes = (*whole.nodes, *(backward.nodes if backward else ()))
        yield Match(gate, nodes, _Found(whole, backward, approximate), f"{gate.target._opname} form, {len(nodes)} nodes")


def _by_tanh(gate: fx.Node, numbers: Numbering) -> Part | None:
    for x in repeated_operands(gate.args[0], numbers):  # type: ignore[arg-type]
        inside = polynomial(gate.args[0], x, numbers)
        if inside is not None and set(inside) - {0} == {1, 3}:
            break
    else:
        return None  # some other use of tanh
    _check_floats(x)
    if not is_polynomial(inside, {1: SLOPE, 3: SLOPE * CUBIC}, value(x).dtype):
        raise NotWhole(f"Its polynomial is not √(2/π)·(x + 0.044715·x³) to the precision of {value(x).dtype}.")
    return read_gated(gate, x, 0.5, numbers, plus_one=True)


def _by_erf(gate: fx.Node, numbers: Numbering) -> Part | None:
    x, factor = variable_of_multiple(gate.args[0])  # type: ignore[arg-type]
    if not any(plus_number(reader) for reader in readers(gate)):
        return None
    _check_floats(x)
    if not is_polynomial({1: factor}, {1: math.sqrt(0.5)}, value(x).dtype):
        raise NotWhole(f"The argument of its error function is not x / √2 to the precision of {value(x).dtype}.")
    whole = read_gated(gate, x, 0.5, numbers, plus_one=True)
    if value(x).device.type == "cpu" and value(x).dtype in ONEDNN and _may_hold_infinities(x):
        raise NotWhole("Its argument is made element by element from an input, which may hold ∞: of that, oneDNN's kernel makes no number.")
    return whole


def _check_floats(x: fx.Node) -> None:
    if not value(x).is_floating_point():
        raise NotWhole("Its argument holds whole numbers, of which the library's kernel computes nothing.")


def _may_hold_infinities(x: fx.Node) -> bool:
    """Does an input of the model reach it past no operator that mixes many values, or keeps them small?"""
    seen, queue = {x}, [x]
    while queue:
        node = queue.pop()
        if node.op == "placeholder" and node.meta.get("role") == "input":
            return True
        if getattr(node.target, "overloadpacket", None) in TAMES:
            continue
        queue += [read for read in node.all_input_nodes if read not in seen]
        seen.update(queue)
    return False


def _by_sigmoid(gate: fx.Node, numbers: Numbering) -> Part | None:
    x, factor = variable_of_multiple(gate.args[0])  # type: ignore[arg-type]
    if factor == 1.0:
        return None
    read_gated(gate, x, 1.0, numbers, plus_one=False)
    raise NotWhole(f"x · sigmoid({factor:g} · x) only approximates GELU, and no kernel of the library computes it.")


READ = {aten.tanh.default: _by_tanh, aten.erf.default: _by_erf, aten.sigmoid.default: _by_sigmoid}


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    put_kernel(gm, found.part, found.backward, aten.gelu.default, aten.gelu_backward.default, approximate=found.approximate)


def _gpt2(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def _exact(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _with_tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    tanh = torch.tanh(SLOPE * (x + CUBIC * x**3))
    return 0.5 * x * (1 + tanh), tanh


def _layers(activation: object) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), Function(activation), nn.Linear(64, 16))  # type: ignore[arg-type]


def _one() -> tuple[Tensor]:
    return (torch.randn(8, 16),)


OPTIMIZATION = Optimization(
    name="fuse-gelu",
    summary="One kernel for a GELU that was written out.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: _layers(_gpt2), _one, matches=1),
        Example(lambda: _layers(_gpt2), _one, "training", matches=1),
        Example(lambda: _layers(_exact), _one, "training", matches=1),
    ),
    refusals=(
        Example(lambda: _layers(_quick), _one, "training", reason="no kernel"),
        Example(lambda: Function(_with_tanh), _one, reason="output of the graph"),
        Example(lambda: Function(lambda x: _exact(torch.cat([x, x]))), _one, "training", reason="may hold ∞"),
        Example(lambda: Function(lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + CUBIC * x**3)))), _one, reason="to the precision"),
    ),
    exactness="rounding",
)
