"""What was measured of graphs on one device -> an efficiency model of that device, and how well such a model predicts what it has not seen. Without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from graphs.record import GraphSnapshot
from profiler.prediction.calibrate import Build, Counted, Parameter, Sample, calibrate, counted, operator_factors, seconds_of
from profiler.prediction.work import work_of
from profiler.prediction_record import Calibration, Checked, EfficiencyModel, Sheet, Work

# Nodes are chosen by what is counted, not by what was measured, which would choose those that were disturbed.
LEAST_BYTES, LEAST_FLOPS, LEAST_S = 512 << 10, 10_000_000, 1e-6
NODE_WEIGHT = 0.25  # of a node however short
ROUGH = 6  # rounds of the fit that only tells operators from their class
WHOLE_WEIGHT = 3.0  # a whole graph against all of its nodes together
FOLDS = 3


class Case(msgspec.Struct, frozen=True):
    """One graph and what was measured of it.

    Attributes:
        seconds: of a whole run; nodes: of each node.
        kinds: classes of work that it is measured for alone, when all else of it is in other graphs too; empty takes everything, the whole run as well.
    """

    model: str
    variant: str
    graph: GraphSnapshot
    seconds: float
    nodes: dict[str, float]
    kinds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} {self.variant}"


def fitted(
    cases: Sequence[Case], device: Sheet, parameters: Mapping[str, Parameter], make: Build, known: Mapping[str, float] | None = None
) -> EfficiencyModel:
    """The model that predicts these measurements best: rates of classes, then operators against their class, then the rates again under those.

    Args:
        known: operators against their class, for those that were not measured.
    """
    measured = samples(cases, device)
    apart = {**(known or {}), **operator_factors(measured, make(calibrate(measured, parameters, make, rounds=ROUGH)))}

    def build(values: Mapping[str, float]) -> EfficiencyModel:
        return msgspec.structs.replace(make(values), operators=apart, launch_s=device.launch_s)

    return build(calibrate(measured, parameters, build))


def checked(
    cases: Sequence[Case], device: Sheet, parameters: Mapping[str, Parameter], make: Build, known: Mapping[str, float]
) -> Calibration:
    """The model fitted on all cases, and each graph that was measured whole as a model predicts it that was fitted without a third of the models, its own among them."""
    models = list(dict.fromkeys(case.model for case in cases))
    found: dict[str, float] = {}
    for fold in range(min(FOLDS, len(models))):
        out = set(models[fold::FOLDS])
        model = fitted([case for case in cases if case.model not in out], device, parameters, make, known)
        found |= {case.name: seconds_of(counted(case.graph), device, model) for case in cases if case.model in out and not case.kinds}
    graphs = tuple(Checked(case.name, case.seconds, found[case.name]) for case in cases if not case.kinds)
    return Calibration(fitted(cases, device, parameters, make, known), graphs)


def samples(cases: Sequence[Case], device: Sheet) -> list[Sample]:
    """Whole graphs, and nodes with a weight by their share of the graph's time; equal nodes are one sample."""
    found = []
    for case in cases:
        groups = nodes_by_work(case)
        if case.kinds:
            found += [Sample(alone(work), device, float(np.median(times))) for work, times in groups.items() if work.kind in case.kinds]
            continue
        found.append(Sample(counted(case.graph), device, case.seconds, WHOLE_WEIGHT))
        total = sum(sum(times) for times in groups.values())
        for work, times in groups.items():
            found.append(Sample(alone(work), device, float(np.median(times)), NODE_WEIGHT + float(np.sqrt(4 * sum(times) / total))))
    return found


def nodes_by_work(case: Case) -> dict[Work, list[float]]:
    """Measured seconds of equal nodes together, without what reading the clock takes for each."""
    asked = {node.name: (node.cost.known, work_of(node)) for node in case.graph.nodes if node.name in case.nodes}
    idle = [case.nodes[name] for name, (_, work) in asked.items() if work is None]
    overhead = float(np.median(idle)) if idle else 0.0
    groups: dict[Work, list[float]] = defaultdict(list)
    for name, (known, work) in asked.items():
        if known and work is not None and (work.bytes_moved >= LEAST_BYTES or work.flops >= LEAST_FLOPS):
            groups[work].append(max(case.nodes[name] - overhead, LEAST_S))
    return groups


def alone(work: Work) -> Counted:
    """One run of one piece of work."""
    return Counted(((1, work),), 0)
