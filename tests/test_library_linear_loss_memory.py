"""What the loss in chunks holds: beside Liger's published peaks, in the sums of a narrow gradient, and measured against counted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.linear_loss import HANDLES, MIB, PUBLISHED, SCALARS, WIDTH, WORDS, chunked, conditions, head, liger
from graphs.linear_cross_entropy import ROUNDINGS, linear_cross_entropy_with_gradients, sizes
from graphs.snapshot import snapshot
from optimizers.verify import FACTOR
from profiler.peak import StorageTracker, peak_bytes

KINDS = [(torch.bfloat16, 64, 4, "held"), (torch.bfloat16, 4, 4, "summed apart"), (torch.float32, 64, 4, "added at once")]


@pytest.mark.parametrize("tokens", PUBLISHED)
def test_the_formula_gives_liger_s_published_peaks(tokens: int) -> None:
    formula = (liger(tokens, WIDTH, WORDS, 2) + HANDLES + SCALARS) / MIB
    assert formula == pytest.approx(PUBLISHED[tokens][1], rel=3e-4)


@pytest.mark.parametrize("tokens", [256, 512, 1024, 2048])
def test_the_peak_is_within_five_percent_of_liger_s_in_equal_conditions(tokens: int) -> None:
    """A sixteenth of the published width and vocabulary; rows from as many as the width to eight times as many."""
    width, words = WIDTH // 16, WORDS // 16
    _, after, why = chunked(head(tokens, width, words, torch.bfloat16), 8)
    assert not why
    assert after.peak_bytes + conditions(tokens, width, words, 2) <= 1.05 * liger(tokens, width, words, 2)


@pytest.mark.parametrize(("dtype", "width", "rows", "kind"), KINDS)
def test_counted_peaks_are_measured_peaks(dtype: torch.dtype, width: int, rows: int, kind: str) -> None:
    program = head(192, width, 500, dtype)
    size = sizes(torch.empty(192, width, dtype=dtype), torch.empty(500, width, dtype=dtype), None, rows, dtype, gradient=True)
    assert ("summed apart" if size.sums_apart else "held" if size.held > rows else "added at once") == kind
    after, totals, why = chunked(program, rows)
    assert not why
    assert peak_bytes(after, after.materialize(0)) == totals.peak_bytes < snapshot(program).totals.peak_bytes


@pytest.mark.parametrize(("dtype", "width", "rows", "kind"), KINDS)
def test_the_loop_takes_no_large_memory_beside_its_workspace(dtype: torch.dtype, width: int, rows: int, kind: str) -> None:
    """A few numbers for each row, and neither a product nor a cast as large as the weight or a chunk's logits."""
    x, weight, target = torch.randn(192, width, dtype=dtype), torch.randn(500, width, dtype=dtype), torch.randint(0, 500, (192,))
    grad = torch.ones((), dtype=dtype)
    with StorageTracker([x, weight, target, grad]) as tracker:
        given = linear_cross_entropy_with_gradients._init_fn(grad, x, weight, None, target, 1, -100, rows, dtype)
    results = sum(value.untyped_storage().nbytes() for value in given)
    assert tracker.peak - results <= 40 * len(x), kind


def test_a_narrow_gradient_is_rounded_a_few_times_or_summed_in_float32() -> None:
    assert ROUNDINGS <= FACTOR
    for tokens in (2, 17, 100, 1000, 4097):
        for width in (1, 8, 300):
            for rows in (1, 3, 128):
                size = sizes(torch.empty(tokens, width).bfloat16(), torch.empty(50, width).bfloat16(), None, rows, torch.bfloat16, True)
                assert size.sums_apart or -(-tokens // size.held) <= ROUNDINGS
                assert not size.sums_apart or size.workspace() <= (4 * rows + 4.5 * width) * 50 + 4 * 64 + 14 * width
                assert size.held % size.rows == 0 or size.held == tokens


@pytest.mark.parametrize("width", [64, 4])
def test_many_small_chunks_do_not_lose_what_is_small_beside_the_sum(width: int) -> None:
    """Hidden states far from zero add to the same side: a sum in bfloat16 that is rounded for each of 256 chunks stands still."""
    torch.manual_seed(0)
    x, weight, target = (
        (torch.randn(1024, width) + 2).bfloat16(),
        (0.01 * torch.randn(100, width)).bfloat16(),
        torch.zeros(1024, dtype=torch.long),
    )
    _, _, found, _, _ = linear_cross_entropy_with_gradients(torch.ones(()).bfloat16(), x, weight, None, target, 1, -100, 4, torch.bfloat16)
    gradient = (x.double() @ weight.double().t()).softmax(1)
    gradient[:, 0] -= 1
    exact = gradient.t() @ x.double() / 1024
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.015


def test_a_workspace_as_large_as_what_it_saves_is_refused() -> None:
    """17 rows in chunks of 16, and a weight much larger than the logits: nothing but the gradient of the logits could be saved."""
    program = head(17, 512, 100, torch.float32)
    assert "would not be smaller than what they save" in chunked(program, 16)[2]
    _, totals, why = chunked(program, 8)
    assert not why
    assert totals.peak_bytes <= snapshot(program).totals.peak_bytes
