"""What must outlive the process: results by key and model files by hash, on disk.

Contents are files named by their own sha256, written aside and moved into place whole; SQLite says which content
answers which key. A process killed at any moment leaves a store that reads. A file whose bytes do not give its name is absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

SHA256 = re.compile(r"[0-9a-f]{64}")
SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, content TEXT NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL
)
"""


class KeptSource(msgspec.Struct, frozen=True, array_like=True):
    """A model's file: the name to show and what is in it. Its key covers both."""

    name: str
    content: bytes


class Store:
    """Results and sources under one folder; any number of threads and processes may use it at once.

    Args:
        folder: made if it is not there.
        limit_bytes: results unused for longest are dropped above this total.
    """

    def __init__(self, folder: Path, limit_bytes: int = 4 << 30) -> None:
        self._results = folder / "results"
        self._sources = folder / "sources"
        self._index = folder / "index.sqlite"
        self._limit_bytes = limit_bytes
        for place in (self._results, self._sources):
            place.mkdir(parents=True, exist_ok=True)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked or unwritable: not the file's content
                raise
            self._index.replace(self._index.with_suffix(f".broken-{time.time_ns()}"))
            self._prepare()

    def result(self, key: str) -> bytes | None:
        """The content kept under a key, or None."""
        with self._open() as index:
            row = index.execute("SELECT content FROM results WHERE key = ?", (key,)).fetchone()
            content = _read(self._results, row[0]) if row else None
            if content is not None:
                index.execute("UPDATE results SET used = ? WHERE key = ?", (time.time(), key))
        return content

    def keep_result(self, key: str, content: bytes) -> None:
        """Keeps a result; an earlier one under the same key is replaced."""
        name = _write(self._results, content)
        with self._open() as index:
            index.execute("REPLACE INTO results VALUES (?, ?, ?, ?)", (key, name, len(content), time.time()))
            self._prune(index)

    def forget_result(self, key: str) -> None:
        """Drops the result of a key, if there is one."""
        with self._open() as index:
            self._forget(index, key)

    def source(self, sha: str) -> KeptSource | None:
        """The model's file kept under a hash, or None."""
        content = _read(self._sources, sha)
        try:
            return msgspec.msgpack.decode(content, type=KeptSource) if content is not None else None
        except msgspec.DecodeError:  # kept by a version that knew text only
            return None

    def keep_source(self, source: KeptSource) -> str:
        """Keeps a model's file and returns its hash."""
        return _write(self._sources, msgspec.msgpack.encode(source))

    def _prepare(self) -> None:
        with self._open() as index:
            index.execute("PRAGMA journal_mode=WAL")
            if index.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("the index is damaged")
            index.execute(SCHEMA)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One connection and one transaction: SQLite's connections do not cross threads."""
        index = sqlite3.connect(self._index, timeout=30)
        try:
            with index:
                yield index
        finally:
            index.close()

    def _prune(self, index: sqlite3.Connection) -> None:
        """Drops the results unused for longest until the rest fits; the newest always stays."""
        rows = index.execute("SELECT key, bytes FROM results ORDER BY used DESC").fetchall()
        total = 0
        for position, (key, size) in enumerate(rows):
            total += size
            if position and total > self._limit_bytes:
                self._forget(index, key)

    def _forget(self, index: sqlite3.Connection, key: str) -> None:
        row = index.execute("SELECT content FROM results WHERE key = ?", (key,)).fetchone()
        if row is None:
            return
        index.execute("DELETE FROM results WHERE key = ?", (key,))
        shared = index.execute("SELECT 1 FROM results WHERE content = ?", (row[0],)).fetchone()
        if shared is None:
            _path(self._results, row[0]).unlink(missing_ok=True)


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


def _path(folder: Path, name: str) -> Path:
    return folder / name[:2] / name


def _read(folder: Path, name: str) -> bytes | None:
    """The content of that name; None where it is missing or damaged. Names come from URLs, so only hashes pass."""
    if not SHA256.fullmatch(name):
        return None
    try:
        content = _path(folder, name).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == name else None


def _write(folder: Path, content: bytes) -> str:
    """Writes the content under its hash: aside first, then moved into place, each made durable."""
    name = hashlib.sha256(content).hexdigest()
    if _read(folder, name) is not None:
        return name
    path = _path(folder, name)
    path.parent.mkdir(exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return name


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
