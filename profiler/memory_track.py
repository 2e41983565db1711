"""Memory over time from the events that changed it: the curve, its peak, who holds it then, and what of it to draw. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.node_record import MemoryTrack


@dataclass(frozen=True)
class Events:
    """Columns of equal length: when, signed bytes, address, and the owner's position (−1: unknown)."""

    at: np.ndarray
    change: np.ndarray
    address: np.ndarray
    owner: np.ndarray


def packed(events: Events, owners: Sequence[str], by_node: bool, before: int = 0, **more: bytes | int) -> MemoryTrack:
    """The record of some events."""
    wide = [column.astype(np.int64).tobytes() for column in (events.at, events.change, events.address)]
    return MemoryTrack(*wide, events.owner.astype(np.int32).tobytes(), tuple(owners), by_node, before, **more)  # type: ignore[arg-type]


def events(track: MemoryTrack) -> Events:
    at, change, address = (np.frombuffer(column, np.int64) for column in (track.at, track.change, track.address))
    return Events(at, change, address, np.frombuffer(track.owner, np.int32))


def held(track: MemoryTrack) -> np.ndarray:
    """Bytes that are held behind every event."""
    return track.before + np.cumsum(np.frombuffer(track.change, np.int64))


def reserved(track: MemoryTrack) -> tuple[np.ndarray, np.ndarray]:
    """(when, bytes) that the allocator has from the device behind each of those events; empty where nobody recorded it."""
    changes = np.frombuffer(track.reserved_change, np.int64)
    return np.frombuffer(track.reserved_at, np.int64), track.reserved_before + np.cumsum(changes)


def peak(track: MemoryTrack) -> tuple[int, int]:
    """The most bytes held, and the number of the event behind which they are (−1: before the first)."""
    curve = held(track)
    if not len(curve) or curve.max() <= track.before:
        return track.before, -1
    return int(curve.max()), int(curve.argmax())


def alive_rows(track: MemoryTrack, event: int) -> list[int]:
    """The numbers of the events that took what is held behind that event, the largest first; what was there before is not among them."""
    found = events(track)
    taken: dict[int, int] = {}
    addresses, changes = found.address[: event + 1].tolist(), found.change[: event + 1].tolist()
    for row, (address, change) in enumerate(zip(addresses, changes, strict=True)):
        if change > 0:
            taken[address] = row
        else:
            taken.pop(address, None)
    return sorted(taken.values(), key=lambda row: -changes[row])


def alive(track: MemoryTrack, event: int) -> list[tuple[str, int]]:
    """(owner, bytes) of what was taken up to that event and is held behind it, the largest first; an unknown owner is empty."""
    found = events(track)
    return [(track.owners[found.owner[row]] if found.owner[row] >= 0 else "", int(found.change[row])) for row in alive_rows(track, event)]


def thinned(at: np.ndarray, values: np.ndarray, begin: int, end: int, buckets: int) -> np.ndarray:
    """Positions of the values that a picture of [begin, end] needs, in order: all of them, or of every bucket the first, the lowest, the
    highest and the last, so that no peak is lost. `at` rises."""
    low, high = np.searchsorted(at, begin, "left"), np.searchsorted(at, end, "right")
    low = max(0, low - 1)  # the value at the left edge comes from before it
    if high - low <= 4 * buckets:
        return np.arange(low, high)
    edges = np.linspace(low, high, buckets + 1).astype(np.int64)
    chosen = {int(edges[0]), int(high) - 1}
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[start:stop]
        chosen |= {start, start + int(part.argmin()), start + int(part.argmax()), stop - 1}
    return np.array(sorted(chosen), np.int64)
