"""The web side: what the server answers to whoever speaks to it without a page, and what pages say when something is refused or has to wait."""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import websockets
from playwright.sync_api import Browser, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection

import jobs.client
from benchmarks.load import Reader
from graphs import errors
from graphs.errors import FxscopeError
from jobs.client import Client
from jobs.record import JobState, Progress, Sleep
from jobs.settings import MiB, Settings
from jobs.store import Store
from jobs.store_record import KeptSource
from pages.ui import show, web, work
from tests import browser as driver
from tests.browser import Server
from tests.test_jobs import MODEL, until
from tests.test_pages import go, opened, settle, texts
from tests.test_queueing import Held

T = TypeVar("T")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def server(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with driver.server(tmp_path_factory.mktemp("data"), "--server.maxUploadSize=2", log=log) as running:
        yield running


class Answer:
    """What came back: status, headers by their names in small letters, and the body."""

    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status, self.body = found.status, found.read()
        self.headers = {name.lower(): value for name, value in found.getheaders()}


def ask(server: Server, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request; the path is sent as it is written."""
    connection = http.client.HTTPConnection(server.address.partition("//")[2], timeout=20)
    try:
        connection.request(method, path, body, dict(headers or {}))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def connect(server: Server, **more: str) -> websockets.connect:
    """A websocket as a browser opens it."""
    address = server.address.replace("http", "ws") + "/_stcore/stream"
    return websockets.connect(address, subprotocols=[websockets.Subprotocol("streamlit")], additional_headers=more, max_size=None)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The end of some conversation; in a thread of its own, since Playwright keeps a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


# Headers and paths


@pytest.mark.parametrize("path", ["/", "/explore?model=zoo/mlp", "/app/static/fxscope.svg", "/_stcore/health", "/app/static/nothing-here"])
def test_every_answer_has_the_headers(server: Server, path: str) -> None:
    found = ask(server, path)
    assert found.status == (404 if "nothing" in path else 200)
    for name, value in web.HEADERS:
        assert found.headers[name.decode()] == value.decode()


OUTSIDE = (
    "/app/static/../../etc/passwd",
    "/app/static/..%2f..%2fapp.py",
    "/app/static/%2e%2e/app.py",
    "/app/static/%2e%2e/.streamlit/config.toml",
    "/app/static/%252e%252e/app.py",
    "/app/static/..\\..\\app.py",
    "/app/static/..%5capp.py",
    "/app/static//etc/passwd",
    "/app/static/%2fetc/passwd",
    "/app/static/fxscope.svg%00.py",
    "/media/../app.py",
    "/media/%2e%2e/app.py",
    "/media//etc/passwd",
    "/component/../../app.py",
    "/component/x/%2e%2e/%2e%2e/app.py",
    "/_stcore/bidi-components/../../app.py",
    "/_stcore/bidi-components/x/%2e%2e/%2e%2e/%2e%2e/app.py",
    "//etc/passwd",
    "/static/../../../../app.py",
    "/static/%2e%2e/%2e%2e/app.py",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_folders_that_are_served(server: Server, path: str) -> None:
    found = ask(server, path)
    assert 400 <= found.status < 500
    assert b"root:" not in found.body
    assert b"streamlit" not in found.body
    assert b"maxUploadSize" not in found.body


@pytest.mark.parametrize(
    "path", ["/app.py", "/.streamlit/config.toml", "/data/index.sqlite", "/jobs/client.py", "/%2e%2e/%2e%2e/etc/passwd"]
)
def test_files_beside_the_app_are_pages_that_do_not_exist(server: Server, path: str) -> None:
    """Streamlit answers a path that it does not know with its own page, or refuses it; never with a file of ours."""
    found = ask(server, path)
    assert found.status >= 400 or b"<title>Streamlit</title>" in found.body
    assert b"set_page_config" not in found.body


# Who may speak


FOREIGN = ("https://elsewhere.example", "http://localhost:3000", "null", "http://127.0.0.1")


def test_another_site_cannot_open_a_websocket(server: Server) -> None:
    async def status(origin: str) -> int:
        try:
            async with connect(server, Origin=origin):
                return 101
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    assert [finished(status(origin)) for origin in FOREIGN] == [403] * len(FOREIGN)
    assert finished(status(server.address)) == 101


def test_another_site_can_read_and_change_nothing_and_makes_the_server_ask_nobody(server: Server, log: Path) -> None:
    for origin in FOREIGN:
        found = ask(server, "/_stcore/host-config", headers={"Origin": origin})
        assert found.status == 200  # its browser keeps the answer from it
        assert "access-control-allow-origin" not in found.headers
        assert ask(server, "/_stcore/upload_file/a/b", "DELETE", headers={"Origin": origin}).status == 403
        assert ask(server, "/_stcore/upload_file/a/b", "OPTIONS", headers={"Origin": origin}).status == 403
    assert "external IP" not in log.read_text()


async def first_session(socket: ClientConnection) -> str:
    """The session's name, which its page knows."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    await socket.send(message.SerializeToString())
    while True:
        found = ForwardMsg.FromString(bytes(await socket.recv()))
        if found.WhichOneof("type") == "new_session":
            return found.new_session.initialize.session_id


def send(server: Server, session: str, file: str, size: int = 10, token: bool = True) -> int:
    """Brings a file as the widget of a page does; the status of the answer."""
    cookie = ask(server, "/_stcore/health").headers["set-cookie"].partition(";")[0]
    headers = {"Content-Type": "multipart/form-data; boundary=cut", "Cookie": cookie}
    if token:
        headers["X-Xsrftoken"] = cookie.partition("=")[2]
    body = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.py"\r\n\r\n' + b"x" * size + b"\r\n--cut--\r\n"
    return ask(server, f"/_stcore/upload_file/{session}/{file}", "PUT", body, headers).status


def with_session(server: Server, act: Callable[[str], T]) -> T:
    """Does something in the name of a session that is there meanwhile."""

    async def connected() -> T:
        async with connect(server) as socket:
            session = await first_session(socket)
            return await asyncio.to_thread(act, session)

    return finished(connected())


def test_a_file_needs_the_token_of_the_page_and_is_limited_in_size(server: Server) -> None:
    def statuses(session: str) -> list[int]:
        return [send(server, session, "a", token=False), send(server, session, "a"), send(server, session, "a", size=3 * MiB)]

    assert with_session(server, statuses) == [403, 204, 413]
    assert send(server, "nobody", "a") == 400


def test_a_session_holds_so_many_files_in_memory_and_no_more(server: Server) -> None:
    most = Settings().files_of_a_reader

    def statuses(session: str) -> list[int]:
        return [send(server, session, str(number)) for number in (*range(most + 1), 0)]

    assert with_session(server, statuses) == [204] * most + [403, 204]  # in the place of another there is room


def test_a_public_server_reads_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        raise AssertionError("it read the file")

    async def keep(message: dict[str, object]) -> None:
        said.append(message)

    client = Client(tmp_path, Held(), Settings(public=True))
    monkeypatch.setattr(jobs.client, "_default", client)
    scope = {"type": "http", "method": "PUT", "path": "/below/_stcore/upload_file/session/file", "headers": []}
    finished(web.Uploads(receive)(scope, receive, keep))  # pyright: ignore[reportArgumentType]
    assert said[0]["status"] == 403
    client.close()


# What pages say


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, client: Client) -> Client:
    """The client that pages ask, with settings that a test may change."""
    monkeypatch.setattr(jobs.client, "_default", client)
    monkeypatch.setattr(client, "settings", Settings())
    return client


def test_a_public_server_offers_no_way_to_bring_files_and_says_why_a_link_shows_none(asked: Client) -> None:
    link = f"model=source/{asked.keep_source(MODEL.encode(), 'mine.py')}"
    app = opened(link)
    assert app.text_area[0].value == MODEL
    asked.settings = Settings(public=True)
    for one in (opened(link), opened(f"model=source/{'0' * 64}")):
        assert "This server runs its own models only" in one.error[0].value
        assert "--public" in one.error[0].value
        assert not one.text_area
        assert not one.get("file_uploader")
        assert one.selectbox(key="model").value == "zoo/mlp"  # a way on
    app = opened()
    assert not [title for title in app.selectbox(key="model").options if "own" in title]
    app = opened(page="profile_nodes")
    app.segmented_control(key="profile what").set_value("A trace or snapshot")
    settle(app)
    assert "Nothing may be brought to this server" in texts(app)
    assert not app.get("file_uploader")


def test_a_busy_server_says_so_in_a_box_with_a_way_out(asked: Client) -> None:
    app = opened("model=zoo/chain&depth=2")
    asked.settings = Settings(waiting=0)
    go(app, "model=zoo/chain&depth=7")
    assert "This server is busy" in app.error[0].value
    assert "Try again when some of them are done" in app.error[0].value
    assert "Below: the last result that worked, of `model=zoo/chain&mode=inference&depth=2`." in texts(app)
    asked.settings = Settings()
    next(button for button in app.button if button.label == "Try again").click()
    settle(app)
    assert not app.error


def test_work_that_is_asked_for_by_a_button_says_too_that_the_server_is_busy(asked: Client) -> None:
    app = opened("model=zoo/chain&depth=2", page="measure")
    asked.settings = Settings(waiting=0)
    next(button for button in app.button if button.label == "Measure").click()
    settle(app)
    assert "This server is busy" in app.error[0].value
    asked.settings = Settings()
    next(button for button in app.button if button.label == "Try again").click()
    settle(app)
    assert not app.error
    assert any(button.label in ("Measure", "Measure again") for button in app.button)


def test_who_waits_sees_how_many_are_before_and_may_leave(asked: Client) -> None:
    app = opened("model=zoo/chain&depth=2")
    slots = asked.server().workers
    long = [asked.submit(Sleep(60.0 + number), reader=f"other {number}") for number in range(slots + 1)]
    until(lambda: asked.server().running == slots)
    app.query_params["depth"] = "8"
    app.run()
    assert [bar.proto.text for bar in app.get("progress")] == [f"Waiting for {slots + 1} jobs before this one …"]
    next(button for button in app.button if button.label == "Cancel").click()
    app.run()
    assert "Cancelled" in app.info[0].value
    assert asked.server().waiting == 1  # the others wait on
    for job in long:
        asked.cancel(job, f"other {long.index(job)}")
    next(button for button in app.button if button.label == "Try again").click()
    settle(app)
    assert not app.error


def test_work_that_takes_long_says_for_how_long_and_when_it_ends() -> None:
    progress = Progress("capturing the graph", 0.1)
    for seconds, told in ((2.0, ""), (12.4, " 12 s of at most 300 s"), (301.0, " 301 s")):
        assert work._doing(progress, JobState("running", progress, None, seconds, 300.0)) == f"Capturing the graph …{told}"


def test_every_kind_of_error_has_a_title() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FxscopeError)}
    assert kinds - {"FxscopeError"} == set(show.KIND_TITLES)


