"""Epilogues: what follows a matmul or a convolution element by element, and could be done before its result is written.

`follow` starts at the product and walks to its one reader, that one's one reader and so on, as long as the kernel at hand can do what it
meets. A value on the way exists no longer afterwards, so nobody else may read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optimizers.base import phase_of, value_of
from optimizers.editing import call, prepare
from optimizers.patterns.elementwise_functions import Activation, activation_of, written_by_hand

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
BINARY: dict[object, str] = {aten.add.Tensor: "add", aten.sub.Tensor: "sub", aten.mul.Tensor: "mul"}
SCALES = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


class NotFused(Exception):
    """A product that is left alone; `str(error)` is the reason."""


@dataclass(frozen=True)
class Step:
    """One operator of an epilogue.

    Attributes:
        node: its result takes the place of what it reads.
        kind: view, scale, bias, activation, add, sub or mul.
        inner: nodes within the step, such as the sigmoid of a SiLU written by hand.
        other: where in `node.args` the second operand stands; read it when rewriting, since an earlier match may have replaced it.
        activation, factor: for the kinds activation and scale.
    """

    node: fx.Node
    kind: str
    inner: tuple[fx.Node, ...] = ()
    other: int = -1
    activation: Activation | None = None
    factor: float = 1.0

    @property
    def operand(self) -> fx.Node:
        """The second operand, as it is now."""
        return self.node.args[self.other]  # type: ignore[return-value]

    @property
    def word(self) -> str:
        """What the reader calls it."""
        return self.activation.name if self.activation else self.kind


@dataclass(frozen=True)
class Epilogue:
    """A product and the steps that follow it, at least one of which computes."""

    product: fx.Node
    steps: tuple[Step, ...]

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """Every node that the fused kernel replaces."""
        return (self.product, *(node for step in self.steps for node in (*step.inner, step.node)))

    @property
    def last(self) -> fx.Node:
        """The node whose readers read the kernel's result."""
        return self.steps[-1].node

    def of(self, *kinds: str) -> list[Step]:
        """The steps of these kinds, in order."""
        return [step for step in self.steps if step.kind in kinds]

    @property
    def note(self) -> str:
        """One clause for the reader."""
        return "with " + ", ".join(step.word for step in self.steps if step.kind != "view")


Accepts = Callable[[Epilogue, Step], str]


def follow(product: fx.Node, channel: int, accepts: Accepts, taken: Collection[fx.Node] = ()) -> Epilogue:
    """The longest epilogue that the kernel can do.

    Args:
        product: the matmul or convolution.
        channel: the dimension with one bias for each index.
        accepts: why the kernel cannot do a step after those so far; empty where it can.
        taken: nodes that belong to another epilogue already.

    Raises:
        NotFused: it cannot do the first.
    """
    steps: list[Step] = []
    value, reason = product, ""
    while not reason:
        try:
            step = _next(value, product, channel)
        except NotFused as why:
            reason = str(why)
            break
        if step.node in taken:
            reason = f"{step.node.name} is done in the kernel of the other product that it reads."
        else:
            reason = accepts(Epilogue(product, tuple(steps)), step)
        if not reason:
            steps.append(step)
            value = step.node
    while steps and steps[-1].kind == "view":
        steps.pop()
    if not steps:
        raise NotFused(reason)
    return Epilogue(product, tuple(steps))


def _next(value: fx.Node, product: fx.Node, channel: int) -> Step:
    """What the one reader of a value does with it."""
    single = next(iter(value.users)) if len(value.users) == 1 else None
    activation = activation_of(single) if single is not None else None
    if single is not None and activation is not None:
        return Step(single, "activation", activation=activation)
    by_hand = written_by_hand(value)
    if by_hand is not None:
        nodes, activation = by_hand
        return Step(nodes[-1], "activation", inner=tuple(nodes[:-1]), activation=activation)
    reader = _only_reader(value)
    if reader.target in VIEWS:
        if channel == -1 and value_of(reader).shape[-1:] == value_of(product).shape[-1:]:
            return Step(reader, "view")
        raise NotFused(f"{reader.name} reads it in another shape.")
    if value_of(reader).dtype != value_of(value).dtype:
        raise NotFused(f"{reader.name} gives another dtype.")
    if reader.target in SCALES and isinstance(reader.args[1], (int, float)) and reader.args[0] is value:
        return Step(reader, "scale", factor=_factor(reader))
    if reader.target in BINARY and all(isinstance(arg, fx.Node) for arg in reader.args[:2]):
        return _binary(reader, value, product, channel)
    raise NotFused("Nothing follows it that its kernel could do for each element.")


