"""fx graphs as Python functions: one line for each node, in the graph's order.

A line frees what nobody reads after it (`del`), as the app's interpreter does, so that the function needs the memory that was counted.
What a node calls that is no operator of torch stands in the file as a function of its own: the body of a fused region, an operator of ours, the
branch of a `cond`.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._library.custom_ops import OPDEFS

from graphs.bodies import held_graph, kind_of
from graphs.errors import RequestError
from graphs.exporting.inputs import constant
from graphs.exporting.literals import WAY_OUT, literal, one_line, shape_text
from graphs.exporting.written_out import Carried
from graphs.kernels import Kernel, text_of
from graphs.origin import Origin
from graphs.program import Program
from graphs.regions import Prepared, Region

PYTHON = {"_operator": "operator", "math": "math", "builtins": "", "torch": "torch", "torch.fx.experimental.symbolic_shapes": ""}
LOOPS = {"cond": "cond", "while_loop": "while_loop", "scan": "scan", "map_impl": "map_slices"}
OURS = {"arrived": ("graphs.host", "_arrived")}  # defined without torch.library.custom_op
FUNCTIONS = ("fused_", "prepared_", "inner_")  # how functions begin, and no local name does
NOT_A_WORD = re.compile(r"\W+")


@dataclass
class Writer:
    """What the functions of one file share.

    Attributes:
        device: the programs'; reserved: names that the rest of the file has taken.
        functions: texts of bodies, kernels and branches, in the order in which they must stand.
        constants: key -> expression of a tensor that the graph holds.
        used: what of the rest of the file the functions call.
    """

    device: str
    carried: Carried
    reserved: set[str]
    functions: list[str] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _bodies: dict[tuple[str, str], str] = field(default_factory=dict)
    _held: dict[int, str] = field(default_factory=dict)
    _tensors: dict[int, tuple[Tensor, str]] = field(default_factory=dict)

    def program(self, name: str, program: Program, doc: str) -> str:
        """A program as `def name(given)`: its inputs by role and name, its outputs as a list."""
        targets = {spec.node: f"{spec.role} {spec.target}" for spec in program.inputs}
        writing = _Function(self, program.gm)
        said = one_line(doc).replace("\\", "/").replace('"', "'")
        lines = [f"def {name}(given):", f'    """{said}"""']
        outputs = [one_line(f"{spec.role} {spec.target}") for spec in program.outputs]
        lines += writing.lines(lambda node: f"given[{targets[node.name]!r}]", outputs)
        return "\n".join(lines)

    def body(self, wish: str, gm: fx.GraphModule) -> str:
        """A graph inside of a graph as a function of its placeholders; equal ones once. Returns its name."""
        key = (NOT_A_WORD.sub("_", wish), text_of(gm))
        if key not in self._bodies:
            name = self._bodies[key] = self.fresh(key[0])
            writing = _Function(self, gm)
            parameters = ", ".join(writing.name(node) for node in gm.graph.find_nodes(op="placeholder"))
            self.functions.append("\n".join([f"def {name}({parameters}):", *writing.lines(None, [])]))
        return self._bodies[key]

    def region(self, region: Region) -> str:
        """A fused region: its body, and for a kernel the code that was generated for it. Returns the callable's name."""
        body = self.body(f"fused_{region.name}", region.body)
        if isinstance(region, Prepared):
            self.used.add("Prepared")
            return self._once(region, body.replace("fused_", "prepared_", 1), lambda name: f"{name} = Prepared({body})")
        if not isinstance(region, Kernel):
            return body
        return self._once(region.key, f"{body}_kernel", lambda name: self._kernel(name, body, region))

    def _kernel(self, name: str, body: str, kernel: Kernel) -> str:
        self.used.add("Kernel")
        code = kernel.lowered.module
        code = code.partition("\n\ndef get_args():")[0]  # behind it Inductor's own benchmark of the kernel
        layouts = [
            (tuple(value.shape), value.stride()) if isinstance(value := node.meta.get("val"), Tensor) else None
            for node in kernel.body.graph.find_nodes(op="placeholder")
        ]
        single = isinstance(kernel.body.graph.output_node().args[0], fx.Node)
        return f"{name} = Kernel({body}, {self.device!r}, {layouts}, {single}, {_quoted(code)})"

    def _once(self, what: object, wish: str, text: Callable[[str], str]) -> str:
        key = id(what) if isinstance(what, Region) else hash(what)
        if key not in self._held:
            name = self._held[key] = self.fresh(wish)
            self.functions.append(text(name))
        return self._held[key]

    def held(self, gm: fx.GraphModule, target: str) -> str:
        """The key of a constant tensor that a graph holds; the same tensor of two graphs is one."""
        value = getattr(gm, target)
        if not isinstance(value, Tensor):
            raise RequestError(f"the graph holds a {type(value).__name__}, which plain Python has no words for", where=target, help=WAY_OUT)
        if id(value) not in self._tensors:
            key = f"constant {target}"
            while key in self.constants:
                key += "'"
            self.constants[key] = constant(key, value)
            self._tensors[id(value)] = (value, key)
        return self._tensors[id(value)][1]

    def operator(self, name: str) -> str:
        """An operator of ours, written out; returns the function's name."""
        if name in OURS:
            return self.carried.add(*OURS[name])
        made = OPDEFS.get(f"fxscope::{name}")
        if made is None:
            raise RequestError(f"nothing is known of the operator fxscope::{name}", help=WAY_OUT)
        return self.carried.add(made._init_fn.__module__, made._init_fn.__name__)

    def fresh(self, wish: str) -> str:
        """A name for a function that nothing in the file has yet."""
        name, number = wish, 1
        while name in self.reserved or not _is_free(name):
            number += 1
            name = f"{wish}_{number}"
        self.reserved.add(name)
        return name


