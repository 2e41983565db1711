"""The files that a job for an upload sees: the environment, read-only, and a scratch folder in memory. Nothing else is mounted."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from jobs.sandbox import kernel
from jobs.sandbox.record import MiB
from jobs.version import ROOMS, ROOT

SCRATCH = "/tmp"
BUILDING_SITE = "/tmp"  # exists everywhere; in the job's own view of mounts it is covered while the new root is built
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
OF_ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
OF_SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
DEVICES = ("null", "zero", "full", "random", "urandom")
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", *(f"nvidia{number}" for number in range(16)))
SHARED_MEMORY_BYTES = 256 * MiB
FILES_EACH_MIB = 64  # of the scratch folder
READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID


def build(scratch_bytes: int, owner: int, gpu: bool) -> None:
    """Makes the new root and enters it. The process must have mounts and process numbers of its own.

    Args:
        owner: the user who may write to the scratch folder.

    Raises:
        OSError: the kernel does not let it.
    """
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)  # nothing done here is seen outside
    devices = [*DEVICES, *(GPU_DEVICES if gpu else ())]
    trees = {path: _tree(path, READ_ONLY | kernel.MOUNT_ATTR_NODEV) for path in _outermost(_environment())}
    trees |= {f"/dev/{name}": _tree(f"/dev/{name}", 0) for name in devices if os.path.exists(f"/dev/{name}")}
    links = {path: os.readlink(path) for path in SYSTEM if os.path.islink(path)}
    os.umask(0o022)
    kernel.mount("tmpfs", BUILDING_SITE, "tmpfs", kernel.MS_NOSUID, "size=1m,mode=755")
    for path, target in links.items():
        os.symlink(target, BUILDING_SITE + path)
    for folder in (SCRATCH, "/proc", "/dev/shm"):
        os.makedirs(BUILDING_SITE + folder, exist_ok=True)
    group = owner if os.geteuid() == 0 else os.getegid()  # in a namespace of users there is no group but one's own
    _names_of_users(owner, group)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("proc", f"{BUILDING_SITE}/proc", "proc", flags | kernel.MS_NOEXEC | kernel.MS_RDONLY)
    inodes = scratch_bytes // MiB * FILES_EACH_MIB
    mine = f"uid={owner},gid={group},mode=700"
    kernel.mount("tmpfs", BUILDING_SITE + SCRATCH, "tmpfs", flags, f"size={scratch_bytes},nr_inodes={inodes},{mine}")
    kernel.mount("tmpfs", f"{BUILDING_SITE}/dev/shm", "tmpfs", flags | kernel.MS_NOEXEC, f"size={SHARED_MEMORY_BYTES},nr_inodes=1k,{mine}")
    for path, tree in trees.items():  # last, for what they are made of may lie below the scratch folder's place
        _place(BUILDING_SITE + path, stat.S_ISDIR(os.fstat(tree).st_mode))
        kernel.attach(tree, BUILDING_SITE + path)
        os.close(tree)
    kernel.become_root(BUILDING_SITE)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    kernel.set_attributes(root, READ_ONLY, recursive=False)
    os.close(root)


def _environment() -> Iterable[str]:
    """What Python, PyTorch, the compiler and this project are made of."""
    yield from (path for path in (*SYSTEM, *OF_ETC, *OF_SYS) if os.path.exists(path) and not os.path.islink(path))
    yield from {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, os.path.realpath(sys.base_prefix)}
    yield from (str(ROOT / room) for room in ROOMS)
    yield from (path for path in map(os.path.realpath, sys.path) if path.endswith("-packages") and os.path.isdir(path))


def _outermost(paths: Iterable[str]) -> list[str]:
    """Those that are not below another."""
    kept: list[str] = []
    for path in sorted({str(path) for path in paths}):
        if not any(Path(path).is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _tree(path: str, attributes: int) -> int:
    tree = kernel.cloned_tree(path)
    if attributes:
        kernel.set_attributes(tree, attributes)
    return tree


def _place(path: str, folder: bool) -> None:
    """Something to mount on."""
    if folder:
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _names_of_users(owner: int, group: int) -> None:
    """Who it is, for those who ask by number."""
    os.makedirs(f"{BUILDING_SITE}/etc", exist_ok=True)
    Path(f"{BUILDING_SITE}/etc/passwd").write_text(f"job:x:{owner}:{group}:job:{SCRATCH}:/bin/false\n")
    Path(f"{BUILDING_SITE}/etc/group").write_text(f"job:x:{group}:\n")
