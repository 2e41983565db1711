"""Energy: counters planted in a folder and in a library, read, turned round, and told to the reader; or the reason why there is no figure."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from graphs.record import Totals
from pages.ui import measured
from profiler import energy
from profiler.blocks import Limits
from profiler.energy import Board, Packages, Unknown, energy_of
from profiler.measure import Setup, measure, measure_contenders
from profiler.prediction_record import Ceiling, Ceilings
from profiler.record import Energy, Measurement
from profiler.runs import Contender
from tests.test_profiler import program_of

MOST = 262_143_328_850


def planted(folder: Path, **packages: int) -> Path:
    """Zones as Linux shows them: packages, a part of the first, the platform, and a second way to the same package."""
    for number, (name, value) in enumerate(packages.items()):
        zone(folder / f"intel-rapl:{number}", name.replace("_", "-"), value)
    zone(folder / "intel-rapl:0:0", "core", 10**12)
    zone(folder / f"intel-rapl:{len(packages)}", "psys", 10**12)
    zone(folder / "intel-rapl-mmio:0", "package-0", 10**12)
    return folder


def zone(place: Path, name: str, value: int) -> None:
    place.mkdir()
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{value}\n")
    (place / "max_energy_range_uj").write_text(f"{MOST}\n")


def test_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    counter = Packages(planted(tmp_path, package_0=5_000_000, package_1=7_000_000))
    first = counter.read()
    assert first == (5_000_000, 7_000_000)
    (tmp_path / "intel-rapl:0/energy_uj").write_text("6500000")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("7250000")
    assert counter.joules(first, counter.read()) == pytest.approx(1.75)


def test_a_counter_that_began_again_has_gone_on(tmp_path: Path) -> None:
    counter = Packages(planted(tmp_path, package_0=MOST - 400_000))
    first = counter.read()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("599999")
    assert counter.joules(first, counter.read()) == pytest.approx(1.0)


def test_a_system_without_counters_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        with pytest.raises(Unknown, match="no energy counter of the processor"):
            Packages(folder)


def test_counters_that_only_the_administrator_may_read_name_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path, package_0=1)
    read_text = Path.read_text

    def guarded(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":  # by its permissions, which do not hold for the administrator that runs tests
            raise PermissionError(13, "Permission denied")
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(Unknown, match="chmod a\\+r"):
        Packages(tmp_path)


class Library:
    """NVIDIA's management library, as far as it is asked: one GPU, whose counter gains 250 J with every reading."""

    def __init__(self, name: str, energy_code: int = 0) -> None:
        assert name == "libnvidia-ml.so.1"
        self.millijoules, self.energy_code = 10_000, energy_code

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: ctypes.c_char_p, handle: Any) -> int:
        handle._obj.value = 77
        return 0 if name.value == b"GPU-1234" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, found: Any) -> int:
        assert handle.value == 77
        self.millijoules += 250_000
        found._obj.value = self.millijoules
        return self.energy_code


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: SimpleNamespace(uuid="1234" if at == 1 else "other"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_asked_by_its_own_name_and_counts_millijoules() -> None:
    board = Board(Library)
    assert board.joules(board.read(), board.read()) == 250.0


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("load", "told"),
    [
        (lambda name: Library(name, 3), "nvmlDeviceGetTotalEnergyConsumption of NVIDIA's management library answers 3"),
        (lambda name: ctypes.CDLL("lib-that-is-not-there.so"), "cannot be asked"),
    ],
)
def test_a_gpu_that_tells_nothing_has_a_reason(load: Callable[[str], Any], told: str) -> None:
    found = energy_of([lambda: None], "cuda", lambda device: Board(load), 0.0, 0.0)
    assert told in found.why_not
    assert not found.joules


class Meter:
    """Two joules for each second of a clock that only runs move."""

    source = "a meter of the test"

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def read(self) -> tuple[int, ...]:
        return (round(2e6 * self.clock[0]),)

    def joules(self, first: Any, last: Any) -> float:
        return (last[0] - first[0]) / 1e6


def test_a_run_has_its_share_of_a_stretch_and_stretches_turn_round() -> None:
    clock, ran = [0.0], list[str]()

    def run(name: str, seconds: float) -> Callable[[], None]:
        return lambda: (ran.append(name), clock.__setitem__(0, clock[0] + seconds), None)[2]

    found = energy_of([run("a", 0.25), run("b", 0.5)], "cpu", lambda device: Meter(clock), 1.0, 0.0, lambda: clock[0])
    assert "".join(ran) == "aaaa" + "bb" + "bb" + "aaaa"
    assert found.joules == pytest.approx((0.5, 1.0))
    assert found.watts == pytest.approx((2.0, 2.0))
    assert found.ranges[0] == pytest.approx((0.5, 0.5))
    assert found.source == "a meter of the test"


