"""Recognizes gated linear units: an activation of one value times another (Shazeer 2020, *GLU Variants Improve Transformer*, section 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from optimizers.patterns.expressions import PRODUCTS, operands, value
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part, part, total
from optimizers.patterns.numbering import Numbering, readers, through

aten = torch.ops.aten
ACTIVATIONS = {
    aten.silu.default: "SwiGLU",
    aten.gelu.default: "GEGLU",
    aten.relu.default: "ReGLU",
    aten.sigmoid.default: "GLU",
}


@dataclass(frozen=True)
class Occurrence:
    """One occurrence of a pattern, forward and backward.

    Attributes:
        name: what it is called.
        forward: nodes of the forward pass, in order; the last is the result.
        backward: everything that its backward is; empty where there is none.
        saved: forward nodes that backward reads, which are computed again there if both are to be kernels.
    """

    name: str
    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    saved: tuple[fx.Node, ...]


def occurrences(graph: fx.Graph) -> Iterator[Occurrence | tuple[fx.Node, str]]:
    """Every gated linear unit, or a node and the reason why it is none."""
    numbers = Numbering(graph)
    gradients = Gradients(numbers)
    for node in graph.nodes:
        if node.target not in ACTIVATIONS or node.meta["origin"].phase == "backward":
            continue
        try:
            whole = read(node, numbers)
            if whole is not None:
                yield occurrence(ACTIVATIONS[node.target], whole, gradients)
        except NotWhole as reason:
            yield node, str(reason)


def read(activation: fx.Node, numbers: Numbering) -> Part | None:
    """activation(gate) · up; None where no product of two values of one shape reads the activation."""
    gate = through(activation.args[0])  # type: ignore[arg-type]
    products = [reader for reader in readers(activation) if reader.op == "call_function" and reader.meta["origin"].phase != "backward"]
    pair = operands(products[0], PRODUCTS) if len(products) == 1 else None
    if pair is None:
        return None
    up = pair[1] if numbers.same(pair[0], activation) else pair[0]
    if not isinstance(up, fx.Node) or up is gate or value(up).shape != value(activation).shape:
        return None
    if value(up).dtype != value(activation).dtype:
        raise NotWhole("Gate and value differ in dtype.")
    return part(products[0], gate, up)


def occurrence(name: str, whole: Part, gradients: Gradients) -> Occurrence:
    """A part with its backward and the additions that sum its own terms.

    Raises:
        NotWhole: others read what is inside.
    """
    found = gradients.whole(whole)
    if found is None:
        return Occurrence(name, whole.nodes, (), ())
    backward = {*found.nodes, *(node for terms in found.terms for node in own_sums(terms, found))}
    saved = [node for node in whole.nodes[:-1] if any(reader in backward for reader in readers(node))]
    return Occurrence(name, whole.nodes, tuple(sorted(backward)), tuple(saved))


def own_sums(terms: list[fx.Node], backward: Backward) -> list[fx.Node]:
    """The additions that sum the terms of one input, as long as nothing else comes in between."""
    if len(terms) < 2:
        return []
    root, inside, found = total(terms, backward.nodes), set(terms), []
    for node in sorted({reader for term in terms for reader in readers(term)} | {root}):
        queue = [node]
        while queue:
            each = queue.pop()
            if each.target is aten.add.Tensor and each not in inside and all(through(arg) in inside for arg in each.all_input_nodes):
                inside.add(each)
                found.append(each)
                if each is not root:
                    queue.extend(readers(each))
    return found
