"""This machine: measured times of models, of their nodes, and of pipelines, for calibrating and judging predictions.

One thread, and the clock is the processor time of the process: other programs share the machine, and what they take of the cores is not the model's time
(what they take of caches and memory bandwidth is in the figures). Runs of all models take turns; what is kept is the median of the better half.
"""

from __future__ import annotations

import gc
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from benchmarks.prediction_kernels import KERNELS, kernel_programs
from graphs import collector
from graphs.capture import capture
from graphs.kernels import compile_ahead
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.hugging_face import config_source
from graphs.sources.zoo import zoo_source
from jobs.calibrating import FUSED, MADE_BY
from jobs.calibrating import MODELS as BY_DEVICE
from optimizers.pipeline import apply
from profiler.allocator import freed_memory_kept
from profiler.prediction.here import Case
from profiler.prediction_record import KERNEL, KERNEL_FUNCTIONS

ROUNDS, NODE_RUNS, WARM_UPS = 12, 8, 2
MODELS = {
    name: how for name, how in BY_DEVICE["cpu"].items() if name == how[0]
}  # without the small ones, which would not be left out with their sisters
# Attention and GELU written out, so that there is something to fuse.
RANKED: Mapping[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 256, "n_head": 4, "vocab_size": 4000, "n_positions": 512},
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
             "vocab_size": 4000, "hidden_act": "gelu_new"},
}  # fmt: skip
PIPELINES: Mapping[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "as captured": (),
    "fuse-attention": (("fuse-attention", {}),),
    "fuse-gelu": (("fuse-gelu", {}),),
    "fuse-gelu, fuse-attention": (("fuse-gelu", {}), ("fuse-attention", {})),
    "recompute-activations": (("recompute-activations", {}),),
    "recompute-light-work": (("recompute-light-work", {}),),
    "fuse-gelu, recompute-activations": (("fuse-gelu", {}), ("recompute-activations", {})),
    "accumulate-gradients": (("accumulate-gradients", {}),),
    "chunk-mlp": (("chunk-mlp", {}),),
    "fuse-loops": (("fuse-loops", {}),),
    "fuse-attention, fuse-loops": (("fuse-attention", {}), ("fuse-loops", {})),
    "fuse-gelu, fuse-attention, fuse-loops": (("fuse-gelu", {}), ("fuse-attention", {}), ("fuse-loops", {})),
    "recompute-light-work, fuse-loops": (("recompute-light-work", {}), ("fuse-loops", {})),
}


def model_cases(wanted: Sequence[str] = tuple(MODELS)) -> list[Case]:
    """Every model in both modes, and small modules as they are and with compiled loops, measured."""
    programs = {
        (name, mode): capture(zoo_source(*MODELS[name]), mode, "cpu").program for name in wanted for mode in ("inference", "training")
    }
    fused = {(name, f"training, {step}"): after(programs[name, "training"], step) for name, step in FUSED if name in wanted}
    return measured(programs | fused | kernel_programs())


def after(program: Program, step: str) -> Program:
    return apply(program, snapshot(program), step, {}).program


def pipeline_cases(model: str) -> list[Case]:
    """One model's training graph after each of the pipelines that find a place in it, measured."""
    source = config_source(json.dumps(RANKED[model]), model, {"batch": "4", "seq": "256", "layers": "2", "attention": "eager"}, "training")
    found = after_pipelines(capture(source, "training", "cpu").program)
    return measured({(model, name): program for name, (program, _) in found.items()}, nodes=False)


def after_pipelines(program: Program) -> dict[str, tuple[Program, GraphSnapshot]]:
    """The program and its graph after each of the pipelines that makes another graph than those before it."""
    before = snapshot(program)
    found, seen = {}, set[str]()
    for name, steps in PIPELINES.items():
        now, graph = program, before
        for step, settings in steps:
            applied = apply(now, graph, step, settings)
            now, graph = applied.program, applied.snapshot
        if graph.digest() not in seen:
            found[name] = now, graph
        seen.add(graph.digest())
    return found


def measured(programs: Mapping[tuple[str, str], Program], nodes: bool = True) -> list[Case]:
    """Whole graphs in turns, then where asked for their nodes, one graph after another."""
    torch.set_num_threads(1)
    runs, inputs = {}, {}
    for key, program in programs.items():
        inputs[key] = program.materialize(0)
        runs[key] = _whole(program, inputs[key])
    whole: dict[tuple[str, str], list[float]] = defaultdict(list)
    gc.collect()
    with freed_memory_kept(), collector.paused(), torch.no_grad():
        for _ in range(WARM_UPS):
            for run in runs.values():
                run()
        order = list(runs)
        for seed in range(ROUNDS):
            for index in np.random.default_rng(seed).permutation(len(order)):
                whole[order[index]].append(_seconds(runs[order[index]]))
        apart = {key: _node_seconds(program, inputs[key]) if nodes else {} for key, program in programs.items()}
    return [Case(*key, snapshot(program), typical(whole[key]), apart[key], _kinds(*key)) for key, program in programs.items()]


def _kinds(model: str, variant: str) -> tuple[str, ...]:
    """Small modules are made for their compiled kernels alone, graphs after a step for what it makes; all else of them is in the models too."""
    return (KERNEL, KERNEL_FUNCTIONS) if model == KERNELS else MADE_BY.get(variant.rpartition(", ")[2], ())


def typical(times: Sequence[float]) -> float:
    """Median of the better half: another program can only make a run slower."""
    return float(np.median(np.sort(times)[: (len(times) + 1) // 2]))


def _whole(program: Program, inputs: Sequence[Any]) -> Callable[[], None]:
    compile_ahead(program.gm)
    program.gm.recompile()

    def run() -> None:
        torch.manual_seed(0)
        program.gm(*inputs)

    return run


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time_ns()
    run()
    return (time.process_time_ns() - start) / 1e9


def _node_seconds(program: Program, inputs: Sequence[Any]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(NODE_RUNS):
        torch.manual_seed(0)
        _ProcessorTimer(program.gm, found).run(*inputs)
    return {name: typical(times[1:]) for name, times in found.items()}


class _ProcessorTimer(fx.Interpreter):
    """Keeps the processor time of each operator: the profiler's own timer reads the wall clock, which counts other programs too."""

    def __init__(self, gm: fx.GraphModule, found: dict[str, list[float]]) -> None:
        super().__init__(gm)
        self.found = found

    def run_node(self, n: fx.Node) -> Any:
        start = time.process_time_ns()
        value = super().run_node(n)
        if n.op == "call_function":
            self.found[n.name].append((time.process_time_ns() - start) / 1e9)
        return value
