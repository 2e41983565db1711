"""Which line of a kernel's generated code computes which node of its body.

Inductor turns every operator into a function that computes one element; an operator whose result stays in registers is called by its
reader. While it traces these functions into the body of a loop, each operation is noted with the node whose function asked for it, and
while it writes the loop, each line carries a mark. A line that serves two nodes, because both need the same expression, belongs to both.
The marks are comments; without them the code must be, letter for letter, what Inductor generates anyway. Where it is not, the
marks are not trusted, and a node is shown with the whole loop that computes it.
"""

from __future__ import annotations

import contextlib
import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import msgspec
from torch import fx
from torch.fx.proxy import TracerBase

from graphs.inductor import Lowered, lower_twice
from graphs.record import LineLink, Nest

MARK = re.compile(r"[ ]*(?://|#)@(\d+)@")
CALL = re.compile(r"^( *)def call\(.*?^\1    return [^\n]*", re.MULTILINE | re.DOTALL)


@dataclass
class _Marks:
    """What is known while code is generated.

    Attributes:
        asking: the body's nodes whose element is being computed, the innermost last; empty for a line that is nobody's.
        names: for every mark the nodes whose lines it stands on.
        of_value: for a variable of the kernel the marks of its lines.
    """

    comment: str
    asking: list[str] = field(default_factory=list)
    names: list[set[str]] = field(default_factory=list)
    of_value: dict[int, tuple[Any, range]] = field(default_factory=dict)

    @property
    def now(self) -> str:
        return self.asking[-1] if self.asking else ""

    @contextlib.contextmanager
    def asked_by(self, name: str) -> Iterator[None]:
        self.asking.append(name)
        try:
            yield
        finally:
            self.asking.pop()

    def on(self, line: str) -> str:
        """The line with a mark, once."""
        if not self.now or not line.strip() or MARK.search(line):
            return line
        self.names.append({self.now})
        return f"{line} {self.comment}@{len(self.names) - 1}@"


@contextlib.contextmanager
def _marking(marks: _Marks) -> Iterator[None]:
    """Makes Inductor mark the lines that it writes."""
    from torch._inductor import ir, loop_body
    from torch._inductor.codegen.common import CSE
    from torch._inductor.codegen.cpp_micro_gemm import CppMicroGemm
    from torch._inductor.utils import IndentedBuffer

    with (
        patch.object(ir.Loops, "__post_init__", _noting(marks, ir.IRNode.__post_init__), create=True),
        patch.object(loop_body.LightTracer, "create_node", _tracing(marks, TracerBase.create_node), create=True),
        patch.object(loop_body.InterpreterShim, "run_node", _running(marks, loop_body.InterpreterShim.run_node)),
        patch.object(CppMicroGemm, "codegen_call", _multiplying(marks, CppMicroGemm.codegen_call)),
        patch.object(IndentedBuffer, "writeline", _writing(marks, IndentedBuffer.writeline)),
        patch.object(CSE, "generate", _generating(marks, CSE.generate)),
        patch.object(CSE, "put", lambda cse, key, value, kept=CSE.put: kept(cse, MARK.sub("", key), value)),
        patch.object(CSE, "try_get", lambda cse, key, kept=CSE.try_get: kept(cse, MARK.sub("", key))),
    ):
        yield