PLANTED = """
import streamlit as st
from starlette.middleware import Middleware
from pages.ui import web

app = st.App({script!r}, middleware=[Middleware(web.Headers)], on_script_error=web.unexpected)
"""
FAILING = """
import streamlit as st

password = "correct horse"

@st.fragment
def part():
    if st.query_params.get("part"):
        raise ValueError(password)

st.write("before")
part()
if not st.query_params.get("part"):
    raise KeyError(password)
"""


def test_a_mistake_of_ours_is_a_box_on_the_page_and_a_traceback_in_the_log_alone(tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "planted_server.py"
    (tmp_path / "failing.py").write_text(FAILING)
    script.write_text(PLANTED.format(script=str(tmp_path / "failing.py")))

    async def seen(address: str, query: str) -> str:
        reader = Reader(address)
        await reader.open()
        await reader.visit("", query)
        await reader.close()
        return reader.text.decode(errors="replace")

    with driver.server(tmp_path, log=log, script=script) as running:
        for query in ("", "part=1"):
            text = finished(seen(running.address, query))
            assert "before" in text
            assert "Something went wrong" in text
            assert "nobody thought of" in text
            assert not [
                word for word in ("correct horse", "redacted", "Traceback", "KeyError", "ValueError", str(tmp_path)) if word in text
            ]
    assert log.read_text().count("Traceback") == 2


@pytest.mark.parametrize(
    ("arguments", "variables", "what"),
    [
        (["--publik"], {}, "`--publik` is not an option"),
        ([], {"FXSCOPE_UPLOAD_GIB": "much"}, "cannot be `much`"),
        ([], {"FXSCOPE_DATA": "/dev/null/x"}, "cannot be kept"),
    ],
)
def test_a_mistake_of_the_operator_s_ends_the_start_with_one_sentence(
    arguments: list[str], variables: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["server.py", *arguments])
    monkeypatch.setattr(jobs.client, "_default", None)
    for name, said in variables.items():
        monkeypatch.setenv(name, said)
    with pytest.raises(SystemExit, match="fxscope does not start") as ended:
        web.opened()
    assert what in str(ended.value)


SLOW = "import time\ntime.sleep(2)\n"


def test_a_page_gets_its_answer_from_the_server_that_comes_after_one_that_was_killed(tmp_path: Path, chromium: Browser) -> None:
    sha = Store(tmp_path).keep_source(KeptSource("slow.py", (SLOW + MODEL).encode()), "model")
    page = chromium.new_page()
    app = page.get_by_test_id("stApp")
    with driver.server(tmp_path) as killed:
        page.goto(f"{killed.address}/?model=source/{sha}")
        page.get_by_text("Capturing the graph").wait_for(timeout=60_000)
        killed.process.kill()
        expect(app).not_to_have_attribute("data-test-connection-state", "CONNECTED", timeout=20_000)
    with driver.server(tmp_path, port=killed.port):
        page.locator(".graph-view g.leaf").first.wait_for(timeout=90_000)  # nobody pressed anything
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert sha in page.url
    page.close()
