"""Many readers and one machine: turns, work shared by those who ask for the same, measurements alone, and an end to waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from graphs.errors import BusyError, JobError, RequestError, SourceError
from jobs import client as client_module
from jobs.client import Client
from jobs.engines import LocalEngine, Order, Tell, Unwanted
from jobs.queueing import FairQueue
from jobs.record import Catalogue, Empty, Explore, Measure, Optimize, Problem, Progress, Sleep, Task
from jobs.sandbox.limits import limits
from jobs.sandbox.record import Isolation, Layer
from jobs.settings import Settings, refuse_others, settings
from tests.test_jobs import MODEL, running, until


def everything(queue: FairQueue[str]) -> list[str]:
    taken = []
    while job := queue.take(lambda _: True):
        taken.append(job)
    return taken


def test_readers_take_turns_and_the_order_shown_is_the_order_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    for job, reader in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")]:
        queue.put(job, reader)
    shown = list(queue)
    assert shown == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert (len(queue), queue.of("a"), queue.of("nobody")) == (6, 3, 0)
    assert everything(queue) == shown
    assert len(queue) == 0


def test_who_had_a_turn_goes_behind_who_waits() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a1", "a")
    queue.put("b1", "b")
    assert queue.take(lambda _: True) == "a1"
    queue.put("a2", "a")
    assert everything(queue) == ["b1", "a2"]


def test_nobody_overtakes_a_job_that_may_not_begin() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("alone", "a")
    queue.put("small", "b")
    assert queue.take(lambda job: job != "alone") is None
    assert queue.take(lambda _: True) == "alone"


def test_a_job_is_taken_out_wherever_it_stands() -> None:
    queue: FairQueue[str] = FairQueue()
    for job, reader in [("a1", "a"), ("a2", "a"), ("b1", "b")]:
        queue.put(job, reader)
    assert [queue.remove(job) for job in ("a2", "a2", "b1")] == [True, False, True]
    assert list(queue) == ["a1"]


# What an engine admits


def order(request: object, **sources: tuple[str, bytes]) -> Order:
    return Order(Task("id", request, sources), "v", 1.0)  # pyright: ignore[reportArgumentType]


def test_a_measurement_has_the_machine_to_itself(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, tmp_path, slots=2)
    drawn, measured = order(Explore("model=zoo/mlp")), order(Measure("model=zoo/mlp"))
    assert engine.admits(measured, [])
    assert engine.admits(drawn, [drawn])
    assert not engine.admits(measured, [drawn])
    assert not engine.admits(drawn, [measured])
    assert not engine.admits(drawn, [drawn, drawn])


def test_an_order_says_what_it_needs() -> None:
    assert [order(Explore(f"model=zoo/mlp&device={device}")).gpu for device in ("auto", "cpu", "cuda")] == [False, False, True]
    assert order(Optimize("model=zoo/mlp&pipeline=fold-constants")).model == order(Explore("model=zoo/mlp")).model
    assert order(Catalogue()).model == ""


# The client


class Held:
    """An engine that begins jobs and ends them when it is told to."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.go = threading.Event()

    def admits(self, order: Order, running: Sequence[Order]) -> bool:
        return len(running) < self.slots

    def perform(self, order: Order, tell: Tell, unwanted: Unwanted) -> bytes | Problem:
        assert isinstance(order.task.request, Sleep)
        self.begun.append(f"{order.task.request.seconds:g}")
        tell(Progress("working", 0.5))
        while not self.go.wait(0.01):
            if unwanted():
                return Problem("JobError", "ended")
        return msgspec.msgpack.encode(Empty())

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def close(self) -> None:
        self.go.set()


@pytest.fixture
def engine() -> Held:
    return Held()


@pytest.fixture
def client(engine: Held, tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path, engine)
    yield made
    made.close()


def waits(client: Client, job: str) -> str:
    progress = client.state(job).progress
    return progress.text if progress else ""


