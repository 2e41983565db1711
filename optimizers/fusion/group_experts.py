"""Group experts: one batched product for the layers of experts that all see the same tokens.

## Why it is slow
A mixture of experts that runs every expert on every token and lets gates weigh the results calls the same small layers once for each expert: experts · layers products, each
too small to fill a device, and a launch for each. In training each has two products more, a sum for its bias, and an addition to the gradient of the tokens.

## What changes
Experts of equal form are one batch: whatever stands between their layers, gates of a SwiGLU too. Their weights are stacked, and a layer of all experts is one batched product, an activation one
operator. What the gates do with the results stays as it is (Shazeer et al. 2017, *Outrageously Large Neural Networks*, section 2; Gale et al. 2022, *MegaBlocks*, section 3, on why
products of experts are grouped). Where each expert has its own tokens, as slices of one tensor, the slices are the batch without a copy. In inference weights are stacked once, when the model is loaded.
In training they are stacked in every step, and so are the gradients of the results; the backward of the batch is what autograd writes for it, and each weight's gradient a view of the stack's.

## When it does not apply
Experts that differ in shape, or in the operators between their layers, are no batch. In training, stacking moves weights and gradients of results twice more: with large
experts that costs more than launches are worth, and the larger they are the less batching gains. Mixtures of transformers send each token
to few experts by a grouped product already (`grouped_mm`): there is nothing left to group. The stacked weights are a second copy as long as the first is held elsewhere, and
the activations of all experts are there at once, so the peak can rise.

## Try it
`zoo/moe` with 16 experts: compare launches. In training try `width=16`, then 256: why is the second left alone?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphs.cost import cost
from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import (
    behind_weights,
    between,
    call,
    move_readers_behind,
    of_weights_alone,
    prepare,
    viewed,
    weights_that_stand_still,
)
from optimizers.patterns.experts import PRODUCTS, Experts, Reader, behind_views, bias, held, operand
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part, erase, part, replace_terms, total, write_backward
from optimizers.patterns.linear import read_bytes
from optimizers.patterns.numbering import Numbering, through
from optimizers.patterns.slices import batch as batch_of
from optimizers.planning.profit import MACHINES
from optimizers.record import Claim

aten = torch.ops.aten


@dataclass(frozen=True)
class _Found:
    """Experts with each one's backward, where they are trained; `still`: are weights the same in every run?"""

    experts: Experts
    parts: list[Part]
    backwards: list[Backward]
    still: bool

    @property
    def nodes(self) -> list[fx.Node]:
        return sorted({*(node for part in self.parts for node in part.nodes), *(node for one in self.backwards for node in one.nodes)})

    @property
    def weights(self) -> range:
        """The places of weights and biases among the inputs of an expert."""
        return range(1, 1 + sum(1 + len(bias(row[0])) for row in self.experts.products))

    @property
    def wanted(self) -> list[bool]:
        """Of each input of an expert: is its gradient wanted?"""
        return [bool(terms) for terms in self.backwards[0].terms]

    def is_shared(self, index: int) -> bool:
        """Do all experts read the same node as this input? Their gradients are then summed."""
        return index == 0 and not self.experts.own

    def terms_of_input(self) -> list[fx.Node]:
        return [term for one in self.backwards for term in one.now(0)]


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Last layers of one form that read one value, or each its slice of one."""
    numbers = Numbering(gm.graph)
    gradients = Gradients(numbers)
    constant, still = of_weights_alone(gm), bool(weights_that_stand_still(gm))
    for experts in Reader(numbers).read(gm.graph):
        if not isinstance(experts, Experts):
            yield Miss(*experts)
            continue
        first = experts.rows[0][0]
        strange = next(
            (layer for row in experts.products for layer in row if not constant.issuperset([held(layer)[0], *bias(layer)])), None
        )
        if strange is not None:
            yield Miss(first, f"The weight of {strange.name} is computed, so it cannot be stacked once.")
            continue
        try:
            found = _whole(experts, gradients, still)
        except NotWhole as reason:
            yield Miss(first, f"{len(experts.ends)} experts read {experts.operands[0][0].name}: {reason}")
            continue
        yield Match(first, tuple(found.nodes), found, f"{len(experts.ends)} experts of {experts.layers} layers")


def _whole(experts: Experts, gradients: Gradients, still: bool) -> _Found:
    """The experts with their backward, if they can be exchanged and it pays.

    Raises:
        NotWhole: with the reason why not.
    """
    reasons = []
    for sources in experts.sources():
        try:
            found = _with_backward(experts, experts.parts(sources), gradients, still)
            break
        except NotWhole as reason:
            reasons.append(reason)
    else:
        raise reasons[0]
    if not still:
        _check_gain(found)
    return found


def _with_backward(experts: Experts, parts: list[Part], gradients: Gradients, still: bool) -> _Found:
    if gradients.numbers.has_backward and any(isinstance(each.meta["val"], int) for each in parts[0].inputs):
        raise NotWhole("Sizes inside are symbols, with which their backward is not looked for.")
    backwards = [found for part in parts if (found := gradients.whole(part))]
    found = _Found(experts, parts, backwards, still)
    if backwards:
        if len(backwards) < len(parts) or any([bool(terms) for terms in one.terms] != found.wanted for one in backwards):
            raise NotWhole("Gradients are wanted of some of them, or of some of their weights.")
        if found.wanted[0] and not experts.own:
            total(found.terms_of_input(), found.nodes)
        if _needs_another(found):
            raise NotWhole("The gradient of one depends on the backward of another.")
    return found


def _needs_another(found: _Found) -> bool:
    """Is the gradient that enters one expert computed from what another hands on?"""
    entering = {through(one.grad) for one in found.backwards}
    late = {term for one in found.backwards for terms in one.terms for term in terms}
    if max(entering) < min(late):
        return False
    for node in between(min(late), max(entering)):
        if any(read in late for read in node.all_input_nodes):
            late.add(node)
    return bool(late & entering)


def _check_gain(found: _Found) -> None:
    """Counts what stacking in every step costs, and what it saves.

    Raises:
        NotWhole: it costs more.
    """
    one, count = found.parts[0], len(found.parts)
    operators = [*one.nodes, *(found.backwards[0].nodes if found.backwards else ())]
    saved = (count - 1) * sum(cost(node).launches for node in operators)
    weights = [part.inputs[at] for part in found.parts for at in found.weights]
    moved = 2 * sum(map(read_bytes, weights))
    stacks = len(found.weights)
    if found.backwards:
        stacks += 1
        moved += 2 * sum(map(read_bytes, found.experts.ends))
        if found.wanted[0] and not found.experts.own:
            saved += count - 2  # additions, for one sum
    machine = MACHINES.get(value_of(weights[0]).device.type, MACHINES["cpu"])
    worth = int(max(0, saved - stacks) * machine.launch * machine.bandwidth)
    if moved > worth:
        raise NotWhole(
            f"Stacking weights and gradients in every step moves {moved:,} bytes, "
            f"and the {max(0, saved - stacks)} launches that it saves are worth {worth:,}."
        )


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Batched layers in the place of the experts' own, forward and backward; each expert's result, and each gradient, is a view of a batch."""
    found: _Found = match.data
    entering = [one.grad for one in found.backwards]
    end, inputs = _put_forward(gm, found)
    if found.backwards:
        _put_backward(gm, found, part(end, *inputs), entering)
    erase(match.nodes)


