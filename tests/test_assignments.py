"""Tasks and submissions as they are kept: who may see and change what, how much is kept, and when a task ends."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from graphs.errors import BusyError, RequestError
from jobs import assignments
from jobs.assignment_record import Figures, Goal, Grade, Task
from jobs.assignments import EMPTY_EXPIRES_S, EXPIRES_S, NAME_CHARS, OF_A_NAME, Assignments, as_name
from jobs.classroom import new_token
from jobs.classroom_record import Opened
from jobs.store import Store
from tests.clock import Clock

START = "model=zoo/mlp&mode=training"
TASK = Task("", "Fewer launches", "Fuse.", START, ("fuse-loops",), Goal(launches=20, rank="launches"), leaderboard=True)
SEAT = new_token()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tasks(tmp_path: Path, clock: Clock) -> Assignments:
    return Assignments(Store(tmp_path), clock)


@pytest.fixture
def made(tasks: Assignments) -> Opened:
    return tasks.make(TASK)


def graded(launches: int, *why: str) -> Grade:
    return Grade(Figures(100, launches, 100, 100, 100, 1), "bitwise", why)


def words(launches: int) -> str:
    return f"{START}&pipeline=fuse-loops(only=mm_{launches})"


def submit(tasks: Assignments, made: Opened, name: str, launches: int, seat: str = SEAT) -> None:
    tasks.submit(made.code, name, seat, words(launches), graded(launches))


def launches(found: list) -> list[int]:
    return [one.grade.figures.launches for one in found]


# ---------------------------------------------------------------- tasks


def test_a_task_is_kept_as_it_was_made_and_begins_without_steps(tmp_path: Path, tasks: Assignments, clock: Clock) -> None:
    made = tasks.make(msgspec.structs.replace(TASK, title="  Fewer \n launches ", start=f"{START}&pipeline=fuse-loops"))
    kept = Assignments(Store(tmp_path), clock).task(made.code)  # another process
    assert kept == msgspec.structs.replace(TASK, code=made.code, created=clock.now)


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": " "},
        {"title": "x" * 101},
        {"text": "x" * 4001},
        {"start": "nonsense"},
        {"start": f"model=zoo/mlp&x={'y' * 9000}"},
        {"goal": Goal(launches=-1)},
        {"goal": Goal(peak_bytes=1 << 63)},
    ],
    ids=str,
)
def test_what_makes_no_task_is_refused(tasks: Assignments, wrong: dict) -> None:
    with pytest.raises(RequestError):
        tasks.make(msgspec.structs.replace(TASK, **wrong))


def test_the_key_is_the_only_right_to_see_and_to_change_and_is_kept_as_a_hash(tmp_path: Path, tasks: Assignments, made: Opened) -> None:
    submit(tasks, made, "Ada", 9)
    other = tasks.make(TASK)
    for key in ("", "x", made.key[:-1], other.key):
        assert not tasks.steers(made.code, key)
        for act in (
            lambda key=key: tasks.submissions(made.code, key),
            lambda key=key: tasks.change(made.code, key, False, True),
            lambda key=key: tasks.remove_name(made.code, key, "Ada"),
            lambda key=key: tasks.remove(made.code, key),
        ):
            with pytest.raises(RequestError, match="only the teacher"):
                act()
    assert tasks.steers(made.code, made.key)
    assert launches(tasks.submissions(made.code, made.key)) == [9]
    task = tasks.task(made.code)
    assert task
    assert not task.closed
    dump = "\n".join(sqlite3.connect(tmp_path / "index.sqlite").iterdump())
    assert made.key not in dump
    assert SEAT not in dump


def test_there_is_no_task_of_a_wrong_code(tasks: Assignments, made: Opened) -> None:
    for code in ("", "BCDF", "' OR 1", "b" * 5):
        assert tasks.task(code) is None
        with pytest.raises(RequestError, match="there is no task"):
            tasks.submit(code, "Ada", SEAT, words(1), graded(1))
        with pytest.raises(RequestError, match="there is no task"):
            tasks.submissions(code, made.key)


def test_a_closed_task_takes_nothing_until_it_is_opened_again(tasks: Assignments, made: Opened) -> None:
    tasks.change(made.code, made.key, leaderboard=True, closed=True)
    with pytest.raises(RequestError, match="closed"):
        submit(tasks, made, "Ada", 9)
    tasks.change(made.code, made.key, leaderboard=True, closed=False)
    submit(tasks, made, "Ada", 9)


def test_a_task_ends_after_half_a_year_without_use(tasks: Assignments, made: Opened, clock: Clock) -> None:
    for _ in range(3):  # to look at it is use
        clock.now += EXPIRES_S - 1
        assert tasks.task(made.code)
    submit(tasks, made, "Ada", 9)
    clock.now += EXPIRES_S + 1
    assert tasks.task(made.code) is None
    tasks.make(TASK)
    assert tasks._store.read(lambda index: index.execute("SELECT count(*) FROM submissions").fetchone()) == (0,)


def test_a_full_server_gives_up_tasks_that_nobody_used(tasks: Assignments, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "TASKS", 2)
    used, empty = tasks.make(TASK), tasks.make(TASK)
    submit(tasks, used, "Ada", 9)
    with pytest.raises(BusyError, match="2 tasks"):
        tasks.make(TASK)
    clock.now += EMPTY_EXPIRES_S + 1
    tasks.make(TASK)
    assert tasks.task(empty.code) is None
    assert tasks.task(used.code)


def test_a_removed_task_is_gone_with_all_that_was_submitted(tasks: Assignments, made: Opened) -> None:
    submit(tasks, made, "Ada", 9)
    tasks.remove(made.code, made.key)
    assert tasks.task(made.code) is None
    assert tasks.own(made.code, SEAT) == []


# ---------------------------------------------------------------- submissions


@pytest.mark.parametrize(
    ("typed", "name"), [(" Ada  \n Lovelace ", "Ada Lovelace"), ("<b>*x*</b>", "<b>*x*</b>"), ("a\u202eb", "a\ufffdb")]
)
def test_a_name_is_one_line_of_readable_text(typed: str, name: str) -> None:
    assert as_name(typed) == name


@pytest.mark.parametrize("typed", ["", " \n", "x" * (NAME_CHARS + 1)])
def test_no_name_and_a_long_one_are_refused(tasks: Assignments, made: Opened, typed: str) -> None:
    with pytest.raises(RequestError, match="name"):
        submit(tasks, made, typed, 9)


def test_a_browser_sees_its_own_and_not_what_others_did(tasks: Assignments, made: Opened) -> None:
    other = new_token()
    submit(tasks, made, "Ada", 9)
    submit(tasks, made, "Ada", 8, other)  # somebody else types the name
    submit(tasks, made, "Bo", 7)
    assert launches(tasks.own(made.code, SEAT)) == [7, 9]
    assert launches(tasks.own(made.code, other)) == [8]
    assert tasks.own(tasks.make(TASK).code, SEAT) == []


def test_the_leaderboard_tells_no_solution_and_nothing_where_it_is_hidden(tasks: Assignments, made: Opened) -> None:
    submit(tasks, made, "Ada", 9)
    assert [(one.name, one.words) for one in tasks.shown(made.code)] == [("Ada", "")]
    tasks.change(made.code, made.key, leaderboard=False, closed=False)
    assert tasks.shown(made.code) == []


def test_the_same_experiment_once_more_is_the_same_submission(tasks: Assignments, made: Opened, clock: Clock) -> None:
    submit(tasks, made, "Ada", 9)
    clock.now += 100
    submit(tasks, made, "ADA", 9)
    (one,) = tasks.submissions(made.code, made.key)
    assert (one.name, one.at) == ("Ada", clock.now - 100)


def test_of_a_name_the_best_is_never_dropped(tasks: Assignments, made: Opened) -> None:
    submit(tasks, made, "Ada", 3)
    for number in range(OF_A_NAME + 5):
        submit(tasks, made, "ada", 100 + number, new_token())  # somebody else wants it away
    kept = launches(tasks.submissions(made.code, made.key))
    assert len(kept) == OF_A_NAME
    assert kept[:2] == [3, 106]


def test_a_full_task_says_so(tasks: Assignments, made: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "SUBMISSIONS", 2)
    submit(tasks, made, "Ada", 1)
    submit(tasks, made, "Bo", 2)
    with pytest.raises(BusyError, match="as many as it may"):
        submit(tasks, made, "Cleo", 3)


def test_a_teacher_removes_a_name_however_it_is_written(tasks: Assignments, made: Opened) -> None:
    for name, number in (("Ada", 1), ("ADA", 2), ("Bo", 3)):
        submit(tasks, made, name, number)
    tasks.remove_name(made.code, made.key, "ada")
    assert [one.name for one in tasks.submissions(made.code, made.key)] == ["Bo"]


def test_long_words_are_refused_and_long_reasons_cut(tasks: Assignments, made: Opened) -> None:
    with pytest.raises(RequestError, match="too many words"):
        tasks.submit(made.code, "Ada", SEAT, f"{START}&x={'y' * 8000}", graded(1))
    one = tasks.submit(made.code, "Ada", SEAT, words(1), graded(1, *["r" * 9000] * 100))
    assert tasks.own(made.code, SEAT) == [one]
    assert (len(one.grade.reasons), len(one.grade.reasons[0])) == (assignments.REASONS, assignments.REASON_CHARS)