class _Function:
    """The lines of one graph."""

    def __init__(self, writer: Writer, gm: fx.GraphModule) -> None:
        self.writer, self.gm = writer, gm
        self._names: dict[fx.Node, str] = {}
        self._last = _last_readers(gm.graph)

    def name(self, node: fx.Node) -> str:
        """A local name: that of the node, unless the file has another thing of that name or Python another use for it."""
        if node not in self._names:
            graph = held_graph(node)
            if graph is not None:
                return self.writer.body(f"inner_{node.name}", graph)
            name = NOT_A_WORD.sub("_", node.name)
            taken = set(self._names.values())
            while name in taken or name in self.writer.reserved or name.startswith(FUNCTIONS) or not _is_free(name):
                name = f"_{name}" if name[:1].isdigit() or name.startswith(FUNCTIONS) else f"{name}_"
            self._names[node] = name
        return self._names[node]

    def lines(self, given: Callable[[fx.Node], str] | None, outputs: Sequence[str]) -> Iterator[str]:
        """Every node; `given` says what a placeholder is read from, None where it is a parameter of the function."""
        place = ""
        for node in self.gm.graph.nodes:
            if node.op == "placeholder" and given is None or held_graph(node) is not None:
                continue
            here = _place(node) if node.op not in ("placeholder", "output") else place
            if here != place:
                place = here
                yield f"    # {place}"
            if node.op == "output":
                yield from self._output(node, outputs)
            else:
                yield self._line(node, given)

    def _line(self, node: fx.Node, given: Callable[[fx.Node], str] | None) -> str:
        if node.op == "placeholder":
            assert given is not None
            text = given(node)
        elif node.op == "get_attr":
            key = self.writer.held(self.gm, str(node.target))
            text = f"given[{key!r}]" if given is not None else f"CONSTANTS[{key!r}]"
        else:
            text = self.call(node)
        gone = ", ".join(self.name(read) for read in self._last.get(node, []))
        freed = f"; del {gone}" if gone and given is not None else ""
        unread = "" if node.users or node.op == "placeholder" else ", which nobody reads"
        return f"    {self.name(node)} = {text}{freed}  # {shape_text(node.meta.get('val'))}{unread}"

    def _output(self, node: fx.Node, outputs: Sequence[str]) -> Iterator[str]:
        value = node.args[0]
        if not outputs:
            yield f"    return {self.text(value)}"
            return
        yield "    return ["
        values = [one for one in value if one is not None] if isinstance(value, tuple | list) else [value]
        for at, one in enumerate(values):
            yield f"        {self.text(one)},  # {outputs[at] if at < len(outputs) else ''}"
        yield "    ]"

    def text(self, value: Any) -> str:
        return literal(value, self.name, self.writer.device)

    def call(self, node: fx.Node) -> str:
        """The call that a node is.

        Raises:
            RequestError: of something that a file without this project cannot call.
        """
        target: Any = node.target
        args = [self.text(value) for value in node.args]
        words = {key: self.text(value) for key, value in node.kwargs.items()}
        given = [*args, *(f"{key}={value}" for key, value in words.items() if not keyword.iskeyword(key))]
        given += [f"**{{{key!r}: {value}}}" for key, value in words.items() if keyword.iskeyword(key)]
        if getattr(target, "__name__", "") == "getitem" and len(args) == 2:
            return f"{args[0]}[{args[1]}]"
        return f"{self._called(node, target)}({', '.join(given)})"

    def _called(self, node: fx.Node, target: Any) -> str:
        if isinstance(target, Region):
            return self.writer.region(target)
        kind = kind_of(node)
        if kind in LOOPS:
            self.writer.used.add(LOOPS[kind])
            return LOOPS[kind]
        if isinstance(target, torch._ops.OpOverload):
            space, name, overload = target.namespace, target._opname, target._overloadname
            if space == "fxscope":
                return self.writer.operator(name)
            whole = "aten" if space == "aten" else f"torch.ops.{space}"
            return f"{whole}.{name}.{overload}" if not keyword.iskeyword(overload) else f"getattr({whole}.{name}, {overload!r})"
        module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
        if module in PYTHON and name.isidentifier() and not kind:
            return f"{PYTHON[module]}.{name}".lstrip(".")
        raise RequestError(
            f"`{node.name}` calls {kind or name or target}, which plain Python has no words for", where=node.name, help=WAY_OUT
        )


def _is_free(name: str) -> bool:
    """May Python call something so, and does it not already?"""
    return name.isidentifier() and not keyword.iskeyword(name) and not hasattr(builtins, name)


def _quoted(code: str) -> str:
    """Text of several lines as an expression that stays readable."""
    if '"""' not in code and not code.endswith(('"', "\\")):
        return f'r"""\n{code}"""'
    return "(\n" + "\n".join(f"    {line!r}" for line in code.splitlines(keepends=True)) + "\n)"


def _last_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For every node those that nobody reads after it. What the caller owns, the inputs and constants, stays."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        gone = [read for read in dict.fromkeys(node.all_input_nodes) if read not in seen]
        seen.update(gone)
        if node.op == "call_function":
            found[node] = [read for read in gone if read.op == "call_function"]
    return found


def _place(node: fx.Node) -> str:
    """Where a node comes from, as the words of a comment."""
    origin = node.meta.get("origin")
    if not isinstance(origin, Origin):
        return ""
    line = f"{origin.source.file}:{origin.source.line}  {origin.source.text}" if origin.source else ""
    return one_line(" · ".join(part for part in (origin.phase, origin.module, line) if part))