def _put_forward(gm: fx.GraphModule, found: _Found) -> tuple[fx.Node, list[fx.Node]]:
    """The results of all experts, and what they are computed from: the input, stacked weights, stacked biases."""
    experts = found.experts
    first = min(node for row in experts.rows for node in row)
    weights = [one.read(at) for one in found.parts for at in found.weights]
    last = max(*(behind_weights(weights)[0] if found.still else weights), *(each[0] for each in experts.operands))
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        source, batch = _input(gm, found)
        stacked = [_stacked_weights(gm, row, found.still) for row in experts.products]
        biases = [_stack(gm, [bias(layer)[0] for layer in row], found.still) for row in experts.products if bias(row[0])]
        end = _layers(gm, found, batch, stacked, biases)
        results = [call(gm, aten.select.int, end, 0, at) for at in range(len(experts.ends))]
    for old, new in zip(experts.ends, results, strict=True):
        old.replace_all_uses_with(new)
    move_readers_behind(first, between(before.next, results[-1]))
    return end, [source, *stacked, *biases]


def _input(gm: fx.GraphModule, found: _Found) -> tuple[fx.Node, fx.Node]:
    """The node that takes the gradient, and the input for every expert as one tensor: what they share is repeated without a copy."""
    operands = [each[0] for each in found.experts.operands]
    if found.experts.own:
        whole = batch_of(gm, operands)
        return whole, whole
    shared = call(gm, aten.unsqueeze.default, operands[0], 0)
    return found.parts[0].read(0), call(gm, aten.expand.default, shared, [len(operands), -1, -1])


def _stack(gm: fx.GraphModule, weights: Sequence[fx.Node], still: bool) -> fx.Node:
    return prepare(gm, "stacked weights", _together, *weights) if still else call(gm, aten.stack.default, list(weights))


def _together(*weights: Tensor) -> Tensor:
    return torch.stack(weights)


def _stacked_weights(gm: fx.GraphModule, row: Sequence[fx.Node], still: bool) -> fx.Node:
    """In inference as the batched product reads them; in training as they are, so that their gradients are too."""
    return _stack(gm, [through(layer.args[-1]) if still else held(layer)[0] for layer in row], still)  # type: ignore[arg-type]


