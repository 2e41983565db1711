"""Time and memory of every node: complete, in agreement with whole runs and with what is counted, and mapped to what ran."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from profiler import node_turns
from profiler.marks import marked_nodes
from profiler.memory_track import Events, alive, events, held, peak, thinned
from profiler.node_memory import node_memory, of_nodes, summed
from profiler.node_record import MemoryTrack, NodeProfile, NodeTiming, Timeline
from profiler.node_samples import are_in_turns, change, packed, samples, spread, trimmed, whole_change, whole_verdict
from profiler.peak import peak_bytes
from profiler.per_node import profile_graphs, profile_nodes
from profiler.record import Conditions, Device
from profiler.runs import Run
from profiler.timeline import columns, gaps
from tests.small_models import NORMALIZED


class Uneven(nn.Module):
    """One operator takes most of the time, and lives beside small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(700, 700)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.large(x)[:2, :2].relu().split(1)
        return first + second


@pytest.fixture(scope="module")
def uneven() -> Program:
    return capture(ModelSource("uneven", Uneven, lambda: (torch.randn(700, 700),), None, ()), "inference", "cpu").program


@pytest.fixture(scope="module")
def profile(uneven: Program) -> NodeProfile:
    return profile_nodes(uneven, "captured", budget_s=0.2)


def test_every_operator_has_a_time_and_the_slow_one_stands_out(profile: NodeProfile, uneven: Program) -> None:
    operators = [node.name for node in uneven.gm.graph.nodes if node.op == "call_function" and node.name[:7] != "getitem"]
    assert [node.name for node in profile.nodes] == operators
    assert all(0 < node.interval_ms[0] <= node.ms <= node.interval_ms[1] for node in profile.nodes)
    assert max(profile.nodes, key=lambda node: node.ms).name.startswith(("addmm", "linear"))


def test_nodes_and_what_lies_between_them_add_up_to_a_whole_run(profile: NodeProfile) -> None:
    assert profile.runs >= 6
    assert profile.nodes_ms + profile.between_ms + profile.uneven_ms == pytest.approx(profile.whole_ms)
    assert profile.between_ms > 0


def test_what_the_profiler_saw_is_mapped_to_nodes_both_ways(profile: NodeProfile) -> None:
    assert profile.mapped == profile.events > 0
    assert {piece.node for piece in profile.pieces} == {node.name for node in profile.nodes}
    assert [piece.name for piece in profile.pieces if piece.node == "relu"][:1] == ["aten::relu"]
    found = columns(profile.timeline)
    of_relu = found.node == profile.timeline.nodes.index("relu")
    assert {profile.timeline.names[at] for at in found.name[of_relu]} >= {"node: relu", "aten::relu"}
    _, lengths = gaps(profile.timeline)
    assert (lengths > 0).all()


def test_memory_of_the_nodes_is_what_is_counted_of_them(profile: NodeProfile, uneven: Program) -> None:
    graph = snapshot(uneven)
    owned = {node.name: node.bytes for node in graph.nodes if node.op == "call_function" and node.storage == node.name}
    assert {node.name: node.allocated for node in profile.nodes if node.allocated} == owned
    kept = sum(owned.get(graph.by_name()[name].storage, 0) for name in graph.outputs)
    assert sum(node.allocated - node.freed for node in profile.nodes) == kept
    assert profile.peak_bytes == graph.totals.peak_bytes == peak_bytes(uneven, uneven.materialize())


def test_what_is_held_at_the_peak_adds_up_to_it() -> None:
    program = capture(NORMALIZED, "training", "cpu").program
    measured = node_memory(program, program.materialize())
    most, at = peak(measured.track)
    assert sum(size for _, size in alive(measured.track, at)) == most == peak_bytes(program, program.materialize())
    assert {owner for owner, _ in alive(measured.track, at)} <= set(marked_nodes(program))


def test_events_of_an_allocator_are_given_to_the_node_that_ran() -> None:
    # Three nodes begin at 100, 200 and 300 µs; the second frees what the first took, the third what was there before.
    found = Events(*(np.array(column, np.int64) for column in ([105, 210, 220, 310], [512, 1024, -512, -64], [7, 8, 7, 9], [-1] * 4)))
    memory = summed(of_nodes(found, [100, 200, 300]), ["a", "b", "c"])
    assert memory.allocated == {"a": 512, "b": 1024, "c": 0}
    assert memory.freed == {"a": 0, "b": 512, "c": 64}
    assert memory.peak_bytes == 1536
    assert alive(memory.track, 1) == [("b", 1024), ("a", 512)]
    assert events(memory.track).owner.tolist() == [0, 1, 0, -1]


def test_a_thinned_curve_keeps_its_ends_and_its_extremes() -> None:
    values = np.random.default_rng(0).integers(0, 1000, 50_000)
    values[31_234], values[7] = 5000, -5
    at = np.arange(len(values))
    kept = thinned(at, values, 0, len(values), 100)
    assert len(kept) <= 402
    assert {0, 7, 31_234, 49_999} <= set(kept.tolist())
    near = thinned(at, values, 31_200, 31_300, 100)  # nearer, everything
    assert near.tolist() == list(range(31_199, 31_301))


