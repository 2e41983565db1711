"""Requests that a browser sent before it heard what the server had just said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from pages.ui import pipeline, web_late
from tests import browser as driver

Receive = Callable[[], Coroutine[None, None, dict[str, Any]]]
Send = Callable[[Mapping[str, object]], Coroutine[None, None, None]]
OTHER = b"\xff no message"


def rerun(page: str, part: str = "", words: str = "", back: bool = False) -> bytes:
    asked = BackMsg()
    asked.rerun_script.page_script_hash, asked.rerun_script.fragment_id = page, part
    asked.rerun_script.query_string, asked.rerun_script.is_history_navigation = words, back
    return asked.SerializeToString()


def told(kind: str, **fields: str) -> bytes:
    """What the server says."""
    said = ForwardMsg()
    for name, value in fields.items():
        setattr(getattr(said, kind), name, value)
    return said.SerializeToString()


def led(page: str) -> bytes:
    return told("navigation", page_script_hash=page)


def address(words: str) -> bytes:
    return told("page_info_changed", query_string=words)


def runs(page: str) -> bytes:
    return told("new_session", page_script_hash=page)


def finished(how: ForwardMsg.ScriptFinishedStatus.ValueType = ForwardMsg.FINISHED_SUCCESSFULLY) -> bytes:
    said = ForwardMsg()
    said.script_finished = how
    return said.SerializeToString()


def ran(request: bytes, answer: Sequence[bytes]) -> list[bytes]:
    """All that Streamlit says when it runs a page, which says this."""
    page = BackMsg.FromString(request).rerun_script.page_script_hash if request != OTHER else ""
    begun = any(one.HasField("new_session") for one in map(ForwardMsg.FromString, answer))
    return [*answer, *([] if begun else [runs(page)]), finished()]


def arrived(talk: Sequence[tuple[bytes, Sequence[bytes]]], heard: list[bytes] | None = None) -> list[bytes]:
    """What Streamlit gets of a talk: each request, and what the server says when it has it.

    Args:
        heard: gets what the browser hears.
    """
    coming, found = list(talk), []
    said: list[Sequence[bytes]] = []

    async def receive() -> dict[str, Any]:
        if not coming:
            return {"type": "websocket.disconnect"}
        request, answer = coming.pop(0)
        said.append(answer)
        return {"type": "websocket.receive", "bytes": request}

    async def send(message: Mapping[str, Any]) -> None:
        if heard is not None:
            heard.append(message["bytes"])

    async def app(_scope: object, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            found.append(message["bytes"])
            for one in ran(message["bytes"], said[-1]):
                await send({"type": "websocket.send", "bytes": one})

    async def talked() -> None:
        await web_late.LateRequests(app)({"type": "websocket"}, receive, send)  # pyright: ignore[reportArgumentType]

    with ThreadPoolExecutor(1) as thread:  # Playwright keeps a loop in this one
        thread.submit(asyncio.run, talked()).result()
    return found


def test_parts_of_a_page_that_was_left_are_not_run_again() -> None:
    sent = [
        rerun(""),
        rerun("one", "part"),
        rerun("one"),
        rerun("one", "part"),
        rerun("two"),
        rerun("one", "part"),
        OTHER,
        rerun("two", "part"),
    ]
    assert arrived([(one, ()) for one in sent]) == [one for at, one in enumerate(sent) if at != 5]


def test_where_the_server_has_led_a_reader_parts_run() -> None:
    sent = [rerun("one"), rerun("two", "part"), rerun("one", "part")]
    assert arrived([(sent[0], [led("two")]), (sent[1], ()), (sent[2], ())]) == sent[:2]


@pytest.mark.parametrize("part", ["", "part"])
def test_a_request_from_before_the_click_gets_the_words_from_after_it(part: str) -> None:
    talk = [
        (rerun("one", words="a=1"), [address("a=2")]),
        (rerun("one", part, "a=1"), [address("a=2&b=x%2Fy")]),
        (rerun("one", part, "a=2"), ()),
        (rerun("one", part, "a=2&b=x/y"), ()),
        (rerun("one", part, "a=1"), ()),  # by a link: the browser has spoken of the new words
    ]
    late = [rerun("one", part, "a=2"), rerun("one", part, "a=2&b=x%2Fy")]
    assert arrived(talk) == [talk[0][0], *late, talk[3][0], talk[4][0]]


def test_back_and_another_page_are_taken_at_their_word() -> None:
    talk = [
        (rerun("one", words="a=1"), [address("a=2")]),
        (rerun("one", words="a=1", back=True), [address("a=3")]),
        (rerun("two", words="a=1"), ()),
    ]
    assert arrived(talk) == [request for request, _ in talk]


def test_old_words_are_asked_for_anew_by_a_link_some_time_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_late, "LATE_S", -1.0)
    talk = [(rerun("one", words="a=1"), [address("a=2")]), (rerun("one", words="a=1"), ())]
    assert arrived(talk) == [request for request, _ in talk]


def test_a_page_that_the_server_has_led_away_from_is_not_run_again() -> None:
    talk = [
        (rerun("one", words="a=1"), [led("two"), address("b=1")]),
        (rerun("one", words="a=1"), ()),  # not passed on
        (rerun("two", words="b=1"), [led("two")]),
        (rerun("two", words="b=1"), [led("three")]),
        (rerun("two", words="b=2"), ()),  # a link
        (rerun("two", words="b=2"), [led("three")]),
        (rerun("two", words="b=2", back=True), ()),
    ]
    assert arrived(talk) == [request for at, (request, _) in enumerate(talk) if at != 1]


def test_a_page_that_was_left_some_time_ago_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_late, "LATE_S", -1.0)
    talk = [(rerun("one", words="a=1"), [led("two")]), (rerun("one", words="a=1"), ())]
    assert arrived(talk) == [request for request, _ in talk]


def test_words_that_a_page_sets_while_it_is_left_do_not_stand_in_the_next_one_s_address() -> None:
    early, late = address("a=2"), address("a=3")
    talk = [
        (rerun("one", words="a=1"), [runs("one"), early]),
        (rerun("two", words="b=1"), [late, runs("two")]),  # a link, pressed before the browser heard of `a=2`
        (rerun("two", words="a=2"), [runs("two")]),
        (rerun("two", words="b=1"), [address("b=2")]),
    ]
    heard: list[bytes] = []
    assert arrived(talk, heard) == [talk[0][0], talk[1][0], talk[3][0], talk[3][0]]
    assert [one for one in heard if one != finished()] == [
        runs("one"),
        early,
        runs("two"),
        address("b=1"),
        runs("two"),
        address("b=2"),
        runs("two"),
    ]


ANSWER = (runs("one"), OTHER, address("a=2"), led("one"))


class Clicks:
    """Streamlit as it is while a click's call is at work: it takes what else comes, and says nothing."""

    def __init__(self, *requests: bytes, first: Sequence[bytes] = (), then: Sequence[bytes] = ANSWER) -> None:
        """`first` is what was drawn before all that, `then` what is said of the first request."""
        self.coming, self.found = list(requests), list[bytes]()
        self.first, self.then = first, then
        self.told, self.told_before_the_second = 0, 0

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.receive", "bytes": self.coming.pop(0)} if self.coming else {"type": "websocket.disconnect"}

    async def send(self, _message: Mapping[str, object]) -> None:
        self.told += 1

    async def app(self, _scope: object, receive: Receive, send: Send) -> None:
        async def says(*messages: bytes) -> None:
            for one in messages:
                await asyncio.sleep(0.01)
                await send({"type": "websocket.send", "bytes": one})

        for one in self.first:
            await send({"type": "websocket.send", "bytes": one})
        self.told = 0
        self.found.append((await receive())["bytes"])
        at_work = asyncio.create_task(says(*self.then))
        second = await receive()
        self.told_before_the_second = self.told
        self.found += [second["bytes"]] if "bytes" in second else []
        await at_work

    def talk(self) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, web_late.LateRequests(self.app)({"type": "websocket"}, self.receive, self.send)).result()  # pyright: ignore[reportArgumentType]


