"""Predictions: work from counted records, time from work, totals with memory and utilisation; all without torch."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import torch

from benchmarks.prediction_kernels import BODIES, WIDTH, Loops
from graphs.capture import capture
from graphs.errors import RequestError
from graphs.record import Cost, GraphSnapshot, NodeRecord, Totals
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.pipeline import apply
from profiler.calibrations import calibration, calibration_for
from profiler.prediction.calibrate import Counted, Parameter, Sample, calibrate, operator_factors, seconds_of
from profiler.prediction.parameters import gpu_model
from profiler.prediction.predict import can_run, predict, utilisation
from profiler.prediction.time import copy_rate, kernel_seconds, roofline_seconds, smooth_maximum
from profiler.prediction.work import work_of
from profiler.prediction_record import COPY, ELEMENTWISE, KERNEL, KERNEL_FUNCTIONS, LAUNCH, MATMUL, MEMORY, SOFTMAX, Sheet, Work
from profiler.sheets import sheet, sheets

GPU = calibration("gpu")
A100, H100, L4, T4 = sheet("A100 80GB SXM"), sheet("H100"), sheet("L4"), sheet("T4")


def matmul(rows: int, columns: int, depth: int, batch: int = 1, dtype: str = "float32") -> Work:
    size = 4 if dtype == "float32" else 2
    read, written = size * batch * (rows + columns) * depth, size * batch * rows * columns
    return Work(MATMUL, dtype, 2 * batch * rows * columns * depth, read, written, 1, batch, rows, columns, depth)


def moved(count: int) -> Work:
    return Work(ELEMENTWISE, "float32", count // 8, count // 2, count // 2, 1)


def node(name: str, phase: str, flops: int) -> NodeRecord:
    cost = Cost(flops, flops, 1 << 20, 1 << 20, 1)
    return NodeRecord(name, "call_function", "aten.mm.default", phase, "", None, (512, 512), "float32", (512, 1), 1 << 20, name, "activation", cost, (name,), ())  # fmt: skip


def graph(*nodes: NodeRecord, resident: int = 0, peak: int = 0) -> GraphSnapshot:
    weight = NodeRecord("w", "placeholder", "w", "forward", "", None, (1,), "float32", (1,), resident, "w", "parameter", Cost(), ("w",), ())
    totals = Totals(
        len(nodes) + 1, len(nodes), sum(one.cost.flops for one in nodes), sum(one.cost.matmul_flops for one in nodes), 0, peak, 0
    )
    return GraphSnapshot((weight, *nodes), (nodes[-1].name,), totals)


# --- data sheets


@pytest.mark.parametrize("name", sheets())
def test_a_sheet_agrees_with_itself(name: str) -> None:
    """Float32 operations a second are units × lanes × 2 × clock; the two-way issue of MI300X doubles its lanes."""
    found = sheets()[name]
    assert found.units * found.lanes * 2 * found.clock_hz == pytest.approx(found.vector_flops, rel=0.02)
    assert "https://" in found.source
    assert found.flops["float32"] == found.vector_flops
    assert found.flops.get("float16", 1e18) >= 1.9 * found.vector_flops
    assert found.flops.get("float8", 0) == pytest.approx(2 * found.flops["float16"] if "float8" in found.flops else 0, rel=0.01)


def test_the_l4_moves_300_gigabytes_a_second_whatever_torch_says() -> None:
    from torch._inductor.analysis.device_info import _device_mapping

    assert _device_mapping["NVIDIA L4"].dram_bw_gbs == 3350, "torch mended its table: this test has done its work"
    assert L4.bandwidth == 300e9
    assert _device_mapping["NVIDIA H100"].dram_bw_gbs * 1e9 == H100.bandwidth


def test_a_figure_that_nobody_could_verify_says_so() -> None:
    assert sheet("A10G").source.startswith("Not verified: clock")
    assert "erified" not in sheet("H100").source
    assert sheet("H200").cache_bytes == 60 << 20, "more than the H100's 50 on the same chip: what the driver reports"


def test_sparse_rates_are_halved() -> None:
    assert H100.flops["bfloat16"] == 989.4e12
    assert sheet("NVIDIA H100 80GB HBM3") is H100


def test_an_unknown_device_says_which_there_are() -> None:
    with pytest.raises(RequestError) as error:
        sheet("H101")
    assert "H100 SXM" in error.value.help


# --- work


def test_work_of_a_matmul_knows_its_sizes() -> None:
    program = capture(zoo_source("mlp", {"batch": "8", "width": "32", "depth": "2"}), "inference", "cpu").program
    found = [work for each in snapshot(program).nodes if (work := work_of(each)) is not None and work.kind == MATMUL]
    assert {(work.rows, work.columns, work.depth) for work in found} == {(8, 32, 32), (8, 1, 32)}


def test_views_and_branches_that_do_not_run_ask_for_nothing() -> None:
    view = msgspec.structs.replace(node("v", "forward", 0), target="aten.view.default", cost=Cost())
    idle = msgspec.structs.replace(node("i", "forward", 8), times=0)
    assert work_of(view) is None
    assert work_of(idle) is None


@pytest.mark.parametrize(
    ("target", "kind"), [("aten._softmax.default", SOFTMAX), ("aten.add.Tensor", ELEMENTWISE), ("aten.relu_.default", ELEMENTWISE)]
)
def test_the_class_follows_from_the_operator(target: str, kind: str) -> None:
    work = work_of(msgspec.structs.replace(node("n", "forward", 0), target=target))
    assert work is not None
    assert work.kind == kind


@pytest.mark.parametrize(("functions", "kind"), [(0, KERNEL), (500, KERNEL_FUNCTIONS)])
def test_compiled_kernels_stand_apart_by_whether_they_compute_functions(functions: int, kind: str) -> None:
    record = node("k", "forward", 1_000)
    work = work_of(
        msgspec.structs.replace(
            record, target="kernel.mul·tanh", cost=msgspec.structs.replace(record.cost, matmul_flops=0, functions=functions)
        )
    )
    assert work is not None
    assert (work.kind, work.name, work.functions) == (kind, "", functions)


def test_functions_of_a_kernel_are_counted_one_for_each_element_and_take_longer() -> None:
    """GELU written out over 64 × 32: one tanh for each element among its other operations; backward has only products of what forward computed."""
    source = ModelSource("gelu", lambda: Loops(BODIES["gelu written out"]), lambda: (torch.randn(64, WIDTH),), None, ())
    program = capture(source, "inference", "cpu").program
    fused = apply(program, snapshot(program), "fuse-loops", {}).snapshot
    (kernel,) = [one for one in fused.nodes if one.target.startswith("kernel.")]
    assert kernel.cost.functions == 64 * WIDTH
    work = work_of(kernel)
    assert work is not None
    assert work.kind == KERNEL_FUNCTIONS
    here, model = msgspec.structs.replace(sheet("H100 SXM"), kind="cpu", vector_flops=5e10), calibration("cpu")
    without = msgspec.structs.replace(work, functions=0)
    assert kernel_seconds(work, here, model)[0] > 2 * kernel_seconds(without, here, model)[0]


def test_a_convolution_is_a_product_with_a_row_for_each_pixel() -> None:
    """2 images of 5 × 5 pixels, 16 channels from 8 by 3 × 3: 50 rows, 16 columns, depth 72."""
    flops = 2 * 50 * 16 * 72
    found = work_of(msgspec.structs.replace(node("c", "forward", flops), target="aten.convolution.default", shape=(2, 16, 5, 5)))
    assert found is not None
    assert (found.batch, found.rows, found.columns, found.depth, found.name) == (1, 50, 16, 72, "convolution")


# --- time


def grown(device: Sheet, factor: float, *fields: str) -> Sheet:
    changed = {field: type(getattr(device, field))(getattr(device, field) * factor) for field in fields if field != "flops"}
    if "flops" in fields:
        changed["flops"] = {dtype: rate * factor for dtype, rate in device.flops.items()}
    return msgspec.structs.replace(device, **changed)


@pytest.mark.parametrize(
    "work", [matmul(4096, 4096, 4096), matmul(17, 300, 16384), matmul(512, 512, 64, 128), moved(1 << 30), moved(1 << 12)]
)
@pytest.mark.parametrize("device", [A100, H100, L4, T4], ids=lambda device: device.name)
def test_a_better_device_is_never_slower(work: Work, device: Sheet) -> None:
    now = kernel_seconds(work, device, GPU)[0]
    for fields in (
        ("bandwidth",),
        ("flops", "vector_flops"),
        ("units", "flops", "vector_flops", "power_w"),
        ("cache_bytes",),
        ("power_w",),
    ):
        assert kernel_seconds(work, grown(device, 2, *fields), GPU)[0] <= now * 1.0001, fields


def test_one_tile_too_many_starts_another_wave() -> None:
    """108 units and tiles of 128 × 128: 108 tiles fit at once."""
    full, over = (kernel_seconds(matmul(128, 128, 4096, batch), A100, GPU)[0] for batch in (108, 109))
    twice = kernel_seconds(matmul(128, 128, 4096, 216), A100, GPU)[0]
    assert over > 1.03 * full, "109/108 is less than 1 % of work"
    assert twice == pytest.approx(2 * full, rel=0.05)


def test_a_deep_product_of_few_tiles_is_split() -> None:
    """64 tiles of depth 16384 leave most of 108 units idle unless the sum is split."""
    few = kernel_seconds(matmul(1024, 1024, 16384), A100, GPU)[0]
    assert few < 1.5 * roofline_seconds(matmul(1024, 1024, 16384), A100)


def test_little_power_limits_float32_and_not_tensor_cores() -> None:
    large = matmul(8192, 8192, 8192)
    assert kernel_seconds(large, L4, GPU)[0] > 1.7 * roofline_seconds(large, L4)
    half = matmul(8192, 8192, 8192, dtype="float16")
    assert kernel_seconds(half, L4, GPU)[0] < 1.4 * roofline_seconds(half, L4)


def test_small_work_is_bound_by_its_launch_and_large_by_memory() -> None:
    assert kernel_seconds(moved(1 << 10), A100, GPU)[1] == LAUNCH
    assert kernel_seconds(moved(1 << 30), A100, GPU)[1] == MEMORY


def test_what_fits_the_cache_is_not_fetched_from_memory() -> None:
    """8 MB lie in an L4's 48 MiB and would take 27 µs from memory; 1 GB does not."""
    assert kernel_seconds(moved(8 << 20), L4, GPU)[0] < 0.5 * (8 << 20) / L4.bandwidth
    assert kernel_seconds(moved(1 << 30), L4, GPU)[0] > (1 << 30) / L4.bandwidth


