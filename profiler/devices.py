"""The devices of this machine: which one an experiment runs on, and what it is."""

from __future__ import annotations

from pathlib import Path

import torch

from graphs.errors import RequestError
from profiler.processor import processor_name
from profiler.record import Device


def resolve(wanted: str) -> str:
    """`auto`, `cpu` or `cuda` -> the device to use: auto takes CUDA where it is present.

    Raises:
        RequestError: CUDA is asked for and absent.
    """
    present = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if present else "cpu"
    if wanted == "cuda" and not present:
        raise RequestError("this machine has no CUDA device", where="device=cuda", help="Write device=cpu, or leave it out.")
    return wanted


def detect(kind: str) -> Device:
    """The device of that kind (cpu or cuda)."""
    if kind == "cuda":
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Device("cuda", found.name, found.multi_processor_count, found.total_memory, str(torch.__version__))
    return Device("cpu", processor_name(), torch.get_num_threads(), _memory("MemTotal"), str(torch.__version__))


def free_bytes(kind: str) -> int:
    """Memory that can still be allocated on the device."""
    return torch.cuda.mem_get_info()[0] if kind == "cuda" else _memory("MemAvailable")


def _memory(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
