"""Time of a graph as captured, after the pipeline, and of torch.compile of the model, in turns.

The three are built from the same model and the same random weights. Training is forward, loss and backward. What is timed of torch.compile is the
compiled model as a user calls it, guards and autograd included; of the graphs, the code that fx generates. Compilation is timed apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fusion_inductor import quiet
from benchmarks.fusion_models import sized
from benchmarks.fusion_pipeline import improved
from graphs.capture import capture
from graphs.kernels import compile_ahead
from graphs.original import original
from graphs.program import Program
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from profiler.allocator import freed_memory_kept
from profiler.blocks import Limits, timed_blocks
from profiler.runs import clock_of
from profiler.statistics import ratio_interval

BUDGET_S = 8.0
WARM_UPS = 3
THREADS = 1  # on a machine that others use too, threads that wait for each other measure the others
TOKENS = {"batch": "4", "seq": "256", "layers": "2"}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 256, "n_head": 4, "vocab_size": 1000}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
        "vocab_size": 1000}  # fmt: skip
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False}  # fmt: skip
# Small, so that compilation takes a minute at most, and large enough that kernels, not calls, take most of the time.
MODELS: dict[str, Callable[[str], ModelSource]] = {
    "GPT-2, 2 layers of 256, 4 × 256": lambda mode: sized(GPT2, TOKENS, mode),
    "BERT, 2 layers of 256, 4 × 256": lambda mode: sized(BERT, TOKENS, mode),
    "Llama block of 256, 4 × 256": lambda mode: sized(LLAMA, TOKENS | {"layers": "1"}, mode),
    "ResNet-50, 2 × 96²": lambda mode: zoo_source("resnet50", {"batch": "2", "image": "96"}),
    "ViT, 2 layers of 256, 2 × 224²": lambda mode: zoo_source("vit", {"batch": "2", "layers": "2", "width": "256", "heads": "4"}),
    "MoE, 4 experts, 4 × 256": lambda mode: zoo_source("moe", {"batch": "4", "seq": "256", "width": "256"}),
    "elementwise chain, 4 million": lambda mode: ModelSource("chain", Chain, lambda: (torch.randn(2048, 2048),), None, (__file__,)),
}


class Chain(nn.Module):
    """Bound by memory through and through: bias, GELU by hand, residual, norm."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.norm = nn.Parameter(torch.randn(2048)), nn.LayerNorm(2048)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.bias
        y = 0.5 * y * (1 + torch.tanh(0.7978845608 * (y + 0.044715 * y**3)))
        return self.norm(x + y)


@dataclass(frozen=True)
class Timed:
    """Medians in milliseconds of the captured graph, ours and torch.compile's; seconds that the two took to compile; ratios with intervals."""

    captured: float
    ours: float
    theirs: float
    rounds: int
    our_seconds: float
    their_seconds: float
    to_captured: tuple[float, float, float]
    to_theirs: tuple[float, float, float]
    launches: tuple[int, int]
    error: float


def timed(source: ModelSource, mode: str, budget_s: float = BUDGET_S) -> Timed:
    """Compiles both, checks that they agree, and times them with the captured graph in turns."""
    torch.set_num_threads(THREADS)
    program = capture(source, mode, "cpu").program
    inputs = program.materialize(0)
    start = time.perf_counter()
    found = improved(program)
    compile_ahead(found.program.gm)
    ours = _graph(found.program, inputs)
    ours()
    our_seconds = time.perf_counter() - start
    captured = _graph(program, inputs)
    start = time.perf_counter()
    with quiet():
        torch._dynamo.reset()
        theirs = original(source, program, compiled=True)
        theirs()
        their_seconds = time.perf_counter() - start
        error = _difference(captured(), ours())
        runs = [captured, ours, theirs]
        with freed_memory_kept():
            for run in runs * WARM_UPS:
                run()
            blocks, _ = timed_blocks([_without_result(run) for run in runs], clock_of("cpu"), Limits(budget_s))
            times = blocks.sum(axis=1) / 2
    torch._dynamo.reset()
    medians = [float(each) for each in np.median(times, axis=0)]
    launches = found.before.launches, found.after.launches
    return Timed(
        medians[0],
        medians[1],
        medians[2],
        len(times),
        our_seconds,
        their_seconds,
        _ratio(times[:, 1] / times[:, 0]),
        _ratio(times[:, 1] / times[:, 2]),
        launches,
        error,
    )


def _ratio(ratios: np.ndarray) -> tuple[float, float, float]:
    low, high = ratio_interval(ratios.tolist(), 0)
    return float(np.median(ratios)), low, high


def _without_result(run: Callable[[], Any]) -> Callable[[], None]:
    def only() -> None:
        run()

    return only


def _graph(program: Program, inputs: list[Tensor]) -> Callable[[], Any]:
    graph = program.gm
    graph.recompile()

    def run() -> Any:
        with torch.no_grad():
            return graph(*inputs)

    return run


def _difference(one: Any, other: Any) -> float:
    """Largest difference between two runs, over the largest magnitude of all results: some gradients are zero but for rounding."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor) and a.is_floating_point() and a.numel()]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / largest