def test_between_measured_copies_the_rate_is_interpolated() -> None:
    copies = ((1e6, 80e9), (1e8, 20e9))
    assert copy_rate(copies, 1e5) == 80e9
    assert copy_rate(copies, 1e7) == pytest.approx(40e9), "half of the way, on logarithmic scales"
    assert copy_rate(copies, 1e9) == 20e9


def test_where_copies_were_measured_they_say_what_bytes_cost() -> None:
    curve = msgspec.structs.replace(A100, copies=((1e6, 800e9), (1e8, 100e9)))
    shared = msgspec.structs.replace(GPU, spill=4.0)
    small, large = moved(1 << 17), moved(1 << 28)
    assert kernel_seconds(large, curve, GPU)[0] > 4 * kernel_seconds(large, A100, GPU)[0]
    assert kernel_seconds(small, curve, shared)[0] == kernel_seconds(small, curve, GPU)[0], "a megabyte is the smallest"
    assert kernel_seconds(moved(1 << 22), curve, shared)[0] > kernel_seconds(moved(1 << 22), curve, GPU)[0]


def test_an_operator_that_was_measured_apart_takes_its_own_time() -> None:
    slow = msgspec.structs.replace(GPU, operators={"div": 3.0})
    work = moved(1 << 28)
    usual = kernel_seconds(work, A100, slow)[0]
    assert kernel_seconds(msgspec.structs.replace(work, name="div"), A100, slow)[0] == pytest.approx(3 * usual, rel=0.02)
    assert kernel_seconds(msgspec.structs.replace(work, name="add"), A100, slow)[0] == usual


