"""The store: what it keeps, what it drops to make room, what it sweeps, and several processes in one folder."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphs.errors import StoreError
from jobs import disk, scratch
from jobs.scratch import Scratch
from jobs.store import KeptSource, Store
from jobs.store_record import Totals
from jobs.version import ROOT

TWO_HOURS_AGO = time.time() - 7200


def made_old(path: Path, age_s: float = 7200) -> Path:
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def query(folder: Path, text: str, *values: object) -> list[tuple]:
    index = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    try:
        return index.execute(text, values).fetchall()
    finally:
        index.close()


# Results


def test_another_result_under_a_key_replaces_the_first_and_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("key", b"first")
    store.keep_result("key", b"second")
    assert store.result("key") == b"second"
    assert [path.read_bytes() for path in files(tmp_path / "results")] == [b"second"]


def test_a_content_that_two_keys_share_stays_until_both_are_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("a", b"same")
    store.keep_result("b", b"same")
    assert store.totals() == Totals(0, 0, 1, 4)
    store.forget_result("a")
    assert store.result("b") == b"same"
    store.forget_result("b")
    assert files(tmp_path / "results") == []


def test_a_result_whose_file_is_swept_while_it_is_kept_is_there_nevertheless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, put, swept = Store(tmp_path), disk.put, []

    def put_and_sweep(folder: Path, content: bytes) -> str:
        name = put(folder, content)
        if not swept:  # another process: nothing names this file yet
            swept.append(name)
            Store(tmp_path)._drop_files([name])
            assert not disk.path_of(folder, name).exists()
        return name

    monkeypatch.setattr(disk, "put", put_and_sweep)
    store.keep_result("key", b"content")
    assert store.result("key") == b"content"


def test_reading_writes_nothing_until_a_minute_has_passed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("key", b"content")
    kept = query(tmp_path, "SELECT used FROM results")
    store.result("key")
    assert query(tmp_path, "SELECT used FROM results") == kept
    query(tmp_path, "UPDATE results SET used = ?", TWO_HOURS_AGO)
    store.result("key")
    assert query(tmp_path, "SELECT used FROM results")[0][0] > TWO_HOURS_AGO


# Room


def test_only_what_can_be_computed_again_makes_room(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=250)
    there = store.keep_source(KeptSource("model.py", b"x" * 1000))
    store.keep_result("marked", b"m" * 100, marked=True)
    store.keep_result("its model is gone", b"g" * 100, source="0" * 64)
    store.keep_result("its model is there", b"t" * 100, source=there)
    store.keep_result("built in", b"b" * 100)
    names = ["marked", "its model is gone", "its model is there", "built in"]
    assert [store.result(name) is not None for name in names] == [True, True, False, True]
    assert store.source(there) is not None


def test_a_result_marked_later_stays_and_one_no_longer_marked_goes(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=250)
    store.keep_result("a", b"a" * 100)
    store.keep_result("b", b"b" * 100, marked=True)
    store.mark_result("a")
    store.mark_result("b", marked=False)
    store.keep_result("c", b"c" * 100)
    assert [store.result(name) is not None for name in "abc"] == [True, False, True]


# Files that readers brought


def test_brought_files_are_listed_with_kinds_sizes_and_dates(tmp_path: Path) -> None:
    store, before = Store(tmp_path), time.time()
    model = store.keep_source(KeptSource("model.py", b"text"))
    trace = store.keep_source(KeptSource("trace.json", b"{}"), "recording")
    rows = {row.sha: row for row in store.sources()}
    assert {sha: (row.name, row.kind) for sha, row in rows.items()} == {model: ("model.py", "model"), trace: ("trace.json", "recording")}
    assert all(before <= row.first_seen <= row.last_used <= time.time() for row in rows.values())
    assert store.totals() == Totals(2, sum(row.bytes for row in rows.values()), 0, 0)
    assert sum(path.stat().st_size for path in files(tmp_path / "sources")) == store.totals().source_bytes


def test_a_file_brought_again_keeps_its_first_date(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha = store.keep_source(KeptSource("model.py", b"text"))
    query(tmp_path, "UPDATE sources SET first_seen = 1, last_used = 1")
    assert store.keep_source(KeptSource("model.py", b"text")) == sha
    assert [(row.first_seen, row.last_used > 1) for row in store.sources()] == [(1, True)]


def test_reading_a_file_that_was_long_unused_notes_the_date(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha = store.keep_source(KeptSource("model.py", b"text"))
    query(tmp_path, "UPDATE sources SET last_used = 1")
    store.source(sha)
    assert store.sources()[0].last_used > 1


def test_a_forgotten_file_is_gone_from_folder_and_index(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha = store.keep_source(KeptSource("model.py", b"text"))
    store.forget_source(sha)
    store.forget_source("../index.sqlite")
    assert (store.source(sha), store.sources(), files(tmp_path / "sources")) == (None, [], [])
    assert (tmp_path / "index.sqlite").exists()


def test_a_brought_file_can_be_read_whatever_has_happened_to_the_index(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha = store.keep_source(KeptSource("model.py", b"text"))
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 1000)
    assert store.source(sha) == KeptSource("model.py", b"text")


# Experiments


def test_experiments_are_listed_latest_first_and_keep_their_first_date(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_experiment("a", "model=zoo/mlp", "An MLP")
    store.keep_experiment("b", "model=zoo/gpt2", "GPT-2")
    created = {one.key: one.created for one in store.experiments()}
    store.keep_experiment("a", "model=zoo/mlp&batch=4", "A larger MLP")
    assert [(one.key, one.words, one.title) for one in Store(tmp_path).experiments()] == [
        ("b", "model=zoo/gpt2", "GPT-2"),
        ("a", "model=zoo/mlp&batch=4", "A larger MLP"),
    ]
    assert {one.key: one.created for one in store.experiments()} == created
    store.forget_experiment("b")
    assert [one.key for one in store.experiments()] == ["a"]


# What is left over


def test_a_start_sweeps_old_files_that_nothing_names_and_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("key", b"named")
    upload = store.keep_source(KeptSource("model.py", b"text"))
    for path in (*files(tmp_path / "results"), *files(tmp_path / "sources")):
        made_old(path)
    orphan = made_old(disk.path_of(tmp_path / "results", disk.put(tmp_path / "results", b"nobody's")))
    young = disk.path_of(tmp_path / "results", disk.put(tmp_path / "results", b"not named yet"))
    store = Store(tmp_path)
    assert (orphan.exists(), young.exists()) == (False, True)
    assert store.result("key") == b"named"
    assert store.source(upload) is not None


def test_a_start_removes_unfinished_files_of_dead_processes_only(tmp_path: Path) -> None:
    Store(tmp_path)
    folder = tmp_path / "sources" / "ab"
    folder.mkdir()
    dead, living, new = (folder / name for name in ("unfinished-dead", "unfinished-living", "unfinished-new"))
    for path in (dead, living, new):
        path.write_bytes(b"half of a")
    made_old(dead)
    with open(made_old(living)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Store(tmp_path)
        assert [path.exists() for path in (dead, living, new)] == [False, True, True]
    Store(tmp_path)
    assert not living.exists()


def test_a_file_is_locked_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = Store(tmp_path), []

    def look(handle: int) -> None:
        seen.extend(disk.is_locked(path) for path in files(tmp_path / "results") if path.name.startswith("unfinished-"))
        os.fsync(handle)

    monkeypatch.setattr(disk, "_flush", look)
    store.keep_result("key", b"content")
    assert seen == [True]


def test_a_start_adopts_brought_files_that_the_index_does_not_know(tmp_path: Path) -> None:
    sha = Store(tmp_path).keep_source(KeptSource("model.py", b"text"), "recording")
    query(tmp_path, "DELETE FROM sources")
    text = made_old(disk.path_of(tmp_path / "sources", disk.put(tmp_path / "sources", b"of a version that kept text")))
    store = Store(tmp_path)
    assert [(row.sha, row.name, row.kind) for row in store.sources()] == [(sha, "model.py", "unknown")]
    assert text.exists()
    store.keep_source(KeptSource("model.py", b"text"), "model")
    assert store.sources()[0].kind == "model"


HOLDS_SCRATCH = """
import sys
from pathlib import Path
from jobs.scratch import Scratch
own = Scratch(Path(sys.argv[1]) / "scratch")
(own.new() / "file").write_text("content")
print(own.new(), flush=True)
sys.stdin.read()
"""


def test_scratch_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_SCRATCH, str(tmp_path)]
    holders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    places = [Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout]
    try:
        holders[0].kill()
        holders[0].wait()
        Store(tmp_path)
        assert [place.exists() for place in places] == [False, True]
        assert not places[0].parent.exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
    Store(tmp_path)
    assert not places[1].exists()


def test_a_process_removes_its_own_scratch(tmp_path: Path) -> None:
    own = Scratch(tmp_path / "scratch")
    place = own.new()
    assert scratch.sweep(tmp_path / "scratch") == 0
    own.close()
    own.close()
    assert not place.parent.exists()
    assert own.new().exists()
    own.close()


def test_folders_of_earlier_versions_go_after_a_day_unless_somebody_is_in_them(tmp_path: Path) -> None:
    places = [tmp_path / "scratch" / name for name in ("tmpold", "tmpused", "tmpplace", "tmpnew")]
    for place in places:
        place.mkdir(parents=True)
        (place / "file").write_text("content")
        made_old(place / "file", 0 if place.name in ("tmpused", "tmpnew") else 100_000)
        made_old(place, 0 if place.name == "tmpnew" else 100_000)
    with subprocess.Popen(["sleep", "60"], cwd=places[2]) as inside:
        Store(tmp_path)
        inside.kill()
    assert [place.exists() for place in places] == [False, True, True, True]


# Several processes, and an index that is damaged


KEEPS_AND_FORGETS = """
import random, sys
from pathlib import Path
from jobs.store import KeptSource, Store
folder, own = Path(sys.argv[1]), sys.argv[2]
chance, kept = random.Random(own), {}
for number in range(60):
    store = Store(folder, limit_bytes=1 << 20)
    key, content = f"{own} {chance.randrange(4)}", b"%d" % chance.randrange(3)
    if chance.random() < 0.4:
        store.forget_result(key)
        kept[key] = None
    else:
        store.keep_result(key, content)
        kept[key] = content
    sha = store.keep_source(KeptSource(str(number), b"same for both"))
    for key, content in kept.items():
        assert store.result(key) == content, (number, key, content)
    assert store.source(sha)
"""


def test_two_processes_keep_and_forget_the_same_contents_in_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPS_AND_FORGETS, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True, cwd=ROOT) for name in ("server", "command line")]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert Store(tmp_path).totals().sources == 60
    assert {path.name for path in files(tmp_path / "results")} == {row[0] for row in query(tmp_path, "SELECT content FROM results")}


def test_of_a_damaged_index_what_can_be_read_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)"
    query(tmp_path, f"{numbers} INSERT INTO experiments SELECT 'key ' || n, 'words', 'a long title ' || n, 1 FROM numbers")
    store.keep_result("key", b"content", marked=True)
    page = query(tmp_path, "SELECT rootpage FROM sqlite_schema WHERE name = 'experiments'")[0][0]
    with open(tmp_path / "index.sqlite", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = Store(tmp_path)
    assert store.result("key") == b"content"
    assert query(tmp_path, "SELECT marked FROM results") == [(1,)]
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert len(list(tmp_path.glob("index.broken-*"))) == 1


def test_an_index_damaged_while_it_is_used_is_a_readable_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match="the index of what is kept is damaged") as caught:
        store.keep_result("key", b"content")
    assert caught.value.where == str(tmp_path)
    assert "Start the app again" in caught.value.help
