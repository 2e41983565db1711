"""The version of all that a result depends on besides its words: our code, torch, and the machine. Without torch.

It is part of every result's key, so that a result kept before a change never answers after it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

from profiler.processor import processor_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("graphs", "optimizers", "profiler", "jobs")
PACKAGES = ("torch", "torchvision", "transformers", "numpy", "onnx")


def code_version() -> str:
    """sha256 of installed versions, machine, and the source files of the rooms that make results; takes 1 ms."""
    stats = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        try:
            stat = path.stat()
        except OSError:  # an editor is replacing the file at this moment
            continue
        stats.append((str(path), stat.st_mtime_ns, stat.st_size))
    return _hash_of(tuple(stats), os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@functools.lru_cache(maxsize=4)
def _hash_of(stats: tuple[tuple[str, int, int], ...], visible_devices: str) -> str:
    digest = hashlib.sha256(repr((_installed(), _machine(), visible_devices)).encode())
    for name, _, _ in stats:
        path = Path(name)
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


def _installed() -> tuple[str, ...]:
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return tuple(versions)


def _machine() -> tuple[str, ...]:
    """What tells one machine from another without torch: processor, cores, and the GPUs that the driver lists."""
    gpus = sorted(str(path) for path in Path("/proc/driver/nvidia/gpus").glob("*"))
    return (processor_name(), str(len(os.sched_getaffinity(0))), *gpus)
