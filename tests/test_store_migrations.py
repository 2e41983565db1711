"""An index of any earlier version becomes one of this version; one of a newer version is left alone."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from graphs.errors import StoreError
from jobs import disk, migrations
from jobs.migrations import LATEST
from jobs.store import KeptSource, Store

RESULTS = "CREATE TABLE results (\n    key TEXT PRIMARY KEY, content TEXT NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL\n)"
SOURCES = (
    "CREATE TABLE sources (sha TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL, "
    "first_seen REAL NOT NULL, last_used REAL NOT NULL)"
)
MORE_OF_RESULTS = [
    "ALTER TABLE results ADD COLUMN source TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE results ADD COLUMN marked INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX results_by_content ON results (content)",
    "CREATE INDEX results_by_use ON results (used)",
]
EXPERIMENTS = "CREATE TABLE experiments (key TEXT PRIMARY KEY, words TEXT NOT NULL, title TEXT NOT NULL, created REAL NOT NULL)"
CLASSROOM = [
    "CREATE TABLE rooms (code TEXT PRIMARY KEY, key TEXT NOT NULL, page TEXT, query TEXT, step INTEGER, question TEXT NOT NULL DEFAULT '', "
    "turn INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, seen REAL NOT NULL)",
    "CREATE TABLE seats (room TEXT NOT NULL, seat TEXT NOT NULL, PRIMARY KEY (room, seat)) WITHOUT ROWID",
    "CREATE TABLE votes (room TEXT NOT NULL, question TEXT NOT NULL, seat TEXT NOT NULL, number REAL, choice TEXT, "
    "PRIMARY KEY (room, question, seat)) WITHOUT ROWID",
    "CREATE TABLE reveals (room TEXT NOT NULL, question TEXT NOT NULL, PRIMARY KEY (room, question)) WITHOUT ROWID",
]
TASKS = [
    "CREATE TABLE tasks (code TEXT PRIMARY KEY, key TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, start TEXT NOT NULL, "
    "allowed TEXT NOT NULL, goal TEXT NOT NULL, leaderboard INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, "
    "used REAL NOT NULL)",
    "CREATE TABLE submissions (number INTEGER PRIMARY KEY, task TEXT NOT NULL, who TEXT NOT NULL, name TEXT NOT NULL, seat TEXT NOT NULL, "
    "words TEXT NOT NULL, grade TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX submissions_of_task ON submissions (task, who)",
]
# What each published version wrote; copied, so that a step that is changed afterwards is seen.
WRITTEN = {
    0: [RESULTS],
    1: [RESULTS],
    2: [RESULTS, SOURCES],
    3: [RESULTS, SOURCES, *MORE_OF_RESULTS],
    4: [RESULTS, SOURCES, *MORE_OF_RESULTS, EXPERIMENTS],
    5: [RESULTS, SOURCES, *MORE_OF_RESULTS, EXPERIMENTS, *CLASSROOM],
    6: [RESULTS, SOURCES, *MORE_OF_RESULTS, EXPERIMENTS, *CLASSROOM, *TASKS],
}
SOURCE = KeptSource("model.py", b"def model(): ...")


def written_by(version: int, folder: Path) -> str:
    """A folder as that version left it, with one result and one brought file; returns the file's hash."""
    for name in ("results", "sources"):
        (folder / name).mkdir(parents=True)
    content = disk.put(folder / "results", b"a result")
    sha = disk.put(folder / "sources", msgspec.msgpack.encode(SOURCE))
    os.utime(disk.path_of(folder / "sources", sha), (1000, 1000))
    index = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    index.execute("PRAGMA journal_mode=WAL")
    for statement in WRITTEN[version]:
        index.execute(statement)
    index.execute("INSERT INTO results (key, content, bytes, used) VALUES ('key', ?, 8, ?)", (content, time.time()))
    if version >= 2:
        index.execute("INSERT INTO sources VALUES (?, 'model.py', 'model', 30, 1000, 1000)", (sha,))
    index.execute(f"PRAGMA user_version = {version}")
    index.close()
    return sha


def dump(folder: Path) -> list[str]:
    index = sqlite3.connect(folder / "index.sqlite")
    try:
        return [f"version {migrations.version(index)}", *index.iterdump()]
    finally:
        index.close()


def schema(folder: Path) -> dict[str, list[tuple]]:
    index = sqlite3.connect(folder / "index.sqlite")
    try:
        names = [row[0] for row in index.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")]
        return {name: index.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in names}
    finally:
        index.close()


@pytest.mark.parametrize("version", sorted(WRITTEN))
def test_an_index_of_an_earlier_version_is_this_version_with_all_that_it_kept(version: int, tmp_path: Path) -> None:
    sha = written_by(version, tmp_path / "old")
    store = Store(tmp_path / "old")
    assert dump(tmp_path / "old")[0] == f"version {LATEST}"
    Store(tmp_path / "new")
    assert schema(tmp_path / "old") == schema(tmp_path / "new")
    assert store.result("key") == b"a result"
    assert store.source(sha) == SOURCE
    assert [(row.sha, row.name, row.first_seen) for row in store.sources()] == [(sha, "model.py", 1000)]
    store.keep_result("another", b"another", marked=True)
    store.keep_experiment("a", "words", "title")
    assert Store(tmp_path / "old").result("another") == b"another"


def test_every_version_has_its_test() -> None:
    assert sorted(WRITTEN) == list(range(LATEST + 1))


def test_the_results_of_the_first_version_may_make_room(tmp_path: Path) -> None:
    written_by(0, tmp_path)
    store = Store(tmp_path, limit_bytes=10)
    store.keep_result("another", b"another")
    assert store.result("key") is None


def test_an_index_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    sha = written_by(LATEST, tmp_path)
    index = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    index.execute("CREATE TABLE of_the_future (thing TEXT)")
    index.execute("PRAGMA user_version = 99")
    index.close()
    orphan = disk.path_of(tmp_path / "results", disk.put(tmp_path / "results", b"named by a table of the future"))
    os.utime(orphan, (1000, 1000))
    before = dump(tmp_path)
    with pytest.raises(StoreError, match=f"version 99, this one knows {LATEST}") as caught:
        Store(tmp_path)
    assert "Start the newer version" in caught.value.help
    assert dump(tmp_path) == before
    assert orphan.exists()
    assert disk.path_of(tmp_path / "sources", sha).exists()
    assert not list(tmp_path.glob("*.broken-*"))


def test_an_index_that_a_newer_version_migrates_under_a_running_process_is_refused_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_result("key", b"content")
    index = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    index.execute("PRAGMA user_version = 99")
    index.close()
    with pytest.raises(StoreError, match="newer version"):
        store.keep_result("another", b"content")
    with pytest.raises(StoreError, match="newer version"):
        store.result("key")


def test_a_migration_that_fails_half_way_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by(1, tmp_path)
    before = dump(tmp_path)
    broken = (*migrations.STEPS[:2], (migrations.STEPS[2][0], "ALTER TABLE not_there ADD COLUMN there TEXT"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", broken)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            Store(tmp_path)
    assert dump(tmp_path) == before
    assert Store(tmp_path).result("key") == b"a result"
