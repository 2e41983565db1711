"""Memory against independent figures of an ML-systems course (UCSD CSE 234, Winter 2025): checkpoints, inference, boundary activations.

Sizes of Llama-2-7B: b = 1, s = 4,096, h = 4,096, i = 11,008, n = 32 heads, L = 32 layers, 2 bytes a number. GiB is 2³⁰, as the figures are.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from graphs.capture import capture
from graphs.lifetimes import lifetimes
from graphs.program import Program
from graphs.record import GraphSnapshot, NodeRecord
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import hf_source
from graphs.sources.zoo import zoo_source
from optimizers.pipeline import apply
from tests.small_models import Stack

BATCH, WIDTH = 64, 4
UNIT = BATCH * WIDTH * 4  # bytes of what one layer gives to the next; a gradient of a weight is a sixteenth of that, of a bias less
b, s, h, i, n, L = 1, 4096, 4096, 11008, 32, 32  # noqa: E741
MIB, GIB = 1 << 20, 1 << 30


@functools.cache
def chain(depth: int) -> tuple[Program, GraphSnapshot]:
    """A training graph of equal layers, each linear and ReLU."""
    source = zoo_source("chain", {"depth": str(depth), "width": str(WIDTH), "batch": str(BATCH)})
    program = capture(source, "training", "cpu").program
    return program, snapshot(program)


@functools.cache
def checkpointed(depth: int, every: int) -> GraphSnapshot:
    program, graph = chain(depth)
    return apply(program, graph, "recompute-activations", {"every": str(every)}).snapshot


def activations(graph: GraphSnapshot) -> int:
    """Most results of layers that are there at once: what a ReLU gives, when first computed or again. Gradients, the linear that is about to
    go through its ReLU, and the model's input, which the graph does not allocate, are no results of layers."""
    relus = {node.name for node in graph.nodes if node.target == "aten.relu.default"}
    lives = [life for life in lifetimes(graph.nodes, graph.outputs) if life.name in relus]
    assert {life.bytes for life in lives} == {UNIT}
    return max(sum(life.start <= at <= life.end for life in lives) for at in range(len(graph.nodes)))


# Checkpoints


@pytest.mark.parametrize(("depth", "every", "printed"), [(36, 6, 12), (64, 8, 16), (100, 10, 20)])
def test_checkpoints_keep_the_root_of_the_depth_twice(depth: int, every: int, printed: int) -> None:
    """N/K + K: the inputs of N/K groups and the K results of the group whose backward is next.

    The first group's input is the input of the model. It is there before the graph runs, so it is added here by hand; the formula counts it
    as a checkpoint, while the course's N of a chain without checkpoints leaves it out.
    """
    assert activations(chain(depth)[1]) == depth
    assert 1 + activations(checkpointed(depth, every)) == depth // every + every == printed


@pytest.mark.parametrize("every", [4, 9, 36])
def test_the_formula_holds_for_other_groups_and_the_root_is_best(every: int) -> None:
    assert 1 + activations(checkpointed(36, every)) == 36 // every + every > 12


@pytest.mark.parametrize(("depth", "every"), [(36, 6), (64, 8), (100, 10)])
def test_the_whole_peak_is_that_and_three_more_with_and_without_checkpoints(depth: int, every: int) -> None:
    """The gradient on its way, and two results on the way to the next: whole units; less than one unit is of the weights' gradients."""
    assert chain(depth)[1].totals.peak_bytes // UNIT == depth + 3
    assert checkpointed(depth, every).totals.peak_bytes // UNIT == depth // every + every - 1 + 3


# What checkpoints cost


class Learned(nn.Module):
    """A chain behind a learned input, so that backward goes through all of it; weights are parameters, or frozen, which a graph calls buffers."""

    def __init__(self, depth: int, frozen: bool) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(BATCH, WIDTH))
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth)))
        for linear in (one for one in self.layers.modules() if frozen and isinstance(one, nn.Linear)):
            for name in ("weight", "bias"):
                value = getattr(linear, name).detach()
                delattr(linear, name)
                linear.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x + self.start)


PRODUCT = 2 * BATCH * WIDTH * WIDTH  # operations of one layer's matmul


@pytest.mark.parametrize(("frozen", "plain", "printed"), [(True, 72, 108), (False, 108, 144)])
def test_recomputation_costs_at_most_one_forward_more(frozen: bool, plain: int, printed: int) -> None:
    """The course, and torch's own checkpoint around every group: all of forward runs again, 36 matmuls more. Here neither the last group runs
    again, whose results are still there, nor the last layer of any group, whose result is the next checkpoint: (N/K − 1)·(K − 1) = 25 more."""
    model = Learned(36, frozen)
    with FlopCounterMode(display=False) as counter:
        x: Tensor = model.start + 0
        for first in range(0, 36, 6):
            x = checkpoint(model.layers[first : first + 6], x, use_reentrant=False)  # type: ignore[assignment]
        x.square().mean().backward()
    assert counter.get_total_flops() == printed * PRODUCT == (plain + 36) * PRODUCT

    program = capture(
        ModelSource("learned", lambda: Learned(36, frozen), lambda: (torch.randn(BATCH, WIDTH),), None, ()), "training", "cpu"
    )
    graph = snapshot(program.program)
    assert graph.totals.matmul_flops == plain * PRODUCT
    again = apply(program.program, graph, "recompute-activations", {"every": "6"}).snapshot
    assert again.totals.matmul_flops == (plain + 5 * 5) * PRODUCT
    assert sum(node.cost.matmul_flops for node in again.nodes if node.phase == "recompute") == 5 * 5 * PRODUCT


