"""Which module and which line a statement of TorchScript comes from.

Scripted code knows the line of the innermost function only, which for a layer of torch is a line of torch; the reader's line is the
one that calls the layer, found in the code of the module around it. Traced code knows the whole stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from graphs.sources.interpreted import Line, one_line
from graphs.sources.recorded_lines import LIBRARY, shown

TRACED = re.compile(r"^(.+)\((\d+)\): (\S+)$", re.MULTILINE)
SCRIPTED = re.compile(r'File "([^"]+)", line (\d+)\n(.*?)\n\s*~+(?: <--- HERE)?$', re.DOTALL | re.MULTILINE)
DEEPEST = 40


class Places:
    """Module and line of each statement of a module's forward."""

    def __init__(self, module: torch.jit.ScriptModule, file: str) -> None:
        self.file = file
        self.calls: dict[str, Line] = {}
        self.functions: dict[tuple[str, str], list[Line]] = {}
        self.called = _called_paths(module)
        self._walk(module, "forward", "", 0)

    def of(self, node: torch._C.Node) -> tuple[str, Line | None]:
        """Where a statement stands: the user's line if there is one, else the call of its module, else torch's own line."""
        path = max(path_of_scope(node.scopeName()), path_of_hierarchy(node.getModuleHierarchy()), key=len)
        path = self.called.get(path, path)
        own, library = lines_of_range(str(node.sourceRange()))
        return path, own or self._function(path, node.kind()) or self._call(path) or library

    def _function(self, path: str, kind: str) -> Line | None:
        """The only call of a function of torch with the name of the operator."""
        found = self.functions.get((path, kind.split("::")[-1].strip("_")), [])
        return found[0] if len(set(found)) == 1 else None

    def _call(self, path: str) -> Line | None:
        while path and path not in self.calls:
            path = path.rpartition(".")[0]
        return self.calls.get(path)

    def _walk(self, module: Any, method: str, path: str, depth: int) -> None:
        """Notes the lines of all calls in a method, and in those that it calls."""
        graph = getattr(getattr(module, method, None), "graph", None)
        for node in _all_nodes(graph) if graph is not None and depth < DEEPEST else ():
            own, _ = lines_of_range(str(node.sourceRange()))
            if node.kind() == "prim::CallFunction" and own:
                name = node.inputsAt(0).node()
                called = name.s("name") if name.hasAttribute("name") else ""
                self.functions.setdefault((path, called.strip("_")), []).append(own)
            elif node.kind() == "prim::CallMethod":
                within = _attributes(node.inputsAt(0).node())
                inner = ".".join([path, *within]).strip(".")
                if own and within:
                    self.calls.setdefault(inner, own)
                self._walk(_child(module, within), node.s("name"), inner, depth + 1)


def _called_paths(module: Any) -> dict[str, str]:
    """`0` -> `layers.0`: a scope names only modules that are called, and a ModuleList is not."""
    found: dict[str, str] = {}
    lists = {path for path, one in module.named_modules() if getattr(one, "original_name", "") in ("ModuleList", "ModuleDict")}
    for path, _ in module.named_modules():
        parts = path.split(".")
        kept = [part for at, part in enumerate(parts) if ".".join(parts[: at + 1]) not in lists]
        short = ".".join(kept)
        found[short] = short if short in found else path  # two of them cannot be told apart
    return found


def _all_nodes(block: Any) -> Iterator[torch._C.Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


def _attributes(node: torch._C.Node) -> list[str]:
    """`self.layers.0` as its parts, from the chain of statements that read it."""
    parts: list[str] = []
    while node.kind() == "prim::GetAttr" and len(parts) < DEEPEST:
        parts.insert(0, node.s("name"))
        node = node.inputsAt(0).node()
    return parts


def _child(module: Any, parts: list[str]) -> Any:
    for part in parts:
        module = getattr(module, part, None)
    return module


def path_of_scope(scope: str) -> str:
    """`models.Net::/torch.nn…Linear::fc` -> `fc`."""
    parts = [part.rpartition("::")[2] for part in scope.split("/")[1:]]
    return ".".join(part for part in parts if re.fullmatch(r"[\w.]{1,100}", part))


def path_of_hierarchy(text: str) -> str:
    """`layers(Sequential).1(Block).SELF(Block)` -> `layers.1`: known where code is shared between modules, which a scope is not."""
    names = re.findall(r"([\w]+)\([^)]*\)", text)
    return ".".join(name for name in names if name not in ("SELF", "UNKNOWN_INSTANCE", "INSTANCE_NAME_UNKNOWN"))


def lines_of_range(text: str) -> tuple[Line | None, Line | None]:
    """The reader's line and torch's own, of which either may be missing."""
    traced = TRACED.findall(text[:20_000])
    if traced:
        lines = [(file, Line(shown(file), int(number[:9]), f"in {function}")) for file, number, function in traced]
    else:
        found = [one for one in SCRIPTED.findall(text[:20_000]) if one[0]]
        lines = [(file, Line(shown(file), int(number[:9]), _last(code))) for file, number, code in found if not file.startswith("code/")]
    own = next((line for file, line in lines if not LIBRARY.search(file)), None)
    return own, next((line for file, line in lines if not file.startswith("<")), None)


def _last(code: str) -> str:
    return one_line(code.splitlines()[-1] if code else "")
