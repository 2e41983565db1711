"""Folders for what is only of use while a process lives. Each process has one and holds its lock; without its process it is swept.

The lock ends with the process, however that ends, so nobody has to guess from a number whether the owner still lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from jobs import disk

LOCK = "lock"
OWN = "of-"
FORGOTTEN_S = 24 * 3600.0  # a folder without a lock, as earlier versions made them, is left over after this


class Scratch:
    """The scratch folder of this process, made when it is first asked for.

    Args:
        parent: where processes have theirs, side by side.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._own: Path | None = None
        self._lock: int | None = None

    def new(self) -> Path:
        """A new empty folder; whoever asked may remove it, and `close` and any later start will."""
        return Path(tempfile.mkdtemp(dir=self.folder()))

    def folder(self) -> Path:
        """The folder itself."""
        if self._own is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            with disk.alone(self._parent / ".sweeping"):  # between the folder and its lock nobody may sweep
                self._own = Path(tempfile.mkdtemp(dir=self._parent, prefix=OWN))
                self._lock = os.open(self._own / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._own

    def close(self) -> None:
        """Removes the folder with all that is in it; may be called twice."""
        if self._own is not None and self._lock is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own = self._lock = None


def sweep(parent: Path) -> int:
    """Removes the folders of processes that are gone; returns how many."""
    if not parent.is_dir():
        return 0
    swept = 0
    with disk.alone(parent / ".sweeping"):
        for folder in parent.iterdir():
            if folder.is_dir() and not folder.is_symlink() and _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    return swept


def _is_left_over(folder: Path) -> bool:
    if (folder / LOCK).exists():
        return not disk.is_locked(folder / LOCK)
    return folder.name.startswith(OWN) or (_unused_s(folder) > FORGOTTEN_S and not _is_worked_in(folder))


def _is_worked_in(folder: Path) -> bool:
    """Is it the working directory of a process? Known on Linux only."""
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if place.resolve().is_relative_to(folder.resolve()):
                return True
    return False


def _unused_s(folder: Path) -> float:
    """Seconds since anything in the folder was written."""
    youngest = disk.age_s(folder)
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            youngest = min(youngest, disk.age_s(path))
    return youngest
