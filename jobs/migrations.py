"""The index's tables, in numbered steps: an index of any earlier version becomes one of this version, or stays as it was.

The number of steps done is kept in the index itself (`PRAGMA user_version`). A step that has been published is never changed;
what comes later is a step more. 0 is an index of the first version, which wrote no number, or an empty one.
"""

from __future__ import annotations

import sqlite3

from graphs.errors import StoreError

RESULTS = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, content TEXT NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL
)
"""
SOURCES = """
CREATE TABLE sources (
    sha TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL, first_seen REAL NOT NULL, last_used REAL NOT NULL
)
"""
EXPERIMENTS = "CREATE TABLE experiments (key TEXT PRIMARY KEY, words TEXT NOT NULL, title TEXT NOT NULL, created REAL NOT NULL)"
# A class: rooms, who sits there, what they predicted, and which answers were shown. Keys and seats are hashes.
CLASSROOM = (
    """
    CREATE TABLE rooms (
        code TEXT PRIMARY KEY, key TEXT NOT NULL, page TEXT, query TEXT, step INTEGER, question TEXT NOT NULL DEFAULT '',
        turn INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, seen REAL NOT NULL
    )
    """,
    "CREATE TABLE seats (room TEXT NOT NULL, seat TEXT NOT NULL, PRIMARY KEY (room, seat)) WITHOUT ROWID",
    """
    CREATE TABLE votes (
        room TEXT NOT NULL, question TEXT NOT NULL, seat TEXT NOT NULL, number REAL, choice TEXT, PRIMARY KEY (room, question, seat)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE reveals (room TEXT NOT NULL, question TEXT NOT NULL, PRIMARY KEY (room, question)) WITHOUT ROWID",
)
# Tasks of a teacher, and what was submitted. Goals and grades are JSON of records; keys and seats are hashes.
TASKS = (
    """
    CREATE TABLE tasks (
        code TEXT PRIMARY KEY, key TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, start TEXT NOT NULL, allowed TEXT NOT NULL,
        goal TEXT NOT NULL, leaderboard INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, used REAL NOT NULL
    )
    """,
    """
    CREATE TABLE submissions (
        number INTEGER PRIMARY KEY, task TEXT NOT NULL, who TEXT NOT NULL, name TEXT NOT NULL, seat TEXT NOT NULL, words TEXT NOT NULL,
        grade TEXT NOT NULL, at REAL NOT NULL
    )
    """,
    "CREATE INDEX submissions_of_task ON submissions (task, who)",
)

STEPS: tuple[tuple[str, ...], ...] = (
    (RESULTS,),
    (SOURCES,),
    (
        "ALTER TABLE results ADD COLUMN source TEXT NOT NULL DEFAULT ''",  # the brought file that it was made from
        "ALTER TABLE results ADD COLUMN marked INTEGER NOT NULL DEFAULT 0",  # to be kept, whatever room there is
        "CREATE INDEX results_by_content ON results (content)",  # is a file still named?
        "CREATE INDEX results_by_use ON results (used)",  # which has been unused for longest?
    ),
    (EXPERIMENTS,),
    CLASSROOM,
    TASKS,
)
LATEST = len(STEPS)


def version(index: sqlite3.Connection) -> int:
    return index.execute("PRAGMA user_version").fetchone()[0]


def migrate(index: sqlite3.Connection) -> None:
    """Does the steps that are missing, all of them or none.

    Raises:
        StoreError: a newer version wrote the index, which is left alone.
    """
    refuse_newer(index)
    if version(index) == LATEST:
        return
    index.execute("BEGIN IMMEDIATE")
    try:
        done = version(index)  # again: another process may have been faster
        for number, step in enumerate(STEPS[done:], done + 1):
            for statement in step:
                index.execute(statement)
            index.execute(f"PRAGMA user_version = {number}")
        index.execute("COMMIT")
    except BaseException:
        if index.in_transaction:
            index.execute("ROLLBACK")
        raise


def refuse_newer(index: sqlite3.Connection) -> None:
    """Raises a StoreError where a newer version wrote the index, perhaps while this process was running."""
    found = version(index)
    if found > LATEST:
        what = f"what is kept was written by a newer version of fxscope: its index has version {found}, this one knows {LATEST}"
        raise StoreError(what, help="Start the newer version, or set FXSCOPE_DATA to another folder.")
