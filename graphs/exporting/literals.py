"""Values as Python text: what stands between the brackets of a call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from graphs.errors import RequestError

WAY_OUT = "Save the session as JSON instead, or leave out the step that put it there."


def literal(value: Any, named: Callable[[fx.Node], str], device: str) -> str:
    """An argument of a node as an expression.

    Args:
        named: the name of another node in the text.
        device: the program's; where an argument names it, the text names the device that the reader chose.

    Raises:
        RequestError: the value cannot be written in Python, such as a tensor.
    """

    def inner(value: Any) -> str:
        if isinstance(value, fx.Node):
            return named(value)
        if isinstance(value, tuple):
            return f"({', '.join(map(inner, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(inner, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{inner(key)}: {inner(one)}' for key, one in value.items())}}}"
        if isinstance(value, slice):
            return f"slice({inner(value.start)}, {inner(value.stop)}, {inner(value.step)})"
        if isinstance(value, torch.device):
            return "DEVICE.now" if value.type == device else f"torch.device({str(value)!r})"
        return plain(value)

    return inner(value)


def plain(value: Any) -> str:
    """A value without nodes in it.

    Raises:
        RequestError: it cannot be written.
    """
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, complex):
        return f"complex({number(value.real)}, {number(value.imag)})"
    if isinstance(value, float):
        return number(value)
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    raise RequestError(f"an argument is a {type(value).__name__}, which plain Python has no words for", help=WAY_OUT)


def number(value: float) -> str:
    """A float that reads back as the same float, infinities and what is no number too."""
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def shape_text(value: Any) -> str:
    """`float32[8, 32]` of a tensor, the same of each of several, and the type's name of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, tuple | list):
        return ", ".join(map(shape_text, value))
    return type(value).__name__


def one_line(text: str) -> str:
    """Text of anybody as one line of a comment: no line breaks, no control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
