"""A task's grade: what meets the goal, each reason why something does not, and who comes first."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest

from graphs.record import CaptureReport, Diff, GraphSnapshot, Totals
from jobs.assignment_record import Figures, Goal, Grade, Rank, Submission, Task
from jobs.experiment import parse
from jobs.exporting.tables import submissions_csv
from jobs.grading import best_of_each, grade
from jobs.record import OptimizeResult
from optimizers.record import StepRecord, Verdict, VerdictKind

START = "model=zoo/gpt2&mode=training&seq=64"
CAPTURED = Totals(nodes=50, launches=40, flops=1000, matmul_flops=800, bytes_moved=9000, peak_bytes=5000, unknown=1)
LAST = Totals(nodes=40, launches=30, flops=1100, matmul_flops=800, bytes_moved=7000, peak_bytes=2000, unknown=1)
GOAL = Goal(peak_bytes=2000, launches=30, bytes_moved=7000, verdict="rounding")
TASK = Task("BCDFG", "Less memory", "", START, ("fuse-loops", "recompute-activations"), GOAL)
PIPELINE = f"{START}&pipeline=fuse-loops,recompute-activations(every=2)"


def found(last: Totals = LAST, *verdicts: VerdictKind) -> OptimizeResult:
    """What the worker says of a pipeline with steps of these verdicts."""
    steps = tuple(
        StepRecord(name, name, {}, CAPTURED, last, (), (), (), Diff((), (), (), 40), Verdict(kind, reason="it is too large"))
        for name, kind in zip(("fuse-loops", "recompute-activations", "fuse-nodes"), verdicts, strict=False)
    )
    graphs = (GraphSnapshot((), (), CAPTURED), *(GraphSnapshot((), (), last) for _ in steps or (1,)))
    return OptimizeResult(CaptureReport("export", 50, 3, 0.1, 1.0, 1.0), graphs, steps, ())


def reasons(words: str = PIPELINE, last: Totals = LAST, *verdicts: VerdictKind, task: Task = TASK, **defaults: str) -> tuple[str, ...]:
    return grade(task, parse(words), found(last, *(verdicts or ("bitwise", "rounding"))), defaults).reasons


def test_what_is_just_within_every_limit_meets_the_goal() -> None:
    graded = grade(TASK, parse(PIPELINE), found(LAST, "rounding", "bitwise"))
    assert graded.meets
    assert graded.verdict == "rounding"
    assert graded.figures == Figures(2000, 30, 7000, 1100, 1000, 2)
    assert graded.figures.extra_operations == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("peak_bytes", "Peak memory: 1.954 KiB counted; at most 1.953 KiB are asked for."),
        ("bytes_moved", "Bytes moved: 6.837 KiB counted; at most 6.836 KiB are asked for."),
        ("launches", "Launches: 31 counted; at most 30 are asked for."),
        ("unknown", "The last graph has 1 more node without a rule for cost than the start."),
    ],
)
def test_one_more_than_the_limit_is_named(field: str, reason: str) -> None:
    more = msgspec.structs.replace(LAST, **{field: getattr(LAST, field) + 1})
    assert reasons(PIPELINE, more) == (reason,)


def test_amounts_that_look_the_same_with_their_unit_are_written_in_bytes() -> None:
    task = msgspec.structs.replace(TASK, goal=Goal(peak_bytes=200 << 20))
    much = msgspec.structs.replace(LAST, peak_bytes=(200 << 20) + 1)
    assert reasons(PIPELINE, much, task=task) == ("Peak memory: 209,715,201 bytes counted; at most 209,715,200 bytes are asked for.",)


def test_without_limits_only_verdicts_count() -> None:
    assert reasons(PIPELINE, CAPTURED, task=msgspec.structs.replace(TASK, goal=Goal())) == ()


@pytest.mark.parametrize(
    ("weakest", "good", "bad"),
    [
        ("bitwise", ("bitwise",), ("rounding", "approximate", "refuted", "not run")),
        ("rounding", ("bitwise", "rounding"), ("approximate", "refuted", "not run")),
        ("approximate", ("bitwise", "rounding", "approximate"), ("refuted", "not run")),
    ],
)
def test_every_step_has_to_be_as_exact_as_the_task_asks(weakest: str, good: tuple[VerdictKind, ...], bad: tuple[VerdictKind, ...]) -> None:
    task = msgspec.structs.replace(TASK, goal=msgspec.structs.replace(GOAL, verdict=weakest))
    for kind in good:
        assert reasons(PIPELINE, LAST, "bitwise", kind, task=task) == ()
    for kind in bad:
        (reason,) = reasons(PIPELINE, LAST, "bitwise", kind, task=task)
        assert reason.startswith("Step 2, recompute-activations, ")
        assert ("not verified: it is too large." in reason) == (kind == "not run")


def test_a_refuted_step_is_the_weakest_even_behind_good_ones() -> None:
    assert grade(TASK, parse(PIPELINE), found(LAST, "refuted", "bitwise")).verdict == "refuted"


def test_an_optimization_that_is_not_allowed_is_named_once() -> None:
    words = f"{START}&pipeline=fuse-nodes,fuse-loops,fuse-nodes"
    assert reasons(words) == ("fuse-nodes is not among the optimizations that this task allows.",)
    assert reasons(words, task=msgspec.structs.replace(TASK, allowed=())) == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=zoo/mlp&mode=training&seq=64", ("The model is zoo/mlp; the task is about zoo/gpt2.",)),
        ("model=zoo/gpt2&mode=inference&seq=64", ("mode=inference; the task has mode=training.",)),
        ("model=zoo/gpt2&mode=training&seq=8", ("seq=8; the task has seq=64.",)),
        ("model=zoo/gpt2&mode=training", ("There is no seq; the task has seq=64.",)),
        ("model=zoo/gpt2&mode=training&seq=64&depth=1", ("depth=1; the task has no depth.",)),
        ("model=zoo/gpt2&mode=training&seq=64&device=cpu", ("device=cpu; the task has device=auto.",)),
    ],
)
def test_another_start_is_named(words: str, said: tuple[str, ...]) -> None:
    assert reasons(words) == said


def test_an_option_that_is_written_out_with_its_default_is_no_difference() -> None:
    assert reasons(f"{START}&batch=1", batch="1", seq="128") == ()
    assert reasons("model=zoo/gpt2&mode=training", seq="128") == ("seq=128; the task has seq=64.",)


# ---------------------------------------------------------------- who comes first


def submission(number: int, name: str, figures: Figures, *why: str, at: float = 0.0) -> Submission:
    return Submission(number, name, f"{START}&pipeline=fuse-loops", at, Grade(figures, "bitwise", why))


MANY = [
    submission(1, "Ada", Figures(10, 10, 10, 100, 100, 1), "Launches."),  # the least of all, but not there
    submission(2, "ada", Figures(90, 20, 30, 120, 100, 2), at=5),
    submission(3, "Ada", Figures(80, 25, 30, 110, 100, 3), at=6),
    submission(4, "Bo", Figures(70, 30, 50, 130, 100, 1), at=7),
    submission(5, "Cleo", Figures(95, 30, 40, 120, 100, 4), at=4),
]


@pytest.mark.parametrize(
    ("rank", "numbers"),
    [("operations", [3, 5, 4]), ("peak", [4, 3, 5]), ("launches", [2, 5, 4]), ("bytes", [2, 5, 4]), ("steps", [4, 2, 5])],
)
def test_a_name_counts_with_its_best_and_the_least_figure_is_first(rank: Rank, numbers: list[int]) -> None:
    assert [one.number for one in best_of_each(Goal(rank=rank), MANY)] == numbers


def test_who_does_not_meet_the_goal_comes_last() -> None:
    late = submission(9, "Di", Figures(1, 1, 1, 1, 100, 0), "Peak memory.")
    assert [one.name for one in best_of_each(Goal(), [late, *MANY])] == ["Ada", "Cleo", "Bo", "Di"]


def test_of_two_that_do_not_meet_the_goal_the_one_with_fewer_reasons_is_better() -> None:
    wide, near = (
        submission(1, "Ada", Figures(1, 1, 1, 1, 100, 0), "Model.", "Launches."),
        submission(2, "Ada", MANY[0].grade.figures, "Peak."),
    )
    assert best_of_each(Goal(), [wide, near]) == [near]


def test_the_csv_has_every_submission_and_no_formula() -> None:
    bad = submission(6, '=HYPERLINK("x")', Figures(1, 2, 3, 90, 100, 1), "Peak memory: too much.", at=86400.0)
    rows = list(csv.DictReader(io.StringIO(submissions_csv(Goal(), [*MANY, bad]))))
    assert len(rows) == len(MANY) + 1
    assert [row["best of the name"] for row in rows] == ["no", "no", "yes", "yes", "yes", "yes"]
    last = rows[-1]
    assert last["name"] == '\'=HYPERLINK("x")'
    assert (last["when (UTC)"], last["meets the goal"], last["reasons"]) == ("1970-01-02 00:00:00", "no", "Peak memory: too much.")
    assert last["extra operations (counted, share)"] == "-0.1"
    assert parse(last["experiment"]).pipeline
