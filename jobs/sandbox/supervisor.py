"""The process between the nursery and a sandboxed job: it is not inside, watches what the job takes, and says how it ended.

It is the parent of the sandbox's first process, so that with it everything inside ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import NoReturn

from jobs.sandbox.groups import Group
from jobs.sandbox.record import NO_SANDBOX, TOO_MUCH_MEMORY, GiB, Limits, MiB

POLL_MS = 50
SCRATCH = "/tmp"
STATUS_BYTES = 4
SOCKET_BYTES = 416 << 10  # the most that Linux lets one wait with, as it comes
LEFT_BYTES = 256 * MiB  # of the machine, which a job must leave


def watch(first: int, status: int, limits: Limits, group: Group | None) -> NoReturn:
    """Waits for the sandbox's first process, ends it when the job takes too much memory, and ends as the job did.

    Args:
        first: its process id.
        status: the pipe from which the first process tells how the job ended.
        group: where the kernel counts as well; it is taken away at the end.
    """
    ended, shared = os.pidfd_open(first), _own_bytes(str(os.getpid()))
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    why = ""
    while not (why or waiting.poll(POLL_MS)):
        why = _too_much(first, shared, limits, group)
    _end(first)
    why = why or (_more_than(limits) if group and group.overrun() else "")
    if group:
        group.remove()
    if why:
        _say(why)
        os._exit(TOO_MUCH_MEMORY)
    _end_like(os.read(status, STATUS_BYTES))


def _too_much(first: int, shared: int, limits: Limits, group: Group | None) -> str:
    """Why the job must end; empty while it may go on."""
    if memory(first, shared, limits.scratch_bytes) > limits.memory_bytes or (group and group.overrun()):
        return _more_than(limits)
    if group is None and _free_bytes() < LEFT_BYTES:  # memory of the kernel, for pipes and locks, is in no process's account
        return "the machine's memory was used up while the job ran"
    return ""


def _more_than(limits: Limits) -> str:
    return f"the job took more than {limits.memory_bytes / GiB:.1f} GiB of memory"


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return LEFT_BYTES


def _end_like(told: bytes) -> NoReturn:
    """Ends as the job did: by the same signal, or with the same code."""
    if len(told) < STATUS_BYTES:
        os._exit(NO_SANDBOX)
    how = os.waitstatus_to_exitcode(int.from_bytes(told, "little"))
    if how < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-how, signal.SIG_DFL)
        os.kill(os.getpid(), -how)
    os._exit(how if 0 <= how < TOO_MUCH_MEMORY else 1)


def memory(first: int, shared: int, scratch_bytes: int) -> int:
    """Bytes that the sandbox holds: of its processes what is resident and no file's, and its scratch files.

    Args:
        shared: what each of the sandbox's two first processes has from the process it was forked from, and shares with it.
    """
    processes = _processes(first)
    total = -2 * shared + (_in_sockets(first) if processes != [str(first)] else 0)
    for process in processes:
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += _own_bytes(process)
    return max(0, total) + _written(first, scratch_bytes)


def _processes(first: int) -> list[str]:
    """All that the sandbox's own list of processes has; their parents may change while one looks, which this does not mind."""
    listed = f"{first}/root/proc"
    with contextlib.suppress(OSError):
        if os.stat(f"/proc/{listed}").st_dev != os.stat("/proc").st_dev:  # before the sandbox is built it is the machine's
            return [f"{listed}/{name}" for name in os.listdir(f"/proc/{listed}") if name.isdigit()]
    return [str(first)]


def _in_sockets(first: int) -> int:
    """What the sockets of the sandbox's network can hold; how much they do, the kernel tells nobody."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{first}/net/sockstat").read_text().split()[2]) * SOCKET_BYTES
    return 0


def _own_bytes(process: str) -> int:
    """Anonymous and shared memory, and the tables that say where it is; files that are mapped belong to everybody."""
    lines = (line.partition(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return sum(int(value.split()[0]) << 10 for name, _, value in lines if name in ("RssAnon", "RssShmem", "VmPTE", "HugetlbPages"))


def _written(first: int, scratch_bytes: int) -> int:
    """Of all scratch files; the folder is the sandbox's own, seen through its first process."""
    with contextlib.suppress(OSError):
        found = os.statvfs(f"/proc/{first}/root{SCRATCH}")
        if found.f_blocks * found.f_frsize <= scratch_bytes:  # before the sandbox is built it is the machine's
            return (found.f_blocks - found.f_bfree) * found.f_frsize
    return 0


def _end(first: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(first, 0)


def _say(words: str) -> None:
    """To the worker's last words, which its client reads."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{words}\n".encode())