def _noting(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    """An operator's function of one element knows the node that is being lowered."""
    from torch._inductor.virtualized import V

    def post_init(loops: Any) -> None:
        original(loops)
        node = V.graph.current_node
        names = node.meta.get("body_nodes", ()) if isinstance(node, fx.Node) else ()
        if not names:
            return
        inner, name = loops.inner_fn, names[0]

        @functools.wraps(inner)
        def asked(*args: Any) -> Any:
            with marks.asked_by(name):
                return inner(*args)

        loops._post_init_setattr("inner_fn", asked)
        for method in ("store_output", "store_reduction"):
            if hasattr(loops, method):
                loops._post_init_setattr(method, _within(marks, name, getattr(loops, method)))

    return post_init


def _within(marks: _Marks, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def stored(*args: Any, **kwargs: Any) -> Any:
        with marks.asked_by(name):
            return method(*args, **kwargs)

    return stored


def _tracing(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    def create_node(tracer: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = original(tracer, *args, **kwargs)
        node.meta["body_node"] = marks.now
        return node

    return create_node


def _running(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    def run_node(shim: Any, n: fx.Node) -> Any:
        with marks.asked_by(n.meta.get("body_node", "")):
            return original(shim, n)

    return run_node


def _multiplying(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    """Calls of a template's micro kernel are the product's."""

    def codegen_call(micro_kernel: Any, *args: Any, **kwargs: Any) -> str:
        with marks.asked_by(getattr(micro_kernel, "body_node", "")):
            return original(micro_kernel, *args, **kwargs)

    return codegen_call


def _writing(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    from torch._inductor.utils import DeferredLineBase

    def writeline(buffer: Any, line: Any) -> None:
        if isinstance(line, str):
            line = marks.on(line)
        elif isinstance(line, DeferredLineBase):
            line = line._new_line(marks.on(line.line))
        original(buffer, line)

    return writeline


def _generating(marks: _Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    """A value that is there already is computed for this node too."""

    def generate(cse: Any, *args: Any, **kwargs: Any) -> Any:
        before = len(marks.names)
        value = original(cse, *args, **kwargs)
        made = range(before, len(marks.names))
        if made:
            marks.of_value[id(value)] = value, made
        elif marks.now and id(value) in marks.of_value:
            for mark in marks.of_value[id(value)][1]:
                marks.names[mark].add(marks.now)
        return value

    return generate


class Sourced(msgspec.Struct, frozen=True, tag=True):
    """A body's code with its links.

    Attributes:
        links: one for every node of the body that has lines, in the order of the body.
        exact: are links of nodes single lines, or only whole loops?
        loops: the text of every launch's loop, before it becomes code; empty for a library's.
    """

    lowered: Lowered
    links: tuple[LineLink, ...]
    nests: tuple[Nest, ...]
    exact: bool
    loops: tuple[str, ...] = ()


def sourced(body: fx.GraphModule) -> Sourced:
    """Generates code for a body, and finds the lines of every node.

    Raises:
        Exception: of Inductor's, where it cannot lower the body.
    """
    marks = _Marks("#" if _device_type(body) == "cuda" else "//")
    plain, marked = lower_twice(body, lambda: _marking(marks))
    names = [node.name for node in body.graph.nodes if node.op == "call_function"]
    exact = MARK.sub("", marked.source) == plain.source
    lines = _lines(marked.source, marks.names) if exact else {}
    nests = tuple(_nest(body, set(nest), lines if exact else None) for nest in plain.nests)
    links = [_link(name, lines, nests, plain.source) for name in names]
    return Sourced(plain, tuple(link for link in links if link), nests, exact, marked.loops)


def _nest(body: fx.GraphModule, found: set[str], lines: dict[str, list[int]] | None) -> Nest:
    """The nodes of a launch in order; one whose operators compute in no line of ours is a library's."""
    nodes = [node for node in body.graph.nodes if node.name in found]
    named = ", ".join(str(node.target) for node in nodes)
    ours = lines is None or any(node.name in lines for node in nodes)
    return Nest(tuple(node.name for node in nodes), "" if ours else named)


def caller(module: str) -> str:
    """Of a generated module the function that calls the kernels."""
    found = CALL.search(module)
    return textwrap.dedent(found[0]) if found else ""


def _device_type(body: fx.GraphModule) -> str:
    return body.graph.output_node().all_input_nodes[0].meta["val"].device.type


def _lines(source: str, names: Sequence[set[str]]) -> dict[str, list[int]]:
    """Node -> the numbers of its lines, from 1."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(source.split("\n"), 1):
        for name in sorted(set().union(*(names[int(mark)] for mark in MARK.findall(line)))):
            found.setdefault(name, []).append(number)
    return found


def _link(name: str, lines: dict[str, list[int]], nests: Sequence[Nest], source: str) -> LineLink | None:
    """A node's own lines; else those of the loop that computes it."""
    if name in lines:
        return LineLink(name, tuple(lines[name]))
    around = [nest for nest in nests if name in nest.nodes]
    together = sorted({line for nest in around for other in nest.nodes for line in lines.get(other, ())})
    if together:
        return LineLink(name, tuple(range(together[0], together[-1] + 1)), whole_loop=True)
    if around and not lines:
        return LineLink(name, tuple(range(1, source.count("\n") + 2)), whole_loop=True)
    return None