# Inference


@pytest.mark.parametrize("depth", [2, 36])
def test_inference_needs_two_buffers_however_many_layers(depth: int) -> None:
    program = capture(zoo_source("chain", {"depth": str(depth), "width": str(WIDTH), "batch": str(BATCH)}), "inference", "cpu").program
    assert snapshot(program).totals.peak_bytes == 2 * UNIT


def test_which_are_those_of_the_layer_with_the_largest_operand_and_result() -> None:
    widths = (8, 32, 16, 40, 24, 8)  # 16 + 40 and 40 + 24: the second is more

    def build() -> nn.Module:
        return nn.Sequential(*(nn.Linear(a, c) for a, c in zip(widths, widths[1:], strict=False)))

    graph = snapshot(capture(ModelSource("widths", build, lambda: (torch.randn(BATCH, widths[0]),), None, ()), "inference", "cpu").program)
    pairs = [
        a + c for a, c in zip(widths[1:], widths[2:], strict=False)
    ]  # of the first layer only the result: its operand was there before
    assert graph.totals.peak_bytes == max(pairs) * BATCH * 4 == 64 * BATCH * 4


# What passes from block to block


def entering(graph: GraphSnapshot, block: str) -> list[NodeRecord]:
    """Activations that a block reads and does not make itself; a part of the model that is only about positions is none."""
    nodes = graph.by_name()
    inside = [node for node in graph.nodes if node.module == block or node.module.startswith(f"{block}.")]
    read = {name for node in inside for name in node.inputs} - {node.name for node in inside}
    found = {nodes[name].storage for name in read}
    return [nodes[name] for name in sorted(found) if nodes[name].role == "activation" and nodes[name].shape == inside[-1].shape]


GPT3 = [  # thousands of tokens in a batch, layers, width, GiB
    pytest.param(500, 12, 768, 8.58, id="Small"),
    pytest.param(1000, 32, 2560, 152.588, id="2.7B"),
    pytest.param(2000, 40, 5140, 765.92, id="13B"),  # the course prints 5140
    pytest.param(3200, 96, 12288, 7031.25, id="175B"),
]


@pytest.mark.parametrize(("thousands", "layers", "width", "printed"), GPT3)
def test_boundary_activations_of_gpt3(thousands: int, layers: int, width: int, printed: float) -> None:
    """Tokens × layers × width × 2 bytes: two blocks captured, and what passes between them times the layers. The blocks are residual ones of
    a perceptron; attention beside it changes nothing of what passes."""
    source = ModelSource("stack", lambda: Stack(2, width).half(), lambda: (torch.empty(1000 * thousands, width).half(),), None, ())
    (boundary,) = entering(snapshot(capture(source, "inference", "cpu").program), "blocks.1")
    assert layers * boundary.bytes == layers * 1000 * thousands * width * 2
    assert layers * boundary.bytes / GIB == pytest.approx(printed, abs=0.005)


@pytest.fixture(scope="module")
def llama() -> GraphSnapshot:
    options = {"seq": str(s), "layers": "1", "attention": "eager", "dtype": "float16"}
    return snapshot(capture(hf_source("llama-2-7b", options, "inference"), "inference", "cpu").program)


def test_boundary_activations_of_llama(llama: GraphSnapshot) -> None:
    (boundary,) = entering(llama, "model.layers.0")
    assert boundary.bytes == b * s * h * 2 == 32 * MIB
    assert L * boundary.bytes == GIB


def test_sum_of_all_results_in_a_block_of_llama(llama: GraphSnapshot) -> None:
    """8·bsh + 3·bsi + bnss: what two norms, nine matmuls and the product with the gate give. The course prints no shapes of rotations, casts,
    the scaled and masked scores, softmax, SiLU and residuals; each of their results has the shape of one that is printed."""
    block = [node for node in llama.nodes if node.module.startswith("model.layers.0")]
    results = [node for node in block if node.cost.matmul_flops]
    results += [[node for node in block if node.module.endswith(part)][-1] for part in ("input_layernorm", "post_attention_layernorm")]
    results += [node for node in block if node.module.endswith("mlp") and node.target == "aten.mul.Tensor"]
    assert len(results) == 9 + 2 + 1
    assert sum(node.bytes for node in results) == 2 * (8 * b * s * h + 3 * b * s * i + b * n * s * s) == 1538 * MIB
    assert pytest.approx(48.06, abs=0.005) == L * 1538 * MIB / GIB
