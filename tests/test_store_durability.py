"""Killed processes, power cuts and full disks: what was told to be kept is there afterwards.

Where a rule of the store is left out on purpose, the same checks must find that something is lost.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.keeping import faults
from benchmarks.power_cut import Call, Disk, record
from graphs.errors import StoreError
from jobs import disk, migrations
from jobs.index import Index
from jobs.store import KeptSource, Store
from jobs.version import ROOT
from tests.test_store_migrations import SOURCE

CUTS = 200
MODULES = (
    "from benchmarks.keeping import keep_on",
    "import os, sqlite3, stat, sys",
    "from pathlib import Path",
    "import jobs.disk, jobs.index",
)
KEEPS = "keep_on(Path(sys.argv[1]), 1, 1, 40, beside={beside})"
FILES_NOT_SYNCED = """
flush = jobs.disk._flush
jobs.disk._flush = lambda handle: flush(handle) if stat.S_ISDIR(os.fstat(handle).st_mode) else None
"""
FOLDERS_NOT_SYNCED = "jobs.disk.sync = lambda path: None"
FOLDERS_ABOVE_NOT_SYNCED = """
sync = jobs.disk.sync
jobs.disk.sync = lambda path: sync(path) if path.name not in ("results", "sources") else None
"""
COMMITS_NOT_SYNCED = """
opened = jobs.index.Index._opened
def without(self):
    index = opened(self)
    index.execute("PRAGMA synchronous=NORMAL")
    return index
jobs.index.Index._opened = without
"""


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where there is such a place: what is tested here is not whether this machine's disk keeps its word."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def faults_after_cuts(work: Path, calls: list[Call], root: Path, cuts: int) -> list[str]:
    """What is wrong after power cuts at so many random moments."""
    moments = random.Random(0)
    moment_of = sorted(moments.randrange(len(calls) + 1) for _ in range(cuts))
    replayed, told, done = Disk(str(root), root.stat().st_ino), list[str](), 0
    found: list[str] = []
    for number, moment in enumerate(moment_of):
        for call in calls[done:moment]:
            replayed.do(call)
            told += call.data.decode().splitlines() if call.kind == "a" else []
        done, left = moment, work / f"cut {number}"
        replayed.cut(left, random.Random(number))
        found += [f"cut {number} after call {moment}: {fault}" for fault in faults(left, told)]
        shutil.rmtree(left)
    return found


def recorded(work: Path, change: str, beside: bool) -> tuple[list[Call], Path]:
    root = work / "data"
    root.mkdir()
    program = "\n".join([*MODULES, change, KEEPS.format(beside=beside)])
    return record(["-c", program, str(root)], root, work), root


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another process"])
def test_a_power_cut_at_any_moment_loses_nothing_that_was_kept(quick_folder: Path, beside: bool) -> None:
    calls, root = recorded(quick_folder, "", beside)
    assert sum(call.kind == "a" for call in calls) == 40
    assert faults_after_cuts(quick_folder, calls, root, CUTS // 2) == []


@pytest.mark.parametrize(
    "change",
    [FILES_NOT_SYNCED, FOLDERS_NOT_SYNCED, FOLDERS_ABOVE_NOT_SYNCED, COMMITS_NOT_SYNCED],
    ids=["files", "folders", "folders above", "commits"],
)
def test_what_is_not_synced_is_lost_in_these_power_cuts(quick_folder: Path, change: str) -> None:
    calls, root = recorded(quick_folder, change, beside=True)
    assert any("lost" in fault for fault in faults_after_cuts(quick_folder, calls, root, 20))


MIGRATES = """
import os, sys
from pathlib import Path
from jobs import disk
from jobs.store import Store
from tests.test_store_migrations import written_by
folder = Path(sys.argv[1])
written_by(0, folder)
for place in (folder / "results", folder / "sources", folder):
    disk.sync(place)
