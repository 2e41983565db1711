"""Where products of matrices are merged, folded and reordered in real models, and the counts that must come out exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.ladder import climb
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.hugging_face import hf_source
from optimizers.algebra.reorder_matmul_chain import cheapest
from optimizers.base import Example, Function
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge

MIB = 2**20


def captured(model: nn.Module, *inputs: Tensor, mode: str = "inference") -> tuple[Program, GraphSnapshot]:
    program = capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program
    return program, snapshot(program)


def applied(program: Program, graph: GraphSnapshot, *names: str) -> list[Applied]:
    """The steps, each judged, and each held to its claim."""
    judge, steps = Judge(program), []
    for name in names:
        done = apply(program, graph, name, {}, judge)
        assert done.step.verdict.kind in ("bitwise", "rounding"), (name, done.step.verdict)
        assert done.step.claim_broken == ()
        steps.append(done)
        program, graph = done.program, done.snapshot
    return steps


@pytest.mark.parametrize(
    ("name", "attention", "groups"),
    [
        ("bert-base", "eager", [3, 3]),
        ("bert-base", "sdpa", [3, 3]),
        ("llama-3-8b", "sdpa", [3, 2, 3, 2]),
        ("vit-base", "sdpa", [3, 3]),
        ("t5-base", "eager", [3, 3, 3, 3, 4]),
        ("gpt2", "sdpa", []),
    ],
)
def test_projections_of_one_input_are_found(name: str, attention: str, groups: list[int]) -> None:
    """Queries, keys and values, gate and up; in T5 also keys and values of all decoder layers, which read the encoder's result. GPT-2
    was written with its projections merged."""
    given = {"layers": "2", "attention": attention, **({} if name == "vit-base" else {"seq": "8"})}
    program = climb(hf_source(name, given, "inference"), "inference", "cpu").program
    done = apply(program, snapshot(program), "merge-parallel-matmuls", {})
    assert sorted(len(match.nodes) for match in done.step.matches) == sorted(groups)
    assert done.step.before.launches - done.step.after.launches == sum(groups) - len(groups)
    assert done.step.claim_broken == ()


def test_merged_projections_of_llama_read_their_input_once() -> None:
    """Llama-2-7B, batch 1, 4,096 tokens, half precision: queries, keys and values read 96 MiB before and 32 after, gate and up 64 and 32."""
    program = climb(hf_source("llama-2-7b", {"layers": "1", "seq": "4096", "dtype": "float16"}, "inference"), "inference", "cpu").program
    step = apply(program, snapshot(program), "merge-parallel-matmuls", {}).step
    assert step.before.bytes_moved - step.after.bytes_moved == (96 - 32) * MIB + (64 - 32) * MIB
    assert step.before.flops == step.after.flops


class Projections(nn.Module):
    """Three projections of one activation, as in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(16, 16)
        self.parts = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(x))
        query, key, value = (part(hidden) for part in self.parts)
        return query.sin() * key.cos() + value


def test_in_training_forward_pays_for_the_copy_and_backward_follows() -> None:
    """Forward's concatenated weights serve the gradient of the input, whose concatenated gradients serve those of the weights."""
    program, graph = captured(Projections(), torch.randn(256, 16), mode="training")
    steps = applied(program, graph, "merge-parallel-matmuls", "merge-summed-matmuls", "merge-parallel-matmuls")
    assert [len(each.step.matches) for each in steps] == [1, 1, 1]
    products = [node for node in steps[-1].snapshot.nodes if node.cost.matmul_flops]
    assert len([node for node in graph.nodes if node.cost.matmul_flops]) == 11
    assert len(products) == 5  # of `into` forward and its weight's gradient, and one for all three, three times
    x, w = 256 * 16 * 4, 16 * 16 * 4
    saved = [each.step.before.bytes_moved - each.step.after.bytes_moved for each in steps]
    assert saved == [2 * x - 6 * w, 8 * x - 6 * x, 2 * x]


