"""A class opens the app at once: real websocket sessions against a real server.

    python -m benchmarks.load [--readers 100] [--clicking 30] [--clicks 8] [--checks 1000]

A server is started with data of its own, and one reader first asks for everything that the class will look at, so that it is kept. Then all readers come
within a few seconds, each with a connection of its own that speaks Streamlit's protocol as a browser does; the first page is what passes
from opening the connection to the end of the page's script. Some go on and click through an experiment. Then readers bring files of their own, each with a word of
its own in it, and every page that any of them gets afterwards is searched for the words of all others.

Printed: times of first pages and of interactions (median, 95th percentile, worst), errors, the server's memory before and with all readers, what one
reader costs, and how many pages were searched for others' words. The clients run beside the server and take processor time too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.browser import server

PAGES = (
    ("", "model=zoo/mlp"),
    ("", "model=zoo/attention&mode=training"),
    ("optimize", "model=zoo/mlp&mode=training&pipeline=merge-common-subexpressions"),
    ("optimize", "model=zoo/attention&pipeline=fuse-attention"),
    ("memory", "model=zoo/mlp&mode=training"),
    ("about", ""),
)
STEPS = (
    "",
    "remove-dead-code",
    "merge-common-subexpressions",
    "merge-common-subexpressions,fold-constants",
    "merge-common-subexpressions,fold-constants,remove-dead-code",
)
EXPERIMENT = "model=zoo/attention&mode=training&pipeline="
PATIENCE_S = 60.0
ARRIVE_WITHIN_S = 5.0
THINK_S = (1.0, 4.0)  # between two clicks
OWN = """
import torch
from torch import nn

class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.{name} = nn.Linear(8, {width})

    def forward(self, x):
        return self.{name}(x).relu()

def model():
    return {name}()

def inputs():
    return torch.randn(2, 8)
"""


@dataclass
class Found:
    """What was measured, in seconds."""

    first: list[float] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    searched: int = 0
    leaks: int = 0


class Reader:
    """One browser tab as the server sees it."""

    def __init__(self, address: str) -> None:
        self._address = address.replace("http", "ws") + "/_stcore/stream"
        self._known: dict[str, bytes] = {}  # messages that need not be sent again, by hash
        self._pages: dict[str, str] = {}
        self.query = self.page = ""
        self.text = b""

    async def open(self) -> None:
        self._socket = await websockets.connect(self._address, subprotocols=[websockets.Subprotocol("streamlit")], max_size=None)

    async def close(self) -> None:
        await self._socket.close()

    async def visit(self, page: str, query: str) -> float:
        """Asks for a page and waits until it is whole; seconds."""
        start = time.monotonic()
        self.page, self.query, self.text = page, query, b""
        await self._ask()
        await asyncio.wait_for(self._whole(), PATIENCE_S)
        return time.monotonic() - start

    async def _ask(self, fragment: str = "") -> None:
        message = BackMsg()
        message.rerun_script.query_string = self.query
        message.rerun_script.page_name = self.page
        message.rerun_script.page_script_hash = self._pages.get(self.page, "")
        message.rerun_script.fragment_id = fragment
        message.rerun_script.is_auto_rerun = bool(fragment)
        message.rerun_script.cached_message_hashes.extend(self._known)
        await self._socket.send(message.SerializeToString())

    async def _whole(self) -> None:
        """Until the script has ended and no part of the page asks to be run again."""
        again: dict[str, float] = {}
        asked: dict[str, float] = {}
        while True:
            message = ForwardMsg.FromString(await self._socket.recv())  # pyright: ignore[reportArgumentType]
            kind = message.WhichOneof("type")
            if kind == "new_session":
                asked = {}
            elif kind == "navigation":
                self._pages = {page.url_pathname: page.page_script_hash for page in message.navigation.app_pages}
            elif kind == "auto_rerun":
                asked[message.auto_rerun.fragment_id] = message.auto_rerun.interval
            elif kind == "delta":
                text = message.delta.SerializeToString()
                self.text += text
                if message.hash:
                    self._known[message.hash] = text
            elif kind == "ref_hash":
                self.text += self._known[message.ref_hash]
            elif kind == "page_info_changed":
                self.query = message.page_info_changed.query_string
            elif kind == "script_finished" and message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                if message.script_finished != ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY:
                    again = asked
                if not again:
                    return
                fragment, interval = next(iter(again.items()))
                await asyncio.sleep(interval)
                await self._ask(fragment)

    def problem(self) -> str:
        """A red box or a traceback on the page."""
        for word in (b"Traceback", b":material/error:", b"StreamlitAPIException"):
            if word in self.text:
                return f"{self.page}?{self.query}: {word.decode()}"
        return ""


def experiments() -> itertools.cycle[str]:
    return itertools.cycle(f"{EXPERIMENT}{steps}" for steps in STEPS)


async def guarded(found: Found, work: Callable[[], Awaitable[None]]) -> None:
    """An error of one reader is counted; the others go on."""
    try:
        await work()
    except Exception as error:
        found.errors.append(f"{type(error).__name__}: {error}")


async def warm(address: str) -> None:
    reader = Reader(address)
    await reader.open()
    for page, query in [*PAGES, *(("optimize", f"{EXPERIMENT}{steps}") for steps in STEPS)]:
        await reader.visit(page, query)
        assert not reader.problem(), reader.problem()
    await reader.close()


async def attend(address: str, number: int, clicks: int, found: Found, everybody: asyncio.Event, here: list[Reader]) -> None:
    """One reader: a page, perhaps some clicks, and then he stays until everybody is there."""
    reader, dice = Reader(address), random.Random(number)
    await asyncio.sleep(dice.uniform(0, ARRIVE_WITHIN_S))
    start = time.monotonic()
    await reader.open()
    page, query = PAGES[number % len(PAGES)]
    await reader.visit(page, query)
    found.first.append(time.monotonic() - start)
    if problem := reader.problem():
        found.errors.append(problem)
    here.append(reader)
    wanted = experiments()
    for _ in range(clicks):
        await asyncio.sleep(dice.uniform(*THINK_S))
        found.clicks.append(await reader.visit("optimize", next(wanted)))
        if problem := reader.problem():
            found.errors.append(problem)
    await everybody.wait()


async def bring(readers: list[Reader], checks: int, found: Found, keep: Callable[[str], str]) -> None:
    """Files of their own, and pages searched for the words of all others."""
    words = [f"Secret{number:03}{random.randrange(1 << 30):x}" for number in range(min(len(readers), 20))]
    owners = list(zip(readers, words, strict=False))
    links = [f"model=source/{keep(OWN.format(name=word, width=4 + place))}" for place, word in enumerate(words)]
    turn = itertools.cycle(range(len(owners)))
    while found.searched < checks:
        place = next(turn)
        reader, word = owners[place]
        page, query = ("", links[place]) if found.searched % 3 == 0 else random.choice(PAGES)
        await reader.visit(page, query)
        own = query == links[place]
        if own and word.encode() not in reader.text:
            found.errors.append(f"{word} is not on its own page: {reader.problem()}")
        found.leaks += any(other.encode() in reader.text for other in words if not (own and other == word))
        found.searched += 1


def memory(pid: int) -> int:
    """Resident bytes of the web process alone."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def row(title: str, seconds: list[float]) -> str:
    if not seconds:
        return f"| {title} | 0 | | | |"
    ordered = sorted(seconds)
    at95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"| {title} | {len(ordered)} | {statistics.median(ordered) * 1e3:,.0f} | {at95 * 1e3:,.0f} | {ordered[-1] * 1e3:,.0f} |"


