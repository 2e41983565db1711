"""Energy of runs, by the device's own counters: RAPL of processors, NVML of NVIDIA's boards. No sensor is modelled; where none tells, the reason is kept.

A counter moves in steps (RAPL's every millisecond, NVML's every some tens), so runs are made back to back in stretches, all graphs in turns and then in the
reverse order; the energy of a run is what the counter gained in a stretch over the number of runs in it. Whatever else the device does meanwhile counts too.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from profiler.record import Energy
from profiler.runs import Run

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
STRETCH_S = {"cpu": 0.5, "cuda": 1.0}
IDLE_S = 0.3
RAPL_SOURCE = (
    "RAPL counters of the processor's packages: cores, caches and memory controllers with all that ran on them, without memory modules"
)
NVML_SOURCE = "NVML's energy counter of the whole board, memory and idle units included"


class Counter(Protocol):
    """Something that counts energy from an unknown beginning.

    Attributes:
        source: what counts, and what of the machine it includes.
    """

    source: str

    def read(self) -> tuple[int, ...]:
        """Where the counter stands, in steps of its own."""
        ...

    def joules(self, first: Sequence[int], last: Sequence[int]) -> float:
        """Between two readings."""
        ...


class Unknown(LookupError):
    """The device does not tell; its words say why, and never reach a reader as an error."""


class Packages:
    """RAPL of all processor packages, by Linux's powercap files; Intel's and AMD's alike."""

    source = RAPL_SOURCE

    def __init__(self, folder: Path = POWERCAP) -> None:
        # By name: parts of a package (`core`, `dram`) and the platform (`psys`) count it a second time, and so does intel-rapl-mmio.
        try:
            self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if (zone / "name").read_text().startswith("package")]
            if not self._zones:
                raise Unknown("this system shows no energy counter of the processor (no package in /sys/class/powercap)")
            self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
            self.read()
        except PermissionError as error:
            way_out = "an administrator can allow it with `chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`"
            raise Unknown(f"only the administrator may read the processor's energy counters; {way_out}") from error
        except (OSError, ValueError) as error:
            raise Unknown(f"the processor's energy counters cannot be read: {error}") from error

    def read(self) -> tuple[int, ...]:
        return tuple(int((zone / "energy_uj").read_text()) for zone in self._zones)

    def joules(self, first: Sequence[int], last: Sequence[int]) -> float:
        """A counter that stands lower than before has begun again, once: a stretch is short against the minutes that a round takes."""
        gained = [
            after - before if after >= before else after - before + most + 1
            for before, after, most in zip(first, last, self._ranges, strict=True)
        ]
        return sum(gained) / 1e6


class Board:
    """NVML's counter of one GPU, asked through NVIDIA's own library, which comes with the driver."""

    source = NVML_SOURCE

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        try:
            self._library = load(NVML)
            uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        except (OSError, AttributeError) as error:
            raise Unknown(f"NVIDIA's management library cannot be asked: {error}") from error
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        # By its own name: numbers of devices differ between CUDA and NVML where some are hidden.
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(name.encode()), ctypes.byref(self._device))
        self.read()

    def read(self) -> tuple[int, ...]:
        found = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(found))
        return (found.value,)

    def joules(self, first: Sequence[int], last: Sequence[int]) -> float:
        return (last[0] - first[0]) / 1e3

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise Unknown(f"this GPU tells no energy ({name} of NVIDIA's management library answers {code})")


def counter_of(device: str) -> Counter:
    """The device's own counter.

    Raises:
        Unknown: there is none, or it may not be read.
    """
    return Board() if device == "cuda" else Packages()


def energy_of(
    runs: Sequence[Run],
    device: str,
    counter: Callable[[str], Counter] = counter_of,
    stretch_s: float | None = None,
    idle_s: float = IDLE_S,
    now: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Energy of one run of each, or why it is not known.

    Args:
        stretch_s: seconds of runs back to back, by default what the device's counter takes; at least one run.
        idle_s: seconds without any run at the beginning.
    """
    try:
        meter = counter(device)
        start, first = now(), meter.read()
        time.sleep(idle_s)
        idle = meter.joules(first, meter.read()) / max(now() - start, 1e-9)
        order = range(len(runs))
        found: list[list[tuple[float, float]]] = [[] for _ in runs]
        for at in (*order, *reversed(order)):
            found[at].append(_stretch(runs[at], device, meter, STRETCH_S[device] if stretch_s is None else stretch_s, now))
    except Unknown as error:
        return Energy(why_not=str(error))
    except OSError as error:
        return Energy(why_not=f"the energy counter could not be read again: {error}")
    joules = [[energy for energy, _ in one] for one in found]
    return Energy(
        source=meter.source,
        joules=tuple(sum(one) / len(one) for one in joules),
        ranges=tuple((min(one), max(one)) for one in joules),
        watts=tuple(sum(energy for energy, _ in one) / sum(seconds for _, seconds in one) for one in found),
        idle_w=idle,
    )


def _stretch(run: Run, device: str, meter: Counter, stretch_s: float, now: Callable[[], float]) -> tuple[float, float]:
    """Joules and seconds of one run, of a stretch of them.

    Raises:
        Unknown: the counter stands still.
    """
    done, start, first = 0, now(), meter.read()
    while not done or now() - start < stretch_s:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        done += 1
    last, seconds = meter.read(), now() - start
    if (gained := meter.joules(first, last)) <= 0:
        raise Unknown(f"the device's energy counter stood still for {seconds:.1f} s")
    return gained / done, seconds / done
