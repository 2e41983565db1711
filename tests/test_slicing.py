"""Work in slices: what is followed through a graph, what the slices compute, and what memory they really take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.lifetimes import lifetimes, memory_curve
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.base import Function
from optimizers.catalog import named
from optimizers.pipeline import Applied, apply
from optimizers.slicing.follow import Following, follow
from optimizers.slicing.memory import curve, sliced_curve
from optimizers.slicing.plan import planned
from optimizers.slicing.states import PARTIAL, After, Sliced, through_view
from optimizers.verify import Judge
from profiler.peak import peak_bytes
from tests import small_models as small


class Chain(nn.Module):
    """Elementwise work whose every result backward needs: nearly all memory is activations."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.scale, self.depth = nn.Parameter(torch.ones(16)), depth

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = torch.tanh(x * self.scale)
        return x


class Words(nn.Module):
    """A language model in small: embedding, attention, logits, and a cross-entropy that ignores the last word of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.attention, self.head = (
            nn.Embedding(32, 16),
            nn.LayerNorm(16),
            small.Attention(16, 2),
            nn.Linear(16, 32),
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(self.attention(self.norm(self.embedding(tokens))))
        targets = nn.functional.pad(tokens, (0, 1), value=-100)[..., 1:]
        targets = torch.where(tokens < 8, -100, targets)  # some rows ignore more than others
        return nn.functional.cross_entropy(logits.view(-1, 32), targets.reshape(-1)), logits


class Feed(nn.Module):
    """Two feed-forward blocks, one on the other's result, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = (nn.ModuleList(nn.Linear(*sizes) for _ in range(2)) for sizes in ((8, 64), (8, 64), (64, 8)))

    def forward(self, x: Tensor) -> Tensor:
        for up, gate, down in zip(self.up, self.gate, self.down, strict=True):
            x = down(nn.functional.silu(gate(x)) * up(x))
        return x


WORDS = ModelSource("words", Words, lambda: (torch.randint(0, 32, (8, 16)),), lambda outputs: outputs[0], (__file__,))
STACK = ModelSource("stack", lambda: small.Stack(2), lambda: (torch.randn(256, 32),), None, (__file__,))
CHAIN = small.source(Chain, 64, 16)
STEPS = [
    pytest.param(WORDS, "training", "accumulate-gradients", "2", 1, id="language model in micro-batches"),
    pytest.param(STACK, "training", "accumulate-gradients", "4", 1, id="blocks in micro-batches"),
    pytest.param(small.source(Feed, 2, 32, 8), "inference", "chunk-mlp", "4", 2, id="block on block, cut within sequences"),
    pytest.param(small.source(Feed, 4, 32, 8), "training", "chunk-mlp", "4", 2, id="block on block, trained"),
    pytest.param(small.source(small.Attention, 2, 32, 32), "training", "chunk-attention", "16", 1, id="queries, trained"),
]


@functools.cache
def captured(source: ModelSource, mode: str = "training") -> Program:
    options = CaptureOptions(omit="outputs") if source is CHAIN else CaptureOptions()
    return capture(source, mode, "cpu", options).program


@functools.cache
def applied(source: ModelSource, mode: str, name: str, pieces: str) -> Applied:
    program = captured(source, mode)
    return apply(program, snapshot(program), name, {"pieces": pieces}, Judge(program))


@pytest.mark.parametrize(("source", "mode", "name", "pieces", "matches"), STEPS)
def test_counted_peak_is_the_measured_one_and_falls(source: ModelSource, mode: str, name: str, pieces: str, matches: int) -> None:
    program, found = captured(source, mode), applied(source, mode, name, pieces)
    assert len(found.step.matches) == matches, found.step.misses
    assert found.step.verdict.kind in ("bitwise", "rounding")
    before, after = (peak_bytes(one, one.materialize(0)) for one in (program, found.program))
    assert (before, after) == (found.step.before.peak_bytes, found.step.after.peak_bytes)
    assert after < 0.8 * before
    assert found.step.after.launches > found.step.before.launches


