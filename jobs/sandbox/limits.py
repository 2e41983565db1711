"""What a job for an upload may take on this machine."""

from __future__ import annotations

import os

from graphs.errors import RequestError
from jobs.sandbox.record import GiB, Limits

VARIABLE = "FXSCOPE_UPLOAD_GIB"
SHARE = 0.5  # of the machine's memory
LEAST, MOST = 2 * GiB, 32 * GiB
MOST_GIB = 1 << 20  # that anybody may mean
LIBRARIES = 24 * GiB  # of addresses: what PyTorch maps and threads reserve without ever using it


def limits(gpu: bool = False) -> Limits:
    """Half of the memory, from 2 to 32 GiB, or what FXSCOPE_UPLOAD_GIB says.

    Raises:
        RequestError: that is no amount of memory.
    """
    said = os.environ.get(VARIABLE, "")
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = _bytes(said) if said else min(max(LEAST, int(there * SHARE)), MOST)
    return Limits(memory, 0 if gpu else memory + LIBRARIES, gpu=gpu)


def _bytes(said: str) -> int:
    try:
        found = float(said)
    except ValueError:
        found = 0.0
    if not 0 < found < MOST_GIB:  # not a number is not, either
        raise RequestError(f"{VARIABLE} cannot be `{said}`", where=VARIABLE, help="Write a number of GiB, such as 8.")
    return int(found * GiB)
