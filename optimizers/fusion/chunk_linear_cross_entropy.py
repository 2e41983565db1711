"""Chunk linear cross-entropy: the loss of a language model without its logits.

## Why it is slow
Logits are the largest tensor of a language model: for 8,192 tokens and Llama 3's 128,256 words 4.2 GB in float32, as log-probabilities once more, as gradients twice more. They decide
how long a sequence fits on a device, and a loss needs of every row one number.

## What changes
The last linear layer, the log-softmax and the loss become one operator that goes over the rows in chunks: the logits of a chunk, its losses, and in training at once the gradient of its
logits and what it adds to the gradients of hidden states and weight (Hsu et al. 2024, *Liger Kernel*, section 3.2). The gradient of the loss, which depends on
nothing in the forward pass, is computed before; where it does depend on it, the gradients are multiplied with it afterwards. Products do as much work as before; the weight is read once for each chunk, and launches are counted as they run, chunk by chunk: **bytes and launches may
rise. What falls is the peak.**

The weight's gradient is a sum over all chunks, and where it is kept decides the peak: it is as large as the weight. In float32 every chunk is added in place. In bfloat16 a sum with
eight bits stands still when many small numbers are added, so the gradients of logits are kept until an eighth of the rows is there: the sum is rounded eight times at most, where one product rounds once,
and the verdict sees the difference. Liger adds every chunk, about vocabulary ÷ width of them. Where an eighth of the rows would take more than a sum in float32, there is one.

## When it does not apply
When somebody else reads the logits, they must exist. Models of transformers return them beside the loss: a model (or a `loss`) that returns the loss alone shows what is gained. Neither
when something stands between the layer and the log-softmax, such as Gemma 2's tanh, or when labels are smoothed, since every
word's log-probability then counts. Losses of single rows whose gradients depend on the forward pass, as where the largest are
chosen, are not known in time. Where a chunk would hold all rows, nothing is gained, nor where the workspace would be as large as what it saves: with few rows and
a large weight the peak is where the weight's gradient is, and beside it stands one gradient of the logits.

## Try it
Halve `rows`: what happens to the peak, what to bytes moved and launches? Do it in bfloat16 too: why does the peak fall less?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphs.cost import is_view, value_bytes
from graphs.linear_cross_entropy import NONE, sizes
from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import call
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, erase, replace_terms
from optimizers.patterns.linear_loss import LinearLoss, chosen_rows, given_back, read
from optimizers.patterns.numbering import Numbering
from optimizers.record import Claim, Parameter

aten, own = torch.ops.aten, torch.ops.fxscope
LONGEST = 64  # nodes on the way from the seed to the gradient of the loss


@dataclass(frozen=True)
class _Found:
    loss: LinearLoss
    backward: Backward | None
    rows: int


def find(gm: fx.GraphModule, rows: int) -> Iterator[Match | Miss]:
    """Every negative log-likelihood, with the linear layer before it or the reason why not."""
    losses = gm.graph.find_nodes(op="call_function", target=aten.nll_loss_forward.default)
    gradients = Gradients(Numbering(gm.graph)) if losses else None
    for node in losses:
        assert gradients is not None
        try:
            found = read(node)
            if found is None:
                continue
            backward = gradients.whole(found.part)
            _check(found, backward, rows)
        except NotWhole as reason:
            yield Miss(node, str(reason))
            continue
        nodes = (*found.part.nodes, *(backward.nodes if backward else ()))
        tokens, words = value_of(node.args[0]).shape  # type: ignore[arg-type]
        note = f"{tokens} rows × {words} words in chunks of {rows}"
        yield Match(node, nodes, _Found(found, backward, rows), note)


def _check(found: LinearLoss, backward: Backward | None, rows: int) -> None:
    """Can it be done at once, and does it pay?"""
    x, weight = value_of(found.part.inputs[0]), _as_rows(found, value_of(found.part.inputs[1]))
    tokens = value_of(found.part.inputs[-1]).shape[0]
    if not tokens or tokens <= rows:
        raise NotWhole(f"A chunk of {rows} rows would hold all {tokens}.")
    if backward:
        if _before(backward.grad, found.part.output) is None and (found.reduction == NONE or x.dtype is torch.float16):
            raise NotWhole("The gradient of the loss depends on the forward pass, so it is not known before.")
        if not (backward.terms[0] and backward.terms[1]):
            raise NotWhole("Only one of hidden states and weight needs a gradient.")
    size = sizes(x.new_empty((tokens, x.shape[1])), weight, None, rows, found.wide, gradient=backward is not None)
    saved = _saved(found, weight, backward is not None)
    if size.workspace() >= saved:
        raise NotWhole(
            f"The workspace of its chunks, {size.workspace():,} bytes, would not be smaller than what they save of the peak, {saved:,} bytes."
        )


def _saved(found: LinearLoss, weight: Tensor, training: bool) -> int:
    """Bytes of the peak that the workspace stands for. In training the chunks hold the weight's gradient from the first one on: beside the workspace
    stands then what would otherwise come only when the log-probabilities are gone, and only one gradient of the logits is left."""
    logits = [value_bytes(node.meta["val"]) for node in found.part.nodes if _is_large(node)]
    narrow = value_of(found.part.inputs[-1]).shape[0] * weight.shape[0] * weight.dtype.itemsize
    return max(sum(logits) - value_bytes(weight), narrow) if training else sum(logits)


def _is_large(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], Tensor) and not is_view(node.target) and node.meta["val"].dim() > 1


def _as_rows(found: LinearLoss, weight: Tensor) -> Tensor:
    return weight if found.transposed else weight.t()


def _before(grad: fx.Node, output: fx.Node) -> list[fx.Node] | None:
    """What must move before the loss, so that its gradient is there: nodes behind it, on the way from the seed. None where
    the gradient depends on the loss."""
    late: set[fx.Node] = set()
    queue = [grad]
    while queue:
        node = queue.pop()
        if node in late or node < output:
            continue
        if node is output or node.op != "call_function" or len(late) == LONGEST:
            return None
        late.add(node)
        queue.extend(node.all_input_nodes)
    return sorted(late)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One operator in the place of the layer, the loss, and their backward."""
    found: LinearLoss = match.data.loss
    backward: Backward | None = match.data.backward
    output = found.part.output
    early = _before(backward.grad, output) if backward else None
    for node in early or ():
        output.prepend(node)
    with gm.graph.inserting_before(output):
        x, held, target = found.part.read(0), found.part.read(1), found.part.read(len(found.part.inputs) - 1)
        weight = held if found.transposed else call(gm, aten.t.default, held)
        bias = found.part.read(2) if found.has_bias else None
        operands = (chosen_rows(gm, found, x), weight, bias, target, found.reduction, found.ignore, match.data.rows, found.wide)
        if backward is None:
            fused = call(gm, own.linear_cross_entropy.default, *operands)
        else:
            grad = backward.grad if early is not None else call(gm, aten.new_full.default, x, [], 1.0, dtype=found.wide)
            fused = call(gm, own.linear_cross_entropy_with_gradients.default, grad, *operands)
        loss = result(gm, fused, 0)
        parts = [result(gm, fused, index) for index in range(1, 3 + found.has_bias)] if backward else []
    if backward:
        with gm.graph.inserting_before(backward.first()):
            if early is None:
                parts = [call(gm, aten.mul.Tensor, each, backward.grad) for each in parts]
            parts[0] = given_back(gm, found, parts[0], value_of(x).shape[0])
            if not found.transposed:
                parts[1] = call(gm, aten.t.default, parts[1])
        for index, new in enumerate(parts):
            if backward.terms[index]:
                replace_terms(gm, backward, index, new)
    output.replace_all_uses_with(loss)
    erase(match.nodes)


