"""Workers that are forked from a process with PyTorch loaded: as new as programs of their own, and gone with who asked for them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from jobs import birth
from jobs.birth import Child, Forked, Nursery, Started, new_child
from jobs.client import Client
from jobs.engines import LocalEngine
from jobs.process import WorkerProcess
from jobs.record import Catalogue, CatalogueResult, Crash, Empty, Explore, ExploreResult, Sleep, Task
from jobs.version import code_version
from tests.test_jobs import MODEL, is_gone, until

pytestmark = pytest.mark.skipif(not birth.CAN_FORK, reason="only Linux forks workers")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    born = new_child(str(tmp_path), {"TMPDIR": str(tmp_path)})
    yield born
    born.kill()
    born.wait()
    born.stdin.close()


def worker(folder: Path, uploads: bool = False) -> WorkerProcess:
    return WorkerProcess(folder / "scratch", code_version(), uploads, folder / "kernels")


def done(process: WorkerProcess, task: Task) -> bytes:
    """The last message of a task."""
    process.send(task)
    last = b""
    while b"Done" not in last and b"Problem" not in last:
        last = process.receive(time.monotonic() + 60) or b"Done: it has ended"
    return last


def are_only_streams(fd: Path) -> bool:
    """Whether the open files of a process are its three streams, pipes and nothing at all; one that is closed meanwhile is none."""
    links = {}
    for entry in fd.iterdir():
        with contextlib.suppress(FileNotFoundError):
            links[int(entry.name)] = os.readlink(entry)
    return {0, 1, 2} <= links.keys() and all(link.startswith("pipe:") or link == os.devnull for link in links.values())


def test_a_forked_worker_has_its_folder_its_variables_and_no_files_but_its_streams(child: Child, tmp_path: Path) -> None:
    assert isinstance(child, Forked)
    process = Path(f"/proc/{child.pid}")
    until(lambda: (process / "cwd").resolve() == tmp_path)
    until(lambda: "jobs.nursery" not in os.readlink(process / "fd/0"))
    until(lambda: are_only_streams(process / "fd"))  # while it starts it opens files of its own for a moment
    assert os.getpgid(child.pid) == child.pid


def test_how_a_worker_ends_is_told(child: Child) -> None:
    assert child.code() is None
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    assert child.code() == -signal.SIGTERM


def test_a_worker_that_is_not_wanted_before_it_is_born_does_not_live(tmp_path: Path) -> None:
    nursery = Nursery("a version")
    child = nursery.fork(str(tmp_path), {})
    child.kill()
    assert child.wait(1) == -signal.SIGKILL
    assert child.pid == 0
    later = nursery.fork(str(tmp_path), {})  # which shows that the nursery has come to the first
    assert later.pid > 0
    later.kill()
    later.wait()
    children = Path(f"/proc/{nursery._process.pid}/task/{nursery._process.pid}/children")
    until(lambda: not children.read_text().split())
    nursery.retire()
    until(lambda: not nursery.alive())


def test_a_retired_nursery_ends_after_its_last_worker(tmp_path: Path) -> None:
    nursery = Nursery("a version")
    child = nursery.fork(str(tmp_path), {})
    assert child.pid
    nursery.retire()
    time.sleep(0.2)
    assert nursery.alive()
    assert child.code() is None
    child.kill()
    until(lambda: not nursery.alive())


def test_with_the_nursery_its_workers_end_and_the_next_job_has_a_new_one(tmp_path: Path) -> None:
    client = Client(tmp_path)
    assert client.run(Sleep(0.01)) == Empty()
    assert isinstance(client._engine, LocalEngine)
    [pid], nursery = client._engine.pids(), birth._current()
    nursery._process.kill()
    until(lambda: is_gone(pid) and not nursery.alive())
    assert client.run(Sleep(0.02)) == Empty()
    assert birth._current() is not nursery
    client.close()


def test_code_that_changed_is_loaded_by_another_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    first = birth._current()
    assert birth._current() is first
    monkeypatch.setattr(birth, "code_version", lambda: "changed")
    try:
        assert birth._current() is not first
    finally:
        monkeypatch.undo()
        birth._current()


def test_one_worker_s_torch_is_not_the_next_one_s(tmp_path: Path) -> None:
    """What a model's file does to its process stays there, though both come from one nursery."""
    client = Client(tmp_path)
    spoiled = client.keep_source(f"import torch\ntorch.nn.ReLU.forward = lambda self, x: x * 0\n{MODEL}".encode(), "spoils.py")
    clean = client.keep_source(f"# another\n{MODEL}".encode(), "clean.py")
    ops = []
    for source in (spoiled, clean):
        found = cast(ExploreResult, client.run(Explore(f"model=source/{source}")))
        ops.append([node.target for node in found.graph.nodes])
    client.close()
    assert "aten.relu.default" not in ops[0]
    assert "aten.relu.default" in ops[1]


@pytest.mark.parametrize("made", [new_child, Started], ids=["forked", "started"])
def test_both_ways_give_a_worker_that_works(
    made: Callable[[str, dict[str, str]], Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.process.new_child", lambda folder, environment, limits: made(folder, environment))
    client = Client(tmp_path)
    assert cast(CatalogueResult, client.run(Catalogue())).optimizations
    with pytest.raises(Exception, match="SIGSEGV"):
        client.run(Crash(signal.SIGSEGV))
    assert client.run(Sleep(0.01)) == Empty()
    client.close()


def test_workers_for_files_and_for_the_zoo_are_never_the_same(tmp_path: Path) -> None:
    plain, files = worker(tmp_path), worker(tmp_path, uploads=True)
    zoo, upload = Task("a", Sleep(0.0), {}), Task("b", Sleep(0.0), {"0" * 64: ("net.py", b"")})
    assert [plain.suits(zoo, code_version()), plain.suits(upload, code_version())] == [True, False]
    assert [files.suits(zoo, code_version()), files.suits(upload, code_version())] == [False, True]
    for process in (plain, files):
        assert b"Done" in done(process, zoo)
        process.kill()
