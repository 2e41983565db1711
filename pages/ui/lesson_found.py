"""What the worker is asked for a screen of a lesson, and what was found when it has answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from jobs.experiment import Experiment
from jobs.record import (
    CeilingsResult,
    Explore,
    ExploreResult,
    Kernels,
    KernelsResult,
    Measure,
    MeasureCeilings,
    MeasureResult,
    Optimize,
    OptimizeResult,
    Request,
    Result,
)
from lessons.lesson import Found, Screen

GPU = "h100"


def of_graphs(experiment: Experiment) -> Explore | Optimize:
    """Graphs and steps; where there are no steps the capture alone: what each optimization could do is long to find out and not told in lessons."""
    return Optimize(experiment.words) if experiment.pipeline else Explore(experiment.words)


def graphs(words: str, answer: ExploreResult | OptimizeResult) -> Found:
    """What they were found to be."""
    if isinstance(answer, OptimizeResult):
        return Found(words, answer.report, answer.graphs, answer.steps)
    return Found(words, answer.report, (answer.graph,))


def of_kernels(screen: Screen, words: str) -> dict[str, Kernels]:
    """The kernels that a screen needs, for this device and for a GPU that is described, by their names in `Found`."""
    return {need: Kernels(words, (), gpu) for need, gpu in (("kernels", ""), ("triton", GPU)) if need in screen.needs}


def requests(screen: Screen, experiment: Experiment) -> list[Request]:
    """All that a screen needs, the graphs first."""
    asked: list[Request] = [of_graphs(experiment), *of_kernels(screen, experiment.words).values()]
    asked += [MeasureCeilings()] if "ceilings" in screen.needs else []
    return asked + ([Measure(experiment.words)] if "measurement" in screen.needs else [])


def found(screen: Screen, experiment: Experiment, results: Mapping[Request, Result]) -> Found:
    """All that was found, of results for every one of the requests."""
    words = experiment.words
    whole = graphs(words, cast(ExploreResult | OptimizeResult, results[of_graphs(experiment)]))
    kernels = {need: cast(KernelsResult, results[asked]).kernels for need, asked in of_kernels(screen, words).items()}
    ceilings = cast(CeilingsResult, results[MeasureCeilings()]).ceilings if "ceilings" in screen.needs else None
    measured = cast(MeasureResult, results[Measure(words)]).measurement if "measurement" in screen.needs else None
    return Found(words, whole.report, whole.graphs, whole.steps, ceilings, measured, **kernels)
