"""Inputs and constants as expressions that make them: drawn from a seed where values do not matter, written out where they do.

A file without the model's code cannot run its initialisers. So floating-point weights and inputs are drawn with the mean and spread that the real
ones had, whole numbers within the range that they had; constants, and tables such as rotary frequencies or masks, are written out to the bit.
"""

from __future__ import annotations

import base64
import zlib

import torch
from torch import Tensor

from graphs.errors import TooLargeError
from graphs.exporting.literals import number, plain

EXACT_LIMIT = 4 << 20  # bytes of a constant, compressed: beyond, the file would be no text to read
TABLE_LIMIT = 64 << 10  # bytes of a table, compressed, that is still written out
HUGE = 1e10  # a number so large marks a place and is no sample of a distribution
CHOICES = 64


def constant(name: str, value: Tensor) -> str:
    """An expression whose value is this tensor, bit for bit.

    Raises:
        TooLargeError: its bytes are too many for a text file.
    """
    short = _short(value)
    if short:
        return _laid_out(short, value)
    packed = _packed(value)
    if len(packed) > EXACT_LIMIT:
        size, limit = len(packed) / 2**20, EXACT_LIMIT >> 20
        help = "Save the session as JSON, or take a smaller model: what the graph holds must stand in the file."
        raise TooLargeError(f"the constant {name} takes {size:.1f} MiB of text, and a file takes {limit} at most", where=name, help=help)
    return _laid_out(_exactly(value, packed), value)


def sample(role: str, value: Tensor) -> str:
    """An expression that makes a tensor like this one.

    Args:
        role: of the input; a buffer's values are taken for a table.
    """
    short = _short(value)
    if short:
        return _laid_out(short, value)
    if _is_table(role, value):
        packed = _packed(value)
        if len(packed) <= TABLE_LIMIT:
            return _laid_out(_exactly(value, packed), value)
    return _laid_out(_drawn(value), value)


def _short(value: Tensor) -> str:
    """All elements the same."""
    if not value.numel():
        return f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
    first = value.flatten()[:1]
    if value.is_complex() or not torch.equal(_bytes(first.expand(value.numel())), _bytes(value)):
        return ""
    return f"torch.full({tuple(value.shape)}, {plain(first.item())}, dtype={value.dtype})"


def _is_table(role: str, value: Tensor) -> bool:
    if value.is_complex():
        return False
    if value.dtype is torch.bool:
        return True  # a mask: drawn anew it could hide a whole row, and what is left of that is no number
    if not value.is_floating_point():
        flat = value.flatten().to(torch.int64)
        return role != "input" or bool((flat[1:] >= flat[:-1]).all())  # positions, offsets: their order means something
    wide = value.double()
    return role == "buffer" or not bool(wide.isfinite().all()) or float(wide.abs().max()) > HUGE


def _drawn(value: Tensor) -> str:
    shape, dtype = tuple(value.shape), value.dtype
    if value.is_complex():
        return f"torch.randn({shape}, dtype={dtype})"
    if dtype is torch.bool:
        return f"torch.rand({shape}) < {float(value.double().mean()):.3g}"
    if not value.is_floating_point():
        low, high = int(value.min()), int(value.max())
        present = value.unique().tolist()
        if low < 0 and len(present) > 1:  # such as -100, which marks what a loss ignores
            return f"torch.tensor({_thinned(present)}, dtype={dtype})[torch.randint({min(CHOICES, len(present))}, {shape})]"
        return f"torch.randint({low}, {high + 1}, {shape}, dtype={dtype})"
    wide = value.double()
    wide = wide[wide.isfinite()]
    low, high = float(wide.min()), float(wide.max())
    if low >= 0:
        return f"(torch.rand({shape}) * {number(_rounded(high - low))} + {number(_rounded(low))}).to({dtype})"
    mean, spread = float(wide.mean()), float(wide.std(correction=0))
    return f"(torch.randn({shape}) * {number(_rounded(spread))} + {number(_rounded(mean))}).to({dtype})"


def _thinned(values: list[int]) -> list[int]:
    """At most so many of them, the first and the last among them."""
    if len(values) <= CHOICES:
        return values
    return [values[at * (len(values) - 1) // (CHOICES - 1)] for at in range(CHOICES)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().resolve_conj().contiguous().flatten().view(torch.uint8)


def _packed(value: Tensor) -> str:
    return base64.b64encode(zlib.compress(_bytes(value).numpy().tobytes(), 9)).decode()


def _exactly(value: Tensor, packed: str) -> str:
    return f"exactly({tuple(value.shape)}, {value.dtype}, {packed!r})"


def _laid_out(text: str, value: Tensor) -> str:
    """With the strides of the value where they are not those of a fresh tensor."""
    return text if value.is_contiguous() else f"laid_out({text}, {tuple(value.stride())})"
