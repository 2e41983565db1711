"""Program: a captured GraphModule with its calling convention. Live: it exists only inside a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from graphs.bodies import copied
from graphs.in_place import SUCCESSOR, overwritten
from graphs.kernels import compile_ahead

RENEWED = ("parameter", "buffer", "state")  # roles of inputs whose new value may be an output


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
    """An ATen graph, functional unless a step made it write in place, and what its inputs and outputs mean.

    Attributes:
        gm: the graph; its nodes hold fake tensors in `meta["val"]`, its placeholders their role in `meta["role"]`. It writes into none of its
            inputs but those that it `overwrites`.
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
        specs = {spec.node: spec for spec in self.inputs}
        renewed = {(spec.role, spec.target): at for at, spec in enumerate(self.outputs) if spec.role in RENEWED}
        for node in self.gm.graph.find_nodes(op="placeholder"):
            spec = specs.get(node.name)
            node.meta["role"] = spec.role if spec else ""
            if spec and (spec.role, spec.target) in renewed:
                node.meta[SUCCESSOR] = renewed[spec.role, spec.target]

    def clone(self) -> Program:
        """A copy with a graph of its own; parameters live outside the graph and constants are shared."""
        return Program(copied(self.gm), self.inputs, self.outputs, self.tensors, self.mode, self.device)

    def input_bytes(self) -> int:
        """Bytes of parameters, buffers and inputs: what must be allocated before the graph can run."""
        values = (node.meta.get("val") for node in self.gm.graph.nodes if node.op == "placeholder")
        return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))

    def overwrites(self) -> set[int]:
        """Positions of the inputs whose new value is written where the old one was."""
        gone = {node.name for node in overwritten(self.gm.graph)}
        return {at for at, spec in enumerate(self.inputs) if spec.node in gone}

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
