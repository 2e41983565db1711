"""Branches and loops that depend on values: what they hold is part of the picture, is counted as often as it runs, and survives steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_slices
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import flex_attention

from graphs.capture import Capture, capture
from graphs.export import to_dot, to_json, to_model_explorer
from graphs.ladder import Standing, climb
from graphs.operators import explanation
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.randomness import is_random
from graphs.record import GraphSnapshot, NodeRecord
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.catalog import catalog
from optimizers.pipeline import apply, offers
from optimizers.verify import Judge
from pages.ui import charts, nodes, profile_rows
from pages.ui.graph_view.drawing import picture
from profiler.measure import measure
from profiler.peak import peak_bytes
from profiler.per_node import profile_nodes


class Gate(nn.Module):
    """One of two layers, as the sum of the input says; the second branch costs more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        def low(x: Tensor) -> Tensor:
            return torch.sin(self.first(x))

        def high(x: Tensor) -> Tensor:
            return torch.relu(self.second(x)) * 2

        return torch.cond(x.sum() > 0, low, high, (x,))


class Branches(nn.Module):
    """A gate in a module of its own, and a layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = Gate(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gate(x))


class Nested(nn.Module):
    """A branch within a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 5, torch.sin, self.layer, (x,)) * 2

        return torch.cond(x.sum() > 0, inner, torch.relu, (x,)) + 1


class Steps(nn.Module):
    """A recurrent cell by `scan`, with a branch in its step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(self.cell(state) + x)
            new = torch.cond(new.sum() > 0, lambda h: h * 2, lambda h: h.sin(), (new,))
            return new, new.clone()

        return scan(step, torch.zeros(4, 8), x, dim=0)[1]


class Cell(Steps):
    """A recurrent cell by `scan`, without branches."""

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(self.cell(state) + x)
            return new, new.clone()

        return scan(step, torch.zeros(4, 8), x, dim=0)[1]


class Each(Steps):
    """The same layer for every slice by `map`."""

    def forward(self, x: Tensor) -> Tensor:
        return map_slices(lambda row: torch.tanh(self.cell(row)), x)


class Rounds(Steps):
    """The same layer five times by `while_loop`."""

    def forward(self, x: Tensor) -> Tensor:
        def unfinished(count: Tensor, x: Tensor) -> Tensor:
            return count < 5

        def body(count: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, torch.tanh(self.cell(x))

        return while_loop(unfinished, body, (torch.zeros((), dtype=torch.int64), x))[1]


class Draws(nn.Module):
    """Two branches that draw random numbers, alike in everything else."""

    def forward(self, x: Tensor) -> Tensor:
        def noisy(x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

        positive = x.sum() > -1e6
        return torch.cond(positive, noisy, torch.sin, (x,)) + torch.cond(positive, noisy, torch.sin, (x,))


class Mixed(nn.Module):
    """A branch by torch.cond beside one in Python, which no export can take."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(x)
        return y * 2 if y.sum() > -1e6 else y


def uneven(outputs: Tensor) -> Tensor:
    """A loss whose gradient differs from element to element."""
    return (outputs * torch.linspace(-1, 2, outputs.numel()).reshape(outputs.shape)).sin().sum()


def source(model: Callable[[], nn.Module], *shape: int) -> ModelSource:
    return ModelSource("flow", model, lambda: (torch.randn(*shape),), uneven, (__file__,))


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    Branches: (4, 8), Nested: (4, 8), Steps: (6, 4, 8), Cell: (6, 4, 8), Each: (6, 4, 8), Rounds: (4, 8),
}  # fmt: skip
MODELS = list(SHAPES)


def of(model: type[nn.Module]) -> ModelSource:
    return source(model, *SHAPES[model])


@functools.cache
def captured(model: type[nn.Module], mode: str = "inference") -> Capture:
    return capture(of(model), mode, "cpu")


def record(model: type[nn.Module], mode: str = "inference") -> GraphSnapshot:
    return snapshot(captured(model, mode).program)


def given(program: Program, sign: float) -> tuple[list[Tensor], dict[tuple[str, str], Tensor]]:
    """Inputs whose sum has this sign, and the same by role and target."""
    values = program.materialize(seed=2)
    for at, spec in enumerate(program.inputs):
        if spec.role == "input":
            values[at] = values[at] + sign * (1 + values[at].mean().abs())
    return values, {(spec.role, spec.target): value for spec, value in zip(program.inputs, values, strict=True)}


