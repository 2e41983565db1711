"""A measurement in a lesson: begun by the reader, and only once something was predicted."""

from __future__ import annotations

import streamlit as st

from jobs.record import Measure, MeasureResult
from lessons.lesson import Found
from pages.ui import measured, work
from profiler.record import Measurement


def known(words: str) -> Measurement | None:
    """The measurement of an experiment, where it was made before, here or on the page Measure."""
    request = Measure(words)
    result = work.kept(request, MeasureResult)
    return result.measurement if result else None


def ask_for(words: str) -> None:
    """The button that measures, or how far that is."""
    request, slot = Measure(words), f"lesson measure {words}"
    if work.is_asked(request, slot):
        work.answer(request, slot, MeasureResult)  # ends this part of the page while it runs; then the page runs again
        return
    st.markdown("Your prediction is kept. Now measure it on this machine; that takes from some seconds to a few minutes.")
    st.button("Measure", key="lesson measure", type="primary", icon=":material/timer:", on_click=work.ask, args=(request, slot))


def picture(found: Found, key: str, told: bool) -> None:
    """Every run as a point, then the verdict with its interval and how far it can be believed."""
    if not told or found.measurement is None:
        st.caption("Predict, then measure: every run will be drawn here.")
        return
    st.plotly_chart(measured.every_run(found.measurement), key=f"{key} runs", config=measured.LOGO)
    measured.verdict(found.measurement)
    measured.trust(found.measurement)
