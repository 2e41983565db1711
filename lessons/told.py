"""A screen as it stands in a file: everything computed, and in words why something is missing."""

from __future__ import annotations

from dataclasses import dataclass

from graphs.errors import FxscopeError
from lessons import telling, vocabulary
from lessons.lesson import Lesson, Screen, What

MEASURED = {"ceilings", "measurement"}


@dataclass(frozen=True)
class Told:
    """One screen.

    Attributes:
        found: what it speaks of; None where it speaks of nothing, or the worker could not find it.
        why: why it says nothing about this model, or why nothing was found; empty where it holds.
        text, ask, after, beside: Markdown with its numbers; empty where there is none, or where it could not be computed for this model.
        answer: to the question; None where there is none, or no answer.
        shown: the answer with its unit, as it is written.
    """

    screen: Screen
    found: What | None = None
    why: str = ""
    text: str = ""
    ask: str = ""
    after: str = ""
    beside: str = ""
    answer: float | str | None = None
    shown: str = ""

    @property
    def origin(self) -> str:
        """Of the answer: measured or counted; computed where there is no experiment."""
        if not self.screen.words:
            return "computed"
        return "measured" if MEASURED & set(self.screen.needs) else "counted"


def told(lesson: Lesson, screen: Screen, found: What | None, moved: bool) -> Told:
    """A screen with what was found for it.

    Args:
        moved: it speaks of another model than its own, so that it may say nothing about it.

    Raises:
        FxscopeError: a screen cannot be computed for its own model.
    """
    why = telling.why_not(screen, found) if moved and found is not None else ""
    try:
        return _all(lesson, screen, found, why)
    except FxscopeError as error:
        if not moved:
            raise
        return Told(screen, found, why or error.what)  # this model has no such numbers


def without(screen: Screen, why: str) -> Told:
    """A screen for which the worker found nothing."""
    return Told(screen, None, why)


def _all(lesson: Lesson, screen: Screen, found: What | None, why: str) -> Told:
    def write(markdown: str) -> str:
        return telling.text(lesson, screen, found, markdown, live=False)

    text, after, beside = write(screen.text), write(screen.after), write(screen.beside)
    if screen.question is None or found is None:
        return Told(screen, found, why, text, "", after, beside)
    answer = telling.answer(lesson, screen, found)
    unit = screen.question.unit
    shown = answer if isinstance(answer, str) else vocabulary.written(unit)(answer)
    named = f" {unit}" if unit not in ("", "bytes", "a number") else ""
    return Told(screen, found, why, text, write(screen.question.ask), after, beside, answer, f"{shown}{named}")
