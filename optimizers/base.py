"""What an optimization is: where it applies, what it changes, what it promises, and examples that show it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from graphs.options import CaptureOptions
from graphs.randomness import is_random as is_random
from graphs.sources.base import ModelSource
from optimizers.record import Claim, Exactness, OptimizationRecord, PairRecord, Parameter

COPY_OF = "copy of"  # in meta of a node that a rewrite makes: the node of which it is a copy, on the same values; whoever reads one may read the other


@dataclass(frozen=True)
class Match:
    """A place where the optimization applies.

    Attributes:
        anchor: the node that names the place (`only=NAME` picks it).
        nodes: every node the rewrite touches; their origins become those of the new nodes.
        data: what `find` learnt and `rewrite` needs.
        note: one clause for the reader.
    """

    anchor: fx.Node
    nodes: tuple[fx.Node, ...]
    data: Any = None
    note: str = ""


@dataclass(frozen=True)
class Miss:
    """A near-match and the reason, one sentence, why it is left alone."""

    node: fx.Node
    reason: str


@dataclass(frozen=True)
class Example:
    """A small model with the number of matches expected in it, or, for a refusal, a part of the reason given. `options` are of its capture."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    mode: str = "inference"
    matches: int = 0
    reason: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    options: CaptureOptions = CaptureOptions()

    def source(self) -> ModelSource:
        return ModelSource("example", self.model, self.inputs, None, ())


@dataclass(frozen=True)
class Optimization:
    """One optimization. `find(gm, **parameters)` only reads; `rewrite(gm, match)` changes one place. `explain(gm, **parameters)`, of those that
    have one, says for every producer and consumer whether they come together, and why not. What is `costly` to find is not looked for unasked. What holds
    for `finite` values only may give another result where infinities, or values that overflow in between, meet one another. What is declared safe `in_place`
    sees a graph that writes into its own tensors as it is; for others it is made functional while they look (`optimizers/in_place.py`)."""

    name: str
    summary: str
    find: Callable[..., Iterator[Match | Miss]]
    rewrite: Callable[[fx.GraphModule, Match], None]
    claim: Claim
    examples: tuple[Example, ...]
    refusals: tuple[Example, ...]
    exactness: Exactness
    parameters: tuple[Parameter, ...] = ()
    applies_to: tuple[str, ...] = ("inference", "training")
    explain: Callable[..., list[PairRecord]] | None = None
    costly: bool = False
    finite: bool = False
    in_place: bool = False

    @property
    def record(self) -> OptimizationRecord:
        """The catalog's entry; the lesson is the docstring of the file that holds `find`."""
        module = self.find.__module__
        lesson = inspect.cleandoc(sys.modules[module].__doc__ or "")
        kind = module.split(".")[-2]
        return OptimizationRecord(
            self.name, kind, self.summary, lesson, self.claim, self.exactness, self.parameters, self.applies_to, self.explain is not None
        )


class Function(nn.Module):
    """A plain function of tensors as a module, for examples."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def value_of(node: fx.Node) -> Tensor:
    """The node's fake tensor."""
    return node.meta["val"]


def phase_of(node: fx.Node) -> str:
    """forward, loss, backward, update or recompute."""
    return node.meta["origin"].phase
