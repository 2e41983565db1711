"""What must outlive the process: results by key and files that readers brought by hash, on disk.

Contents are files named by their own sha256 (`disk.py`); SQLite says which content answers which key. A content is durable before
the index names it, and the index is durable before whoever keeps something is told so: neither a killed process nor a power
cut loses what was kept. Files are only removed in a transaction that has seen that nothing names them, and results are only
named in one that has seen that their file is there; so any number of threads and processes may keep, drop and sweep at once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from graphs.errors import StoreError
from jobs import disk, scratch
from jobs.index import Index
from jobs.store_record import KeptExperiment, KeptSource, SourceKind, SourceRow, Totals

__all__ = ["KeptSource", "Store", "keep_within"]

ORPHAN_S = 3600.0
TOUCH_S = 60.0
RESERVE_BYTES = 1 << 20
EVICTABLE = "marked = 0 AND (source = '' OR source IN (SELECT sha FROM sources))"

_Answer = TypeVar("_Answer")


class Store:
    """Results, sources and experiments under one folder; any number of threads and processes may use it at once.

    Args:
        folder: made if it is not there.
        limit_bytes: above this total the results unused for longest are dropped, if they can be computed again.

    Raises:
        StoreError: the disk is full, or a newer version wrote what is there.
        OSError, sqlite3.Error: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int = 4 << 30) -> None:
        self._folder = folder.absolute()
        self._results, self._sources, self._reserve = (self._folder / name for name in ("results", "sources", "reserve"))
        self._limit_bytes = limit_bytes
        self._index = Index(self._folder / "index.sqlite")
        try:
            self._start()
        except (OSError, sqlite3.Error) as error:
            if not self._is_full(error):
                raise
            self._reserve.unlink(missing_ok=True)
            try:
                self._start()
            except (OSError, sqlite3.Error) as again:
                raise self._explained(again) from again

    def result(self, key: str) -> bytes | None:
        """The content kept under a key, or None."""
        named = ""
        while True:
            row = self._with_room(lambda: self._row("SELECT content, used FROM results WHERE key = ?", key))
            if row is None or row[0] == named:
                return None
            content = disk.read(self._results, row[0])
            if content is not None:
                if time.time() - row[1] > TOUCH_S:
                    self._touch("UPDATE results SET used = ? WHERE key = ?", key)
                return content
            named = row[0]  # missing or damaged, or replaced since the index was asked

    def keep_result(self, key: str, content: bytes, source: str = "", marked: bool = False) -> None:
        """Keeps a result; an earlier one under the same key is replaced. Once this has returned, no power cut loses it.

        Args:
            source: the hash of the brought file that it was made from; without that file it could not be made again.
            marked: never drop it to make room.

        Raises:
            StoreError: the disk is full, also after what can be computed again was dropped.
        """
        self._with_room(lambda: self._keep_result(key, content, source, marked), len(content), f"a result of {_size(len(content))}")
        with contextlib.suppress(StoreError):  # it is kept; room is made when the next one is
            self._with_room(lambda: self._evict(self._total_bytes() - self._limit_bytes, but=key))

    def mark_result(self, key: str, marked: bool = True) -> None:
        """Says whether a result may be dropped to make room."""
        self._with_room(lambda: self._change("UPDATE results SET marked = ? WHERE key = ?", marked, key))

    def forget_result(self, key: str) -> None:
        """Drops the result of a key, if there is one."""
        dropped = self._with_room(lambda: self._change("DELETE FROM results WHERE key = ? RETURNING content", key))
        self._drop_files([row[0] for row in dropped])

    def source(self, sha: str) -> KeptSource | None:
        """The file that a reader brought, kept under a hash, or None."""
        content = disk.read(self._sources, sha)
        try:
            kept = msgspec.msgpack.decode(content, type=KeptSource) if content is not None else None
        except msgspec.DecodeError:  # kept by a version that knew text only
            return None
        if kept is not None:
            with contextlib.suppress(sqlite3.Error, StoreError):  # the file is there, whatever the index says
                row = self._row("SELECT last_used FROM sources WHERE sha = ?", sha)
                if row is not None and time.time() - row[0] > TOUCH_S:
                    self._touch("UPDATE sources SET last_used = ? WHERE sha = ?", sha)
        return kept

    def keep_source(self, source: KeptSource, kind: SourceKind = "model") -> str:
        """Keeps a file that a reader brought and returns its hash. It is never dropped to make room.

        Raises:
            StoreError: the disk is full, also after what can be computed again was dropped.
        """
        content = msgspec.msgpack.encode(source)
        what = f"a file of {_size(len(content))}"
        return self._with_room(lambda: self._keep_source(source, kind, content), len(content), what)

    def forget_source(self, sha: str) -> None:
        """Drops a file that a reader brought; results made from it stay, and are no longer dropped to make room."""
        self._with_room(lambda: self._change("DELETE FROM sources WHERE sha = ?", sha))
        with self._index.writing() as index:
            if disk.SHA256.fullmatch(sha) and not index.execute("SELECT 1 FROM sources WHERE sha = ?", (sha,)).fetchone():
                disk.path_of(self._sources, sha).unlink(missing_ok=True)

    def sources(self) -> list[SourceRow]:
        """All files that readers brought, the latest first, without their contents."""
        query = "SELECT sha, name, kind, bytes, first_seen, last_used FROM sources ORDER BY first_seen DESC, sha"
        return [SourceRow(*row) for row in self._with_room(lambda: self._rows(query))]

    def totals(self) -> Totals:
        """How much is kept; asks the index only."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM "
        sources = self._with_room(lambda: self._row(f"{query} sources"))
        results = self._with_room(lambda: self._row(f"{query} (SELECT DISTINCT content, bytes FROM results)"))
        assert sources
        assert results
        return Totals(*sources, *results)

    def keep_experiment(self, key: str, words: str, title: str) -> None:
        """Keeps an experiment's words under a key; the same key again has the new words and title, and its first date."""
        query = "INSERT INTO experiments VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET words = excluded.words, title = excluded.title"
        self._with_room(lambda: self._change(query, key, words, title, time.time()), what="an experiment")

    def experiments(self) -> list[KeptExperiment]:
        """All kept experiments, the latest first."""
        query = "SELECT key, words, title, created FROM experiments ORDER BY created DESC, key"
        return [KeptExperiment(*row) for row in self._with_room(lambda: self._rows(query))]

    def forget_experiment(self, key: str) -> None:
        self._with_room(lambda: self._change("DELETE FROM experiments WHERE key = ?", key))

    def read(self, work: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Reads from the index, for what has tables of its own there.

        Raises:
            StoreError: the index cannot be read.
        """

        def look() -> _Answer:
            with self._index.reading() as index:
                return work(index)

        return self._with_room(look)

    def write(self, work: Callable[[sqlite3.Connection], _Answer], what: str) -> _Answer:
        """Does the work in one transaction of the index, all or nothing; what it raises takes everything back.

        Args:
            what: is to be kept, for the error.

        Raises:
            StoreError: the disk is full, also after what can be computed again was dropped.
        """

        def change() -> _Answer:
            with self._index.writing() as index:
                return work(index)

        return self._with_room(change, what=what)

    def _start(self) -> None:
        for place in (self._folder, self._results, self._sources):
            disk.make_folder(place)
        with disk.alone(self._folder / "start.lock"):  # two processes must not put one damaged index aside twice
            self._index.prepare()
            self._clean()
        disk.sync(self._folder)
        self._make_reserve()

    def _clean(self) -> None:
        """Removes what dead processes left, and takes into the index what it has lost or never knew."""
        found = list(disk.contents(self._results))
        known = {row[0] for row in self._rows("SELECT content FROM results")}
        self._drop_files([one.name for one in found if one.name not in known and disk.age_s(Path(one.path)) > ORPHAN_S])
        known = {row[0] for row in self._rows("SELECT sha FROM sources")}
        for one in disk.contents(self._sources):
            if one.name not in known:
                self._adopt(Path(one.path))
        scratch.sweep(self._folder / "scratch")

    def _adopt(self, path: Path) -> None:
        """A brought file is never swept: earlier versions kept them without the index. What cannot be read stays as it is."""
        content = disk.read(self._sources, path.name)
        with contextlib.suppress(msgspec.DecodeError, OSError):
            if content is not None:
                source = msgspec.msgpack.decode(content, type=KeptSource)
                seen = path.stat().st_mtime
                query = "INSERT OR IGNORE INTO sources VALUES (?, ?, ?, ?, ?, ?)"
                self._change(query, path.name, source.name, "unknown", len(content), seen, seen)

    def _keep_result(self, key: str, content: bytes, source: str, marked: bool) -> None:
        name = disk.put(self._results, content)
        try:
            with self._index.writing() as index:
                if not disk.path_of(self._results, name).exists():  # swept since: nothing named it
                    disk.put(self._results, content)
                before = index.execute("SELECT content FROM results WHERE key = ?", (key,)).fetchone()
                query = "REPLACE INTO results (key, content, bytes, used, source, marked) VALUES (?, ?, ?, ?, ?, ?)"
                index.execute(query, (key, name, len(content), time.time(), source, marked))
        except (OSError, sqlite3.Error):
            with contextlib.suppress(OSError, sqlite3.Error):  # a full disk: what nothing names only takes room
                self._drop_files([name])
            raise
        if before and before[0] != name:
            self._drop_files([before[0]])

    def _keep_source(self, source: KeptSource, kind: SourceKind, content: bytes) -> str:
        sha = disk.put(self._sources, content)
        with self._index.writing() as index:
            if not disk.path_of(self._sources, sha).exists():  # forgotten since
                disk.put(self._sources, content)
            now = time.time()
            again = "ON CONFLICT (sha) DO UPDATE SET last_used = excluded.last_used, kind = excluded.kind"
            query = f"INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?) {again}"
            index.execute(query, (sha, source.name, kind, len(content), now, now))
        return sha

    def _drop_files(self, names: Sequence[str]) -> None:
        """Removes results' files that nothing names; the index that no longer names them is durable by now."""
        if not names:
            return
        with self._index.writing() as index:
            for name in names:
                if not index.execute("SELECT 1 FROM results WHERE content = ?", (name,)).fetchone():
                    disk.path_of(self._results, name).unlink(missing_ok=True)

    def _total_bytes(self) -> int:
        row = self._row("SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT content, bytes FROM results)")
        return row[0] if row else 0

    def _evict(self, at_least: int, but: str = "") -> None:
        """Drops the contents unused for longest, of those that can be computed again, until so many bytes are free."""
        if at_least <= 0:
            return
        query = f"SELECT content, bytes FROM results GROUP BY content HAVING min({EVICTABLE}) AND NOT max(key = ?) ORDER BY max(used)"
        chosen: list[str] = []
        for content, size in self._rows(query, but):
            if at_least > 0:
                chosen.append(content)
                at_least -= size
        with self._index.writing() as index:  # asked again: somebody may have marked it meanwhile
            index.executemany(f"DELETE FROM results WHERE content = ? AND {EVICTABLE}", [(content,) for content in chosen])
        self._drop_files(chosen)

    def _with_room(self, work: Callable[[], _Answer], size: int = 0, what: str = "this") -> _Answer:
        """Does the work; on a full disk it first makes room for so many bytes, and tries once more."""
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            if not self._is_full(error):
                raise self._explained(error, what) from error
        try:
            self._reserve.unlink(missing_ok=True)  # dropping needs room too: the index writes down what is dropped
            self._evict(size + RESERVE_BYTES)
            return work()
        except (OSError, sqlite3.Error) as error:
            raise self._explained(error, what) from error
        finally:
            self._make_reserve()

    def _make_reserve(self) -> None:
        """A file to be given up when the disk is full, so that the index can still be written."""
        try:
            if not self._reserve.exists():
                self._reserve.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            with contextlib.suppress(OSError):
                self._reserve.unlink(missing_ok=True)

    def _is_full(self, error: Exception) -> bool:
        return disk.is_full(error, self._folder)

    def _explained(self, error: Exception, what: str = "what is to be kept") -> StoreError:
        place, another = str(self._folder), "set FXSCOPE_DATA to a folder on another disk and start again"
        if self._is_full(error):
            way_out = f"Remove files from this disk, or {another}. What was kept before is still there."
            return StoreError(f"the disk is full: {what} cannot be kept", where=place, help=way_out)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            way_out = "Start the app again: it puts the damaged index aside and keeps what can be read."
            return StoreError(f"the index of what is kept is damaged: {error}", where=place, help=way_out)
        return StoreError(f"{what} cannot be kept or read: {error}", where=place, help=f"Look at the disk, or {another}.")

    def _row(self, query: str, *values: object) -> tuple | None:
        with self._index.reading() as index:
            return index.execute(query, values).fetchone()

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._index.reading() as index:
            return index.execute(query, values).fetchall()

    def _change(self, query: str, *values: object) -> list[tuple]:
        with self._index.writing() as index:
            return index.execute(query, values).fetchall()

    def _touch(self, query: str, key: str) -> None:
        """Notes the time of use, if it can be noted: to read must not fail because the disk is full."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._change(query, time.time(), key)


def keep_within(folder: Path, limit_bytes: int) -> None:
    """Removes the files of a folder of things that can be made again, the oldest first, until the rest is within the limit."""
    found = []
    for path in folder.rglob("*") if folder.exists() else ():
        with contextlib.suppress(OSError):  # somebody else was faster
            stat = path.stat()
            if path.is_file():
                found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number} bytes"
