"""fuse-attention finds attention however it is written, forward and backward, keeps its answers, and says why where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphs.capture import capture
from graphs.snapshot import snapshot
from optimizers.catalog import named
from optimizers.pipeline import apply_optimization
from optimizers.record import StepRecord
from optimizers.verify import Judge
from tests import attention_models as form
from tests.attention_models import BATCH, FIRST, HEADS, LAST, ROWS, WIDTH, Case

FUSE = named("fuse-attention")


def fused(case: Case, mode: str, dtype: torch.dtype = torch.float32) -> StepRecord:
    program = capture(case.source(dtype), mode, "cpu").program
    return apply_optimization(program, snapshot(program), FUSE, {}, Judge(program)).step


def mask(*shape: int) -> tuple[Tensor, ...]:
    return (torch.randn(*shape),)


def padding() -> tuple[Tensor, ...]:
    return (torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),)


FLAT = (BATCH * HEADS, ROWS, WIDTH)
FORMS = {
    "plain": Case(form.plain),
    "scores divided": Case(form.scores_divided),
    "scores multiplied": Case(form.scores_multiplied),
    "query divided": Case(form.query_divided),
    "query and key scaled": Case(form.query_and_key_scaled),
    "scaled by a tensor that holds a number": Case(form.scaled_by_a_tensor),
    "mask of all scores": Case(form.mask_added, others=lambda: mask(*FIRST[:3], ROWS)),
    "mask of heads": Case(form.mask_added, others=lambda: mask(1, HEADS, ROWS, ROWS)),
    "mask of batch": Case(form.mask_added, others=lambda: mask(BATCH, 1, ROWS, ROWS)),
    "mask of keys": Case(form.mask_added, others=lambda: mask(BATCH, 1, 1, ROWS)),
    "mask of three dimensions": Case(form.mask_added, others=lambda: mask(HEADS, ROWS, ROWS)),
    "mask of two dimensions": Case(form.mask_added, others=lambda: mask(ROWS, ROWS)),
    "mask of one dimension": Case(form.mask_added, others=lambda: mask(ROWS)),
    "mask on the left": Case(form.mask_added_on_the_left, others=lambda: mask(1, 1, ROWS, ROWS)),
    "mask subtracted": Case(form.mask_subtracted, others=lambda: mask(ROWS, ROWS)),
    "mask scaled with the scores": Case(form.mask_scaled_with_the_scores, others=lambda: mask(ROWS, ROWS)),
    "two masks": Case(form.two_masks, others=lambda: (*mask(1, HEADS, ROWS, ROWS), *mask(BATCH, 1, 1, ROWS))),
    "filled where padded": Case(form.filled_where_padded, LAST, others=padding),
    "filled by a tensor": Case(form.filled_by_a_tensor),
    "filled, then added": Case(form.filled_then_added, others=lambda: mask(BATCH, 1, 1, ROWS)),
    "filled with minus a billion": Case(form.filled_with_a_billion),
    "triangle of infinities": Case(form.triangle_of_infinities),
    "sliding window": Case(form.sliding_window),
    "linear biases": Case(form.linear_biases),
    "heads last": Case(form.heads_last, LAST),
    "heads last and a mask": Case(form.heads_last_masked, LAST, others=lambda: mask(BATCH, 1, 1, ROWS)),
    "softmax in float": Case(form.softmax_in_float, LAST),
    "scores in float": Case(form.scores_in_float),
    "bias, and keys returned": Case(form.bias_and_keys_returned, LAST, others=lambda: mask(1, HEADS, ROWS, ROWS)),
    "without heads": Case(form.without_heads, (BATCH, ROWS, WIDTH)),
    "without batch": Case(form.without_batch, (ROWS, WIDTH)),
    "joined to three dimensions": Case(form.joined_to_three_dimensions, others=lambda: mask(BATCH, 1, 1, ROWS)),
    "baddbmm with a bias": Case(form.baddbmm_with_bias, FLAT, others=lambda: mask(BATCH * HEADS, 1, ROWS)),
    "baddbmm of nothing": Case(form.baddbmm_of_nothing, FLAT),
    "einsum, heads first": Case(form.einsum_heads_first),
    "einsum, heads last": Case(form.einsum_heads_last, LAST),
    "einsum over a middle dimension": Case(form.einsum_over_a_middle_dimension, LAST),
    "keys before queries": Case(form.keys_before_queries),
    "grouped in five dimensions": Case(form.grouped_in_five_dimensions, (BATCH, 4, ROWS, WIDTH), (BATCH, 2, ROWS, WIDTH)),
    "keys repeated": Case(form.keys_repeated, (BATCH, 4, ROWS, WIDTH), (BATCH, 2, ROWS, WIDTH)),
    "one key for all heads": Case(form.one_key_for_all_heads, FIRST, (BATCH, 1, ROWS, WIDTH)),
    "heads as rows": Case(form.heads_as_rows, FIRST, (BATCH, ROWS, WIDTH), others=lambda: mask(BATCH, 1, ROWS, ROWS)),
    "safe softmax": Case(form.safe_softmax),
    "other number of keys": Case(form.plain, FIRST, (BATCH, HEADS, 7, WIDTH)),
    "values of another width": Case(form.plain, FIRST, FIRST, (BATCH, HEADS, ROWS, 6)),
    "one query": Case(form.plain, (BATCH, HEADS, 1, WIDTH), FIRST),
    "batch of one": Case(form.heads_last, (1, ROWS, HEADS, WIDTH)),
    "one head": Case(form.heads_last, (BATCH, ROWS, 1, WIDTH)),
    "width of one": Case(form.heads_last, (BATCH, ROWS, HEADS, 1)),
    "dropout": Case(form.dropped(0.3)),
    "dropout of probability 0": Case(form.dropped(0.0)),
    "dropout of everything": Case(form.dropped(1.0)),
    "mask and dropout": Case(form.masked_and_dropped, LAST, others=lambda: mask(BATCH, 1, 1, ROWS)),
    "dropout without heads": Case(form.dropped_without_heads, (BATCH, ROWS, WIDTH)),
    "learned mask": Case(form.mask_added, learned=FIRST[:3] + (ROWS,)),
    "learned mask of heads": Case(form.mask_added, learned=(1, HEADS, ROWS, ROWS)),
    "learned mask, heads last": Case(form.heads_last_masked, LAST, learned=(HEADS, 1, ROWS)),
    "learned mask, then scaled": Case(form.mask_scaled_with_the_scores, learned=(ROWS, ROWS)),
}  # fmt: skip
CENTRAL = (
    "scores divided",
    "mask of batch",
    "filled where padded",
    "filled by a tensor",
    "heads last",
    "keys repeated",
    "dropout",
    "learned mask of heads",
)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", FORMS)
def test_form_is_one_kernel_with_the_same_answers_and_gradients(name: str, mode: str) -> None:
    step = fused(FORMS[name], mode)
    assert len(step.matches) == 1, step.misses
    assert step.verdict.kind in ("bitwise", "rounding"), step.verdict
    assert step.claim_broken == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", CENTRAL)
def test_central_form_in_other_precisions(name: str, mode: str, dtype: torch.dtype) -> None:
    step = fused(FORMS[name], mode, dtype)
    assert len(step.matches) == 1, step.misses
    assert step.verdict.kind in ("bitwise", "rounding"), step.verdict


@pytest.mark.parametrize("function", [form.softmax_by_hand, form.softmax_by_hand_without_maximum])
def test_softmax_written_out_is_found_in_inference(function: form.Function) -> None:
    step = fused(Case(function), "inference")
    assert len(step.matches) == 1, step.misses
    assert step.verdict.kind == "rounding"


ONE_KEY = Case(form.plain, FIRST, (BATCH, HEADS, 1, WIDTH))


def test_one_key_is_left_alone_in_training_where_by_hand_gradients_are_exactly_zero() -> None:
    assert len(fused(ONE_KEY, "inference").matches) == 1
    trained = fused(ONE_KEY, "training")
    assert not trained.matches
    assert "every probability is 1" in trained.misses[0].reason


REFUSED = {
    "tanh": (Case(form.capped), "which the kernel cannot do"),
    "output of the graph": (Case(form.weights_returned), "output of the graph"),
    "heads mixed": (Case(form.heads_mixed), "does not sum over the keys"),
    "over the queries": (Case(form.weights_normalized_over_queries), "does not sum over the keys"),
    "fill of -5": (Case(form.hidden_too_little), "not low enough to hide"),
    "fill that is scaled": (Case(form.hidden_by_a_scaled_number), "may not hide"),
    "fill that is no number": (Case(form.filled_with_nothing), "not low enough to hide"),
    "rounded": (Case(form.weights_rounded), "rounded to integers"),
    "scale that is an input": (Case(form.scaled_by_an_input, others=lambda: (torch.rand(()) + 1,)), "which the kernel cannot do"),
    "no product": (Case(form.classes), "which the kernel cannot do"),
    "no keys": (Case(form.plain, FIRST, (BATCH, HEADS, 0, WIDTH)), "empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_says_what_stands_in_the_way(name: str) -> None:
    case, reason = REFUSED[name]
    step = fused(case, "inference")
    assert not step.matches
    assert [miss for miss in step.misses if reason in miss.reason], step.misses