def test_as_many_jobs_run_as_the_engine_takes_and_readers_take_turns(client: Client, engine: Held) -> None:
    for number in (1, 2, 3, 4, 5):
        client.submit(Sleep(number), reader="greedy")
    late = client.submit(Sleep(6), reader="late")
    until(lambda: len(engine.begun) == 2)
    assert engine.begun == ["1", "2"]
    until(lambda: waits(client, late) == "waiting for 3 jobs before this one")  # two that run, and one of whoever asked first
    engine.go.set()
    until(lambda: client.state(late).status == "done")
    assert sorted(engine.begun[:4]) == ["1", "2", "3", "6"]


def test_cancelling_what_others_wait_for_leaves_it_to_them(client: Client, engine: Held) -> None:
    job = client.submit(Sleep(1), reader="a")
    assert client.submit(Sleep(1), reader="b") == job
    until(lambda: client.state(job).status == "running")
    client.cancel(job, "a")
    assert [client.state(job, reader).status for reader in ("a", "b")] == ["cancelled", "running"]
    assert engine.cancelled == []
    assert client.submit(Sleep(1), reader="a") == job  # who changes his mind is back in
    assert client.state(job, "a").status == "running"
    client.cancel(job, "b")
    client.cancel(job, "a")
    until(lambda: client.state(job).status == "cancelled")
    assert engine.cancelled == [job]
    assert len(engine.begun) == 1


def test_a_full_queue_says_busy_and_takes_more_later(client: Client, engine: Held) -> None:
    client.settings = Settings(waiting_of_a_reader=2, waiting=3)
    jobs = []
    for number in (1, 2):
        jobs.append(client.submit(Sleep(number), reader="a"))
        until(lambda job=jobs[-1]: client.state(job).status == "running")
    jobs += [client.submit(Sleep(number), reader="a") for number in (3, 4)]
    with pytest.raises(BusyError, match="2 of your jobs wait") as caught:
        client.submit(Sleep(5), reader="a")
    assert "cancel one" in caught.value.help
    jobs.append(client.submit(Sleep(6), reader="b"))
    with pytest.raises(BusyError, match="3 jobs of all readers"):
        client.submit(Sleep(7), reader="c")
    assert client.submit(Sleep(6), reader="c") == jobs[-1]  # to wait with others is always possible
    engine.go.set()
    until(lambda: all(client.state(job).status == "done" for job in jobs))
    assert client.run(Sleep(5)) == Empty()


def test_jobs_run_beside_each_other_in_workers_of_their_own(tmp_path: Path) -> None:
    client = Client(tmp_path, LocalEngine(tmp_path / "scratch", tmp_path / "kernels", slots=2))
    first = running(client, Sleep(30.1))
    second = running(client, Sleep(30.2))
    assert isinstance(client._engine, LocalEngine)
    assert len(set(client._engine.pids())) == 2
    client.cancel(first)
    until(lambda: client.state(first).status == "cancelled")
    assert client.state(second).status == "running"
    assert client.run(Sleep(0.01)) == Empty()
    client.close()
    until(lambda: client.state(second).status == "cancelled")


def test_a_job_cancelled_before_its_engine_knows_it_ends(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "scratch", tmp_path / "kernels", slots=1)
    begun = time.monotonic()
    outcome = engine.perform(Order(Task("id", Sleep(30.0), {}), client_module.code_version(), 60.0), lambda _: None, lambda: True)
    engine.close()
    assert isinstance(outcome, Problem)
    assert time.monotonic() - begun < 25


def test_where_nothing_holds_code_back_files_are_not_run_unless_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Isolation((Layer("Sandbox", False, True, "this system has no namespaces"),))
    monkeypatch.setattr(client_module, "isolation", lambda: nothing)
    for trusted in (False, True):
        engine = Held()
        client = Client(tmp_path, engine, Settings(trust_uploads=trusted))
        monkeypatch.setattr(engine, "perform", lambda *_: Problem("CaptureError", "it ran"))
        words = Explore(f"model=source/{client.keep_source(MODEL.encode(), 'mine.py')}")
        with pytest.raises(Exception, match="it ran" if trusted else "no namespaces") as caught:
            client.run(words)
        assert trusted or (isinstance(caught.value, JobError) and "--trust-uploads" in caught.value.help)
        client.close()


