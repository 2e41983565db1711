"""Arguments in words, as they stand in a form and in the address: `x=float32[2,64], ids=int64[2,16]<100, n=3`.

A tensor is its dtype and sizes, without sizes one number; whole numbers are drawn below a limit. Other values are Python's plain ones. What a constructor takes may
also name a class or function of the reader's own file, a dtype of torch, or a module of torch.nn.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.errors import RequestError

HELP = "Write name=dtype[sizes], such as x=float32[2,64] or ids=int64[2,16]<1000; plain values as in Python."
ARGS_HELP = "Write name=value, separated by commas, as in a call of Python: width=64, act='relu'."
LONGEST = 4_000
SIZE_LIMIT = 1 << 33
BELOW = 2


@dataclass(frozen=True)
class TensorWords:
    """A tensor in words: dtype and sizes; `below` limits whole numbers, 0 for all others."""

    dtype: str
    shape: tuple[int, ...]
    below: int = 0

    def __str__(self) -> str:
        limit = f"<{self.below}" if self.below else ""
        sizes = f"[{','.join(map(str, self.shape))}]" if self.shape else ""
        return f"{self.dtype}{sizes}{limit}"

    def make(self) -> Tensor:
        """Fresh values: normal, whole numbers from 0 to the limit, or true and false in turns."""
        dtype = getattr(torch, self.dtype)
        if dtype is torch.bool:
            return torch.rand(self.shape) < 0.5
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(self.shape, dtype=dtype if dtype.itemsize > 1 else torch.float32).to(dtype)
        return torch.randint(0, self.below or BELOW, self.shape, dtype=dtype)


def split(text: str, word: str, help: str) -> dict[str, ast.expr]:
    """`a=1, b=f(2)` -> name -> expression of Python, not evaluated.

    Raises:
        RequestError: not of this form.
    """
    if len(text) > LONGEST:
        raise RequestError(f"{word} is longer than {LONGEST:,} characters", where=word, help=help)
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RequestError(
            f"`{text}` cannot be read: {getattr(error, 'msg', None) or type(error).__name__}", where=word, help=help
        ) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or any(one.arg is None for one in call.keywords):
        raise RequestError(f"`{text}` is not a list of name=value", where=word, help=help)
    names = [str(one.arg) for one in call.keywords]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise RequestError(f"`{twice}` is given twice", where=word, help="Keep one of them.")
    return {str(one.arg): one.value for one in call.keywords}


def parse_inputs(text: str) -> dict[str, Any]:
    """Words -> name -> TensorWords, a plain value, or a list of these.

    Raises:
        RequestError: names what cannot be read.
    """
    return {name: _input(name, value) for name, value in split(text, "inputs", HELP).items()}


def _input(name: str, node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple) and any(isinstance(one, ast.Subscript | ast.Compare | ast.Name) for one in ast.walk(node)):
        return [_input(name, one) for one in node.elts]
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt):
        found, limit = _input(name, node.left), _plain(name, node.comparators[0])
        if isinstance(found, TensorWords) and type(limit) is int and limit > 0:
            return TensorWords(found.dtype, found.shape, limit)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _tensor(name, node.value.id, node.slice)
    if isinstance(node, ast.Name) and isinstance(getattr(torch, node.id, None), torch.dtype):
        return TensorWords(node.id, ())
    return _plain(name, node)


def _tensor(name: str, dtype: str, sizes: ast.expr) -> TensorWords:
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise RequestError(f"`{dtype}` is no dtype of torch", where=f"inputs: {name}", help="Write float32, bfloat16, int64 or bool.")
    shape = _plain(name, sizes)
    shape = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(f"`{ast.unparse(sizes)}` are no sizes", where=f"inputs: {name}", help=HELP)
    total = 1
    for size in shape:
        total *= size
    if total > SIZE_LIMIT:
        raise RequestError(f"{name} would have {total:,} elements", where="inputs", help="Give smaller sizes.")
    return TensorWords(dtype, shape)


def _plain(name: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise RequestError(f"`{ast.unparse(node)}` is no value", where=f"inputs: {name}", help=HELP) from error


def made(value: Any) -> Any:
    """Words as values: tensors fresh, lists of them as lists."""
    if isinstance(value, TensorWords):
        return value.make()
    return [made(one) for one in value] if isinstance(value, list) else value


def in_words(values: Mapping[str, Any]) -> str:
    """The sentence that `parse_inputs` reads back."""
    return ", ".join(f"{name}={_value_words(value)}" for name, value in values.items())


def _value_words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value_words, value))}]"
    return str(value) if isinstance(value, TensorWords) else repr(value)


def evaluate(text: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments: plain values, and calls of what the reader's file, torch.nn and torch's dtypes offer.

    Raises:
        RequestError: names something else.
    """
    return {name: _value(name, value, own) for name, value in split(text, "args", ARGS_HELP).items()}


def _value(name: str, node: ast.expr, own: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call) and not any(one.arg is None for one in node.keywords):
        function = _named(name, node.func, own)
        return function(*(_value(name, one, own) for one in node.args), **{str(k.arg): _value(name, k.value, own) for k in node.keywords})
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(name, node, own)
    if isinstance(node, ast.List | ast.Tuple):
        return type(ast.literal_eval("[]" if isinstance(node, ast.List) else "()"))(_value(name, one, own) for one in node.elts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise RequestError(f"`{ast.unparse(node)}` is no value", where=f"args: {name}", help=ARGS_HELP) from error


def _named(name: str, node: ast.expr, own: Mapping[str, Any]) -> Any:
    """What a dotted name stands for, if it is one of those that may be named here."""
    text = ast.unparse(node)
    found: Any = None
    if re.fullmatch(r"(torch\.)?nn(\.functional)?\.\w+", text):
        found = getattr(nn.functional if ".functional." in text else nn, text.rpartition(".")[2], None)
    elif re.fullmatch(r"torch\.\w+", text):
        found = getattr(torch, text.removeprefix("torch."), None)
        found = found if isinstance(found, torch.dtype) else None
    elif text.isidentifier():
        found = own.get(text)
    if found is None:
        raise RequestError(f"`{text}` may not be named here", where=f"args: {name}", help=ARGS_HELP)
    return found
