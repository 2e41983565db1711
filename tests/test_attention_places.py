"""Where fuse-attention meets whole models, GPUs, proofs of causality, its own operator, and a published ratio."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import graphs.blockwise_attention as blockwise
from benchmarks.small_configs import small_config
from graphs.capture import capture
from graphs.cost import is_view
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource, default_dtype
from graphs.sources.hugging_face import config_source
from optimizers.catalog import named
from optimizers.pipeline import Applied, apply_optimization
from optimizers.verify import Judge
from tests import attention_models as form
from tests.attention_models import FIRST, ROWS, Case, Function
from tests.gpu_graphs import as_if_on_gpu
from tests.test_attention import FORMS

FUSE = named("fuse-attention")
WITH_DROPOUT = {"dropout": "0.1"}
FAMILIES = [
    ("gpt2", "inference", {}, 1), ("gpt2", "training", {}, 1), ("gpt2", "training", WITH_DROPOUT, 1),
    ("llama", "inference", {}, 1), ("llama", "training", {}, 1), ("bert", "inference", {}, 1), ("bert", "training", {}, 1),
    ("bert", "training", WITH_DROPOUT, 1), ("vit", "inference", {}, 1), ("vit", "training", {}, 1),
    ("t5", "inference", {}, 3), ("t5", "training", {}, 6),
]  # fmt: skip


def applied(source: ModelSource, mode: str, *before: str, judged: bool = True) -> Applied:
    """fuse-attention after other steps."""
    program = capture(source, mode, "cpu").program
    judge = Judge(program) if judged else None
    graph = snapshot(program)
    for name in before:
        step = apply_optimization(program, graph, named(name), {}, None)
        program, graph = step.program, step.snapshot
    return apply_optimization(program, graph, FUSE, {}, judge)


def softmaxes(result: Applied) -> list[str]:
    return [node.name for node in result.snapshot.nodes if "_softmax" in node.target and "log_softmax" not in node.target]


@pytest.mark.parametrize(("family", "mode", "options", "found"), FAMILIES)
def test_all_attention_of_a_model_of_transformers_is_found(family: str, mode: str, options: dict[str, str], found: int) -> None:
    given = {"attention": "eager", "seq": "6", "batch": "2", "layers": "2" if found == 6 else "1", **options}
    result = applied(config_source(json.dumps(small_config(family)), family, given, mode), mode)
    assert len(result.step.matches) == found
    assert not softmaxes(result)
    assert result.step.verdict.kind == "rounding", result.step.verdict
    assert result.step.claim_broken == ()


@pytest.mark.parametrize("name", ["plain", "mask of batch", "dropout", "learned mask of heads"])
def test_attention_is_found_after_equal_nodes_were_merged_and_only_once(name: str) -> None:
    result = applied(FORMS[name].source(), "training", "merge-common-subexpressions")
    assert len(result.step.matches) == 1
    assert result.step.verdict.kind == "rounding"
    again = apply_optimization(result.program, result.snapshot, FUSE, {}, None).step
    assert not again.matches
    assert not again.misses


def test_attention_of_attention_is_two_kernels() -> None:
    def twice(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return form.plain(form.plain(query, key, value), key, value)

    for mode in ("inference", "training"):
        result = applied(Case(twice).source(), mode)
        assert len(result.step.matches) == 2
        assert not softmaxes(result)
        assert result.step.verdict.kind == "rounding"


def test_repeated_keys_are_read_unrepeated_in_inference() -> None:
    result = applied(FORMS["keys repeated"].source(), "inference")
    kernel = next(node for node in result.snapshot.nodes if "flash_attention" in node.target)
    by_name = result.snapshot.by_name()
    assert [shape[1] for shape in (by_name[name].shape for name in kernel.inputs) if shape] == [4, 2, 2]


@pytest.mark.parametrize(
    ("function", "causal"),
    [
        (form.filled_by_a_tensor, True),
        (form.filled_with_a_billion, True),
        (form.triangle_of_infinities, True),
        (form.sliding_window, False),
        (form.linear_biases, False),
    ],
)
def test_causal_mask_is_proved_from_constants_or_kept(function: Function, causal: bool) -> None:
    step = applied(Case(function).source(), "training").step
    assert [match.note.endswith("causal") for match in step.matches] == [causal]


def test_causal_mask_that_is_an_input_is_kept() -> None:
    def masked(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        return (query @ key.mT).masked_fill(hidden, float("-inf")).softmax(-1) @ value

    case = Case(masked, others=lambda: (torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1),))
    assert not applied(case.source(), "inference").step.matches[0].note.endswith("causal")


def test_row_of_which_all_is_hidden_by_a_finite_number_stays_uniform() -> None:
    def masked(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        return (query @ key.mT).masked_fill(hidden, -1e9).softmax(-1) @ value

    case = Case(masked, others=lambda: (torch.tensor([True, False, False, True, False])[:, None].expand(ROWS, ROWS).clone(),))
    assert applied(case.source(), "training").step.verdict.kind == "rounding"


@pytest.mark.parametrize("width", [64, 8])
def test_copy_that_costs_more_than_it_saves_is_refused(width: int) -> None:
    """One query and keys that lie column by column: the kernel would need a copy of all of them."""

    def decoded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query @ key).softmax(-1) @ value

    case = Case(decoded, (1, 2, 1, width), (1, 2, width, 256), (1, 2, 256, width))
    step = applied(case.source(), "inference").step
    assert not step.matches
    assert "would move" in step.misses[0].reason


def test_copies_of_the_gradients_count_too() -> None:
    """Two rows of eight: the kernel saves less than what it takes to lay out its gradients as the linear layers' backward reads them."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(8, 8, dtype=torch.float64) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))

    rows = (torch.randn(3, 2, 8, dtype=torch.float64),)
    step = applied(ModelSource("small", Small, lambda: rows, None, ()), "training").step
    assert not step.matches
    assert "would move" in step.misses[0].reason


