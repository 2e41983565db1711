"""What a power cut leaves of a folder: everything that a process asked of its files, replayed up to a moment, without what was not yet durable.

`power_cut.cpp`, loaded before the C library, writes down each call of a process, SQLite's included. `Disk` replays them under the
strictest reading of POSIX: bytes are durable once their file was synced, names once their folder was. Of all else
a cut keeps any part: sectors of 512 bytes, sizes and names, each for itself.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HEAD = struct.Struct("<5Q")
SECTOR = 512
ROOT_ID = 0


@dataclass(frozen=True)
class Call:
    """One call: create, mkdir, write, truncate, sync, rename, unlink, or what the process told the world (acknowledge)."""

    kind: str
    inode: int
    offset: int
    names: tuple[str, ...]
    data: bytes


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None)


@dataclass
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[tuple[str, int | None], ...]] = field(default_factory=list)  # names set or removed, together or not at all


class Disk:
    """Files and folders as they are in memory and, as far as known, on the disk."""

    def __init__(self, root: str, inode: int) -> None:
        self._root = root
        self._things: dict[int, _File | _Folder] = {ROOT_ID: _Folder()}
        self._by_inode, self._by_path = {inode: ROOT_ID}, {root: ROOT_ID}

    def do(self, call: Call) -> None:
        """Replays one call."""
        if call.kind in "cd":
            self._by_inode[call.inode] = self._by_path[call.names[0]] = number = len(self._things)
            self._things[number] = _File() if call.kind == "c" else _Folder()
            self._rename((call.names[0], number))
        elif call.kind == "u":
            self._by_path.pop(call.names[0])
            self._rename((call.names[0], None))
        elif call.kind == "r":
            number = self._by_path[call.names[1]] = self._by_path.pop(call.names[0])
            self._rename((call.names[0], None), (call.names[1], number))
        elif call.kind in "wt":
            thing = self._things[self._by_inode[call.inode]]
            assert isinstance(thing, _File)
            thing.pending.append((call.offset, call.data if call.kind == "w" else None))
        elif call.kind == "s":
            self._sync(self._things[self._by_inode[call.inode]])

    def cut(self, target: Path, chance: random.Random | None) -> None:
        """Writes into an empty folder what a cut at this moment leaves; without chance, everything: that is a killed process."""
        self._leave(ROOT_ID, target, chance)

    def _rename(self, *changes: tuple[str, int | None]) -> None:
        parents = {os.path.dirname(path) for path, _ in changes}
        for parent in parents:
            folder = self._things[self._by_path[parent]]
            assert isinstance(folder, _Folder)
            folder.pending.append(tuple((os.path.basename(path), number) for path, number in changes if os.path.dirname(path) == parent))

    def _sync(self, thing: _File | _Folder) -> None:
        if isinstance(thing, _File):
            thing.durable = _written(thing, thing.pending)
        else:
            thing.durable = _named(thing, thing.pending)
        thing.pending.clear()

    def _leave(self, number: int, target: Path, chance: random.Random | None) -> None:
        thing = self._things[number]
        share = chance.choice((0.0, 0.5, 1.0)) if chance else 1.0
        if isinstance(thing, _File):
            target.write_bytes(_written(thing, _survivors(thing.pending, share, chance)))
            return
        target.mkdir(exist_ok=True)
        kept = [change for change in thing.pending if chance is None or chance.random() < share]
        for name, inner in _named(thing, kept).items():
            if not name.endswith("-shm"):  # shared memory, which SQLite makes anew after a start
                self._leave(inner, target / name, chance)


def _survivors(pending: list[tuple[int, bytes | None]], share: float, chance: random.Random | None) -> list[tuple[int, bytes | None]]:
    """What of the writes that are on their way reached the disk: sectors, each for itself."""
    if chance is None:
        return pending
    kept: list[tuple[int, bytes | None]] = []
    for offset, data in pending:
        if data is None:
            kept += [(offset, None)] if chance.random() < share else []
            continue
        first = 0
        while first < len(data):
            last = min(len(data), first + SECTOR - (offset + first) % SECTOR)
            kept += [(offset + first, data[first:last])] if chance.random() < share else []
            first = last
    return kept


def _written(thing: _File, writes: Sequence[tuple[int, bytes | None]]) -> bytearray:
    content = bytearray(thing.durable)
    for offset, data in writes:
        end = offset if data is None else offset + len(data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if data is None:
            del content[end:]
        else:
            content[offset:end] = data
    return content


def _named(thing: _Folder, changes: Sequence[tuple[tuple[str, int | None], ...]]) -> dict[str, int]:
    names = dict(thing.durable)
    for change in changes:
        for name, number in change:
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number
    return names


def record(program: Sequence[str], folder: Path, work: Path, timeout_s: float = 120) -> list[Call]:
    """Runs a Python program whose files lie in the folder, and returns its calls.

    Raises:
        RuntimeError: the recorder missed something: replayed, the calls do not give the folder as it is.
    """
    library, log = work / "power_cut.so", work / "calls"
    source = Path(__file__).with_suffix(".cpp")
    subprocess.run([os.environ.get("CXX") or "g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FXSCOPE_CUT_FOLDER": str(folder), "FXSCOPE_CUT_LOG": str(log)}
    command, root = [sys.executable, *program], Path(__file__).parents[1]
    subprocess.run(command, check=True, cwd=root, env=environment, stdout=subprocess.DEVNULL, timeout=timeout_s)
    calls = _read(log.read_bytes())
    disk, target = Disk(str(folder), folder.stat().st_ino), work / "replayed"
    for call in calls:
        disk.do(call)
    disk.cut(target, None)
    if _all(target) != _all(folder):
        raise RuntimeError("the recorder missed a call: the replayed folder is not the real one")
    shutil.rmtree(target)
    return calls


def _read(log: bytes) -> list[Call]:
    calls, at = [], 0
    while at < len(log):
        kind, inode, offset, name_size, data_size = HEAD.unpack_from(log, at)
        at += HEAD.size
        names = tuple(log[at : at + name_size].decode().split("\0"))
        at += name_size
        calls.append(Call(chr(kind), inode, offset, names, log[at : at + data_size]))
        at += data_size
    return calls


def _all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
