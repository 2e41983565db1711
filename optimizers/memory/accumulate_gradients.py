"""Accumulate gradients: a training step in several small batches, one after the other, with the gradients of the whole.

## Why it is slow
Every activation that backward needs waits for it, and all of them grow with the batch. Where the batch no longer fits, a smaller batch would
train differently.

## What changes
The batch is cut into `pieces`. Forward, loss and backward of the first piece run, then those of the second, and each adds its gradients to
the sum so far: the activations that wait are those of one piece. A mean over the batch is the mean of the pieces' means, since all pieces are of one size; a
cross-entropy that ignores some targets is divided by how many count in the whole batch, which is counted before the first piece. Other outputs are put together. The
result differs by rounding only: sums are added in another order. (Huang et al. 2019, *GPipe*, section 2.2, calls the pieces micro-batches.)

The price: weights are read once for each piece, every operator launches once for each piece, and smaller operators use a device less well. Each piece adds its gradients in
place into those of the first piece (`add_`), so that the sum so far is one tensor and not two.

## When it does not apply
When rows of the batch meet: a batch norm in training takes mean and variance of the whole batch, a contrastive loss compares every row with every other. When random numbers are drawn,
as for dropout, since pieces would draw others. When the batch cannot be cut into equal pieces, or its size is a symbol. And when it does not pay: the gradients so far wait while
the next piece runs, and where they are larger than the activations that are saved the peak would rise. Behind an update that makes new parameters and states beside the old ones, as AdamW's does as captured, the
peak is the update's, which pieces do not touch: *update-in-place* comes first then.

## Try it
Train `zoo/chain` with `batch=4096`, `pieces=8`: activations fall to an eighth, the peak to less than a fifth, launches become eight times as many and more. Then make it wide and the batch small: why is it refused?
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.in_place import IN_PLACE, INPUT
from optimizers.base import Example, Match, Miss, Optimization, phase_of
from optimizers.record import Claim, Parameter
from optimizers.slicing.follow import Following, follow
from optimizers.slicing.memory import curve, sliced_curve
from optimizers.slicing.plan import Plan, planned
from optimizers.slicing.states import PARTIAL, After, Sliced, Together, is_number
from optimizers.slicing.write import write


def find(gm: fx.GraphModule, pieces: int) -> Iterator[Match | Miss]:
    """The whole training step, where its batch can be cut."""
    inputs = [node for node in gm.graph.find_nodes(op="placeholder") if _is_batch(node)]
    if not inputs:
        yield Miss(gm.graph.output_node(), "No input is a tensor with a batch.")
        return
    if not any(phase_of(node) == "backward" and node.op == "call_function" for node in gm.graph.nodes):
        yield Miss(inputs[0], "This graph has no backward, so it has no gradients to accumulate.")
        return
    reasons: list[Miss] = []
    for batch, dim in _guesses(inputs):
        try:
            yield _whole_step(gm, inputs, batch, dim, pieces)
            return
        except _No as no:
            reasons.append(no.miss)
    yield reasons[0]


class _No(Exception):
    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.miss = Miss(node, reason)


def _is_batch(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.meta.get("role") == "input" and isinstance(value, Tensor) and value.dim() > 0


def _guesses(inputs: list[fx.Node]) -> list[tuple[fx.Node, int]]:
    """(an input, its dimension that may be the batch): usually the first of the first, but recurrent models put it second."""
    first = inputs[0]
    found = [(first, 0)]
    if first.meta["val"].dim() > 2:
        found.append((first, 1))
    return found


def _whole_step(gm: fx.GraphModule, inputs: list[fx.Node], batch: fx.Node, dim: int, pieces: int) -> Match:
    count = batch.meta["val"].shape[dim]
    if not is_number(count):
        raise _No(batch, "The size of the batch is a symbol, so where pieces end is not known.")
    if not count or count % pieces:
        raise _No(batch, f"A batch of {count} cannot be cut into {pieces} equal pieces.")
    seeds = {node: Sliced(dim) for node in inputs if node.meta["val"].dim() > dim and node.meta["val"].shape[dim] == count}
    following = follow(gm.graph.nodes, seeds, count, pieces)
    _check_gradients(gm, following, batch)
    try:
        plan = planned(following)
    except Together as reason:
        raise _No(batch, str(reason)) from None
    return _gain(gm, batch, plan, count // pieces, pieces)


def _check_gradients(gm: fx.GraphModule, following: Following, batch: fx.Node) -> None:
    """Every slice must do its own backward."""
    states = following.states
    for node in gm.graph.nodes:
        state = states.get(node)
        reads_slices = any(isinstance(states.get(read), Sliced) for read in node.all_input_nodes)
        if phase_of(node) == "backward" and isinstance(state, After) and reads_slices:
            raise _No(state.node, state.reason)
    if not any(phase_of(node) == "backward" and states.get(node) == PARTIAL for node in following.outcomes):
        late = next((state for state in states.values() if isinstance(state, After)), None)
        if late is not None:
            raise _No(late.node, late.reason)
        raise _No(batch, "No gradient is a sum over the batch.")


def _gain(gm: fx.GraphModule, batch: fx.Node, plan: Plan, size: int, pieces: int) -> Match:
    order, outputs = list(gm.graph.nodes), gm.graph.output_node().all_input_nodes
    held = curve(order, outputs)
    before, after = max(held), max(sliced_curve(order, outputs, [plan])[0])
    if after >= before:
        raise _No(batch, f"{_why_no_lower(order[held.index(before)])}: the peak would go from {before:,} to {after:,} bytes (predicted).")
    note = f"{pieces} pieces of {size}: {len(plan.inside)} operators run {pieces} times"
    return Match(batch, (batch, *plan.inside), plan, note)


def _why_no_lower(at_peak: fx.Node) -> str:
    """Why the peak does not fall, by the node that runs at the peak as it is."""
    if phase_of(at_peak) == "update":
        where = f"The peak is not in forward and backward but in the update, while {at_peak.name} runs, and pieces change nothing there"
        is_in_place = any(node.meta.get(IN_PLACE) == INPUT for node in at_peak.graph.nodes)
        way_out = "" if is_in_place else ". New values are made beside the old ones: put update-in-place before this step"
        return where + way_out
    return "Gradients and outputs, which wait while the next piece runs, are larger than the activations saved"


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One piece after the other."""
    write(gm, match.data)


