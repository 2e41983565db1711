"""What memory is for: roles, owners of the peak, CUDA's allocator and why a tensor is saved, on graphs small enough to count by hand."""

from __future__ import annotations

from typing import cast

import pytest
from torch import nn

from graphs.caching_allocator import rounded, segment_bytes, simulate
from graphs.capture import capture
from graphs.ladder import climb
from graphs.memory import (
    BACKWARD,
    FORWARD,
    GRADIENTS,
    NEW_PARAMETERS,
    NEW_STATE,
    OUTPUTS,
    PARAMETERS,
    SAVED,
    STATE,
    Holding,
    by_role,
    changes_by_line,
    memory_of,
    resident_bytes,
    resized,
)  # fmt: skip
from graphs.options import CaptureOptions, split_options
from graphs.record import Cost, GraphSnapshot, NodeRecord, Source, Totals
from graphs.saved import why_saved
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from jobs.experiment import parse
from jobs.record import Arena, ArenaResult
from jobs.run import perform
from pages.ui.timeline import MOST_POINTS, drawn_positions, payload_of
from tests import small_models as small
from tests.gpu_graphs import as_if_on_gpu
from tests.small_models import source

KIB, MIB = 1 << 10, 1 << 20
NO_TOTALS = Totals(0, 0, 0, 0, 0, 0, 0)


def node(name: str, reads: str = "", bytes: int = 100, phase: str = "forward", line: int = 1, **more: object) -> NodeRecord:
    """A node that costs 10 operations and moves 20 bytes."""
    fields: dict[str, object] = {
        "name": name, "op": "call_function", "target": "aten.mul.Tensor", "phase": phase, "module": "", "source": Source("model.py", line, "x"),
        "shape": (1,), "dtype": "float32", "strides": (1,), "bytes": bytes, "storage": name, "role": "activation",
        "cost": Cost(10, 0, 12, 8, 1), "origins": (name,), "inputs": tuple(reads.split()),
    }  # fmt: skip
    return NodeRecord(**{**fields, **more})  # type: ignore[arg-type]


def given(name: str, role: str, bytes: int = 40) -> NodeRecord:
    return node(name, bytes=bytes, op="placeholder", role=role, cost=Cost(), source=None)


def graph_of(*nodes: NodeRecord, **results: str) -> GraphSnapshot:
    """A graph that gives out the named nodes, each with what it stands for."""
    output = node("output", " ".join(results), 0, op="output", role="output", source=None, cost=Cost())
    return GraphSnapshot((*nodes, output), tuple(results), NO_TOTALS, tuple(results.values()))


def training(kept: str = "a") -> GraphSnapshot:
    """w, x → a → b → loss; backward reads `a` through a view and gives the gradient of w. `c` lives in the forward pass alone."""
    return graph_of(
        given("w", "parameter"),
        given("x", "input"),
        node("c", "x w", line=1),
        node("a", "c", line=1),
        node("b", "a", line=2),
        node("loss", "b", 4, line=3, phase="loss"),
        node("back", "b", 10, line=2, phase="backward"),
        node("seen", kept, storage=kept, line=1, phase="backward", cost=Cost()),
        node("grad", "back seen", 40, line=1, phase="backward"),
        loss="loss",
        grad="gradient",
    )


def roles(graph: GraphSnapshot, resident: bool = False) -> dict[str, str]:
    return {one.name: one.role for one in memory_of(graph, resident).holdings}


# ---------------------------------------------------------------- roles and owners


def test_every_storage_has_the_role_that_its_readers_give_it() -> None:
    expected = {"c": FORWARD, "a": SAVED, "b": SAVED, "loss": OUTPUTS, "back": BACKWARD, "grad": GRADIENTS}
    assert roles(training()) == expected
    assert roles(training(), resident=True) == {"w": PARAMETERS, "x": "inputs", **expected}


def test_roles_add_up_and_what_is_resident_lifts_the_curve_by_a_constant() -> None:
    graph = training()
    memory, lifted = memory_of(graph), memory_of(graph, resident=True)
    for one in (memory, lifted):
        assert tuple(map(sum, zip(*by_role(one).values(), strict=True))) == one.at
    assert {more - less for more, less in zip(lifted.at, memory.at, strict=True)} == {resident_bytes(graph)} == {80}
    assert (memory.peak, memory.peak_position) == (214, 6)  # a, b and back, and the loss
    assert [one.name for one in memory.alive(6)] == ["a", "b", "back", "loss"]


