"""A store on a disk that is full: a small file system in memory, mounted for this process alone.

`python -m benchmarks.full_disk FOLDER` (an empty one) prints what came of each case as JSON. It needs root, or user namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from graphs.errors import StoreError
from jobs.sandbox import kernel
from jobs.store import KeptSource, Store

DISK_KIB = 6 << 10
STEP = 4096
LEVELS = 80  # from no free byte to LEVELS - 1 steps of them

Facts = dict[str, object]


def mount_small_disk(folder: Path) -> None:
    """Mounts it where no other process sees it."""
    if os.geteuid() == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        user, group = os.getuid(), os.getgid()
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", str(folder), "tmpfs", 0, f"size={DISK_KIB}k")


def fill(folder: Path, leave: int = 0) -> Path:
    """Somebody else's file, which takes all but so many bytes."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(STEP))
    with open(filler, "r+b") as file:
        file.truncate(max(0, filler.stat().st_size - leave))
    return filler


def whole(folder: Path) -> bool:
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as index:
        return index.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def told(work: Callable[[], object]) -> str:
    """The error in words; empty where there was none. Any error but the store's own is not caught."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return ""


def results_make_room(folder: Path) -> Facts:
    """Results are more than the disk holds, without a limit: the oldest go, uploads and what is marked stay."""
    store = Store(folder / "data")
    upload = store.keep_source(KeptSource("model.py", bytes(200_000)))
    store.keep_result("marked", b"m" * 200_000, marked=True)
    for number in range(60):
        store.keep_result(f"result {number}", os.urandom(200_000))
    kept = [number for number in range(60) if store.result(f"result {number}") is not None]
    stays = store.source(upload) is not None and store.result("marked") is not None
    return {"oldest": kept[0], "newest": kept[-1], "all between": len(kept) == kept[-1] - kept[0] + 1, "stays": stays}


def uploads_fill_it(folder: Path) -> Facts:
    """Uploads are more than the disk holds: the last is refused in words, all others stay, and with room it goes on."""
    store, kept, error = Store(folder / "data"), [], ""
    while not error:
        source = KeptSource(f"{len(kept)}.py", os.urandom(300_000))
        error = told(lambda source=source: kept.append(store.keep_source(source)))
    stay = all(store.source(sha) is not None for sha in kept)
    store.forget_source(kept[0])
    after = told(lambda: store.keep_source(KeptSource("last.py", os.urandom(200_000))))
    return {"error": error, "kept": len(kept), "stay": stay, "after": after, "whole": whole(folder / "data")}


def others_fill_it(folder: Path) -> Facts:
    """Others take every byte: what is kept can be read and a new start works; once they give some back, all works."""
    data = folder / "data"
    store = Store(data)
    upload = store.keep_source(KeptSource("model.py", b"content"))
    store.keep_result("marked", b"result", marked=True)
    filler = fill(folder)
    read = store.source(upload) is not None and store.result("marked") == b"result"
    again = Store(data)
    fill(folder)
    error = told(lambda: again.keep_source(KeptSource("new.py", os.urandom(3 << 20))))
    small = told(lambda: again.keep_result("small", os.urandom(500_000)))
    filler.unlink()
    after = told(lambda: store.keep_source(KeptSource("new.py", os.urandom(1 << 20))))
    same = store.result("marked") == b"result" and store.source(upload) is not None
    return {"read": read, "error": error, "small": small, "after": after, "same": same, "whole": whole(data)}


def every_level(folder: Path) -> Facts:
    """From no free byte up, page by page: each keep works or says that the disk is full, and nothing that was kept is lost."""
    data, results, uploads, refused, wrong = folder / "data", {}, {}, 0, []
    store = Store(data)
    for level in range(LEVELS):
        filler = fill(folder, level * STEP)
        (data / "reserve").unlink(missing_ok=True)
        key, result, source = f"level {level}", os.urandom(9000), KeptSource(f"{level}.py", os.urandom(9000))
        errors = [told(lambda key=key, result=result: store.keep_result(key, result, marked=True))]
        if not errors[0]:
            results[key] = result
        sha: list[str] = []
        errors.append(told(lambda sha=sha, source=source: sha.append(store.keep_source(source))))
        uploads |= dict.fromkeys(sha, source)
        refused += len([error for error in errors if error])
        wrong += [error for error in errors if error and "the disk is full" not in error]
        filler.unlink()
        wrong += [] if whole(data) else [f"level {level}: the index is damaged"]
    wrong += [f"{key} is lost" for key, result in results.items() if store.result(key) != result]
    wrong += [f"{source.name} is lost" for sha, source in uploads.items() if store.source(sha) != source]
    return {"kept": len(results) + len(uploads), "refused": refused, "wrong": wrong}


CASES = (results_make_room, uploads_fill_it, others_fill_it, every_level)


def main(folder: Path) -> dict[str, Facts]:
    mount_small_disk(folder)
    found = {}
    for case in CASES:
        place = folder / case.__name__
        place.mkdir()
        found[case.__name__] = case(place)
        shutil.rmtree(place)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
