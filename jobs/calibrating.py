"""Fits an efficiency model to the device at hand: models of the zoo, each in both modes, run node by node, and the numbers of the model follow from their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from graphs import collector
from graphs.capture import capture
from graphs.errors import RewriteError, TooLargeError
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from jobs.record import Calibrate, CeilingsResult, Progress
from optimizers.pipeline import apply
from profiler.allocator import freed_memory_kept
from profiler.calibrations import calibration_for
from profiler.ceilings import better, local_sheet, measure_ceilings
from profiler.devices import resolve
from profiler.marks import marked_nodes
from profiler.measure import shared_inputs
from profiler.node_turns import timed_in_turns
from profiler.per_node import profile_nodes
from profiler.prediction.here import Case, checked
from profiler.prediction.parameters import GPU_HERE, cpu_model, cpu_starts, gpu_here_model
from profiler.prediction_record import ATTENTION, KERNEL, KERNEL_FUNCTIONS, Calibration, Sheet

MODES = ("inference", "training")
NODES_S = {"cpu": 0.25, "cuda": 1.0}  # of each graph and pass, for the runs in which its nodes are timed
PASSES = {"cpu": 3, "cuda": 1}
FEWEST = 3  # models
# Large enough that operators take their time, and some so small that launches show; all of them within two minutes. The small ones are left out with their large sisters.
MODELS: Mapping[str, Mapping[str, tuple[str, dict[str, str]]]] = {
    "cpu": {
        "mlp": ("mlp", {"batch": "256", "depth": "6", "width": "768"}),
        "lstm": ("lstm", {"batch": "32", "seq": "16", "width": "256"}),
        "moe": ("moe", {"batch": "4", "seq": "128", "width": "256"}),
        "attention": ("attention", {"batch": "4", "seq": "512", "width": "256"}),
        "resnet18": ("resnet18", {"batch": "4", "image": "96"}),
        "resnet50": ("resnet50", {"batch": "4", "image": "64"}),
        "gpt2": ("gpt2", {"batch": "2", "seq": "128", "layers": "3", "width": "384", "heads": "6", "vocab": "8000"}),
        "llama": ("llama", {"batch": "2", "seq": "128", "layers": "3", "vocab": "8000"}),
        "bert": ("bert", {"batch": "2", "seq": "128", "layers": "3", "width": "512", "heads": "8", "vocab": "8000", "dropout": "0.1"}),
        "vit": ("vit", {"batch": "2", "layers": "3", "width": "384", "heads": "6"}),
        "unet": ("unet", {"batch": "2", "image": "96"}),
        "small mlp": ("mlp", {"batch": "64", "depth": "3", "width": "192"}),
        "small attention": ("attention", {"batch": "2", "seq": "96", "width": "192", "heads": "6"}),
        "small resnet18": ("resnet18", {"batch": "2", "image": "40"}),
        "small lstm": ("lstm", {"batch": "8", "seq": "12", "width": "96"}),
    },
    "cuda": {
        "gpt2": ("gpt2", {"batch": "4", "seq": "1024"}),
        "bert": ("bert", {"batch": "32", "seq": "128", "dropout": "0.1"}),
        "resnet50": ("resnet50", {"batch": "32", "image": "224"}),
        "llama": ("llama", {"batch": "4", "seq": "1024"}),
        "vit": ("vit", {"batch": "32"}),
        "unet": ("unet", {"batch": "4", "image": "256"}),
        "attention": ("attention", {"batch": "8", "seq": "1024", "width": "1024", "heads": "16"}),
        "mlp": ("mlp", {"batch": "4096", "depth": "6", "width": "2048"}),
        "resnet18": ("resnet18", {"batch": "64", "image": "224"}),
        "moe": ("moe", {"batch": "8", "seq": "512", "width": "512"}),
        "lstm": ("lstm", {"batch": "64", "seq": "16", "width": "1024"}),
        "small gpt2": ("gpt2", {"batch": "1", "seq": "128"}),
    },
}
# Attention in one operator and compiled loops stand in no graph as captured: some of these models in training after a step, measured for the nodes that it makes.
FUSED = (("attention", "fuse-attention"), ("gpt2", "fuse-attention"), ("vit", "fuse-attention"), ("attention", "fuse-loops"), ("small attention", "fuse-loops"),
         ("moe", "fuse-loops"))  # fmt: skip
MADE_BY = {"fuse-attention": (ATTENTION,), "fuse-loops": (KERNEL, KERNEL_FUNCTIONS)}


class Model(NamedTuple):
    """A model of the zoo in one mode, captured, perhaps after a step; families are left out together."""

    name: str
    family: str
    mode: str
    program: Program
    graph: GraphSnapshot
    step: str = ""


def calibrated(request: Calibrate, tell: Callable[[Progress], None]) -> CeilingsResult:
    """Ceilings, and a model fitted to them in the same minutes; takes two to four.

    Raises:
        TooLargeError: too few of the models fit into the device's memory.
    """
    device = resolve(request.device)
    tell(Progress("measuring what this machine reaches", 0.01))
    before = measure_ceilings(device)
    cases = _cases(device, tell)
    if len({case.model for case in cases}) < FEWEST:
        raise TooLargeError("too few models could run here to fit a model to them", help="Free memory of the device, and ask again.")
    tell(Progress("measuring once more what this machine reaches", 0.9))
    ceilings = better(before, measure_ceilings(device))  # a machine may have changed its pace since
    sheet = local_sheet(ceilings)
    tell(Progress("fitting the model", 0.95))
    return CeilingsResult(ceilings, sheet, fit(cases, sheet))


def fit(cases: list[Case], sheet: Sheet) -> Calibration:
    """What is fitted on a kind of device, from what is known of such devices."""
    kept = calibration_for(sheet)
    found = (
        checked(cases, sheet, GPU_HERE, gpu_here_model, {})
        if sheet.kind == "cuda"
        else checked(cases, sheet, cpu_starts(kept, sheet.launch_s), cpu_model, kept.operators)
    )
    model = msgspec.structs.replace(
        found.model,
        name=f"fitted on {sheet.name}",
        origin=f"{found.model.origin} {len(found.graphs)} graphs on {sheet.name}, {sheet.source}.",
    )
    return msgspec.structs.replace(found, model=model)


def _cases(device: str, tell: Callable[[Progress], None]) -> list[Case]:
    """Every graph at the best pace that it met: a machine whose cores are shared has several, each for seconds, so all graphs are gone through some times."""
    graphs, passes = list(_captured(device, tell)), PASSES[device]
    best: dict[int, Case] = {}
    for number in range(passes * len(graphs)):
        at = number % len(graphs)
        words = filter(None, (graphs[at].name, graphs[at].mode, graphs[at].step))
        tell(Progress(f"measuring {', '.join(words)}", 0.25 + 0.65 * number / (passes * len(graphs))))
        try:
            case = measured(graphs[at])
        except (TooLargeError, torch.OutOfMemoryError):  # what does not fit here is left out
            continue
        except RewriteError:
            if KERNEL not in MADE_BY.get(graphs[at].step, ()):
                raise
            continue  # kernels that no compiler is there for stay where the kept model has them
        if at not in best or case.seconds < best[at].seconds:
            best[at] = case
    return [best[at] for at in sorted(best)]


def _captured(device: str, tell: Callable[[Progress], None]) -> Iterator[Model]:
    models = MODELS[device]
    for number, (name, (family, options)) in enumerate(models.items()):
        for mode in MODES:
            tell(Progress(f"capturing {name}, {mode}", 0.05 + 0.2 * number / len(models)))
            program = capture(zoo_source(family, options), mode, device).program
            graph = snapshot(program)
            yield Model(name, family, mode, program, graph)
            for step in [step for fused, step in FUSED if fused == name and mode == "training"]:
                after = apply(program, graph, step, {})
                yield Model(name, family, mode, after.program, after.snapshot, step)


def measured(model: Model) -> Case:
    """One graph, whole and node by node."""
    seconds, nodes = _by_kernels(model) if model.program.device == "cuda" else _by_the_clock(model)
    size = model.name.removesuffix(model.family).strip()
    variant = ", ".join(word for word in (size, model.mode, model.step) if word)
    return Case(model.family, variant, model.graph, seconds, nodes, MADE_BY.get(model.step, ()))


def _by_the_clock(model: Model) -> tuple[float, dict[str, float]]:
    with freed_memory_kept(), collector.paused():
        inputs = shared_inputs([model.program], 0)
        (times,), _ = timed_in_turns([model.program], inputs, 0, NODES_S["cpu"], lambda share: None)
    nodes = np.median(times.nodes, axis=0) / 1e3
    return float(np.median(times.whole)) / 1e3, dict(zip(marked_nodes(model.program), nodes.tolist(), strict=True))


def _by_kernels(model: Model) -> tuple[float, dict[str, float]]:
    found = profile_nodes(model.program, model.name, budget_s=NODES_S["cuda"])
    torch.cuda.empty_cache()
    return found.whole_ms / 1e3, {node.name: node.ms / 1e3 for node in found.nodes}
