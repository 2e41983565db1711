"""A graph of what ran: one eager run of the model, every operator written down as it is dispatched. Not a program: to look at only.

Python decides while it runs, so the graph holds for this one input. Operators that change a tensor in place are shown as such.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphs.names import rename_in_order, stem
from graphs.origin import Origin, source_of_frames
from graphs.program import InputSpec, OutputSpec, Program

Forward = Callable[[], tuple[Tensor, ...]]


class _Recorder(TorchDispatchMode):
    """Writes an fx node for each operator; tensors are known by identity and kept alive, so that identities stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_higher_order_operators = True  # a branch or a loop is one node: what ran inside is not seen
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.kept: list[Any] = []
        self.constants: dict[str, Tensor] = {}
        self.modules: list[str] = []
        self.backward = False
        self.by_number: dict[int, Origin] = {}

    def known(self, value: Tensor, name: str, role: str) -> fx.Node:
        """An input of the graph: a parameter, a buffer or an argument."""
        node = self.graph.placeholder(f"in_{len(self.kept)}")
        node.meta["val"], node.meta["origin"] = value.detach(), Origin("forward", name.rpartition(".")[0], None, (name,))
        self.nodes[id(value)] = node
        self.kept.append(value)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        value = func(*args, **kwargs)
        node_args, node_kwargs = pytree.tree_map_only(Tensor, self._node, (args, kwargs))
        if isinstance(func, torch._ops.HigherOrderOperator):
            node_args = pytree.tree_map(lambda held: "body" if callable(held) else held, node_args)
        node = self.graph.call_function(func, node_args, node_kwargs)
        node.meta["val"] = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), value)
        node.meta["origin"] = self._origin(node)
        self._know(value, node)
        return value

    def _node(self, value: Tensor) -> fx.Node:
        if id(value) not in self.nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            node = self.graph.create_node("get_attr", name)
            node.meta["val"], node.meta["origin"] = value.detach(), Origin("forward", self._module(), None, (name,))
            self.nodes[id(value)] = node
            self.kept.append(value)
        return self.nodes[id(value)]

    def _know(self, value: Any, node: fx.Node) -> None:
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
            self.kept.append(value)
        elif isinstance(value, tuple | list):
            for index, part in enumerate(value):
                if isinstance(part, Tensor):
                    item = self.graph.call_function(operator.getitem, (node, index))
                    item.meta["val"], item.meta["origin"], item.meta["placed"] = part.detach(), node.meta["origin"], node.meta["placed"]
                    self._know(part, item)

    def leave(self, *_: Any) -> None:
        """A module's forward is over."""
        if not torch.compiler.is_dynamo_compiling():
            self.modules.pop()

    def enter(self, path: str) -> None:
        """A module's forward begins. The branches of torch.cond are read by TorchDynamo, which allows no side effects."""
        if not torch.compiler.is_dynamo_compiling():
            self.modules.append(path)

    def _module(self) -> str:
        return self.modules[-1] if self.modules else ""

    def _origin(self, node: fx.Node) -> Origin:
        if self.backward:
            forward = self.by_number.get(_backward_number())
            node.meta["placed"] = forward is not None
            return Origin("backward", forward.module if forward else "", forward.source if forward else None, (node.name,))
        frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in traceback.extract_stack(limit=60)]
        module = self._module()
        node.meta["placed"] = True  # the path of the model itself is empty, and known all the same
        phase = "loss" if module == "loss" else "forward"
        origin = Origin(phase, module, source_of_frames(frames), (node.name,))
        self.by_number.setdefault(_sequence_number(), origin)
        return origin


def _sequence_number() -> int:
    """The number that autograd gives to the node which the operator being run will have in backward."""
    return torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]


def _backward_number() -> int:
    node = torch._C._current_autograd_node()
    return node._sequence_nr() if node is not None else -1


def run_graph(wrapper: nn.Module, args: tuple[Any, ...], names: list[str], mode: str, device: str) -> Program:
    """The graph of one run of the wrapped model, with backward in training.

    Raises: whatever the model raises.
    """
    recorder = _Recorder()
    specs: list[InputSpec] = []

    def note(value: Any, role: str, name: str) -> None:
        if isinstance(value, Tensor) and id(value) not in recorder.nodes:
            specs.append(InputSpec(recorder.known(value, name, role).name, role, name))

    for name, value in wrapper.named_parameters():
        note(value, "parameter", name.removeprefix("model."))
    for name, value in wrapper.named_buffers():
        note(value, "buffer", name.removeprefix("model."))
    for name, value in zip(names, pytree.tree_leaves(args), strict=True):
        note(value, "input", name)
    hooks = _follow(wrapper, recorder)
    try:
        with recorder, torch.set_grad_enabled(mode == "training"):
            outputs = wrapper(*args)
            gradients = _gradients(wrapper, outputs, recorder) if mode == "training" else []
    finally:
        for hook in hooks:
            hook.remove()
        torch._dynamo.reset()  # pyright: ignore[reportPrivateImportUsage]  # it remembers that it could not read torch.cond here
    return _program(recorder, specs, outputs, gradients, mode, device)


def _follow(wrapper: nn.Module, recorder: _Recorder) -> list[Any]:
    """Keeps the stack of modules whose forward is running."""
    hooks: list[Any] = []
    for name, module in wrapper.named_modules():
        path = name.removeprefix("model").lstrip(".")
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: recorder.enter(path)))
        hooks.append(module.register_forward_hook(recorder.leave, always_call=True))
    return hooks


def _gradients(wrapper: nn.Module, outputs: tuple[Tensor, ...], recorder: _Recorder) -> list[tuple[str, Tensor]]:
    wanted = [(name.removeprefix("model."), value) for name, value in wrapper.named_parameters() if value.requires_grad]
    recorder.backward = True
    found = torch.autograd.grad(outputs[0], [value for _, value in wanted], allow_unused=True)
    return [(name, gradient) for (name, _), gradient in zip(wanted, found, strict=True) if gradient is not None]


def _program(
    recorder: _Recorder, specs: list[InputSpec], outputs: tuple[Tensor, ...], gradients: list[tuple[str, Tensor]], mode: str, device: str
) -> Program:
    training = mode == "training"
    plain = [(OutputSpec("loss" if training and not at else "output", str(at)), value) for at, value in enumerate(outputs)]
    made = [*plain, *((OutputSpec("gradient", name), value) for name, value in gradients)]
    read = [(spec, recorder.nodes[id(value)]) for spec, value in made if id(value) in recorder.nodes]
    output = recorder.graph.output(tuple(node for _, node in read))
    output.meta["origin"] = Origin("backward" if training else "forward", "", None, ("output",))
    rename_in_order(recorder.graph, specs)
    holder = nn.Module()
    for name, value in recorder.constants.items():
        holder.register_buffer(name, value.detach())
    gm = fx.GraphModule(holder, recorder.graph)
    named = [InputSpec(node.name, s.role, s.target) for s, node in zip(specs, recorder.graph.find_nodes(op="placeholder"), strict=True)]
    for node in recorder.graph.nodes:
        origin = node.meta["origin"]
        node.meta["origin"] = Origin(origin.phase, origin.module, origin.source, (node.name,))

    def tensors(seed: int) -> dict[tuple[str, str], Tensor]:
        raise NotImplementedError(stem(output))  # a graph of one run is never run again

    return Program(gm, tuple(named), tuple(spec for spec, _ in read), tensors, "training" if training else "inference", device)