def waiting(found: Program) -> int:
    """Bytes that forward made and that are there at the peak."""
    nodes = snapshot(found).nodes
    outputs = [node.name for node in found.gm.graph.output_node().all_input_nodes]
    peak = memory_curve(nodes, outputs).peak_position
    return sum(life.bytes for life in lifetimes(nodes, outputs) if life.start <= peak <= life.end and life.phase == "forward")


def test_with_eight_micro_batches_of_eight_an_eighth_of_the_activations_waits() -> None:
    found = applied(CHAIN, "training", "accumulate-gradients", "8")
    assert found.step.matches[0].note.startswith("8 pieces of 8:")
    assert sum(node.target == "aten.tanh.default" for node in found.snapshot.nodes) == 8 * Chain().depth
    whole = waiting(captured(CHAIN))
    assert whole >= Chain().depth * 64 * 16 * 4  # every tanh is kept
    assert waiting(found.program) == whole / 8


def test_a_mean_over_unequal_numbers_of_targets_is_that_of_the_whole_batch() -> None:
    program, found = captured(WORDS), applied(WORDS, "training", "accumulate-gradients", "2").program
    inputs = program.materialize(3)
    for one, other in zip(program.run(inputs), found.run(inputs), strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)
    assert sum(node.target is torch.ops.aten.ne.Scalar for node in found.gm.graph.nodes) == 1


def test_predicted_memory_is_what_the_written_graph_is_counted_with() -> None:
    program, found = captured(WORDS), applied(WORDS, "training", "accumulate-gradients", "2").step
    order, outputs = list(program.gm.graph.nodes), program.gm.graph.output_node().all_input_nodes
    tokens = next(node for node in order if node.meta.get("role") == "input")
    plan = planned(follow(order, {tokens: Sliced(0)}, 8, 2))
    assert max(curve(order, outputs)) == found.before.peak_bytes
    assert max(sliced_curve(order, outputs, [plan])[0]) == found.after.peak_bytes


def test_where_the_update_has_the_peak_pieces_wait_for_it_to_be_in_place() -> None:
    program = capture(
        zoo_source("chain", {"depth": "4", "width": "32", "batch": "64"}), "training", "cpu", CaptureOptions(update="adamw")
    ).program
    alone = apply(program, snapshot(program), "accumulate-gradients", {"pieces": "4"}).step
    assert not alone.matches
    assert any("in the update" in miss.reason and "update-in-place" in miss.reason for miss in alone.misses), alone.misses
    first = apply(program, snapshot(program), "update-in-place", {})
    then = apply(first.program, first.snapshot, "accumulate-gradients", {"pieces": "4"}, Judge(program)).step
    assert then.after.peak_bytes < 0.8 * then.before.peak_bytes
    assert then.verdict.kind == "rounding"


def test_update_waits_for_the_last_piece() -> None:
    program = capture(STACK, "training", "cpu", CaptureOptions(update="adamw")).program
    before = snapshot(program)
    found = apply(program, before, "accumulate-gradients", {}, Judge(program))
    assert found.step.verdict.kind == "rounding"
    nodes = found.snapshot.nodes
    update = [at for at, node in enumerate(nodes) if node.phase == "update" and node.op == "call_function"]
    assert len(update) == sum(node.phase == "update" and node.op == "call_function" for node in before.nodes)
    assert min(update) > max(at for at, node in enumerate(nodes) if node.name.endswith("_slice_2"))


def followed(function: Callable[..., Any], *inputs: Tensor, parts: int = 2) -> tuple[Following, fx.Node]:
    """A function's graph followed along the first dimension of its first input, and the node of its result."""
    program = capture(ModelSource("function", lambda: Function(function), lambda: inputs, None, ()), "inference", "cpu").program
    order = list(program.gm.graph.nodes)
    first = next(node for node in order if node.op == "placeholder")
    return follow(order, {first: Sliced(0)}, inputs[0].shape[0], parts), program.gm.graph.output_node().all_input_nodes[0]