GPU = {
    "scores divided": (torch.bfloat16, "kernel: flash"),
    "filled by a tensor": (torch.bfloat16, "kernel: flash, causal"),
    "mask of batch": (torch.float32, "kernel: memory-efficient"),
    "mask of keys": (torch.bfloat16, "kernel: memory-efficient"),
    "learned mask of heads": (torch.float32, "kernel: memory-efficient"),
    "values of another width": (torch.float16, "kernel: memory-efficient"),
}


def wide(case: Case) -> Case:
    """Widths per head that the GPU's kernels take."""
    value = (*case.value[:-1], 16) if case.value else ()
    return dataclasses.replace(case, query=(*case.query[:-1], 8), key=(*case.key[:-1], 8) if case.key else (), value=value)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", GPU)
def test_graph_of_a_gpu_gets_its_kernels(name: str, mode: str) -> None:
    dtype, note = GPU[name]
    program = as_if_on_gpu(capture(wide(FORMS[name]).source(dtype), mode, "cpu").program)
    before = snapshot(program)
    result = apply_optimization(program, before, FUSE, {}, None)
    assert result.step.matches[0].note.endswith(note)
    assert result.step.claim_broken == ()
    assert not softmaxes(result)
    by_name = result.snapshot.by_name()
    for old, new in zip(before.outputs, result.snapshot.outputs, strict=True):
        assert (before.by_name()[old].shape, before.by_name()[old].dtype) == (by_name[new].shape, by_name[new].dtype)
    kernels = [node.target for node in result.snapshot.nodes if "attention" in node.target]
    assert len(kernels) == (2 if mode == "training" else 1)


