"""A lesson: screens of text, each bound to an experiment, some with a question whose answer is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graphs.record import CaptureReport, GraphSnapshot, KernelRecord
from lessons.formula import Worked
from lessons.numbers import Numbers
from optimizers.record import StepRecord
from profiler.prediction_record import Ceilings
from profiler.record import Measurement

Picture = Literal[
    "graph", "change", "memory", "roofline", "runs", "treemap", "kernel", "values", "forward", "reverse", "again", "tiles", "none"
]
Need = Literal["ceilings", "measurement", "kernels", "triton"]


@dataclass(frozen=True)
class Question:
    """Something to predict before it is computed.

    Attributes:
        ask: one sentence.
        unit: of a number: `bytes`, `launches` …; empty for a choice.
        choices: to choose from; empty for a number.
    """

    ask: str
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Screen:
    """One screen.

    Attributes:
        text: Markdown; what stands in double braces is computed.
        after: the same, shown once the question was answered; beside: shown then under the picture, where there is more room.
        notes: Markdown for the presenter alone; nothing in it is computed.
        words: the experiment in words; empty for a screen without one.
        formula: instead of an experiment, a formula with a point: `x*x at x=3`.
        numbers: instead of an experiment, numbers that the reader may change: `M=64, N=32`.
        change: options of the experiment's model that the reader may change on the screen itself.
        needs: what else has to be known before the screen can be told: `ceilings`, what this machine reaches; `kernels` and `triton`, the
            generated code of the last graph for this device and for a GPU that is described. Or a `measurement` of the
            experiment, made once the reader has predicted, so that only `after` and the answer speak of it.
        picture: what is drawn of it.
        line: where the screen begins in its file, for errors.
        code: functions that the file defines for it: `answer(found)`, and perhaps `applies(found)`; source: their text.
    """

    title: str
    text: str
    after: str = ""
    beside: str = ""
    notes: str = ""
    words: str = ""
    formula: str = ""
    numbers: str = ""
    change: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    picture: Picture = "none"
    question: Question | None = None
    line: int = 0
    code: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def answer(self) -> Callable[[Any], Any] | None:
        return self.code.get("answer")


@dataclass(frozen=True)
class Lesson:
    """One file.

    Attributes:
        number: its place in the course.
        name: its name in the address.
        leads_to: optimizations whose own lessons go on from here.
        cases: rows of the course whose numbers it reproduces.
    """

    number: int
    name: str
    title: str
    summary: str
    screens: tuple[Screen, ...]
    leads_to: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What the worker found for a screen's experiment.

    Attributes:
        graphs: the captured graph, then the graph after each step.
        ceilings: of this machine, for screens that need them; measurement: of the graph before and the graph after, likewise.
        kernels, triton: of the last graph, for its own device and for a GPU that is described; for screens that need them.
    """

    words: str
    report: CaptureReport
    graphs: tuple[GraphSnapshot, ...]
    steps: tuple[StepRecord, ...] = ()
    ceilings: Ceilings | None = None
    measurement: Measurement | None = None
    kernels: tuple[KernelRecord, ...] = ()
    triton: tuple[KernelRecord, ...] = ()

    @property
    def before(self) -> GraphSnapshot:
        """As captured."""
        return self.graphs[0]

    @property
    def after(self) -> GraphSnapshot:
        """After the whole pipeline."""
        return self.graphs[-1]


What = Found | Worked | Numbers  # of an experiment, of a formula, or of numbers
