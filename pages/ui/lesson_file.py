"""A lesson as a file: what has to be asked for it, and the file made of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from graphs.errors import FxscopeError
from jobs.experiment import Experiment
from jobs.record import Export, ExportResult, Request, Result
from lessons.formula import work_out
from lessons.lesson import Lesson, Screen
from lessons.notebook import notebook
from lessons.told import Told, told, without
from pages.ui import lesson_found, lesson_numbers, lesson_place, show
from pages.ui.lesson_page import lesson_page
from pages.ui.lesson_place import Place

Kind = Literal["page", "notebook"]
Take = Callable[[Request], Result]  # a result, or the error that the worker came to


def wanted(lesson: Lesson, place: Place, kind: Kind) -> list[Request]:
    """All that the worker has to find, each once, in the order of the screens.

    Raises:
        RequestError: the words of the place are wrong.
    """
    asked: dict[Request, None] = {}
    for screen in lesson.screens:
        if screen.words:
            experiment = lesson_place.on_model(screen.words, place.on)
            asked |= dict.fromkeys(lesson_found.requests(screen, experiment))
            asked |= {_programs(experiment): None} if kind == "notebook" else {}
    return list(asked)


def content(lesson: Lesson, place: Place, kind: Kind, take: Take) -> bytes:
    """The file. A screen for which nothing was found says why.

    Raises:
        SourceError: a lesson computes something that it cannot.
        RequestError: the words of the place are wrong.
    """
    screens = [_screen(lesson, screen, place, take) for screen in lesson.screens]
    if kind == "page":
        return lesson_page(lesson, screens, place.on).encode()
    experiments = {one.words: one for screen in lesson.screens if screen.words for one in [lesson_place.on_model(screen.words, place.on)]}
    return notebook(lesson, screens, {words: _program(one, take) for words, one in experiments.items()}, place.on)


def name(lesson: Lesson, kind: Kind) -> str:
    """Of the file."""
    return f"fxscope_{lesson.number:02}_{lesson.name.replace('-', '_')}.{'html' if kind == 'page' else 'ipynb'}"


def _screen(lesson: Lesson, screen: Screen, place: Place, take: Take) -> Told:
    if screen.formula:
        return told(lesson, screen, work_out(place.formula or screen.formula), bool(place.formula))
    if screen.numbers:
        return told(lesson, screen, lesson_numbers.chosen(place, screen.numbers), bool(place.numbers))
    if not screen.words:
        return told(lesson, screen, None, moved=False)
    experiment = lesson_place.on_model(screen.words, place.on)
    try:
        results = {request: take(request) for request in lesson_found.requests(screen, experiment)}
    except FxscopeError as error:
        return without(screen, _sentence(error))
    return told(lesson, screen, lesson_found.found(screen, experiment, results), bool(place.on))


def _programs(experiment: Experiment) -> Export:
    return Export(experiment.words, "notebook")


def _program(experiment: Experiment, take: Take) -> bytes | str:
    """The experiment's notebook, or why there is none."""
    try:
        return cast(ExportResult, take(_programs(experiment))).content
    except FxscopeError as error:
        return _sentence(error)


def _sentence(error: FxscopeError) -> str:
    return " ".join(show.sentence(part) for part in (error.what, error.help) if part)
