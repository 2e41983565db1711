"""Rooms of a class: the presenter's place, who follows, and what they predicted.

Who opens a room gets a code for all and a key for himself. The key is the only right to steer; its hash alone is kept, and so are the hashes of
seats. Every change is one transaction of the index, so several server processes may serve one class. A hundred readers ask once a second where the
presenter is: a process reads each room at most twice a second and gives everybody the same answer; what it changed itself it knows at once.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from graphs.errors import BusyError, RequestError
from jobs.classroom_record import Opened, Place, Room, Tally
from jobs.store import Store

LETTERS = "BCDFGHJKMNPQRSTVWXYZ"  # no vowels, so no words; no I, L or O, which look like digits, and no U, which looks like V
CODE_LENGTH = 5
TOKEN_BYTES = 24
CODE = re.compile(f"[{LETTERS}]{{{CODE_LENGTH}}}")
TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")  # a key or a seat

EXPIRES_S = 24 * 3600.0  # without a sign of the presenter
EMPTY_EXPIRES_S = 1800.0  # with nobody in it, where room is needed
SIGN_S = 60.0  # the presenter's sign is written down this often
FRESH_S = 0.5
KEPT_ROOMS = 500

ROOMS, SEATS, VOTES = 100, 500, 50_000  # of a server; of a room; of a room
PLACE_CHARS, QUESTION_CHARS, CHOICE_CHARS = 8000, 100, 300

_Answer = TypeVar("_Answer")
_Known = TypeVar("_Known")


def new_token() -> str:
    """What nobody can guess: a presenter's key, or a seat."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def as_code(typed: str) -> str:
    """A code as it is kept, of what somebody typed; empty where it cannot be one."""
    letters = re.sub(r"[\s-]", "", typed[:50]).upper()
    return letters if CODE.fullmatch(letters) else ""


