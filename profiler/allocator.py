"""Memory that a run frees stays with the process while runs are timed.

glibc gives large blocks back to the operating system when they are freed, or keeps them, as the history of the heap has it; a run that gets them anew
pays for every page again, up to a tenth of its time, and another that does the same work does not. PyTorch's allocator for GPUs keeps what it
has; for the time of a measurement so does the one for CPUs.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # names of glibc's settings, malloc.h
NEVER = 2**31 - 1
# What glibc comes to by itself once a large block has been freed; set by hand it no longer adapts.
LATER = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """While it is open, what is freed is not given back; whether that is so here is what it gives (glibc only)."""
    library = _glibc()
    if library is None:
        yield False
        return
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield True
    finally:
        for setting, value in LATER.items():
            library.mallopt(setting, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # looked up here: other C libraries lack it
    except (OSError, TypeError, AttributeError):
        return None
    return library
