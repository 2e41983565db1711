"""Tasks of a teacher and what students submitted, in tables of the index.

Nobody has an account: a student is the name that he types, and the browser that typed it may see its own submissions again. Who makes a task gets a key,
the only right to see all results and to change the task; its hash alone is kept. Every submission is kept up to a limit for each name, and a name
counts with its best, so submitting once more can do no harm. A task that nobody has used for half a year ends.
"""

from __future__ import annotations

import hmac
import sqlite3
import time
import unicodedata
from collections.abc import Callable

import msgspec

from graphs.errors import BusyError, RequestError, readable
from jobs.assignment_record import Goal, Grade, Submission, Task
from jobs.classroom import CODE, hashed, new_token, unused_code
from jobs.classroom_record import Opened
from jobs.experiment import parse
from jobs.grading import order
from jobs.store import Store

EXPIRES_S = 180 * 24 * 3600.0  # without use
EMPTY_EXPIRES_S = 7 * 24 * 3600.0  # with nothing submitted, where room is needed
SIGN_S = 3600.0  # use is written down this often

TASKS, SUBMISSIONS, OF_A_NAME = 2000, 5000, 20  # of a server; of a task; of a name in a task
TITLE_CHARS, TEXT_CHARS, WORDS_CHARS, NAME_CHARS = 100, 4000, 8000, 60
REASONS, REASON_CHARS = 30, 300
COLUMNS = "code, title, text, start, allowed, goal, created, leaderboard, closed"


def as_name(typed: str) -> str:
    """A student's name as it is kept: one line of readable characters, single spaces.

    Raises:
        RequestError: nothing is left of it, or it is too long.
    """
    name = " ".join(readable(unicodedata.normalize("NFC", typed)).split())
    if not name or len(name) > NAME_CHARS:
        raise RequestError("this is no name" if name else "your name is missing", help=f"Write your name, at most {NAME_CHARS} characters.")
    return name