class Classroom:
    """All rooms of a store; any number of threads and processes may use them at once.

    Args:
        store: whose index has the tables.
        clock: seconds since 1970.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._rooms: OrderedDict[str, tuple[float, Room | None]] = OrderedDict()
        self._tallies: OrderedDict[tuple[str, str], tuple[float, Tally]] = OrderedDict()
        self._signs: dict[str, float] = {}
        self.sweep()

    # ------------------------------------------------------------ for everybody

    def room(self, code: str) -> Room | None:
        """A room as it was at most half a second ago; None where there is none, or none any more."""
        if not CODE.fullmatch(code):
            return None
        return self._fresh(self._rooms, code, lambda index: _read_room(index, code, self._clock() - EXPIRES_S))

    def tally(self, code: str, question: str) -> Tally:
        """The votes on a question as they were at most half a second ago."""
        return self._fresh(self._tallies, (code, question), lambda index: _read_tally(index, code, question))

    def join(self, code: str, seat: str) -> None:
        """Takes a seat, which may be one that was taken before.

        Raises:
            RequestError: there is no such room.
            BusyError: it is full.
        """
        with_hash = (code, hashed(seat))

        def take(index: sqlite3.Connection) -> None:
            room = self._standing(index, code)
            if room.seats >= SEATS and not index.execute("SELECT 1 FROM seats WHERE room = ? AND seat = ?", with_hash).fetchone():
                raise BusyError(f"this room is full: {SEATS} have joined", help="Ask the presenter to open another one.")
            index.execute("INSERT OR IGNORE INTO seats VALUES (?, ?)", with_hash)

        self._change(code, take)

    def vote(self, code: str, seat: str, question: str, value: float | str) -> None:
        """Votes on the question that the presenter shows; a later vote of the same seat takes the place of the earlier.

        Raises:
            RequestError: there is no such room, nobody sits there, another question is shown, it was revealed, or this is no vote.
        """
        number, choice = (None, value) if isinstance(value, str) else (float(value), None)
        if (number is not None and not math.isfinite(number)) or len(choice or "") > CHOICE_CHARS:
            raise RequestError("this is no prediction", help="Write a number, or choose one of the answers.")
        row = (code, question, hashed(seat), number, choice)

        def cast(index: sqlite3.Connection) -> None:
            room = self._standing(index, code)
            if room.question != question or room.revealed:
                raise RequestError("the presenter has gone on: this question is closed", help="Wait for the next one.")
            if not index.execute("SELECT 1 FROM seats WHERE room = ? AND seat = ?", (code, row[2])).fetchone():
                raise RequestError("nobody sits there", where=code, help="Join the room again.")
            if index.execute("SELECT count(*) FROM votes WHERE room = ?", (code,)).fetchone()[0] >= VOTES:
                raise BusyError("this room has had as many votes as it may", help="Ask the presenter to open another one.")
            index.execute("REPLACE INTO votes VALUES (?, ?, ?, ?, ?)", row)

        self._change(code, cast)

    def voted(self, code: str, seat: str, question: str) -> float | str | None:
        """What this seat voted; None where it has not."""
        query = "SELECT number, choice FROM votes WHERE room = ? AND question = ? AND seat = ?"
        row = self._store.read(lambda index: index.execute(query, (code, question, hashed(seat))).fetchone())
        return (row[0] if row[1] is None else row[1]) if row else None

    # ------------------------------------------------------------ for the presenter

    def open(self) -> Opened:
        """A new room.

        Raises:
            BusyError: this server has as many as it may.
        """
        key, now = new_token(), self._clock()

        def make(index: sqlite3.Connection) -> str:
            _sweep(index, now)
            if index.execute("SELECT count(*) FROM rooms").fetchone()[0] >= ROOMS:
                _drop(index, "seen < ? AND code NOT IN (SELECT room FROM seats)", now - EMPTY_EXPIRES_S)
            if index.execute("SELECT count(*) FROM rooms").fetchone()[0] >= ROOMS:
                raise BusyError(f"this server has {ROOMS} rooms, and all are in use", help="Try again later.")
            code = unused_code(index, "rooms")
            index.execute("INSERT INTO rooms (code, key, created, seen) VALUES (?, ?, ?, ?)", (code, hashed(key), now, now))
            return code

        code = self._store.write(make, "a room")
        self._forget(code)
        return Opened(code, key)

    def steers(self, code: str, key: str) -> bool:
        """Is this the key of that room?"""
        row = self._store.read(lambda index: index.execute("SELECT key FROM rooms WHERE code = ?", (code,)).fetchone())
        return bool(row) and hmac.compare_digest(row[0], hashed(key))

    def move(self, code: str, key: str, place: Place, question: str = "") -> Room:
        """Says what the presenter has on screen, and the question there; gives the room after that.

        Raises:
            RequestError: there is no such room, the key is not its key, or the address is longer than it may be.
        """
        if len(place.page) + len(place.query) > PLACE_CHARS or len(question) > QUESTION_CHARS:
            raise RequestError(
                "this address is too long for the class to follow",
                where=place.page,
                help="Choose a shorter pipeline, or tell them the model.",
            )

        def go(index: sqlite3.Connection) -> Room:
            room = self._own(index, code, key)
            if (room.place, room.question) != (place, question):
                query = "UPDATE rooms SET page = ?, query = ?, step = ?, question = ?, turn = turn + 1, seen = ? WHERE code = ?"
                index.execute(query, (place.page, place.query, place.step, question, self._clock(), code))
            return self._standing(index, code)

        return self._change(code, go)

    def reveal(self, code: str, key: str, question: str) -> None:
        """Shows the answer of the question to all; nobody can vote on it any more.

        Raises:
            RequestError: there is no such room, the key is not its key, or another question is shown.
        """

        def show(index: sqlite3.Connection) -> None:
            if self._own(index, code, key).question != question:
                raise RequestError("another question is on screen", help="Go back to it first.")
            index.execute("INSERT OR IGNORE INTO reveals VALUES (?, ?)", (code, question))
            index.execute("UPDATE rooms SET turn = turn + 1, seen = ? WHERE code = ?", (self._clock(), code))

        self._change(code, show)

    def ask_again(self, code: str, key: str, question: str) -> None:
        """Takes back the votes and the reveal of a question, to let the class vote once more.

        Raises:
            RequestError: there is no such room, or the key is not its key.
        """

        def clear(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            for table in ("votes", "reveals"):
                index.execute(f"DELETE FROM {table} WHERE room = ? AND question = ?", (code, question))
            index.execute("UPDATE rooms SET turn = turn + 1, seen = ? WHERE code = ?", (self._clock(), code))

        self._change(code, clear)

    def sign(self, code: str, key: str) -> None:
        """The presenter is there: the room lives on. Written down once a minute at most.

        Raises:
            RequestError: there is no such room, or the key is not its key.
        """
        now = self._clock()
        if now - self._signs.get(code, 0.0) < SIGN_S:
            return

        def note(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            index.execute("UPDATE rooms SET seen = ? WHERE code = ?", (now, code))

        self._store.write(note, "a sign of the presenter")
        self._signs[code] = now

    def close(self, code: str, key: str) -> None:
        """Ends a room and drops all that was in it.

        Raises:
            RequestError: there is no such room, or the key is not its key.
        """

        def end(index: sqlite3.Connection) -> None:
            self._own(index, code, key)
            _drop(index, "code = ?", code)

        self._change(code, end)

    def sweep(self) -> None:
        """Drops rooms without a sign of their presenter for a day."""
        self._store.write(lambda index: _sweep(index, self._clock()), "a room")

    # ------------------------------------------------------------ inside

    def _standing(self, index: sqlite3.Connection, code: str) -> Room:
        """The room inside a transaction."""
        room = _read_room(index, code, self._clock() - EXPIRES_S) if CODE.fullmatch(code) else None
        if room is None:
            raise no_room(code)
        return room

    def _own(self, index: sqlite3.Connection, code: str, key: str) -> Room:
        room = self._standing(index, code)
        kept = index.execute("SELECT key FROM rooms WHERE code = ?", (code,)).fetchone()[0]
        if not hmac.compare_digest(kept, hashed(key)):
            raise RequestError("only the presenter may do this", where=code, help="Open the room with the presenter's link.")
        return room

    def _change(self, code: str, work: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        answer = self._store.write(work, "a room")
        self._forget(code)
        return answer

    def _forget(self, code: str) -> None:
        with self._lock:
            self._rooms.pop(code, None)
            for key in [key for key in self._tallies if key[0] == code]:
                del self._tallies[key]

    def _fresh(
        self, kept: OrderedDict[_Known, tuple[float, _Answer]], key: _Known, read: Callable[[sqlite3.Connection], _Answer]
    ) -> _Answer:
        """What was read a moment ago, or reads it: one thread for all that ask."""
        with self._lock:
            now = time.monotonic()
            if key in kept and now - kept[key][0] < FRESH_S:
                return kept[key][1]
            answer = self._store.read(read)
            kept[key] = (now, answer)
            kept.move_to_end(key)
            while len(kept) > KEPT_ROOMS:
                kept.popitem(last=False)
            return answer


def no_room(code: str) -> RequestError:
    """There is no room of that code: what is said to whoever typed it."""
    return RequestError(f"there is no room {code or 'with this code'}", help="Look at the code again; the room may also have ended.")


def hashed(token: str) -> str:
    """What is kept of a key or a seat."""
    return hashlib.sha256(token.encode()).hexdigest()


def unused_code(index: sqlite3.Connection, table: str) -> str:
    """A code that no row of the table has."""
    while True:
        code = "".join(secrets.choice(LETTERS) for _ in range(CODE_LENGTH))
        if not index.execute(f"SELECT 1 FROM {table} WHERE code = ?", (code,)).fetchone():
            return code


def _read_room(index: sqlite3.Connection, code: str, not_before: float) -> Room | None:
    query = """SELECT turn, page, query, step, question,
        EXISTS (SELECT 1 FROM reveals WHERE room = code AND reveals.question = rooms.question),
        (SELECT count(*) FROM seats WHERE room = code) FROM rooms WHERE code = ? AND seen >= ?"""
    row = index.execute(query, (code, not_before)).fetchone()
    if row is None:
        return None
    turn, page, words, step, question, revealed, seats = row
    return Room(code, turn, None if page is None else Place(page, words, step), question, bool(revealed), seats)


def _read_tally(index: sqlite3.Connection, code: str, question: str) -> Tally:
    given = (code, question)
    numbers = index.execute("SELECT number FROM votes WHERE room = ? AND question = ? AND number IS NOT NULL ORDER BY number", given)
    found = tuple(number for (number,) in numbers)
    query = "SELECT choice, count(*) FROM votes WHERE room = ? AND question = ? AND choice IS NOT NULL GROUP BY choice ORDER BY 2 DESC, 1"
    return Tally(found, tuple(index.execute(query, given).fetchall()))


def _sweep(index: sqlite3.Connection, now: float) -> None:
    _drop(index, "seen < ?", now - EXPIRES_S)


def _drop(index: sqlite3.Connection, which: str, value: object) -> None:
    """Drops rooms with all that is in them."""
    codes = index.execute(f"DELETE FROM rooms WHERE {which} RETURNING code", (value,)).fetchall()
    for table in ("seats", "votes", "reveals"):
        index.executemany(f"DELETE FROM {table} WHERE room = ?", codes)
