"""A process that keeps things and says so, and what must be there once it has been killed or its machine lost power.

`python -m benchmarks.keeping FOLDER SEED COUNT [beside]` keeps results and uploads, some under the same key again, and tells after each what is kept.
What it keeps follows from the seed, so whoever checks needs no copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from jobs import disk
from jobs.store import KeptSource, Store

ROOM_BYTES = 100_000
KEYS = 12  # fewer than what is kept: most keys are replaced


def things(seed: int) -> Iterator[tuple[str, bytes, bool]]:
    """(key, content, is it an upload?) without end."""
    chance = random.Random(seed)
    while True:
        size = chance.choice((10, 700, 5_000, 20_000))
        yield f"{seed}-{chance.randrange(KEYS)}", chance.randbytes(size), chance.random() < 0.3


def keep_on(folder: Path, seed: int, out: int, count: int = sys.maxsize, beside: bool = False) -> None:
    """Keeps one thing after another; each is told when it is kept.

    Args:
        beside: somebody else has the index open all the time, so that its journal stays, as with a server and a command line.
    """
    store = Store(folder, limit_bytes=ROOM_BYTES)
    other = sqlite3.connect(folder / "index.sqlite") if beside else None
    if other:
        other.execute("SELECT count(*) FROM results").fetchone()
    for number, (key, content, upload) in zip(range(count), things(seed), strict=False):
        if upload:
            store.keep_source(KeptSource(key, content))
        else:
            store.keep_result(key, content, marked=True)
            store.keep_result(f"{key} unmarked", content[::-1])  # these make room for one another
        os.write(out, b"%d %d\n" % (seed, number))


def faults(folder: Path, told: Iterable[str], read_all: bool = True) -> list[str]:
    """What is wrong with a folder of which the processes had told this much (lines of `keep_on`); empty where nothing is.

    Args:
        read_all: read every file that the index names, not only those that were told.
    """
    done: dict[int, int] = {}
    for line in told:
        seed, number = map(int, line.split())
        done[seed] = max(done.get(seed, -1), number)
    try:
        store = Store(folder)
    except Exception as error:
        return [f"the store does not start: {error!r}"]
    found = [f"put aside: {path.name}" for path in folder.glob("*.broken-*")]
    uploads = {row.sha for row in store.sources()}
    for seed, last in done.items():
        found += _missing(store, uploads, seed, last)
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as index:
        found += [f"integrity: {row[0]}" for row in index.execute("PRAGMA integrity_check") if row[0] != "ok"]
        names = [row[0] for row in index.execute("SELECT content FROM results")]
        files = [row[0] for row in index.execute("SELECT sha FROM sources")]
    for place, named in ((folder / "results", names), (folder / "sources", files)):
        there = [disk.read(place, name) is not None if read_all else disk.path_of(place, name).exists() for name in named]
        found += [f"named, but not there: {place.name}/{name}" for name, is_there in zip(named, there, strict=True) if not is_there]
    return found


def _missing(store: Store, uploads: set[str], seed: int, last: int) -> list[str]:
    """What was told to be kept and is not. What was being kept after that may be there or not."""
    found: list[str] = []
    results: dict[str, set[bytes]] = {}
    for number, (key, content, upload) in zip(range(last + 2), things(seed), strict=False):
        if upload and number <= last:
            kept = name_of(KeptSource(key, content))
            if kept not in uploads or store.source(kept) != KeptSource(key, content):
                found.append(f"upload {number} of {seed} is lost")
        elif not upload:
            results[key] = {content} if number <= last else results.get(key, set()) | {content}
    for key, possible in results.items():
        content = store.result(key)
        if content not in possible and not (content is None and not _told(seed, last, key)):
            found.append(f"result {key} is {'lost' if content is None else 'another'}")
    return found


def _told(seed: int, last: int, key: str) -> bool:
    return any(name == key and not upload for _, (name, _, upload) in zip(range(last + 1), things(seed), strict=False))


def name_of(source: KeptSource) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(source)).hexdigest()


if __name__ == "__main__":
    keep_on(Path(sys.argv[1]), int(sys.argv[2]), 1, int(sys.argv[3]), "beside" in sys.argv)
