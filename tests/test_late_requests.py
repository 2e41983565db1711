"""Requests that a browser sent before it heard what the server had just said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from pages.ui import web_late

Receive = Callable[[], Coroutine[None, None, dict[str, Any]]]
Send = Callable[[Mapping[str, object]], Coroutine[None, None, None]]
OTHER = b"\xff no message"


def rerun(page: str, part: str = "", words: str = "", back: bool = False) -> bytes:
    asked = BackMsg()
    asked.rerun_script.page_script_hash, asked.rerun_script.fragment_id = page, part
    asked.rerun_script.query_string, asked.rerun_script.is_history_navigation = words, back
    return asked.SerializeToString()


def led(page: str) -> bytes:
    said = ForwardMsg()
    said.navigation.page_script_hash = page
    return said.SerializeToString()


def address(words: str) -> bytes:
    said = ForwardMsg()
    said.page_info_changed.query_string = words
    return said.SerializeToString()


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
            for one in said[-1]:
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


def runs(page: str) -> bytes:
    said = ForwardMsg()
    said.new_session.page_script_hash = page
    return said.SerializeToString()


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
    assert heard == [runs("one"), early, runs("two"), address("b=1"), runs("two"), address("b=2")]
