"""The planner: which loops become one kernel, the reason for every pair, what the reader decides, and search beyond greedy."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.errors import RequestError
from graphs.kernels import Kernel, text_of
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.catalog import catalog
from optimizers.fusion.fuse_loops import explain
from optimizers.pipeline import Applied, apply
from optimizers.planning.explain import UNKNOWN
from optimizers.planning.plan import greedy
from optimizers.planning.search import price, search
from optimizers.verify import Judge
from tests import small_models as small


def program_of(model: nn.Module, *inputs: Tensor, mode: str = "inference") -> Program:
    return capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program


def fused(program: Program, name: str = "fuse-loops", **settings: str) -> Applied:
    return apply(program, snapshot(program), name, settings, Judge(program))


def groups(program: Program) -> list[list[str]]:
    return [[node.name for node in nodes] for nodes in greedy(program.gm).kernels()]


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape)


@pytest.mark.parametrize(
    ("function", "inputs", "expected"),
    [
        (lambda x: x.sin().exp(), (rows(4, 8),), [["sin", "exp"]]),
        (lambda x: (x * 2).softmax(-1), (rows(4, 8),), [["mul", "_softmax"]]),
        (lambda x: (x - x.mean(-1, keepdim=True)).relu(), (rows(4, 8),), [["mean", "sub", "relu"]]),
        (lambda x: x / x.sum(0), (rows(16, 8),), []),
        (lambda x: x / x.sum(0), (rows(4, 8),), [["sum_1", "div"]]),
        (lambda x: (x.sin().sum(0), x.cos()), (rows(4, 8),), [["sin", "sum_1"]]),
        (lambda x: x.sin().t().contiguous() + 1, (rows(4, 8),), [["sin", "clone", "add"]]),
        (lambda x: x.sin().t() + x.sin().t().exp(), (rows(4, 8),), [["sin", "sin_1", "exp", "add"]]),
        (lambda x, y: (x.sin(), x.cos(), y), (rows(4, 8), rows(2)), [["sin", "cos"]]),
        (lambda x: (x @ x).relu().exp(), (rows(8, 8),), [["relu", "exp"]]),
        (lambda x: x.sin().view(2, 2, 8).exp(), (rows(4, 8),), [["sin", "exp"]]),
        (lambda x: torch.rand_like(x) * 2 + 1, (rows(4, 8),), [["mul", "add"]]),
        (lambda x: torch.cat([x.sin(), x.cos()]), (rows(4, 8),), [["sin", "cos", "cat"]]),
        (lambda x: x.mean(), (rows(4, 8),), []),
    ],
)
def test_loops_over_the_same_elements_come_together(function: object, inputs: tuple[Tensor, ...], expected: list[list[str]]) -> None:
    assert groups(program_of(Function(function), *inputs)) == expected  # type: ignore[arg-type]


def test_a_node_that_must_run_between_keeps_two_loops_apart() -> None:
    program = program_of(Function(lambda x: (x.sin() @ x) + x.sin()), rows(8, 8))
    pair = next(one for one in explain(program.gm) if (one.producer, one.consumer) == ("sin", "mm"))
    assert "library" in pair.reason
    assert "epilogue or prologue" in pair.way_out
    # sin_1 may join the addition, sin may not: the matmul runs between
    assert groups(program) == [["sin_1", "add"]]


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("source", [small.TWO_LAYERS, small.ATTENTION, small.NORMALIZED, small.STACK], ids=lambda source: source.name)
def test_every_pair_has_a_reason(source: small.ModelSource, mode: str) -> None:
    program = capture(source, mode, "cpu").program
    pairs = explain(program.gm)
    known = {node.name for node in program.gm.graph.nodes if node.op == "call_function"}
    real = {
        (read.name, node.name)
        for node in program.gm.graph.nodes
        if node.name in known
        for read in node.all_input_nodes
        if read.name in known
    }
    told = {(pair.producer, pair.consumer) for pair in pairs}
    direct = {(a, b) for a, b in real if _computes(program, a) or _is_view(program, b)}
    assert direct <= told
    assert all(pair.reason for pair in pairs)
    assert not any(pair.reason == UNKNOWN for pair in pairs)


def _is_view(program: Program, name: str) -> bool:
    from optimizers.planning.loops import loop_of

    return loop_of(next(node for node in program.gm.graph.nodes if node.name == name)).kind == "view"


def _computes(program: Program, name: str) -> bool:
    from optimizers.planning.loops import loop_of

    return loop_of(next(node for node in program.gm.graph.nodes if node.name == name)).kind not in ("view", "fill", "data")


def test_fused_training_step_launches_less_moves_less_and_keeps_gradients() -> None:
    program = capture(small.STACK, "training", "cpu").program
    result = fused(program)
    assert result.step.matches
    assert result.step.after.launches < result.step.before.launches
    assert result.step.after.bytes_moved < result.step.before.bytes_moved
    assert result.step.after.flops == result.step.before.flops
    assert result.step.verdict.kind in ("bitwise", "rounding")


def test_equal_layers_share_one_compiled_kernel() -> None:
    program = program_of(Function(lambda x: ((x * 2).relu() @ x * 2).relu() @ x), rows(8, 8))
    kernels = [node.target for node in fused(program).program.gm.graph.nodes if isinstance(node.target, Kernel)]
    assert len(kernels) == 2
    assert len({kernel.key for kernel in kernels}) == 1


def test_a_kernels_text_names_layouts_so_that_other_strides_are_other_kernels() -> None:
    one = program_of(Function(lambda x: x.sin() + 1), rows(4, 8))
    other = program_of(Function(lambda x: x.sin() + 1), rows(8, 4).t())
    assert text_of(one.gm) != text_of(other.gm)


def test_a_kernel_runs_for_operands_with_other_strides_than_it_was_made_for() -> None:
    program = program_of(Function(lambda x: (x.sin() + 1).exp()), rows(4, 8))
    changed = fused(program).program
    transposed = torch.randn(8, 4).t()
    assert torch.allclose(changed.run([transposed])[0], (transposed.sin() + 1).exp())  # type: ignore[arg-type]


def test_a_cast_to_bfloat16_rounds_inside_of_a_kernel_too() -> None:
    program = program_of(Function(lambda x: x.exp().bfloat16().float() * 3), rows(64, 64))
    step = fused(program).step
    assert len(step.matches) == 1
    assert step.verdict.kind in ("bitwise", "rounding")


def test_pairs_that_the_reader_wants_apart_stay_apart_and_the_reason_says_so() -> None:
    program = program_of(Function(lambda x: x.sin().exp().cos()), rows(4, 8))
    assert groups(program) == [["sin", "exp", "cos"]]
    step = fused(program, apart="sin.exp").step
    assert [match.nodes for match in step.matches] == [("exp", "cos")]
    pair = next(one for one in explain(program.gm, apart="sin.exp") if one.producer == "sin")
    assert "apart" in pair.reason
    with pytest.raises(RequestError, match="no node `sine`"):
        fused(program, apart="sine.exp")


def test_nodes_that_the_reader_chose_become_one_kernel() -> None:
    program = program_of(Function(lambda x: x.sin().exp().cos()), rows(4, 8))
    step = fused(program, "fuse-nodes", nodes="exp.cos").step
    assert [match.nodes for match in step.matches] == [("exp", "cos")]
    assert step.verdict.kind in ("bitwise", "rounding")
    with pytest.raises(RequestError, match="Write names as"):
        fused(program, "fuse-nodes", nodes="exp..cos")


def test_what_the_reader_forgot_to_choose_is_named() -> None:
    program = program_of(Function(lambda x: x.sin().exp().t().cos()), rows(4, 8))
    (miss,) = fused(program, "fuse-nodes", nodes="sin.cos").step.misses
    assert "did not choose: exp. Choose" in miss.reason  # of the view nothing need be said
    (miss,) = fused(program, "fuse-nodes").step.misses
    assert "No nodes are named yet" in miss.reason


def test_search_never_does_worse_than_greedy_and_tries_every_choice_of_a_small_graph() -> None:
    program = program_of(Function(lambda x, y: ((x.sin() + y).exp(), (x + y).sum(0), x.sin())), rows(16, 8), rows(16, 8))
    found = search(program.gm, 2000)
    assert found.how.startswith("exact")
    assert found.price <= found.greedy_price == price(greedy(program.gm))
    bounded = search(capture(small.STACK, "training", "cpu").program.gm, 4)
    assert bounded.how.startswith("bounded")
    assert bounded.tried == 4
    assert bounded.price <= bounded.greedy_price


def test_plans_of_random_graphs_have_no_cycles() -> None:
    """Groups of random graphs can always be put in an order: rewriting them keeps fx's lint happy and the answers."""
    for seed in range(12):
        chance = random.Random(seed)

        def model(x: Tensor, chance: random.Random = chance) -> Tensor:
            values = [x, x + 1]
            for _ in range(14):
                a, b = chance.choice(values), chance.choice(values)
                kind = chance.randrange(5)
                values.append((a @ b) * 0.1 if kind == 0 else a.softmax(-1) if kind == 1 else a.t() + b if kind == 2 else a.sin() * b)
            return values[-1] + values[-2]

        program = program_of(Function(model), rows(8, 8))
        changed = program.clone()
        from graphs.regions import Region, collapse
        from optimizers.planning.bodies import separated

        for nodes in greedy(changed.gm).kernels():
            collapse(separated(nodes), lambda body: Region("part", body))
        changed.gm.graph.lint()
        inputs = program.materialize()
        assert torch.equal(changed.run(inputs)[0], program.run(inputs)[0]), seed  # type: ignore[arg-type]


