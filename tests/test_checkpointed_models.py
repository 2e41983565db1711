"""Models that ask for activation checkpoints: what is inside runs again in backward, gradients stay those of autograd, the peak falls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from graphs.capture import Capture, capture
from graphs.ladder import climb
from graphs.record import GraphSnapshot, NodeRecord
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from optimizers.verify import Judge
from profiler.peak import peak_bytes
from tests.fuzzer.kernels import interpreted_kernels

Around = Callable[[nn.Module, Tensor], Tensor]


class Blocks(nn.Module):
    """Blocks with residual connections; `around` runs one of them."""

    def __init__(self, around: Around, depth: int = 4, p: float = 0.0) -> None:
        super().__init__()
        self.around = around
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(p), nn.Linear(64, 16), nn.Tanh()) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.around(block, x)
        return x


def plain(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)


def saved_by_hooks(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False)


def reentrant(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=True)


def nested(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(lambda value: checkpoint(block, value, use_reentrant=False) * 2, x, use_reentrant=False)


def in_a_wrapper(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint_wrapper(block)(x)


def saves_matmuls(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op == torch.ops.aten.addmm.default else CheckpointPolicy.PREFER_RECOMPUTE


def selective(block: nn.Module, x: Tensor) -> Tensor:
    contexts = functools.partial(create_selective_checkpoint_contexts, saves_matmuls)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


class InTwoSegments(nn.Module):
    """`checkpoint_sequential`: all segments but the last are checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_sequential(self.net, 2, x, use_reentrant=False)


def uneven(outputs: Tensor) -> Tensor:
    """A loss whose gradient differs from element to element."""
    return (outputs * torch.linspace(-1, 2, outputs.numel()).reshape(outputs.shape)).sin().sum()


def source(model: Callable[[], nn.Module]) -> ModelSource:
    return ModelSource("checkpointed", model, lambda: (torch.randn(32, 16),), uneven, (__file__,))


@functools.cache
def trained(around: Around, **kwargs: Any) -> Capture:
    return capture(source(lambda: Blocks(around, **kwargs)), "training", "cpu")


def recomputed(graph: GraphSnapshot) -> list[NodeRecord]:
    return [node for node in graph.nodes if node.phase == "recompute"]


def results(found: Capture, seed: int = 3) -> tuple[dict[tuple[str, str], Tensor], dict[tuple[str, str], Tensor]]:
    """Inputs and outputs of one run, by role and target."""
    program = found.program
    given = program.materialize(seed)
    made = program.run(given, seed=5)
    inputs = {(spec.role, spec.target): value for spec, value in zip(program.inputs, given, strict=True)}
    outputs = {(spec.role, spec.target): value for spec, value in zip(program.outputs, made, strict=True) if value is not None}
    return inputs, outputs


WAYS = [saved_by_hooks, reentrant, nested, selective]


@pytest.mark.parametrize("around", [*WAYS, in_a_wrapper], ids=lambda way: way.__name__)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_loss_and_gradients_are_those_of_an_eager_run_of_the_checkpointed_model(around: Around, p: float) -> None:
    inputs, outputs = results(trained(around, p=p))
    model = Blocks(around, p=p).train()
    model.load_state_dict({name: value for (role, name), value in inputs.items() if role == "parameter"})
    torch.manual_seed(5)
    # A reentrant checkpoint gives gradients only where an input wants one.
    loss = uneven(model(inputs["input", "0"].clone().requires_grad_()))
    (loss * inputs["seed", "loss"]).backward()
    torch.testing.assert_close(outputs["loss", "loss"], loss.detach())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(outputs["gradient", name], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("around", [saved_by_hooks, reentrant, selective], ids=lambda way: way.__name__)
def test_gradients_equal_bit_for_bit_those_without_checkpoints(around: Around) -> None:
    _, with_checkpoints = results(trained(around, p=0.4))
    _, without = results(trained(plain, p=0.4))
    assert with_checkpoints.keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in with_checkpoints.items())


def test_what_is_inside_runs_again_right_before_backward_needs_it() -> None:
    graph = snapshot(trained(saved_by_hooks).program)
    again = recomputed(graph)
    # The last layer and its tanh give what leaves the block: that is kept, and nothing before it needs the last layer.
    assert [node.module for node in again if node.target == "aten.addmm.default"] == [f"blocks.{number}.0" for number in (3, 2, 1, 0)]
    assert all(node.source and node.origins == (node.name,) for node in again)
    phases = [node.phase for node in graph.nodes if node.op == "call_function"]
    assert phases.index("recompute") >= phases.index("backward")


def test_backward_reads_nothing_of_the_inside_but_what_was_recomputed() -> None:
    graph = snapshot(trained(saved_by_hooks).program)
    nodes = graph.by_name()
    last = "aten.tanh.default"  # its output leaves the region, so it is kept
    for node in graph.nodes:
        if node.phase == "backward" and node.op == "call_function":
            kept = [nodes[name] for name in node.inputs if nodes[name].phase == "forward" and nodes[name].op == "call_function"]
            assert all(read.target in (last, "aten.add.Tensor", "aten.detach.default", "aten.alias.default") for read in kept), node.name


