"""How the blanks of a line are filled: with names of values made so far, sizes that fit them, numbers, and new layers."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

SCALARS = ("0", "1", "-1", "0.5", "2", "1.0", "0.0", "3", "-2.5", "1000.0", "1e-3", "0.1", "True", "4", "0.25")
FLOATS = ("torch.float32", "torch.float64", "torch.bfloat16")
FIRST = ("x", "m", "q", "h")
DTYPES = (*FLOATS, "torch.float32", "torch.float16", "torch.int64", "torch.int32", "torch.bool")


class Unfillable(Exception):
    """No value made so far fits the blank."""


class Page(Protocol):
    """What the blanks need of the model that is being written."""

    random: random.Random
    values: dict[str, Tensor]

    def layer(self, kind: str, code: str) -> str: ...

    def reused(self, code: str) -> str | None: ...

    def made(self, name: str) -> Any: ...


class Blanks(dict[str, str]):
    """The blanks of one group of lines, each filled when it is first met. A digit at the end makes another blank of its kind."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page, self.random = page, page.random
        self.main = torch.empty(0)  # the value that the sizes speak of: the first that was filled in
        self.dim = 0

    def __missing__(self, key: str) -> str:
        kind = key.removesuffix("_r0").rstrip("0123456789") or key
        if key.endswith("_r0"):
            self.main = self.page.values[self["r0"]]
        fill: Callable[[], str] | None = getattr(self, f"_{kind}", None)
        if fill is None:
            raise Unfillable(key)
        self[key] = fill()
        return self[key]

    # values
    def _float(self, fits: Callable[[Tensor], bool]) -> str:
        name = self._named(lambda value: value.is_floating_point() and fits(value))
        self.main = self.page.values[name]
        self.dim = self.random.randrange(max(1, self.main.dim()))
        return name

    def _named(self, fits: Callable[[Tensor], bool]) -> str:
        """Late values more often than early ones: models are deep."""
        names = [name for name, value in self.page.values.items() if fits(value)]
        if not names:
            raise Unfillable
        return names[-1 - min(int(self.random.expovariate(0.35)), len(names) - 1)]

    def _x(self) -> str:
        return self._float(lambda value: True)

    def _m(self) -> str:
        return self._float(lambda value: value.dim() >= 2)

    def _q(self) -> str:
        return self._float(lambda value: value.dim() == 3)

    def _h(self) -> str:
        return self._float(lambda value: value.dim() == 4)

    def _y(self) -> str:
        """A value that broadcasts with the main one; itself now and then."""

        def fits(value: Tensor) -> bool:
            return value.is_floating_point() and _broadcast(value, self.main)

        return self._named(fits)

    _z = _y

    def _i(self) -> str:
        name = self._named(lambda value: value.dtype in (torch.int64, torch.int32))
        if not self.main.numel():
            self.main = self.page.values[name]
        return name

    def _b(self) -> str:
        return self._named(lambda value: value.dtype == torch.bool and (not self.main.numel() or _broadcast(value, self.main)))

    # numbers and sizes
    def _s(self) -> str:
        return self.random.choice(SCALARS)

    _t = _s

    def _c(self) -> str:
        return self.random.choice(("2", "3", "4.0", "0.1", "8", "7", "2**0.5"))

    def _d(self) -> str:
        return str(self.dim if self.random.random() < 0.5 or not self.main.dim() else self.dim - self.main.dim())

    def _e(self) -> str:
        return str(self.random.randrange(max(1, self.main.dim())))

    def _size(self) -> str:
        return str(tuple(self.main.shape))

    def _rank(self) -> str:
        return str(self.main.dim())

    def _strides(self) -> str:
        return str(self.main.stride())

    def _last(self) -> str:
        return str(self.main.shape[-1])

    def _rows(self) -> str:
        return str(self.main.numel() // max(1, self.main.shape[-1]))

    def _length(self) -> str:
        return str(self.main.shape[self.dim])

    def _few(self) -> str:
        return str(self.random.randrange(self.main.shape[self.dim] + 1))

    def _start(self) -> str:
        return str(self.random.randrange(max(1, min(self.main.shape))) if self.main.dim() else 0)

    def _huge(self) -> str:
        return "9223372036854775807"

    def _wide(self) -> str:
        shape = list(self.main.shape)
        shape.insert(self.dim, 3)
        return str(tuple(shape))

    def _shape(self) -> str:
        """The same number of elements in one to four dimensions."""
        rest, shape = self.main.numel(), []
        for _ in range(self.random.randrange(4)):
            part = self.random.choice([n for n in (1, 2, 3, 4, 5, 6, 8) if rest and rest % n == 0] or [1])
            shape.append(part)
            rest //= part
        shape.insert(self.random.randrange(len(shape) + 1), rest if self.random.random() < 0.5 or not rest else -1)
        return str(tuple(shape))

    def _permutation(self) -> str:
        return ", ".join(map(str, self.random.sample(range(self.main.dim()), self.main.dim())))

    def _dtype(self) -> str:
        return self.random.choice(DTYPES)

    def _kind(self) -> str:
        return str(self.main.dtype)

    def _constant(self) -> str:
        filled = self.random.choice((f"torch.ones({self._last()})", f"torch.arange({self._last()})", "torch.tensor(2.0)", "torch.zeros(1)"))
        return filled if self.main.dim() else "torch.tensor(2.0)"

    # layers and parameters
    def _made(self, kind: str, code: str) -> str:
        again = self.page.reused(code) if self.random.random() < 0.2 else None
        return again or self.page.layer(kind, code)

    def _linear(self) -> str:
        return self._dense(self.random.choice((1, 4, 6, 8)))

    def _square(self) -> str:
        return self._dense(self.main.shape[-1])

    def _dense(self, width: int) -> str:
        bias = "" if self.random.random() < 0.7 else ", bias=False"
        return self._made("linear", f"nn.Linear({self.main.shape[-1]}, {width}{bias}, dtype={self.main.dtype})")

    def _conv(self) -> str:
        channels = self.main.shape[1]
        size, stride, padding = self.random.choice(((1, 1, 0), (3, 1, 1), (3, 2, 1), (3, 1, 0), (2, 2, 0)))
        groups = self.random.choice((1, 1, channels))
        return self._convolution(groups * self.random.choice((1, 2, 3)), size, f", stride={stride}, padding={padding}, groups={groups}")

    def _pointwise_conv(self) -> str:
        return self._convolution(self.random.choice((2, 4, 5)), 1, "")

    def _same_conv(self) -> str:
        return self._convolution(self.main.shape[1], 3, ", padding=1")

    def _convolution(self, out: int, size: int, rest: str) -> str:
        bias = "" if self.random.random() < 0.6 else ", bias=False"
        return self._made("conv", f"nn.Conv2d({self.main.shape[1]}, {out}, {size}{rest}{bias}, dtype={self.main.dtype})")

    def _batch_norm(self) -> str:
        affine = "" if self.random.random() < 0.8 else ", affine=False"
        return self._made("norm", f"nn.BatchNorm2d({self.main.shape[1]}{affine}, dtype={self.main.dtype})")

    def _group_norm(self) -> str:
        return self._made("norm", f"nn.GroupNorm(1, {self.main.shape[1]}, dtype={self.main.dtype})")

    def _layer_norm(self) -> str:
        return self._made("norm", f"nn.LayerNorm({self.main.shape[-1]}, dtype={self.main.dtype})")

    def _rms_norm(self) -> str:
        return self._made("norm", f"nn.RMSNorm({self.main.shape[-1]}, dtype={self.main.dtype})")

    def _dropout(self) -> str:
        return self._made("dropout", "nn.Dropout(0.25)")

    def _embedding(self) -> str:
        return self._made("embedding", f"nn.Embedding(5, {self.random.choice((4, 6, 8))})")

    def _table(self) -> str:
        return self._made("table", "nn.Parameter(torch.randn(5, 4))")

    def _weight(self) -> str:
        return self._parameter(f"{self.main.shape[-1]}, {self.main.shape[-1] if self.random.random() < 0.6 else 6}")

    def _bias(self) -> str:
        return self._parameter(str(self.page.made(self["weight"]).shape[-1]) if "weight" in self else "6")

    def _gain(self) -> str:
        return self._parameter(str(self.main.shape[-1]))

    def _number(self) -> str:
        return self._parameter("")

    def _parameter(self, shape: str) -> str:
        size = f"({shape},)" if shape else "()"
        return self._made("weight", f"nn.Parameter(torch.randn({size}).to({self.main.dtype}))")

    def _buffer(self) -> str:
        return self._made("buffer", "nn.Buffer(torch.ones(()))")


def _broadcast(a: Tensor, b: Tensor) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a.shape), reversed(b.shape), strict=False))


def fill(line: str, blanks: Blanks) -> str:
    """The line with every blank filled.

    Raises:
        Unfillable: no value fits.
    """
    names = [name for _, name, _, _ in string.Formatter().parse(line) if name]
    for name in sorted(names, key=lambda name: name not in FIRST):  # sizes and layers are for the value beside them
        blanks[name]
    filled: Any = line.format_map(blanks)
    return filled
