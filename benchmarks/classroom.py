"""A class follows a presenter: real websocket sessions against a real server.

    python -m benchmarks.classroom [--students 100] [--rest 20]

A server is started with data of its own; one reader first asks for everything that will be shown, so that it is kept. A presenter opens a room, the
students join within a few seconds, each with a connection that speaks Streamlit's protocol and asks again as often as the page tells a browser to. Then the
presenter goes to ten places, one after the other, each once everybody has arrived at the one before. A student has arrived when the script of the new page has
ended with its words in the address. Time counts from the presenter's press: his own page, which comes first, is in it.

Printed: times until a student has the page, and until the presenter has it himself (median, 95th percentile, worst), errors, and the processor
time of the web process while nothing moves and while everybody goes along. The clients run beside the server and take processor time too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks.load import EXPERIMENT, STEPS, Found, Reader, guarded, row
from jobs.classroom import Classroom
from jobs.classroom_record import Opened
from jobs.store import Store
from tests.browser import server

LESSON = "lesson=dataflow-graph&screen="
PLACES = (
    *(("learn", f"{LESSON}{screen}") for screen in (1, 2, 3, 4, 5)),
    *(("optimize", f"{EXPERIMENT}{steps}") for steps in STEPS[1:4]),
    ("memory", "model=zoo/mlp&mode=training"),
    ("learn", f"{LESSON}2"),
)
FIRST = ("learn", "")  # the list of lessons, where the class begins
PATIENCE_S = 60.0
JOIN_WITHIN_S = 10.0
BETWEEN_S = 2.0
TICK_S = 0.05
TICKS_S = os.sysconf("SC_CLK_TCK")


class Member(Reader):
    """A tab that stays open: it asks again for the parts of a page that run again by themselves, and goes where it is sent."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._before: dict[str, tuple[float, float]] = {}
        self._due: dict[str, tuple[float, float]] = {}  # of a part of the page: when it is due, and how often
        self.arrived = asyncio.Event()
        self._wanted: Callable[[str, str], bool] = lambda page, query: False
        self.at = 0.0
        self.shown = ""
        self.polls = 0

    def expects(self, page: str, query: str) -> None:
        """Notes the moment when it gets there."""
        words = set(parse_qsl(query))
        self.arrived.clear()
        self._wanted = lambda at, given: at == page and words <= set(parse_qsl(given))

    async def ask_for(self, page: str, query: str) -> None:
        self.page, self.query = page, query
        await self._ask()

    async def stay(self) -> None:
        """Answers until it is cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._listen())
            both.create_task(self._ask_again())

    async def _listen(self) -> None:
        while True:
            self._take(ForwardMsg.FromString(await self._socket.recv()))  # pyright: ignore[reportArgumentType]

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._poll()

    async def _poll(self) -> None:
        now = time.monotonic()
        for fragment, (at, interval) in list(self._due.items()):
            if at <= now:
                self._due[fragment] = (now + interval, interval)
                self.polls += 1
                await self._ask(fragment)

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":  # of the whole page or of a part: the end says which
            self._before, self._due, self.text = {**self._before, **self._due}, {}, b""
        elif kind == "navigation":
            self._pages = {page.url_pathname: page.page_script_hash for page in message.navigation.app_pages}
            self.page = next((name for name, of in self._pages.items() if of == message.navigation.page_script_hash), self.page)
        elif kind == "auto_rerun":
            interval = message.auto_rerun.interval
            self._due[message.auto_rerun.fragment_id] = (time.monotonic() + interval, interval)
        elif kind == "delta":
            text = message.delta.SerializeToString()
            self.text += text
            if message.hash:
                self._known[message.hash] = text
        elif kind == "ref_hash":
            self.text += self._known[message.ref_hash]
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "script_finished":
            self._end(message.script_finished)

    def _end(self, how: int) -> None:
        """Of a part of the page: the others go on as before. Of the whole page: what it did not ask for again ends."""
        if how == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY:
            self._due = {**self._before, **self._due}
        elif how == ForwardMsg.FINISHED_SUCCESSFULLY:
            self._before = {}
            self._may_have_arrived()

    def _may_have_arrived(self) -> None:
        if self._wanted(self.page, self.query) and not self.arrived.is_set():
            self.at = time.monotonic()
            self.shown = self.problem()
            self.arrived.set()

    async def leave(self) -> None:
        message = BackMsg()
        message.stop_script = True
        await self._socket.send(message.SerializeToString())
        await self.close()


def processor_s(pid: int) -> float:
    """Processor time of the web process alone, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