class _Deep(nn.Module):
    """Activations larger than weights."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.between = between or nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(torch.sin(self.between(self.first(x)))))


class _Words(nn.Module):
    """A cross-entropy that ignores the last word of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.head(self.embedding(tokens))
        targets = nn.functional.pad(tokens, (0, 1), value=-100)[..., 1:]
        return nn.functional.cross_entropy(logits.view(-1, 16), targets.reshape(-1)) * 2


class _Contrast(_Deep):
    """Every row is compared with every other."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)
        return (hidden @ hidden.t()).softmax(-1)


def _rows() -> tuple[Tensor]:
    return (torch.randn(64, 8),)


def _sequences() -> tuple[Tensor]:
    return (torch.randn(16, 4, 8),)


OPTIMIZATION = Optimization(
    name="accumulate-gradients",
    summary="Runs the training step in small batches, one after the other, and adds up their gradients.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="any", bytes_moved="any", peak_bytes="lower"),
    parameters=(Parameter("pieces", 2, 2, 1 << 16, "small batches, one after the other"),),
    examples=(
        Example(_Deep, _rows, "training", matches=1),
        Example(lambda: _Deep(nn.Softmax(-1)), _sequences, "training", matches=1, settings={"pieces": "4"}),
    ),
    refusals=(
        Example(lambda: _Deep(nn.BatchNorm1d(8)), _rows, "training", reason="mean and variance of the whole batch"),
        Example(lambda: _Deep(nn.Dropout(0.5)), _rows, "training", reason="draws random numbers"),
        Example(_Deep, _rows, "training", reason="cannot be cut into 3", settings={"pieces": "3"}),
        Example(lambda: nn.Linear(64, 64), lambda: (torch.randn(2, 64),), "training", reason="the peak would go"),
        Example(_Contrast, _rows, "training", reason="sliced along different dimensions"),
        Example(_Words, lambda: (torch.randint(0, 16, (8, 8)),), "training", reason="needs a sum over all slices"),
    ),
    exactness="rounding",
    applies_to=("training",),
)
