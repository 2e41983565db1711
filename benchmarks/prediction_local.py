"""How far predictions are from what was measured here: per node, per model, and for the order of pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from profiler.prediction import here
from profiler.prediction.calibrate import Build, Parameter, counted, seconds_of
from profiler.prediction.here import Case
from profiler.prediction.parameters import CPU, cpu_model
from profiler.prediction.predict import predict
from profiler.prediction.time import roofline_seconds
from profiler.prediction_record import EfficiencyModel, Sheet


def fitted(cases: Sequence[Case], device: Sheet, parameters: Mapping[str, Parameter] = CPU, make: Build = cpu_model) -> EfficiencyModel:
    """The model, of a CPU if nothing else is said, that predicts these measurements best, from nothing but what is believed of every device."""
    return here.fitted(cases, device, parameters, make)


def model_errors(cases: Iterable[Case], device: Sheet, model: EfficiencyModel) -> dict[str, float]:
    """`model variant` -> predicted / measured − 1."""
    return {case.name: predict(case.graph, device, model).seconds / case.seconds - 1 for case in cases}


def roofline_errors(cases: Iterable[Case], device: Sheet) -> dict[str, float]:
    """The same for the sum of the nodes' roofline times."""
    found = {}
    for case in cases:
        seconds = sum(count * roofline_seconds(work, device) for count, work in counted(case.graph).work)
        found[case.name] = seconds / case.seconds - 1
    return found


def node_errors(cases: Iterable[Case], device: Sheet, model: EfficiencyModel) -> list[float]:
    """Relative error of every different node of some size."""
    return [
        seconds_of(here.alone(work), device, model) / float(np.median(times)) - 1
        for case in cases
        for work, times in here.nodes_by_work(case).items()
    ]


def left_out(
    cases: Sequence[Case], device: Sheet, always: Sequence[Case] = (), parameters: Mapping[str, Parameter] = CPU, make: Build = cpu_model
) -> tuple[dict[str, float], list[float]]:
    """Errors of whole graphs and of nodes, each model predicted by a calibration without any of its graphs; `always` is in every calibration."""
    whole: dict[str, float] = {}
    nodes: list[float] = []
    for name in dict.fromkeys(case.model for case in cases):
        model = fitted([*always, *(case for case in cases if case.model != name)], device, parameters, make)
        mine = [case for case in cases if case.model == name and not case.kinds]
        whole |= model_errors(mine, device, model)
        nodes += node_errors(mine, device, model)
    return whole, nodes


def spread(errors: Iterable[float]) -> str:
    """Median and 90th percentile of absolute relative errors, in per cent."""
    sizes = np.abs(list(errors))
    return f"median {100 * np.median(sizes):.1f} %, 90th percentile {100 * np.quantile(sizes, 0.9):.1f} % (n = {len(sizes)})"


def kendall(predicted: Sequence[float], measured: Sequence[float], same: float = 0.0) -> float:
    """Kendall's τ over pairs whose measured values differ by more than `same` (relative): (agreeing − disagreeing) / pairs; 1 with no such pair."""
    score, pairs = 0, 0
    for at in range(len(measured)):
        for other in range(at):
            if abs(measured[at] - measured[other]) <= same * min(measured[at], measured[other]):
                continue
            pairs += 1
            score += 1 if (predicted[at] - predicted[other]) * (measured[at] - measured[other]) > 0 else -1
    return score / pairs if pairs else 1.0
