"""What a reader brings, by its name and content: code, a notebook, a configuration, an archive, tensors, a drawn graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from graphs.errors import RequestError, SourceError
from graphs.record import EntryRecord
from graphs.sources import archive
from graphs.sources.base import AnySource, ModelSource
from graphs.sources.drawn_graph import drawn_graph, is_drawn_graph
from graphs.sources.entry import entry_source, form_of
from graphs.sources.exported_archive import exported_source
from graphs.sources.hugging_face import config_source
from graphs.sources.kinds import PLAIN_MODES, kind_of
from graphs.sources.notebook import notebook_cells
from graphs.sources.package import package_scope
from graphs.sources.python_file import code_scope
from graphs.sources.safetensors_file import safetensors_tree, with_config
from graphs.sources.script_entry import script_entry
from graphs.sources.state_dict import state_dict
from graphs.sources.torchscript import torchscript_source
from graphs.sources.user_code import Scope

TENSOR_FILES = ("pt", "pth", "bin", "ckpt")


@dataclass(frozen=True)
class Brought:
    """A file with the words of the experiment that concern it."""

    name: str
    content: bytes
    options: Mapping[str, str]
    mode: str

    @property
    def ending(self) -> str:
        return kind_of(self.name).ending

    @property
    def text(self) -> str:
        """The content as text.

        Raises:
            SourceError: it is not UTF-8.
        """
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError("the file is not text in UTF-8", where=self.name, help="Save it again as UTF-8.") from error

    def refuse_options(self) -> None:
        """Files without options say so."""
        if self.options:
            word = next(iter(self.options))
            raise RequestError(f"this kind of file has no option `{word}`", where=word, help="Leave it out.")

    def refuse_serving(self) -> None:
        if self.mode not in PLAIN_MODES:
            raise RequestError(f"a model's file has no {self.mode}", where="mode", help="Write mode=inference, or bring a config.json.")


def opened(name: str, content: bytes, options: Mapping[str, str], mode: str) -> AnySource:
    """The source in a file. Only ever called in a worker: Python in it runs.

    Raises:
        SourceError: it cannot be read; says where and what to do.
        RequestError: options or a mode that it does not have.
    """
    brought = Brought(name, content, options, mode)
    scope = _scope(brought)
    if scope is not None:
        brought.refuse_serving()
        return entry_source(scope, options)
    return _openers()[_what(brought)](brought)


def form(name: str, content: bytes, options: Mapping[str, str]) -> EntryRecord | None:
    """The form for a file's entry, where it has one. Only ever called in a worker.

    Raises: as `opened`.
    """
    brought = Brought(name, content, options, PLAIN_MODES[0])
    scope = _scope(brought)
    if scope is not None:
        return form_of(scope, options)
    if archive.is_zip(content) and _what(brought) == "torchscript":
        return script_entry(content, name, options).record
    return None


def _scope(brought: Brought) -> Scope | None:
    """The scope of code, where the file is code."""
    if brought.ending == "py":
        return code_scope([(brought.name, brought.text)], brought.name)
    if brought.ending == "ipynb":
        return code_scope(notebook_cells(brought.text, brought.name), brought.name)
    if brought.ending == "zip" and archive.inside(brought.content, brought.name) == "files":
        files = archive.members(brought.content, brought.name)
        if any(path.endswith(".py") for path in files):
            return package_scope(files, brought.name)
    return None


def _what(brought: Brought) -> str:
    """Which opener: what the content is counts more than the name's ending."""
    if archive.is_zip(brought.content):
        return archive.inside(brought.content, brought.name)
    if brought.ending in ("zip", "pt2"):
        raise SourceError("the file is no archive, or its beginning is cut off", where=brought.name, help="Bring the whole file.")
    return "tensors" if brought.ending in TENSOR_FILES else brought.ending


def _openers() -> Mapping[str, Callable[[Brought], AnySource]]:
    return {
        "json": _json,
        "safetensors": _safetensors,
        "tensors": _tensors,
        "files": _files,
        "pt2": _exported,
        "onnx": _onnx,
        "torchscript": _torchscript,
    }


def _json(brought: Brought) -> AnySource:
    try:
        found = json.loads(brought.text)
    except (json.JSONDecodeError, RecursionError) as error:
        what = getattr(error, "msg", "it is nested too deeply")
        line = getattr(error, "lineno", 1)
        raise SourceError(f"the file is not JSON: {what}", where=f"{brought.name}:{line}", help="Correct this line.") from error
    if is_drawn_graph(found):
        brought.refuse_options()
        return drawn_graph(found, brought.name)
    return config_source(brought.text, brought.name, brought.options, brought.mode)


def _safetensors(brought: Brought) -> AnySource:
    brought.refuse_options()
    return safetensors_tree(brought.content, brought.name)


def _tensors(brought: Brought) -> AnySource:
    brought.refuse_options()
    return state_dict(brought.content, brought.name)


def _exported(brought: Brought) -> AnySource:
    brought.refuse_options()
    brought.refuse_serving()
    return _as_saved(exported_source(brought.content, brought.name), brought.mode)


def _onnx(brought: Brought) -> AnySource:
    brought.refuse_options()
    brought.refuse_serving()
    from graphs.sources.onnx_file import onnx_source  # loaded where it is needed: recordings are made without it

    return _as_saved(onnx_source(brought.content, brought.name), brought.mode)


def _as_saved(source: ModelSource, mode: str) -> ModelSource:
    """A finished graph does not know two ways."""
    if mode != "training":
        return source
    return replace(source, notes=(*source.notes, "batch norm and dropout are as they were when the file was saved, in training too"))


def _torchscript(brought: Brought) -> AnySource:
    """Its code tells the inputs' names; their shapes are guessed, or given in words."""
    brought.refuse_serving()
    found = script_entry(brought.content, brought.name, brought.options)
    source, notes = torchscript_source(brought.content, brought.name, found.given, brought.mode)
    return replace(source, notes=(*source.notes, *found.notes, *notes))


def _files(brought: Brought) -> AnySource:
    """A zip without code: a configuration with its weights, or one file of a kind that could have come alone."""
    files = archive.members(brought.content, brought.name)
    config = next((path for path in sorted(files, key=len) if path.rpartition("/")[2] == "config.json"), None)
    weights = {path: data for path, data in files.items() if path.endswith(".safetensors")}
    if config and weights:
        text = files[config].decode("utf-8", errors="replace")
        return with_config(text, weights, config, brought.options, brought.mode)
    known = [path for path in files if path.rpartition(".")[2].lower() in ("ipynb", "json", "pt2", "onnx", "pt", "pth", "safetensors")]
    if len(known) == 1:
        return opened(known[0], files[known[0]], brought.options, brought.mode)
    what = f"the archive holds {len(known)} files that could be meant" if known else "the archive holds nothing that can be opened"
    way_out = "Pack Python files, or a config.json with its safetensors, or one model."
    raise SourceError(what, where=brought.name, help=way_out)
