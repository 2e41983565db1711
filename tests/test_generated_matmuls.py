"""Matmuls that are generated with what follows them: launches and bytes, answers against float64, what is refused, and the code itself."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from graphs import inductor, matmul_template
from graphs.capture import capture
from graphs.inductor import compiled, lower
from graphs.kernel_source import sourced
from graphs.kernels import Kernel
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from optimizers.base import Example, Function
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAME = "generate-matmul-kernel"
Inputs = tuple[Tensor, ...]


def randoms(dtype: torch.dtype, *shapes: tuple[int, ...]) -> Inputs:
    torch.manual_seed(0)
    return tuple(torch.randn(shape).to(dtype) for shape in shapes)


def generated(function: Callable[..., object], inputs: Inputs) -> tuple[inductor.Lowered, list[Tensor]]:
    """The function as one body: its code and its results."""
    mode = FakeTensorMode()
    with mode:
        body = make_fx(function)(*(mode.from_tensor(one) for one in inputs))
    return lower(body), list(compiled(body, inputs)(list(inputs)))


def assert_as_exact(function: Callable[..., object], inputs: Inputs, found: list[Tensor]) -> None:
    """No further from float64 than a few times what the operators one by one are."""
    exact, apart = function(*(one.double() for one in inputs)), function(*inputs)
    exact, apart = (tuple(one) if isinstance(one, tuple) else (one,) for one in (exact, apart))
    for value, right, usual in zip(found, exact, apart, strict=True):
        assert value.shape == right.shape
        allowed = 4 * float((usual.double() - right).abs().max()) + 8 * torch.finfo(value.dtype).eps * float(right.abs().max())
        assert float((value.double() - right).abs().max()) <= allowed


def stepped(function: Callable[..., object] | nn.Module, inputs: Inputs, mode: str = "inference") -> Applied:
    """The optimization applied to a captured function, and judged."""
    model = function if isinstance(function, nn.Module) else Function(function)
    program = capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program
    found = apply(program, snapshot(program), NAME, {}, Judge(program))
    assert found.step.verdict.kind in ("bitwise", "rounding"), found.step.verdict
    assert found.step.claim_broken == ()
    return found


def relu_of_sum(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.relu(a @ b + c)


def long_chain(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, other: Tensor) -> Tensor:
    kept = functional.gelu(functional.linear(x, weight, bias)) * mask * 1.25
    return torch.sigmoid(kept + other) * other


def with_what_is_kept(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    before = functional.linear(x, weight, bias)
    return before, functional.gelu(before)


def scores(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    return query @ key.transpose(-1, -2) * 0.125 + mask


def scaled_sum(add: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.relu(torch.baddbmm(add, left, right, beta=0.5, alpha=2))


CASES = {
    "a sum and relu": (relu_of_sum, ((50, 96), (96, 200), (50, 200))),
    "five in a chain, weight transposed": (long_chain, ((2, 25, 96), (200, 96), (200,), (2, 25, 200), (2, 25, 200))),
    "what is read in between": (with_what_is_kept, ((50, 96), (72, 96), (72,))),
    "a batch, key transposed": (scores, ((6, 33, 48), (6, 17, 48), (6, 33, 17))),
    "four dimensions, one mask for all": (scores, ((2, 3, 33, 48), (2, 3, 17, 48), (33, 17))),
    "baddbmm with factors": (scaled_sum, ((4, 9, 20), (4, 9, 30), (4, 30, 20))),
    "one row": (relu_of_sum, ((1, 96), (96, 200), (1, 200))),
    "one column": (relu_of_sum, ((50, 96), (96, 1), (50, 1))),
    "one number in each row": (relu_of_sum, ((50, 1), (1, 70), (50, 70))),
    "rows longer than a cache": (relu_of_sum, ((20, 6000), (6000, 150), (20, 150))),
}


IN_HALF = {
    torch.bfloat16: ("five in a chain, weight transposed", "a batch, key transposed"),
    torch.float16: ("a sum and relu", "rows longer than a cache"),
}


@pytest.mark.parametrize(("case", "dtype"), [(case, dtype) for dtype in DTYPES for case in IN_HALF.get(dtype, CASES)])
def test_one_kernel_with_the_right_answers(case: str, dtype: torch.dtype) -> None:
    function, shapes = CASES[case]
    inputs = randoms(dtype, *shapes)
    lowered, results = generated(function, inputs)
    assert lowered.launches == 1
    assert lowered.source.count('extern "C"') == 1
    assert "extern_kernels" not in inductor_caller(lowered)
    assert_as_exact(function, inputs, results)


def inductor_caller(lowered: inductor.Lowered) -> str:
    return lowered.module[lowered.module.index("def call(") :]


def laid_out(generator: random.Random, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor of a shape: contiguous, a part of a larger one, or with its last two dimensions exchanged."""
    way = generator.randrange(3)
    if way == 0:
        return torch.randn(shape).to(dtype)
    if way == 1:
        return torch.randn([size + 3 for size in shape]).to(dtype)[tuple(slice(2, 2 + size) for size in shape)]
    return torch.randn([*shape[:-2], shape[-1], shape[-2]]).to(dtype).transpose(-1, -2)


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_and_layouts(seed: int) -> None:
    generator = random.Random(seed)
    torch.manual_seed(seed)
    dtype = generator.choice(DTYPES)
    rows, inner, columns = (generator.choice([1, 2, 7, 16, 33, 100, 260]) for _ in range(3))
    batch = generator.choice([(), (1,), (5,)])
    left = torch.randn(*batch, rows, inner + 1).to(dtype)[..., 1:]
    right, other = laid_out(generator, dtype, *batch, inner, columns), torch.randn(*batch, rows, columns).to(dtype)

    def function(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        product = torch.bmm(x, y) if batch else x @ y
        return product, torch.tanh(product * 0.5 - z)

    _, results = generated(function, (left, right, other))
    assert_as_exact(function, (left, right, other), results)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("five in a chain, weight transposed", torch.float32),
        ("a batch, key transposed", torch.bfloat16),
        ("five in a chain, weight transposed", torch.float16),
    ],
    ids=str,
)
def test_a_processor_with_avx2_alone(case: str, dtype: torch.dtype) -> None:
    function, shapes = CASES[case]
    inputs = randoms(dtype, *shapes)
    with config.patch({"cpp.simdlen": 256}):
        lowered, results = generated(function, inputs)
    assert lowered.launches == 1
    assert_as_exact(function, inputs, results)


