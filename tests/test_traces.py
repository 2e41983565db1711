"""Recordings: traces and memory snapshots, read from what others wrote and written for others to read; and files that mean harm."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
from typing import Any

import numpy as np
import pytest
from torch.cuda import _memory_viz

from graphs.errors import FxscopeError, SourceError, TooLargeError
from profiler import plain_pickle, recordings, trace_file
from profiler.memory_snapshot import read_snapshot, write_snapshot
from profiler.memory_track import Events, alive, events, held, packed, peak, reserved
from profiler.node_record import MemoryTrack, Timeline
from profiler.recordings import read_recording
from profiler.timeline import by_name, columns, gaps, mapped, pieces, visible
from profiler.trace_file import read_trace, write_trace

# ---------------------------------------------------------------- traces


def slice_(cat: str, name: str, lane: int | str, ts: float, dur: float, **numbers: object) -> dict[str, object]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 0 if cat == "kernel" else 77, "tid": lane, "ts": ts, "dur": dur, "args": numbers}


# Synthetic: written by hand in the terms of Kineto's traces of a GPU, no GPU ran it. Two nodes on the host's thread 77; `mm` launches two kernels
# (by correlation), `relu` one whose launch was not recorded (by external number); a fourth kernel belongs to nobody. Times in µs.
SYNTHETIC = {
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 77, "tid": 0, "args": {"name": "python"}},
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": 7, "args": {"name": "stream 7"}},
        slice_("cpu_op", "node: mm", 77, 1000.0, 40.0, **{"External id": 1}),
        slice_("cpu_op", "aten::mm", 77, 1005.0, 30.0, **{"External id": 2}),
        slice_("cuda_runtime", "cudaLaunchKernel", 77, 1010.0, 4.0, correlation=501, **{"External id": 2}),
        slice_("cuda_runtime", "cudaLaunchKernel", 77, 1020.0, 4.0, correlation=502, **{"External id": 2}),
        slice_("cpu_op", "node: relu", 77, 1045.5, 20.0, **{"External id": 3}),
        slice_("cpu_op", "aten::relu", 77, 1050.0, 10.0, **{"External id": 4}),
        slice_("kernel", "gemm_a", 7, 1030.0, 50.0, correlation=501, stream=7, **{"External id": 2}),
        slice_("kernel", "gemm_b", 7, 1080.0, 20.0, correlation=502, stream=7, **{"External id": 2}),
        slice_("kernel", "relu_kernel", 7, 1130.0, 8.0, correlation=503, stream=7, **{"External id": 4}),
        slice_("kernel", "stray", 7, 1138.0, 2.0, correlation=999, stream=7),
        {"ph": "i", "name": "Record Window End", "ts": 1200.0, "s": "g"},
        {"ph": "s", "id": 501, "cat": "ac2g", "name": "ac2g", "pid": 77, "tid": 77, "ts": 1010.0},
    ]
}


@pytest.fixture(scope="module")
def synthetic() -> Timeline:
    return read_trace(json.dumps(SYNTHETIC).encode())


def test_kernels_find_the_node_that_launched_them(synthetic: Timeline) -> None:
    assert pieces(synthetic) == {
        ("gemm_a", "mm"): (1, 0.05),
        ("gemm_b", "mm"): (1, 0.02),
        ("relu_kernel", "relu"): (1, 0.008),
        ("stray", ""): (1, 0.002),
    }
    assert mapped(synthetic) == (3, 4)
    launch = next(row for row in by_name(synthetic) if row.name == "cudaLaunchKernel")
    assert (launch.count, launch.ns, launch.nodes) == (2, 8000, {"mm": 2})


def test_a_slice_keeps_for_itself_what_no_slice_inside_of_it_took(synthetic: Timeline) -> None:
    rows = {row.name: row for row in by_name(synthetic)}
    assert (rows["aten::mm"].ns, rows["aten::mm"].own_ns) == (30_000, 22_000)
    found = columns(synthetic)
    depth = {synthetic.names[name]: depth for name, depth in zip(found.name, found.depth, strict=True)}
    assert [depth[name] for name in ("node: mm", "aten::mm", "cudaLaunchKernel", "gemm_a")] == [0, 1, 2, 0]
    assert synthetic.lanes == ("python 77 · thread 77", "0 · stream 7")


def test_a_gpu_that_waits_for_a_launch_is_a_gap(synthetic: Timeline) -> None:
    starts, lengths = gaps(synthetic)
    assert (starts.tolist(), lengths.tolist()) == ([100_000], [30_000])


def test_a_picture_takes_the_longest_slices_of_its_stretch(synthetic: Timeline) -> None:
    found = columns(synthetic)
    shown, left_out = visible(found, 0, 200_000, 3)
    assert [synthetic.names[found.name[at]] for at in shown] == ["node: mm", "aten::mm", "gemm_a"]
    assert left_out == 7
    near, left_out = visible(found, 131_000, 140_000, 3)
    assert ([synthetic.names[found.name[at]] for at in near], left_out) == (["relu_kernel", "stray"], 0)


def test_a_timeline_written_as_a_trace_reads_as_the_same(synthetic: Timeline) -> None:
    content = write_trace(synthetic, "it")
    assert json.loads(content)["traceEvents"][0]["args"]["name"] == "it"
    again = read_recording(gzip.compress(content), "it.json.gz")
    assert isinstance(again, Timeline)
    assert pieces(again) == pieces(synthetic)
    for name in ("start", "length", "own", "depth"):
        assert getattr(again, name) == getattr(synthetic, name)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{}", "no Chrome trace"),
        (b'{"traceEvents": [{"ph": "X", "name": "a"}]}', "beginning and a length"),
        (b'{"traceEvents": [{"ph": "X", "name": "a", "ts": 1e300, "dur": 1}]}', "beginning and a length"),
        (b'{"traceEvents": ' + b"[" * 100_000, "no Chrome trace"),
        (b"[" + b'{"ph": "X", "name": "a", "ts": 1, "dur": "x"}' + b"]", "no Chrome trace"),
        (b"plain text", "neither a trace nor"),
        (gzip.compress(b"[]", mtime=0)[:-9] + b"xxxxxxxxx", "damaged"),
    ],
)
def test_what_is_no_trace_is_refused_with_a_way_out(content: bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what) as caught:
        read_recording(content, "trace.json")
    assert caught.value.help


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MOST_BYTES", 1 << 20)
    with pytest.raises(TooLargeError, match="unpacks to more than 1 MiB"):
        read_recording(gzip.compress(bytes(2 << 20)), "trace.json.gz")


def test_a_file_of_another_kind_or_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(SourceError, match="kind of file"):
        recordings.refuse_other_files("model.py", 10)
    with pytest.raises(SourceError, match="larger than"):
        recordings.refuse_other_files("trace.json", recordings.LIMIT_BYTES + 1)


# ---------------------------------------------------------------- memory snapshots


def history(count: int, seed: int = 0) -> dict[str, Any]:
    """A snapshot in torch's structure: some hundred allocations, most of them freed again, one block there from before."""
    rng = random.Random(seed)
    frames = [{"name": f"f{at}", "filename": f"/x/torch/nn/m{at}.py" if at % 3 else f"/home/model{at}.py", "line": at} for at in range(30)]
    frames[5]["fx_node_name"] = "relu_1"
    trace: list[dict[str, Any]] = [
        {"action": "segment_alloc", "addr": 1 << 40, "size": 2 << 20, "stream": 0, "time_us": 1_700_000_000_000_000, "frames": []}
    ]
    taken, now = [(3 << 40, 4096)], 1_700_000_000_000_000
    while len(trace) < count:
        now += rng.randrange(5)
        entry: dict[str, Any] = {"stream": 0, "time_us": now}
        if rng.random() < 0.6 or not taken:
            taken.append(((1 << 40) + 512 * len(trace), 512 * rng.randrange(1, 9)))
            trace.append({"action": "alloc", "addr": taken[-1][0], "size": taken[-1][1], "frames": rng.sample(frames, 4), **entry})
        else:
            addr, size = taken.pop(rng.randrange(len(taken)))
            trace += [
                {"action": action, "addr": addr, "size": size, "frames": [], **entry} for action in ("free_requested", "free_completed")
            ]
    blocks = [{"address": addr, "size": size, "requested_size": size, "state": "active_allocated", "frames": []} for addr, size in taken]
    segment = {"device": 0, "address": 1 << 40, "total_size": 3 << 20, "stream": 0, "segment_type": "large", "blocks": blocks}
    return {"segments": [segment], "device_traces": [trace, []], "weights": 0.5, "ok": True, "pool": (0, 0, 0, 0), "none": None}


