"""Traces in Chrome's format, as torch.profiler writes them and Perfetto opens them: read into a timeline, and written from one. Without torch.

A file that somebody brings is data: it is decoded into numbers and names of known types, within limits, and nothing in it is evaluated.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np

from graphs.errors import SourceError, TooLargeError
from profiler.node_record import Timeline
from profiler.timeline import NODE, ON_DEVICE, Columns, columns, follow_launches, nest, packed

MARK = "node: "  # an event of that name, followed by a node's, is the mark around that node
GZIP = b"\x1f\x8b"
MOST_BYTES = 1 << 30  # of JSON, unpacked
MOST_EVENTS = 4_000_000
LONGEST_NAME = 400
FARTHEST_US = 2.0**53  # beyond, a JSON number no longer tells one microsecond from the next


class _Numbers(msgspec.Struct):
    """Of an event's arguments, those that say what launched what, and names of processes and threads."""

    correlation: int | float | str | None = None
    external: int | float | str | None = msgspec.field(default=None, name="External id")
    node: str | None = None
    name: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | float | str | None = None
    tid: int | float | str | None = None
    ts: float = -1.0
    dur: float = -1.0
    args: _Numbers | None = None


class _Trace(msgspec.Struct):
    traceEvents: list[_Event]  # noqa: N815  # the format's word


_decode = msgspec.json.Decoder(_Trace | list[_Event], strict=False).decode


def read_trace(content: bytes, name: str = "trace.json") -> Timeline:
    """A Chrome trace, plain or packed by gzip, as a timeline.

    Raises:
        SourceError: it is none, or holds nothing that has a beginning and a length.
        TooLargeError: it is larger than the limits.
    """
    text = unpacked(content, name) if content.startswith(GZIP) else content
    try:
        found = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        way_out = "Bring what torch.profiler's export_chrome_trace wrote: JSON, or JSON packed by gzip."
        raise SourceError(f"this is no Chrome trace: {str(error)[:200]}", where=name, help=way_out) from error
    events = found.traceEvents if isinstance(found, _Trace) else found
    if len(events) > MOST_EVENTS:
        raise TooLargeError(
            f"the trace has {len(events):,} events, more than {MOST_EVENTS:,}", where=name, help="Record fewer steps of the model."
        )
    slices = [event for event in events if event.ph == "X" and event.cat != "Trace" and _has_time(event)]
    if not slices:
        way_out = "A trace needs complete events (`ph` is `X`) with `ts` and `dur`, as torch.profiler writes them."
        raise SourceError("nothing in this trace has a beginning and a length", where=name, help=way_out)
    return _timeline(slices, _lane_names(events), len(events) - len(slices))


def unpacked(content: bytes, name: str) -> bytes:
    """What gzip packed, read piece by piece up to the limit.

    Raises:
        SourceError: the file is damaged. TooLargeError: it unpacks to more than the limit.
    """
    reader = zlib.decompressobj(wbits=31)
    try:
        text = reader.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise SourceError(f"the packed file is damaged: {error}", where=name, help="Bring it once more, or unpacked.") from error
    if reader.unconsumed_tail:
        raise TooLargeError(f"the file unpacks to more than {MOST_BYTES >> 20} MiB", where=name, help="Record fewer steps of the model.")
    return text


def _has_time(event: _Event) -> bool:
    return 0 <= event.dur < FARTHEST_US and 0 <= event.ts < FARTHEST_US and math.isfinite(event.ts + event.dur)


def _lane_names(events: Sequence[_Event]) -> dict[tuple[object, object], str]:
    """(process, thread) -> what the file calls it, from its events of metadata; the thread None stands for the process."""
    names: dict[tuple[object, object], str] = {}
    for event in events:
        if event.ph == "M" and event.args and event.name in ("process_name", "process_labels", "thread_name"):
            try:
                told = msgspec.json.decode(event.args.name, type=str)[:LONGEST_NAME]
            except msgspec.MsgspecError:
                continue
            names.setdefault((event.pid, event.tid if event.name == "thread_name" else None), told)
    return names


def _timeline(slices: Sequence[_Event], lane_names: dict[tuple[object, object], str], left_out: int) -> Timeline:
    names, lanes, kinds, nodes = (dict[object, int]() for _ in range(4))
    first = min(event.ts for event in slices)
    start = np.array([round((event.ts - first) * 1000) for event in slices], np.int64)
    length = np.array([round(event.dur * 1000) for event in slices], np.int64)
    name = np.array([_number(names, event.name[:LONGEST_NAME]) for event in slices], np.int32)
    lane = np.array([_number(lanes, (event.pid, event.tid)) for event in slices], np.int32)
    kind = np.array([_number(kinds, NODE if _is_mark(event) else event.cat[:LONGEST_NAME]) for event in slices], np.int32)
    told = [_told_node(event) for event in slices]
    mark = np.array([_number(nodes, node) if node else -1 for node in told], np.int32)
    depth, own, node = nest(start, length, lane, mark)
    on_device = np.isin(kind, [number for word, number in kinds.items() if word in ON_DEVICE])
    if on_device.any():
        correlation = np.array([_whole(event.args.correlation) if event.args else 0 for event in slices], np.int64)
        external = np.array([_whole(event.args.external) if event.args else 0 for event in slices], np.int64)
        node = follow_launches(node, on_device, correlation, external)
    found = Columns(start, length, own, name, lane, kind, node, depth)
    titles = [_lane_title(one, lane_names) for one in lanes]
    return packed(found, list(map(str, names)), titles, list(map(str, kinds)), list(map(str, nodes)), left_out)


def _number(numbers: dict[object, int], word: object) -> int:
    """The word's number, in the order in which words are first seen."""
    return numbers.setdefault(word, len(numbers))


def _is_mark(event: _Event) -> bool:
    return event.name.startswith(MARK) and not event.cat.startswith("gpu")


def _told_node(event: _Event) -> str:
    """The node that an event names by itself: as the mark around it, or as `write_trace` does."""
    if _is_mark(event):
        return event.name[len(MARK) : LONGEST_NAME]
    return (event.args.node or "")[:LONGEST_NAME] if event.args else ""


def _lane_title(lane: object, names: dict[tuple[object, object], str]) -> str:
    process, thread = cast(tuple[object, object], lane)
    told = names.get((process, thread)) or f"thread {thread}"
    owner = names.get((process, None))
    return f"{owner} {process} · {told}" if owner else f"{process} · {told}"


def _whole(value: float | str | None) -> int:
    """A number that links events; 0 for none."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 18 else 0
    return int(value) if value is not None and 0 < value < 2**62 else 0


def write_trace(timeline: Timeline, title: str) -> bytes:
    """The timeline as JSON that Perfetto and chrome://tracing open; every slice says which node it belongs to."""
    found = columns(timeline)
    events: list[dict[str, object]] = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": title}}]
    events += [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": number + 1, "args": {"name": lane}}
        for number, lane in enumerate(timeline.lanes)
    ]
    for at in range(len(found.start)):
        kind, node, name = timeline.kinds[found.kind[at]], int(found.node[at]), timeline.names[found.name[at]]
        events.append(
            {
                "ph": "X",
                "cat": "user_annotation" if kind == NODE else kind,
                "name": name,
                "pid": 1,
                "tid": int(found.lane[at]) + 1,
                "ts": int(found.start[at]) / 1000,
                "dur": int(found.length[at]) / 1000,
                "args": {"node": timeline.nodes[node]} if node >= 0 else {},
            }
        )
    return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": events})
