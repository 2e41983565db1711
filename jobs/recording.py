"""Makes a recording on this machine: what it reaches at most, then zoo models and pipelines, measured one after another until the time is over, and of some
of them every node.

It needs torch and the live packages only. What was measured is on disk after every model, so that a run that is cut short has its part; the most telling
models come first. A profile follows the measurement of the same experiment, whose graphs are still there.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch

from graphs.errors import FxscopeError, RequestError
from jobs.experiment import parse
from jobs.record import Calibrate, CeilingsResult, Measure, MeasureCeilings, MeasureResult, Profile, ProfileResult, Progress
from jobs.recorded import FOLDER, Entry, ProfileEntry, Recording, plain_words, profile_entry, read, without_device, write
from jobs.run import perform, profiled_graphs
from profiler.devices import detect, resolve
from profiler.record import Failure

FUSING = "remove-no-ops,fuse-attention,fuse-loops"
PEERS = ("eager",)
Reach = MeasureCeilings | Calibrate
Asked = Reach | Measure | Profile
REACH: dict[str, Reach] = {"ceilings": MeasureCeilings(), "calibration": Calibrate()}
# Sizes that keep the device busy for milliseconds: the same models on a GPU are larger.
MODELS = {
    "cuda": (
        ("model=zoo/gpt2&mode=training&batch=8&seq=1024", (FUSING, "chunk-linear-cross-entropy,recompute-to-budget(budget=0.5)")),
        ("model=zoo/gpt2&mode=inference&batch=8&seq=1024", (FUSING,)),
        ("model=zoo/llama&mode=training&batch=8&seq=1024", (FUSING, "recompute-activations")),
        ("model=zoo/bert&mode=training&batch=32&seq=128", (FUSING,)),
        ("model=zoo/resnet50&mode=training&batch=64&image=224", ("fuse-loops", "recompute-to-budget(budget=0.5)", "run-in-place")),
        ("model=zoo/resnet50&mode=inference&batch=64&image=224", ("fold-batch-norm,fuse-loops",)),
        ("model=zoo/unet&mode=training&batch=8&image=256", ("fuse-loops", "recompute-to-budget(budget=0.5)")),
        ("model=zoo/vit&mode=training&batch=32", (FUSING,)),
        ("model=zoo/moe&mode=inference&batch=8", ("fuse-loops",)),
        ("model=zoo/attention&mode=training&batch=8&seq=1024&width=1024&heads=16", ("fuse-attention", "fuse-loops", "offload-activations")),
    ),
    "cpu": (
        ("model=zoo/attention&mode=training&batch=4&seq=128", ("fuse-attention", "fuse-loops", FUSING)),
        ("model=zoo/attention&mode=inference&batch=4&seq=128", ("fuse-attention", FUSING)),
        ("model=zoo/gpt2&mode=training&batch=2&seq=64&layers=4", ("fuse-attention", "recompute-to-budget(budget=0.6)")),
        ("model=zoo/resnet18&mode=training&batch=2&image=64", ("run-in-place", "recompute-to-budget(budget=0.6)")),
        ("model=zoo/resnet18&mode=inference&batch=2&image=64", ("fold-batch-norm,fuse-loops",)),
        ("model=zoo/mlp&mode=training", ("fuse-loops",)),
        ("model=zoo/unet&mode=training&batch=1&image=64", ("recompute-to-budget(budget=0.6)",)),
        ("model=zoo/lstm&mode=training", ("fuse-loops",)),
    ),
}  # fmt: skip


# Of these every node is profiled too, before and after the first of their pipelines: a language model, a network for images, and one that only infers.
PROFILED = {
    "cuda": (
        "model=zoo/gpt2&mode=training&batch=8&seq=1024",
        "model=zoo/resnet50&mode=training&batch=64&image=224",
        "model=zoo/resnet50&mode=inference&batch=64&image=224",
    ),
    "cpu": (
        "model=zoo/attention&mode=training&batch=4&seq=128",
        "model=zoo/resnet18&mode=inference&batch=2&image=64",
        "model=zoo/mlp&mode=training",
    ),
}


def requests_for(device: str) -> tuple[Asked, ...]:
    """What is measured on a device, in this order: what it reaches, every model's first pipeline, then every model's second …, for the time may be over before
    the last. A CPU is calibrated as well; on a GPU, which is mostly lent for minutes, who wants that asks for it."""
    found: list[Asked] = [REACH["calibration" if device == "cpu" else "ceilings"]]
    for turn in range(max(len(pipelines) for _, pipelines in MODELS[device])):
        for model, pipelines in MODELS[device]:
            for pipeline in pipelines[turn : turn + 1]:
                found += wanted(f"{model}&pipeline={pipeline}", model in PROFILED[device] and not turn)
    return tuple(found)


def wanted(words: str, profiled: bool) -> list[Asked]:
    """What is asked of one experiment; the words `ceilings` and `calibration` ask for what the device reaches."""
    if words in REACH:
        return [REACH[words]]
    measure = without_device(Measure(words, every_step=True, peers=PEERS))
    return [measure, Profile(measure.words)] if profiled else [measure]


def title(request: Asked) -> str:
    if isinstance(request, Reach):
        return next(word for word, one in REACH.items() if one == request)
    return f"profile of {request.words}" if isinstance(request, Profile) else request.words


@dataclass
class _Found:
    """What there is of a recording so far."""

    recording: Recording
    path: Path
    entries: list[Entry] = field(default_factory=list)
    profiles: list[ProfileEntry] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def take(self, before: Recording) -> None:
        """Goes on with a recording of the same machine.

        Raises:
            RequestError: it is of another.
        """
        if (before.device, before.versions) != (self.recording.device, self.recording.versions):
            raise RequestError(
                "this recording is of another device, or of other versions", where=self.path.name, help="Write to another file with --out."
            )
        self.recording, self.entries, self.profiles = before, list(before.entries), list(before.profiles)

    def has(self, request: Asked) -> bool:
        if isinstance(request, Reach):
            known = self.recording.ceilings
            return known is not None and (known.calibration is not None or isinstance(request, MeasureCeilings))
        if isinstance(request, Profile):
            return any(entry.words == request.words for entry in self.profiles)
        return any(entry.request == request for entry in self.entries)

    def write(self) -> None:
        whole = msgspec.structs.replace(
            self.recording, entries=tuple(self.entries), profiles=tuple(self.profiles), failed=tuple(self.failed)
        )
        write(self.path, whole)


def record(
    device: str,
    minutes: float,
    path: Path | None = None,
    requests: Sequence[Asked] = (),
    tell: Callable[[str], None] = print,
    add: bool = False,
) -> Path:
    """Measures until the time is over and returns the file.

    Args:
        device: auto, cpu or cuda.
        minutes: no model is begun after these.
        path: where to write; by default in `profiler/recordings`, named after the device and the day.
        requests: what to measure; by default what `requests_for` says.
        add: go on with the file that is there: what it holds is not measured again, and each result tells its own time and load.

    Raises:
        RequestError: the device or the folder is not there, or the file is of another device, or of other versions.
    """
    kind, start = resolve(device), time.monotonic()
    if path and not path.absolute().parent.is_dir():
        raise RequestError("there is no such folder", where=str(path.parent), help="Make it first, or write elsewhere with --out.")
    recording = Recording(detect(kind), datetime.now(UTC).isoformat(timespec="seconds"), versions())
    found = _Found(recording, path or FOLDER / f"{_file_name(recording)}.json")
    if add:
        found.take(read(found.path))
    asked = [request for request in requests or requests_for(kind) if not found.has(request)]
    for number, request in enumerate(asked):
        if time.monotonic() - start > 60 * minutes:
            found.failed += [Failure(title(one), "there was no time left for it") for one in asked[number:]]
            break
        tell(f"{number + 1} of {len(asked)}: {title(request)}")
        try:
            tell(f"    {_added(found, request, kind)}")
        except (FxscopeError, RuntimeError, ImportError) as error:
            found.failed.append(Failure(title(request), f"{type(error).__name__}: {error}"[:300]))
            tell(f"    not measured: {error}")
        found.write()
    found.write()
    return found.path


def _added(found: _Found, request: Asked, device: str) -> str:
    """Measures one more, and says what came out in short."""
    if isinstance(request, Reach):
        reached = _reached(request, device)
        found.recording = msgspec.structs.replace(found.recording, ceilings=reached)
        rates = ", ".join(f"{dtype} {one.value / 1e12:,.3g} TFLOP/s" for dtype, one in reached.ceilings.flops.items())
        return f"{rates}; left out, graphs are off by {reached.calibration.typical_error:.0%}" if reached.calibration else rates
    if isinstance(request, Profile):
        found.profiles.append(_profiled(request, device))
        last = found.profiles[-1]
        whole = " and ".join(f"{nodes:,} nodes in {ms:.3g} ms" for nodes, ms in zip(last.nodes, last.whole_ms, strict=True))
        return f"{whole}; {len(last.packed):,} B"
    found.entries.append(Entry(request, _measured(request, device)))
    return _in_short(found.entries[-1].result)


def versions() -> dict[str, str]:
    """What decides about speed."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "system": f"{platform.system()} {platform.machine()}"}
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
    try:
        import triton
    except ImportError:
        return found
    return {**found, "triton": str(triton.__version__)}


def _reached(request: Reach, device: str) -> CeilingsResult:
    result = perform(msgspec.structs.replace(request, device=device), {}, _silent)
    assert isinstance(result, CeilingsResult)
    return result


def _measured(request: Measure, device: str) -> MeasureResult:
    placed = parse(f"{request.words}&device={device}")
    result = perform(Measure(placed.words, request.every_step, request.peers), {}, _silent)
    assert isinstance(result, MeasureResult)
    return result


def _profiled(request: Profile, device: str) -> ProfileEntry:
    words = parse(f"{request.words}&device={device}").words
    result = perform(Profile(words), {}, _silent)
    assert isinstance(result, ProfileResult)
    return profile_entry(plain_words(request.words), profiled_graphs(words, _silent), result.profiles)


def _silent(progress: Progress) -> None:
    pass


def _in_short(result: MeasureResult) -> str:
    measurement = result.measurement
    columns = zip(measurement.labels, measurement.timings, measurement.ratios, strict=True)
    return "; ".join(f"{label} {timing.median_ms:.3g} ms (× {ratio:.3f})" for label, timing, ratio in columns)


def _file_name(recording: Recording) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{recording.device.name} {recording.started[:10]}".lower()).strip("-")
