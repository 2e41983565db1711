"""A graph that another program wrote, as a module: run node by node, with its weights under their own names.

It runs without generated code, and each node says in its `meta` which module and which line of the reader's file it stands for, so that
every operator that it dispatches (and every gradient of one) knows them too.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback as fx_traceback

WRAPPER = "model"  # where a traced wrapper holds the model
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


@dataclass(frozen=True)
class Line:
    """A line of the reader's file; its text has no line break."""

    file: str
    number: int
    text: str


@dataclass(frozen=True)
class ForeignGraph:
    """What a file holds, read once; modules are built from it as often as needed.

    Attributes:
        graph: placeholders are the inputs; `get_attr` nodes name a tensor, a constant or a region.
        parameters, buffers: by dotted name.
        constants: tensors that are no part of the model's state.
        regions: graphs within the graph, such as the branches of a condition.
        inputs: what the arguments are called, in order.
    """

    graph: fx.Graph
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    regions: Mapping[str, nn.Module] = field(default_factory=dict)


class Interpreted(nn.Module):
    """The module of a foreign graph. Arguments come by position or by the names of the graph's inputs."""

    def __init__(self, foreign: ForeignGraph) -> None:
        super().__init__()
        self._foreign = foreign
        self._names: dict[str, str] = {}  # as the graph has it -> as the module has it
        made: dict[int, Tensor] = {}  # tensors that the file ties together stay tied
        for name, value in foreign.parameters.items():
            self._hold(name, made.setdefault(id(value), nn.Parameter(_fresh(value))))
        for name, value in foreign.buffers.items():
            self._hold(name, made.setdefault(id(value), _fresh(value)))

    def forward(self, /, *args: Any, **named: Any) -> Any:
        given = (*args, *(named[name] for name in self._foreign.inputs[len(args) :] if name in named))
        with fx_traceback.preserve_node_meta():
            return _Run(self, self._foreign.graph, given).run(*given)

    def held(self, target: str) -> Any:
        """What a `get_attr` node of the graph reads."""
        if target in self._foreign.constants:
            return self._foreign.constants[target]
        if target in self._foreign.regions:
            return self._foreign.regions[target]
        found: Any = self
        for part in self._names[target].split("."):
            found = getattr(found, part)
        return found

    def _hold(self, name: str, value: Tensor) -> None:
        """Registers a tensor under its dotted name, in modules that are made on the way."""
        *path, last = [re.sub(r"\W", "_", part) or "_" for part in name.split(".")]
        owner: nn.Module = self
        taken: list[str] = []
        for part in path:
            taken.append(_free(owner, part, nn.Module))
            if taken[-1] not in owner._modules:
                owner.add_module(taken[-1], nn.Module())
            owner = owner._modules[taken[-1]] or owner
        taken.append(_free(owner, last, None))
        if isinstance(value, nn.Parameter):
            owner.register_parameter(taken[-1], value)
        else:
            owner.register_buffer(taken[-1], value)
        self._names[name] = ".".join(taken)


def _free(owner: nn.Module, name: str, kind: type[nn.Module] | None) -> str:
    """The name, with underscores where the module has it for something else already."""
    while hasattr(owner, name) and not (kind and name in owner._modules):
        name += "_"
    return name


def _fresh(value: Tensor) -> Tensor:
    """A copy: a capture may change it. Under fake tensors a fake one, without a copy; on the device that is asked for."""
    return value.detach().clone().to(torch.get_default_device())


class _Nodes(fx.Interpreter):
    """Runs node by node. Devices that the file names become the device of this run; regions within run node by node too."""

    device = torch.device("cpu")

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = self.module.held(target) if isinstance(self.module, Interpreted) else super().get_attr(target, args, kwargs)
        return _Region(found, self.device) if isinstance(found, fx.GraphModule) else found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        here = [self.device if isinstance(value, torch.device) else value for value in args]
        named = {key: self.device if isinstance(value, torch.device) else value for key, value in kwargs.items()}
        return super().call_function(target, tuple(here), named)


class _Region(nn.Module):
    """A region of the graph, which keeps its lines; as a module, since that is what operators with branches take."""

    def __init__(self, region: fx.GraphModule, device: torch.device) -> None:
        super().__init__()
        self.region, self.device = region, device

    def forward(self, *args: Any) -> Any:
        nodes = _Nodes(self.region)
        nodes.device = self.device
        return nodes.run(*args)


class _Run(_Nodes):
    """One run of the whole graph; an error tells the line it happened at."""

    def __init__(self, model: Interpreted, graph: fx.Graph, given: tuple[Any, ...]) -> None:
        super().__init__(model, graph=graph)
        tensors = (value for value in (*given, *model.parameters(), *model.buffers()) if isinstance(value, Tensor))
        self.device = next((value.device for value in tensors), self.device)
        self.extra_traceback = False

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        assert isinstance(self.module, Interpreted)
        return self.module.held(target)(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except Exception as error:
            line: Line | None = n.meta.get("line")
            if line is None:
                raise
            _raise_at(line, error)


def _raise_at(line: Line, error: Exception) -> None:
    """Raises an error from a frame that has the file and number of the line, where whoever explains it will look."""
    exec(compile("\n" * (min(line.number, 1_000_000) - 1) + "raise error", line.file, "exec"), {"error": error})


def place(node: fx.Node, module: str, line: Line | None) -> None:
    """Writes module path and line into a node."""
    path = f"{WRAPPER}.{module}" if module else WRAPPER
    node.meta = {"nn_module_stack": {path: (path, "")}}
    if line is not None:
        node.meta["line"] = line
        node.meta["stack_trace"] = f'  File "{line.file}", line {line.number}, in forward\n    {line.text}\n'


def after(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that follow one, to the end of the graph."""
    following = node.next
    while following.op != "root":
        yield following
        following = following.next


def fill_gaps(graph: fx.Graph) -> None:
    """A node without a place, which some rewrite made, has that of the node before it."""
    before: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and "line" not in node.meta:
            node.meta = {**node.meta, **before}
        elif "line" in node.meta:
            before = {key: node.meta[key] for key in ("line", "stack_trace", "nn_module_stack")}


def one_line(text: str, limit: int = 200) -> str:
    """Text for a line: without control characters, not too long."""
    clean = CONTROL.sub(" ", text).strip()
    return clean if len(clean) <= limit else f"{clean[:limit]}…"


def remember_lines(graph: fx.Graph) -> tuple[str, ...]:
    """Tells Python what the lines are, for its tracebacks, so that it looks for no file of that name. Returns the files."""
    texts: dict[str, dict[int, str]] = {}
    for node in graph.nodes:
        line: Line | None = node.meta.get("line")
        if line is not None and line.number < 1_000_000:
            texts.setdefault(line.file, {})[line.number] = line.text
    for file, known in texts.items():
        lines = [f"{known.get(number, '')}\n" for number in range(1, max(known) + 1)]
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    return tuple(texts)
