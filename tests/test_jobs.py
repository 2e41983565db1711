"""Jobs from the outside: whatever happens to the worker, the client answers, and what is kept stays kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from graphs.errors import FxscopeError, JobError, RequestError, SourceError, TooLargeError
from jobs import client as client_module
from jobs.client import Client, as_error
from jobs.engines import LocalEngine
from jobs.process import WorkerProcess
from jobs.record import (
    Catalogue,
    CatalogueResult,
    Crash,
    Empty,
    Explore,
    ExploreResult,
    Measure,
    Optimize,
    OptimizeResult,
    Problem,
    Progress,
    Request,
    Sleep,
    Task,
)
from jobs.store import KeptSource, Store, keep_within
from jobs.version import ROOT
from jobs.worker import unexpected

MODEL = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def inputs():
    return torch.randn(2, 8)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("data")
    made = Client(folder, LocalEngine(folder / "scratch", folder / "kernels", slots=1))
    yield made
    made.close()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def running(client: Client, request: Request, limit_s: float | None = None) -> str:
    job_id = client.submit(request, limit_s)
    until(lambda: client.state(job_id).status == "running" and (client.state(job_id).progress or Progress("", 0)).share > 0)
    return job_id


def worker_pid(client: Client) -> int:
    """Of the only one."""
    assert isinstance(client._engine, LocalEngine)
    [pid] = client._engine.pids()
    return pid


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# Progress, waiting, cancelling, limits


def test_progress_is_told_while_a_job_runs(client: Client) -> None:
    told: list[Progress] = []
    assert client.run(Sleep(1.5), told.append) == Empty()
    shares = [one.share for one in told if one.text == "sleeping"]
    assert len(shares) > 2
    assert shares == sorted(shares)


def test_a_waiting_job_says_how_many_are_before_it(client: Client) -> None:
    first = running(client, Sleep(30.1))
    second = client.submit(Sleep(0.01))
    state = client.state(second)
    assert (state.status, cast(Progress, state.progress).text) == ("queued", "waiting for 1 job before this one")
    client.cancel(first)
    assert client.run(Sleep(0.01)) == Empty()


def test_cancelling_a_running_job_ends_its_worker_and_the_next_job_works(client: Client) -> None:
    job = running(client, Sleep(30.2))
    pid = worker_pid(client)
    client.cancel(job)
    until(lambda: client.state(job).status == "cancelled" and is_gone(pid))
    with pytest.raises(JobError, match="cancelled"):
        client.result(job)
    assert client.run(Sleep(0.02)) == Empty()


def test_cancelling_a_waiting_job_takes_it_from_the_queue(client: Client) -> None:
    first = running(client, Sleep(30.3))
    second = client.submit(Sleep(0.03))
    client.cancel(second)
    assert client.state(second).status == "cancelled"
    client.cancel(first)
    assert client.run(Sleep(0.03)) == Empty()


def test_a_job_over_its_limit_is_ended_and_says_so_and_the_next_job_works(client: Client) -> None:
    with pytest.raises(JobError, match="took longer than 0.4 s") as caught:
        client.run(Sleep(30.4), limit_s=0.4)
    assert caught.value.where == "while sleeping"
    assert "smaller model" in caught.value.help
    assert client.run(Sleep(0.04)) == Empty()


@pytest.mark.parametrize(("death", "way_out"), [(signal.SIGKILL, "memory"), (signal.SIGSEGV, "fresh worker")])
def test_a_crash_names_its_signal_and_the_next_job_works(client: Client, death: int, way_out: str) -> None:
    with pytest.raises(JobError, match=signal.Signals(death).name) as caught:
        client.run(Crash(death))
    assert way_out in caught.value.help
    assert client.run(Sleep(0.05 + death / 1000)) == Empty()


def test_a_worker_killed_between_jobs_is_replaced(client: Client) -> None:
    client.run(Sleep(0.06))
    os.kill(worker_pid(client), signal.SIGKILL)
    assert client.run(Sleep(0.07)) == Empty()


def test_a_worker_that_dies_before_it_begins_a_job_is_replaced_within_that_job(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.run(Sleep(0.061))
    pid, send = worker_pid(client), WorkerProcess.send

    def kill_then_send(worker: WorkerProcess, task: Task) -> None:
        if worker.pid == pid:
            os.kill(pid, signal.SIGKILL)
        send(worker, task)

    monkeypatch.setattr(WorkerProcess, "send", kill_then_send)
    assert client.run(Sleep(0.071)) == Empty()
    assert worker_pid(client) != pid


def test_a_failed_job_asked_again_runs_again(client: Client) -> None:
    for _ in range(2):
        with pytest.raises(JobError, match="SIGABRT"):
            client.run(Crash(signal.SIGABRT))


def test_the_same_request_from_many_readers_is_one_job(client: Client) -> None:
    ids: list[str] = []
    readers = [threading.Thread(target=lambda: ids.append(client.submit(Sleep(0.5)))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(set(ids)) == 1
    assert len(client._queue) + len(client._running) == 1
    client.run(Sleep(0.5))


def test_a_job_nobody_knows_has_failed_and_says_what_to_do(client: Client) -> None:
    state = client.state("0" * 64)
    assert state.status == "failed"
    assert cast(Problem, state.problem).help == "Ask for it again."


def test_closing_ends_the_worker(tmp_path: Path) -> None:
    client = Client(tmp_path)
    running(client, Sleep(30.5))
    pid = worker_pid(client)
    client.close()
    until(lambda: is_gone(pid))


# Kept results


def test_a_kept_result_answers_without_the_worker(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.run(Sleep(0.08))
    monkeypatch.setattr(Client, "_enqueue", lambda *_: pytest.fail("the worker was asked"))
    assert client.state(client.submit(Sleep(0.08))).status == "done"
    again = Client(client._folder)  # nor in a process that starts later
    assert again.run(Sleep(0.08)) == Empty()


def test_fresh_runs_again_in_spite_of_a_kept_result(client: Client) -> None:
    client.run(Sleep(0.2))
    start = time.monotonic()
    client.run(Sleep(0.2), fresh=True)
    assert time.monotonic() - start >= 0.2


def test_a_result_kept_before_the_code_changed_does_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.run(Sleep(0.09))
    monkeypatch.setattr(client_module, "code_version", lambda: "another version")
    job = client.submit(Sleep(0.09))
    assert client.state(job).status in ("queued", "running")
    client.run(Sleep(0.09))


def test_a_damaged_file_is_absent_and_the_job_runs_again(tmp_path: Path) -> None:
    client = Client(tmp_path)
    try:
        job = client.submit(Sleep(0.01))
        until(lambda: client.state(job).status == "done")
        damaged = next((tmp_path / "results").glob("*/*"))
        damaged.write_bytes(b"something else")
        client._decoded.clear()
        assert client.run(Sleep(0.01)) == Empty()
        assert damaged.read_bytes() != b"something else"
    finally:
        client.close()


def test_a_damaged_index_is_put_aside(tmp_path: Path) -> None:
    sha = Store(tmp_path).keep_source(KeptSource("model.py", MODEL.encode()))
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 1000)
    for beside in ("-wal", "-shm"):
        Path(f"{tmp_path / 'index.sqlite'}{beside}").unlink(missing_ok=True)
    store = Store(tmp_path)
    assert store.source(sha) == KeptSource("model.py", MODEL.encode())
    store.keep_result("key", b"content")
    assert store.result("key") == b"content"


def test_results_unused_for_longest_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=250)
    for name in "abc":
        store.keep_result(name, name.encode() * 100)
        time.sleep(0.01)
    assert [store.result(name) is not None for name in "abc"] == [False, True, True]
    assert len(list((tmp_path / "results").glob("*/*"))) == 2


def test_of_what_can_be_made_again_the_oldest_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        path = tmp_path / name / "kernel.so"
        path.parent.mkdir()
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    keep_within(tmp_path, 25)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.so")) == ["middle", "new"]
    keep_within(tmp_path / "nothing there", 0)


def test_a_folder_that_cannot_be_written_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(JobError, match="results cannot be kept") as caught:
        Client(tmp_path / "taken")
    assert "FXSCOPE_DATA" in caught.value.help


WRITES_FOREVER = """
import sys
from pathlib import Path
from jobs.client import Client
from jobs.record import Sleep
from jobs.store import Store
folder = Path(sys.argv[1])
store, count = Store(folder), 0
client = Client(folder)
client.submit(Sleep(60))
while not client._engine.pids():
    pass
