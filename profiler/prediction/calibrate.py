"""Measured times -> the numbers of an efficiency model, by least squares on the logarithm of predicted / measured.

Every number is fitted as its logarithm, so it stays positive, and is pulled softly towards where it started: with few measurements a number that they do
not tell stays there. Far outliers count less (Huber), since a measurement that another program disturbed is far off. The method is Levenberg's and Marquardt's, with differences for derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from graphs.record import GraphSnapshot
from profiler.prediction.time import kernel_seconds, whole_seconds
from profiler.prediction.work import work_of
from profiler.prediction_record import EfficiencyModel, Sheet, Work

STEP = 0.02  # of a logarithm, for derivatives
PULL = 0.5  # residual, in units of TOLERANCE, of a number that lies one spread from its start
TOLERANCE = 0.10  # relative error that counts as one
MOST_DAMPED = 1e5
SMALLEST_STEP = 2e-3  # of a logarithm
BELIEF = 1.0  # measurements of one operator that its class counts for against them
MOST_APART = 4.0  # times that an operator may be from its class


class Parameter(msgspec.Struct, frozen=True):
    """A number to fit: where it starts, and the spread (of its logarithm) that is believed of it before anything was measured."""

    start: float
    spread: float


class Counted(msgspec.Struct, frozen=True):
    """What a graph, or one node of it, asks of a device: different pieces of work with how often they run, and calls of operators."""

    work: tuple[tuple[int, Work], ...]
    calls: int


class Sample(msgspec.Struct, frozen=True):
    """One measured time: of what, on which device, seconds; `weight` against other samples."""

    what: Counted
    sheet: Sheet
    seconds: float
    weight: float = 1.0


Build = Callable[[Mapping[str, float]], EfficiencyModel]


def counted(graph: GraphSnapshot, keep: Callable[[str], bool] = lambda phase: True) -> Counted:
    """The work of a graph's nodes in the phases that are kept, equal pieces together."""
    times: dict[Work, int] = {}
    calls = 0
    for node in graph.nodes:
        if node.op != "call_function" or not keep(node.phase):
            continue
        calls += node.times
        if (work := work_of(node)) is not None and node.cost.known:
            times[work] = times.get(work, 0) + node.times
    return Counted(tuple((count, work) for work, count in times.items()), calls)


def seconds_of(what: Counted, sheet: Sheet, model: EfficiencyModel) -> float:
    """Predicted seconds of counted work."""
    device_s = sum(count * kernel_seconds(work, sheet, model)[0] for count, work in what.work)
    return whole_seconds(device_s, what.calls, model)


def _seconds_of_all(samples: Sequence[Sample], model: EfficiencyModel) -> list[float]:
    """Predicted seconds of every sample; a piece of work that several hold is predicted once."""
    known: dict[tuple[str, Work], float] = {}
    found = []
    for sample in samples:
        name, device_s = sample.sheet.name, 0.0
        for count, work in sample.what.work:
            if (name, work) not in known:
                known[name, work] = kernel_seconds(work, sample.sheet, model)[0]
            device_s += count * known[name, work]
        found.append(whole_seconds(device_s, sample.what.calls, model))
    return found


def calibrate(
    samples: Sequence[Sample], parameters: Mapping[str, Parameter], build: Build, outlier: float = 0.05, rounds: int = 15
) -> dict[str, float]:
    """The values of the parameters that predict the samples best.

    Args:
        build: parameter values -> the model that they make.
        outlier: relative error beyond which a sample counts linearly instead of squared.
    """
    names = list(parameters)
    starts = np.log([parameters[name].start for name in names])
    pull = PULL / np.array([parameters[name].spread for name in names])
    weights = np.array([sample.weight for sample in samples])
    residuals = _residuals(samples, names, build, weights, outlier, starts, pull)
    values = _least_squares(residuals, starts, rounds)
    return dict(zip(names, np.exp(values).tolist(), strict=True))


def operator_factors(samples: Sequence[Sample], model: EfficiencyModel) -> dict[str, float]:
    """Name of an operator -> its time against what the model says of its class, from samples of single nodes: the median, drawn towards 1 where there are few."""
    apart: dict[str, list[float]] = {}
    for sample in samples:
        if len(sample.what.work) == 1 and (name := sample.what.work[0][1].name):
            apart.setdefault(name, []).append(math.log(sample.seconds / seconds_of(sample.what, sample.sheet, model)))
    found = {}
    for name, errors in apart.items():
        drawn = float(np.median(errors)) * len(errors) / (len(errors) + BELIEF)
        found[name] = math.exp(min(max(drawn, -math.log(MOST_APART)), math.log(MOST_APART)))
    return found


def _residuals(
    samples: Sequence[Sample], names: Sequence[str], build: Build, weights: np.ndarray, outlier: float, starts: np.ndarray, pull: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    measured = np.array([sample.seconds for sample in samples])

    def residuals(values: np.ndarray) -> np.ndarray:
        model = build(dict(zip(names, np.exp(values).tolist(), strict=True)))
        errors = np.log(np.array(_seconds_of_all(samples, model)) / measured)
        huber = np.sqrt(1 / np.maximum(1.0, np.abs(errors) / outlier))
        return np.concatenate([errors * huber * weights / TOLERANCE, (values - starts) * pull])

    return residuals


def _least_squares(residuals: Callable[[np.ndarray], np.ndarray], values: np.ndarray, rounds: int) -> np.ndarray:
    """Levenberg-Marquardt: damped Gauss-Newton steps that are taken only where they help."""
    now, damping = residuals(values), 1e-2
    for _ in range(rounds):
        slopes = np.stack([(residuals(values + STEP * unit) - now) / STEP for unit in np.eye(len(values))], axis=1)
        moved = 0.0
        while damping < MOST_DAMPED:
            step = np.linalg.solve(slopes.T @ slopes + damping * np.eye(len(values)), slopes.T @ now)
            then = residuals(values - step)
            if then @ then < now @ now:
                values, now, damping, moved = values - step, then, damping / 3, float(np.abs(step).max())
                break
            damping *= 4
        if moved < SMALLEST_STEP:
            break
    return values