async def run(address: str, pid: int, given: argparse.Namespace, data: Path) -> None:
    found, here, everybody = Found(), [], asyncio.Event()
    await warm(address)
    before = memory(pid)
    tasks = [
        asyncio.create_task(
            guarded(found, lambda n=number: attend(address, n, given.clicks * (n < given.clicking), found, everybody, here))
        )
        for number in range(given.readers)
    ]
    while len(here) + len(found.errors) < given.readers or len(found.clicks) < given.clicking * given.clicks and not found.errors:
        await asyncio.sleep(0.2)
    held = memory(pid)
    with contextlib.suppress(StopIteration):
        await guarded(found, lambda: bring(here, given.checks, found, lambda text: keep_in(data, text)))
    everybody.set()
    await asyncio.gather(*tasks)
    for reader in here:
        await reader.close()
    print(f"{given.readers} readers within {ARRIVE_WITHIN_S:g} s, {given.clicking} of them click {given.clicks} times each")
    print("\n| | n | median ms | 95th percentile ms | worst ms |\n|---|---|---|---|---|")
    print(row("first page", found.first))
    print(row("interaction served from records", found.clicks))
    print(f"\nerrors: {len(found.errors)} {found.errors[:3]}")
    print(
        f"web process: {before / 2**20:.0f} MiB before, {held / 2**20:.0f} MiB with all: {(held - before) / given.readers / 2**20:.2f} MiB a reader"
    )
    print(f"pages searched for others' words: {found.searched}, found: {found.leaks}")


def keep_in(data: Path, text: str) -> str:
    """Keeps a file as an upload would, from a process beside the server."""
    from jobs.store import KeptSource, Store

    return Store(data).keep_source(KeptSource("own.py", text.encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    for name, default in (("readers", 100), ("clicking", 30), ("clicks", 8), ("checks", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as found:
        asyncio.run(run(found.address, found.process.pid, given, Path(folder)))


if __name__ == "__main__":
    main()