def _layers(gm: fx.GraphModule, found: _Found, batch: fx.Node, stacked: Sequence[fx.Node], biases: Sequence[fx.Node]) -> fx.Node:
    """The operators of one expert, on the batch of all."""
    weights, added = iter(stacked), iter(biases)
    made: dict[fx.Node, fx.Node] = {}
    for one, *_ in found.experts.rows:
        if one.target not in PRODUCTS:
            args, kwargs = fx.map_arg((one.args, one.kwargs), lambda read: made[behind_views(read)])  # type: ignore[misc]
            made[one] = call(gm, one.target, *args, **kwargs)  # type: ignore[misc]
            continue
        left = batch if one in found.experts.first[0] else made[behind_views(operand(one))]
        right = next(weights)
        if held(one)[1] and not found.still:
            right = call(gm, aten.transpose.int, right, 1, 2)
        if bias(one):
            made[one] = call(gm, aten.baddbmm.default, call(gm, aten.unsqueeze.default, next(added), 1), left, right)
        else:
            made[one] = call(gm, aten.bmm.default, left, right)
    return made[found.experts.rows[-1][0]]


def _put_backward(gm: fx.GraphModule, found: _Found, whole: Part, entering: Sequence[fx.Node]) -> None:
    """The backward of the batch behind the last gradient that enters it, and a view of its results for each expert."""
    first, last = min(one.first() for one in found.backwards), max(entering)
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        made = write_backward(gm, whole, _gradient(gm, entering), found.wanted)
        views = [_views(gm, found, each, index) if each and not found.is_shared(index) else [] for index, each in enumerate(made)]
    end = point.prev
    if found.is_shared(0) and made[0]:
        one = found.backwards[0]
        replace_terms(gm, Backward(one.edge, found.nodes, [found.terms_of_input()], one.handed_on), 0, made[0])
    for index, parts in enumerate(views):
        for one, new in zip(found.backwards, parts, strict=False):
            replace_terms(gm, one, index, new)
    move_readers_behind(first, between(before.next, end))


def _gradient(gm: fx.GraphModule, entering: Sequence[fx.Node]) -> fx.Node:
    """One gradient for the results of all experts; where it is the same for all, it is repeated without a copy."""
    if len(set(entering)) > 1:
        return call(gm, aten.stack.default, list(entering))
    shared = call(gm, aten.unsqueeze.default, entering[0], 0)
    return call(gm, aten.expand.default, shared, [len(entering), -1, -1])


def _views(gm: fx.GraphModule, found: _Found, gradient: fx.Node, index: int) -> list[fx.Node]:
    """Of a gradient for all experts, each one's part in the shape of what it reads."""
    parts = [call(gm, aten.select.int, gradient, 0, at) for at in range(len(found.parts))]
    return [viewed(gm, each, value_of(one.inputs[index]).shape) for each, one in zip(parts, found.parts, strict=True)]


class _Expert(nn.Module):
    def __init__(self, activation: nn.Module, gated: bool) -> None:
        super().__init__()
        self.widen, self.narrow, self.activation = nn.Linear(8, 16), nn.Linear(16, 8), activation
        self.gate = nn.Linear(8, 16, bias=False) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.narrow(self.activation(self.widen(x)))
        return self.narrow(self.activation(self.gate(x)) * self.widen(x))


class _Mixture(nn.Module):
    def __init__(self, activations: Sequence[Callable[[], nn.Module]] = (nn.GELU,) * 3, gated: bool = False) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_Expert(activation(), gated) for activation in activations)
        self.router = nn.Linear(8, len(activations))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        return sum(gates[..., index : index + 1] * expert(x) for index, expert in enumerate(self.experts))  # type: ignore[return-value]


class _Capacity(_Mixture):
    """Tokens are sent to experts before: each sees its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([expert(tokens) for expert, tokens in zip(self.experts, x.chunk(len(self.experts)), strict=True)])


def _tokens(count: int = 6) -> tuple[Tensor]:
    return (torch.randn(2, count, 8),)


OPTIMIZATION = Optimization(
    name="group-experts",
    summary="One batched product for the layers of experts that all see the same tokens.",
    find=find,
    rewrite=rewrite,
    # In training weights are stacked in every step, and gradients of the shared input are summed from one tensor.
    claim=Claim(launches="lower", flops="any", bytes_moved="any", peak_bytes="any"),
    examples=(
        Example(_Mixture, _tokens, matches=1),
        Example(lambda: _Mixture((nn.SiLU,) * 3, gated=True), _tokens, matches=1),
        Example(lambda: _Mixture((nn.SiLU,) * 3, gated=True), _tokens, "training", matches=1),
        Example(_Capacity, lambda: (torch.randn(9, 8),), matches=1),
    ),
    refusals=(
        Example(lambda: _Mixture((nn.GELU, nn.ReLU, nn.SiLU)), _tokens, reason="not followed by equal operators"),
        Example(_Mixture, lambda: _tokens(1 << 15), "training", reason="are worth"),
    ),
    exactness="rounding",
)
