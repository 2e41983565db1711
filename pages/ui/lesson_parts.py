"""What a screen of a lesson is made of: text, picture, the question, and the answer beside what was predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from urllib.parse import parse_qsl

import streamlit as st

from graphs.errors import FxscopeError
from jobs.experiment import Experiment
from jobs.record import CatalogueResult, ExploreResult, OptimizeResult
from lessons import telling, vocabulary
from lessons.formula import work_out
from lessons.lesson import Found, Lesson, Screen, What
from lessons.numbers import Numbers
from lessons.reading import Question
from lessons.tiling import Product
from pages.ui import (
    charts,
    class_votes,
    lesson_found,
    lesson_kernel,
    lesson_measured,
    lesson_numbers,
    lesson_place,
    lesson_roofline,
    lesson_scalar,
    lesson_tiles,
    lesson_treemap,
    offers,
    present,
    show,
    state,
    work,
)  # fmt: skip
from pages.ui.graph_view import graph_view
from pages.ui.lesson_place import Place
from pages.ui.titles import numbered, step_title
from profiler.record import Measurement

HEIGHT = 480
WISH = "lesson goes on with"
OWN_CHOICE = "The lesson's own model"


# ---------------------------------------------------------------- the sidebar


def choose_model(place: Place, screen: Screen, catalogue: CatalogueResult) -> None:
    """Which model the lesson speaks of: its own, one of the zoo, or the one that the reader looked at on another page. Not on a screen that speaks
    of none."""
    titles = {"": OWN_CHOICE}
    if state.WORDS in st.session_state:
        mine = state.current().prefix(0)
        titles[mine.words] = f"What you looked at last: {state.title(mine)}"
    titles |= {f"model={model.name}&mode={model.modes[0]}": model.title for model in catalogue.models if model.name.startswith("zoo/")}
    if place.on not in titles:
        titles[place.on] = f"`{place.on}`"
    at = list(titles).index(state.widget("lesson model", place.on))
    st.selectbox(
        "Model", list(titles), at, key="lesson model", format_func=lambda words: titles[words], on_change=_take_model, disabled=not screen.words,
        help="Any lesson can speak of another model; where it says nothing about that one, the screen says why.",
    )  # fmt: skip
    if not screen.words:
        st.caption(f"This screen speaks of {'a formula' if screen.formula else 'numbers'}, not of a model.")


def _take_model() -> None:
    lesson_place.take_model(st.session_state["lesson model"])


def contents(lesson: Lesson, place: Place) -> None:
    """The screens of the lesson, to go to."""
    st.caption("In this lesson")
    for at, screen in enumerate(lesson.screens):
        icon = ":material/check:" if (lesson.name, at) in _predictions() else None
        kind = "primary" if at == place.screen else "tertiary"
        st.button(screen.title, key=f"go {at}", icon=icon, type=kind, on_click=lesson_place.go, args=(lesson.name, at))


# ---------------------------------------------------------------- the screen


def screen(lesson: Lesson, screen: Screen, place: Place) -> None:
    """Text, picture, question, answer."""
    if screen.formula:
        _of_a_formula(lesson, screen, place)
    elif screen.numbers:
        _of_numbers(lesson, screen, place)
    elif screen.words:
        _of_an_experiment(lesson, screen, place)
    else:
        st.markdown(telling.text(lesson, screen, None, screen.text))


def _of_a_formula(lesson: Lesson, screen: Screen, place: Place) -> None:
    lesson_scalar.choose_formula(place, screen.formula)
    worked = work_out(place.formula or screen.formula)
    if place.formula:
        _say_why_not(screen, worked)
    left, right = st.columns([1, 1.5], gap="large")
    with left:
        told = _told(lesson, screen, worked, place)
        if told and screen.picture == "reverse":
            lesson_scalar.collected(worked, _key(lesson, place))
    with right:
        lesson_scalar.picture(screen.picture, worked, _key(lesson, place), told)


def _of_numbers(lesson: Lesson, screen: Screen, place: Place) -> None:
    given = lesson_numbers.chosen(place, screen.numbers)
    left, right = st.columns([1, 1.5], gap="large")
    with right:
        st.markdown("**Numbers of your own**")
        lesson_numbers.ask(given)
        if screen.picture == "tiles":
            lesson_tiles.picture(Product(given["M"], given["N"], given["K"]), screen.code["tile"](given), _key(lesson, place))
    if place.numbers:
        _say_why_not(screen, given)
    with left:
        told = _told(lesson, screen, given, place)
    with right:
        _beside(lesson, screen, given, told)


def _of_an_experiment(lesson: Lesson, screen: Screen, place: Place) -> None:
    experiment = lesson_place.on_model(screen.words, place.on)
    ceilings = lesson_roofline.ceilings() if "ceilings" in screen.needs else None
    if "ceilings" in screen.needs and ceilings is None:
        return
    if screen.change:
        lesson_numbers.ask_sizes(experiment, screen.change, work.catalogue())
    known = _answered(experiment, _key(lesson, place))
    found = replace(
        known, ceilings=ceilings, measurement=_measurement(screen, experiment.words), **lesson_kernel.known(screen, experiment.words)
    )
    if place.on:
        _say_why_not(screen, found)
    left, right = st.columns([1, 1.5], gap="large")
    with left:
        told = _told(lesson, screen, found, place)
        page = "pages/optimize.py" if experiment.pipeline else "pages/explore.py"  # which has the capture ready
        st.page_link(page, label="Open this experiment", icon=":material/open_in_new:", query_params=dict(parse_qsl(experiment.words)))
    with right:
        picture(screen, found, _key(lesson, place), told)
        _beside(lesson, screen, found, told)


def _answered(experiment: Experiment, slot: str) -> Found:
    answer = work.answer(lesson_found.of_graphs(experiment), slot, object)
    return lesson_found.graphs(experiment.words, cast(ExploreResult | OptimizeResult, answer))


def _measurement(screen: Screen, words: str) -> Measurement | None:
    return lesson_measured.known(words) if "measurement" in screen.needs else None


def _key(lesson: Lesson, place: Place) -> str:
    return f"lesson {lesson.name} {place.screen}"


def _say_why_not(screen: Screen, found: What) -> None:
    if reason := telling.why_not(screen, found):
        own = "numbers show" if isinstance(found, Numbers) else "model shows"
        st.info(f"{show.sentence(reason)} The lesson's own {own} it.", icon=":material/info:")


def _told(lesson: Lesson, screen: Screen, found: What, place: Place) -> bool:
    """Text and question. May the picture show its numbers: was the question answered, if there is one?"""
    st.markdown(telling.text(lesson, screen, found, screen.text))
    return ask(lesson, screen, screen.question, found, place) if screen.question else True


def _beside(lesson: Lesson, screen: Screen, found: What, told: bool) -> None:
    """What is too wide for the text."""
    if told and screen.beside:
        st.markdown(telling.text(lesson, screen, found, screen.beside))


def picture(screen: Screen, found: Found, key: str, told: bool) -> None:
    """What the screen draws of its experiment; what would tell the answer, the totals and the memory after the steps, only once it was told."""
    height = present.GRAPH_HEIGHT if present.is_on() else HEIGHT
    if screen.picture == "memory":
        st.plotly_chart(charts.memory(found.after if told else found.before), key=f"{key} memory", config={"displaylogo": False})
    elif screen.picture == "roofline":
        lesson_roofline.picture(found, key, told)
    elif screen.picture == "runs":
        lesson_measured.picture(found, key, told)
    elif screen.picture == "treemap":
        lesson_treemap.picture(found, key, told, screen.code.get("SHOWN", "operations"))
    elif screen.picture == "kernel" and told:
        lesson_kernel.picture(found, key)
    elif screen.picture in ("graph", "kernel"):
        graph_view([found.after], key, height=height)
        _legend()
    elif screen.picture == "change":
        graph_view(
            found.graphs, key, steps=["captured", *(step_title(step.words) for step in found.steps)], diffs=[step.diff for step in found.steps],
            height=height, look={"step": len(found.steps)},
        )  # fmt: skip
        _legend(marks=True)
        if found.steps:
            show.verdict_line(found.steps[-1].verdict)
    if screen.picture in ("change", "graph") and told:
        rows = [("captured", found.before.totals)]
        show.totals_table([*rows, *zip(numbered(step.words for step in found.steps), (step.after for step in found.steps), strict=True)])


def _legend(marks: bool = False) -> None:
    """Not on a projector, where the room is for the graph."""
    if not present.is_on():
        show.legend(marks)


# ---------------------------------------------------------------- predicting


def _predictions() -> dict[tuple[str, int], dict[str, Any]]:
    return st.session_state.setdefault("predictions", {})


def ask(lesson: Lesson, screen: Screen, question: Question, found: What, place: Place) -> bool:
    """The question; once it is answered, the answer with the prediction beside it. Was it answered?"""
    key = (lesson.name, place.screen)
    given = _predictions().get(key)
    with st.container(border=True):
        st.markdown(f"**Predict.** {telling.text(lesson, screen, found, question.ask)}")
        if class_votes.in_class():
            return _with_the_class(lesson, screen, question, found, place)
        if given is None or given["words"] != found.words:
            _form(question, key, found.words)
            return False
        if "measurement" in screen.needs and isinstance(found, Found) and found.measurement is None:
            lesson_measured.ask_for(found.words)
            return False
        _reveal(lesson, screen, question, found, given)
        again = f"again {lesson.name} {screen.line}"
        st.button("Predict again", key=again, on_click=_again, args=((lesson.name, given),), type="tertiary")
        return True


def _with_the_class(lesson: Lesson, screen: Screen, question: Question, found: What, place: Place) -> bool:
    """The same where the class predicts and its presenter reveals."""
    name = class_votes.named(lesson.name, place.screen, found.words)
    revealed, mine = class_votes.ask(question, name)
    if not revealed:
        return False
    if "measurement" in screen.needs and isinstance(found, Found) and found.measurement is None:
        lesson_measured.ask_for(found.words)
        return False
    given = {"predicted": mine, "words": found.words}
    student = class_votes.is_student()
    if student:
        _predictions()[(lesson.name, place.screen)] = given
    true = _reveal(lesson, screen, question, found, given, alone=not student)
    if true is not None:
        class_votes.outcome(question, name, true)
    return True


def _form(question: Question, key: tuple[str, int], words: str) -> None:
    name = f"predict {key[0]} {key[1]}"
    with st.form(f"{name} form", border=False):
        if question.choices:
            st.radio("Your prediction", question.choices, key=name, index=None)
        else:
            st.number_input(f"Your prediction, {question.unit}", key=name, value=None, placeholder="A number; a guess is fine")
        st.form_submit_button("Show the answer", type="primary", on_click=_take, args=(name, key, words), shortcut="Alt+Enter")


def _take(name: str, key: tuple[str, int], words: str) -> None:
    predicted = st.session_state.get(name)
    _predictions()[key] = {"predicted": predicted, "words": words}


def _reveal(
    lesson: Lesson, screen: Screen, question: Question, found: What, given: dict[str, Any], alone: bool = False
) -> float | str | None:
    """The answer beside what was predicted, or alone, and the text after it; gives the answer, or None where there is none."""
    try:
        true = telling.answer(lesson, screen, found)
    except FxscopeError as error:
        show.problem(show.as_problem(error))
        return None
    predicted = given["predicted"]
    right = predicted is not None and telling.close(predicted, true)
    given["right"] = right
    write = vocabulary.written(question.unit)
    said = "nothing" if predicted is None else predicted if isinstance(predicted, str) else write(predicted)
    _side_by_side(show.plain(str(said)), show.plain(true if isinstance(true, str) else write(true)), screen, question, alone)
    if predicted is not None:
        st.badge(
            "Right" if right else "Not quite",
            icon=":material/check:" if right else ":material/close:",
            color="green" if right else "orange",
        )
    st.markdown(telling.text(lesson, screen, found, screen.after))
    return true


def _side_by_side(said: str, true: str, screen: Screen, question: Question, alone: bool) -> None:
    """The prediction beside the answer; words of a choice may be long, so they are no large figures."""
    left, right = (st.container(), st.container()) if alone else st.columns(2)
    if question.choices:
        if not alone:
            left.markdown(f"You predicted\n\n**{said}**")
        right.markdown(f"The answer\n\n**{true}**")
        return
    if not alone:
        left.metric("You predicted", said)
    right.metric("Measured" if {"ceilings", "measurement"} & set(screen.needs) else "Counted", true, help=question.unit)


def _again(which: tuple[str, dict[str, Any]]) -> None:
    name, given = which
    for key in [key for key, value in _predictions().items() if key[0] == name and value is given]:
        del _predictions()[key]


def score(lesson: Lesson) -> tuple[int, int]:
    """How many of a lesson's questions were answered, and how many well."""
    mine = [given for (name, _), given in _predictions().items() if name == lesson.name]
    return len(mine), sum(bool(given.get("right")) for given in mine)


