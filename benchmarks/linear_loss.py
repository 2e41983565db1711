"""Linear + cross-entropy beside Liger Kernel: peaks of `chunk-linear-cross-entropy`, counted, under the conditions of Liger's published benchmark.

    python -m benchmarks.linear_loss                the published sizes (H = 4,096, V = 128,256, bfloat16), on shapes alone
    python -m benchmarks.linear_loss --measure      small sizes: counted against measured on this CPU, and the work that is done
    python -m benchmarks.linear_loss --rounding     how far sums in bfloat16 are from float64, by the number of roundings

All sizes are in MiB, as in the published script, though it writes MB. The published runs (A100, Liger 0.4.2) hold more than the step: two layers, one of torch and one of
Liger, and the gradients of the run before, which are never cleared; `conditions` adds this to a count.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.linear_cross_entropy import ROUNDINGS
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.record import Totals
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import apply
from optimizers.verify import Judge
from profiler.peak import peak_bytes

MIB = 1 << 20
HANDLES = 16.25 * MIB  # workspaces of two cuBLAS handles on that GPU
SCALARS = 1024
STEP = "chunk-linear-cross-entropy"
PUBLISHED = {4096: (6092.28, 4245.55), 8192: (9162.31, 4466.97), 16384: (15302.38, 4910.44), 32768: (27582.50, 5794.63)}  # whole, Liger
WIDTH, WORDS = 4096, 128256


class Head(nn.Module):
    """Hidden states, which want a gradient too, to the loss of a language model."""

    def __init__(self, tokens: int, width: int, words: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(tokens, width, dtype=dtype))
        self.head = nn.Linear(width, words, bias=False, dtype=dtype)

    def forward(self, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.hidden), target)


def head(tokens: int, width: int, words: int, dtype: torch.dtype) -> Program:
    """Its training graph."""

    def inputs() -> tuple[Tensor]:
        return (torch.randint(0, words, (tokens,)),)

    source = ModelSource("head", lambda: Head(tokens, width, words, dtype), inputs, lambda loss: loss, (__file__,))
    return capture(source, "training", "cpu", CaptureOptions()).program


def conditions(tokens: int, width: int, words: int, itemsize: int) -> int:
    """Bytes that stand beside the step's own peak in the published runs: weight and hidden states, the other layer's weight, the gradients of the run before, targets."""
    weight, hidden = words * width * itemsize, tokens * width * itemsize
    return 3 * weight + 2 * hidden + 8 * tokens


def liger(tokens: int, width: int, words: int, itemsize: int, pieces: int = 4) -> int:
    """Bytes of Liger's fused linear cross-entropy in the published runs without what the GPU's library takes.

    Four weights (two layers, gradients of the run before and of this one) and three times the hidden states; losses of rows in float32. Its chunks have as
    many rows as bring logits to the size of the hidden states, rounded up to a power of two; of a chunk version 0.4.2 holds four `pieces` as
    large as its logits in bfloat16 (the logits, a copy in float32, and the gradient of the chunk before), version 0.8.5, as its code reads, one.
    """
    weight, hidden = words * width * itemsize, tokens * width * itemsize
    chunk = 1 << (-(-tokens // -(-words // width)) - 1).bit_length()
    return 4 * weight + 3 * hidden + pieces * min(chunk, tokens) * words * 2 + 12 * tokens


def chunked(program: Program, rows: int) -> tuple[Program, Totals, str]:
    """The step's result, its totals, and why it found no place where it found none."""
    applied = apply(program, snapshot(program), STEP, {"rows": str(rows)})
    return applied.program, applied.snapshot.totals, "".join(miss.reason for miss in applied.step.misses if not applied.step.matches)


def published(rows: int) -> None:
    """The table of the published sizes."""
    print(f"MiB; chunks of {rows} rows")
    for tokens, (whole, fused) in PUBLISHED.items():
        program = head(tokens, WIDTH, WORDS, torch.bfloat16)
        before = snapshot(program).totals
        _, after, why = chunked(program, rows)
        beside = conditions(tokens, WIDTH, WORDS, 2) + HANDLES + SCALARS
        ours, first = (after.peak_bytes + beside) / MIB, (before.peak_bytes + beside) / MIB
        formula, newer = ((liger(tokens, WIDTH, WORDS, 2, pieces) + HANDLES + SCALARS) / MIB for pieces in (4, 1))
        print(
            f"{tokens:6} whole {first:9.2f} (published {whole:9.2f})  in chunks {ours:8.2f} (alone {after.peak_bytes / MIB:8.2f})  Liger published {fused:8.2f}"
            f" formula {formula:8.2f} ours {100 * (ours / fused - 1):+5.2f} %  Liger 0.8.5 by its code {newer:8.2f} ours {100 * (ours / newer - 1):+5.2f} % {why}",
            flush=True,
        )
        worked(before, after)


def worked(before: Totals, after: Totals) -> None:
    """What the step costs."""
    print(
        f"       matmul FLOPs {after.matmul_flops / before.matmul_flops:.3f} ×, all FLOPs {after.flops / before.flops:.3f} ×, bytes moved"
        f" {after.bytes_moved / before.bytes_moved:.2f} ×, launches {before.launches} -> {after.launches}"
    )


def measured(rows: int) -> None:
    """Small sizes for real, on the CPU."""
    for dtype in (torch.bfloat16, torch.float32):
        for tokens, width, words in ((2048, 256, 4096), (2048, 16, 4096)):
            program = head(tokens, width, words, dtype)
            after, totals, why = chunked(program, rows)
            verdict = Judge(program).verdict(program, after, "rounding") if not why else None
            found = peak_bytes(after, after.materialize(0))
            print(f"{dtype} {tokens} × {width} × {words}: counted {totals.peak_bytes:,} measured {found:,} {verdict or why}", flush=True)


def rounding() -> None:
    """Largest error of the weight's gradient as a share of its largest element, when its sum over all rows is made of so many products in bfloat16."""
    tokens, width, words = 4096, 128, 2048
    counts = (1, 4, ROUNDINGS, 16, 32, 64)
    print("mean of x, spread of logits: roundings ->", *counts)
    for mean in (0.0, 1.0, 5.0):
        for spread in (0.1, 1.0, 5.0):
            torch.manual_seed(0)
            x, weight = (torch.randn(tokens, width) + mean).bfloat16(), (torch.randn(words, width) * 0.05 * spread).bfloat16()
            gradient = (x.double() @ weight.double().t()).softmax(1)
            gradient[torch.arange(tokens), torch.randint(0, words, (tokens,))] -= 1
            exact, narrow = gradient.t() @ x.double(), gradient.bfloat16()
            errors = []
            for count in counts:
                total = torch.zeros(words, width, dtype=torch.bfloat16)
                for part, rows in zip(narrow.chunk(count), x.chunk(count), strict=True):
                    total.addmm_(part.t(), rows)
                errors.append(float((total - exact).abs().max() / exact.abs().max()))
            print(f"{mean:4} {spread:4}:", *(f"{error:.4f}" for error in errors), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rounding", action="store_true")
    given = parser.parse_args()
    if given.measure:
        measured(given.rows)
    elif given.rounding:
        rounding()
    else:
        published(given.rows)


if __name__ == "__main__":
    main()
