"""How many threads compute, and where: while runs are timed, each may be kept on a processor of its own.

Threads that wander between processors lose their caches, and two on one processor wait for each other. But a pinned thread cannot make room for
another process either: on a machine that others use too, threads had better be free.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def compute_threads(count: int, pinned: bool) -> Iterator[bool]:
    """While it is open that many threads compute (0: as many as before); gives whether they are pinned.

    Raises:
        ValueError: count is negative.
    """
    if count < 0:
        raise ValueError("a number of threads is not negative")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        with _on_processors_of_their_own() if pinned else contextlib.nullcontext(False) as are_pinned:
            yield are_pinned
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _on_processors_of_their_own() -> Iterator[bool]:
    """Pins the threads that compute, which are those that a large sum keeps busy; the calling one is the first."""
    allowed = sorted(os.sched_getaffinity(0))
    working = _working_threads()
    if not TASKS.exists() or len(working) > len(allowed):
        yield False
        return
    try:
        for thread, processor in zip(working, allowed, strict=False):
            os.sched_setaffinity(thread, {processor})
        yield True
    finally:
        for thread in working:
            with contextlib.suppress(OSError):  # it may have ended
                os.sched_setaffinity(thread, allowed)


def _working_threads() -> list[int]:
    """Thread ids: this one, then those that OpenMP keeps for it."""
    before = _spent()
    values = torch.ones(1 << 22)
    for _ in range(60):
        values.exp_()
        values.fill_(1.0)
    own = threading.get_native_id()
    more = {thread: spent - before.get(thread, 0) for thread, spent in _spent().items() if thread != own}
    busiest = sorted((thread for thread in more if more[thread] > 0), key=lambda thread: -more[thread])
    return [own, *busiest[: torch.get_num_threads() - 1]]


def _spent() -> dict[int, int]:
    """Thread -> ticks of processor time that it has used."""
    found: dict[int, int] = {}
    for task in TASKS.iterdir() if TASKS.exists() else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[int(task.name)] = int(fields[11]) + int(fields[12])
    return found
