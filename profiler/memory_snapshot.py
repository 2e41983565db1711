"""Snapshots of CUDA's memory, as `torch.cuda.memory._dump_snapshot` writes them and pytorch.org/memory_viz opens them: read, and written. Without torch.

A snapshot is a pickled dict: `device_traces` holds for every device what its allocator did, in order, `segments` what it had at the end. What a file
says of memory is believed; nothing in it is run (`plain_pickle`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphs.errors import SourceError
from profiler.memory_track import Events, alive_rows, packed
from profiler.memory_track import events as events_of_track
from profiler.node_record import MemoryTrack
from profiler.plain_pickle import MISSING, Plain, read_plain

TAKES, GIVES = ("alloc",), ("free_completed", "free")
RESERVES, RETURNS = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")
KEYS = ("action", "addr", "size", "time_us", "frames")
HELD_STATES = ("active_allocated", "active_pending_free", "active_awaiting_free")
LONGEST_NAME = 300
WAY_OUT = "Record with torch.cuda.memory._record_memory_history(), run the model, and write it with torch.cuda.memory._dump_snapshot(FILE)."


def read_snapshot(content: bytes, name: str = "snapshot.pickle") -> MemoryTrack:
    """The events of the busiest device of a snapshot.

    Raises:
        SourceError: it is no snapshot, or does more than plain data needs. TooLargeError: it is too large.
    """
    plain = read_plain(content, name)
    traces = plain.items(plain.get(plain.root, "device_traces"))
    if not traces:
        raise SourceError("this pickle is no snapshot of memory: it has no `device_traces`", where=name, help=WAY_OUT)
    tables = [plain.table(trace, KEYS) for trace in traces]
    device = max(range(len(tables)), key=lambda at: len(tables[at]))
    others = sum(len(table) for table in tables) - len(tables[device])
    if not len(tables[device]):
        raise SourceError("the snapshot holds no events: memory history was not being recorded", where=name, help=WAY_OUT)
    return _track(plain, tables[device], device, others)


def events_of(trace: Sequence[Mapping[str, Any]]) -> Events:
    """What of a device's trace, in the form that torch gives it, changed the memory held; times are torch's microseconds, owners unknown."""
    rows = [entry for entry in trace if entry["action"] in (*TAKES, *GIVES)]
    signed = [entry["size"] if entry["action"] in TAKES else -entry["size"] for entry in rows]
    columns = ([entry["time_us"] for entry in rows], signed, [entry["addr"] for entry in rows], [-1] * len(rows))
    return Events(*(np.array(column, np.int64) for column in columns))


def _track(plain: Plain, table: np.ndarray, device: int, others: int) -> MemoryTrack:
    action, address, size, when, stack = (np.ascontiguousarray(column) for column in table.T)
    sign = _signs(plain, action, TAKES, GIVES)
    sane = (size >= 0) & (size < 1 << 50) & (address != MISSING)
    rows = np.flatnonzero((sign != 0) & sane)
    owner, owners = _owners(plain, stack[rows])
    at = _times(when)
    found = Events(at[rows], sign[rows] * size[rows], address[rows], owner)
    segment_sign = _signs(plain, action, RESERVES, RETURNS)
    segments = np.flatnonzero((segment_sign != 0) & sane)
    changes = segment_sign[segments] * size[segments]
    held, reserved = _at_the_end(plain, device)
    return packed(
        found,
        owners,
        by_node=False,
        before=_before(found.change, held),
        reserved_at=at[segments].tobytes(),
        reserved_change=changes.astype(np.int64).tobytes(),
        reserved_before=_before(changes, reserved),
        left_out=len(table) - len(rows) - len(segments) + others,
    )


def _signs(plain: Plain, action: np.ndarray, plus: Sequence[str], minus: Sequence[str]) -> np.ndarray:
    """+1, −1 or 0 for every event, by the name of what was done."""
    signs = np.zeros(len(action), np.int64)
    for number in np.unique(action).tolist():
        word = plain.scalar(plain.behind(number)) if number != MISSING and number >= 1 << 62 else None
        if word in plus or word in minus:
            signs[action == number] = 1 if word in plus else -1
    return signs


def _times(when: np.ndarray) -> np.ndarray:
    """Microseconds since the first event, never falling; the events' numbers where the file tells no time."""
    if not len(when) or (when == MISSING).any():
        return np.arange(len(when), dtype=np.int64)
    return np.maximum.accumulate(when - when[0])


