"""Control groups: the kernel itself counts the memory and the processes of a whole job, so that nothing is quicker than the count.

An extra layer, there where the server may make groups: as root with version 1, or with version 2 beneath a group that was delegated to
it (in a unit of systemd `Delegate=yes` with `DelegateSubgroup=server`). Elsewhere limits and the supervisor have to do.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.sandbox.record import Limits

NAME = "fxscope-job-"
CONTROLLERS = ("memory", "pids")
OF_THE_SANDBOX = 1  # its first process
DELEGATED = ("user.delegate", "trusted.delegate")  # how systemd marks a group
TRIES, PAUSE_S = 10, 0.01  # a group whose last process has just ended may be busy for a moment


@dataclass(frozen=True)
class Group:
    """The groups of one job: one folder for both controllers in version 2, one for each in version 1."""

    folders: tuple[Path, ...]

    def join(self) -> None:
        """Takes this process in, and all that it will ever fork.

        Raises:
            OSError: the kernel does not let it.
        """
        for folder in self.folders:
            (folder / "cgroup.procs").write_text("0")

    def overrun(self) -> bool:
        """Has the kernel ended a process because the job's memory was full?"""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError):
                    counts = dict(line.split() for line in (folder / name).read_text().splitlines())
                    return int(counts["oom_kill"]) > 0
        return False

    def remove(self) -> None:
        """When all its processes have ended."""
        for folder in self.folders:
            for _ in range(TRIES):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        folder.rmdir()
                    except OSError:
                        time.sleep(PAUSE_S)
                        continue
                break


def made(limits: Limits, cgroups: str = "/proc/self/cgroup", mounts: str = "/proc/self/mountinfo") -> Group | None:
    """Groups of this process's own number, with its limits; None where it may not make any.

    Args:
        cgroups: the kernel's list of the groups that this process is in.
        mounts: its list of what is mounted.
    """
    parents = _parents(_own(Path(cgroups).read_text(), Path(mounts).read_text()))
    group = Group(tuple(parent / f"{NAME}{os.getpid()}" for parent in parents))
    try:
        for parent, folder in zip(parents, group.folders, strict=True):
            _sweep(parent)
            folder.mkdir()
            _limit(folder, limits)
    except OSError:
        group.remove()
        return None
    return group if parents else None


def forget(supervisor: int) -> None:
    """Takes away the groups of a job whose supervisor was ended before it could."""
    own = _own(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    places = {*own.values(), *(place.parent for place in own.values())}
    Group(tuple(place / f"{NAME}{supervisor}" for place in places if (place / f"{NAME}{supervisor}").is_dir())).remove()


def _own(cgroups: str, mounts: str) -> dict[str, Path]:
    """The folder of this process's group, for each controller of version 1 and for `unified`, which is version 2."""
    paths = {}
    for line in cgroups.splitlines():
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(",") if names else ["unified"], path)
    found = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split()[:3]
        for name in ["unified"] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []:
            if name in paths and Path(paths[name]).is_relative_to(root):
                found[name] = Path(place) / Path(paths[name]).relative_to(root)
    return found


def _parents(own: dict[str, Path]) -> tuple[Path, ...]:
    """Beneath which groups of jobs can be made; none where nothing can."""
    if all(name in own for name in CONTROLLERS):
        return tuple(own[name] for name in CONTROLLERS)
    here = own.get("unified")
    if here is None:
        return ()
    return next(((place,) for place in (here, here.parent) if (place == here or _delegated(place)) and _controls(place)), ())


def _delegated(folder: Path) -> bool:
    for name in DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False


def _controls(folder: Path) -> bool:
    """Do groups beneath it have both controllers? They are asked for where they are not."""
    switch = folder / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if not set(CONTROLLERS) <= set(switch.read_text().split()):
            switch.write_text(" ".join(f"+{name}" for name in CONTROLLERS))
        return set(CONTROLLERS) <= set(switch.read_text().split())
    return False


def _sweep(parent: Path) -> None:
    """Groups of jobs whose supervisor was ended before it could take them away."""
    for old in parent.glob(f"{NAME}*"):
        if not os.path.exists(f"/proc/{old.name.removeprefix(NAME)}"):
            with contextlib.suppress(OSError):
                old.rmdir()


def _limit(folder: Path, limits: Limits) -> None:
    """What this folder has controls for.

    Raises:
        OSError: it has none of those that it takes.
    """
    wanted = (
        ("memory.max", limits.memory_bytes),
        ("memory.swap.max", 0),
        ("memory.oom.group", 1),
        ("memory.limit_in_bytes", limits.memory_bytes),
        ("memory.memsw.limit_in_bytes", limits.memory_bytes),
        ("pids.max", limits.processes + OF_THE_SANDBOX),
    )
    held = [name for name, most in wanted if (folder / name).exists() and (folder / name).write_text(str(most))]
    if not set(held) & {"memory.max", "memory.limit_in_bytes", "pids.max"}:
        raise FileNotFoundError(f"no controls in {folder}")