@pytest.mark.parametrize("case", ["a batch, key transposed", "rows longer than a cache"])
def test_two_threads_give_the_same_answers(case: str) -> None:
    function, shapes = CASES[case]
    inputs = randoms(torch.float32, *shapes)
    with config.patch({"cpp.threads": 2}):
        lowered, results = generated(function, inputs)
    assert "num_threads(2)" in lowered.source
    assert_as_exact(function, inputs, results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_tiles_in_a_block_have_each_their_own_columns(dtype: torch.dtype) -> None:
    """As blocks are where rows do not fit the second cache; the last block of the inner dimension is smaller."""
    inputs = randoms(dtype, (100, 130), (130, 300), (100, 300))
    with config.patch({"cpp.gemm_cache_blocking": "2,3,2"}):
        lowered, results = generated(relu_of_sum, inputs)
    assert "Nc_blocks = 3;" in lowered.source
    assert_as_exact(relu_of_sum, inputs, results)


def test_ways_to_generate_a_body_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To count its kernels, to compile it and to show its lines."""
    tried: list[object] = []
    really = inductor._generated
    monkeypatch.setattr(inductor, "_generated", lambda body, way: (tried.append(way), really(body, way))[1])
    inputs = randoms(torch.float32, (50, 96), (96, 200), (50, 200))
    _, results = generated(relu_of_sum, inputs)
    assert len(tried) == 1
    assert_as_exact(relu_of_sum, inputs, results)


def test_without_a_micro_kernel_for_the_processor_the_library_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_template, "create_micro_gemm", lambda *args, **kwargs: None)
    lowered, results = generated(relu_of_sum, randoms(torch.float32, (5, 6), (6, 7), (5, 7)))
    assert lowered.launches == 2
    assert "extern_kernels.mm(" in inductor_caller(lowered)
    assert len(results) == 1


def test_every_node_of_a_generated_matmul_has_its_lines() -> None:
    mode = FakeTensorMode()
    with mode:
        body = make_fx(long_chain)(
            *(mode.from_tensor(one) for one in randoms(torch.float32, *CASES["five in a chain, weight transposed"][1]))
        )
    found = sourced(body)
    assert found.exact
    assert [nest.library for nest in found.nests] == [""]
    lines = found.lowered.source.split("\n")
    of = {link.node: [lines[at - 1] for at in link.lines] for link in found.links if not link.whole_loop}
    assert any("micro_gemm<" in line for line in of["addmm"])
    assert any("erf()" in line for line in of["gelu"])


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float16, 2)], ids=str)
def test_operands_cross_memory_once_and_operations_stay(dtype: torch.dtype, size: int) -> None:
    found = stepped(relu_of_sum, randoms(dtype, (64, 32), (32, 48), (64, 48)))
    before, after = found.step.before, found.step.after
    assert (before.launches, after.launches) == (3, 1)
    assert after.bytes_moved == size * (64 * 32 + 32 * 48 + 64 * 48 + 64 * 48)
    assert (after.flops, after.matmul_flops) == (before.flops, before.matmul_flops) == (2 * 64 * 32 * 48 + 2 * 64 * 48, 2 * 64 * 32 * 48)


def test_linear_gelu_in_training_keeps_what_backward_needs_in_the_same_kernel() -> None:
    """A library's epilogue cannot: the value before GELU would exist no longer."""
    found = stepped(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 8), nn.ReLU()), randoms(torch.float32, (12, 16)), "training")
    notes = [(match.anchor, match.note) for match in found.step.matches]
    assert notes == [("addmm", "with gelu"), ("addmm_1", "with relu"), ("mm", "with gelu_backward")]
    kernels = {node.name: node.target for node in found.program.gm.graph.nodes if isinstance(node.target, Kernel)}
    assert len(kernels) == 3
    assert all(kernel.launches == 1 for kernel in kernels.values())