def test_a_counter_that_stands_still_gives_no_figure() -> None:
    found = energy_of([lambda: None], "cpu", lambda device: Meter([1.0]), 0.0, 0.0)
    assert "stood still" in found.why_not
    assert not found.joules


@pytest.fixture(scope="module")
def without() -> Measurement:
    """A real measurement here, and whatever this machine tells."""
    return measure([program_of(torch.relu)], ["captured"], setup=Setup(limits=Limits(0.05), energy=True))


def test_the_page_says_what_was_counted_or_plainly_why_nothing_was(without: Measurement) -> None:
    assert without.energy is not None
    assert bool(without.energy.joules) != bool(without.energy.why_not)
    told = msgspec.structs.replace(without, energy=Energy("RAPL", "", (0.0123,), ((0.012, 0.0126),), (45.678,), 20.0))
    assert "joules (measured)" in measured.energy_words(told)
    assert "RAPL" in measured.energy_words(told)
    assert measured.side_by_side(told, {})["energy, measured"].tolist() == ["12.3 mJ (12 mJ – 12.6 mJ), 45.7 W"]
    silent = msgspec.structs.replace(without, energy=Energy(why_not="no sensor"))
    assert measured.energy_words(silent) == "Energy was not measured: no sensor."
    assert "energy, measured" not in measured.side_by_side(silent, {})


def test_runs_that_take_longer_than_the_budget_are_not_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.measure.energy_of", lambda runs, device: pytest.fail("they were"))
    slow = Contender("slow", lambda: lambda: os.sched_yield())
    found = measure_contenders([slow], "cpu", 0, Setup(limits=Limits(0.0), energy=True), lambda text, share: None)
    assert found.energy is not None
    assert "too long" in found.energy.why_not


def test_the_counter_of_this_machine_answers_or_says_why() -> None:
    found = energy_of([lambda: sum(range(1000)) and None], "cpu", stretch_s=0.02, idle_s=0.02)
    assert bool(found.joules) != bool(found.why_not)
    assert energy.POWERCAP.is_absolute()


def test_a_change_of_pace_is_said(without: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(measured.st, "caption", said.append)
    for slow, expected in ((1.0, False), (1.5, True)):
        said.clear()
        times = (*[slow] * 720, *[1.0] * 280)
        timings = tuple(msgspec.structs.replace(timing, times_ms=times, runs=1000) for timing in without.timings)
        measured.trust(msgspec.structs.replace(without, timings=timings))
        assert any("changed its pace" in text for text in said) == expected
        assert any("from 1 ms to 1.5 ms" in text for text in said) == expected


def test_utilisation_is_of_the_captured_graph_s_work_and_of_the_graph_s_own(without: Measurement) -> None:
    """Row A46 of the course, measured: a graph that runs its forward twice uses the hardware 4/3 as much as the model."""
    timed = msgspec.structs.replace(
        without,
        labels=("captured", "recomputed"), timings=tuple(msgspec.structs.replace(without.timings[0], median_ms=ms) for ms in (10.0, 20.0)),
        ratios=(1.0, 2.0), ratio_intervals=((1.0, 1.0), (2.0, 2.0)), detectable=(None, None), verdicts=("", "slower"), energy=None,
    )  # fmt: skip
    totals = {
        "captured": Totals(1, 1, 9 * 10**8, 3 * 10**8, 0, 0, 0),
        "recomputed": Totals(1, 1, 9 * 10**8, 4 * 10**8, 0, 0, 0),
    }
    one = Ceiling(1e11, 0.0, 1)
    ceilings = Ceilings("a machine", "cpu", 1, {"float32": one}, one, one, one, 1.0)
    rows = measured.side_by_side(timed, totals, ceilings)
    assert rows["MFU"].tolist() == ["30.0%", "15.0%"]
    assert rows["HFU"].tolist() == ["30.0%", "20.0%"]
    assert "100 GFLOP/s" in measured.utilisation_words(ceilings)
    assert "MFU" not in measured.side_by_side(timed, totals, None)
    numbers = measured.numbers(timed, totals)
    assert numbers["time ms (measured)"].tolist() == [timing.median_ms for timing in timed.timings]
    assert [type(cell) for cell in numbers["peak bytes (counted)"]] == [int] * len(numbers)
    assert "page Predict" in measured.utilisation_words(None)
