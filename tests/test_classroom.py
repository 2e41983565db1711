"""Rooms: who may steer, who may vote and how often, what two server processes see, and when a room ends."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from graphs.errors import BusyError, RequestError
from jobs import classroom
from jobs.classroom import CODE, Classroom, as_code, new_token
from jobs.classroom_record import Opened, Place
from jobs.store import Store
from jobs.version import ROOT
from tests.clock import Clock

HERE = Place("learn", "lesson=dataflow-graph&screen=2")
THERE = Place("optimize", "model=zoo/mlp&pipeline=fuse-loops", 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rooms(tmp_path: Path, clock: Clock) -> Classroom:
    return Classroom(Store(tmp_path), clock)


@pytest.fixture
def opened(rooms: Classroom) -> Opened:
    return rooms.open()


def seats(rooms: Classroom, code: str, count: int) -> list[str]:
    taken = [new_token() for _ in range(count)]
    for seat in taken:
        rooms.join(code, seat)
    return taken


# ---------------------------------------------------------------- codes and keys


def test_a_code_has_five_letters_that_are_taken_for_no_others(rooms: Classroom) -> None:
    codes = {rooms.open().code for _ in range(20)}
    assert len(codes) == 20
    assert all(CODE.fullmatch(code) for code in codes)
    assert not set("ILOU01AE") & set(classroom.LETTERS)


@pytest.mark.parametrize("typed", ["bcdfg", " BCD-FG ", "b c d f g"])
def test_a_code_may_be_typed_in_many_ways(typed: str) -> None:
    assert as_code(typed) == "BCDFG"


@pytest.mark.parametrize("typed", ["", "BCDF", "BCDFGH", "AEIOU", "<b>x", "'; DROP TABLE rooms", "BCDFÖ", "B" * 10_000])
def test_what_cannot_be_a_code_is_none(typed: str, rooms: Classroom) -> None:
    assert as_code(typed) == ""
    assert rooms.room(typed) is None
    with pytest.raises(RequestError, match="no room"):
        rooms.join(typed, new_token())


def test_only_the_key_steers_and_only_its_hash_is_kept(rooms: Classroom, opened: Opened, tmp_path: Path) -> None:
    rooms.move(opened.code, opened.key, HERE, "question")
    other = rooms.open()
    for wrong in ("", other.key, opened.key[:-1], opened.key + "x", new_token()):
        assert not rooms.steers(opened.code, wrong)
        for steer in (
            lambda key: rooms.move(opened.code, key, THERE),
            lambda key: rooms.reveal(opened.code, key, "question"),
            lambda key: rooms.ask_again(opened.code, key, "question"),
            lambda key: rooms.close(opened.code, key),
            lambda key: rooms.sign(opened.code, key),
        ):
            with pytest.raises(RequestError, match="only the presenter"):
                steer(wrong)
    assert rooms.steers(opened.code, opened.key)
    found = rooms.room(opened.code)
    assert found
    assert (found.place, found.revealed) == (HERE, False)
    seat = seats(rooms, opened.code, 1)[0]
    written = b"".join(path.read_bytes() for path in tmp_path.glob("index.sqlite*"))
    assert opened.code.encode() in written
    assert opened.key.encode() not in written
    assert seat.encode() not in written


# ---------------------------------------------------------------- following


def test_the_turn_grows_with_what_others_have_to_see_and_only_then(rooms: Classroom, opened: Opened) -> None:
    def turn() -> int:
        room = rooms.room(opened.code)
        assert room
        return room.turn

    turns = [turn()]
    assert rooms.move(opened.code, opened.key, HERE, "question").place == HERE
    turns.append(turn())
    rooms.move(opened.code, opened.key, HERE, "question")
    seat = seats(rooms, opened.code, 1)[0]
    rooms.vote(opened.code, seat, "question", 1.0)
    assert turn() == turns[-1]
    rooms.reveal(opened.code, opened.key, "question")
    turns.append(turn())
    rooms.ask_again(opened.code, opened.key, "question")
    turns.append(turn())
    rooms.move(opened.code, opened.key, THERE)
    turns.append(turn())
    assert turns == sorted(set(turns))


def test_an_address_longer_than_it_may_be_is_refused(rooms: Classroom, opened: Opened) -> None:
    with pytest.raises(RequestError, match="too long"):
        rooms.move(opened.code, opened.key, Place("optimize", "x" * 8001))


# ---------------------------------------------------------------- votes


def test_a_seat_has_one_vote_which_may_be_changed_until_the_reveal(rooms: Classroom, opened: Opened) -> None:
    one, two = seats(rooms, opened.code, 2)
    rooms.move(opened.code, opened.key, HERE, "question")
    rooms.vote(opened.code, one, "question", 3.0)
    rooms.vote(opened.code, one, "question", 5.0)
    rooms.vote(opened.code, two, "question", 4.0)
    assert rooms.tally(opened.code, "question").numbers == (4.0, 5.0)
    assert rooms.voted(opened.code, one, "question") == 5.0
    rooms.reveal(opened.code, opened.key, "question")
    with pytest.raises(RequestError, match="closed"):
        rooms.vote(opened.code, one, "question", 6.0)
    assert rooms.tally(opened.code, "question").numbers == (4.0, 5.0)
    rooms.ask_again(opened.code, opened.key, "question")
    assert rooms.tally(opened.code, "question").count == 0
    rooms.vote(opened.code, one, "question", 6.0)


def test_choices_are_counted_most_first(rooms: Classroom, opened: Opened) -> None:
    rooms.move(opened.code, opened.key, HERE, "question")
    for seat, choice in zip(seats(rooms, opened.code, 3), ("no", "yes", "yes"), strict=True):
        rooms.vote(opened.code, seat, "question", choice)
    assert rooms.tally(opened.code, "question").choices == (("yes", 2), ("no", 1))


def test_votes_are_taken_of_those_who_sit_there_on_what_is_shown_and_of_sensible_values(rooms: Classroom, opened: Opened) -> None:
    seat = seats(rooms, opened.code, 1)[0]
    rooms.move(opened.code, opened.key, HERE, "question")
    for who, what, value, why in (
        (new_token(), "question", 1.0, "nobody sits"),
        (seat, "another", 1.0, "closed"),
        (seat, "question", float("nan"), "no prediction"),
        (seat, "question", float("inf"), "no prediction"),
        (seat, "question", "x" * 301, "no prediction"),
    ):
        with pytest.raises(RequestError, match=why):
            rooms.vote(opened.code, who, what, value)
    assert rooms.tally(opened.code, "question").count == 0
    with pytest.raises(RequestError, match="another question"):
        rooms.reveal(opened.code, opened.key, "another")


def test_votes_of_one_room_are_none_of_another(rooms: Classroom, opened: Opened) -> None:
    other = rooms.open()
    for room in (opened, other):
        rooms.move(room.code, room.key, HERE, "question")
    seat = seats(rooms, opened.code, 1)[0]
    rooms.vote(opened.code, seat, "question", 1.0)
    assert rooms.tally(other.code, "question").count == 0
    rooms.close(other.code, other.key)
    assert rooms.tally(opened.code, "question").count == 1


# ---------------------------------------------------------------- limits and the end


def test_a_full_room_takes_nobody_new_and_keeps_those_it_has(rooms: Classroom, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "SEATS", 2)
    first, _ = seats(rooms, opened.code, 2)
    with pytest.raises(BusyError, match="full"):
        rooms.join(opened.code, new_token())
    rooms.join(opened.code, first)
    found = rooms.room(opened.code)
    assert found
    assert found.seats == 2


def test_a_full_server_drops_empty_rooms_of_earlier_and_no_others(rooms: Classroom, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "ROOMS", 2)
    used, empty = rooms.open(), rooms.open()
    seats(rooms, used.code, 1)
    with pytest.raises(BusyError, match="all are in use"):
        rooms.open()
    clock.now += classroom.EMPTY_EXPIRES_S + 1
    rooms.open()
    assert rooms.room(used.code)
    assert not rooms.steers(empty.code, empty.key)


def test_a_room_lives_a_day_after_the_last_sign_and_leaves_nothing(rooms: Classroom, clock: Clock, tmp_path: Path) -> None:
    opened = rooms.open()
    seat = seats(rooms, opened.code, 1)[0]
    rooms.move(opened.code, opened.key, HERE, "question")
    rooms.vote(opened.code, seat, "question", 1.0)
    clock.now += 20 * 3600
    rooms.sign(opened.code, opened.key)
    clock.now += 20 * 3600
    fresh = Classroom(Store(tmp_path), clock)
    assert fresh.room(opened.code)
    clock.now += 5 * 3600
    with pytest.raises(RequestError, match="no room"):
        rooms.vote(opened.code, seat, "question", 2.0)
    swept = Classroom(Store(tmp_path), clock)
    assert swept.room(opened.code) is None
    index = sqlite3.connect(tmp_path / "index.sqlite")
    left = {table: index.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("rooms", "seats", "votes", "reveals")}
    index.close()
    assert left == {"rooms": 0, "seats": 0, "votes": 0, "reveals": 0}


def test_a_closed_room_is_gone(rooms: Classroom, opened: Opened) -> None:
    assert rooms.room(opened.code)
    rooms.close(opened.code, opened.key)
    assert rooms.room(opened.code) is None


# ---------------------------------------------------------------- several readers, several processes


def test_a_process_reads_a_room_once_for_all_that_ask(rooms: Classroom, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "FRESH_S", 3600.0)
    reads: list[str] = []
    read = classroom._read_room
    monkeypatch.setattr(classroom, "_read_room", lambda index, code, after: (reads.append(code), read(index, code, after))[1])
    for _ in range(100):
        assert rooms.room(opened.code)
    assert len(reads) == 1
    place = rooms.move(opened.code, opened.key, HERE).place
    found = rooms.room(opened.code)  # what it changed itself it knows at once
    assert found
    assert found.place == place == HERE


VOTES = """
import sys
from pathlib import Path
from jobs.classroom import Classroom, new_token
from jobs.store import Store
rooms = Classroom(Store(Path(sys.argv[1])))
mine = new_token()
rooms.join(sys.argv[2], mine)
for value in range(20):
    rooms.vote(sys.argv[2], mine, "question", float(value))
print(rooms.room(sys.argv[2]).place.query)
"""


def test_two_processes_serve_one_class(tmp_path: Path) -> None:
    rooms = Classroom(Store(tmp_path))
    opened = rooms.open()
    rooms.move(opened.code, opened.key, HERE, "question")
    command = [sys.executable, "-c", VOTES, str(tmp_path), opened.code]
    others = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    mine = seats(rooms, opened.code, 1)[0]
    for value in range(20):
        rooms.vote(opened.code, mine, "question", float(value))
    assert [other.communicate(timeout=60)[0].strip() for other in others] == [HERE.query] * 2
    fresh = Classroom(Store(tmp_path))
    assert fresh.tally(opened.code, "question").numbers == (19.0, 19.0, 19.0)