def test_only_loops_that_a_cpu_shares_wait_for_its_threads() -> None:
    one = msgspec.structs.replace(A100, kind="cpu", units=1)
    two = msgspec.structs.replace(one, units=2)
    forks = msgspec.structs.replace(GPU, fork_s=1e-3)

    def more(device: Sheet, work: Work) -> float:
        return kernel_seconds(work, device, forks)[0] - kernel_seconds(work, device, GPU)[0]

    short, long = moved(8 * 32767), moved(8 * 32768)  # 4 bytes are read and 4 written of each element
    assert more(two, long) == pytest.approx(1e-3)
    for device, work in ((two, short), (one, long), (A100, long), (two, matmul(512, 512, 512))):
        assert more(device, work) == 0


def test_what_is_rearranged_first_is_not_hidden_behind_arithmetic() -> None:
    work = matmul(64, 4096, 4096)
    in_turns = msgspec.structs.replace(GPU, serial=(MATMUL,))
    both, longer = kernel_seconds(work, A100, in_turns)[0], kernel_seconds(work, A100, GPU)[0]
    fixed = GPU.classes[MATMUL].fixed_s
    assert both > longer
    assert both - fixed <= 2 * (longer - fixed), "the longer of two is at least half of both"
    assert kernel_seconds(moved(work.bytes_moved), A100, in_turns) == kernel_seconds(moved(work.bytes_moved), A100, GPU)


