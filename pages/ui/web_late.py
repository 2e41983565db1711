"""What a browser asks for before it has heard what the server has just said.

A chart, a clock or the graph may ask for a run between the reader's click and the page's answer to it. Such a request still speaks of the page, or
of the words of the address, from before the click. Streamlit would take it at its word:

- A part of the page that was left is run behind the new one; there is no such part, and yet a run of the old page is announced, for which the
  browser throws the new one away: the reader sees nothing at all. Such requests are not passed on.
- A page that the server has led the reader away from is run again: the reader is back where he was. Such requests are not passed on either.
- The page is run with the old words again: the reader's click is undone on the screen, and stands in the address. Such requests get the new words.
- It comes while what the click calls is still at work: Streamlit breaks that off, and the click is lost. Such requests wait until it is done.

And what the server says late: words that a page sets while the reader leaves it would stand in the address of the next page, in the place of its own.
They are not passed on, and where they have been, the browser is told its address again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.message import DecodeError
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

LATE_S = 5.0  # nobody hears later than that
DRAWN = ("navigation", "delta", "ref_hash", "script_finished")  # of these one comes first when all that was called has returned
SMALL_BYTES = 64 * 1024  # what lists the pages, or is an address, is never larger; graphs are, and need not be looked into


class LateRequests:
    """Between Streamlit and each browser."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        reader, turns = _Reader(), _Turns()

        async def asked() -> Message:
            while True:
                message = await receive()
                content = message.get("bytes") if message["type"] == "websocket.receive" else None
                request = _request(content) if content else None
                if request is None:
                    return message
                await turns.wait()
                timely = reader.asks(request.rerun_script)
                if reader.astray:
                    await send({"type": "websocket.send", "bytes": reader.astray})
                if timely:
                    turns.begin(request.rerun_script.fragment_id)
                    return {**message, "bytes": request.SerializeToString()}

        async def told(message: Message) -> None:
            content = message.get("bytes") if message["type"] == "websocket.send" else None
            said = _said(content or b"")
            turns.hears(said)
            if reader.hears(said):
                await send(message)

        await self._app(scope, asked, told)


class _Turns:
    """A request's turn ends when its page is being drawn: what the reader's click calls is done by then, and its words, or the page that it led to,
    have been told. Who asks for a part of a page that is no longer there is not answered at all, and has no turn.
    """

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._over.set()
        self._begun = False
        self._parts: set[str] = set()  # that are there, of those that are heard of
        self._heard: set[str] = set()  # of in this run

    async def wait(self) -> None:
        """Until the turn before is over; no longer than anybody is late, for not all that is asked for is run."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), LATE_S)

    def begin(self, part: str) -> None:
        """With a request that is passed on.

        Args:
            part: of the page; empty for the whole of it.
        """
        if not part or part in self._parts:
            self._over.clear()
            self._begun = False

    def hears(self, said: ForwardMsg) -> None:
        kind = said.WhichOneof("type")
        if kind == "new_session":
            self._begun = True
            self._heard = set()
        elif kind == "script_finished" and said.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
            self._begun = False  # another run follows at once
        elif self._begun and kind in DRAWN:
            self._over.set()
        if part := said.delta.fragment_id or said.auto_rerun.fragment_id:
            self._heard.add(part)
            self._parts.add(part)
        elif kind == "script_finished" and said.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:  # the whole page
            self._parts = self._heard


class _Reader:
    """Where a browser is: what it asked for last, or where the server has led it since, as a class does.

    Attributes:
        page: the page.
        words: words of the address: the last that the browser spoke of, and behind them those that the server has set since, the newest last.
        astray: what the browser has to be told, for its address has words of a page that it left.
    """

    def __init__(self) -> None:
        self.page = ""
        self.words: list[str] = [""]
        self._set = 0.0
        self.astray = b""
        self._left: tuple[str, list[str], float] = "", [], 0.0  # by the server's will: page, words, when
        self._went: tuple[list[str], float] = [], 0.0  # by the reader's: words that he may not have heard yet, when
        self._runs = self._before = ""  # the page that Streamlit runs, and the one that the reader was on before this one

    def asks(self, asked: ClientState) -> bool:
        """Does the browser still mean its request? Its words are made right."""
        self.astray = b""
        if asked.fragment_id and self.page and asked.page_script_hash != self.page:
            return False
        if self._is_of_the_page_that_was_left(asked):
            return False
        elsewhere = not asked.fragment_id and asked.page_script_hash not in ("", self.page)
        if elsewhere:
            self._before = self.page
        self.page = asked.page_script_hash or self.page if not asked.fragment_id else self.page
        if elsewhere or asked.is_history_navigation:
            self._went = (self.words[1:] if elsewhere else [], time.monotonic())
            self.words = [asked.query_string]
        elif self._has_words_of_the_page_before(asked.query_string):
            self.astray = _address(self.words[-1])
            asked.query_string = self.words[-1]
        else:
            self._hears_of(asked.query_string)
            asked.query_string = self.words[-1]
        return True

    def _hears_of(self, words: str) -> None:
        """The browser speaks of these: what was set after them, it has not heard yet."""
        known = [at for at, one in enumerate(self.words) if _same(one, words)]
        self.words = [words, *self.words[known[-1] + 1 :]] if known else [words]
        if len(self.words) > 1 and time.monotonic() - self._set > LATE_S:  # the reader asks for the old words anew, by a link
            self.words = [words]

    def _is_of_the_page_that_was_left(self, asked: ClientState) -> bool:
        """Does it speak of the page that the server has just led away from, as it was then? What else speaks of that page is the reader's wish."""
        page, words, at = self._left
        if not page or asked.page_script_hash != page or asked.is_history_navigation or time.monotonic() - at > LATE_S:
            self._left = "", [], 0.0
            return False
        return any(_same(one, asked.query_string) for one in words)

    def _has_words_of_the_page_before(self, words: str) -> bool:
        """Were they set by the page that the reader left, too late for it?"""
        set_there, at = self._went
        return time.monotonic() - at <= LATE_S and not _same(words, self.words[-1]) and any(_same(words, one) for one in set_there)

    def hears(self, message: ForwardMsg) -> bool:
        """What the server says, where it is about the place. Is the browser to hear it?"""
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._runs = message.new_session.page_script_hash
        if kind == "navigation":  # said in every run
            now = message.navigation.page_script_hash or self.page
            if now != self.page:
                self._left = self.page, self.words, time.monotonic()
            self.page = now
        elif kind == "page_info_changed":
            if self.page and self._runs not in ("", self.page) and self._runs == self._before:
                return False
            self.words.append(message.page_info_changed.query_string)
            self._set = time.monotonic()
        return True


def _request(content: bytes) -> BackMsg | None:
    """A request to run the page; None where it is something else."""
    message = BackMsg()
    try:
        message.ParseFromString(content)
    except DecodeError:
        return None
    return message if message.WhichOneof("type") == "rerun_script" else None


def _said(content: bytes) -> ForwardMsg:
    """What the server says; of something large only that it is a part of a page, and nothing of what cannot be read."""
    said = ForwardMsg()
    if len(content) > SMALL_BYTES:
        said.delta.SetInParent()
        return said
    try:
        said.ParseFromString(content)
    except DecodeError:
        said.Clear()
    return said


def _address(words: str) -> bytes:
    """What tells a browser its address."""
    said = ForwardMsg()
    said.page_info_changed.query_string = words
    return said.SerializeToString()


def _same(one: str, other: str) -> bool:
    """The same words, however they are written."""
    return one == other or parse_qsl(one, keep_blank_values=True) == parse_qsl(other, keep_blank_values=True)