@pytest.fixture(params=["compiled", "python"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(plain_pickle, "compiled", lambda: None)
    elif plain_pickle.compiled() is None:
        pytest.skip("no C++ compiler here")
    return request.param


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_curve_of_a_snapshot_is_what_its_events_say(protocol: int) -> None:
    whole = history(2500)
    track = read_snapshot(pickle.dumps(whole, protocol=protocol))
    curve, now = [], 0
    for entry in whole["device_traces"][0]:
        if entry["action"] in ("alloc", "free_completed"):
            now += entry["size"] if entry["action"] == "alloc" else -entry["size"]
            curve.append(now)
    before = sum(block["size"] for block in whole["segments"][0]["blocks"]) - now
    assert held(track).tolist() == [value + before for value in curve]
    assert peak(track) == (max(curve) + before, curve.index(max(curve)))
    assert reserved(track)[1].tolist() == [3 << 20]
    assert track.reserved_before == 1 << 20
    assert min(held(track)) >= 0


@pytest.mark.usefixtures("machine")
def test_an_event_is_shown_by_the_fx_node_or_the_line_outside_of_torch() -> None:
    whole = history(800)
    track = read_snapshot(pickle.dumps(whole))
    wanted = []
    for entry in whole["device_traces"][0]:
        if entry["action"] == "alloc":
            named = [frame for frame in entry["frames"] if "fx_node_name" in frame]
            own = [frame for frame in entry["frames"] if "/torch/" not in frame["filename"]]
            frame = (named or own or entry["frames"])[0]
            line = f"{frame['filename'].rpartition('/')[2]}:{frame['line']} {frame['name']}"
            wanted.append(f"relu_1 · {line}" if named else line)
    found = events(track)
    assert [track.owners[owner] for owner in found.owner[found.change > 0]] == wanted
    assert any(owner.startswith("relu_1") for owner in wanted)


class Harm:
    def __init__(self, call: Any, *args: Any) -> None:
        self.reduced = (call, args)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps({"device_traces": [Harm(print, "harm")]}, protocol=4), "STACK_GLOBAL"),
        (pickle.dumps(Harm(print, "harm"), protocol=2), "GLOBAL"),
        (pickle.dumps({"a": b"bytes"}), "SHORT_BINBYTES"),
        (pickle.dumps({1, 2}), "EMPTY_SET"),
        (b"\x80\x02}(U\x01ai\x01", "SHORT_BINSTRING"),
        (b"\x80\x04]R.", "REDUCE"),
        (b"\x80\x04]}b.", "BUILD"),
        (b"\x80\x04)\x81.", "NEWOBJ"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x04K\x01Q.", "BINPERSID"),
        (b"\x80\x04(ios\nsystem\n.", "INST"),
        (b"\x80\x04\xff.", "unknown instruction"),
        (pickle.dumps(1 << 100), "LONG1"),
    ],
)
def test_a_pickle_that_could_run_anything_is_refused_where_it_does(content: bytes, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=word) as caught:
        read_snapshot(content, "bad.pickle")
    assert "bad.pickle, byte" in caught.value.where
    assert "harm" not in capsys.readouterr().out


