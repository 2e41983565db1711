"""The version of all that a result depends on besides its words: our code, torch, and the machine. Without torch.

It is part of every result's key, so that a result kept before a change never answers after it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import time
from importlib import metadata
from pathlib import Path

from profiler.processor import processor_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("graphs", "optimizers", "profiler", "jobs")
PACKAGES = ("torch", "torchvision", "transformers", "numpy", "onnx")


def code_version() -> str:
    """sha256 of installed versions, machine, and the source files of the rooms that make results; looked up once a second, which takes 1 ms."""
    return _code_version(int(time.monotonic()))


@functools.lru_cache(maxsize=1)
def _code_version(second: int) -> str:
    del second
    here = repr((_installed(), _machine(), os.environ.get("CUDA_VISIBLE_DEVICES", "")))
    return hashlib.sha256(f"{here} {source_version()}".encode()).hexdigest()


def source_version() -> str:
    """sha256 of the source files of the rooms that make results: equal on all machines that have the same project."""
    stats = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        try:
            stat = path.stat()
        except OSError:  # an editor is replacing the file at this moment
            continue
        stats.append((str(path), stat.st_mtime_ns, stat.st_size))
    return _hash_of(tuple(stats))


@functools.lru_cache(maxsize=4)
def _hash_of(stats: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stats:
        path = Path(name)
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return tuple(versions)


@functools.lru_cache(maxsize=1)
def _machine() -> tuple[str, ...]:
    """What tells one machine from another without torch: processor, cores, and the GPUs that the driver lists."""
    gpus = sorted(str(path) for path in Path("/proc/driver/nvidia/gpus").glob("*"))
    return (processor_name(), str(len(os.sched_getaffinity(0))), *gpus)
