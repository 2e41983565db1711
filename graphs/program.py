"""Program: a captured GraphModule with its calling convention. Live: it exists only inside a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from graphs.bodies import copied
from graphs.kernels import compile_ahead


@dataclass(frozen=True)
class InputSpec:
    """What one placeholder stands for.

    Attributes:
        node: name of the placeholder.
        role: parameter, buffer, input or seed (the gradient of the loss with respect to itself).
        target: the parameter's or buffer's dotted name, or the position of a flat input as text.
    """

    node: str
    role: str
    target: str


@dataclass(frozen=True)
class OutputSpec:
    """What one output stands for: role (output, loss, gradient, buffer) and the name of what it belongs to."""

    role: str
    target: str


@dataclass(frozen=True)
class Program:
    """A functional ATen graph and what its inputs and outputs mean.

    Attributes:
        gm: the graph; its nodes hold fake tensors in `meta["val"]`, its placeholders their role in `meta["role"]`.
        inputs, outputs: one spec per placeholder and per output.
        tensors: makes the real inputs by role and target for a seed; called only when the graph is to run.
        mode: inference or training.
        device: cpu or cuda; which device's kernels the graph names.
    """

    gm: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    tensors: Callable[[int], Mapping[tuple[str, str], Tensor]] = field(repr=False)
    mode: str
    device: str

    def __post_init__(self) -> None:
        roles = {spec.node: spec.role for spec in self.inputs}
        for node in self.gm.graph.find_nodes(op="placeholder"):
            node.meta["role"] = roles.get(node.name, "")

    def clone(self) -> Program:
        """A copy with a graph of its own; parameters live outside the graph and constants are shared."""
        return Program(copied(self.gm), self.inputs, self.outputs, self.tensors, self.mode, self.device)

    def input_bytes(self) -> int:
        """Bytes of parameters, buffers and inputs: what must be allocated before the graph can run."""
        values = (node.meta.get("val") for node in self.gm.graph.nodes if node.op == "placeholder")
        return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))

    def materialize(self, seed: int = 0) -> list[Tensor]:
        """Real inputs for this graph, in the order of its placeholders, on its device."""
        tensors = self.tensors(seed)
        device = torch.device(self.device)
        return [_placed(tensors[(spec.role, spec.target)], device) for spec in self.inputs]

    def run(self, inputs: Sequence[Tensor], seed: int = 0) -> list[Tensor | None]:
        """Runs the graph on real tensors; random operators start from `seed`. One value per output spec."""
        compile_ahead(self.gm)
        torch.manual_seed(seed)
        with torch.no_grad():
            values = fx.Interpreter(self.gm).run(*inputs)
        return list(values)


def _placed(value: Tensor, device: torch.device) -> Tensor:
    """On the device, detached; a scalar input of Python becomes a tensor."""
    return value.detach().to(device)
