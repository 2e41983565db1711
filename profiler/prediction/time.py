"""Work × device × efficiency -> seconds. Without torch.

A kernel takes the longer of its arithmetic and its memory traffic, and a fixed time. Between the two lies a smooth maximum, since near the ridge neither hides the other wholly.
Classes that the model names take both, one after the other: a library that brings weights into another order first cannot multiply meanwhile.

- **Matmul**: the output is cut into tiles, one multiprocessor computes one tile at a time, so the number of waves is rounded up (wave quantization); the size of
  tile that ends first is taken, as libraries do; a short inner dimension pays for filling and writing its tile. Where the board's power does not carry
  all lanes at full clock, the rate is power / energy per operation.
- **All others**: bytes over bandwidth. What fits into the last cache beside what the kernel before left there comes from that cache; where copies of growing size
  were measured, their curve says what any number of bytes costs.
- **A compiled kernel** takes as long for its additions and products as those without functions do, and for each function (`exp`, `tanh`) many times that.
- **A loop that a CPU shares** among its threads waits for them once; short ones are not shared, so small graphs do without.
- **An operator** that was measured apart takes that many times the time of its class.

Every term grows with the work and falls with bandwidth, rate and units, so a faster device is never predicted slower (but for rounding of waves).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphs.errors import RequestError
from profiler.prediction_record import (
    ATTENTION,
    COMPUTE,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    KERNEL,
    KERNEL_FUNCTIONS,
    LAUNCH,
    MATMUL,
    MEMORY,
    EfficiencyModel,
    Sheet,
    Work,
)

MULTIPLIES = (MATMUL, CONVOLUTION, CONVOLUTION_BACKWARD, ATTENTION)
SMOOTH = 4.0  # power of the smooth maximum: at equal halves it is 19 % above the plain one
SHARED_ELEMENTS = 32768  # the shortest loop that PyTorch shares among threads (at::internal::GRAIN_SIZE in ATen/TensorIterator.h)
SPLITS, LEAST_DEPTH = (1, 2, 4, 8), 256
TILE_SHAPES = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.5, 0.5), (0.25, 0.5), (0.5, 0.25), (0.25, 0.25))


def kernel_seconds(work: Work, sheet: Sheet, model: EfficiencyModel) -> tuple[float, str]:
    """Predicted seconds of one run of the work on the device, and what takes most of them: compute, memory or launch."""
    efficiency = model.classes[work.kind]
    arithmetic = _matmul_seconds(work, sheet, model) if work.depth else _arithmetic_seconds(work, sheet, model)
    traffic = _traffic_seconds(work, sheet, model)
    fixed = (efficiency.fixed_s + _fork_seconds(work, sheet, model)) * work.launches
    both = arithmetic + traffic if work.kind in model.serial else smooth_maximum(arithmetic, traffic)
    busy = both * model.operators.get(work.name, 1.0)
    if fixed > busy:
        return busy + fixed, LAUNCH
    return busy + fixed, COMPUTE if arithmetic > traffic else MEMORY


def _fork_seconds(work: Work, sheet: Sheet, model: EfficiencyModel) -> float:
    """Of a loop over elements, counted as if they had four bytes each; libraries that multiply decide for themselves, which is in their fixed time."""
    if sheet.kind != "cpu" or sheet.units < 2 or work.kind in MULTIPLIES:
        return 0.0
    return model.fork_s if max(work.bytes_written, work.bytes_read) >= 4 * SHARED_ELEMENTS else 0.0


def roofline_seconds(work: Work, sheet: Sheet) -> float:
    """The least time by peak rates: the longer of operations / rate and bytes / bandwidth."""
    return max(work.flops / _rate(work, sheet), work.bytes_moved / sheet.bandwidth)


def smooth_maximum(first: float, second: float, power: float = SMOOTH) -> float:
    """(a^p + b^p)^(1/p): the larger, and a little more where both are alike."""
    larger, smaller = max(first, second), min(first, second)
    return larger * (1 + (smaller / larger) ** power) ** (1 / power) if larger > 0 else 0.0


def rate_of(sheet: Sheet, dtype: str) -> float:
    """Operations per second of matmuls in that dtype; integers and booleans count as float32.

    Raises:
        RequestError: the sheet has no rate for it.
    """
    floating = dtype if "float" in dtype else "float32"
    if floating in sheet.flops:
        return sheet.flops[floating]
    raise RequestError(f"the sheet of {sheet.name} has no rate for {dtype}", where="device", help=f"It has: {', '.join(sheet.flops)}.")


def _rate(work: Work, sheet: Sheet) -> float:
    return rate_of(sheet, work.dtype) if work.kind in MULTIPLIES else sheet.vector_flops


def _arithmetic_seconds(work: Work, sheet: Sheet, model: EfficiencyModel) -> float:
    if work.kind in MULTIPLIES:
        return work.flops / _sustained(work, sheet, model)
    efficiency = model.classes[work.kind].compute
    if work.kind == KERNEL_FUNCTIONS:
        plain = (work.flops - work.functions) / (sheet.vector_flops * model.classes[KERNEL].compute)
        return plain + work.functions / (sheet.vector_flops * efficiency)
    return work.flops / (sheet.vector_flops * efficiency)


def _sustained(work: Work, sheet: Sheet, model: EfficiencyModel) -> float:
    """The matmul rate that efficiency, the generation and the board's power leave of the peak; tensor cores know neither of the last two."""
    peak = rate_of(sheet, work.dtype)
    rate = peak * model.classes[work.kind].compute
    if peak > sheet.vector_flops * 1.05:
        return rate
    rate *= model.architecture.get(sheet.architecture, 1.0)
    energy = model.picojoule.get(sheet.architecture, 0.0) * 1e-12
    return min(rate, sheet.power_w / energy) if energy and sheet.power_w else rate


