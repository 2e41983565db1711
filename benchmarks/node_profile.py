"""How long recordings take to open, and how nodes add up: `python -m benchmarks.node_profile [snapshot | trace | nodes WORDS …]`.

`snapshot` writes a memory snapshot of a million events in torch's own structure and opens it: read, curve, and the points of a chart. `trace` does
the same with a Chrome trace. `nodes` profiles graphs and prints how their nodes add up to a whole run, what the marks and the profiler add, and
what is mapped. Wall-clock and processor time, since other processes may run.
"""

from __future__ import annotations

import gc
import pickle
import random
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec

from jobs.experiment import parse
from jobs.record import Profile, ProfileResult
from jobs.run import perform
from profiler import plain_pickle
from profiler.memory_snapshot import read_snapshot
from profiler.memory_track import events, held, peak, thinned
from profiler.timeline import columns, visible
from profiler.trace_file import read_trace

EVENTS, FRAMES, DEEP, STACKS = 1_000_000, 3000, 12, 2000
NODES = ("model=zoo/mlp&mode=training&batch=64", "model=zoo/gpt2&mode=training&layers=2&seq=64", "model=zoo/resnet18&mode=inference")


def main(arguments: list[str]) -> None:
    what, *words = arguments or ["snapshot"]
    {"snapshot": snapshot, "trace": trace, "nodes": lambda: nodes(words or NODES)}[what]()


def snapshot() -> None:
    gc.disable()
    content = pickle.dumps(memory_history(EVENTS), protocol=4)
    gc.enable()
    gc.collect()
    print(f"snapshot: {EVENTS:,} events, {len(content) / 2**20:.0f} MiB; compiled: {plain_pickle.compiled() is not None}")
    for _ in range(3):
        open_once(content)


def open_once(content: bytes) -> None:
    track = timed("open", lambda: read_snapshot(content))
    at, values = events(track).at, held(track)
    last = int(at[-1])
    kept = timed("  points of the whole", lambda: thinned(at, values, int(at[0]), last, 300))
    near = timed("  points of a tenth", lambda: thinned(at, values, last // 2, last * 6 // 10, 300))
    print(
        f"  peak {peak(track)[0]:,} B, {len(kept):,} and {len(near):,} points; record {len(msgspec.msgpack.encode(track)) / 2**20:.0f} MiB"
    )


def memory_history(count: int) -> dict[str, Any]:
    """Allocations and frees with stacks of some frames, as `torch.cuda.memory._snapshot` gives them."""
    rng = random.Random(0)
    frames = [
        {"name": f"f{at}", "filename": f"/home/model{at % 50}.py" if at % 3 else f"/torch/nn/m{at}.py", "line": at} for at in range(FRAMES)
    ]
    stacks = [[frames[rng.randrange(FRAMES)] for _ in range(DEEP)] for _ in range(STACKS)]
    trace: list[dict[str, Any]] = []
    taken: list[tuple[int, int]] = []
    now = 1_700_000_000_000_000
    while len(trace) < count:
        now += rng.randrange(1, 20)
        more = {"stream": 0, "time_us": now, "compile_context": "N/A", "user_metadata": ""}
        if len(taken) < 500 or rng.random() < 0.34:
            taken.append((0x7F0000000000 + 2048 * len(trace), 512 * rng.randrange(1, 5000)))
            trace.append({"action": "alloc", "addr": taken[-1][0], "size": taken[-1][1], "frames": list(rng.choice(stacks)), **more})
        else:
            addr, size = taken.pop(rng.randrange(len(taken)))
            trace += [
                {"action": action, "addr": addr, "size": size, "frames": [], **more} for action in ("free_requested", "free_completed")
            ]
    blocks = [{"address": addr, "size": size, "requested_size": size, "state": "active_allocated", "frames": []} for addr, size in taken]
    segment = {
        "device": 0,
        "address": 0,
        "total_size": sum(size for _, size in taken),
        "stream": 0,
        "segment_type": "large",
        "blocks": blocks,
    }
    return {"segments": [segment], "device_traces": [trace], "allocator_settings": {}, "external_annotations": []}


def trace() -> None:
    """A quarter of a million operators, each with a launch and a kernel, and a mark around every fourth."""
    made: list[dict[str, Any]] = []
    for at in range(EVENTS // 4):
        begin, args = 40.0 * at, {"External id": at + 1, "correlation": at + 1}
        made += [
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": f"node: n{at % 999}" if at % 4 == 0 else "aten::add",
                "pid": 1,
                "tid": 1,
                "ts": begin,
                "dur": 39.0,
            },
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": "aten::mul",
                "pid": 1,
                "tid": 1,
                "ts": begin + 1,
                "dur": 20.0,
                "args": {"External id": at + 1},
            },
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": begin + 5, "dur": 4.0, "args": args},
            {"ph": "X", "cat": "kernel", "name": f"kernel_{at % 40}", "pid": 0, "tid": 7, "ts": begin + 20, "dur": 15.0, "args": args},
        ]
    content = msgspec.json.encode({"traceEvents": made})
    del made
    print(f"trace: {EVENTS:,} events, {len(content) / 2**20:.0f} MiB")
    timeline = timed("open", lambda: read_trace(content))
    found = columns(timeline)
    timed("  slices of the whole", lambda: visible(found, 0, int(found.end.max()), 1500))


def nodes(words: list[str] | tuple[str, ...]) -> None:
    print("| graph | nodes | whole run | all nodes | between | uneven | marked ÷ whole | profiled ÷ whole | mapped | others |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for one in words:
        found = cast(ProfileResult, perform(Profile(parse(one).words), {}, lambda progress: None)).profiles[-1]
        whole = found.whole_ms
        low, high = found.whole_interval_ms
        others = "unknown" if found.conditions.others is None else f"{found.conditions.others:.0%}"
        print(
            f"| `{one}` | {len(found.nodes):,} | {whole:.3g} ms [{low:.3g}, {high:.3g}] of {found.runs} | {found.nodes_ms / whole:.1%} | "
            f"{found.between_ms / whole:.1%} | {found.uneven_ms / whole:.1%} | {found.marked_ms / whole:.3f} | {found.profiled_ms / whole:.2f} | "
            f"{found.mapped} of {found.events} | {others} |"
        )


def timed(title: str, work: Callable[[], Any]) -> Any:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    print(f"{title}: {time.process_time() - processor:.3f} s of the processor, {time.perf_counter() - wall:.3f} s")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