@pytest.fixture(scope="module")
def updated() -> GraphSnapshot:
    options, own = split_options({"update": "adamw"}, "training")
    return climb(zoo_source("mlp", own), "training", "cpu", options).graph


def test_a_captured_step_of_training_knows_gradients_states_and_new_parameters(updated: GraphSnapshot) -> None:
    memory, sizes = memory_of(updated, resident=True), {}
    for one in memory.holdings:
        sizes[one.role] = sizes.get(one.role, 0) + one.bytes
    assert memory_of(updated).peak == updated.totals.peak_bytes
    assert sizes[GRADIENTS] == sizes[NEW_PARAMETERS] == sizes[PARAMETERS]
    assert sizes[NEW_STATE] == sizes[STATE] == 2 * sizes[PARAMETERS] + 4  # two moments, and the number of steps
    assert updated.results.count("parameter") == 10


def test_changes_by_line_add_up_to_the_change_of_the_peak() -> None:
    before, after = training(), training(kept="b")  # a is not saved any more
    sides = [(graph, memory_of(graph)) for graph in (before, after)]
    rows = changes_by_line(sides[0], sides[1])
    assert sum(row.change for row in rows) == sides[1][1].peak - sides[0][1].peak
    assert {(row.line, row.before, row.after) for row in rows} == {(1, 100, 200), (2, 110, 0), (3, 4, 0)}
    assert sides[1][1].peak_position == 3  # each side at its own peak: c and a, before there is a loss


# ---------------------------------------------------------------- why saved


def test_why_saved_names_readers_through_views_and_the_forward_that_would_run_again() -> None:
    graph = training()
    found = why_saved(graph, memory_of(graph), "seen")  # a view of a
    assert found is not None
    assert (found.name, found.readers, found.until) == ("a", ("grad",), "grad")
    assert found.again == ("c", "a")  # c is gone by then; x and w are there
    assert (found.flops, found.bytes_moved) == (20, 40)
    assert why_saved(graph, memory_of(graph), "c") is None


def test_what_else_is_saved_need_not_run_again() -> None:
    graph = graph_of(
        given("x", "input"), node("a", "x"), node("b", "a"), node("g", "a b", phase="backward"), node("h", "b", phase="backward"), h="gradient"
    )  # fmt: skip
    found = why_saved(graph, memory_of(graph), "b")
    assert found is not None
    assert found.again == ("b",)


def test_a_random_draw_is_kept_and_so_is_one_on_the_way() -> None:
    graph = graph_of(
        given("x", "input"), node("draw", "x", 30, random=True), node("b", "draw"), node("g", "b", phase="backward"), g="gradient"
    )  # fmt: skip
    found = why_saved(graph, memory_of(graph), "b")
    assert found is not None
    assert (found.again, found.draws, found.drawn_bytes, found.is_draw) == (("b",), ("draw",), 30, False)
    kept = graph_of(given("x", "input"), node("draw", "x", random=True), node("g", "draw", phase="backward"), g="gradient")
    itself = why_saved(kept, memory_of(kept), "draw")
    assert itself is not None
    assert itself.is_draw
    assert itself.draws == ()


def test_a_captured_dropout_is_known_to_draw() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.0))
    graph = climb(source(lambda: model, 2, 4), "training", "cpu", CaptureOptions()).graph
    assert [one.target for one in graph.nodes if one.random] == ["aten.native_dropout.default"]


# ---------------------------------------------------------------- CUDA's allocator


