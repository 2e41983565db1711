"""Fuse RMS norm: one kernel for a norm that was written out.

## Why it is slow
`x * rsqrt(mean(x²) + eps) * weight` is six operators, in half precision with casts to float32 and back eight. Each reads and writes a whole
tensor, though the norm needs to read x once and to write y once. In training, backward takes twice as many operators, and the values in float32 are kept for it.

## What changes
One node computes the norm (Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*, equation 4). On a GPU it is torch's kernel and one launch; on a CPU torch
takes it apart again, and the launches counted are those that run. In a training graph the kernel's backward takes over: it keeps x instead of
what lay between.

Models cast in different places. Llama rounds the normalized values to half precision and multiplies with the weight then: the kernel ends at that cast, and the product stays.
Gemma multiplies in float32, with 1 + weight, and rounds last: the kernel works in float32, and both casts stay.

## When it does not apply
When eps is added outside of the root, the value is another. When torch's norm on a CPU would run more operators than were written, as for half precision without casts to
float32. When somebody else reads a value inside, it must exist. When values are centred first it is a layer norm. The
sum is taken in another order and rounded in other places, so results differ by rounding.

## Try it
Compare `hf/llama-3-8b` in float32 and in bfloat16: how many nodes goes one norm through?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphs.cost import cost
from graphs.rms_norm import launches
from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call, forced_copies
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, erase, replace_terms
from optimizers.patterns.norms import Choice, Norm, read, roots
from optimizers.patterns.numbering import Numbering
from optimizers.record import Claim

aten, own = torch.ops.aten, torch.ops.fxscope


@dataclass(frozen=True)
class _Found:
    norm: Norm
    choice: Choice
    backward: Backward | None


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every root that belongs to an RMS norm, or the reason why it is none."""
    numbers = Numbering(gm.graph)
    gradients = Gradients(numbers)
    for root in roots(gm.graph):
        try:
            norm = read(root, numbers)
            if norm is None:
                continue
            found = _largest(norm, gradients)
        except NotWhole as reason:
            yield Miss(root, str(reason))
            continue
        nodes = (*found.choice.part.nodes, *(found.backward.nodes if found.backward else ()))
        yield Match(root, nodes, found, f"over {' × '.join(map(str, norm.shape))}, {len(nodes)} nodes")


def _largest(norm: Norm, gradients: Gradients) -> _Found:
    if norm.centred:
        raise NotWhole("Its values are centred first: it is a layer norm.")
    reason = NotWhole("")
    for choice in norm.choices:
        try:
            backward = gradients.whole(choice.part)
            _check_launches(choice, backward)
            return _Found(norm, choice, backward)
        except NotWhole as why:
            reason = reason if str(reason) else why
    raise reason


def _check_launches(choice: Choice, backward: Backward | None) -> None:
    """A gradient that nobody wanted is work that the written form does not do, and the kernel does."""
    x = value_of(choice.part.inputs[0])
    if x.device.type != "cpu":
        return
    weight = value_of(choice.part.inputs[1]) if choice.has_weight else None
    old = sum(cost(node).launches for node in choice.part.nodes)
    old_backward = sum(cost(node).launches for node in backward.nodes) if backward else 0
    terms = sum(max(0, len(terms) - 1) for terms in backward.terms) if backward else 0  # whose additions go
    copies = forced_copies(
        choice.part.output, torch.empty(x.shape, dtype=x.dtype, device="meta")
    )  # the kernel's result is in row-major order
    new, new_backward = launches(x, weight, False) + len(copies), launches(x, weight, True) if backward else 0
    if new + new_backward > old + old_backward + terms:
        raise NotWhole(f"It takes {old + old_backward + terms} operators, and torch's norm on a CPU {new + new_backward}.")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    part, backward = found.choice.part, found.backward
    with gm.graph.inserting_before(part.output):
        x, weight = part.read(0), part.read(1) if found.choice.has_weight else None
        shape, eps = list(found.norm.shape), found.norm.eps
        on_cpu = value_of(x).device.type == "cpu"
        fused = call(gm, own.rms_norm.default if on_cpu else aten._fused_rms_norm.default, x, shape, weight, eps)
        out = fused if on_cpu else result(gm, fused, 0)
        rate = None if on_cpu or not backward else result(gm, fused, 1)
    if backward:
        with gm.graph.inserting_before(backward.first()):
            if on_cpu:
                gradient = call(gm, own.rms_norm_backward.default, backward.grad, x, shape, weight, eps)
            else:
                wanted = [True, weight is not None]
                gradient = call(gm, aten._fused_rms_norm_backward.default, backward.grad, x, shape, rate, weight, wanted)
            parts = [result(gm, gradient, index) if terms else None for index, terms in enumerate(backward.terms)]
        for index, new in enumerate(parts):
            if new is not None:
                replace_terms(gm, backward, index, new)
    part.output.replace_all_uses_with(out)
    erase(match.nodes)


class _Llama(nn.Module):
    def __init__(self, width: int = 32, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(32, 32), _Llama(), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.last(self.norm(x))


def _eps_outside(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)


def _with_rate(x: Tensor) -> tuple[Tensor, Tensor]:
    rate = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x * rate, rate


def _centred(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def _one() -> tuple[Tensor]:
    return (torch.randn(4, 16, 32),)


OPTIMIZATION = Optimization(
    name="fuse-rms-norm",
    summary="One kernel for an RMS norm that was written out.",
    find=find,
    rewrite=rewrite,
    # Operations: the kernel's are counted by convention, five for each element.
    claim=Claim(launches="lower", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Block, _one, matches=1), Example(_Block, _one, "training", matches=1)),
    refusals=(
        Example(lambda: Function(_eps_outside), _one, reason="eps is added to the root"),
        Example(lambda: Function(_with_rate), _one, reason="output of the graph"),
        Example(lambda: Function(_centred), _one, reason="layer norm"),
    ),
    exactness="rounding",
)
