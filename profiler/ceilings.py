"""What a device really reaches: matmul rates, copy bandwidths, and the time of one launch, measured.

Every round measures every ceiling once, so that a machine that slows down slows all of them; a round keeps the best of a few short runs, because another
program can only make a run slower; the ceiling is the median over the better half of the rounds, with the spread of that half. A whole measurement takes some seconds.
On a CPU the clock is the processor time of the thread that calls, which has its part in all work and waits for the others: what other programs take of its core
meanwhile is not this device's speed. The time of all threads over their number would be half as long where one of two has nothing to do, and the system
knows that of another thread by the tick only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import torch

from profiler.allocator import freed_memory_kept
from profiler.devices import detect
from profiler.prediction_record import Ceiling, Ceilings, Sheet
from profiler.sheets import OTHER_NAMES, sheet, sheets

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROUNDS, FEWEST_ROUNDS, BEST_OF = 25, 5, 3
BUDGET_S = 8.0
MATMUL_SIZES = (256, 512, 768, 1024, 2048, 4096, 8192)
RUN_S = 0.004  # long enough for the clock, short enough to be repeated often
COPY_BYTES = {"cpu": 96 << 20, "cuda": 1 << 30}  # far above every last cache
CACHED_BYTES = 192 << 10  # within every core's own cache
REPEATED = 50  # copies within a GPU's cache, launched all together
# Copied one after another on a CPU, where caches of several sizes lie between these; bytes of one of the two tensors.
GROWING_BYTES = {"cpu": (128 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20), "cuda": ()}
LAUNCHES = 200

Timed = Callable[[], float]  # seconds of one run


def measure_ceilings(device: str, budget_s: float = BUDGET_S) -> Ceilings:
    """Ceilings of `cpu` (with torch's present number of threads) or `cuda`. Dtypes that the device cannot multiply are left out."""
    start = time.perf_counter()
    with freed_memory_kept(), torch.no_grad():
        runs = _runs(device)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for done in range(ROUNDS):
            if done >= FEWEST_ROUNDS and time.perf_counter() - start > budget_s:
                break
            for name, (amount, run) in runs.items():
                found[name].append(amount / min(run() for _ in range(BEST_OF)))
    ceilings = {name: ceiling(values) for name, values in found.items()}
    launch = ceilings["launch"]
    described = detect(device)
    return Ceilings(
        device=described.name,
        kind=device,
        threads=torch.get_num_threads() if device == "cpu" else 1,
        flops={name: ceilings[name] for name in DTYPES if name in ceilings},
        bandwidth=ceilings["copy"],
        cache_bandwidth=ceilings["cached copy"],
        launch_s=Ceiling(1 / launch.value, launch.spread, launch.rounds),
        seconds=time.perf_counter() - start,
        copies=_curve(ceilings, device),
    )


def better(first: Ceilings, second: Ceilings) -> Ceilings:
    """Of two measurements of one device the higher rates and the shorter launch: what else runs, or shares a core, can only make it slower."""

    def faster(one: Ceiling, other: Ceiling) -> Ceiling:
        return max(one, other, key=lambda found: found.value)

    copies = zip(first.copies, second.copies, strict=True)
    return msgspec.structs.replace(
        first,
        flops={dtype: faster(one, second.flops[dtype]) for dtype, one in first.flops.items()},
        bandwidth=faster(first.bandwidth, second.bandwidth),
        cache_bandwidth=faster(first.cache_bandwidth, second.cache_bandwidth),
        launch_s=min(first.launch_s, second.launch_s, key=lambda found: found.value),
        seconds=first.seconds + second.seconds,
        copies=tuple((size, faster(one, other)) for (size, one), (_, other) in copies),
    )


def _curve(found: dict[str, Ceiling], device: str) -> tuple[tuple[int, Ceiling], ...]:
    """Bytes that a copy moves, read and written, with its rate; the largest is the one beyond all caches."""
    sizes = GROWING_BYTES[device]
    if not sizes:
        return ()
    return (*((2 * size, found[f"copy of {size}"]) for size in sizes), (2 * COPY_BYTES[device], found["copy"]))


def ceiling(values: list[float]) -> Ceiling:
    """Median of the better half of the rounds, and that half's spread as a share of it."""
    better = np.sort(values)[len(values) // 2 :]
    middle = float(np.median(better))
    return Ceiling(middle, float(better[-1] - better[0]) / middle, len(values))


def local_sheet(found: Ceilings) -> Sheet:
    """The device of this machine as a sheet: measured ceilings, and for a GPU of the table what its data sheet says of memory, units and power."""
    described = detect(found.kind)
    flops = {dtype: one.value for dtype, one in found.flops.items()}
    known = sheet(described.name) if described.name in sheets() or described.name in OTHER_NAMES else None
    return Sheet(
        name=described.name,
        kind=found.kind,
        architecture=known.architecture if known else found.kind,
        flops=flops,
        vector_flops=flops["float32"],
        memory_bytes=described.memory_bytes,
        bandwidth=found.bandwidth.value,
        cache_bytes=known.cache_bytes if known else _last_cache_bytes(found.kind),
        cache_bandwidth=found.cache_bandwidth.value,
        units=described.units if found.kind == "cuda" else found.threads,
        lanes=known.lanes if known else 0,
        clock_hz=known.clock_hz if known else 0.0,
        power_w=0.0,  # what was measured was measured under that limit
        source=f"measured here, {found.threads} threads, PyTorch {described.torch}",
        measured=True,
        copies=tuple((float(moved), moved / (moved / one.value - found.launch_s.value)) for moved, one in found.copies),
        launch_s=found.launch_s.value,
    )


def _runs(device: str) -> dict[str, tuple[float, Timed]]:
    """Name -> operations, bytes or launches of one run, and the run."""
    runs: dict[str, tuple[float, Timed]] = {}
    for name, dtype in DTYPES.items():
        with contextlib.suppress(RuntimeError):  # no kernel for this dtype
            runs[name] = _matmul(device, dtype)
    growing = [(f"copy of {size}", size) for size in GROWING_BYTES[device]]
    for name, size in (("copy", COPY_BYTES[device]), ("cached copy", _cached_bytes(device)), *growing):
        source = torch.zeros(size // 4, device=device)
        target = torch.ones_like(source)
        times = REPEATED if device == "cuda" and name == "cached copy" else max(1, (8 << 20) // size)
        copy = partial(_copied, target, source, times)
        runs[name] = (2.0 * size * times, _timed(_recorded(copy) if device == "cuda" else copy, device, 1))
    one = torch.zeros(1, device=device)
    runs["launch"] = (float(LAUNCHES), _timed(lambda: torch.neg(one), device, LAUNCHES))
    return runs


def _cached_bytes(device: str) -> int:
    """Of one of two tensors that stay in a cache: of a GPU's last one, both together take half."""
    return CACHED_BYTES if device == "cpu" else max(1 << 20, _last_cache_bytes(device) // 4 // 4096 * 4096)


def _copied(target: torch.Tensor, source: torch.Tensor, times: int) -> None:
    for _ in range(times):
        target.copy_(source)


def _recorded(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, launched by the GPU itself: a copy within the cache takes less time than a host takes to launch it."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _matmul(device: str, dtype: torch.dtype) -> tuple[float, Timed]:
    """A square matmul, as large as fits into the time of one run; float32 without the rounding of TF32, as PyTorch has it by default."""
    best = MATMUL_SIZES[0]
    for size in MATMUL_SIZES:
        a = _numbers(size, device, dtype)
        run = _timed(lambda a=a: torch.mm(a, a), device, 1)
        run()
        best = size
        if min(run(), run()) > RUN_S:
            break
    a = _numbers(best, device, dtype)
    return 2.0 * best**3, _timed(lambda: torch.mm(a, a), device, 1)


def _numbers(size: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A square matrix of different numbers: equal ones switch fewer wires, and a GPU that its power limits multiplies them faster."""
    return torch.rand((size, size), device=device).to(dtype)


def _timed(work: Callable[[], object], device: str, times: int) -> Timed:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.perf_counter if device == "cuda" else time.thread_time

    def run() -> float:
        wait()
        start = clock()
        for _ in range(times):
            work()
        wait()
        return clock() - start

    return run


def _last_cache_bytes(kind: str) -> int:
    """The cache that all units share, from the driver or the operating system; 0 where neither says."""
    if kind == "cuda":
        return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0))
    from pathlib import Path

    sizes = [0]
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(entry.read_text().strip().removesuffix("K")) << 10)
    return max(sizes)
