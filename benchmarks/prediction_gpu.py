"""A GPU: measured times of models, of their nodes, and of pipelines, kept in one file, and how far predictions are from them.

    python -m benchmarks.prediction_gpu measure FILE [SECONDS]    where the GPU is; no model is begun after so many seconds (default 150)
    python -m benchmarks.prediction_gpu report FILE               anywhere: errors of the kept model, of one fitted on the file, and orders of pipelines

Whole graphs are timed by CUDA events, the cache emptied before each run; nodes by their kernels under torch.profiler. Graphs are captured by several processes
at once; one at a time uses the GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.prediction_cpu import RANKED, after_pipelines
from benchmarks.prediction_local import fitted, kendall, left_out, model_errors, node_errors, spread
from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from graphs.sources.zoo import zoo_source
from jobs.calibrating import MODELS as BY_DEVICE
from profiler.blocks import Limits
from profiler.calibrations import calibration_for
from profiler.ceilings import local_sheet, measure_ceilings
from profiler.devices import detect
from profiler.measure import Setup, measure
from profiler.per_node import profile_nodes
from profiler.prediction.here import Case
from profiler.prediction.parameters import GPU_HERE, gpu_here_model
from profiler.prediction.predict import predict
from profiler.prediction_record import EfficiencyModel, Sheet
from profiler.record import Device
from profiler.sheets import OTHER_NAMES, sheet, sheets

WORKERS = 6
NODES_S, PIPELINE_S = 0.6, 0.4
MODELS = BY_DEVICE["cuda"]
HALF = ("gpt2", "bert", "llama", "vit", "resnet50", "mlp")  # in bfloat16 too
MODES = ("inference", "training")


class Kept(msgspec.Struct, frozen=True):
    """What was measured on one GPU: its ceilings as a sheet, models with their nodes, pipelines as wholes, and what failed."""

    device: Device
    sheet: Sheet
    cases: tuple[Case, ...]
    pipelines: tuple[Case, ...]
    failed: tuple[str, ...]


Task = tuple[str, str, str]


def tasks() -> list[Task]:
    """(what, name, variant) in order of how much they tell."""
    whole = [
        ("model", name, f"{mode}{', bfloat16' if autocast else ''}")
        for name in MODELS
        for mode in MODES
        for autocast in ((False, True) if name in HALF else (False,))
    ]
    return [*(("pipelines", name, "") for name in RANKED), *whole]


def measured(path: Path, seconds: float) -> None:
    """Measures until the time is over, and writes the file."""
    torch.zeros(1, device="cuda")
    ceilings = local_sheet(measure_ceilings("cuda"))
    context = multiprocessing.get_context("spawn")
    one_at_a_time, until = context.Lock(), time.time() + seconds
    with context.Pool(WORKERS, _begin, (one_at_a_time, until)) as pool:
        found: list[list[Case] | str] = []
        for result in pool.imap_unordered(_done, tasks()):
            found.append(result)
            print(
                result
                if isinstance(result, str)
                else "; ".join(f"{case.model}, {case.variant}: {1e3 * case.seconds:.3f} ms" for case in result),
                flush=True,
            )
    cases = [case for result in found if not isinstance(result, str) for case in result]
    kept = Kept(
        detect("cuda"), ceilings, tuple(one for one in cases if one.nodes), tuple(one for one in cases if not one.nodes),
        tuple(one for one in found if isinstance(one, str)),
    )  # fmt: skip
    path.write_bytes(zlib.compress(msgspec.msgpack.encode(kept), 9))


_shared: list[Any] = []


def _begin(lock: Any, until: float) -> None:
    _shared[:] = lock, until
    torch.set_num_threads(2)


def _done(task: Task) -> list[Case] | str:
    lock, until = _shared
    if time.time() > until:
        return f"{task}: no time was left"
    try:
        return _pipelines(task[1], lock) if task[0] == "pipelines" else _model(*task[1:], lock, until)
    except Exception as error:  # one that fails must not take the others' results along
        return f"{task}: {type(error).__name__}: {str(error)[:300]}"


def _model(name: str, variant: str, lock: Any, until: float) -> list[Case]:
    mode, _, autocast = variant.partition(", ")
    program = capture(zoo_source(*MODELS[name]), mode, "cuda", CaptureOptions(autocast=autocast or "none")).program
    return _case(program, name, variant, lock, until)


def _case(program: Program, name: str, variant: str, lock: Any, until: float) -> list[Case]:
    graph = snapshot(program)
    with lock:
        if time.time() > until:
            raise TimeoutError("no time was left")
        found = profile_nodes(program, name, budget_s=NODES_S)
        torch.cuda.empty_cache()
    return [Case(name, variant, graph, found.whole_ms / 1e3, {node.name: node.ms / 1e3 for node in found.nodes})]


def source_of(model: str) -> ModelSource:
    """Attention and GELU written out, large enough that a GPU is busy."""
    wide = {
        **RANKED[model],
        **(
            {"n_embd": 768, "n_head": 12} if model == "gpt2" else {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        ),
    }
    return config_source(json.dumps(wide), model, {"batch": "16", "seq": "512", "layers": "4", "attention": "eager"}, "training")


def _pipelines(model: str, lock: Any) -> list[Case]:
    after = after_pipelines(capture(source_of(model), "training", "cuda").program)
    for program, _ in after.values():
        program.gm(*program.materialize(0))  # compiles its kernels while another process has the GPU
    torch.cuda.empty_cache()
    with lock:
        programs = [program for program, _ in after.values()]
        found = measure(programs, list(after), setup=Setup(limits=Limits(PIPELINE_S * len(programs))))
        torch.cuda.empty_cache()
    return [
        Case(model, label, after[label][1], timing.median_ms / 1e3, {}) for label, timing in zip(found.labels, found.timings, strict=True)
    ]


def read(path: Path) -> Kept:
    return msgspec.msgpack.decode(zlib.decompress(path.read_bytes()), type=Kept)


def report(kept: Kept) -> None:
    """Errors by the kept model, with the data sheet and with the ceilings that were measured, and by a fit to the other models of the file."""
    cases, pipelines = kept.cases, kept.pipelines
    print(f"{kept.device.name}: {len(cases)} graphs, {len(pipelines)} pipelines; failed: {len(kept.failed)}")
    for failed in kept.failed:
        print(f"  {failed}")
    sides = [("ceilings", kept.sheet, calibration_for(kept.sheet)), *sheet_side(kept)]
    for title, device, model in sides:
        found = model_errors(cases, device, model)
        print(f"kept model, {title}: whole graphs {spread(found.values())}; nodes {spread(node_errors(cases, device, model))}")
        for mode in MODES:
            some = [error for name, error in found.items() if f" {mode}" in name]
            print(
                f"  {mode}: mean {100 * float(np.mean(np.abs(some))):.1f} %, bias {100 * float(np.mean(some)):+.1f} % (n = {len(some)})"
                if some
                else ""
            )
        told_order(pipelines, device, model)
    whole, nodes = left_out(cases, kept.sheet, (), GPU_HERE, gpu_here_model)
    model = fitted(cases, kept.sheet, GPU_HERE, gpu_here_model)
    within = model_errors(cases, kept.sheet, model)
    print(f"fitted here, model left out: whole graphs {spread(whole.values())}; nodes {spread(nodes)}")
    print(f"fitted here, on all: whole graphs {spread(within.values())}; nodes {spread(node_errors(cases, kept.sheet, model))}")
    told_order(pipelines, kept.sheet, model)
    for case in cases:
        name = case.name
        errors = " ".join(
            f"{title} {100 * (predict(case.graph, device, one).seconds / case.seconds - 1):+6.1f} %" for title, device, one in sides
        )
        print(f"{name:32} {1e3 * case.seconds:9.3f} ms measured; {errors}; left out {100 * whole[name]:+6.1f} %")


def sheet_side(kept: Kept) -> list[tuple[str, Sheet, EfficiencyModel]]:
    """The device's data sheet with its model, where the table has one."""
    if kept.device.name not in OTHER_NAMES and kept.device.name not in sheets():
        return []
    known = sheet(kept.device.name)
    return [("data sheet", known, calibration_for(known))]


def told_order(pipelines: Sequence[Case], device: Sheet, model: EfficiencyModel) -> None:
    for name in dict.fromkeys(case.model for case in pipelines):
        mine = [case for case in pipelines if case.model == name]
        predicted, seconds = [predict(case.graph, device, model).seconds for case in mine], [case.seconds for case in mine]
        print(
            f"  order of {len(mine)} pipelines of {name}: tau {kendall(predicted, seconds):.2f}, beyond 2 % {kendall(predicted, seconds, same=0.02):.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measured(Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 150.0)
    else:
        report(read(Path(sys.argv[2])))
