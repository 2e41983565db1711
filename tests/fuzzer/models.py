"""A random model from a seed: the same seed always gives the same program, and a program can be printed, run and shortened."""

from __future__ import annotations

import linecache
import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphs.sources.base import ModelSource
from tests.fuzzer.blanks import Blanks, Unfillable, fill
from tests.fuzzer.lines import THEMES, Group

LARGEST = 1e4  # of any element: what overflows would make every later value, and every gradient, infinite
ELEMENTS = 2048
DIMS = 5
PREAMBLE = """import math
import torch
import torch.nn.functional as F
from torch import nn
"""
SPECIAL = "(nan, inf, -inf, 0.0, -0.0, -0.0, 1e-40, 3.0e38)"


@dataclass(frozen=True)
class RandomModel:
    """A model as lines of Python.

    Attributes:
        seed: what it was made from.
        arguments: name and code of each input.
        layers: name (`self.linear_0`) and code of what `__init__` makes.
        lines: the body of forward.
        outputs: names of what forward returns.
        loss: code of the loss, a function of `outputs`.
    """

    seed: int
    arguments: tuple[tuple[str, str], ...]
    layers: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    outputs: tuple[str, ...]
    loss: str

    @property
    def special(self) -> bool:
        """Do the inputs hold infinities and what is no number?"""
        return SPECIAL in self.text

    @property
    def text(self) -> str:
        """The program: a class Model, its inputs and its loss."""
        init = "".join(f"        {name} = {code}\n" for name, code in self.layers)
        body = "".join(f"        {line}\n" for line in self.lines)
        names = ", ".join(name for name, _ in self.arguments)
        made = "".join(f"    {name} = {line}\n" for name, code in self.arguments for line in [code])
        return (
            f"{PREAMBLE}\n\nclass Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n{init}\n"
            f"    def forward(self, {names}):\n{body}        return {', '.join(self.outputs)},\n\n\n"
            f"def inputs():\n{made}    return {names},\n\n\ndef loss(outputs):\n    return {self.loss}\n"
        )

    def source(self) -> ModelSource:
        """The program as a source of models; each line knows the program's lines."""
        file, text = f"<random model {self.seed}>", self.text
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        space: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "__name__": "random_model"}
        exec(compile(text, file, "exec"), space)
        return ModelSource(f"random-{self.seed}", space["Model"], space["inputs"], space["loss"], (file,))

    def without_line(self, index: int) -> RandomModel:
        """The program with one line less."""
        return replace(self, lines=self.lines[:index] + self.lines[index + 1 :])

    def runs(self) -> str:
        """Empty when the model runs in both modes and has a gradient; else why not."""
        source = self.source()
        try:
            with seeded(self.seed):
                for training in (False, True):
                    model, args = source.build().train(training), source.inputs()
                    with torch.set_grad_enabled(training):
                        loss = source.loss(model(*args))  # type: ignore[misc]
                if not bool(loss.isfinite()) and not self.special:
                    return "the loss is not a number"
                loss.backward()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from the seed, and as they were afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_model(seed: int, length: int = 12, themes: tuple[str, ...] = (), special: bool | None = None) -> RandomModel:
    """A model of about `length` groups of lines that runs in both modes.

    Args:
        themes: of these alone; else of a random choice of all.
        special: whether inputs hold infinities, what is not a number, and zeros of both signs; else one model in five.
    """
    for attempt in range(20):
        written = _Page(seed, attempt, themes, special).written(length)
        if written is not None and not written.runs():
            return written
    raise AssertionError(f"seed {seed} gave no model that runs")


