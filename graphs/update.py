"""The optimizer's update as part of the training graph: forward, backward, update, one step of training in one picture.

SGD without momentum: w ← w − lr·g. AdamW: Loshchilov and Hutter 2019, *Decoupled Weight Decay Regularization*, algorithm 2; in the
operators of torch.optim.AdamW with `capturable=True`, whose number of steps is a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode

from graphs.names import rename_in_order
from graphs.origin import Origin
from graphs.program import InputSpec, OutputSpec

aten = torch.ops.aten
LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY = 1e-3, 0.9, 0.999, 1e-8, 1e-2
STEP = "step"
FIRST, SECOND = "exp_avg", "exp_avg_sq"


class _Writer:
    """Appends nodes of the phase `update`, with their fake values."""

    def __init__(self, graph: fx.Graph, mode: FakeTensorMode) -> None:
        self.graph, self.mode = graph, mode
        self.last_input = list(graph.find_nodes(op="placeholder"))[-1]
        self.output = graph.output_node()

    def state(self, name: str, module: str, like: Tensor | None) -> fx.Node:
        """An input that holds the optimizer's state."""
        with self.graph.inserting_after(self.last_input):
            node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty_like(like) if like is not None else torch.empty((), dtype=torch.float32)
        node.meta["origin"] = Origin("update", module, None, (node.name,))
        self.last_input = node
        return node

    def call(self, module: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_before(self.output):
            node = self.graph.call_function(target, args, kwargs)
        values, named = fx.map_arg((args, kwargs), lambda read: read.meta["val"])  # type: ignore[misc]
        with self.mode, torch.no_grad():
            node.meta["val"] = target(*values, **named)
        node.meta["origin"] = Origin("update", module, None, (node.name,))
        node.meta["placed"] = True
        return node


def with_update(
    gm: fx.GraphModule, inputs: list[InputSpec], outputs: list[OutputSpec], kind: str
) -> tuple[list[InputSpec], list[OutputSpec]]:
    """Appends the update of every parameter that has a gradient, in place: gradients are read by it and are outputs no more.

    Args:
        kind: sgd or adamw.
    """
    graph = gm.graph
    nodes = {node.name: node for node in graph.find_nodes(op="placeholder")}
    output = graph.output_node()
    values: list[fx.Node] = list(output.args[0])  # type: ignore[arg-type]
    parameters = {spec.target: nodes[spec.node] for spec in inputs if spec.role == "parameter"}
    mode = detect_fake_mode([node.meta["val"] for node in parameters.values()])
    assert mode is not None
    writer = _Writer(graph, mode)
    gradients = {s.target: v for s, v in zip(outputs, values, strict=True) if s.role == "gradient" and s.target in parameters}
    kept = [(s, v) for s, v in zip(outputs, values, strict=True) if not (s.role == "gradient" and s.target in gradients)]
    new_inputs: list[InputSpec] = []
    shared = _adamw_shared(writer, new_inputs) if kind == "adamw" and gradients else None
    for name, gradient in gradients.items():
        module = parameters[name].meta["origin"].module
        if shared is None:
            updated = writer.call(module, aten.sub.Tensor, parameters[name], gradient, alpha=LEARNING_RATE)
            kept.append((OutputSpec("parameter", name), updated))
        else:
            kept += _adamw(writer, new_inputs, name, parameters[name], gradient, shared)
    if shared is not None:
        kept.append((OutputSpec("state", STEP), shared[0]))
    output.args = (tuple(value for _, value in kept),)
    everything = [*inputs, *new_inputs]
    order = {node.name: at for at, node in enumerate(graph.find_nodes(op="placeholder"))}
    everything.sort(key=lambda spec: order[spec.node])
    rename_in_order(graph, everything)
    placeholders = graph.find_nodes(op="placeholder")
    for node in graph.nodes:
        node.meta["origin"] = Origin(node.meta["origin"].phase, node.meta["origin"].module, node.meta["origin"].source, (node.name,))
    gm.recompile()
    named = [InputSpec(node.name, spec.role, spec.target) for spec, node in zip(everything, placeholders, strict=True)]
    return named, [spec for spec, _ in kept]


def _adamw_shared(writer: _Writer, inputs: list[InputSpec]) -> tuple[fx.Node, fx.Node, fx.Node]:
    """What all parameters share: the step's number, −lr/(1 − β₁ᵗ), and √(1 − β₂ᵗ)."""
    before = writer.state(STEP, "", None)
    inputs.append(InputSpec(before.name, "state", STEP))
    step = writer.call("", aten.add.Scalar, before, 1)
    first = writer.call("", aten.rsub.Scalar, writer.call("", aten.pow.Scalar, BETA1, step), 1)
    size = writer.call(
        "", aten.neg.default, writer.call("", aten.mul.Scalar, writer.call("", aten.reciprocal.default, first), LEARNING_RATE)
    )
    second = writer.call("", aten.rsub.Scalar, writer.call("", aten.pow.Scalar, BETA2, step), 1)
    return step, size, writer.call("", aten.sqrt.default, second)


def _adamw(
    writer: _Writer, inputs: list[InputSpec], name: str, parameter: fx.Node, gradient: fx.Node, shared: tuple[fx.Node, fx.Node, fx.Node]
) -> list[tuple[OutputSpec, fx.Node]]:
    """New parameter and new moments, all of the parameter's shape."""
    module, like = parameter.meta["origin"].module, parameter.meta["val"]
    states = {}
    for which in (FIRST, SECOND):
        states[which] = writer.state(f"{which}_{name}".replace(".", "_"), module, like)
        inputs.append(InputSpec(states[which].name, "state", f"{which}.{name}"))
    _, size, root = shared

    def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return writer.call(module, target, *args, **kwargs)

    decayed = call(aten.mul.Tensor, parameter, 1 - LEARNING_RATE * DECAY)
    first = call(aten.lerp.Scalar, states[FIRST], gradient, 1 - BETA1)
    second = call(aten.addcmul.default, call(aten.mul.Tensor, states[SECOND], BETA2), gradient, gradient, value=1 - BETA2)
    scale = call(aten.div.Tensor, call(aten.sqrt.default, second), call(aten.mul.Tensor, root, size))
    bottom = call(aten.add.Tensor, scale, call(aten.mul.Scalar, call(aten.reciprocal.default, size), EPSILON))
    updated = call(aten.addcdiv.default, decayed, first, bottom)
    specs = (OutputSpec("parameter", name), OutputSpec("state", f"{FIRST}.{name}"), OutputSpec("state", f"{SECOND}.{name}"))
    return list(zip(specs, (updated, first, second), strict=True))


def state_tensors(parameters: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Moments as they are after some steps: small, the second positive; the number of steps done is 10."""
    found = {("state", STEP): torch.tensor(10.0)}
    for name, value in parameters.items():
        found["state", f"{FIRST}.{name}"] = 0.01 * torch.randn_like(value)
        found["state", f"{SECOND}.{name}"] = 1e-4 * torch.rand_like(value)
    return found
