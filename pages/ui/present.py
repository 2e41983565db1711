"""Present: one screen or one step at a time, in large type, without anything around it, by keyboard or by a presenter's remote control."""

from __future__ import annotations

import streamlit as st

from pages.ui import class_seat

ON, NOTES = "presenting", "presenting notes"
GRAPH_HEIGHT = "max(20rem, calc(100vh - 13rem))"

LOOK = """<i class="fxscope-history fxscope-presenting"></i><style>
html {font-size: clamp(18px, 1.45vw, 30px);}
.stSidebar, [data-testid="stHeader"], [data-testid="stExpandSidebarButton"] {display: none !important;}
.stMainBlockContainer {padding: 1rem 2rem 3.2rem; max-width: 100%;}
.st-key-present_bar {position: fixed; bottom: 0; left: 0; right: 0; z-index: 50; padding: 0.15rem 1.5rem; backdrop-filter: blur(14px);
  border-top: 1px solid #8886;}
.st-key-present_bar * {font-size: 0.8rem;}
</style>"""

# Pressing a key presses a button of the page: what happens stays in one place. What the graph or a field of a form does with a key is theirs;
# PageUp and PageDown, which remote controls send, always step. A browser ends full screen by Escape itself, without telling a key.
KEYS = """<i class="fxscope-history"></i><script>
if (!window.fxscopePresent) {
  window.fxscopePresent = true;
  const press = (name, patience = 20) => { // a page that is being drawn may not have its buttons yet
    const button = document.querySelector(`.st-key-${name} button`);
    if (button) button.click(); else if (patience) setTimeout(press, 100, name, patience - 1);
  };
  const isOn = () => document.querySelector(".fxscope-presenting");
  const acts = {PageDown: "present_next", ArrowRight: "present_next", PageUp: "present_back", ArrowLeft: "present_back", Escape: "present_leave",
    f: "present_leave", n: "present_notes"};
  const typing = (event) => event.composedPath().some((one) => one.matches?.("input, textarea, select, [contenteditable], [role=combobox], [role=slider]"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (name === "f" && !isOn() && !typing(event) && document.querySelector(".st-key-present_start")) return press("present_start");
    if (!isOn() || !acts[name] || (typing(event) && !name.startsWith("Page"))) return;
    event.preventDefault();
    press(acts[name]);
  });
  document.addEventListener("click", (event) => {
    const inside = (name) => event.target.closest?.(`.st-key-${name}`);
    if (inside("present_start")) document.documentElement.requestFullscreen?.().catch(() => {});
    if (inside("present_leave") && document.fullscreenElement) document.exitFullscreen();
  }, true);
  document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement && isOn()) press("present_leave"); });
}
</script>"""


def is_on() -> bool:
    return bool(st.session_state.get(ON))


def start_button() -> None:
    """Begins it; the key F does too. Not for who follows another's screen."""
    if class_seat.follows():
        return
    st.html(KEYS, unsafe_allow_javascript=True)
    st.button(
        "Present", key="present_start", icon=":material/slideshow:", on_click=_set, args=(True,),
        help="Full screen and large type. Arrows, PageUp and PageDown step; F or Escape leaves; N shows speaker notes.",
    )  # fmt: skip


def stage() -> None:
    """Takes everything else off the screen."""
    st.html(LOOK)
    st.html(KEYS, unsafe_allow_javascript=True)


def bar(where: str, back: tuple | None, on: tuple | None, notes: str = "") -> None:
    """The line at the bottom: where we are, and a button for each key.

    Args:
        back, on: what to call and with what, (callback, *arguments); None at the ends.
        notes: Markdown for the presenter, shown when asked for.
    """
    if notes and st.session_state.get(NOTES):
        speaker_notes(notes)
    with st.container(horizontal=True, vertical_alignment="center", key="present_bar"):
        for key, icon, what, act in (("back", "chevron_left", "Back", back), ("next", "chevron_right", "Next", on)):
            call, *given = act or (_nothing,)
            st.button(
                what, key=f"present_{key}", icon=f":material/{icon}:", type="tertiary", disabled=act is None, on_click=call, args=given
            )
        st.caption(where)
        if corner_words := st.session_state.get("present corner"):
            st.caption(corner_words)
        if notes:
            st.button("Notes", key="present_notes", icon=":material/sticky_note_2:", type="tertiary", on_click=_turn_notes)
        st.button("Leave", key="present_leave", icon=":material/close_fullscreen:", type="tertiary", on_click=_set, args=(False,))


def corner(words: str) -> None:
    """A word that stands in the line at the bottom."""
    st.session_state["present corner"] = words


def speaker_notes(notes: str) -> None:
    """What a lesson tells its presenter; lessons are files of this project."""
    with st.container(border=True, key="speaker notes"):
        st.caption(":material/sticky_note_2: Speaker notes")
        st.markdown(notes)


def _set(on: bool) -> None:
    st.session_state[ON] = on
    st.session_state[NOTES] = False


def _turn_notes() -> None:
    st.session_state[NOTES] = not st.session_state.get(NOTES)


def _nothing() -> None:
    """Behind a button that cannot be pressed."""