def test_the_catalog_lists_what_the_reader_may_set() -> None:
    kinds = {parameter.name: parameter.kind for parameter in catalog()["fuse-loops"].parameters}
    assert kinds == {"effort": "number", "apart": "pairs"}


def test_one_operator_that_launches_several_kernels_becomes_one_that_launches_one() -> None:
    program = program_of(nn.RMSNorm(16), rows(4, 16))
    step = fused(program).step
    assert (step.before.launches, step.after.launches) == (6, 1)
    assert step.verdict.kind in ("bitwise", "rounding")


def test_a_launch_is_a_loop_that_really_stands_in_the_code() -> None:
    """Rows of a norm, with what is computed once for each row, are one loop over rows; counted is what was generated."""
    program = program_of(nn.LayerNorm(64), rows(32, 64))
    changed = fused(program_of(Function(lambda x, y: nn.functional.layer_norm(x + y, (64,))), rows(32, 64), rows(32, 64))).program
    kernel = next(node.target for node in changed.gm.graph.nodes if isinstance(node.target, Kernel))
    source = kernel.lowered.source
    assert kernel.launches == source.count("for(int64_t x0=") == 1
    assert greedy(program.gm).kernels() == []  # alone it is one kernel of ATen's already


def test_a_fill_that_a_kernel_takes_is_copied_for_what_shows_it_elsewhere() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(8).view(1, 8)
        return (x + places).exp() * (places @ places.t()), places.sum(-1)

    step = fused(program_of(Function(model), rows(4, 8))).step
    assert step.matches
    assert step.verdict.kind in ("bitwise", "rounding")


def test_a_tensor_made_in_the_shape_of_another_waits_for_it() -> None:
    step = fused(program_of(Function(lambda x: torch.full_like(x.sin() @ x, 2.0) * x.sin() + 1), rows(8, 8))).step
    assert step.verdict.kind in ("bitwise", "rounding")
