"""What a teacher asks for, what a student submitted, and how it was graded. Figures are counted."""

from __future__ import annotations

from typing import Literal

import msgspec

from optimizers.record import Exactness, VerdictKind

Rank = Literal["operations", "peak", "launches", "bytes", "steps"]


class Goal(msgspec.Struct, frozen=True):
    """When the last graph of a submission is good enough; 0 is no limit.

    Attributes:
        peak_bytes: counted peak memory, at most.
        launches: counted, at most.
        bytes_moved: counted, at most.
        verdict: the weakest that every step may have.
        rank: what is to be least among those that meet the goal: extra operations, peak memory, launches, bytes moved, or steps.
    """

    peak_bytes: int = 0
    launches: int = 0
    bytes_moved: int = 0
    verdict: Exactness = "rounding"
    rank: Rank = "operations"


class Task(msgspec.Struct, frozen=True):
    """One task as everybody may see it.

    Attributes:
        code: names it in addresses.
        start: the words of the experiment to begin with, without a pipeline.
        allowed: optimizations that may be used; empty for all.
        created: seconds since 1970.
        leaderboard: may students see how the others did?
        closed: takes no more submissions.
    """

    code: str
    title: str
    text: str
    start: str
    allowed: tuple[str, ...]
    goal: Goal
    created: float = 0.0
    leaderboard: bool = False
    closed: bool = False


class Figures(msgspec.Struct, frozen=True):
    """What was counted of the last graph; operations in FLOP, also of the graph as captured; memory in bytes; and the steps of the pipeline."""

    peak_bytes: int
    launches: int
    bytes_moved: int
    flops: int
    captured_flops: int
    steps: int

    @property
    def extra_operations(self) -> float:
        """Share of the captured graph's operations that came on top; negative where operations were saved."""
        if not self.captured_flops:
            return 0.0 if not self.flops else float("inf")
        return self.flops / self.captured_flops - 1

    def ranked_by(self, rank: Rank) -> float:
        """The figure that is to be least."""
        if rank == "operations":
            return self.extra_operations
        return {"peak": self.peak_bytes, "launches": self.launches, "bytes": self.bytes_moved, "steps": self.steps}[rank]


class Grade(msgspec.Struct, frozen=True):
    """How a submission did.

    Attributes:
        verdict: the weakest of all steps.
        reasons: why it does not meet the goal, as sentences; empty when it does.
    """

    figures: Figures
    verdict: VerdictKind
    reasons: tuple[str, ...] = ()

    @property
    def meets(self) -> bool:
        return not self.reasons


class Submission(msgspec.Struct, frozen=True):
    """What somebody submitted.

    Attributes:
        name: what the student typed: plain text of anybody.
        words: the experiment.
        at: seconds since 1970.
    """

    number: int
    name: str
    words: str
    at: float
    grade: Grade