def _owners(plain: Plain, stacks: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """For every event the position of the line that is to be shown for it, and the lines."""
    unique, inverse = np.unique(plain.frames(stacks), return_inverse=True)
    words = ["" if number == MISSING else _line(plain, plain.behind(number)) for number in unique.tolist()]
    names = list(dict.fromkeys(word for word in words if word))
    number_of = {word: number for number, word in enumerate(names)}
    return np.array([number_of.get(word, -1) for word in words], np.int64)[inverse.reshape(-1)], names


def _line(plain: Plain, frame: Any) -> str:
    """`relu_1 · model.py:12 forward`."""
    node, file, line, function = (plain.scalar(plain.get(frame, key)) for key in ("fx_node_name", "filename", "line", "name"))
    short = str(file or "").replace("\\", "/").rpartition("/")[2]
    place = f"{short}:{line} {function or ''}".strip() if file else str(function or "")
    return (f"{node} · {place}" if node else place)[:LONGEST_NAME]


def _at_the_end(plain: Plain, device: int) -> tuple[int | None, int | None]:
    """(held, reserved) bytes of a device when the snapshot was taken; None where it does not say."""
    segments = plain.items(plain.get(plain.root, "segments"))
    own = [segment for segment in segments if plain.scalar(plain.get(segment, "device")) in (device, None)]
    if not segments:
        return None, None
    held = 0
    for segment in own:
        for block in plain.items(plain.get(segment, "blocks")):
            if plain.scalar(plain.get(block, "state")) in HELD_STATES:
                held += _size(plain, block, "size")
    return held, sum(_size(plain, segment, "total_size") for segment in own)


def _size(plain: Plain, value: Any, key: str) -> int:
    found = plain.scalar(plain.get(value, key))
    return found if isinstance(found, int) and found >= 0 else 0


def _before(changes: np.ndarray, end: int | None) -> int:
    """Bytes before the first event: what the end and all changes leave, and never so few that less than nothing was held."""
    least = max(0, -int(np.cumsum(changes).min())) if len(changes) else 0
    return max(least, end - int(changes.sum())) if end is not None else least


# ---------------------------------------------------------------- written


def write_snapshot(track: MemoryTrack, microseconds: Sequence[int], torch_version: str) -> bytes:
    """A pickle that pytorch.org/memory_viz opens: every taking and giving back as an event of one device.

    Args:
        microseconds: when each event happened.
    """
    found = events_of_track(track)
    trace: list[dict[str, Any]] = []
    for row, when in enumerate(microseconds):
        change, address, owner = int(found.change[row]), int(found.address[row]), int(found.owner[row])
        frames = [_frame(track.owners[owner])] if owner >= 0 else []
        entry = {"addr": address, "size": abs(change), "stream": 0, "time_us": int(when), "frames": frames}
        steps = TAKES if change > 0 else ("free_requested", "free_completed")
        trace += [{"action": action, **entry} for action in steps]
    segments = [_segment(track, found, row) for row in alive_rows(track, len(found.change) - 1)]
    whole = {
        "segments": segments,
        "device_traces": [trace],
        "allocator_settings": {},
        "external_annotations": [],
        "torch_version": torch_version,
    }
    return pickle.dumps(whole, protocol=4)


def _frame(owner: str) -> dict[str, Any]:
    return {"name": owner, "filename": "graph", "line": 0, "fx_node_name": owner}


def _segment(track: MemoryTrack, found: Events, row: int) -> dict[str, Any]:
    size, address, owner = int(found.change[row]), int(found.address[row]), int(found.owner[row])
    frames = [_frame(track.owners[owner])] if owner >= 0 else []
    block = {"address": address, "size": size, "requested_size": size, "state": "active_allocated", "frames": frames}
    whole = {"device": 0, "address": address, "total_size": size, "stream": 0, "segment_type": "large", "segment_pool_id": (0, 0)}
    return {**whole, "allocated_size": size, "active_size": size, "requested_size": size, "blocks": [block], "frames": frames}
