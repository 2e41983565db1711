"""Pickles of plain data, read by a stack machine of our own that can build nothing else. Without torch.

A pickle is a program for a small machine, some of whose instructions import and call whatever they name. The machine here knows the others only:
dicts, lists, tuples, texts, whole numbers, floats, booleans and None. At any other instruction it ends and says at which byte. `plain_pickle.cpp`
is that machine; where there is no compiler, the same in Python reads as well, some fifty times slower.
"""

from __future__ import annotations

import ctypes
import functools
import pickletools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphs import native
from graphs.errors import SourceError, TooLargeError

SOURCE = Path(__file__).with_suffix(".cpp")
MISSING = -(1 << 62)  # in a table: nothing under that key, or no whole number, text or container
_MISSING, _NONE, _BOOL, _INT, _FLOAT, _TEXT, _LIST, _DICT = range(8)
_REFUSED, _DAMAGED, _LARGE = 1, 2, 3
_WAY_OUT = (
    "Nothing of the file was run. Bring a pickle of dicts, lists, texts and numbers alone, as torch.cuda.memory._dump_snapshot writes."
)


class Plain(Protocol):
    """A pickle that was read: values are handles; what is behind one is asked for."""

    root: Any

    def get(self, value: Any, key: str) -> Any:
        """The value under a key of a dict; None where there is none, or the value is no dict."""
        ...

    def items(self, value: Any) -> list[Any]:
        """Those of a list or tuple; nothing for other values."""
        ...

    def scalar(self, value: Any) -> int | float | str | None:
        """A number or text; None for all else."""
        ...

    def table(self, rows: Any, keys: Sequence[str]) -> np.ndarray:
        """Rows × keys, int64: of every dict in a list the whole numbers under some keys; texts and containers as numbers that tell them apart."""
        ...

    def behind(self, number: int) -> Any:
        """The handle of a text or container in a table."""
        ...

    def frames(self, column: np.ndarray) -> np.ndarray:
        """Of every list of stack frames in a table's column the frame to show: the innermost that names an fx node, else the innermost of a Python
        file outside of torch, else the innermost; MISSING where there is none."""
        ...


