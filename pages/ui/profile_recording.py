"""The section for files: a trace of torch.profiler, or a snapshot of CUDA's memory, opened by the worker and looked at here."""

from __future__ import annotations

import streamlit as st

import jobs.client
from graphs.errors import FxscopeError
from jobs.record import OpenRecording, RecordingResult
from pages.ui import profile_memory, profile_time, show, work
from profiler.recordings import ENDINGS, LIMIT_BYTES

KEY, KEPT = "recording", "recording kept"


def panel() -> None:
    """Asks for a file and shows what is in it."""
    if jobs.client.default_client().settings.public:
        st.info(
            "Nothing may be brought to this server: recordings are opened where fxscope runs without `--public`.", icon=":material/public:"
        )
        return
    st.caption(
        "A trace that `export_chrome_trace` of torch.profiler wrote (`.json`, `.json.gz`), or a snapshot of `torch.cuda.memory._dump_snapshot` "
        f"(`.pickle`, `.pickle.gz`), up to {LIMIT_BYTES >> 20} MiB, from whatever machine. Nothing in the file is run: a snapshot is read without unpickling it."
    )
    file = st.file_uploader("A recording", type=list(ENDINGS), key=KEY, max_upload_size=LIMIT_BYTES >> 20, label_visibility="collapsed")
    if file is not None and st.session_state.get(KEPT, ("", ""))[0] != file.file_id:
        try:
            kept = jobs.client.default_client().keep_recording(file.getvalue(), file.name, work.reader())
        except FxscopeError as error:
            show.problem(show.as_problem(error))
            return
        st.session_state[KEPT] = (file.file_id, kept, file.name)
    if KEPT not in st.session_state:
        return
    _, source, name = st.session_state[KEPT]
    st.markdown(f"**{show.plain(name)}**")
    found = work.answer(OpenRecording(source), f"recording {source}", RecordingResult)  # another file is no last good result of this one
    if found.timeline:
        profile_time.panel(found.timeline, "recorded", "", None, name)
        profile_time.table(found.timeline, "recorded")
    if found.memory:
        profile_memory.panel(found.memory, "recorded memory", lambda name: None)
