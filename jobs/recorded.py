"""Results that were measured on another machine, for readers who do not have it. Without torch.

A recording is one JSON file in `profiler/recordings`, made there by `python -m profiler record`: the device, the day, the versions, and for each
request its result, just as a worker here would have given it. Profiles of nodes bring their graphs along, for on another device another graph may be
captured; both are packed, since they are much to read and are looked at one at a time.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from graphs.errors import RequestError
from graphs.record import GraphSnapshot
from jobs.experiment import parse
from jobs.record import CeilingsResult, Measure, MeasureResult
from profiler.node_record import NodeProfile
from profiler.node_samples import trimmed
from profiler.record import Device, Failure

FOLDER = Path(__file__).resolve().parent.parent / "profiler" / "recordings"
FORMAT = 1
KEPT_BLOCKS = 12  # of single runs behind a profile; they are noise, which does not pack
MOST_BYTES = 256 << 20  # of an unpacked profile
WAY_OUT = "Make it anew with `python -m profiler record`."


class Entry(msgspec.Struct, frozen=True):
    """One request and what came of it there; its words name no device."""

    request: Measure
    result: MeasureResult


class Profiled(msgspec.Struct, frozen=True):
    """The captured graph, and where there is a pipeline, the graph after it; each with its profile."""

    graphs: tuple[GraphSnapshot, ...]
    profiles: tuple[NodeProfile, ...]


class ProfileEntry(msgspec.Struct, frozen=True):
    """Nodes of an experiment's graphs, profiled there.

    Attributes:
        words: the experiment, without a device.
        whole_ms: median of whole runs of each graph, for lists; nodes: how many of each were timed.
        packed: the rest; `opened` reads it.
    """

    words: str
    whole_ms: tuple[float, ...]
    nodes: tuple[int, ...]
    packed: bytes

    def opened(self) -> Profiled:
        """Graphs and profiles.

        Raises:
            RequestError: what is in the file is none.
        """
        return _opened(self.packed)


def profile_entry(words: str, graphs: tuple[GraphSnapshot, ...], profiles: tuple[NodeProfile, ...]) -> ProfileEntry:
    """Packs what was profiled, with fewer single runs."""
    kept = Profiled(graphs, tuple(trimmed(profile, KEPT_BLOCKS) for profile in profiles))
    whole = tuple(profile.whole_ms for profile in profiles)
    return ProfileEntry(words, whole, tuple(len(profile.nodes) for profile in profiles), zlib.compress(msgspec.msgpack.encode(kept), 9))


@functools.lru_cache(maxsize=8)
def _opened(packed: bytes) -> Profiled:
    """A page asks with every click, and a picture is kept as long as its graph is the same object."""
    try:
        reader = zlib.decompressobj()
        content = reader.decompress(packed, MOST_BYTES)
        if not reader.eof:
            raise RequestError("a profile of this recording is cut off, or too large", help=WAY_OUT)
        found = msgspec.msgpack.decode(content, type=Profiled)
    except (zlib.error, msgspec.DecodeError) as error:
        raise RequestError(f"a profile of this recording cannot be read: {error}", help=WAY_OUT) from error
    if not 0 < len(found.graphs) == len(found.profiles):
        raise RequestError("a profile of this recording has no graph", help=WAY_OUT)
    return found


class Recording(msgspec.Struct, frozen=True):
    """What was measured on one machine.

    Attributes:
        started: UTC, ISO 8601.
        versions: of Python, torch and what else decides about speed.
        profiles: of nodes, of some experiments.
        failed: requests that could not be measured there, and why.
        ceilings: what the device reaches, and the device as a sheet that has them; None where nobody measured them.
    """

    device: Device
    started: str
    versions: Mapping[str, str]
    entries: tuple[Entry, ...] = ()
    failed: tuple[Failure, ...] = ()
    format: int = FORMAT
    profiles: tuple[ProfileEntry, ...] = ()
    ceilings: CeilingsResult | None = None

    @property
    def title(self) -> str:
        """Device and day: `NVIDIA H200, recorded 2026-11-24`."""
        return f"{self.device.short_name}, recorded {self.started[:10]}"

    def find(self, request: Measure) -> MeasureResult | None:
        """The result of a request; of the experiment with other peers or steps where it was not measured just so."""
        wanted = without_device(request)
        same = [entry for entry in self.entries if entry.request.words == wanted.words]
        same.sort(key=lambda entry: (entry.request.every_step == wanted.every_step, entry.request.peers == wanted.peers), reverse=True)
        return same[0].result if same else None

    def profile(self, words: str) -> ProfileEntry | None:
        """What was profiled of an experiment, whatever device its words name."""
        return next((entry for entry in self.profiles if entry.words == plain_words(words)), None)


def plain_words(words: str) -> str:
    """An experiment's words in their canonical order and without a device: a recording has its own."""
    return msgspec.structs.replace(parse(words), device="auto").words


def without_device(request: Measure) -> Measure:
    """The request with plain words."""
    return msgspec.structs.replace(request, words=plain_words(request.words))


def recordings(folder: Path = FOLDER) -> dict[str, Recording]:
    """File name without its ending -> recording; files that are none are left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = _read_once(path, path.stat().st_mtime_ns)
        except (RequestError, OSError):
            continue
    return found


@functools.lru_cache(maxsize=64)
def _read_once(path: Path, changed: int) -> Recording:
    """A page asks with every click: a file is read again only when it has changed."""
    return read(path)


def read(path: Path) -> Recording:
    """One recording.

    Raises:
        RequestError: the file is none, or of another format.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Recording)
    except (OSError, msgspec.DecodeError) as error:
        raise RequestError(f"this is no recording: {error}", where=path.name, help=WAY_OUT) from error
    if found.format != FORMAT:
        raise RequestError(f"this recording has format {found.format}, and {FORMAT} is read", where=path.name, help=WAY_OUT)
    return found


def write(path: Path, recording: Recording) -> None:
    """All of it or nothing: a file that was there stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(recording), indent=1))
    part.replace(path)