def _matmul_seconds(work: Work, sheet: Sheet, model: EfficiencyModel) -> float:
    """Waves of tiles × seconds of a tile, for the best size of tile and number of parts that the inner dimension is split into."""
    rate = _sustained(work, sheet, model)
    parts = [part for part in SPLITS if part == 1 or work.depth >= part * LEAST_DEPTH]
    return min(_tiled_seconds(work, sheet, model, rate, shape, part) for shape in TILE_SHAPES for part in parts)


def _tiled_seconds(work: Work, sheet: Sheet, model: EfficiencyModel, rate: float, shape: tuple[float, float], parts: int) -> float:
    tall, wide = shape
    rows, columns = model.tile * tall, model.tile * wide
    tiles = work.batch * parts * math.ceil(work.rows / rows) * math.ceil(work.columns / columns)
    share = model.small_tile ** (-math.log2(tall * wide) / 2)
    multiplied = _waves(tiles, sheet.units) * sheet.units * rows * columns * 2 * (work.depth / parts + model.depth) / (rate * share)
    # Parts of the sum are written and read again as float32.
    added = 8 * parts * work.batch * work.rows * work.columns / sheet.bandwidth if parts > 1 else 0.0
    return multiplied + added


def _waves(tiles: int, units: int) -> float:
    """Rounds in which the units compute all tiles. Several tiles share a unit, so the last round is not lost whole: half of what is idle is filled."""
    exact = tiles / units
    return (exact + math.ceil(exact)) / 2 if exact > 1 else 1.0


def _traffic_seconds(work: Work, sheet: Sheet, model: EfficiencyModel) -> float:
    efficiency = model.classes[work.kind].bandwidth
    moved = work.bytes_moved
    if sheet.copies:
        return moved / (copy_rate(sheet.copies, moved * model.spill) * efficiency)
    from_memory = moved / (sheet.bandwidth * efficiency)
    if not (sheet.cache_bytes and model.cache_share and moved):
        return from_memory
    cache = max(sheet.bandwidth, sheet.cache_bandwidth or sheet.units * sheet.clock_hz * model.cache_bytes_per_cycle)
    hit = 1 / (1 + (moved / (model.cache_share * sheet.cache_bytes)) ** 2)
    return from_memory * (1 - hit) + hit * moved / max(cache * model.cache_bandwidth * efficiency, sheet.bandwidth * efficiency)


def copy_rate(copies: Sequence[tuple[float, float]], moved: float) -> float:
    """Bytes per second of a copy that moves so many, between measured sizes on a logarithmic scale."""
    before = copies[0]
    for after in copies:
        if moved <= after[0]:
            if after[0] <= before[0]:
                return after[1]
            share = math.log(moved / before[0]) / math.log(after[0] / before[0])
            return before[1] ** (1 - share) * after[1] ** share
        before = after
    return before[1]


def whole_seconds(device_s: float, calls: int, model: EfficiencyModel) -> float:
    """Seconds of a whole graph: the device's work and the host's calls, side by side where the host runs ahead, one after the other where it is the device."""
    host = calls * model.call_s
    return smooth_maximum(device_s, host) if model.asynchronous else device_s + host