def test_a_cpu_with_slower_launches_is_slower_in_every_call_and_not_in_long_work() -> None:
    kept = calibration("cpu")
    at_home = msgspec.structs.replace(A100, kind="cpu", launch_s=kept.launch_s)
    assert calibration_for(at_home) == kept
    slow = calibration_for(msgspec.structs.replace(at_home, launch_s=2 * kept.launch_s))
    assert slow.call_s == pytest.approx(2 * kept.call_s)
    assert {kind: one.fixed_s for kind, one in slow.classes.items()} == {
        kind: pytest.approx(2 * one.fixed_s) for kind, one in kept.classes.items()
    }
    assert {kind: (one.compute, one.bandwidth) for kind, one in slow.classes.items()} == {
        kind: (one.compute, one.bandwidth) for kind, one in kept.classes.items()
    }
    assert calibration_for(msgspec.structs.replace(at_home, launch_s=0.0)) == kept, "where nobody measured them"


def test_the_smooth_maximum_is_at_least_the_larger() -> None:
    assert smooth_maximum(3, 0) == 3
    assert smooth_maximum(1, 1) == pytest.approx(2**0.25)


# --- whole graphs


def test_recomputing_one_forward_costs_a_quarter_of_the_utilisation() -> None:
    """Row A46 of the course: 3 units of model work, 4 of hardware work: MFU = ¾ HFU."""
    unit = 2 * 512**3
    found = predict(graph(node("f", "forward", unit), node("r", "recompute", unit), node("b", "backward", 2 * unit)), A100, GPU)
    assert found.mfu is not None
    assert found.hfu is not None
    assert found.mfu == pytest.approx(0.75 * found.hfu)


def test_utilisation_of_the_course() -> None:
    """Row B11: 10¹² operations in 10 s on 10¹³ a second are 1 %."""
    assert utilisation(1e12, 10, 1e13) == pytest.approx(0.01)


def test_what_does_not_fit_is_said() -> None:
    step = node("f", "forward", 2 * 512**3)
    assert predict(graph(step, resident=20 << 30, peak=2 << 30), L4, GPU).fits
    assert not predict(graph(step, resident=20 << 30, peak=4 << 30), L4, GPU).fits, "the context takes half a GiB"
    nearly = predict(graph(step, resident=20 << 30, peak=3 << 30), L4, GPU)
    assert any("nearly full" in note for note in nearly.notes)