class _Head(nn.Module):
    """Hidden states to a loss of the next token, as causal language models do: labels shifted by one."""

    def __init__(self, cast: bool = False, logits: bool = False, cap: bool = False) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(64, 16), nn.Linear(16, 16), nn.Linear(16, 64, bias=False)
        self.head.weight = self.embedding.weight
        self.cast, self.logits, self.cap = cast, logits, cap

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.head(self.layer(self.embedding(tokens)).relu())
        if self.cap:
            logits = torch.tanh(logits / 30) * 30
        shifted = nn.functional.pad(tokens, (0, 1), value=-100)[..., 1:]
        loss = nn.functional.cross_entropy(logits.float().view(-1, 64), shifted.reshape(-1))
        return (loss, logits) if self.logits else loss


def _tokens() -> tuple[Tensor]:
    return (torch.randint(0, 64, (4, 16)),)


SMALL = {"rows": "16"}
OPTIMIZATION = Optimization(
    name="chunk-linear-cross-entropy",
    summary="The loss of a language model chunk by chunk; the logits never exist.",
    find=find,
    rewrite=rewrite,
    # The weight is read for each chunk, and every chunk launches anew.
    claim=Claim(launches="any", flops="any", bytes_moved="any", peak_bytes="any"),
    parameters=(Parameter("rows", 128, 1, 1 << 20, "rows of logits that exist at a time"),),
    examples=(Example(_Head, _tokens, matches=1, settings=SMALL), Example(_Head, _tokens, "training", matches=1, settings=SMALL)),
    refusals=(
        Example(lambda: _Head(logits=True), _tokens, "training", reason="output of the graph", settings=SMALL),
        Example(lambda: _Head(cap=True), _tokens, "training", reason="Between the linear layer", settings=SMALL),
        Example(_Head, _tokens, reason="would hold all", settings={"rows": "64"}),
    ),
    exactness="rounding",
)
