"""The store's SQLite file: how it is opened, written durably, and replaced when it is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from jobs.migrations import LATEST, migrate, refuse_newer, version

WAIT_S = 30.0
BESIDE = ("-wal", "-shm")
TABLES = ("sources", "results", "experiments", "rooms", "seats", "votes", "reveals", "tasks", "submissions")


class Index:
    """The index file. Connections do not cross threads, so each transaction has its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """Makes the index usable: new, of this version, and whole. A damaged one is put aside, and what it still says taken over.

        Raises:
            StoreError: a newer version wrote it; it is left alone.
            sqlite3.OperationalError: it is locked or cannot be written.
        """
        try:
            self._make()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked or unwritable: not the file's content
                raise
            broken = self._put_aside()
            self._make()
            self._take_over(broken)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection whose statements read."""
        with contextlib.closing(self._connect()) as index:
            yield index

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else's comes between, durable once it is left without an error."""
        with contextlib.closing(self._connect()) as index:
            index.execute("BEGIN IMMEDIATE")
            yield index  # what leaves by an error closes the connection, which takes everything back
            index.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        index = self._opened()
        try:
            if version(index) != LATEST:
                refuse_newer(index)
                raise sqlite3.DatabaseError("the index has lost its tables")  # removed or replaced under a running process
        except BaseException:
            index.close()
            raise
        return index

    def _opened(self) -> sqlite3.Connection:
        index = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
        try:
            index.execute("PRAGMA synchronous=FULL")  # a commit is durable, not only whole
            index.execute("PRAGMA fullfsync=1")  # on macOS; elsewhere it changes nothing
        except BaseException:
            index.close()
            raise
        return index

    def _make(self) -> None:
        with contextlib.closing(self._opened()) as index:
            refuse_newer(index)
            index.execute("PRAGMA journal_mode=WAL")
            if index.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("the index is damaged")
            migrate(index)

    def _put_aside(self) -> Path:
        """Moves the index and its journal, which must not be taken for the new one's."""
        broken = self._path.with_suffix(f".broken-{time.time_ns()}")
        self._path.replace(broken)
        for end in BESIDE:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{end}").replace(f"{broken}{end}")
        return broken

    def _take_over(self, broken: Path) -> None:
        """Copies the rows of a damaged index that can still be read: a content says what it is, but not for which key."""
        for table in TABLES:
            rows: list[dict[str, object]] = []
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(broken, timeout=WAIT_S)) as old:
                old.row_factory = sqlite3.Row
                for row in old.execute(f"SELECT * FROM {table}"):
                    rows.append(dict(row))
            with contextlib.suppress(sqlite3.Error), self.writing() as index:
                known = {column[1] for column in index.execute(f"PRAGMA table_info({table})")}
                for row in rows:
                    names = [name for name in row if name in known]
                    marks = ", ".join("?" * len(names))
                    query = f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({marks})"
                    index.execute(query, [row[name] for name in names])
