"""Recognizes rotary position embeddings (Su et al. 2021, *RoFormer*, section 3.2.2): x · cos + rotated(x) · sin.

Three ways to rotate pairs of numbers by an angle are in use: the two halves of a head against each other (GPT-NeoX, Llama), neighbours against each other
(GPT-J), and neighbours as one complex number (Llama's first code).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from optimizers.patterns.expressions import ADDITIONS, PRODUCTS, operands, value
from optimizers.patterns.gated import Occurrence, occurrence
from optimizers.patterns.gradients import Gradients, NotWhole, Part, part
from optimizers.patterns.numbering import Numbering, readers, through

aten = torch.ops.aten


def occurrences(graph: fx.Graph) -> Iterator[Occurrence | tuple[fx.Node, str]]:
    """Every rotation of pairs, or a node and the reason why it is none."""
    numbers = Numbering(graph)
    gradients = Gradients(numbers)
    for node in graph.nodes:
        if node.target not in READ or node.meta["origin"].phase == "backward":
            continue
        try:
            whole = READ[node.target](node, numbers)
            if whole is not None:
                yield occurrence(NAMES[node.target], whole, gradients)
        except NotWhole as reason:
            yield node, str(reason)


def _halves(joined: fx.Node, numbers: Numbering) -> Part | None:
    """cat(−second half, first half) of the last dimension."""
    x = _rotated(joined, numbers, lambda node, x: _is_half(node, x, 1), lambda node, x: _is_half(node, x, 0))
    return None if x is None else _turned(joined, x, numbers)


def _neighbours(stacked: fx.Node, numbers: Numbering) -> Part | None:
    """stack(−odd, even) in a new last dimension, flattened."""
    x = _rotated(stacked, numbers, lambda node, x: _is_every_second(node, 1), lambda node, x: _is_every_second(node, 0))
    flat = [reader for reader in readers(stacked) if reader.target in (aten.view.default, aten._unsafe_view.default)]
    if x is None or len(flat) != 1 or value(flat[0]).shape != value(x).shape:
        return None
    return _turned(flat[0], x, numbers)


def _rotated(node: fx.Node, numbers: Numbering, is_second: object, is_first: object) -> fx.Node | None:
    """x of an operator that joins −second(x) and first(x) at the end of the last dimension."""
    parts = node.args[0]
    if (
        not isinstance(parts, (list, tuple))
        or len(parts) != 2
        or (node.args[1] if len(node.args) > 1 else 0) not in (-1, value(node).dim() - 1)
    ):
        return None
    negated, first = (through(each) for each in parts)  # type: ignore[arg-type]
    if negated.target is not aten.neg.default:
        return None
    second = through(negated.args[0])  # type: ignore[arg-type]
    if not second.args or not first.args or not isinstance(second.args[0], fx.Node) or not numbers.same(second.args[0], first.args[0]):
        return None
    x = _source(second)
    return x if is_second(second, x) and is_first(first, x) else None  # type: ignore[operator]


def _source(piece: fx.Node) -> fx.Node:
    """What a slice, or a part of a split, is taken from."""
    source: fx.Node = through(piece.args[0])  # type: ignore[arg-type]
    return through(source.args[0]) if piece.target is operator.getitem else source  # type: ignore[arg-type]


def _is_half(node: fx.Node, x: fx.Node, which: int) -> bool:
    """The first or second half of the last dimension."""
    width = value(x).shape[-1]
    if node.target is operator.getitem:
        return bool(node.args[1] == which) and value(node).shape[-1] * 2 == width
    cut = _cut(node)
    return cut is not None and width % 2 == 0 and cut == (which * width // 2, (which + 1) * width // 2, 1)


def _is_every_second(node: fx.Node, start: int) -> bool:
    cut = _cut(node)
    return cut is not None and (cut[0], cut[2]) == (start, 2) and cut[1] == value(through(node.args[0])).shape[-1]  # type: ignore[arg-type]


def _cut(node: fx.Node) -> tuple[int, int, int] | None:
    """Start, end and step of a slice of the last dimension."""
    if node.target is not aten.slice.Tensor:
        return None
    dim, start, end, step = (*node.args[1:], *(0, 0, 2**63 - 1, 1)[len(node.args) - 1 :])
    whole = value(node.args[0])  # type: ignore[arg-type]
    if not all(isinstance(each, int) for each in (dim, end, step)) or dim % whole.dim() != whole.dim() - 1:  # type: ignore[operator]
        return None
    return int(start or 0), min(int(end), whole.shape[-1]), int(step)  # type: ignore[arg-type]


def _turned(rotated: fx.Node, x: fx.Node, numbers: Numbering) -> Part:
    """x · cos + rotated · sin around the rotated value."""
    by_sin = _only(rotated, PRODUCTS)
    whole = _only(by_sin, ADDITIONS)
    sin = _other(by_sin, rotated, PRODUCTS, numbers)
    by_cos = _other(whole, by_sin, ADDITIONS, numbers)
    pair = operands(by_cos, PRODUCTS)
    if pair is None or not any(numbers.same(each, x) for each in pair):
        raise NotWhole("What is added to rotated(x) · sin is not x · cos.")
    cos = pair[1] if numbers.same(pair[0], x) else pair[0]
    if not isinstance(cos, fx.Node) or value(whole).dtype != value(x).dtype:
        raise NotWhole("x and its rotation differ in dtype.")
    return part(whole, x, cos, sin)


def _only(node: fx.Node, targets: tuple[object, ...]) -> fx.Node:
    found = [reader for reader in readers(node) if reader.op == "output" or reader.meta["origin"].phase != "backward"]
    if len(found) != 1 or found[0].target not in targets:
        raise NotWhole(f"{node.name} is not read by one rotation alone.")
    return found[0]


def _other(node: fx.Node, known: fx.Node, targets: tuple[object, ...], numbers: Numbering) -> fx.Node:
    pair = operands(node, targets)
    other = (pair[1] if numbers.same(pair[0], known) else pair[0]) if pair else None
    if not isinstance(other, fx.Node):
        raise NotWhole(f"{node.name} meets a number.")
    return other


def _complex(turned: fx.Node, numbers: Numbering) -> Part | None:
    """view_as_complex(x) · turns, as real numbers again."""
    product = through(turned.args[0])  # type: ignore[arg-type]
    pair = operands(product, PRODUCTS)
    for one, other in (pair, pair[::-1]) if pair else ():
        if isinstance(one, fx.Node) and isinstance(other, fx.Node) and one.target is aten.view_as_complex.default:
            return part(turned, through(one.args[0]), other)  # type: ignore[arg-type]
    return None


READ = {aten.cat.default: _halves, aten.stack.default: _neighbours, aten.view_as_real.default: _complex}
NAMES = {aten.cat.default: "halves", aten.stack.default: "neighbours", aten.view_as_real.default: "complex"}
