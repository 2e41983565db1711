"""Functions of this project as text that stands alone: with all that they call, and without the rest of their module.

An exported file carries what it needs of the project: operators of our own as the plain torch that they are, and the rule of the
verdict. The text is that of the modules themselves, so there is no second version of it that could differ.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import tokenize
from dataclasses import dataclass, field
from functools import cache

ROOMS = ("graphs", "optimizers", "profiler", "jobs")


@dataclass
class Carried:
    """Definitions and imports gathered for one file, in the order in which they must stand.

    Attributes:
        imports: whole import statements.
        texts: (module, name) -> the definition's text.
        names: (module, name) -> what it is called in the file.
    """

    imports: dict[str, None] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, module: str, name: str) -> str:
        """Takes a definition of a module along, with all that it reads; returns its name in the file."""
        key = (module, name)
        if key in self.names:
            return self.names[key]
        known = _definitions(module)
        node = known.nodes[name]
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self._import(node, name)
        if _text(known.source, node) in self.texts.values():
            self.names[key] = name
            return name
        taken = set(self.names.values())
        own = name if name not in taken else f"{name}_in_{module.rpartition('.')[2]}"
        self.names[key] = own
        used = {each.id for part in ast.walk(node) if (each := part) and isinstance(each, ast.Name)}
        renamed = {name: own} if own != name else {}
        for other in sorted(used & known.nodes.keys() - {name}):
            called = self.add(module, other)
            if called != other:
                renamed[other] = called
        for twin in _bound(node):  # `NONE, MEAN = range(2)` defines several
            self.names.setdefault((module, twin), twin)
        text = _renamed(_text(known.source, node), renamed)
        if text not in self.texts.values():
            self.texts[key] = text
        return own

    def _import(self, node: ast.Import | ast.ImportFrom, name: str) -> str:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ROOMS:
            found = next(one for one in node.names if (one.asname or one.name) == name)
            return self.add(str(node.module), found.name)
        alias = next(one for one in node.names if (one.asname or one.name.partition(".")[0]) == name)
        self.imports[ast.unparse(ast.ImportFrom(node.module, [alias], 0) if isinstance(node, ast.ImportFrom) else ast.Import([alias]))] = (
            None
        )
        return name

    def text(self) -> str:
        """All definitions."""
        return "\n\n\n".join(self.texts.values())


@dataclass(frozen=True)
class _Module:
    source: str
    nodes: dict[str, ast.stmt]


@cache
def _definitions(module: str) -> _Module:
    source = inspect.getsource(importlib.import_module(module))
    nodes = {name: node for node in ast.parse(source).body for name in _bound(node) if name != "_"}
    return _Module(source, nodes)


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [one.asname or one.name.partition(".")[0] for one in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _text(source: str, node: ast.stmt) -> str:
    """The lines of a definition, with its decorators but for those that register an operator."""
    lines = source.splitlines()
    kept = [each for each in getattr(node, "decorator_list", []) if "torch.library" not in ast.unparse(each)]
    return "\n".join([*(f"@{ast.unparse(each)}" for each in kept), *lines[node.lineno - 1 : node.end_lineno]])


def _renamed(text: str, names: dict[str, str]) -> str:
    """The text with other names for what is defined elsewhere; attributes of the same name stay."""
    if not names:
        return text
    lines = text.splitlines(keepends=True)
    found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for before, token in reversed(list(zip([None, *found], found, strict=False))):
        if token.type == tokenize.NAME and token.string in names and not (before and before.string == "."):
            row, start = token.start
            line = lines[row - 1]
            lines[row - 1] = f"{line[:start]}{names[token.string]}{line[token.end[1] :]}"
    return "".join(lines)
