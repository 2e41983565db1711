"""Does a submitted experiment meet a task's goal, and if not, why? Decided from what the worker computed, never from what a student says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphs.record import Totals
from jobs.assignment_record import Figures, Goal, Grade, Rank, Submission, Task
from jobs.experiment import Experiment, parse
from jobs.record import OptimizeResult
from optimizers.amounts import in_words
from optimizers.record import StepRecord, VerdictKind

WEAKER: tuple[VerdictKind, ...] = ("bitwise", "rounding", "approximate", "refuted", "not run")
LONGEST_VALUE = 60
VERDICTS: Mapping[str, str] = {
    "bitwise": "same bits",
    "rounding": "same up to rounding",
    "approximate": "approximate",
    "refuted": "refuted: it changed the answers",
}


def grade(task: Task, submitted: Experiment, found: OptimizeResult, defaults: Mapping[str, str] | None = None) -> Grade:
    """The grade of an experiment.

    Args:
        found: what the worker computed for it.
        defaults: of the model's options: one that is written out is the same as one that is left out.
    """
    start, last = parse(task.start), found.graphs[-1].totals
    verdict = WEAKER[max((WEAKER.index(step.verdict.kind) for step in found.steps), default=0)]
    figures = Figures(last.peak_bytes, last.launches, last.bytes_moved, last.flops, found.graphs[0].totals.flops, len(found.steps))
    reasons = (
        *_differences(start, submitted, defaults or {}),
        *_forbidden(task.allowed, submitted),
        *_missed(task.goal, last),
        *_uncounted(found.graphs[0].totals, last),
        *_weak(task.goal, found.steps),
    )
    return Grade(figures, verdict, reasons)


def best_of_each(goal: Goal, submissions: Iterable[Submission]) -> list[Submission]:
    """The best submission of every name, the best name first."""
    best: dict[str, Submission] = {}
    for one in sorted(submissions, key=lambda one: order(goal.rank, one)):
        best.setdefault(one.name.casefold(), one)
    return list(best.values())


def order(rank: Rank, one: Submission) -> tuple[int, float, float, int]:
    """Those with the fewest reasons first, none in the goal; then the least figure; of equal ones the earlier."""
    return len(one.grade.reasons), one.grade.figures.ranked_by(rank), one.at, one.number


def _differences(start: Experiment, submitted: Experiment, defaults: Mapping[str, str]) -> list[str]:
    """In what the submission does not begin where the task begins."""
    if start.model != submitted.model:
        return [f"The model is {_short(submitted.model)}; the task is about {_short(start.model)}."]
    found = [
        f"{word}={_short(is_now)}; the task has {word}={_short(asked)}."
        for word, asked, is_now in (("mode", start.mode, submitted.mode), ("device", start.device, submitted.device))
        if asked != is_now
    ]
    asked, given = ({**defaults, **dict(one.options)} for one in (start, submitted))
    for word in sorted(asked.keys() | given.keys()):
        if asked.get(word) != given.get(word):
            has = f"{word}={_short(asked[word])}" if word in asked else f"no {word}"
            now = f"{word}={_short(given[word])}" if word in given else f"There is no {word}"
            found.append(f"{now}; the task has {has}.")
    return found


def _forbidden(allowed: tuple[str, ...], submitted: Experiment) -> list[str]:
    used = dict.fromkeys(step.name for step in submitted.pipeline)
    return [f"{name} is not among the optimizations that this task allows." for name in used if allowed and name not in allowed]


def _missed(goal: Goal, last: Totals) -> list[str]:
    """The limits that the last graph does not keep."""
    found: list[str] = []
    for what, limit, value in (("Peak memory", goal.peak_bytes, last.peak_bytes), ("Bytes moved", goal.bytes_moved, last.bytes_moved)):
        if limit and value > limit:
            is_now, most = in_words(value), in_words(limit)
            if is_now == most:
                is_now, most = f"{value:,} bytes", f"{limit:,} bytes"
            found.append(f"{what}: {is_now} counted; at most {most} are asked for.")
    if goal.launches and last.launches > goal.launches:
        found.append(f"Launches: {last.launches:,} counted; at most {goal.launches:,} are asked for.")
    return found


def _uncounted(captured: Totals, last: Totals) -> list[str]:
    """Nodes without a rule for cost would be free: a pipeline must not gain by them."""
    more = last.unknown - captured.unknown
    nodes = "node" if more == 1 else "nodes"
    return [f"The last graph has {more:,} more {nodes} without a rule for cost than the start."] if more > 0 else []


def _weak(goal: Goal, steps: Iterable[StepRecord]) -> list[str]:
    """The steps whose verdict is weaker than the task allows."""
    found: list[str] = []
    for number, step in enumerate(steps, 1):
        kind = step.verdict.kind
        if kind == "not run":
            found.append(f"Step {number}, {step.optimization}, was not verified: {step.verdict.reason or 'no reason is known'}.")
        elif WEAKER.index(kind) > WEAKER.index(goal.verdict):
            found.append(f"Step {number}, {step.optimization}, is {VERDICTS[kind]}; the task asks for {VERDICTS[goal.verdict]} or better.")
    return found


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 1]}…"
