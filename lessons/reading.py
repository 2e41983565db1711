"""Reads lessons: Markdown files with a head, one section for each screen, and fenced parts that are not shown as they are.

---
title: …
summary: …
leads_to: fuse-attention, fuse-loops
cases: A11
---
## Title of a screen
Text with {{launches(found.before)}} in it. {{on_page("Click a node.")}}     (what a file that was saved has no place for)

```experiment
model=zoo/mlp&mode=training     (or a formula: x*x at x=3; or numbers: M=64, N=32)
picture: graph
needs: ceilings
change: batch, width
```
```question
How many launches are left?
unit: launches
```
```python
def answer(found):
    return found.after.totals.launches
```
```after
Now there are {{launches(found.after)}}.
```
```beside
What is wide, such as a table; it stands under the picture, and is shown with `after`.
```
```notes
Let them argue before you reveal.     (for the presenter alone; nothing is computed in it)
```
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast, get_args

from graphs.errors import SourceError
from lessons import vocabulary
from lessons.lesson import Lesson, Need, Picture, Question, Screen
from lessons.numbers import are_numbers

FOLDER = Path(__file__).parent
FENCE = re.compile(r"^```(experiment|question|python|after|beside|notes)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
HEAD = re.compile(r"\A---\n(.*?)^---\n", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(\d+)_(\w+)\.md")
PICTURES, NEEDS = get_args(Picture), get_args(Need)


@functools.lru_cache(maxsize=1)
def lessons() -> tuple[Lesson, ...]:
    """All, in the order of the course."""
    return tuple(sorted((read(path) for path in FOLDER.glob("*.md")), key=lambda lesson: lesson.number))


def named(name: str) -> Lesson | None:
    """The lesson of that name."""
    return next((lesson for lesson in lessons() if lesson.name == name), None)


def read(path: Path) -> Lesson:
    """One file.

    Raises:
        SourceError: a part of it is missing or wrong; says where.
    """
    numbered, text = NAME.fullmatch(path.name), path.read_text()
    head = HEAD.match(text)
    if not numbered or not head:
        raise SourceError("a lesson has a number in its name and a head between lines of three dashes", where=path.name)
    fields = dict(_field(line, path) for line in head[1].splitlines() if line.strip())
    if missing := {"title", "summary"} - fields.keys():
        raise SourceError(f"the head has no {sorted(missing)[0]}", where=path.name, help="Write `title: …` and `summary: …`.")
    return Lesson(
        int(numbered[1]), numbered[2].replace("_", "-"), fields["title"], fields["summary"], _screens(text, head.end(), path),
        _several(fields.get("leads_to", "")), _several(fields.get("cases", "")),
    )  # fmt: skip


def _field(line: str, path: Path) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise SourceError(f"`{line}` is no field", where=path.name, help="Write `name: value`.")
    return name.strip(), value.strip()


def _several(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _screens(text: str, start: int, path: Path) -> tuple[Screen, ...]:
    places = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE) if match.start() >= start]
    if not places:
        raise SourceError("a lesson has screens", where=path.name, help="Begin each with `## Title`.")
    bounds = zip(places, [*places[1:], len(text)], strict=True)
    return tuple(_screen(text[first:last], f"{path.name}:{text[:first].count(chr(10)) + 1}") for first, last in bounds)


def _screen(section: str, where: str) -> Screen:
    title, _, body = section.removeprefix("## ").partition("\n")
    parts: dict[str, str] = {}
    for kind, content in FENCE.findall(body):
        if kind in parts:
            raise SourceError(f"two parts of a screen are called {kind}", where=where, help="Make two screens of it.")
        parts[kind] = content
    experiment = _experiment(parts.get("experiment", ""), where)
    code = _code(parts.get("python", ""), where)
    question = _question(parts["question"], where) if "question" in parts else None
    if question and "answer" not in code:
        raise SourceError("a question without `def answer(found)`", where=where)
    line = int(where.rpartition(":")[2])
    text, after, beside = FENCE.sub("", body).strip(), parts.get("after", "").strip(), parts.get("beside", "").strip()
    notes = parts.get("notes", "").strip()
    if "{{" in notes:
        raise SourceError("nothing is computed in notes", where=where, help="Write them without double braces.")
    return Screen(
        title.strip(), text, after, beside, notes, **experiment, question=question, line=line, code=code, source=parts.get("python", "")
    )


class _Experiment(TypedDict, total=False):
    words: str
    formula: str
    numbers: str
    change: tuple[str, ...]
    needs: tuple[Need, ...]
    picture: Picture


def _experiment(text: str, where: str) -> _Experiment:
    """The first line is an experiment in words, a formula with a point, or numbers; then fields."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return {}
    fields = dict(line.split(": ", 1) for line in lines[1:])
    kind = "words" if lines[0].startswith("model=") else "numbers" if are_numbers(lines[0]) else "formula"
    usual = {"numbers": "none", "formula": "values"}.get(kind) or ("change" if "pipeline=" in lines[0] else "graph")
    found: _Experiment = {"picture": cast(Picture, _one_of(fields.get("picture", usual), PICTURES, "picture", where))}
    if needs := _several(fields.get("needs", "")):
        found["needs"] = tuple(cast(Need, _one_of(need, NEEDS, "need", where)) for need in needs)
    if change := _several(fields.get("change", "")):
        found["change"] = change
    found[kind] = lines[0]
    return found


def _one_of(given: str, known: Sequence[str], what: str, where: str) -> str:
    if given not in known:
        raise SourceError(f"there is no {what} `{given}`", where=where, help=f"Write one of {', '.join(known)}.")
    return given


def _question(text: str, where: str) -> Question:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    asked = [line for line in lines if not line.startswith(("unit:", "- "))]
    unit = next((line.partition(":")[2].strip() for line in lines if line.startswith("unit:")), "")
    choices = tuple(line.removeprefix("- ") for line in lines if line.startswith("- "))
    if not asked or bool(unit) == bool(choices):
        raise SourceError("a question asks for a number with a unit, or for one of several choices", where=where)
    return Question(" ".join(asked), unit, choices)


def _code(text: str, where: str) -> dict[str, Any]:
    """The functions that a screen defines, with the vocabulary at hand. Lessons are files of this project, not of readers."""
    names: dict[str, Any] = dict(vocabulary.WORDS)
    exec(compile(text, where, "exec"), names)
    return {name: value for name, value in names.items() if name not in vocabulary.WORDS and not name.startswith("__")}


def units(questions: Sequence[Question]) -> set[str]:
    """Units that are asked for."""
    return {question.unit for question in questions if question.unit}