class _Page:
    """The model while it is being written: every line is run at once, and stays only when it runs."""

    def __init__(self, seed: int, attempt: int, themes: tuple[str, ...], special: bool | None) -> None:
        self.random = random.Random(f"{seed}/{attempt}")
        self.seed = seed
        self.values: dict[str, Tensor] = {}
        self._module = nn.Module()
        self._layers: list[tuple[str, str]] = []
        self._lines: list[str] = []
        self._count = 0
        self._themes = themes
        self._special = self.random.random() < 0.2 if special is None else special

    def written(self, length: int) -> RandomModel | None:
        with seeded(self.seed):
            arguments = self._arguments()
            self._group(("{m} * {gain}",) if any(value.dim() > 1 for value in self.values.values()) else ("{x} * {number}",))
            groups = self._groups()
            for _ in range(self.random.randint(length // 2, length * 3 // 2)):
                self._group(next(groups))
        outputs = self._outputs()
        if not outputs:
            return None
        if self.random.random() < 0.5:
            self._tie()
        return RandomModel(self.seed, arguments, tuple(self._layers), tuple(self._lines), tuple(outputs), self._loss())

    def _arguments(self) -> tuple[tuple[str, str], ...]:
        dtype = self.random.choice(("torch.float32",) * 6 + ("torch.float64", "torch.bfloat16", "torch.bfloat16"))
        sizes = (1, 2, 3, 4, 5, 6, 8)
        ranks = self.random.sample((1, 2, 2, 3, 3, 4, 4), self.random.randint(1, 3))
        arguments = []
        for index, rank in enumerate(ranks):
            shape = [self.random.choice(sizes) for _ in range(rank)]
            if rank > 1:
                shape[-1] = self.random.choice((4, 6, 8))
            if self.random.random() < 0.04:
                shape[0] = 0
            arguments.append((f"x{index}", self._input(shape, dtype)))
        if self.random.random() < 0.35:
            arguments.append(("ids", f"torch.randint(0, 9, ({self.random.choice(sizes)}, {self.random.choice(sizes)}))"))
        if self.random.random() < 0.3:
            arguments.append(("mask", f"torch.rand({shape}) > 0.4"))
        for name, code in arguments:
            self.values[name] = self._evaluated(code)
        return tuple(arguments)

    def _input(self, shape: list[int], dtype: str) -> str:
        made = f"torch.randn({shape}, dtype={dtype})"
        if self._special:
            return f"torch.where(torch.rand({shape}) < 0.5, {made}, torch.tensor({SPECIAL}, dtype={dtype})[torch.randint(0, 8, {shape})])"
        layout = self.random.random()
        if layout < 0.12 and len(shape) > 1:
            return f"torch.randn({[*shape[:-2], shape[-1], shape[-2]]}, dtype={dtype}).mT"
        if layout < 0.2:
            return f"torch.randn({[*shape[:-1], 2 * shape[-1]]}, dtype={dtype})[..., ::2]"
        if layout < 0.25:
            return f"torch.randn({[1, *shape[1:]]}, dtype={dtype}).expand({shape})"
        return made

    def _groups(self) -> Iterator[Group]:
        """Some themes are left out of each model, so that the others meet more often."""
        chosen = list(self._themes) or [name for name in THEMES if self.random.random() < 0.6] or ["identities"]
        if self._special and not self._themes:
            chosen = ["pointwise", "identities", "choices", "shapes", "activations"]
        weights = [THEMES[name][0] for name in chosen]
        while True:
            theme = self.random.choices(chosen, weights)[0]
            yield self.random.choice(THEMES[theme][1])

    def _group(self, group: Group) -> None:
        blanks, results = Blanks(self), 0
        for line in group:
            layers = len(self._layers)
            try:
                code = fill(line, blanks)
                names = self._statement(code.removeprefix("do ")) if code.startswith("do ") else self._value(code)
            except Exception:
                for name, _ in self._layers[layers:]:
                    delattr(self._module, name.removeprefix("self."))
                del self._layers[layers:]
                return
            for name in names:
                blanks[f"r{results}"] = name
                results += 1

    def _statement(self, code: str) -> list[str]:
        exec(code, globals(), {**self.values, "self": self._module})
        self._lines.append(code)
        return []

    def _value(self, code: str) -> list[str]:
        result = self._evaluated(code)
        if code.startswith("torch.empty"):
            result.zero_()  # what happens to lie in memory must not decide which lines stay
        values = list(result) if isinstance(result, (tuple, list)) else [result]
        if not 0 < len(values) <= 8 or not all(isinstance(value, Tensor) and self._allowed(value) for value in values):
            raise Unfillable(code)
        names = [f"v{self._count + index}" for index in range(len(values))]
        self._count += len(values)
        self.values.update(zip(names, values, strict=True))
        self._lines.append(f"{', '.join(names)}{',' if isinstance(result, (tuple, list)) and len(names) == 1 else ''} = {code}")
        return names

    def _allowed(self, value: Tensor) -> bool:
        if value.numel() > ELEMENTS or value.dim() > DIMS:
            return False
        return self._special or not value.numel() or not value.is_floating_point() or bool((value.detach().abs() <= LARGEST).all())

    def _evaluated(self, code: str) -> Any:
        return eval(code, globals(), {**self.values, "self": self._module, "nan": math.nan, "inf": math.inf})

    def layer(self, kind: str, code: str) -> str:
        name = f"{kind}_{sum(each.startswith(f'self.{kind}_') for each, _ in self._layers)}"
        setattr(self._module, name, self._evaluated(code))
        self._layers.append((f"self.{name}", code))
        return f"self.{name}"

    def reused(self, code: str) -> str | None:
        return next((name for name, made in self._layers if made == code), None)

    def made(self, name: str) -> Any:
        return getattr(self._module, name.removeprefix("self."))

    def _tie(self) -> None:
        """Two linear layers of one shape share their weight."""
        first: dict[str, str] = {}
        for name, code in self._layers:
            if code.startswith("nn.Linear"):
                twin = first.setdefault(code.replace(", bias=False", ""), name)
                if twin != name:
                    self._layers.append((f"{name}.weight", f"{twin}.weight"))
                    return

    def _outputs(self) -> list[str]:
        """Late values; sometimes one of them twice, an input, or a view of another. The first one has a gradient."""
        names = [name for name in self.values if name.startswith("v")]
        floats = [name for name in names if self.values[name].is_floating_point() and self.values[name].requires_grad]
        if not floats:
            return []
        chosen = [floats[-1]]
        if self._special:
            chosen += names
        elif self.random.random() < 0.6:
            chosen += self._unread(names)
        else:
            chosen += self.random.sample(names[-8:], min(len(names[-8:]), self.random.randint(0, 4)))
        chosen = list(dict.fromkeys(chosen))
        if self.random.random() < 0.1:
            chosen.append(self.random.choice(chosen))
        if self.random.random() < 0.1:
            chosen.append(next(iter(self.values)))
        if self.random.random() < 0.15:
            chosen.append(f"{self.random.choice(chosen)}.reshape(-1)")
        return chosen

    def _unread(self, names: list[str]) -> list[str]:
        text = "\n".join(self._lines)
        return [name for name in names if len(re.findall(rf"\b{name}\b", text)) == 1]

    def _loss(self) -> str:
        if self._special or self.random.random() < 0.3:
            return "(outputs[0].float() * 0.7 + 0.1).square().mean()"
        wide = "o.to(torch.promote_types(o.dtype, torch.float32))"
        return f"sum(({wide} * 0.7 + 0.1).square().mean() for o in outputs if o.is_floating_point() and o.numel())"


_USED_BY_PROGRAMS = (F,)  # the names that `eval` finds in this file