def test_bytes_held_follow_every_event() -> None:
    program = capture(NORMALIZED, "inference", "cpu").program
    track = node_memory(program, program.materialize()).track
    curve = held(track)
    assert curve.min() >= 0
    assert curve.max() == peak(track)[0]


def test_memory_that_a_kernel_takes_past_the_dispatcher_is_its_nodes(uneven: Program) -> None:
    program = uneven.clone()
    relu = next(node for node in program.gm.graph.nodes if node.name == "relu")
    target = relu.target

    def kernel(value: Tensor) -> Tensor:
        with _disable_current_modes():
            return target(value)

    relu.target = kernel
    inputs = program.materialize()
    assert node_memory(program, inputs).allocated == node_memory(uneven, inputs).allocated


# ---------------------------------------------------------------- graphs in turns


def planted(times: np.ndarray, conditions: Conditions, names: tuple[str, ...]) -> NodeProfile:
    """A profile of runs × nodes, milliseconds, with nothing else in it."""
    nodes = tuple(NodeTiming(name, float(np.median(times[:, at])), (0.0, 0.0), None, 0, 0) for at, name in enumerate(names))
    empty = Timeline(b"", b"", b"", b"", b"", b"", b"", b"", (), (), (), ())
    track = MemoryTrack(b"", b"", b"", b"", (), True)
    whole = times.sum(axis=1)
    return NodeProfile(
        "x", Device("cpu", "c", 1, 1, "t"), conditions, float(np.median(whole)), (0.0, 0.0), 0.0, 0.0, 0.0, len(times), 0, nodes, (), 0, 0, empty, track, 0,
        packed(times), packed(whole),
    )  # fmt: skip


CONDITIONS = Conditions("2026-01-01", "wall clock", 1, False, None, None, None)


def test_a_drift_that_both_graphs_meet_is_no_change_and_a_real_one_is_seen() -> None:
    weather = np.repeat(np.linspace(1, 3, 20), 2)[:, None]  # the machine becomes three times as slow, block by block
    noise = 1 + 0.01 * np.random.default_rng(0).random((2, 40, 2))
    first = planted(weather * np.array([1.0, 2.0]) * noise[0], CONDITIONS, ("same", "halved"))
    last = planted(weather * np.array([1.0, 1.0]) * noise[1], CONDITIONS, ("same", "halved"))
    same, halved, gone = change(first, last, [0], [0]), change(first, last, [1], [1]), change(first, last, [1], [])
    assert abs(same.ms) < 0.02
    assert halved.is_seen
    assert halved.interval is not None
    assert halved.interval[0] < -2.0 < halved.interval[1]  # the middle of the drift: half of twice 2 ms
    assert (gone.after, gone.is_seen) == (0.0, True)
    assert whole_change(first, last).ms == pytest.approx(halved.ms, rel=0.05)
    assert whole_verdict(first, last) == "faster"
    assert whole_verdict(first, first) == "no difference"
    elsewhere = planted(weather * np.array([1.0, 2.0]), msgspec.structs.replace(CONDITIONS, started="later"), ("same", "halved"))
    assert change(first, elsewhere, [0], [0]).interval is None
    assert whole_verdict(first, elsewhere).startswith("too few")


def test_few_blocks_give_no_interval_and_many_are_thinned_evenly() -> None:
    few = planted(np.ones((2 * 3, 1)), CONDITIONS, ("a",))
    assert change(few, few, [0], [0]).interval is None
    many = planted(np.arange(200.0)[:, None], CONDITIONS, ("a",))
    assert samples(many).shape == (40, 2, 1)
    kept = samples(trimmed(many, 5))[:, :, 0]
    assert kept.tolist() == [[0, 1], [50, 51], [102, 103], [148, 149], [198, 199]]


def test_two_graphs_are_timed_in_the_same_blocks(uneven: Program) -> None:
    other = uneven.clone()
    small, large = profile_graphs([uneven, other], ["captured", "after"], budget_s=0.1)
    assert small.conditions == large.conditions
    assert small.runs == large.runs >= 2 * node_turns.ALWAYS
    assert are_in_turns(small, large)
    assert samples(small).shape[1:] == (2, len(small.nodes))
    low, high = spread(small, range(len(small.nodes))) or (1.0, 0.0)
    assert 0 < low <= high


def test_the_order_turns_round_within_a_block_and_ends_with_the_budget(uneven: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def run_of(program: Program, *_: object) -> Run:
        number = len(made)
        made.append(program)
        return lambda: ran.append(number)

    made: list[Program] = []
    monkeypatch.setattr(node_turns, "of_program", run_of)
    times, _ = node_turns.timed_in_turns([uneven, uneven], [(), ()], 0, 0.0, lambda share: None)
    blocks = np.array(ran[8:]).reshape(-1, 8)  # two warm-ups of four runs come first
    assert len(blocks) == node_turns.ALWAYS == len(times[0].whole) / 2
    assert all((block[:4] == block[:3:-1]).all() for block in blocks)
    assert all(sorted(block[:4]) == [0, 1, 2, 3] for block in blocks)
    assert len({tuple(block[:4]) for block in blocks}) > 1