@pytest.mark.parametrize(
    ("name", "dtype", "reason"),
    [
        ("dropout", torch.float32, "other random numbers"),
        ("plain", torch.float64, "do not compute in float64"),
        ("width of one", torch.float32, "multiple of 4"),
    ],
)
def test_graph_of_a_gpu_is_refused_with_the_reason(name: str, dtype: torch.dtype, reason: str) -> None:
    program = as_if_on_gpu(capture(FORMS[name].source(dtype), "inference", "cpu").program)
    step = apply_optimization(program, snapshot(program), FUSE, {}, None).step
    assert not step.matches
    assert reason in step.misses[0].reason


def by_hand(given: list[Tensor], mask: Tensor, keep: Tensor | None, p: float) -> Tensor:
    weights = (given[0] @ given[1].mT * 0.4 + mask).softmax(-1)
    return (weights if keep is None else weights * keep / (1 - p)) @ given[2]


class Launches(TorchDispatchMode):
    """Counts operators that compute."""

    count = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        if not is_view(func) and "empty" not in str(func) and func is not torch.ops.aten.promote_types.default:
            self.count += 1
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


@pytest.mark.parametrize("block", [1 << 20, 2_000, 100])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_blockwise_attention_is_attention_whatever_the_blocks(block: int, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", block)
    sizes = ((6, 3, 8), (7, 3, 8), (7, 3, 5))
    given = [torch.randn(2, *size, dtype=torch.float64, requires_grad=True).transpose(1, 2) for size in sizes]
    mask = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(2, 3, 6, 7) > p if p else None
    expected = by_hand(given, mask, keep, p)
    upper = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (*given, mask), upper)
    with torch.no_grad():
        call = (*given, mask, keep, p, 0.4)
        with Launches() as forward:
            out, sums = blockwise.blockwise_attention._init_fn(*call)
        query, key, value = given
        back = (upper, query, key, value, out, sums, mask, keep, p, 0.4, True)
        with Launches() as backward:
            found = blockwise.blockwise_attention_backward._init_fn(*back)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(found, gradients)
    assert forward.count == blockwise.kernels(*call)
    assert backward.count == blockwise.kernels_backward(*back)


def test_dropout_draws_the_same_numbers_for_what_comes_after() -> None:
    def drawn_after(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return form.dropped(0.3)(query, key, value), torch.rand_like(query)

    program = capture(Case(drawn_after).source(), "training", "cpu").program
    after = apply_optimization(program, snapshot(program), FUSE, {}, None).program
    inputs = program.materialize()
    one, other = (run.run(inputs, 5)[2] for run in (program, after))
    assert one is not None
    assert other is not None
    assert one.shape == FIRST
    assert torch.equal(one, other)


class Paper(nn.Module):
    """One layer of GPT-2 medium as Dao et al. 2022 write standard attention (appendix B.3): the scale in the product, a mask that sets entries
    to −∞, softmax, dropout, product. 1024 tokens, 16 heads of 64, batch 64, float16 (figure 2)."""

    def __init__(self) -> None:
        super().__init__()
        with default_dtype(torch.float16):
            self.three = nn.ParameterList(nn.Parameter(torch.empty(64 * 16, 1024, 64)) for _ in range(3))

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.three
        empty = torch.empty(1, 1024, 1024, dtype=query.dtype)
        scores = torch.baddbmm(empty, query, key.mT, beta=0, alpha=1 / 8)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.bmm(functional.dropout(weights, 0.1, True), value)


def test_counted_gain_is_that_of_the_published_figure() -> None:
    """Dao et al. 2022, figure 2 left: 66.6 → 75.2 GFLOP (× 1.13) and 40.3 → 4.4 GB (÷ 9), forward and backward."""
    source = ModelSource("paper", Paper, lambda: (torch.ones(1024, 1024, dtype=torch.bool).triu(1),), lambda out: out.sum(), ())
    step = applied(source, "training", judged=False).step
    assert len(step.matches) == 1
    assert step.after.flops / step.before.flops == pytest.approx(1.13, abs=0.05)
    assert step.before.bytes_moved / step.after.bytes_moved == pytest.approx(9, abs=1)
    assert step.before.peak_bytes > 4 * step.after.peak_bytes