def drawn(part: str) -> bytes:
    return told("delta", fragment_id=part)


def clock(part: str) -> bytes:
    """Of a part that runs again and again, and may draw nothing."""
    return told("auto_rerun", fragment_id=part)


@pytest.mark.parametrize("part", ["", "part"])
def test_what_comes_while_a_click_is_at_work_waits_for_it_and_gets_its_words(part: str) -> None:
    clicks = Clicks(rerun("one", words="a=1"), rerun("one", part, "a=1"))
    clicks.talk()
    assert clicks.told_before_the_second == 4
    assert clicks.found[1] == rerun("one", part, "a=2")


def test_what_is_no_request_does_not_wait() -> None:
    clicks = Clicks(rerun("one", words="a=1"), OTHER)
    clicks.talk()
    assert clicks.told_before_the_second == 0
    assert clicks.found[1] == OTHER


@pytest.mark.parametrize("still_there", [True, False])
def test_a_part_that_is_gone_holds_up_nobody(still_there: bool) -> None:
    before = [runs("one"), drawn("part"), finished()]
    after = [runs("one"), drawn("part" if still_there else "another"), finished()]
    clicks = Clicks(rerun("one", "part", "a=1"), rerun("one", words="a=1"), first=[*before, *after])
    clicks.talk()
    assert clicks.told_before_the_second == (4 if still_there else 0)


