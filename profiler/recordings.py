"""Recordings that a reader brings: traces of torch.profiler and snapshots of CUDA's memory, told apart by what is in them. Without torch."""

from __future__ import annotations

from graphs.errors import SourceError
from profiler.memory_snapshot import read_snapshot
from profiler.node_record import MemoryTrack, Timeline
from profiler.trace_file import GZIP, read_trace, unpacked

ENDINGS = ("json", "gz", "pickle", "pkl")
LIMIT_BYTES = 400 << 20
PICKLE = b"\x80"  # the first byte of every pickle since protocol 2
WAY_OUT = "Bring what `export_chrome_trace` of torch.profiler wrote (.json, .json.gz) or `torch.cuda.memory._dump_snapshot` (.pickle, .pickle.gz)."


def refuse_other_files(name: str, size: int) -> None:
    """Looks at the name and the size alone.

    Raises:
        SourceError: no recording has such a name, or it is too large to be opened.
    """
    if name.rpartition(".")[2].lower() not in ENDINGS:
        raise SourceError("this kind of file cannot be opened", where=name, help=WAY_OUT)
    if size > LIMIT_BYTES:
        raise SourceError(
            f"the file is larger than {LIMIT_BYTES >> 20} MiB", where=name, help="Record a shorter stretch, or pack it by gzip."
        )


def read_recording(content: bytes, name: str) -> Timeline | MemoryTrack:
    """What is in the file, by its first bytes, not by its name.

    Raises:
        SourceError: it is neither a trace nor a snapshot. TooLargeError: it is larger than the limits.
    """
    refuse_other_files(name, len(content))
    if content.startswith(GZIP):
        content = unpacked(content, name)
    if content.startswith(PICKLE):
        return read_snapshot(content, name)
    if content.lstrip()[:1] in (b"{", b"["):
        return read_trace(content, name)
    raise SourceError("this is neither a trace nor a memory snapshot", where=name, help=WAY_OUT)
