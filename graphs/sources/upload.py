"""What a reader brings, by its name and content: Python, a notebook, a configuration, a drawn graph."""

from __future__ import annotations

import json
from collections.abc import Mapping

from graphs.errors import RequestError, SourceError
from graphs.sources.base import AnySource
from graphs.sources.drawn_graph import drawn_graph, is_drawn_graph
from graphs.sources.hugging_face import config_source
from graphs.sources.notebook import notebook_cells
from graphs.sources.python_file import code_source, file_source


def opened(name: str, text: str, options: Mapping[str, str], mode: str) -> AnySource:
    """The source in a file's text. Only ever called in a worker: Python in it runs.

    Raises:
        SourceError: it cannot be read; says where and what to do.
        RequestError: options or a mode that it does not have.
    """
    if name.endswith(".json"):
        return _json(name, text, options, mode)
    if options:
        word = next(iter(options))
        raise RequestError(f"a model's file has no option `{word}`", where=word, help="Set it in the file.")
    if mode in ("prefill", "decode"):
        raise RequestError(f"a model's file has no {mode}", where="mode", help="Write mode=inference, or bring a config.json.")
    if name.endswith(".ipynb"):
        return code_source(notebook_cells(text, name), name)
    return file_source(text, name)


def _json(name: str, text: str, options: Mapping[str, str], mode: str) -> AnySource:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"the file is not JSON: {error.msg}", where=f"{name}:{error.lineno}", help="Correct this line.") from error
    if is_drawn_graph(found):
        return drawn_graph(found, name)
    return config_source(text, name, options, mode)