def read_plain(content: bytes, name: str) -> Plain:
    """Reads a pickle.

    Raises:
        SourceError: it is damaged, or does more than plain data needs; says what and at which byte.
        TooLargeError: it holds more values than the limits allow.
    """
    library = compiled()
    return _Compiled(library, content, name) if library else _Slow(content, name)


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The compiled machine, or None where it cannot be compiled."""
    library = native.core(SOURCE)
    if library is None:
        return None
    word, words, number = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64
    for function, result, arguments in (
        (library.plain_read, ctypes.c_void_p, [ctypes.c_char_p, number]),
        (library.plain_close, None, [ctypes.c_void_p]),
        (library.plain_fault, ctypes.c_int, [ctypes.c_void_p]),
        (library.plain_where, number, [ctypes.c_void_p]),
        (library.plain_root, word, [ctypes.c_void_p]),
        (library.plain_float, ctypes.c_double, [ctypes.c_void_p, word]),
        (library.plain_text, ctypes.c_void_p, [ctypes.c_void_p, word, ctypes.POINTER(number)]),
        (library.plain_items, number, [ctypes.c_void_p, word, words]),
        (library.plain_table, None, [ctypes.c_void_p, word, words, number, words]),
        (library.plain_word, word, [ctypes.c_void_p, ctypes.c_char_p]),
        (library.plain_frames, None, [ctypes.c_void_p, words, number, words]),
    ):
        function.restype, function.argtypes = result, arguments
    return library


def _fault(fault: int, content: bytes, where: int, name: str) -> SourceError | TooLargeError:
    place = f"{name}, byte {where:,}"
    if fault == _LARGE:
        return TooLargeError("the pickle holds more values than can be read", where=place, help="Record a shorter stretch.")
    if fault == _DAMAGED:
        return SourceError("the pickle is damaged or cut off", where=place, help="Write or copy it once more.")
    code = chr(content[where]) if where < len(content) else ""
    known = next((one for one in pickletools.opcodes if one.code == code), None)
    called = f"the instruction {known.name}" if known else "an unknown instruction"
    return SourceError(f"this pickle does more than plain data needs: {called}", where=place, help=_WAY_OUT)


class _Compiled:
    """A `Plain` in the tables of the compiled machine; a handle is one of its words."""

    def __init__(self, library: ctypes.CDLL, content: bytes, name: str) -> None:
        self._library, self._content = library, content  # its texts are compared in place
        self._reader = ctypes.c_void_p(library.plain_read(content, len(content)))
        if fault := library.plain_fault(self._reader):
            raise _fault(fault, content, library.plain_where(self._reader), name)
        self.root = library.plain_root(self._reader)

    def __del__(self) -> None:
        self._library.plain_close(self._reader)

    def get(self, value: int, key: str) -> int | None:
        if value is None or value & 7 != _DICT:
            return None
        found, wanted = self._words(value), self._library.plain_word(self._reader, key.encode())
        places = np.flatnonzero(found[::2] == wanted)
        return int(found[2 * places[-1] + 1]) if len(places) else None

    def items(self, value: int) -> list[int]:
        return self._words(value).tolist() if value is not None and value & 7 == _LIST else []

    def scalar(self, value: int) -> int | float | str | None:
        kind = value & 7 if value is not None else _NONE
        if kind in (_INT, _BOOL):
            return _signed(value)
        if kind == _FLOAT:
            return self._library.plain_float(self._reader, value)
        if kind != _TEXT:
            return None
        size = ctypes.c_int64()
        start = self._library.plain_text(self._reader, value, ctypes.byref(size))
        return ctypes.string_at(start, size.value).decode("utf-8", errors="replace")

    def table(self, rows: int, keys: Sequence[str]) -> np.ndarray:
        if rows is None or rows & 7 != _LIST:
            return np.zeros((0, len(keys)), np.int64)
        count = self._library.plain_items(self._reader, rows, None)
        wanted = np.array([self._library.plain_word(self._reader, key.encode()) for key in keys], np.uint64)
        out = np.zeros((count, len(keys)), np.uint64)
        self._library.plain_table(self._reader, rows, wanted.ctypes.data, len(keys), out.ctypes.data)
        kind = out & np.uint64(7)
        # Texts and containers stay words, above all numbers that a pickle may hold here.
        values = np.where(kind == _INT, out.view(np.int64) >> 3, out.view(np.int64) | np.int64(1 << 62))
        return np.where((kind == _INT) | (kind >= _TEXT), values, MISSING)

    def behind(self, number: int) -> int:
        return int(number) & ~(1 << 62)

    def frames(self, column: np.ndarray) -> np.ndarray:
        lists = np.where(column == MISSING, 0, column & ~np.int64(1 << 62)).astype(np.uint64)
        out = np.zeros(len(lists), np.uint64)
        self._library.plain_frames(self._reader, lists.ctypes.data, len(lists), out.ctypes.data)
        return np.where(out == 0, MISSING, out.view(np.int64) | np.int64(1 << 62))

    def _words(self, value: int) -> np.ndarray:
        out = np.zeros(self._library.plain_items(self._reader, value, None), np.uint64)
        self._library.plain_items(self._reader, value, out.ctypes.data)
        return out


def _signed(word: int) -> int:
    return (word >> 3) - (1 << 61 if word >> 63 else 0)


# ---------------------------------------------------------------- without a compiler


class _Slow:
    """A `Plain` of Python's own values; a handle is the value."""

    def __init__(self, content: bytes, name: str) -> None:
        self.root = _run(content, name)
        self._behind: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def get(self, value: Any, key: str) -> Any:
        return value.get(key) if isinstance(value, dict) else None

    def items(self, value: Any) -> list[Any]:
        return list(value) if isinstance(value, list | tuple) else []

    def scalar(self, value: Any) -> int | float | str | None:
        return value if isinstance(value, int | float | str) else None

    def table(self, rows: Any, keys: Sequence[str]) -> np.ndarray:
        found = [[self._number(row.get(key)) if isinstance(row, dict) else MISSING for key in keys] for row in self.items(rows)]
        return np.array(found, np.int64).reshape(-1, len(keys))

    def behind(self, number: int) -> Any:
        return self._behind[int(number) & ~(1 << 62)]

    def frames(self, column: np.ndarray) -> np.ndarray:
        return np.array([self._number(_frame(self.items(self.behind(one)))) if one != MISSING else MISSING for one in column], np.int64)

    def _number(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if not isinstance(value, str | list | tuple | dict):
            return MISSING
        key = value if isinstance(value, str) else id(value)
        if key not in self._numbers:
            self._numbers[key] = len(self._behind) | 1 << 62
            self._behind.append(value)
        return self._numbers[key]


def _frame(frames: Sequence[Any]) -> dict[str, Any] | None:
    dicts = [frame for frame in frames if isinstance(frame, dict)]
    return max(dicts, key=_rank, default=None)


def _rank(frame: dict[str, Any]) -> int:
    if frame.get("fx_node_name"):
        return 3
    place = frame.get("filename")
    return 2 if isinstance(place, str) and "/torch/" not in place and ".py" in place else 1


_SKIPPED = {0x80: 1, 0x95: 8}  # PROTO, FRAME
_WHOLE = {ord("K"): "<B", ord("M"): "<H", ord("J"): "<i"}
_LENGTHS = {0x8C: 1, ord("X"): 4, 0x8D: 8}
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_EMPTY: dict[int, Callable[[], Any]] = {ord(")"): tuple, ord("]"): list, ord("}"): dict}
_STORES, _LOADS = {ord("q"): 1, ord("r"): 4}, {ord("h"): 1, ord("j"): 4}


def _run(content: bytes, name: str) -> Any:
    machine = _Machine(content)
    try:
        while machine.step():
            pass
    except (IndexError, KeyError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise _fault(_DAMAGED, content, machine.last, name) from error
    except NotImplementedError as error:
        raise _fault(_REFUSED, content, machine.last, name) from error
    return machine.stack[-1]


class _Machine:
    """The stack machine in Python; see plain_pickle.cpp."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.last = content, 0, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self) -> bool:
        self.last = self.at
        code = self.take(1)[0]
        if code == ord("."):
            self.stack[-1]
            return False
        if code in _SKIPPED:
            self.take(_SKIPPED[code])
        elif code == ord("("):
            self.marks.append(len(self.stack))
        elif code == ord("0"):
            self.stack.pop()
        elif code == ord("1"):
            self.since_mark()
        elif code in _STORES or code == 0x94:
            self.memo[len(self.memo) if code == 0x94 else self.number(_STORES[code])] = self.stack[-1]
        elif code in (ord("a"), ord("e"), ord("s"), ord("u")):
            self.fill(code)
        else:
            self.stack.append(self.value(code))
        return True

    def value(self, code: int) -> Any:
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _EMPTY:
            return _EMPTY[code]()
        if code in _WHOLE:
            return struct.unpack(_WHOLE[code], self.take(struct.calcsize(_WHOLE[code])))[0]
        if code in _LENGTHS:
            return self.take(self.number(_LENGTHS[code])).decode("utf-8", errors="replace")
        if code in _LOADS:
            return self.memo[self.number(_LOADS[code])]
        if code == 0x8A:
            return self.long()
        if code == ord("G"):
            return struct.unpack(">d", self.take(8))[0]
        if code == ord("t"):
            return tuple(self.since_mark())
        if code in (0x85, 0x86, 0x87):
            return tuple(self.last_ones(code - 0x84))
        raise NotImplementedError

    def long(self) -> int:
        found = int.from_bytes(self.take(self.number(1)), "little", signed=True)
        if not -(1 << 60) <= found < 1 << 60:
            raise NotImplementedError
        return found

    def fill(self, code: int) -> None:
        alone = {ord("a"): 1, ord("s"): 2}.get(code)
        values = self.last_ones(alone) if alone else self.since_mark()
        into = self.stack[-1]
        if code in (ord("a"), ord("e")):
            if not isinstance(into, list):
                raise TypeError
            into.extend(values)
        else:
            if not isinstance(into, dict) or len(values) % 2:
                raise TypeError
            into.update(zip(values[::2], values[1::2], strict=True))

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise IndexError
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def last_ones(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found