print(client._engine.pids()[0], flush=True)
while True:
    store.keep_result(f"key {count}", b"%d " % count * 10_000)
    count += 1
    print(count, flush=True)
"""


def test_kill_9_of_the_web_process_leaves_the_store_readable_and_no_worker_behind(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert writer.stdout
    worker = int(writer.stdout.readline())
    written = [int(writer.stdout.readline()) for _ in range(20)]
    writer.kill()
    writer.wait()
    store = Store(tmp_path)
    for count in range(written[-1]):
        assert store.result(f"key {count}") == b"%d " % count * 10_000
    until(lambda: is_gone(worker))


# Sources


def test_a_kept_source_comes_back_with_its_name(client: Client) -> None:
    sha = client.keep_source(MODEL.encode(), "mine.py")
    assert client.source(sha) == (MODEL.encode(), "mine.py")
    assert client.keep_source(MODEL.encode(), "other.py") != sha


def test_a_name_that_turns_text_around_is_made_readable(client: Client) -> None:
    kept = client.source(client.keep_source(MODEL.encode(), "\u202egnp.exe\u202c \u05e9\u05dc.py"))
    assert kept
    assert kept[1] == "\ufffdgnp.exe\ufffd \u05e9\u05dc.py"


@pytest.mark.parametrize(
    ("line", "way_out"),
    [("import os; os._exit(0)", "in the file ended its process"), ("def model(): raise MemoryError", "take less memory")],
)
def test_a_file_that_ends_itself_or_takes_too_much_is_told_what_to_look_at(client: Client, line: str, way_out: str) -> None:
    sha = client.keep_source(f"{MODEL}\n{line}".encode(), "own_end.py")
    with pytest.raises(FxscopeError) as caught:
        client.run(Explore(f"model=source/{sha}&device=cpu"))
    assert way_out in caught.value.help
    assert not caught.value.what.endswith(":")


@pytest.mark.parametrize("sha", ["", "../../../etc/passwd", "0" * 64])
def test_a_source_that_is_not_kept_is_none(client: Client, sha: str) -> None:
    assert client.source(sha) is None
    with pytest.raises(RequestError, match="not kept here"):
        client.submit(Explore(f"model=source/{sha}"))


def test_a_huge_source_is_refused(client: Client) -> None:
    with pytest.raises(SourceError, match="larger than 2 MB"):
        client.keep_source(b"#" * (2 << 20) + b"!", "huge.py")


# Real work


def test_the_catalogue_names_models_optimizations_and_the_device(client: Client) -> None:
    found = cast(CatalogueResult, client.run(Catalogue()))
    assert "zoo/mlp" in [model.name for model in found.models]
    assert found.optimizations
    assert found.device.memory_bytes > 0


def test_a_pipeline_gives_a_graph_and_a_step_for_each_of_its_steps(client: Client) -> None:
    words = "model=zoo/mlp&mode=training&device=cpu&pipeline=merge-common-subexpressions,remove-dead-code"
    found = cast(OptimizeResult, client.run(Optimize(words)))
    assert [step.words for step in found.steps] == ["merge-common-subexpressions", "remove-dead-code"]
    assert [graph.totals for graph in found.graphs[1:]] == [step.after for step in found.steps]
    assert {step.verdict.kind for step in found.steps} <= {"bitwise", "rounding"}


def test_one_more_step_does_not_redo_the_earlier_ones(client: Client) -> None:
    words = "model=zoo/mlp&mode=training&device=cpu&pipeline=merge-common-subexpressions"
    first = cast(OptimizeResult, client.run(Optimize(words)))
    told: list[Progress] = []
    both = cast(OptimizeResult, client.run(Optimize(f"{words},fold-constants"), told.append))
    assert both.steps[0] == first.steps[0]  # its seconds too: the very same record
    assert not [one for one in told if "merge" in one.text or "capturing" in one.text]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("model=zoo/nope", "there is no model `zoo/nope`"),
        ("model=zoo/mlp&colour=red", "no option `colour`"),
        ("model=zoo/mlp&batch=many", "`many`"),
        ("model=zoo/mlp&pipeline=remove-dead-code,remove-dead-cod", "there is no optimization `remove-dead-cod`"),
        ("model=zoo/mlp&pipeline=remove-dead-code(speed=9)", "has no setting `speed`"),
    ],
)
def test_words_that_name_nothing_are_refused_with_where_and_a_way_out(client: Client, words: str, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        client.run(Optimize(words))
    assert caught.value.where
    assert caught.value.help


def test_a_file_that_prints_reads_and_takes_the_streams_does_not_disturb_the_answer(client: Client) -> None:
    noisy = """
