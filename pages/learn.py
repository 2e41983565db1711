"""Learn

Short lessons on live graphs. Each asks you to predict a number before it is computed; every number in them is counted from the graph on screen, and
any lesson can be switched to a model of your own.
"""

import streamlit as st

from graphs.errors import RequestError
from lessons.lesson import Lesson, Screen
from lessons.reading import lessons, named
from pages.ui import lesson_parts, lesson_place, lesson_save, present, show, work


def main() -> None:
    lesson_parts.go_on()
    show.opening(__doc__, bare=present.is_on() and lesson_place.LESSON in st.query_params)
    with show.problems():
        asked = asked_for()
        if asked is None:
            overview()
            return
        lesson, place = asked
        screen = lesson.screens[min(place.screen, len(lesson.screens) - 1)]
        heading(lesson, screen, place)
        one_screen(lesson, screen, place)


def asked_for() -> tuple[Lesson, lesson_place.Place] | None:
    """The lesson that the address names, and where in it; None for the list, which stands below the reason where there is no such lesson."""
    try:
        place = lesson_place.here()
        if place is None:
            return None
        lesson = named(place.lesson)
        if lesson is None:
            raise RequestError(f"there is no lesson `{place.lesson}`", where="lesson", help="Choose one from the list of lessons.")
    except RequestError as error:
        show.problem(show.as_problem(error), title=show.WRONG_ADDRESS)
        return None
    return lesson, place


def overview() -> None:
    """All lessons, with how far the reader got."""
    for lesson in lessons():
        with st.container(border=True):
            left, right = st.columns([5, 1], vertical_alignment="center")
            left.markdown(f"**{lesson.number}. {lesson.title}**")
            left.caption(lesson.summary)
            asked, right_ones = lesson_parts.score(lesson)
            done = f"{right_ones} of {asked} predicted" if asked else show.plural(len(lesson.screens), "screen")
            right.caption(done)
            right.button("Open", key=f"open {lesson.name}", on_click=lesson_place.begin, args=(lesson.name,), width="stretch")


def heading(lesson: Lesson, screen: Screen, place: lesson_place.Place) -> None:
    """Where the reader is, and the model that the lesson speaks of."""
    if present.is_on():
        present.stage()
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("All lessons", icon=":material/arrow_back:", on_click=lesson_place.leave, type="tertiary")
        st.markdown(f"**{lesson.number}. {lesson.title}**")
        st.caption(f"Screen {min(place.screen + 1, len(lesson.screens))} of {len(lesson.screens)}")
    with st.sidebar:
        present.start_button()
        lesson_parts.choose_model(place, screen, work.catalogue())
        lesson_parts.contents(lesson, place)
        lesson_save.buttons(lesson, place)


def one_screen(lesson: Lesson, screen: Screen, place: lesson_place.Place) -> None:
    st.subheader(screen.title, anchor=False)
    try:
        lesson_parts.screen(lesson, screen, place)
    finally:  # the way on is there even where this screen cannot be shown
        steps(lesson, place)


def steps(lesson: Lesson, place: lesson_place.Place) -> None:
    """Back and on, by click or by arrow."""
    last = place.screen >= len(lesson.screens) - 1
    if present.is_on():
        where = f"{lesson.title}: {place.screen + 1} of {len(lesson.screens)}"
        back = (lesson_place.step, -1, len(lesson.screens)) if place.screen else None
        on = None if last else (lesson_place.step, 1, len(lesson.screens))
        present.bar(where, back, on, lesson.screens[min(place.screen, len(lesson.screens) - 1)].notes)
        return
    with st.container(horizontal=True):
        st.button(
            "Back", icon=":material/chevron_left:", disabled=place.screen == 0, on_click=lesson_place.go,
            args=(lesson.name, place.screen - 1), shortcut="Alt+Left", key="lesson back",
        )  # fmt: skip
        if not last:
            st.button(
                "Next", icon=":material/chevron_right:", type="primary", on_click=lesson_place.go,
                args=(lesson.name, place.screen + 1), shortcut="Alt+Right", key="lesson next",
            )  # fmt: skip
    if last:
        lesson_parts.ending(lesson, place)


main()
