"""Control groups and the supervisor: each alone ends a job that takes too much, by however many processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.sandbox import groups
from jobs.sandbox.record import TOO_MUCH_MEMORY, Limits, MiB
from jobs.version import ROOT

LIMITS = Limits(memory_bytes=100 * MiB, address_bytes=0, processes=20)
MANY = """
import os, time
for number in range(40):
    if not os.fork():
        held = bytearray(b"x" * (16 << 20))
        time.sleep(60)
time.sleep(60)
"""
ONE_FILE = """
import time
with open("/tmp/file", "wb") as file:
    for number in range(400):
        file.write(b"x" * (1 << 20))
time.sleep(60)
"""
SOCKETS = """
import os, socket, time
for number in range(4):
    if not os.fork():
        held = [end for _ in range(240) for end in socket.socketpair()]
        for end in held:
            end.setblocking(False)
            try:
                while True:
                    end.send(bytes(1 << 15))
            except BlockingIOError:
                pass
        time.sleep(60)
time.sleep(60)
"""


def alone(code: str, *without: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-P", "-m", "tests.attacks.alone", *without]
    return subprocess.run(command, input=code, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=50, check=False)


needs_groups = pytest.mark.skipif(not (here := groups.made(LIMITS)), reason="no groups of the kernel can be made here")
if here:
    here.remove()


@pytest.mark.parametrize("code", [MANY, ONE_FILE], ids=["many processes", "a file in memory"])
@pytest.mark.parametrize("without", ["--without-groups", pytest.param("--without-supervisor", marks=needs_groups)])
def test_memory_is_counted_over_all_processes(code: str, without: str) -> None:
    done = alone(code, without)
    assert done.returncode == TOO_MUCH_MEMORY, done.stderr
    assert "more than 0.2 GiB of memory" in done.stderr


@pytest.mark.parametrize("without", ["--without-groups", pytest.param("--without-supervisor", marks=needs_groups)])
def test_memory_that_the_kernel_holds_for_a_job_is_counted(without: str) -> None:
    """What waits in sockets is in no process's account: the kernel knows, and the supervisor counts sockets."""
    done = alone(SOCKETS, without)
    assert done.returncode == TOO_MUCH_MEMORY, done.stderr


@needs_groups
def test_groups_have_the_limits_and_are_taken_away() -> None:
    group = groups.made(LIMITS)
    assert group
    values = {path.name: path.read_text().strip() for folder in group.folders for path in folder.iterdir() if path.name in CONTROLS}
    group.remove()
    assert values["pids.max"] == "21"
    assert str(100 * MiB) in values.values()
    assert not any(folder.exists() for folder in group.folders)


CONTROLS = ("memory.max", "memory.limit_in_bytes", "pids.max")


class Tree:
    """Version 2 as a folder: this machine may have version 1 only. The files are plain ones, so nothing is enforced."""

    def __init__(self, folder: Path, own: str, controllers: str) -> None:
        self.root = folder / "cgroup"
        self.own = self.root / own.strip("/")
        self.own.mkdir(parents=True)
        for place in (
            self.root,
            *(self.root.joinpath(*Path(own.strip("/")).parts[: n + 1]) for n in range(len(Path(own.strip("/")).parts))),
        ):
            (place / "cgroup.subtree_control").write_text(controllers)
        self.cgroups, self.mounts = folder / "cgroups", folder / "mounts"
        self.cgroups.write_text(f"0::{own}\n")
        self.mounts.write_text(
            f"25 1 0:22 / {self.root} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n24 1 0:2 / /proc rw - proc proc rw\n"
        )

    def made(self) -> groups.Group | None:
        return groups.made(LIMITS, str(self.cgroups), str(self.mounts))


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """New folders have controls in them, as those that the kernel makes."""
    real = Path.mkdir

    def mkdir(path: Path, *given: Any, **more: Any) -> None:
        real(path, *given, **more)
        if path.name.startswith(groups.NAME):
            for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max"):
                (path / name).write_text("max")

    monkeypatch.setattr(Path, "mkdir", mkdir)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("controllers", "delegated", "where"),
    [
        ("cpu memory pids", False, "a.slice/b.service/server"),
        ("memory pids", True, "a.slice/b.service/server"),
        ("", True, "a.slice/b.service/server"),
    ],
)
def test_version_2_has_one_folder_with_both_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str, delegated: bool, where: str
) -> None:
    tree = Tree(tmp_path, "/a.slice/b.service/server", controllers)
    monkeypatch.setattr(groups, "_delegated", lambda folder: delegated)
    if not controllers:  # the kernel refuses them for a group that has processes; the delegated one above it has none
        (tree.own / "cgroup.subtree_control").unlink()
        (tree.own.parent / "cgroup.subtree_control").write_text("memory pids")
        where = "a.slice/b.service"
    group = tree.made()
    assert group == groups.Group((tree.root / where / f"{groups.NAME}{os.getpid()}",))
    assert (group.folders[0] / "memory.max").read_text() == str(100 * MiB)
    assert (group.folders[0] / "memory.oom.group").read_text() == "1"
    (group.folders[0] / "memory.events").write_text("low 0\nmax 3\noom_kill 0\n")
    assert not group.overrun()
    (group.folders[0] / "memory.events").write_text("low 0\nmax 3\noom_kill 1\n")
    assert group.overrun()


@pytest.mark.usefixtures("filled")
def test_a_group_that_is_not_ours_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path, "/user.slice/session", "memory pids")
    (tree.own / "cgroup.subtree_control").unlink()
    assert tree.made() is None
    assert not list(tree.root.rglob(f"{groups.NAME}*"))


def test_groups_of_jobs_long_gone_are_swept_away(tmp_path: Path) -> None:
    gone, here = tmp_path / f"{groups.NAME}999999999", tmp_path / f"{groups.NAME}{os.getpid()}"
    for folder in (gone, here):
        folder.mkdir()
    groups._sweep(tmp_path)
    assert [gone.exists(), here.exists()] == [False, True]
