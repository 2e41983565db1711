"""Fits an efficiency model to the device at hand: models of the zoo, each in both modes, run node by node, and the numbers of the model follow from their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec
import torch

from graphs.capture import capture
from graphs.errors import FxscopeError, TooLargeError
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from jobs.record import Calibrate, CeilingsResult, Progress
from profiler.calibrations import calibration
from profiler.ceilings import better, local_sheet, measure_ceilings
from profiler.devices import resolve
from profiler.per_node import profile_nodes
from profiler.prediction.here import Case, checked
from profiler.prediction.parameters import GPU_HERE, cpu_model, cpu_starts, gpu_here_model
from profiler.prediction_record import Calibration, Sheet

MODES = ("inference", "training")
NODES_S = 1.0  # of each graph, for the runs in which its nodes are timed
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


def calibrated(request: Calibrate, tell: Callable[[Progress], None]) -> CeilingsResult:
    """Ceilings, and a model fitted to them in the same minutes; takes two to four.

    Raises:
        TooLargeError: too few of the models fit into the device's memory.
    """
    device = resolve(request.device)
    tell(Progress("measuring what this machine reaches", 0.01))
    before = measure_ceilings(device)
    cases = list(_cases(device, tell))
    if len({case.model for case in cases}) < FEWEST:
        raise TooLargeError("too few models could run here to fit a model to them", help="Free memory of the device, and ask again.")
    tell(Progress("measuring once more what this machine reaches", 0.9))
    ceilings = better(before, measure_ceilings(device))  # a machine may have changed its pace since
    sheet = local_sheet(ceilings)
    tell(Progress("fitting the model", 0.95))
    return CeilingsResult(ceilings, sheet, fit(cases, sheet))


def fit(cases: list[Case], sheet: Sheet) -> Calibration:
    """What is fitted on a kind of device, from what is known of such devices."""
    kept = calibration("cpu")
    found = (
        checked(cases, sheet, GPU_HERE, gpu_here_model, {})
        if sheet.kind == "cuda"
        else checked(cases, sheet, cpu_starts(kept), cpu_model, kept.operators)
    )
    model = msgspec.structs.replace(
        found.model, name=f"fitted on {sheet.name}", origin=f"{found.model.origin} {len(cases)} graphs on {sheet.name}, {sheet.source}."
    )
    return msgspec.structs.replace(found, model=model)


def _cases(device: str, tell: Callable[[Progress], None]) -> Iterator[Case]:
    models = MODELS[device]
    for number, (name, (family, options)) in enumerate(models.items()):
        for mode in MODES:
            tell(Progress(f"measuring {name}, {mode}", 0.06 + 0.84 * (number + (mode != MODES[0]) / 2) / len(models)))
            try:
                yield measured(name, family, options, mode, device)
            except (FxscopeError, torch.OutOfMemoryError):  # what does not fit here is left out
                continue


def measured(name: str, family: str, options: dict[str, str], mode: str, device: str, budget_s: float = NODES_S) -> Case:
    """One model of the zoo, whole and node by node."""
    program = capture(zoo_source(family, options), mode, device).program
    graph = snapshot(program)
    found = profile_nodes(program, name, budget_s=budget_s)
    if device == "cuda":
        torch.cuda.empty_cache()
    size = name.removesuffix(family).strip()
    return Case(
        family, f"{size}, {mode}" if size else mode, graph, found.whole_ms / 1e3, {node.name: node.ms / 1e3 for node in found.nodes}
    )