def _only_reader(value: fx.Node) -> fx.Node:
    readers = list(value.users)
    if any(reader.op == "output" for reader in readers):
        raise NotFused(f"{value.name} is an output of the graph, so it must exist.")
    if not readers:
        raise NotFused("Nobody reads it.")
    late = [reader for reader in readers if phase_of(reader) == "backward"]
    if late and len(readers) > 1:
        raise NotFused(f"Backward reads {value.name}, the value before {readers[0].name}, at {late[0].name}, so it must exist.")
    if len(readers) > 1:
        raise NotFused(f"{value.name} is read by {readers[0].name} and by {readers[1].name}, so it must exist.")
    if not isinstance(readers[0].meta.get("val"), Tensor):
        raise NotFused("Nothing follows it that its kernel could do for each element.")
    return readers[0]


def _factor(node: fx.Node) -> float:
    number = float(node.args[1])  # type: ignore[arg-type]
    divides = node.target in (aten.div.Tensor, aten.div.Scalar)
    factor = (1 / number if number else math.inf) if divides else number
    if not math.isfinite(factor) or factor == 0:
        raise NotFused(f"{node.name} scales by {factor}, which weights cannot take up.")
    return factor


def _binary(node: fx.Node, value: fx.Node, product: fx.Node, channel: int) -> Step:
    """A sum, difference or product with a second tensor."""
    kind = BINARY[node.target]
    place = 1 if node.args[0] is value else 0
    other = node.args[place]
    assert isinstance(other, fx.Node)
    if other is value:
        raise NotFused(f"{node.name} reads {value.name} twice.")
    if node.kwargs.get("alpha", 1) != 1:
        raise NotFused(f"{node.name} scales its second operand.")
    if kind == "sub" and place == 0:
        raise NotFused(f"{node.name} subtracts the result from something; the kernel subtracts from the result only.")
    if value_of(other).dtype != value_of(value).dtype or value_of(node).shape != value_of(value).shape:
        raise NotFused(f"The second operand of {node.name} has another dtype, or is larger.")
    count = value_of(product).shape[channel]
    if kind == "add" and is_bias(value_of(other), value_of(value), channel, count):
        return Step(node, "bias", other=place)
    return Step(node, kind, other=place)


def is_bias(other: Tensor, value: Tensor, channel: int, count: int) -> bool:
    """Does it hold one number for each channel, the same at every other place?"""
    place = channel % value.dim() - (value.dim() - other.dim())
    return other.numel() == count and 0 <= place < other.dim() and other.shape[place] == count


def why_not_absorbed(so_far: Epilogue, step: Step, weight: fx.Node, bias: fx.Node | None, once: Collection[fx.Node]) -> str:
    """Why a scale or a bias cannot go into the product's own weight and bias.

    Args:
        once: what may be worked on once and not in every run.
    """
    biases = [node for node in (bias, *(earlier.operand for earlier in so_far.of("bias"))) if node is not None]
    if step.kind == "bias":
        return "It has a bias already." if biases else ""
    if weight not in once or any(node not in once for node in biases):
        return f"The scale of {step.node.name} would have to go into weights that are computed, or change, in every run."
    if value_of(weight).dtype != torch.float32:
        return f"Scaled weights would be rounded to {str(value_of(weight).dtype).removeprefix('torch.')} once more."
    return ""


def absorb(gm: fx.GraphModule, found: Epilogue, bias: fx.Node | None) -> tuple[float, fx.Node | None]:
    """What the weight has to be multiplied with, and the bias [channels] after the steps of kind scale and bias."""
    factor = 1.0
    for step in found.of("scale", "bias"):
        if step.kind == "bias":
            bias = step.operand if value_of(step.operand).dim() == 1 else call(gm, aten.view.default, step.operand, [-1])
            continue
        factor *= step.factor
        if bias is not None:
            bias = prepare(gm, "scaled_bias", lambda values, by=step.factor: values * by, bias)
    return factor, bias
