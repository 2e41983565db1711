"""What stands around the pages: headers of every answer, who may ask, how many files the web process holds, and what begins and ends with the server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import streamlit as st
from starlette.responses import PlainTextResponse
from streamlit.runtime import get_instance
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

import jobs.client
from graphs.errors import FxscopeError
from jobs.record import Problem
from jobs.sandbox.limits import limits
from jobs.settings import MiB, Settings, refuse_others
from pages.ui import show
from pages.ui.web_late import App, Message, Send

# Streamlit's own page has scripts and styles in it and compiles some; nothing may come from elsewhere, be sent elsewhere, or frame the app.
CONTENT = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", CONTENT.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"no-referrer"),  # the address holds the reader's experiment
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

UPLOAD = "/_stcore/upload_file/"
HELD_OF_ALL_BYTES = 2048 * MiB  # in the memory of the web process, until their readers leave or press the button
UNEXPECTED = Problem(
    "FxscopeError",
    "this part of the page failed in a way that nobody thought of",
    help="Reload the page, or change what you asked for last; whoever runs this server finds the details in its log.",
)


class Headers:
    """Adds the headers to every answer of an ASGI app."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in HEADERS}
                message["headers"] = [*(one for one in message.get("headers", ()) if one[0].lower() not in ours), *HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class SameOrigin:
    """Other sites open no websocket, change nothing, and may not ask Streamlit whether they are allowed: it would let every page of
    `localhost` in, and to answer all others ask an address outside for this machine's own, while all readers wait."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] in ("http", "websocket") and _is_foreign(scope["headers"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            if scope["method"] not in ("GET", "HEAD"):
                await PlainTextResponse("Not from another site.", status_code=403)(scope, receive, send)
                return
            scope = {**scope, "headers": [one for one in scope["headers"] if one[0] != b"origin"]}
        await self._app(scope, receive, send)


def _is_foreign(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Does a page of another site ask? `Origin` and `Host` are compared, and what the operator allowed in `server.corsAllowedOrigins`."""
    found = {name: value.decode("latin-1") for name, value in headers if name in (b"origin", b"host")}
    origin = found.get(b"origin", "")
    allowed = [str(one).rstrip("/") for one in st.get_option("server.corsAllowedOrigins") or ()]
    return bool(origin) and origin.partition("//")[2] != found.get(b"host") and origin not in allowed


class Uploads:
    """Refuses files before they are read: all of them on a public server, and those above what a session, or all together, may hold in memory.
    Streamlit itself limits the size of each file only, and takes files that no page asked for."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("PUT", "POST") and UPLOAD in scope["path"]:
            session, _, file = scope["path"].partition(UPLOAD)[2].partition("/")
            if refused := _refusal(jobs.client.default_client().settings, session, file):
                await PlainTextResponse(refused, status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(settings: Settings, session: str, file: str) -> str:
    """Why a session's file is not taken; empty where it is."""
    if settings.public:
        return "Nothing may be brought to this server."
    manager = get_instance().uploaded_file_mgr
    assert isinstance(manager, MemoryUploadedFileManager)
    beside = [len(held.data) for name, held in list(manager.file_storage.get(session, {}).items()) if name != file]
    if len(beside) >= settings.files_of_a_reader or sum(beside) >= settings.bytes_of_a_reader:
        return "You brought as much as one session may. Remove a file, or reload the page."
    if sum(stat.byte_length for stats in manager.get_stats().values() for stat in stats) >= HELD_OF_ALL_BYTES:
        return "Readers bring too many files at this moment. Try again in a minute."
    return ""


def unexpected(error: Exception) -> bool:
    """Our box in the place of an error that is a mistake of ours; Streamlit has written it to the log. True: nothing else is shown of it."""
    show.problem(UNEXPECTED)
    return True


def opened() -> None:
    """Reads what the operator said and opens what is kept; where that cannot be, the start ends with one sentence of why."""
    try:
        refuse_others(sys.argv[1:])
        limits()
        jobs.client.default_client()
    except FxscopeError as error:
        sys.exit(f"fxscope does not start: {error}")


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """PyTorch is loaded while nobody waits for it, and workers end with the server."""
    client = jobs.client.default_client()
    try:
        yield
    finally:
        client.close()
