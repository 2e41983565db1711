"""Class

One screen for a whole class: students follow the presenter from their own computers or phones, predict, and see what the class predicted.
Or a task: each student improves the same graph, and submits a link that is graded by what the server counts and verifies.
"""

import io
from urllib.parse import urlsplit

import segno
import streamlit as st

from graphs.errors import FxscopeError
from jobs.classroom import CODE_LENGTH
from pages.ui import class_desk, class_seat, class_task_form, class_task_results, class_task_student, class_tasks, show

QR_WIDTH = 260
HERE_ONLY = ("localhost", "127.0.0.1", "::1")


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        if problem := st.session_state.pop("class problem", None):
            st.warning(problem, icon=":material/info:")
        if task := class_tasks.asked():
            class_tasks.remember(task.code)
            (class_task_results if class_tasks.key(task.code) else class_task_student).page(task)
            return
        if class_task_form.making():
            class_task_form.form()
            return
        if class_seat.key():
            desk()
        elif class_seat.code():
            seated()
        else:
            doors()
        class_task_form.doors()


# ---------------------------------------------------------------- outside


def doors() -> None:
    """Join one, or open one."""
    left, right = st.columns(2, gap="large")
    with left, st.container(border=True):
        st.subheader("Join a room", anchor=False)
        with st.form("class join form", border=False):
            st.text_input(
                "Code", key="class typed", max_chars=20, placeholder=f"{CODE_LENGTH} letters", help="The presenter's screen shows it."
            )
            st.form_submit_button("Join", type="primary", on_click=join)
        st.caption("No account and no name: your browser gets a seat, and nobody sees which prediction was yours.")
    with right, st.container(border=True):
        st.subheader("Open a room", anchor=False)
        st.markdown(
            "Your class gets a code and a QR code. From then on, every page that you open is on their screens too; "
            "on a question of a lesson they predict, and you reveal."
        )
        st.button("Open a room", key="class open", icon=":material/cast_for_education:", on_click=open_one)


def join() -> None:
    try:
        class_seat.enter(str(st.session_state.get("class typed", "")))
    except FxscopeError as error:
        st.session_state["class problem"] = f"{show.sentence(error.what)} {show.sentence(error.help)}"


def open_one() -> None:
    try:
        opened = class_seat.classroom().open()
        class_seat.enter(opened.code, opened.key)
    except FxscopeError as error:
        st.session_state["class problem"] = f"{show.sentence(error.what)} {show.sentence(error.help)}"


# ---------------------------------------------------------------- a student


def seated() -> None:
    st.subheader(f"You are in room {class_seat.code()}", anchor=False)
    st.markdown("Your screen goes where the presenter goes. Explore by yourself at any time; one button brings you back.")
    st.button("Leave the room", key="class leave", icon=":material/logout:", on_click=class_seat.leave)


# ---------------------------------------------------------------- the presenter


def desk() -> None:
    """The door for the class on the left; what is on screen, with notes and votes, on the right."""
    left, right = st.columns([1, 1.6], gap="large")
    with left:
        door()
        room_itself()
    with right:
        class_desk.on_screen()


def door() -> None:
    """The code and the QR code, large enough for the last row."""
    code = class_seat.code()
    with st.container(border=True):
        st.caption("Join with this code")
        st.title(" ".join(code), anchor=False)
        joined()
        address = class_seat.address("classroom", {class_seat.ROOM: code})
        if address:
            st.image(qr(address), width=QR_WIDTH)
            st.code(address, language=None, wrap_lines=True)
            if urlsplit(address).hostname in HERE_ONLY:
                st.caption(
                    "This address works on this computer only. Open fxscope by the name that students know it by, and come back here."
                )


@st.fragment(run_every=2.0)
def joined() -> None:
    room = class_seat.classroom().room(class_seat.code())
    st.caption(f"{show.plural(room.seats if room else 0, 'student')} joined so far.")


def room_itself() -> None:
    with st.container(horizontal=True):
        with st.popover("Present from another computer", icon=":material/key:"):
            st.caption("Whoever has this link steers the room. Do not show it to the class.")
            st.code(class_seat.address("classroom", {class_seat.ROOM: class_seat.code(), class_seat.KEY: class_seat.key()}), language=None)
        st.button("End the room", key="class close", icon=":material/door_front:", on_click=close, type="tertiary")


def qr(address: str) -> str:
    """The address as a QR code, SVG, dark on white on every theme."""
    out = io.BytesIO()
    segno.make(address, error="m", micro=False).save(out, kind="svg", scale=8, border=3, dark="#000", light="#fff", xmldecl=False)
    return out.getvalue().decode()


def close() -> None:
    try:
        class_seat.classroom().close(class_seat.code(), class_seat.key())
    except FxscopeError as error:
        st.session_state["class problem"] = show.sentence(error.what)
    class_seat.forget_key()
    class_seat.leave()


main()
