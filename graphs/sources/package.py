"""Several Python files, or a package, from a zip: imported from memory, under the names that their own imports use."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from graphs.errors import SourceError
from graphs.sources.user_code import Scope, defined_in, run_text

ROOT = "fxscope_package"  # what a folder is called whose files import one another with a dot
LIKELY = ("model", "main", "net", "network", "modeling", "models", "__init__")
FILES_LIMIT = 2_000


class _Files(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules among the files of a zip.

    Args:
        texts: dotted name -> (path in the zip, code); packages under their own name.
        folder: where files that are no code were put, so that code can read what lies beside it.
    """

    def __init__(self, texts: Mapping[str, tuple[str, str]], folder: tempfile.TemporaryDirectory[str] | None) -> None:
        self.texts, self.folder = texts, folder
        self.packages = {name.rpartition(".")[0] for name in texts} | {n for n, (p, _) in texts.items() if p.endswith("__init__.py")}
        self.packages |= {name.rpartition(".")[0] for name in self.packages if "." in name}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.texts and name not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=name in self.packages)

    def exec_module(self, module: ModuleType) -> None:
        found = self.texts.get(module.__name__)
        if found is None:  # a folder without __init__.py
            return
        path, text = found
        module.__file__ = str(Path(self.folder.name, path)) if self.folder else path
        run_text(text, path, module.__dict__)


_now: list[_Files] = []


def package_scope(files: Mapping[str, bytes], shown: str) -> Scope:
    """Imports what defines models and puts together what it defines. Only ever called in a worker.

    Raises:
        SourceError: no Python, a file that does not parse or raises, or a module's name that is taken.
    """
    code = {path: data for path, data in files.items() if path.endswith(".py")}
    if not code:
        raise SourceError("the archive has no Python files", where=shown, help="Pack the files that define the model.")
    if len(code) > FILES_LIMIT:
        raise SourceError(
            f"the archive has {len(code):,} Python files; {FILES_LIMIT:,} are the limit", where=shown, help="Pack the model only."
        )
    texts = {path: data.decode("utf-8", errors="replace") for path, data in code.items()}
    trees = {path: _tree(text) for path, text in texts.items()}
    names = _module_names(list(texts), _is_relative(trees))
    finder = _Files({name: (path, texts[path]) for path, name in names.items()}, _beside(files))
    _installed(finder, names, shown)
    wanted = [path for path in texts if _defines_models(trees[path])] or list(texts)
    modules = _imported([names[path] for path in sorted(wanted, key=_likelihood)])
    merged: dict[str, Any] = {}
    for module in reversed(modules):  # the likeliest last, so that its names win
        merged.update(vars(module))
    own: dict[str, Any] = {}
    for module in reversed(modules):
        own.update(defined_in(vars(module), tuple(names.values())))
    return Scope(merged, own, shown, tuple(texts))


def _tree(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # told when it is imported


def _is_relative(trees: Mapping[str, ast.Module | None]) -> bool:
    """Do files at the top import one another with a dot? Then the folder itself is a package."""
    tops = [tree for path, tree in trees.items() if "/" not in path and tree]
    return any(isinstance(node, ast.ImportFrom) and node.level for tree in tops for node in ast.walk(tree))


def _module_names(paths: Sequence[str], relative: bool) -> dict[str, str]:
    """Path -> dotted name; `src/` in front is left out."""
    plain = not any(path == "src/__init__.py" for path in paths)
    found = {}
    for path in paths:
        parts = list(PurePosixPath(path).with_suffix("").parts)
        if plain and parts[0] == "src" and len(parts) > 1:
            parts = parts[1:]
        if parts[-1] == "__init__":
            parts = parts[:-1]
        name = ".".join([ROOT, *parts] if relative else parts)
        if name:
            found[path] = name
    return found


def _beside(files: Mapping[str, bytes]) -> tempfile.TemporaryDirectory[str] | None:
    """Files that are no code, in a folder that goes with the finder: code may read them beside itself."""
    data = {path: content for path, content in files.items() if not path.endswith(".py")}
    if not data:
        return None
    folder = tempfile.TemporaryDirectory(prefix="package-")
    for path, content in data.items():
        place = Path(folder.name, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


def _installed(finder: _Files, names: Mapping[str, str], shown: str) -> None:
    """Takes the place of an earlier package's."""
    for old in _now:
        sys.meta_path.remove(old)
        for name in [name for name in sys.modules if name in old.texts or name in old.packages]:
            del sys.modules[name]
    _now[:] = []
    for path, name in names.items():
        top = name.partition(".")[0]
        if top in sys.modules:
            raise SourceError(f"a module called `{top}` is loaded already", where=path, help="Give the file or folder another name.")
    sys.meta_path.insert(0, finder)
    _now.append(finder)


def _defines_models(tree: ast.Module | None) -> bool:
    """Has it model(), or a class with forward or derived from something called Module?"""
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name in ("model", "inputs"):
            return True
        if isinstance(node, ast.ClassDef):
            bases = " ".join(ast.unparse(base) for base in node.bases)
            if "Module" in bases or any(isinstance(one, ast.FunctionDef) and one.name == "forward" for one in node.body):
                return True
    return False


def _likelihood(path: str) -> tuple[int, int, str]:
    stem = PurePosixPath(path).stem
    return (LIKELY.index(stem) if stem in LIKELY else len(LIKELY), path.count("/"), path)


def _imported(names: Sequence[str]) -> list[ModuleType]:
    """The modules, those that fail left out; the first failure is told when none is left, or when the likeliest failed."""
    found: list[ModuleType] = []
    first: SourceError | None = None
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except SourceError as error:
            first = first or error
        except ImportError as error:
            first = first or SourceError(
                f"{name} cannot be imported: {error}", where=name, help="Correct the import, or pack what it needs."
            )
    if first and (not found or found[0].__name__ != names[0]):
        raise first
    return found