def test_too_few_rows_to_pay_for_the_copy_are_refused_with_the_numbers() -> None:
    program, graph = captured(Projections(), torch.randn(8, 16), mode="training")
    done = applied(program, graph, "merge-parallel-matmuls")[0]
    assert not done.step.matches
    assert "1,024 bytes less" in done.step.misses[0].reason
    assert "6,144" in done.step.misses[0].reason


class Tied(nn.Module):
    """One weight twice, a weight that is also read elsewhere, and a merged result that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        query, key, value = self.one(x), self.two(x), self.one(x)
        return query, (key + value).transpose(0, 1), nn.functional.linear(query, self.two.weight), self.two.weight * 2


@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 3, 8), (0, 3, 8), (2, 1, 8), (5, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_tied_weights_outputs_and_sizes_of_one_and_zero(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    program, graph = captured(Tied().to(dtype), torch.randn(shape, dtype=dtype))
    done = applied(program, graph, "merge-parallel-matmuls")[0]
    assert [len(match.nodes) for match in done.step.matches] == [3]
    before, after = graph.by_name(), done.snapshot.by_name()
    for old, new in zip(graph.outputs, done.snapshot.outputs, strict=True):
        assert (before[old].shape, before[old].dtype) == (after[new].shape, after[new].dtype)


def test_prepared_weights_follow_a_weight_that_is_written_to() -> None:
    program, graph = captured(Projections(), torch.randn(4, 16))
    merged = applied(program, graph, "merge-parallel-matmuls")[0].program
    inputs = program.materialize()
    merged.run(inputs)
    inputs[-2].add_(1.0)  # a weight, in place
    inputs[2] = inputs[2] * 2  # another, by a new tensor
    for one, two in zip(program.run(inputs), merged.run(inputs), strict=True):
        assert torch.allclose(one, two, atol=1e-5)  # type: ignore[arg-type]


def test_merged_weights_are_prepared_from_parameters_through_what_stands_between() -> None:
    """A weight that is transposed or computed from weights on its way is the same tensor in no two runs; its parameter is."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight.t() * 2) + x @ self.weight.t()

    program, graph = captured(Shared(), torch.randn(4, 8))
    done = applied(program, graph, "merge-parallel-matmuls")[0]
    prepared = next(node for node in done.snapshot.nodes if node.role == "prepared")
    assert [done.snapshot.by_name()[name].role for name in prepared.inputs] == ["parameter"]


def test_the_textbook_chain_has_its_textbook_brackets() -> None:
    """Six matrices of the sizes of Cormen et al., section 14.2: 15,125 multiplications as ((A(BC))((DE)F))."""
    plan = cheapest([30, 35, 15, 5, 10, 20, 25], [False] * 6)
    assert str(plan) == "((A(BC))((DE)F))"
    assert plan.flops == 2 * 15_125


def test_linear_attention_grows_in_proportion_once_reordered() -> None:
    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query @ key.transpose(-1, -2)) @ value

    flops = []
    for rows in (64, 128):
        program, graph = captured(Function(attention), *(torch.randn(2, 4, rows, 8) for _ in range(3)))
        step = applied(program, graph, "reorder-matmul-chain")[0].step
        flops.append((step.before.flops, step.after.flops))
    assert flops[1][0] == 4 * flops[0][0]
    assert flops[1][1] == 2 * flops[0][1]


def test_experts_over_slices_of_one_tensor_are_batched_without_a_copy() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([layer(x[at]) for at, layer in enumerate(self.layers)])

    program, graph = captured(Heads(), torch.randn(4, 5, 8))
    step = applied(program, graph, "batch-equal-matmuls")[0].step
    assert [len(match.nodes) for match in step.matches] == [4]
    assert step.before.launches - step.after.launches == 3
    assert step.before.bytes_moved == step.after.bytes_moved


def test_a_product_that_needs_another_is_never_merged_with_it() -> None:
    def steps(x: Tensor, weight: Tensor) -> Tensor:
        state = x[0]
        for at in range(3):
            state = torch.tanh(x[at] @ weight + state @ weight)
        return state

    program, graph = captured(Function(steps), torch.randn(3, 2, 16), torch.randn(16, 16))
    done = applied(program, graph, "merge-parallel-matmuls")[0]
    assert done.step.matches
    assert any("is computed from it" in miss.reason for miss in done.step.misses)


