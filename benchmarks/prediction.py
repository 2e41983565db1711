"""How far predicted times are from measured ones.

python -m benchmarks.prediction gpus             published latencies, each GPU left out of calibration in turn
python -m benchmarks.prediction nested           the same, with one number of the method chosen anew without each GPU; minutes
python -m benchmarks.prediction save-gpus        fits on all of them and keeps the model in profiler/calibrations/
python -m benchmarks.prediction cpu              this machine: ceilings, models left out in turn, ranking of pipelines
python -m benchmarks.prediction save-cpu         the same, and keeps the model
"""

from __future__ import annotations

import sys

import msgspec
import torch

from benchmarks.prediction_cpu import RANKED, model_cases, pipeline_cases
from benchmarks.prediction_kernels import KERNELS
from benchmarks.prediction_labels import errors, fitted, labels, leave_one_out, mean_error, nested, summary
from benchmarks.prediction_local import fitted as fitted_here
from benchmarks.prediction_local import kendall, left_out, model_errors, node_errors, roofline_errors, spread
from profiler.calibrations import save
from profiler.ceilings import local_sheet, measure_ceilings
from profiler.prediction.here import Case
from profiler.prediction.predict import predict
from profiler.prediction_record import EfficiencyModel, Sheet


def gpus() -> None:
    """Prints errors of GPUs that were left out, of the published split, and of models that were left out."""
    chosen = labels()
    print("Each GPU left out in turn\n")
    print(summary(leave_one_out(chosen, lambda label: label.device)))
    tested = [label for label in chosen if "80GB" in label.device]
    rest = [label for label in chosen if "80GB" not in label.device]
    print(f"\nFitted without the A100 80GB, as NeuSight was: {100 * mean_error(errors(tested, fitted(rest))):.1f} % on it")
    print("\nEach model left out in turn\n")
    print(summary(leave_one_out(chosen, lambda label: label.run.split("-")[0])))
    print("\nFitted on all\n")
    found = errors(chosen, fitted(chosen))
    print(summary({device: [one for one in found if one.label.device == device] for device in {label.device: 0 for label in chosen}}))
    for one in found:
        print(f"{one.label.device:24} {one.label.run:24} {1e3 * one.label.seconds:8.0f} ms measured {100 * one.relative:+6.1f} %")


def nested_gpus() -> None:
    """Prints errors of GPUs that were left out of the choice of the method's number too."""
    print(summary(nested(labels())))


def save_gpus() -> None:
    """Fits on every labelled run and keeps the model."""
    print(save("gpu", fitted(labels())))


def cpu(keep: bool = False) -> None:
    """Measures models, their nodes and pipelines here, and prints errors of models that were left out and the agreement of orders."""
    torch.set_num_threads(1)
    found = measure_ceilings("cpu")
    device = local_sheet(found)
    for name, one in (*found.flops.items(), ("copy", found.bandwidth), ("cached copy", found.cache_bandwidth), ("launch", found.launch_s)):
        print(f"{name}: {one.value:.3g}, spread {100 * one.spread:.0f} % of {one.rounds} rounds")
    cases = model_cases()
    report(cases, device)
    model = fitted_here(cases, device)
    for name in RANKED:
        rank(pipeline_cases(name), device, model)
    if keep:
        print(save("cpu", msgspec.structs.replace(model, origin=f"{model.origin} Device: {device.name}, {device.source}.")))


def report(cases: list[Case], device: Sheet) -> None:
    """Errors per model and per node."""
    model = fitted_here(cases, device)
    kernels = [case for case in cases if case.model == KERNELS]
    whole, nodes = left_out([case for case in cases if case.model != KERNELS], device, kernels)
    roofline = roofline_errors(cases, device)
    print(f"left out, whole graphs: {spread(whole.values())}; roofline {spread(roofline[name] for name in whole)}")
    print(f"left out, nodes: {spread(nodes)}")
    within = model_errors(cases, device, model)
    print(
        f"fitted on all, whole graphs: {spread(within[name] for name in whole)}; nodes: {spread(node_errors([case for case in cases if case.model != KERNELS], device, model))}"
    )
    print(f"fitted on all, nodes of small modules with compiled loops: {spread(node_errors(kernels, device, model))}")
    for case in cases:
        name = case.name
        if name in whole:
            errors_of = f"{100 * whole[name]:+6.1f} % left out, {100 * within[name]:+6.1f} % fitted"
            print(f"{name:24} {1e3 * case.seconds:8.1f} ms measured, {errors_of}")


def rank(cases: list[Case], device: Sheet, model: EfficiencyModel) -> None:
    """Predicted and measured order of pipelines of one model."""
    predicted, seconds = [predict(case.graph, device, model).seconds for case in cases], [case.seconds for case in cases]
    for case, one in sorted(zip(cases, predicted, strict=True), key=lambda pair: pair[0].seconds):
        print(f"{case.model:6} {case.variant:36} {1e3 * case.seconds:8.1f} ms measured {1e3 * one:8.1f} ms predicted")
    print(f"Kendall's tau {kendall(predicted, seconds):.2f}; of pairs that differ by 2 % {kendall(predicted, seconds, same=0.02):.2f}")


COMMANDS = {"gpus": gpus, "nested": nested_gpus, "save-gpus": save_gpus, "cpu": cpu, "save-cpu": lambda: cpu(keep=True)}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]]()
