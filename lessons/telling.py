"""A screen with what was found: text with its numbers, the answer, and why it may not hold for a model."""

from __future__ import annotations

import re
from typing import Any

from graphs.errors import SourceError
from lessons import vocabulary
from lessons.lesson import Found, Lesson, Screen, What

LIST = re.compile(r"^(\d+)\.(?=\s|$)", re.MULTILINE)  # a computed number that begins a line, `4. Greedy …`, is no list of Markdown's
PLACE = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)


def text(lesson: Lesson, screen: Screen, found: What | None, markdown: str, live: bool = True) -> str:
    """Markdown with what stands in double braces computed.

    Args:
        live: what is said `on_page` is said too; a file has nothing to press.

    Raises:
        SourceError: something in braces cannot be computed; says where.
    """
    names: dict[str, Any] = {**vocabulary.WORDS, **screen.code, "found": found, "on_page": lambda said: said if live else ""}

    def computed(match: re.Match[str]) -> str:
        try:
            value = eval(match[1], names)
        except Exception as error:
            where = f"{lesson.name}, line {screen.line}: {match[1].strip()}"
            raise SourceError(f"the lesson cannot compute this: {type(error).__name__}: {error}", where=where) from error
        return vocabulary.number(value) if isinstance(value, int | float) else str(value)

    return LIST.sub(r"\1\\.", PLACE.sub(computed, markdown))


def answer(lesson: Lesson, screen: Screen, found: What) -> float | str:
    """The answer to a screen's question: a number, or one of its choices.

    Raises:
        SourceError: it is neither.
    """
    assert screen.answer
    assert screen.question
    value = screen.answer(found)
    if screen.question.choices and value not in screen.question.choices:
        raise SourceError(f"the answer `{value}` is none of the choices", where=f"{lesson.name}, line {screen.line}")
    return value


def why_not(screen: Screen, found: What) -> str:
    """Why a screen says nothing about a model; empty where it does."""
    if applies := screen.code.get("applies"):
        return applies(found)
    for step in found.steps if isinstance(found, Found) else ():
        if not step.matches:
            reason = next((miss.reason for miss in step.misses), "nothing in it looks like what the step is for")
            return f"On this model, `{step.optimization}` finds nothing to do: {reason}"
    return ""


def close(predicted: float | str, true: float | str) -> bool:
    """Was a prediction right? A choice exactly, a number within a tenth."""
    if isinstance(predicted, str) or isinstance(true, str):
        return predicted == true
    return abs(predicted - true) <= abs(true) / 10