def test_a_public_server_takes_and_runs_no_files(tmp_path: Path) -> None:
    sha = Client(tmp_path, Held()).keep_source(MODEL.encode(), "mine.py")
    public = Client(tmp_path, Held(), Settings(public=True))
    with pytest.raises(SourceError, match="nothing may be brought"):
        public.keep_source(MODEL.encode(), "mine.py")
    with pytest.raises(SourceError, match="nothing may be brought"):
        public.keep_recording(b"{}", "trace.json")
    with pytest.raises(RequestError, match="its own models only"):
        public.submit(Explore(f"model=source/{sha}"))
    assert not public.server().uploads


def test_what_one_reader_brings_has_an_end_and_others_are_not_touched(tmp_path: Path) -> None:
    client = Client(tmp_path, Held(), Settings(files_of_a_reader=2, bytes_of_a_reader=3000))
    first = client.keep_source(b"#" * 1000, "a.py", "one")
    assert client.keep_source(b"#" * 1000, "a.py", "one") == first  # the same again is not more
    client.keep_source(b"-" * 1000, "b.py", "one")
    with pytest.raises(SourceError, match="more than 2 files"):
        client.keep_source(b"+" * 10, "c.py", "one")
    client.keep_source(b"+" * 2500, "c.py", "two")
    with pytest.raises(SourceError, match="more than 2 files"):
        client.keep_source(b"*" * 600, "d.py", "two")
    assert client.source(first) == (b"#" * 1000, "a.py")


@pytest.mark.parametrize(
    ("arguments", "variables", "wanted"),
    [
        ([], {}, Settings()),
        (["app.py", "--trust-uploads"], {}, Settings(trust_uploads=True)),
        ([], {"FXSCOPE_TRUST_UPLOADS": "1", "FXSCOPE_PUBLIC": "1"}, Settings(trust_uploads=True, public=True)),
        (["--engine", "ray://a:1"], {"FXSCOPE_ENGINE": "local"}, Settings(engine="ray://a:1")),
        (["--engine=ray://a:1", "--public"], {}, Settings(engine="ray://a:1", public=True)),
        ([], {"FXSCOPE_ENGINE": "ray://b:2", "FXSCOPE_PUBLIC": "0"}, Settings(engine="ray://b:2")),
    ],
)
def test_whoever_runs_the_server_decides(arguments: list[str], variables: dict[str, str], wanted: Settings) -> None:
    assert settings(arguments, variables) == wanted


def test_an_engine_without_a_name_is_refused() -> None:
    with pytest.raises(RequestError, match="no engine is named"):
        settings(["--engine"], {})


@pytest.mark.parametrize("name", ["FXSCOPE_PUBLIC", "FXSCOPE_TRUST_UPLOADS"])
@pytest.mark.parametrize("said", ["yes", "true", "no", " 1"])
def test_a_variable_that_says_neither_yes_nor_no_is_refused(name: str, said: str) -> None:
    with pytest.raises(RequestError, match=f"{name} cannot be"):
        settings([], {name: said})


@pytest.mark.parametrize(
    "arguments", [["--publik"], ["public"], ["--public", "--server.port=80"], ["--engine", "ray://a:1", "b"], ["--public=1"]]
)
def test_what_is_no_option_is_refused_when_the_server_starts(arguments: list[str]) -> None:
    with pytest.raises(RequestError, match="not an option"):
        refuse_others(arguments)


@pytest.mark.parametrize("arguments", [[], ["--public", "--trust-uploads"], ["--engine", "ray://a:1"], ["--engine=local", "--public"]])
def test_options_are_no_mistakes(arguments: list[str]) -> None:
    refuse_others(arguments)


@pytest.mark.parametrize("said", ["abc", "nan", "inf", "-1", "0"])
def test_what_is_no_amount_of_memory_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXSCOPE_UPLOAD_GIB", said)
    with pytest.raises(RequestError, match="FXSCOPE_UPLOAD_GIB cannot be"):
        limits()