@pytest.mark.parametrize(
    ("asked", "block", "segment"),
    [
        (1, 512, 2 * MIB),
        (513, KIB, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 1, 10 * MIB, 10 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (11 * MIB, 11 * MIB, 12 * MIB),
    ],
)
def test_blocks_and_segments(asked: int, block: int, segment: int) -> None:
    assert rounded(asked) == block
    assert segment_bytes(block) == segment


def held(*lives: tuple[str, int, int, int]) -> list[Holding]:
    return [Holding(name, start, end, size, FORWARD) for name, start, end, size in lives]


def test_a_large_segment_is_split_only_for_more_than_a_mebibyte() -> None:
    run = simulate(held(("a", 0, 1, 11 * MIB), ("b", 0, 1, 12 * MIB), ("c", 1, 1, 2 * MIB)), 2)
    assert run.granted == (12 * MIB, 12 * MIB, 2 * MIB)  # 1 MiB is left of a's segment of 12: given away with it
    assert run.allocated == (24 * MIB, 26 * MIB)
    assert run.reserved == (24 * MIB, 44 * MIB)
    assert [(block.bytes, block.name) for block in run.segments[2].blocks] == [(2 * MIB, "c"), (18 * MIB, "")]


def test_the_smallest_free_block_that_fits_is_taken_and_neighbours_join() -> None:
    lives = held(
        ("a", 0, 0, 600 * KIB), ("b", 0, 3, 100 * KIB), ("c", 0, 0, 200 * KIB), ("d", 0, 3, 100 * KIB), ("rest", 0, 3, 1000 * KIB),
        ("e", 1, 3, 150 * KIB), ("f", 2, 2, 700 * KIB), ("g", 3, 3, 40 * KIB),
    )  # fmt: skip
    run = simulate(lives, 4)
    blocks = {block.name: (number, block.offset // KIB) for number, one in enumerate(run.segments) for block in one.blocks}
    assert blocks["e"] == (0, 700)  # in c's hole of 200, not in a's of 600
    assert blocks["f"][0] == 1  # in no hole: a and c are apart
    assert run.reserved_peak == 4 * MIB
    assert run.granted[5] == 150 * KIB
    joined = simulate(held(("a", 0, 0, 600 * KIB), ("b", 0, 0, 100 * KIB), ("c", 0, 1, 1300 * KIB // 2), ("d", 1, 1, 700 * KIB)), 2)
    assert joined.reserved_peak == 2 * MIB  # a and b are one hole of 700
    assert joined.segments[0].bytes == 2 * MIB


def test_sizes_of_an_allocator_make_another_curve() -> None:
    memory = memory_of(training())
    run = simulate(memory.holdings, len(memory.at))
    assert resized(memory, run.granted).at == run.allocated
    assert run.allocated_peak == 4 * 512


# ---------------------------------------------------------------- drawing and the arena


def test_a_long_graph_is_thinned_without_losing_a_peak() -> None:
    at = [position % 7 for position in range(9000)]
    at[4321] = 1000
    drawn = drawn_positions(at)
    assert len(drawn) == MOST_POINTS
    assert 4321 in drawn
    assert drawn == sorted(drawn)


def test_the_largest_get_a_bar_and_the_others_are_summed() -> None:
    graph = training()
    payload = payload_of(graph.nodes, memory_of(graph), shown=3)
    assert [bar["name"] for bar in payload["bars"]] == ["c", "a", "b"]
    assert payload["rest"]["label"].startswith("the other 3,")
    assert max(payload["rest"]["values"]) == 54  # back, the gradient and the loss
    assert payload["phases"] == [(2, 4, "forward"), (5, 5, "loss"), (6, 8, "backward")]


def test_the_worker_plans_an_arena_for_the_graph_after_a_step() -> None:
    words = parse("model=zoo/mlp&mode=training&device=cpu&pipeline=remove-dead-code").words
    found = cast(ArenaResult, perform(Arena(words), {}, lambda progress: None))
    assert len(found.plan.offsets) == len(found.lives)
    assert found.plan.size == min(one.size for one in found.greedy)
    assert len(found.greedy) == 8
    aligned = cast(ArenaResult, perform(Arena(words, alignment=512), {}, lambda progress: None))
    assert all(offset % 512 == 0 for offset in aligned.plan.offsets)


def test_what_an_operator_takes_for_itself_is_held_while_it_runs() -> None:
    graph = graph_of(node("a"), node("b", "a", workspace=700), node("c", "b"), c="output")
    memory = memory_of(graph)
    assert [(one.name, one.start, one.end, one.bytes) for one in memory.holdings if one.name == "b"] == [("b", 1, 1, 700), ("b", 1, 2, 100)]
    assert memory.at == (100, 900, 200, 100)
    assert simulate(memory.holdings, len(graph.nodes)).allocated_peak == rounded(100) * 2 + rounded(700)


def test_backward_of_softmax_takes_one_more_matrix_of_scores_on_a_gpu() -> None:
    program = capture(small.ATTENTION, "training", "cpu").program
    here, there = snapshot(program), snapshot(as_if_on_gpu(program))
    (mine,), (theirs,) = ([one for one in graph.nodes if "softmax_backward" in one.target] for graph in (here, there))
    assert mine.workspace == 0
    assert theirs.workspace == theirs.bytes > 0
    assert memory_of(there).at[there.nodes.index(theirs)] == memory_of(here).at[here.nodes.index(mine)] + theirs.bytes
