"""A lesson as a Jupyter notebook: its text with the computed numbers, and for every screen a program that a student can run.

Experiments come as the worker exports them (`jobs/exporting/notebook.py`), so that their cells need torch and nothing else; formulas as plain Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lessons import plain
from lessons.formula import Worked
from lessons.lesson import Found, Lesson
from lessons.numbers import Numbers
from lessons.told import Told

Cell = dict[str, Any]
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
ABOUT = """Saved from fxscope. Numbers in the text were computed when this was saved, on {on}. Experiments are given as programs that need torch and nothing else:
run the cells in their order."""
SAID_ABOVE = "The programs of this experiment stand above, at *{}*."
FORMAT = {"nbformat": 4, "nbformat_minor": 5}
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}


def notebook(lesson: Lesson, screens: Sequence[Told], programs: Mapping[str, bytes | str], on: str) -> bytes:
    """The file's content.

    Args:
        programs: by an experiment's words, its notebook as the worker exported it, or why there is none.
        on: the model that the lesson speaks of, in words; empty for its own.
    """
    model = f"`{on.replace('`', chr(39))}`" if on else "the lesson's own models"
    cells = [_text(f"# {lesson.number}. {lesson.title}\n\n{lesson.summary}\n\n{ABOUT.format(on=safe(model))}")]
    written: dict[str, str] = {}
    for one in screens:
        cells += [_text(_words(one)), *_code_of(one, programs, written)]
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    return (json.dumps({"cells": numbered, "metadata": KERNEL, **FORMAT}, indent=1, ensure_ascii=False) + "\n").encode()


def safe(markdown: str) -> str:
    """Markdown in which no letter begins an element of HTML: names of models and modules come from anybody. Code keeps its meaning."""
    ends, parts = 0, list[str]()
    for found in CODE.finditer(markdown):
        parts += [markdown[ends : found.start()].replace("<", "&lt;"), found[0]]
        ends = found.end()
    return "".join([*parts, markdown[ends:].replace("<", "&lt;")]).replace("![", "!\\[")


def _words(one: Told) -> str:
    """A screen's text, and its question with the answer to unfold. Only the elements that unfold are HTML, and they are written here."""
    parts = [f"## {one.screen.title}", f"> {one.why}" if one.why else "", one.text]
    question = one.screen.question
    if one.ask and question:
        choices = "\n".join(f"- {choice}" for choice in question.choices)
        parts += [f"**Predict.** {one.ask}", choices]
    body = "\n\n".join(safe(part) for part in parts if part)
    rest = "\n\n".join(safe(part) for part in (f"**{one.shown}** ({one.origin})" if one.ask else "", one.after, one.beside) if part)
    if one.ask:
        return f"{body}\n\n<details><summary>Show the answer</summary>\n\n{rest}\n\n</details>"
    return f"{body}\n\n{rest}".rstrip()


def _code_of(one: Told, programs: Mapping[str, bytes | str], written: dict[str, str]) -> list[Cell]:
    """The cells of a screen. `written`: words of experiments whose programs stand above -> the screen."""
    if isinstance(one.found, Worked):
        return [_code(plain.of_formula(one.found, one.screen.picture))]
    if isinstance(one.found, Numbers):
        text = plain.of_numbers(one.screen, one.found)
        return [_code(text)] if text else []
    if not isinstance(one.found, Found):
        return []
    words = one.found.words
    if words in written:
        return [_text(safe(SAID_ABOVE.format(written[words])))]
    program = programs.get(words, "")
    if isinstance(program, str):
        return [_text(safe(f"> There is no program for this experiment. {program}"))] if program else []
    written[words] = one.screen.title
    return [{key: value for key, value in cell.items() if key != "id"} for cell in json.loads(program)["cells"]]


def _text(text: str) -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> Cell:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text.splitlines(keepends=True)}