X, Y = torch.randn(4, 6, 8), torch.randn(4, 6, 8)
STATES: list[tuple[Callable[..., Any], Any]] = [
    (lambda x: x.softmax(-1), Sliced(0)),
    (lambda x: x.transpose(0, 2) * 2, Sliced(2)),
    (lambda x: x.reshape(24, 8), Sliced(0, 1, 6)),
    (lambda x: x.transpose(0, 1).reshape(24, 8), Sliced(0, 6, 1)),
    (lambda x: x.reshape(2, 2, 48), Sliced(1, 1, 1, 1)),
    (lambda x: x.sum(0), PARTIAL),
    (lambda x: x.mean() * 3, PARTIAL),
    (lambda x: x.reshape(24, 8).t() @ x.reshape(24, 8), PARTIAL),
    (lambda x: torch.cat([x, x * 2], 0), Sliced(0, 2, 1)),
    (lambda x: torch.cat([x, x * 2], 1), Sliced(0)),
    (lambda x: x[:, 2], Sliced(0)),
    (lambda x: x.softmax(0), "along the dimension"),
    (lambda x: x.amax(0), "over the sliced dimension"),
    (lambda x: x.sum(0).exp(), "needs a sum over all slices"),
    (lambda x: x.mean(0) + 1, "needs a sum over all slices"),
    (lambda x: x[1:], "along the dimension"),
    (lambda x: x.sum((1, 2)).unsqueeze(0) - x.sum((1, 2)).unsqueeze(1), "different dimensions"),
    (lambda x: nn.functional.dropout(x, 0.5, True), "draws random numbers"),
    (lambda x: x.reshape(24, 8) @ x.reshape(24, 8).t(), "different dimensions"),
]


@pytest.mark.parametrize(("function", "expected"), STATES)
def test_the_sliced_dimension_is_followed_or_the_reason_said(function: Callable[..., Any], expected: Any) -> None:
    following, result = followed(function, X)
    found = following.states.get(result)
    if isinstance(expected, str):
        assert isinstance(found, After)
        assert expected in found.reason
    else:
        assert found == expected


def test_a_whole_operand_is_cut_where_it_meets_slices() -> None:
    following, result = followed(lambda x, y: x.exp() * y, X, Y)
    (need,) = following.outcomes[result].needs.values()
    assert need == Sliced(0)


def test_a_view_that_takes_a_slice_apart_holds_parts_of_sequences() -> None:
    assert through_view(Sliced(0), (12, 8), (3, 4, 8), 12) == Sliced(1, merged=1)
    assert through_view(Sliced(1, merged=1), (3, 4, 8), (12, 8), 12) == Sliced(0)
    assert through_view(Sliced(1, merged=1), (3, 4, 8), (3, 4, 2, 4), 12) == Sliced(1, merged=1)


def test_where_attention_is_one_kernel_already_the_reason_is_said() -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    step = applied(small.source(Fused, 1, 2, 8, 8), "inference", "chunk-attention", "2").step
    assert "already" in step.misses[0].reason
    assert named("chunk-attention").record.kind == "memory"


def test_pieces_of_two_blocks_behind_fused_attention_leave_a_whole_graph() -> None:
    """Cutting the second stretch moves nodes of which cutting the first one's backward took some away."""
    options = {"batch": "4", "seq": "128", "layers": "1", "width": "64", "heads": "2", "vocab": "100"}
    program = capture(zoo_source("gpt2", options), "training", "cpu").program
    fused = apply(program, snapshot(program), "fuse-attention", {})
    done = apply(fused.program, fused.snapshot, "chunk-mlp", {}, Judge(program))
    assert len(done.step.matches) == 2
    assert done.step.verdict.kind == "rounding"
    assert done.step.after.peak_bytes < done.step.before.peak_bytes