def ending(lesson: Lesson, place: Place) -> None:
    """How it went, and where it goes on."""
    asked, right = score(lesson)
    total = sum(screen.question is not None for screen in lesson.screens)
    st.divider()
    st.markdown(f"**The end of the lesson.** You predicted {asked} of {show.plural(total, 'number')}, {right} of them within a tenth.")
    if lesson.leads_to:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("Go on by yourself:")
            for name in lesson.leads_to:
                args = (name, _words_to_go_on(lesson, place))
                st.button(name, key=f"go on with {name}", icon=":material/arrow_forward:", on_click=_wish_to_go_on, args=args)


def _words_to_go_on(lesson: Lesson, place: Place) -> str:
    """The lesson's last experiment, before its steps, on the reader's model where there is one; empty where it speaks of formulas alone."""
    experiments = [screen.words for screen in lesson.screens if screen.words]
    return lesson_place.on_model(experiments[-1], place.on).prefix(0).words if experiments else ""


def _wish_to_go_on(name: str, words: str) -> None:
    """A callback cannot lead to another page, and a run that looks at a button itself may be ended before it does."""
    offers.seek(name)
    st.session_state[WISH] = words


def go_on() -> None:
    """Leads to Optimize where the reader wishes to go on; at the beginning of a page."""
    if WISH in st.session_state:
        st.switch_page("pages/optimize.py", query_params=dict(parse_qsl(st.session_state.pop(WISH))))