def test_a_clock_that_goes_on_while_its_page_is_left_for_another_is_not_passed_on() -> None:
    """It would be run behind the new page, which the browser would then throw away."""
    config = told("page_config_changed", title="x")
    leaves = (
        runs("one"),
        address("b=1"),
        finished(ForwardMsg.FINISHED_EARLY_FOR_RERUN),
        runs("two"),
        config,
        led("two"),
    )
    clicks = Clicks(rerun("one", "part", "a=1"), rerun("one", "part", "b=1"), first=[runs("one"), clock("part"), finished()], then=leaves)
    clicks.talk()
    assert clicks.found == [rerun("one", "part", "a=1")]


def test_a_request_that_is_never_run_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_late, "LATE_S", 0.005)
    clicks = Clicks(rerun("one", words="a=1"), rerun("one", words="b=1"))
    clicks.talk()
    assert clicks.told_before_the_second == 0
    assert clicks.found[1] == rerun("one", words="b=1")


SLOW_CLICK = """
import time
import streamlit as st

def on():
    time.sleep(1)
    st.query_params["screen"] = "2"

st.button("Next", on_click=on)
st.checkbox("Other")
st.write("screen " + st.query_params.get("screen", "1"))
"""
SERVED = """
import streamlit as st
from starlette.middleware import Middleware
from pages.ui import pipeline, web_late
app = st.App({page!r}, middleware=[Middleware(web_late.LateRequests)])
"""


def test_a_click_is_not_lost_when_another_follows_at_once(tmp_path: Path, chromium: Browser) -> None:
    page, serve = tmp_path / "page.py", tmp_path / "serve.py"
    page.write_text(SLOW_CLICK)
    serve.write_text(SERVED.format(page=str(page)))
    with driver.server(tmp_path / "data", script=serve) as running:
        opened = chromium.new_page()
        opened.goto(running.address)
        driver.settled(opened)
        opened.get_by_role("button", name="Next").click()
        opened.get_by_text("Other").click()
        expect(opened.get_by_text("screen 2")).to_be_visible(timeout=30_000)
        driver.settled(opened)
        expect(opened).to_have_url(re.compile("screen=2"))
        expect(opened.get_by_text("screen 2")).to_be_visible()
        expect(opened.get_by_role("checkbox", name="Other")).to_be_checked()


@pytest.mark.parametrize(("heard", "shown"), [(3, 0), (2, 1), (7, 0)])
def test_a_walk_in_a_picture_that_had_not_heard_where_it_was_sent_is_none(monkeypatch: pytest.MonkeyPatch, heard: int, shown: int) -> None:
    """Nor does a picture of another session, which heard more, wait for this one."""
    session: dict[str, Any] = {"turn": 3, "step": 1, "pane": {"walk": {"step": 1, "turn": heard}}}
    monkeypatch.setattr(pipeline.st, "session_state", session)
    pipeline.take_walk("pane")
    assert session["step"] == shown


def test_a_picture_that_tells_no_walk_changes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    session: dict[str, Any] = {"turn": 0, "step": 1, "pane": {"walk": None, "look": "{}"}}
    monkeypatch.setattr(pipeline.st, "session_state", session)
    pipeline.take_walk("pane")
    assert session["step"] == 1
