"""Profiles of graphs and recordings that readers bring, inside the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphs.errors import RequestError
from graphs.program import Program
from jobs.record import ProfileResult, RecordingResult
from profiler.node_record import Timeline
from profiler.per_node import profile_graphs
from profiler.recordings import read_recording


def profiled(programs: Sequence[Program], labels: Sequence[str], tell: Callable[[str, float], None]) -> ProfileResult:
    """Every node of every graph, the graphs in turns."""
    return ProfileResult(tuple(profile_graphs(programs, labels, on_progress=tell)))


def opened_recording(source: str, sources: Mapping[str, tuple[str, bytes]]) -> RecordingResult:
    """What is in a kept recording.

    Raises:
        RequestError: it is not kept here. SourceError, TooLargeError: it cannot be read.
    """
    if source not in sources:
        raise RequestError("this recording is not kept here", where=source[:12], help="Open the file again.")
    name, content = sources[source]
    found = read_recording(content, name)
    return RecordingResult(timeline=found) if isinstance(found, Timeline) else RecordingResult(memory=found)
