"""A kernel in a lesson: the nodes that it replaced, Inductor's loops, and the code for a device, one after another."""

from __future__ import annotations

import streamlit as st

from graphs.gpus import GPUS
from graphs.record import KernelRecord
from jobs.record import KernelsResult
from lessons.lesson import Found, Screen
from pages.ui import kernels, lesson_found, work


def known(screen: Screen, words: str) -> dict[str, tuple[KernelRecord, ...]]:
    """The kernels that a screen needs, for this device and for a GPU that is described; ends the page's part while they are generated."""
    asked = lesson_found.of_kernels(screen, words)
    return {need: work.answer(request, f"lesson kernels {words} {request.gpu}", KernelsResult).kernels for need, request in asked.items()}


def picture(found: Found, key: str) -> None:
    """What the screen knows of the first kernel; where it knows both devices' code, the reader chooses, and the GPU's comes first."""
    made = {"this processor": found.kernels, GPUS[lesson_found.GPU].title: found.triton}
    known = {name: records for name, records in made.items() if records}
    if not known:
        st.caption("The last graph of this experiment has no kernel whose code could be shown.")
        return
    chosen = [*known][-1]
    if len(known) > 1:
        chosen = st.segmented_control("Code for", list(known), default=chosen, required=True, key=f"{key} device")
    kernel = known[chosen][0]
    if text := "\n\n".join(filter(None, kernel.loops)):
        with st.expander("Inductor's loops, before they become code", expanded=True):
            st.code(text, language="python", height=min(300, 60 + 22 * text.count("\n")))
    kernels.of_kernel(kernel, with_loops=False)