def eager(model: type[nn.Module], by_role: dict[tuple[str, str], Tensor]) -> nn.Module:
    built = model()
    built.load_state_dict({name: value for (role, name), value in by_role.items() if role == "parameter"})
    return built


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["sum above 0", "sum below 0"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_inference_equals_the_eager_model_bit_for_bit(model: type[nn.Module], sign: float) -> None:
    program = captured(model, "inference").program
    values, by_role = given(program, sign)
    with torch.no_grad():
        expected = eager(model, by_role)(by_role["input", "0"])
    for one in (program, program.clone()):
        (answer,) = one.run(values)
        assert answer is not None
        assert torch.equal(answer, expected)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["sum above 0", "sum below 0"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_gradients_are_those_of_autograd(model: type[nn.Module], sign: float) -> None:
    program = captured(model, "training").program
    values, by_role = given(program, sign)
    built = eager(model, by_role)
    loss = uneven(built(by_role["input", "0"]))
    (loss * by_role["seed", "loss"]).backward()
    outputs = dict(zip(((spec.role, spec.target) for spec in program.outputs), program.clone().run(values), strict=True))
    torch.testing.assert_close(outputs["loss", "loss"], loss.detach())
    for name, parameter in built.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(outputs["gradient", name], wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- records


def test_a_branch_stands_in_a_group_of_its_own_and_reads_what_it_is_given() -> None:
    graph = record(Branches)
    nodes = graph.by_name()
    assert {node.module for node in graph.nodes if "/" in node.name} == {"gate.cond.if_true", "gate.cond.if_false"}
    layer, sine = nodes["cond/if_true/addmm"], nodes["cond/if_true/sin"]
    assert {nodes[name].target for name in layer.inputs} == {"gate.first.bias", "0", "aten.t.default"}
    assert sine.source is not None
    assert sine.source.text == "return torch.sin(self.first(x))"
    assert (sine.phase, sine.shape, sine.origins) == ("forward", (4, 8), ("cond/if_true/sin",))
    assert nodes["cond"].inputs == ("gt", "cond/if_true/sin", "cond/if_false/mul")
    assert nodes["cond"].module == "gate"


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_record_is_whole(model: type[nn.Module], mode: str) -> None:
    graph = record(model, mode)
    seen: set[str] = set()
    for node in graph.nodes:
        assert node.name not in seen
        assert set(node.inputs) <= seen, f"{node.name} reads what comes later"
        assert node.storage in seen | {node.name}
        assert explanation(node), node.target
        assert node.source or node.op != "call_function", node.name
        seen.add(node.name)
    assert graph.totals.unknown == 0
    assert not [node for node in graph.nodes if "graph" in node.target], "a body is no node"
    read = {name for node in graph.nodes for name in node.inputs}
    assert not [node.name for node in graph.nodes if node.target.startswith("higher_order") and node.name not in read]


def test_bodies_within_bodies() -> None:
    nested = record(Nested).by_name()
    assert nested["cond/if_true/cond/if_true/sin"].module == "cond.if_true.cond.if_true"
    assert "cond/if_true/cond/if_false/addmm" in nested["cond/if_true/cond"].inputs
    steps = record(Steps).by_name()
    assert steps["scan/step/cond/if_true/mul"].module == "scan.step.cond.if_true"


def test_backward_has_branches_of_its_own_in_the_same_groups() -> None:
    graph = record(Branches, "training")
    backward = [node for node in graph.nodes if "/" in node.name and node.phase == "backward"]
    assert {node.module for node in backward} == {"gate.cond.if_true", "gate.cond.if_false"}
    assert "aten.cos.default" in {node.target for node in backward}


def test_a_loop_s_state_begins_with_its_operand_and_a_slice_is_part_of_it() -> None:
    graph = record(Cell)
    nodes = graph.by_name()
    state, piece = nodes["scan/step/state_0"], nodes["scan/step/slice_0"]
    assert (state.target, piece.target) == ("state 0", "slice 0")
    assert piece.shape == (4, 8)
    assert [nodes[name].shape for name in piece.inputs] == [(6, 4, 8)]
    rounds = record(Rounds)
    assert {node.module for node in rounds.nodes if "/" in node.name} == {"while_loop.condition", "while_loop.body"}


# ---------------------------------------------------------------- counts


def total(graph: GraphSnapshot, chosen: Callable[[NodeRecord], bool]) -> int:
    return sum(node.total.flops for node in graph.nodes if chosen(node))


def test_of_the_branches_the_costlier_is_counted() -> None:
    found = captured(Branches, "inference")
    graph = snapshot(found.program)
    assert {node.times for node in graph.nodes if "if_true" in node.module} == {0}
    assert {node.times for node in graph.nodes if "if_false" in node.module} == {1}
    # sum, comparison, the second layer with its relu and product, and the last layer.
    assert graph.totals.flops == 32 + 1 + (2 * 4 * 8 * 8 + 2 * 32) + 2 * 4 * 8 * 4
    assert graph.totals.launches == 6
    assert found.report.notes == ("1 torch.cond: one branch of each runs; what is counted is the costlier",)


def test_forward_and_backward_count_the_same_branch() -> None:
    graph = record(Branches, "training")
    assert {node.times for node in graph.nodes if node.module == "gate.cond.if_true"} == {0}


def test_a_scan_runs_once_for_each_slice() -> None:
    graph = record(Cell)
    inside = [node for node in graph.nodes if "/" in node.name]
    assert {node.times for node in inside} == {6}
    assert total(graph, lambda node: "/" in node.name) == 6 * (2 * 4 * 8 * 8 + 2 * 32)
    scanned = graph.by_name()["scan"].cost
    assert (scanned.launches, scanned.bytes_written) == (6, 6 * 32 * 4)


def test_the_counts_of_a_scan_are_those_of_its_unrolled_loop() -> None:
    class Unrolled(Cell):
        def forward(self, x: Tensor) -> Tensor:
            state, rows = torch.zeros(4, 8), []
            for row in x:
                state = torch.tanh(self.cell(state) + row)
                rows.append(state.clone())
            return torch.stack(rows)

    loop, scanned = snapshot(capture(source(Unrolled, 6, 4, 8), "inference", "cpu").program), record(Cell)
    assert scanned.totals.flops == loop.totals.flops
    assert scanned.totals.matmul_flops == loop.totals.matmul_flops


def test_of_a_while_loop_one_round_is_counted() -> None:
    found = captured(Rounds, "inference")
    assert found.report.notes == ("1 torch.while_loop: the number of rounds is unknown; one round is counted",)
    graph = snapshot(found.program)
    assert {node.times for node in graph.nodes} == {1}
    assert total(graph, lambda node: node.target == "aten.addmm.default") == 2 * 4 * 8 * 8
    trained = record(Rounds, "training")
    assert ("rounds", 4, 8) in {node.shape for node in trained.nodes}


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(("model", "sign"), [(Branches, -1.0), (Nested, 1.0)], ids=["Branches", "Nested"])
def test_counted_peak_is_the_measured_one_of_the_branch_that_is_counted(model: type[nn.Module], sign: float, mode: str) -> None:
    program = captured(model, mode).program
    assert snapshot(program).totals.peak_bytes == peak_bytes(program, given(program, sign)[0])


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_counted_peak_of_a_scan_holds_all_its_results_and_one_step(mode: str) -> None:
    program = captured(Cell, mode).program
    measured = peak_bytes(program, program.materialize())
    assert measured <= snapshot(program).totals.peak_bytes <= measured + 2 * 4 * 8 * 4


# ---------------------------------------------------------------- steps, measuring, drawing


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_steps_measuring_export_and_drawing_work(model: type[nn.Module], mode: str) -> None:
    program = captured(model, mode).program
    graphs, diffs, judge = [snapshot(program)], [], Judge(program)
    offers(program)
    for name in [name for name, one in catalog().items() if mode in one.applies_to and not one.costly]:
        done = apply(program, graphs[-1], name, {}, judge)
        kinds = ("bitwise",) if catalog()[name].exactness == "bitwise" else ("bitwise", "rounding")
        assert done.step.verdict.kind in kinds, f"{name}: {done.step.verdict}"
        assert not done.step.claim_broken, name
        program = done.program
        graphs.append(done.snapshot)
        diffs.append(done.step.diff)
    drawn = picture(graphs, [str(at) for at in range(len(graphs))], diffs)
    assert len(drawn["nodes"]["name"]) >= len(graphs[0].nodes) - 1
    profile = profile_nodes(program, "it", budget_s=0.01)
    assert len(profile_rows.rows_of(graphs[-1], profile)) == len(profile.nodes) > 0
    assert profile.mapped == profile.events
    assert profile.peak_bytes == peak_bytes(program, program.materialize())
    assert measure([program], ["it"], budget_s=0.01).timings[0].peak_bytes > 0
    assert charts.memory(graphs[-1]).data
    assert all(node.name in to_dot(graphs[-1]) for node in graphs[-1].nodes)
    assert to_json(graphs, [str(at) for at in range(len(graphs))])
    assert len(to_model_explorer(graphs[-1], "it")["graphs"][0]["nodes"]) == len(graphs[-1].nodes)
    assert len(nodes.frame(graphs[-1].nodes, graphs[-1].nodes)) == len(graphs[-1].nodes)


def test_branches_that_draw_are_neither_merged_nor_dropped() -> None:
    program = capture(source(Draws, 4, 8), "inference", "cpu").program
    graph = snapshot(program)
    for name in ("merge-common-subexpressions", "remove-dead-code", "fold-constants"):
        done = apply(program, graph, name, {}, Judge(program))
        assert done.step.verdict.kind == "bitwise"
        assert sum(node.target == "higher_order.cond" for node in done.snapshot.nodes) == 2


def test_an_unread_branch_that_draws_is_kept_for_the_sake_of_later_draws() -> None:
    program = capture(source(Draws, 4, 8), "inference", "cpu").program
    last = [node for node in program.gm.graph.nodes if node.target is torch.ops.higher_order.cond][-1]
    add, first = next(iter(program.gm.graph.output_node().all_input_nodes)), last.prev
    while first.target is not torch.ops.aten.gt.Scalar and first.name != "getitem":
        first = first.prev
    add.replace_input_with(next(iter(last.users)), first)  # nobody reads the second cond any more
    assert is_random(last)
    done = apply(program, snapshot(program), "remove-dead-code", {}, Judge(program))
    assert last.name in done.snapshot.by_name()
    assert any("random" in miss.reason for miss in done.step.misses)
    assert not any(is_random(node) for node in captured(Branches).program.gm.graph.nodes)


def test_how_often_a_node_runs_is_told_in_the_details() -> None:
    graph = record(Branches)
    quiet, loud = graph.by_name()["cond/if_true/sin"], record(Cell).by_name()["scan/step/tanh"]
    assert "the other is costlier" in nodes.facts(quiet, "")
    assert "6 times in one run" in nodes.facts(loud, "")


# ---------------------------------------------------------------- other ways to capture


@pytest.mark.parametrize(
    "options", [CaptureOptions(update="adamw"), CaptureOptions(autocast="bfloat16"), CaptureOptions(dynamic="batch")], ids=str
)
@pytest.mark.parametrize("model", [Branches, Cell], ids=lambda model: model.__name__)
def test_options_of_the_capture(model: type[nn.Module], options: CaptureOptions) -> None:
    plain = ModelSource("flow", model, lambda: (torch.randn(*SHAPES[model]),), None, (__file__,))
    standing = climb(plain, "training", "cpu", options)
    assert standing.report.rung == 1, standing.report.refused
    assert standing.report.nodes == len(standing.graph.nodes)
    inside = [node for node in standing.graph.nodes if "/" in node.name]
    assert inside
    if options.dynamic == "batch":
        assert any("b" in (node.shape or ()) for node in standing.graph.nodes)


def climbed(model: Callable[[], nn.Module], mode: str) -> Standing:
    return climb(source(model, 4, 8), mode, "cpu")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_guarded_run_keeps_the_branches_of_cond(mode: str) -> None:
    standing = climbed(Mixed, mode)
    assert standing.report.rung == 3
    assert {"gate.cond.if_true", "gate.cond.if_false"} <= {node.module for node in standing.graph.nodes}


def test_a_loop_beside_a_decision_in_python_stands_lower_but_stands() -> None:
    class Decides(Rounds):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 2 if x.sum() > -1e6 else x)

    for mode in ("inference", "training"):
        standing = climbed(Decides, mode)
        assert standing.report.rung in (5, 6)
        assert standing.graph.nodes
        assert standing.report.refused


def test_a_capture_that_failed_changes_nothing_for_the_next_one() -> None:
    class Literal(nn.Module):
        """torch cannot trace a tensor written down inside of a branch."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: x + torch.tensor([1.0] * 8), torch.sin, (x,))

    assert climbed(Literal, "inference").report.rung == 5
    assert climbed(Gate, "inference").report.rung == 1


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_alike_layers_with_branches_are_traced_one_by_one(mode: str) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Gate() for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return x

    found = capture(source(Deep, 4, 8), mode, "cpu")
    assert any("graph of its own" in note for note in found.report.notes)
    groups = {node.module for node in snapshot(found.program).nodes if "/" in node.name}
    assert groups == {f"layers.{number}.cond.{side}" for number in range(6) for side in ("if_true", "if_false")}


def test_functions_inside_attention_are_counted_for_every_score() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(2))

        def forward(self, x: Tensor) -> Any:
            def moved(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
                return score * 2 + (row - column) * self.bias[head]

            return flex_attention(x, x, x, score_mod=moved)

    graph = snapshot(capture(source(Biased, 1, 2, 16, 8), "inference", "cpu").program)
    product = graph.by_name()["flex_attention/score_mod/mul"]
    assert product.module == "flex_attention.score_mod"
    assert product.cost.flops == 1 * 2 * 16 * 16
    assert climbed(Biased, "training").graph.nodes  # torch has no backward of it on CPUs