@pytest.mark.usefixtures("machine")
def test_a_pickle_cut_off_or_changed_anywhere_is_read_or_refused_and_nothing_else() -> None:
    content = pickle.dumps(history(40), protocol=4)
    rng = random.Random(1)
    for _ in range(250):
        at = rng.randrange(len(content))
        changed = content[:at] if rng.random() < 0.4 else content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        assert isinstance(read_or_refusal(changed), MemoryTrack | FxscopeError)


def read_or_refusal(content: bytes) -> MemoryTrack | FxscopeError:
    try:
        return read_snapshot(content)
    except FxscopeError as error:
        return error


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("whole", [{}, [], {"device_traces": 3}, {"device_traces": []}, {"device_traces": [[]]}, "text", None])
def test_a_pickle_of_something_else_is_no_snapshot(whole: object) -> None:
    with pytest.raises(SourceError, match="no snapshot|no events"):
        read_snapshot(pickle.dumps(whole))


@pytest.mark.usefixtures("machine")
def test_keys_written_twice_and_dicts_filled_bit_by_bit_mean_the_last_value() -> None:
    made = io.BytesIO()
    made.write(b"\x80\x02}(X\x06\x00\x00\x00actionX\x05\x00\x00\x00otheru")  # SETITEMS, then SETITEM three times
    made.write(b"X\x06\x00\x00\x00actionX\x05\x00\x00\x00allocsX\x04\x00\x00\x00addrK\x07sX\x04\x00\x00\x00sizeM\x00\x02s")
    content = b"\x80\x02}X\x0d\x00\x00\x00device_traces](](" + made.getvalue()[2:] + b"ees."
    track = read_snapshot(content)
    assert held(track).tolist() == [512]


def test_a_measured_track_is_written_as_a_snapshot_that_torch_reads() -> None:
    found = Events(*(np.array(column, np.int64) for column in ([0, 1, 1, 2], [512, 1024, -512, 64], [64, 128, 64, 512], [0, 1, 0, 2])))
    track = packed(found, ["mm", "relu", "sum"], by_node=True)
    content = write_snapshot(track, [10, 20, 25, 30], "2.13")
    again = read_snapshot(content)
    assert held(again).tolist() == held(track).tolist()
    assert peak(again) == peak(track) == (1536, 1)
    assert [owner.partition(" ")[0] for owner, _ in alive(again, 3)] == ["relu", "sum"]
    whole = pickle.loads(content)
    assert "free completed for a 512.0B" in _memory_viz.trace(whole)
    assert "1.1KiB" in _memory_viz.segsum(whole)