def test_a_whole_model_on_every_device() -> None:
    program = capture(zoo_source("mlp", {"batch": "32", "width": "64"}), "training", "cpu").program
    found = snapshot(program)
    predictions = [predict(found, one, GPU) for one in sheets().values() if can_run(found, one)]
    assert len(predictions) == len(sheets())
    for one in predictions:
        assert {each.name for each in one.nodes} == {each.name for each in found.nodes if each.cost.launches}
        assert one.seconds >= max(one.host_s, sum(each.seconds for each in one.nodes))
        assert one.bound == LAUNCH
        assert one.fits
        assert 0 < (one.mfu or 0) < 1


def test_a_dtype_that_a_device_lacks_leaves_it_out() -> None:
    half = msgspec.structs.replace(node("f", "forward", 2 * 512**3), dtype="bfloat16")
    assert T4.name not in [one.name for one in sheets().values() if can_run(graph(half), one)]
    with pytest.raises(RequestError, match="no rate for bfloat16"):
        predict(graph(half), T4, GPU)


def test_a_generation_that_nobody_measured_is_noted() -> None:
    found = predict(graph(node("f", "forward", 2 * 512**3)), sheet("MI300X"), GPU)
    assert any("cdna3" in note for note in found.notes)


def test_predicting_needs_no_torch() -> None:
    code = (
        "import sys; from profiler.prediction.predict import predict; from profiler.sheets import sheets; from profiler.calibrations import calibration;"
        "sheets(), calibration('gpu'), calibration('cpu'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# --- calibration


def test_calibration_finds_the_numbers_that_made_the_times() -> None:
    truth = {"matmul": 0.8, "elementwise": 0.7}
    work = [matmul(size, size, size) for size in (1024, 2048, 4096)] + [moved(1 << power) for power in (27, 28, 29)]
    made = [Sample(Counted(((1, one),), 1), A100, seconds_of(Counted(((1, one),), 1), A100, gpu_model(truth))) for one in work]
    disturbed = msgspec.structs.replace(made[0], seconds=3 * made[0].seconds)
    found = calibrate([*made, disturbed], {name: Parameter(0.95, 0.3) for name in truth}, gpu_model)
    assert found == pytest.approx(truth, rel=0.05)


def test_operators_are_told_from_their_class_and_few_measurements_less() -> None:
    def measured(name: str, times: float, count: int) -> list[Sample]:
        work = [msgspec.structs.replace(moved(1 << power), name=name) for power in range(26, 26 + count)]
        return [Sample(Counted(((1, one),), 0), A100, times * seconds_of(Counted(((1, one),), 0), A100, GPU)) for one in work]

    found = operator_factors([*measured("add", 1, 4), *measured("div", 3, 4), *measured("pow", 3, 1), *measured("", 9, 3)], GPU)
    assert found == {"add": pytest.approx(1), "div": pytest.approx(3**0.8), "pow": pytest.approx(3**0.5)}


def test_the_kept_models_say_where_they_come_from() -> None:
    for name in ("gpu", "cpu"):
        kept = calibration(name)
        assert "Least squares" in kept.origin
        assert kept.fitted
    assert calibration_for(L4) is calibration("gpu")


def test_a_gpu_whose_ceilings_were_measured_reaches_them() -> None:
    """What a generation leaves of its data sheet is in what was measured there: it is not taken off twice."""
    here = msgspec.structs.replace(
        sheet("H100 SXM"), measured=True, flops={"float32": 5e13}, vector_flops=5e13, bandwidth=3e12, power_w=0.0
    )
    side, size = 8192, 4 * 8192**2
    product = Work(MATMUL, "float32", 2 * side**3, 2 * size, size, 1, 1, side, side, side)
    copied = Work(COPY, "float32", 0, 1 << 30, 1 << 30, 1)
    for work, least in ((product, product.flops / 5e13), (copied, (2 << 30) / 3e12)):
        assert least < kernel_seconds(work, here, calibration_for(here))[0] < 1.1 * least
    assert kernel_seconds(product, here, calibration("gpu"))[0] > 1.25 * product.flops / 5e13
