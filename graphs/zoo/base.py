"""What a zoo model is: options with limits, and functions that build the model, its inputs and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.errors import RequestError


@dataclass(frozen=True)
class Option:
    """One setting of a model: a whole number within limits, or one of several words (`choices`)."""

    name: str
    default: int | str
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: int = 1
    maximum: int = 1 << 16

    def parse(self, text: str) -> int | str:
        """Text -> value.

        Raises:
            RequestError: not one of the choices, or not a whole number within the limits.
        """
        if self.choices:
            if text not in self.choices:
                raise RequestError(f"`{text}` is no {self.name}", where=self.name, help=f"Choose one of: {', '.join(self.choices)}.")
            return text
        if not text.isdecimal() or not self.minimum <= int(text) <= self.maximum:
            way_out = f"Give a whole number from {self.minimum} to {self.maximum}."
            raise RequestError(f"`{text}` is no {self.name}", where=self.name, help=way_out)
        return int(text)


@dataclass(frozen=True)
class Settings:
    """The parsed options of a model."""

    values: Mapping[str, int | str]

    def number(self, name: str) -> int:
        return int(self.values[name])

    def text(self, name: str) -> str:
        return str(self.values[name])

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.text("dtype"))

    @property
    def dropout(self) -> float:
        return float(self.values.get("dropout", "0"))


@dataclass(frozen=True)
class ZooModel:
    """A built-in model. `loss` None means the mean of squares of the first output."""

    name: str
    title: str
    summary: str
    options: tuple[Option, ...]
    model: Callable[[Settings], nn.Module]
    inputs: Callable[[Settings], tuple[Any, ...] | dict[str, Any]]
    loss: Callable[[Any], Tensor] | None = None

    def settings(self, given: Mapping[str, str]) -> Settings:
        """Options as text -> values, with defaults for what is not given.

        Raises:
            RequestError: an unknown option, or a value outside its limits.
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                way_out = f"It has: {', '.join(known)}."
                raise RequestError(f"zoo/{self.name} has no option `{name}`", where=name, help=way_out)
        return Settings({name: option.parse(str(given.get(name, option.default))) for name, option in known.items()})


BATCH = Option("batch", 1, "examples at once")
DTYPE = Option("dtype", "float32", "precision of weights and activations", ("float32", "bfloat16", "float64"))
DROPOUT = Option("dropout", "0", "share of activations dropped in training", ("0", "0.1", "0.5"))


def divides(width: int, parts: int, what: str) -> None:
    """Raises RequestError unless `parts` divides `width`."""
    if width % parts:
        raise RequestError(f"width {width} cannot be split into {parts} {what}", where="width", help=f"Give a multiple of {parts}.")
