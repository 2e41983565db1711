"""GPUs for which code can be generated where none is: what Inductor and Triton ask of one. Without torch."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """What code generation asks of a GPU.

    Attributes:
        capability: CUDA compute capability.
        processors: streaming multiprocessors; registers (32 bit) and threads: of each.
        shared_kib: shared memory that one block may have; l2_mib: the cache that all share.
    """

    title: str
    capability: tuple[int, int]
    processors: int
    registers: int
    threads: int
    shared_kib: int
    l2_mib: int
    memory_gib: int


# NVIDIA's data sheets, and the table of compute capabilities in the CUDA programming guide.
GPUS = {
    "h100": Gpu("H100", (9, 0), 132, 65536, 2048, 227, 50, 80),
    "a100": Gpu("A100", (8, 0), 108, 65536, 2048, 163, 40, 80),
    "l4": Gpu("L4", (8, 9), 58, 65536, 1536, 99, 48, 24),
    "t4": Gpu("T4", (7, 5), 40, 65536, 1024, 64, 4, 16),
}