class Assignments:
    """All tasks of a store; any number of threads and processes may use them at once.

    Args:
        store: whose index has the tables.
        clock: seconds since 1970.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._store.write(lambda index: _drop(index, "used < ?", self._clock() - EXPIRES_S), "a task")

    # ------------------------------------------------------------ for everybody

    def task(self, code: str) -> Task | None:
        """The task of a code; None where there is none, or none any more."""
        found = self._store.read(lambda index: self._read(index, code))
        if found is None:
            return None
        task, used = found
        if self._clock() - used > SIGN_S:
            self._store.write(lambda index: index.execute("UPDATE tasks SET used = ? WHERE code = ?", (self._clock(), code)), "a task")
        return task

    def submit(self, code: str, name: str, seat: str, words: str, grade: Grade) -> Submission:
        """Keeps a graded submission; the same experiment once more keeps its first date.

        Raises:
            RequestError: there is no such task, it is closed, this is no name, or the words are too long.
            BusyError: the task has as many submissions as it may.
        """
        name, now = as_name(name), self._clock()
        if len(words) > WORDS_CHARS:
            raise RequestError("this experiment has too many words to be kept", help=f"Use at most {WORDS_CHARS:,} characters.")
        reasons = tuple(reason[:REASON_CHARS] for reason in grade.reasons[:REASONS])
        kept = msgspec.json.encode(msgspec.structs.replace(grade, reasons=reasons)).decode()
        who = name.casefold()

        def add(index: sqlite3.Connection) -> int:
            task = self._standing(index, code)
            if task.closed:
                raise RequestError("this task is closed", help="Ask your teacher.")
            same = "task = ? AND who = ? AND words = ?"
            if row := index.execute(
                f"SELECT number FROM submissions WHERE {same} AND seat = ?", (code, who, words, hashed(seat))
            ).fetchone():
                index.execute("UPDATE submissions SET grade = ? WHERE number = ?", (kept, row[0]))
                return row[0]
            _make_room(index, task, who)
            query = "INSERT INTO submissions (task, who, name, seat, words, grade, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
            number = index.execute(query, (code, who, name, hashed(seat), words, kept, now)).lastrowid
            index.execute("UPDATE tasks SET used = ? WHERE code = ?", (now, code))
            assert number is not None
            return number

        number = self._store.write(add, "a submission")
        return Submission(number, name, words, now, msgspec.json.decode(kept, type=Grade))

    def own(self, code: str, seat: str) -> list[Submission]:
        """What this browser submitted, the latest first."""
        return self._store.read(lambda index: _submissions(index, "task = ? AND seat = ? ORDER BY number DESC", code, hashed(seat)))

    def shown(self, code: str) -> list[Submission]:
        """All submissions of a task whose leaderboard is shown, without their words; none of any other.

        The words are the solution, which is for its author and the teacher.
        """

        def look(index: sqlite3.Connection) -> list[Submission]:
            found = self._read(index, code)
            return _submissions(index, "task = ? ORDER BY number", code) if found and found[0].leaderboard else []

        return [msgspec.structs.replace(one, words="") for one in self._store.read(look)]

    # ------------------------------------------------------------ for the teacher

    def make(self, task: Task) -> Opened:
        """A new task, whose code and date are given here.

        Raises:
            RequestError: it has no title, a text is too long, or the start is no experiment.
            BusyError: this server has as many as it may.
        """
        task = _checked(task)
        key, now = new_token(), self._clock()

        def add(index: sqlite3.Connection) -> str:
            _drop(index, "used < ?", now - EXPIRES_S)
            if _count(index, "tasks") >= TASKS:
                _drop(index, "used < ? AND code NOT IN (SELECT task FROM submissions)", now - EMPTY_EXPIRES_S)
            if _count(index, "tasks") >= TASKS:
                raise BusyError(f"this server has {TASKS:,} tasks, and all are in use", help="Close and remove one that is over.")
            code, goal = unused_code(index, "tasks"), msgspec.json.encode(task.goal).decode()
            row = (code, hashed(key), task.title, task.text, task.start, ",".join(task.allowed), goal, task.leaderboard, now, now)
            columns = "code, key, title, text, start, allowed, goal, leaderboard, created, used"
            index.execute(f"INSERT INTO tasks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return code

        return Opened(self._store.write(add, "a task"), key)

    def steers(self, code: str, key: str) -> bool:
        """Is this the key of that task?"""
        return self._store.read(lambda index: _steers(index, code, key))

    def submissions(self, code: str, key: str) -> list[Submission]:
        """All submissions, the earliest first.

        Raises:
            RequestError: there is no such task, or the key is not its key.
        """

        def look(index: sqlite3.Connection) -> list[Submission]:
            self._own(index, code, key)
            return _submissions(index, "task = ? ORDER BY number", code)

        return self._store.read(look)

    def change(self, code: str, key: str, leaderboard: bool, closed: bool) -> None:
        """Shows or hides the leaderboard; closes the task, or opens it again.

        Raises:
            RequestError: there is no such task, or the key is not its key.
        """

        def write(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            query = "UPDATE tasks SET leaderboard = ?, closed = ?, used = ? WHERE code = ?"
            index.execute(query, (leaderboard, closed, self._clock(), code))

        self._store.write(write, "a task")

    def remove_name(self, code: str, key: str, name: str) -> None:
        """Drops all that was submitted under a name: anybody can type any.

        Raises:
            RequestError: there is no such task, or the key is not its key.
        """

        def drop(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            index.execute("DELETE FROM submissions WHERE task = ? AND who = ?", (code, name.casefold()))

        self._store.write(drop, "a task")

    def remove(self, code: str, key: str) -> None:
        """Drops a task and all that was submitted.

        Raises:
            RequestError: there is no such task, or the key is not its key.
        """

        def drop(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            _drop(index, "code = ?", code)

        self._store.write(drop, "a task")

    # ------------------------------------------------------------ inside

    def _read(self, index: sqlite3.Connection, code: str) -> tuple[Task, float] | None:
        """The task, and when it was last used."""
        if not CODE.fullmatch(code):
            return None
        query = f"SELECT {COLUMNS}, used FROM tasks WHERE code = ? AND used >= ?"
        row = index.execute(query, (code, self._clock() - EXPIRES_S)).fetchone()
        if row is None:
            return None
        code, title, text, start, allowed, goal, created, leaderboard, closed, used = row
        known = msgspec.json.decode(goal, type=Goal)
        return Task(
            code, title, text, start, tuple(filter(None, allowed.split(","))), known, created, bool(leaderboard), bool(closed)
        ), used

    def _standing(self, index: sqlite3.Connection, code: str) -> Task:
        found = self._read(index, code)
        if found is None:
            raise no_task(code)
        return found[0]

    def _own(self, index: sqlite3.Connection, code: str, key: str) -> None:
        self._standing(index, code)
        if not _steers(index, code, key):
            raise RequestError("only the teacher may do this", where=code, help="Open the task with the teacher's link.")


def no_task(code: str) -> RequestError:
    """There is no task of that code: what is said to whoever typed it."""
    return RequestError(f"there is no task {code or 'with this code'}", help="Look at the link again; the task may also have ended.")


def _checked(task: Task) -> Task:
    title, text = " ".join(readable(task.title).split()), task.text.strip()
    if not title or len(title) > TITLE_CHARS:
        raise RequestError(
            "the title is missing" if not title else "the title is too long", help=f"Write at most {TITLE_CHARS} characters."
        )
    if len(text) > TEXT_CHARS or len(task.start) > WORDS_CHARS:
        raise RequestError("the text or the start is too long", help=f"Write at most {TEXT_CHARS:,} characters.")
    goal = task.goal
    if min(goal.peak_bytes, goal.launches, goal.bytes_moved) < 0 or max(goal.peak_bytes, goal.launches, goal.bytes_moved) >= 1 << 63:
        raise RequestError("a limit is no number that can be reached", help="Write a positive number, or leave it out.")
    return msgspec.structs.replace(task, title=title, text=text, start=parse(task.start).prefix(0).words)


def _make_room(index: sqlite3.Connection, task: Task, who: str) -> None:
    """Drops the earliest submission of a name that has as many as it may, but never its best."""
    mine = _submissions(index, "task = ? AND who = ? ORDER BY number", task.code, who)
    if len(mine) >= OF_A_NAME:
        best = min(mine, key=lambda one: order(task.goal.rank, one))
        oldest = next(one for one in mine if one is not best)
        index.execute("DELETE FROM submissions WHERE number = ?", (oldest.number,))
    elif _count(index, "submissions", "task = ?", task.code) >= SUBMISSIONS:
        raise BusyError(f"this task has had {SUBMISSIONS:,} submissions, as many as it may", help="Tell your teacher.")


def _submissions(index: sqlite3.Connection, which: str, *values: object) -> list[Submission]:
    rows = index.execute(f"SELECT number, name, words, at, grade FROM submissions WHERE {which}", values)
    return [Submission(number, name, words, at, msgspec.json.decode(kept, type=Grade)) for number, name, words, at, kept in rows]


def _steers(index: sqlite3.Connection, code: str, key: str) -> bool:
    row = index.execute("SELECT key FROM tasks WHERE code = ?", (code,)).fetchone()
    return bool(row) and hmac.compare_digest(row[0], hashed(key))


def _count(index: sqlite3.Connection, table: str, which: str = "1", *values: object) -> int:
    return index.execute(f"SELECT count(*) FROM {table} WHERE {which}", values).fetchone()[0]


def _drop(index: sqlite3.Connection, which: str, *values: object) -> None:
    """Drops tasks with all that was submitted."""
    codes = index.execute(f"DELETE FROM tasks WHERE {which} RETURNING code", values).fetchall()
    index.executemany("DELETE FROM submissions WHERE task = ?", codes)