def test_of_two_products_that_are_added_the_later_takes_the_sum() -> None:
    found = stepped(lambda x, y: torch.relu(x @ y + y @ x), randoms(torch.float32, (9, 9), (9, 9)))
    assert [match.nodes for match in found.step.matches] == [("mm_1", "add", "relu")]
    assert [miss.reason for miss in found.step.misses if miss.node == "mm"] == ["add also reads mm_1, which is made after mm."]


REFUSALS = [
    (lambda x, y: torch.relu(x @ y), randoms(torch.float64, (4, 4), (4, 4)), "not float64"),
    (lambda x, y: torch.relu(x @ y), randoms(torch.float32, (0, 4), (4, 4)), "empty"),
    (lambda x, y: torch.relu(x @ y), (torch.ones(4, 4, dtype=torch.int64),) * 2, "not int64"),
    (lambda x, y: (x @ y, (x @ y).sum()), randoms(torch.float32, (4, 4), (4, 4)), "element by element"),
    (lambda x, y: (x @ y).reshape(2, 8).t() + 1, randoms(torch.float32, (4, 4), (4, 4)), "in another order"),
    (lambda x, y: x @ y + torch.ones(3, 4, 4), randoms(torch.float32, (4, 4), (4, 4)), "another number of elements"),
    (lambda x, y: x @ y, randoms(torch.float32, (4, 4), (4, 4)), "Nothing computes with"),
    (lambda x, y: torch.exp(x) @ y, randoms(torch.float32, (4, 4), (4, 4)), "behind a product only"),
]


@pytest.mark.parametrize(("function", "inputs", "reason"), REFUSALS, ids=[reason for *_, reason in REFUSALS])
def test_what_is_left_alone_and_why(function: Callable[..., object], inputs: Inputs, reason: str) -> None:
    step = stepped(function, inputs).step
    assert step.matches == ()
    assert any(reason in miss.reason for miss in step.misses), step.misses


def test_bert_in_training_runs_on_generated_matmuls() -> None:
    program = capture(
        zoo_source("bert", {"batch": "1", "seq": "16", "layers": "1", "width": "64", "heads": "2"}), "training", "cpu"
    ).program
    graph = snapshot(program)
    found = apply(program, graph, NAME, {})  # that such kernels compute the same is seen above, on smaller ones
    assert found.step.claim_broken == ()
    notes = {match.note for match in found.step.matches}
    assert "with mul, add_3" in notes
    assert any("gelu" in note for note in notes)
    assert found.snapshot.totals.launches <= graph.totals.launches - 10
