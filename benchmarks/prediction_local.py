"""How far predictions are from what was measured here: per node, per model, and for the order of pipelines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from benchmarks.prediction_cpu import Case
from benchmarks.prediction_kernels import KERNELS
from profiler.prediction.calibrate import Build, Counted, Parameter, Sample, calibrate, counted, operator_factors, seconds_of
from profiler.prediction.parameters import CPU, cpu_model
from profiler.prediction.predict import predict
from profiler.prediction.time import roofline_seconds
from profiler.prediction.work import work_of
from profiler.prediction_record import KERNEL, KERNEL_FUNCTIONS, EfficiencyModel, Sheet, Work

# Nodes are chosen by what is counted, not by what was measured, which would choose those that were disturbed.
LEAST_BYTES, LEAST_FLOPS, LEAST_S = 512 << 10, 10_000_000, 1e-6
NODE_WEIGHT = 0.25  # of a node however short
ROUGH = 6  # rounds of the fit that only tells operators from their class
WHOLE_WEIGHT = 3.0  # a whole graph against all of its nodes together


def samples(cases: Sequence[Case], device: Sheet) -> list[Sample]:
    """Whole graphs, and nodes with a weight by their share of the graph's time; equal nodes are one sample."""
    found = []
    for case in cases:
        if case.model == KERNELS:  # made for their compiled kernels alone; all else of them is in the models too
            found += [
                _kernel(work, times, device) for work, times in _nodes_by_work(case).items() if work.kind in (KERNEL, KERNEL_FUNCTIONS)
            ]
            continue
        found.append(Sample(counted(case.graph), device, case.seconds, WHOLE_WEIGHT))
        groups = _nodes_by_work(case)
        total = sum(sum(times) for times in groups.values())
        for work, times in groups.items():
            found.append(Sample(_alone(work), device, float(np.median(times)), NODE_WEIGHT + float(np.sqrt(4 * sum(times) / total))))
    return found


def _nodes_by_work(case: Case) -> dict[Work, list[float]]:
    """Measured seconds of equal nodes together, without what the interpreter that timed them takes for each."""
    asked = {node.name: (node.cost.known, work_of(node)) for node in case.graph.nodes if node.name in case.nodes}
    idle = [case.nodes[name] for name, (_, work) in asked.items() if work is None]
    overhead = float(np.median(idle)) if idle else 0.0
    groups: dict[Work, list[float]] = defaultdict(list)
    for name, (known, work) in asked.items():
        if known and work is not None and (work.bytes_moved >= LEAST_BYTES or work.flops >= LEAST_FLOPS):
            groups[work].append(max(case.nodes[name] - overhead, LEAST_S))
    return groups


def _kernel(work: Work, times: Sequence[float], device: Sheet) -> Sample:
    return Sample(_alone(work), device, float(np.median(times)))


def _alone(work: Work) -> Counted:
    return Counted(((1, work),), 0)


def fitted(cases: Sequence[Case], device: Sheet, parameters: Mapping[str, Parameter] = CPU, make: Build = cpu_model) -> EfficiencyModel:
    """The model, of a CPU if nothing else is said, that predicts these measurements best: rates of classes, then operators against their class, then the rates again under those."""
    measured = samples(cases, device)
    apart = operator_factors(measured, make(calibrate(measured, parameters, make, rounds=ROUGH)))

    def build(values: Mapping[str, float]) -> EfficiencyModel:
        return msgspec.structs.replace(make(values), operators=apart)

    return build(calibrate(measured, parameters, build))


def model_errors(cases: Iterable[Case], device: Sheet, model: EfficiencyModel) -> dict[str, float]:
    """`model variant` -> predicted / measured − 1."""
    return {f"{case.model} {case.variant}": predict(case.graph, device, model).seconds / case.seconds - 1 for case in cases}


def roofline_errors(cases: Iterable[Case], device: Sheet) -> dict[str, float]:
    """The same for the sum of the nodes' roofline times."""
    found = {}
    for case in cases:
        seconds = sum(count * roofline_seconds(work, device) for count, work in counted(case.graph).work)
        found[f"{case.model} {case.variant}"] = seconds / case.seconds - 1
    return found


def node_errors(cases: Iterable[Case], device: Sheet, model: EfficiencyModel) -> list[float]:
    """Relative error of every different node of some size."""
    return [
        seconds_of(_alone(work), device, model) / float(np.median(times)) - 1
        for case in cases
        for work, times in _nodes_by_work(case).items()
    ]


def left_out(
    cases: Sequence[Case], device: Sheet, always: Sequence[Case] = (), parameters: Mapping[str, Parameter] = CPU, make: Build = cpu_model
) -> tuple[dict[str, float], list[float]]:
    """Errors of whole graphs and of nodes, each model predicted by a calibration without any of its graphs; `always` is in every calibration."""
    whole: dict[str, float] = {}
    nodes: list[float] = []
    for name in dict.fromkeys(case.model for case in cases):
        model = fitted([*always, *(case for case in cases if case.model != name)], device, parameters, make)
        mine = [case for case in cases if case.model == name]
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
