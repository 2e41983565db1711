"""Files that outlive a power cut: written aside, made durable, moved into place, and the folder made durable too.

A file is named by the sha256 of its bytes, so a damaged one is known when it is read, and counts as absent. Whoever names
a file elsewhere (the index) does so after `put` has returned: then neither the bytes nor the name can be lost any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SHA256 = re.compile(r"[0-9a-f]{64}")
FULL = (errno.ENOSPC, errno.EDQUOT)
LITTLE_BYTES = 256 << 10  # free space in which SQLite cannot work
UNFINISHED_S = 60.0  # an unfinished file younger than this may not have its lock yet


def path_of(folder: Path, name: str) -> Path:
    return folder / name[:2] / name


def read(folder: Path, name: str) -> bytes | None:
    """The content of that name; None where it is missing or damaged. Names come from URLs, so only hashes pass."""
    if not SHA256.fullmatch(name):
        return None
    try:
        content = path_of(folder, name).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == name else None


def put(folder: Path, content: bytes) -> str:
    """Keeps the content and returns its hash; once it has returned, no power cut loses it.

    Raises:
        OSError: the disk is full or cannot be written; what was begun is gone again.
    """
    name = hashlib.sha256(content).hexdigest()
    path = path_of(folder, name)
    if read(folder, name) is None:
        make_folder(path.parent)
        _write(path, content)
    # Also where it was there already: another process may have moved it there a moment ago and not be done.
    sync(path.parent)
    sync(folder)
    return name


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each durable."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def contents(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files in place; unfinished ones are left out, and removed where the process that wrote them is gone."""
    for shelf in os.scandir(folder):
        for entry in os.scandir(shelf) if shelf.is_dir(follow_symlinks=False) else ():
            if SHA256.fullmatch(entry.name):
                yield entry
            elif age_s(Path(entry.path)) > UNFINISHED_S and not is_locked(Path(entry.path)):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def age_s(path: Path) -> float:
    """Seconds since it was last written; 0 where it is gone."""
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime
    return 0.0


def is_locked(path: Path) -> bool:
    """Does a living process hold it? The lock ends with the process, however that ends."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds a lock among processes and threads; waits for it."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix="unfinished-")
    try:
        with open(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks: then age alone says that it is left over
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(content)
            file.flush()
            _flush(handle)
            os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _flush(handle: int) -> None:
    through_the_drive = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's own cache
    if through_the_drive is not None:
        fcntl.fcntl(handle, through_the_drive)
    else:
        os.fsync(handle)


def is_full(error: Exception, folder: Path) -> bool:
    """Is a full disk the reason of an error, of the system or of SQLite? That says so in several ways, one for each of its files."""
    if isinstance(error, OSError):
        return error.errno in FULL
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        space = os.statvfs(folder)
        return space.f_bavail * space.f_frsize < LITTLE_BYTES or (space.f_files > 0 and space.f_favail == 0)
    return code == sqlite3.SQLITE_FULL