@pytest.mark.parametrize("around", WAYS, ids=lambda way: way.__name__)
def test_counted_and_measured_peak_are_lower(around: Around) -> None:
    with_checkpoints, without = trained(around, depth=5).program, trained(plain, depth=5).program
    counted = [snapshot(program).totals.peak_bytes for program in (without, with_checkpoints)]
    assert counted[1] < counted[0]
    measured = [peak_bytes(program, program.materialize()) for program in (without, with_checkpoints)]
    assert measured[1] < measured[0]


def test_a_policy_keeps_what_it_says() -> None:
    found = trained(selective)
    again = {node.target for node in recomputed(snapshot(found.program))}
    assert "aten.gelu.default" in again
    assert "aten.addmm.default" not in again
    assert found.report.notes[-1] == "4 of them selectively: what the policy saves is kept"


def test_a_context_without_a_policy_is_told() -> None:
    class Nothing:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    found = trained(lambda block, x: checkpoint(block, x, use_reentrant=False, context_fn=lambda: (Nothing(), Nothing())))
    assert "which is not followed" in found.report.notes[-1]


def test_random_draws_are_kept_with_their_mask() -> None:
    graph = snapshot(trained(saved_by_hooks, p=0.4).program)
    assert sum(node.target == "aten.native_dropout.default" for node in graph.nodes) == 4
    assert not [node for node in recomputed(graph) if node.target in ("aten.native_dropout.default", "getitem")]


def test_of_nested_checkpoints_the_outermost_counts() -> None:
    assert trained(nested).report.notes == ("4 regions under torch.utils.checkpoint are recomputed in backward",)


def test_sequential_segments_but_the_last_are_recomputed() -> None:
    found = capture(source(InTwoSegments), "training", "cpu")
    assert found.report.notes == ("1 region under torch.utils.checkpoint is recomputed in backward",)
    assert {node.module.split(".")[1] for node in recomputed(snapshot(found.program))} == {"0", "1"}


def test_a_wrapper_is_no_group_of_the_picture() -> None:
    class Wrapped(Blocks):
        def __init__(self) -> None:
            super().__init__(plain)
            self.blocks = nn.ModuleList(checkpoint_wrapper(block) for block in self.blocks)

    graph = snapshot(capture(source(Wrapped), "training", "cpu").program)
    assert "blocks.0.0" in {node.module for node in recomputed(graph)}
    assert not [node for node in graph.nodes if "_checkpoint_wrapped" in node.module]


def test_an_inference_has_nothing_to_recompute() -> None:
    found = capture(source(lambda: Blocks(saved_by_hooks)), "inference", "cpu")
    assert found.report.notes == ()
    assert not recomputed(snapshot(found.program))


@pytest.mark.parametrize("around", [saved_by_hooks, reentrant], ids=lambda way: way.__name__)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_layers_that_are_written_down_once_give_the_graph_of_a_whole_trace(around: Around, p: float) -> None:
    deep = source(lambda: Blocks(around, depth=9, p=p))
    short, whole = (capture(deep, "training", "cpu", whole=whole) for whole in (False, True))
    assert "blocks: 4 of 9 layers traced" in short.report.notes
    assert short.report.notes[0] == whole.report.notes[0] == "9 regions under torch.utils.checkpoint are recomputed in backward"
    assert snapshot(short.program).digest() == snapshot(whole.program).digest()


def test_gradient_checkpointing_of_transformers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def model(checkpoints: bool) -> nn.Module:
        built = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=3, n_head=2, use_cache=False))
        if checkpoints:
            built.gradient_checkpointing_enable()
        return built

    def of(checkpoints: bool) -> ModelSource:
        inputs = {"input_ids": torch.arange(32).reshape(2, 16)}
        return ModelSource("gpt2", lambda: model(checkpoints), lambda: inputs, lambda out: uneven(out.logits), (__file__,))

    found, without = capture(of(True), "training", "cpu"), capture(of(False), "training", "cpu")
    assert "3 regions under torch.utils.checkpoint are recomputed in backward" in found.report.notes
    assert snapshot(found.program).totals.peak_bytes < snapshot(without.program).totals.peak_bytes
    (_, one), (_, two) = results(found), results(without)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_one_run_honours_checkpoints_too() -> None:
    class Decides(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else x * 2)

    standing = climb(source(lambda: Decides(saved_by_hooks)), "training", "cpu")
    assert standing.report.rung == 3
    assert "4 regions under torch.utils.checkpoint are recomputed in backward" in standing.report.notes
    assert recomputed(standing.graph)


def test_every_step_keeps_the_answers_of_a_checkpointed_model() -> None:
    program = trained(saved_by_hooks, p=0.4).program
    judge = Judge(program)
    with interpreted_kernels():  # what is compiled has tests of its own
        for name, one in catalog().items():
            if one.costly:
                continue
            done = apply(program, snapshot(program), name, {}, judge)
            assert done.step.verdict.kind in {"bitwise", "rounding", one.exactness}, f"{name}: {done.step.verdict}"
            if name == "merge-common-subexpressions":
                assert recomputed(done.snapshot)