import os, sys
print("noise" * 100_000)
os.write(1, b"\\x00\\x00\\x00\\x05noise")
assert sys.stdin.read() == ""
"""
    sha = client.keep_source((noisy + MODEL).encode(), "noisy.py")
    found = cast(ExploreResult, client.run(Explore(f"model=source/{sha}&device=cpu")))
    assert found.report.parameters == 8 * 16 + 16 + 16 * 4 + 4


@pytest.mark.parametrize("loop", ["while True: pass", "sum(range(10**15))"])
def test_a_file_that_never_ends_meets_the_limit_even_inside_one_call(client: Client, loop: str) -> None:
    sha = client.keep_source(f"{loop}\n{MODEL}".encode(), "endless.py")
    with pytest.raises(JobError, match="took longer than 8 s") as caught:
        client.run(Explore(f"model=source/{sha}&device=cpu"), limit_s=8)
    assert caught.value.where == "while capturing the graph"
    assert client.run(Sleep(0.011 + len(loop) / 1e5)) == Empty()


def test_a_file_cannot_change_torch_for_the_next_reader(client: Client) -> None:
    sha = client.keep_source(("import torch\ntorch.set_default_dtype(torch.float64)\n" + MODEL).encode(), "bad.py")
    client.run(Explore(f"model=source/{sha}&device=cpu"))
    clean = client.keep_source(MODEL.encode(), "clean.py")
    found = cast(ExploreResult, client.run(Explore(f"model=source/{clean}&device=cpu")))
    assert {node.dtype for node in found.graph.nodes} <= {"float32", ""}


def test_a_model_too_large_for_this_machine_says_how_large_when_measured(client: Client) -> None:
    huge = MODEL.replace("nn.Linear(8, 16)", "nn.Linear(8, 1 << 40)").replace("nn.Linear(16, 4)", "nn.Linear(1 << 40, 1)")
    words = f"model=source/{client.keep_source(huge.encode(), 'huge.py')}&device=cpu"
    assert client.run(Explore(words))
    with pytest.raises(TooLargeError, match=r"needs [\d.]+ GiB") as caught:
        client.run(Measure(words))
    assert caught.value.where == "cpu"


# Errors as records


@pytest.mark.parametrize("kind", ["RequestError", "SourceError", "CaptureError", "RewriteError", "TooLargeError", "JobError"])
def test_a_problem_becomes_the_error_that_it_names(kind: str) -> None:
    error = as_error(Problem(kind, "what", "where", "help"))
    assert (type(error).__name__, error.what, error.where, error.help) == (kind, "what", "where", "help")


def test_a_problem_of_a_strange_name_becomes_a_job_error() -> None:
    assert type(as_error(Problem("annotations", "what"))) is JobError
    assert isinstance(as_error(Problem("nonsense", "what")), FxscopeError)


def test_an_unexpected_error_names_its_type_message_and_line() -> None:
    try:
        int("seven")
    except ValueError as error:
        problem = unexpected(error)
    assert problem.kind == "JobError"
    assert problem.what == "ValueError: invalid literal for int() with base 10: 'seven'"
    assert problem.where.startswith("test_jobs.py:")
    assert problem.help


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_memory_that_ran_out_says_so(error: Exception) -> None:
    assert unexpected(error).kind == "TooLargeError"


def test_the_client_does_not_import_torch() -> None:
    code = "import sys, jobs.client, jobs.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
