"""A state dict (`.pth`, `.pt`, `.bin`, `.ckpt`): tensors by name, no graph. Its pickle is read by torch's reader that builds tensors
only; anything else in it is refused, because a pickle is a program."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from graphs.errors import SourceError
from graphs.sources.base import TensorTree

SAYS = (
    "A state dict holds the weights and no computation, so there is no graph in it. Bring the Python code of the model, a config.json, "
    "or an archive of torch.export."
)
TENSORS_LIMIT = 100_000


def state_dict(content: bytes, name: str) -> TensorTree:
    """The tensors of a file that `torch.save` wrote, by dotted name; values are not loaded.

    Raises:
        SourceError: cut off, not such a file, or one with other objects than tensors, which would run code when opened.
    """
    if not content.startswith((b"\x80", b"PK")):
        help = "Is it whole, and is its ending right? ONNX files end in .onnx."
        raise SourceError("the file is not what torch.save writes", where=name, help=help)
    try:
        found = torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
    except Exception as error:
        raise _refusal(error, name) from error
    tensors = dict(_tensors(found))
    if not tensors:
        raise SourceError("the file holds no tensors", where=name, help="Save a state dict: torch.save(model.state_dict(), …).")
    if len(tensors) > TENSORS_LIMIT:
        raise SourceError(
            f"the file holds {len(tensors):,} tensors; {TENSORS_LIMIT:,} are the limit", where=name, help="Bring a part of it."
        )
    return TensorTree(name, tensors, SAYS)


def _refusal(error: Exception, name: str) -> SourceError:
    message = str(error)
    asked = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)`?", message)
    if "weights_only" in message.lower() or "unsupported" in message.lower():
        what = f"the file holds more than tensors ({asked[1]})" if asked else "the file holds more than tensors"
        way_out = "It is not opened, since that could run code. Save the state dict, and bring the model's Python code for a graph."
        return SourceError(what, where=name, help=way_out)
    first = (message.strip().splitlines() or [type(error).__name__])[0][:150]
    return SourceError(f"the file cannot be read: {first}", where=name, help="Is it whole? Save it again with torch.save.")


def _tensors(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, tuple[tuple[int, ...], str]]]:
    """Tensors in nested dicts and lists; a checkpoint keeps the weights beside the optimizer's state."""
    if isinstance(value, Tensor):
        yield path or "tensor", (tuple(value.shape), str(value.dtype).removeprefix("torch."))
    elif isinstance(value, Mapping) and depth < 50:
        for key, part in value.items():
            yield from _tensors(part, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list | tuple) and depth < 50:
        for index, part in enumerate(value):
            yield from _tensors(part, f"{path}.{index}" if path else str(index), depth + 1)
