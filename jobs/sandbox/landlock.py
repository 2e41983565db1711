"""Landlock: files that this process and its children may open, decided by the kernel once more, whatever is mounted.

Source: Linux kernel, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os

from jobs.sandbox.kernel import LANDLOCK_ADD_RULE, LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, system_call

VERSION_FLAG, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
# Every right on files that an ABI version knows: 13 rights at first, then refer, truncate and ioctl on devices.
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
NETWORK_ABI, SCOPE_ABI = 4, 6
BIND_AND_CONNECT, SOCKETS_AND_SIGNALS = 3, 3
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | (1 << 15)  # a rule on a file may name no other


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of Landlock that this kernel has; 0 for none."""
    try:
        nothing, size, flags = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_uint32(VERSION_FLAG)
        return system_call(LANDLOCK_CREATE_RULESET, "landlock", nothing, size, flags)
    except OSError:
        return 0


def restrict(writable: list[str]) -> int:
    """From here on everything may be read and executed that can be seen, and written only beneath `writable`.

    Returns:
        The version in force; 0 where the kernel has none.

    Raises:
        OSError: the kernel has it and refused.
    """
    known = version()
    if not known:
        return 0
    every = RIGHTS[min(known, max(RIGHTS))]
    asked = _Ruleset(
        files=every,
        network=BIND_AND_CONNECT if known >= NETWORK_ABI else 0,
        scoped=SOCKETS_AND_SIGNALS if known >= SCOPE_ABI else 0,
    )
    size = 8 if known < NETWORK_ABI else 16 if known < SCOPE_ABI else 24
    ruleset = system_call(
        LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", ctypes.byref(asked), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    try:
        _allow(ruleset, "/", EXECUTE | READ_FILE | READ_DIR)
        for path in writable:
            _allow(ruleset, path, every)
        system_call(LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(rights if os.path.isdir(path) else rights & ON_FILES, parent)
        system_call(
            LANDLOCK_ADD_RULE, f"landlock_add_rule {path}", ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH),
            ctypes.byref(rule), ctypes.c_uint32(0),
        )  # fmt: skip
    finally:
        os.close(parent)
