"""A step or a session as a Jupyter notebook: the cells of the Python file, with each step's lesson before its program.

Written as JSON by hand after version 4.5 of the notebook format: a list of cells, each with an id, a kind, and its lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from graphs.exporting.literals import one_line
from jobs.exporting.python_file import Chapter, parts

ABOUT = """Every program below takes its inputs by role and name and gives a list of outputs. Each line is one node of the graph, with its dtype and
shape behind it; `aten.NAME.OVERLOAD` is an operator of torch, and `del` frees what is read no more. Inputs are drawn from a seed, with the range, mean and
spread that the real ones had. It needs torch ({version} wrote it) and nothing else: run all cells in their order, and the last one checks and measures."""
FUSED = """Fused parts run as code that torch's Inductor generated for one kind of processor and one version of torch. Where this notebook meets another, they
run operator by operator: last bits may then differ, and fusing gains nothing."""


def notebook(chapters: Sequence[Chapter], words: str) -> str:
    """The whole notebook as JSON.

    Raises:
        RequestError, TooLargeError: as `parts` does.
    """
    written = parts(chapters)
    cells = [
        _text(f"# Programs of an experiment\n\n`{one_line(words).replace('`', chr(39))}`\n\n{ABOUT.format(version=torch.__version__)}")
    ]
    cells += [_code(written.imports)]
    for chapter, (_, text) in zip(chapters, written.programs, strict=True):
        verdict = f"\n\nIn the app: {one_line(chapter.verdict)}." if chapter.verdict else ""
        cells += [_text(f"## {_escaped(chapter.title)}{verdict}\n\n{chapter.notes}".rstrip()), _code(text)]
    cells += [
        _text(
            "## What programs and checks call\n\nOperators that are not torch's, as the plain torch that they are; and the rule of the verdict."
        )
    ]
    cells += [_code(f"from __future__ import annotations\n\n{written.carried}")]
    if written.bodies:
        cells += [_text(f"## Parts of programs\n\n{FUSED if written.generated else 'Bodies that programs call.'}"), _code(written.bodies)]
    cells += [_text("## Inputs"), _code(written.inputs), _code(written.tables)]
    cells += [_text("## Checks and timing"), _code('main(PROGRAMS, inputs, OUTPUTS, MADE_BY, ["--rounds", "15"])')]
    content = {
        "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _text(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text.splitlines(keepends=True)}


def _escaped(text: str) -> str:
    """Words of anybody as text of Markdown: no markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|" else letter for letter in one_line(text))