async def warm(address: str) -> None:
    reader = Reader(address)
    await reader.open()
    for page, query in (FIRST, *PLACES):
        await reader.visit(page, query)
        assert not reader.problem(), reader.problem()
    await reader.close()


async def come_in(address: str, opened: Opened, students: list[Member], tasks: list[asyncio.Task], found: Found) -> Member:
    """The presenter at the first page, and everybody there."""
    presenter = Member(address)
    await presenter.open()
    tasks.append(asyncio.create_task(guarded(found, presenter.stay)))
    presenter.expects(*FIRST)
    await presenter.ask_for(FIRST[0], f"room={opened.code}&key={opened.key}")
    await asyncio.wait_for(presenter.arrived.wait(), PATIENCE_S)

    async def join(student: Member) -> None:
        await asyncio.sleep(random.uniform(0, JOIN_WITHIN_S))
        await student.open()
        tasks.append(asyncio.create_task(guarded(found, student.stay)))
        student.expects(*FIRST)
        await student.ask_for("classroom", f"room={opened.code}")
        await asyncio.wait_for(student.arrived.wait(), PATIENCE_S)

    await asyncio.gather(*(guarded(found, lambda one=one: join(one)) for one in students))
    return presenter


async def go(presenter: Member, students: list[Member], place: tuple[str, str], code: str, found: Found, own: list[float]) -> None:
    """The presenter goes to a place, and the class with him."""
    for member in (presenter, *students):
        member.expects(*place)
    start = time.monotonic()
    await presenter.ask_for(place[0], f"{place[1]}&room={code}")

    async def arrive(member: Member) -> None:
        await asyncio.wait_for(member.arrived.wait(), PATIENCE_S)
        (own if member is presenter else found.clicks).append(member.at - start)
        if member.shown:
            found.errors.append(member.shown)

    await asyncio.gather(*(guarded(found, lambda one=member: arrive(one)) for member in (presenter, *students)))


async def run(address: str, pid: int, given: argparse.Namespace, data: Path) -> None:
    found, own, tasks = Found(), [], []
    await warm(address)
    opened = Classroom(Store(data)).open()  # beside the server, as another of its processes would
    students = [Member(address) for _ in range(given.students)]
    presenter = await come_in(address, opened, students, tasks, found)
    print(
        f"{given.students} students joined within {JOIN_WITHIN_S:g} s; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    await asyncio.sleep(3)
    before, polls, start = processor_s(pid), sum(one.polls for one in students), time.monotonic()
    await asyncio.sleep(given.rest)
    passed = time.monotonic() - start
    resting, asked = (processor_s(pid) - before) / passed, (sum(one.polls for one in students) - polls) / passed
    before, start = processor_s(pid), time.monotonic()
    for place in PLACES:
        await go(presenter, students, place, opened.code, found, own)
        print(f"{place[0]}?{place[1]}: last after {max(found.clicks[-given.students :], default=0.0):.1f} s", flush=True)
        await asyncio.sleep(BETWEEN_S)
    moving, moved_s = processor_s(pid) - before, time.monotonic() - start
    page_s = (moving - resting * moved_s) / len(PLACES) / (given.students + 1)  # without what asking takes
    for task in tasks:
        task.cancel()
    for member in (presenter, *students):
        await member.leave()
    print("\n| | n | median ms | 95th percentile ms | worst ms |\n|---|---|---|---|---|")
    print(row("a student has the presenter's page", found.clicks))
    print(row("the presenter has it", own))
    print(f"\nerrors: {len(found.errors)} {found.errors[:3]}")
    print(f"web process at rest: {100 * resting:.0f} % of one processor, {asked:.0f} polls a second")
    print(f"web process while they move: {100 * moving / moved_s:.0f} % of one processor, {1e3 * page_s:.0f} ms of processor time a page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    for name, default in (("students", 100), ("rest", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as found:
        asyncio.run(run(found.address, found.process.pid, given, Path(folder)))


if __name__ == "__main__":
    main()