os.write(1, b"written")
Store(folder)
"""


def test_a_power_cut_during_a_migration_leaves_the_old_index_or_the_new_one(quick_folder: Path) -> None:
    root = quick_folder / "data"
    root.mkdir()
    calls = record(["-c", MIGRATES, str(root)], root, quick_folder)
    written = next(number for number, call in enumerate(calls) if call.kind == "a")
    replayed, versions = Disk(str(root), root.stat().st_ino), set[int]()
    for number, call in enumerate(calls):
        replayed.do(call)
        if number < written or call.kind not in "srut":
            continue
        left = quick_folder / f"cut {number}"
        replayed.cut(left, random.Random(number))
        with contextlib.closing(sqlite3.connect(left / "index.sqlite")) as index:
            versions.add(migrations.version(index))
        store = Store(left)
        assert store.result("key") == b"a result"
        assert [store.source(row.sha) for row in store.sources()] == [SOURCE]
    assert versions == {0, migrations.LATEST}


def test_kill_9_at_200_random_moments_loses_nothing_that_was_kept(quick_folder: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.killing", str(quick_folder / "data"), "100", "7", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert (found["kills"], found["ended"]) == (200, 0)
    assert found["before_anything"] <= 100  # the others were killed while they kept something
    assert found["told"] >= 100


def test_what_is_named_before_it_is_there_is_found_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("1-1", b"content")
    next((tmp_path / "results").glob("*/*")).unlink()
    assert [fault for fault in faults(tmp_path, []) if "named, but not there" in fault]


# Full disks


def can_mount() -> bool:
    code = "import os; from jobs.sandbox import kernel as k; k.unshare(k.CLONE_NEWNS | (0 if os.geteuid() == 0 else k.CLONE_NEWUSER))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_on_a_small_disk_room_is_made_or_the_error_is_clear_and_nothing_is_lost(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("this machine mounts nothing for us; the tests below fill no real disk, and run everywhere")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.full_disk", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []  # it was mounted for that process alone
    room = found["results_make_room"]
    assert room["oldest"] > 0
    assert (room["newest"], room["all between"], room["stays"]) == (59, True, True)
    uploads = found["uploads_fill_it"]
    assert uploads["error"].startswith("the disk is full: a file of 0.3 MB cannot be kept")
    assert "FXSCOPE_DATA" in uploads["error"]
    assert uploads["kept"] > 10
    assert (uploads["stay"], uploads["after"], uploads["whole"]) == (True, "", True)
    others = found["others_fill_it"]
    assert "the disk is full" in others["error"]
    assert (others["read"], others["small"], others["after"], others["same"], others["whole"]) == (True, "", "", True, True)
    levels = found["every_level"]
    assert levels["wrong"] == []
    assert levels["kept"] > 20
    assert levels["refused"] > 20


def full_once(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Makes the next writes of contents meet a full disk; returns a list that grows with each."""
    met, write = [], disk._write

    def write_or_fail(path: Path, content: bytes) -> None:
        if len(met) < times:
            met.append(len(content))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(disk, "_write", write_or_fail)
    return met


@pytest.mark.parametrize("keep", [lambda s: s.keep_result("new", b"new"), lambda s: s.keep_source(KeptSource("a", b"new"))])
def test_room_is_made_before_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[Store], object]
) -> None:
    store = Store(tmp_path)
    store.keep_result("old", b"o" * 100)
    store.keep_result("marked", b"m" * 100, marked=True)
    met = full_once(monkeypatch, 1)
    keep(store)
    assert len(met) == 1
    assert [store.result(name) is not None for name in ("old", "marked")] == [False, True]


def test_a_disk_that_stays_full_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    upload = store.keep_source(KeptSource("a", b"kept"))
    with monkeypatch.context() as patch:
        full_once(patch, 2)
        with pytest.raises(StoreError, match="the disk is full: a result of 7 bytes cannot be kept") as caught:
            store.keep_result("key", b"content")
    assert (caught.value.where, "FXSCOPE_DATA" in caught.value.help) == (str(tmp_path), True)
    assert store.source(upload) == KeptSource("a", b"kept")
    store.keep_result("key", b"content")
    assert store.result("key") == b"content"


def test_an_index_that_cannot_grow_is_a_full_disk_and_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    opened = Index._opened

    def no_more_pages(index: Index) -> sqlite3.Connection:
        made = opened(index)
        made.execute("PRAGMA max_page_count=1")  # SQLite takes as many as there are already
        return made

    def keep_many() -> None:
        for number in range(500):
            store.keep_result("key" * 2000 + str(number), b"content", marked=True)

    with monkeypatch.context() as patch:
        patch.setattr(Index, "_opened", no_more_pages)
        with pytest.raises(StoreError, match="the disk is full"):
            keep_many()
    assert len(list((tmp_path / "results").glob("*/*"))) <= 1
    store.keep_result("key", b"another content")
    assert store.result("key") == b"another content"
