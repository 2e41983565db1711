"""The kernel's calls that Python 3.11 has no names for. Each raises OSError with the call's name."""

from __future__ import annotations

import contextlib
import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LAST_CAPABILITY = 63

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
CAPABILITY_VERSION_3 = 0x2008_0522

# Calls without a function in the C library; the numbers are the same on every architecture since Linux 5.1.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def checked(result: int, what: str) -> int:
    """The result, or the error that the C library keeps."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(number: int, what: str, *arguments: object) -> int:
    """A call by its number."""
    return checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def unshare(flags: int) -> None:
    checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def prctl(option: int, *arguments: int) -> int:
    numbers = [ctypes.c_ulong(number) for number in (*arguments, 0, 0, 0, 0)[:4]]
    return checked(_libc.prctl(ctypes.c_int(option), *numbers), f"prctl {option}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    checked(result, f"mount {kind or source} on {target}")


def cloned_tree(path: str) -> int:
    """A file descriptor of a detached copy of what is mounted at and below a path."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    return system_call(OPEN_TREE, f"open_tree {path}", ctypes.c_int(AT_FDCWD), path.encode(), ctypes.c_uint(flags))


def set_attributes(descriptor: int, attributes: int, recursive: bool = True) -> None:
    """Adds attributes to a mount, and to those below."""
    asked = _MountAttributes(attr_set=attributes)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    system_call(
        MOUNT_SETATTR, "mount_setattr", ctypes.c_int(descriptor), b"", ctypes.c_uint(flags), ctypes.byref(asked),
        ctypes.c_size_t(ctypes.sizeof(asked)),
    )  # fmt: skip


def attach(descriptor: int, target: str) -> None:
    """Mounts a detached tree on a path."""
    system_call(
        MOVE_MOUNT, f"move_mount {target}", ctypes.c_int(descriptor), b"", ctypes.c_int(AT_FDCWD), target.encode(),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )  # fmt: skip


def become_root(folder: str) -> None:
    """Makes a mounted folder the root of this process's files, and forgets the old one."""
    os.chdir(folder)
    # pivot_root has no function in the C library, and another number on each architecture.
    number = {"x86_64": 155, "aarch64": 41, "riscv64": 41}[os.uname().machine]
    system_call(number, "pivot_root", b".", b".")
    checked(_libc.umount2(b".", ctypes.c_int(MNT_DETACH)), "umount2")
    os.chdir("/")


def drop_bounding_set() -> None:
    """No program that is executed later can have a capability, whatever its file says."""
    for capability in range(LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # above the last one that this kernel knows
            prctl(PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """None is left in this thread, and programs with a set-user-id bit give none."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = _CapabilityHeader(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    checked(_libc.capset(ctypes.byref(header), nothing), "capset")