def test_weights_that_a_batch_repeats_are_put_side_by_side_once() -> None:
    """A batched product reads one expanded weight for all of the batch; so must the merged one."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.value = nn.Linear(8, 8, bias=False), nn.Linear(8, 6, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.key(x), self.value(x)

    program, graph = captured(Heads(), torch.randn(2, 8, 2).mT)
    assert "aten.bmm.default" in {node.target for node in graph.nodes}
    (done,) = applied(program, graph, "merge-parallel-matmuls")
    assert len(done.step.matches) == 1
    assert graph.totals.bytes_moved - done.snapshot.totals.bytes_moved == 2 * 2 * 8 * 4  # the input, once less
    (weights,) = [node for node in done.snapshot.nodes if node.role == "prepared"]
    assert (weights.shape, weights.strides) == ((2, 8, 14), (0, 14, 1))


def test_a_copy_of_operands_that_a_batch_repeats_is_counted_whole() -> None:
    def merged(x: Tensor, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        return torch.bmm(x, one.expand(4, -1, -1)), torch.bmm(x, two.expand(4, -1, -1))

    program, graph = captured(Function(merged), torch.randn(4, 20, 8), torch.randn(8, 8), torch.randn(8, 8))
    (done,) = applied(program, graph, "merge-parallel-matmuls")
    assert not done.step.matches
    assert any("side by side" in miss.reason for miss in done.step.misses)


def test_one_weight_three_times_in_a_chain() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight @ self.weight.t() @ self.weight

    program, graph = captured(Chain(), torch.randn(1, 4))
    (done,) = applied(program, graph, "reorder-matmul-chain")
    assert len(done.step.matches) == 1
    assert done.snapshot.totals.launches == 1


def test_zeros_in_the_place_of_a_bias_are_counted() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.biased = nn.Linear(3, 8, bias=False), nn.Linear(3, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.plain(x), self.biased(x)

    for rows, matches in ((1, 0), (3, 1)):  # 12 bytes of the input for each row, against 32 of zeros
        program, graph = captured(Uneven(), torch.randn(rows, 3))
        (done,) = applied(program, graph, "merge-parallel-matmuls")
        assert len(done.step.matches) == matches, done.step.misses


def test_a_part_of_a_merged_product_is_copied_for_a_group_norm_or_not_merged() -> None:
    """A group norm refuses a slice; the copy that it needs is counted."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.norm = nn.GroupNorm(1, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.norm(self.one(x)), self.two(x)

    program = capture(Example(Model, lambda: (torch.randn(8, 2, 5, 4),)).source(), "inference", "cpu").program
    step = apply(program, snapshot(program), "merge-parallel-matmuls", {}, Judge(program)).step
    assert step.verdict.kind in ("bitwise", "rounding")
    assert step.claim_broken == ()


def test_memory_that_as_strided_speaks_of_lies_as_it_was_captured() -> None:
    """A part of a merged product has other strides: as_strided would read its neighbours."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x).as_strided((2, 6), (6, 1)), self.two(x)

    program = capture(Example(Model, lambda: (torch.randn(2, 6),)).source(), "inference", "cpu").program
    step = apply(program, snapshot(program), "merge-parallel-matmuls", {}, Judge(program)).step
    assert step.verdict.kind in ("bitwise", "rounding")
    assert step.claim_broken == ()


class Repeated(nn.Module):
    """Rows that a batch repeats by strides are no view as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.expand(2, 3, 5, 8) * 2)


def test_a_scale_of_what_a_batch_repeats_stays() -> None:
    program = capture(Example(Repeated, lambda: (torch.randn(3, 5, 8),)).source(), "inference", "cpu").program
    step = apply(program, snapshot(program), "fold-scale-into-linear", {}, Judge(program)).step
    assert not step.matches
    assert any("only as a copy" in miss.reason for miss in step.misses)
