"""About

What this server is made of, how busy it is, and what holds back the code of models that readers bring.
"""

from importlib import metadata
from platform import python_version

import pandas as pd
import streamlit as st

import jobs.client
from jobs.record import ServerState
from pages.ui import show, work
from profiler.record import Device

PACKAGES = ("torch", "transformers", "streamlit", "onnx", "ortools")
MINUTE_S, HOUR_S = 60, 3600


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        server = jobs.client.default_client().server()
        uploads(server)
        left, right = st.columns(2, gap="large")
        with left:
            busy(server)
            limits(server)
        with right:
            made_of(work.catalogue().device)


def uploads(server: ServerState) -> None:
    st.subheader("Models that readers bring")
    if server.settings.public:
        st.info("Nothing may be brought to this server: it shows its own models.", icon=":material/public:")
    elif server.isolation.safe:
        st.success("Files are run, each job in a sandbox of its own that ends with it.", icon=":material/verified_user:")
    elif server.settings.trust_uploads:
        text = "Files are run **without a sandbox**: whoever started this server trusts every reader. A file may do all that the server may do."
        st.warning(text, icon=":material/gpp_maybe:")
    else:
        text = f"Files are not run, because nothing here could hold them back. {show.plain(server.isolation.missing)}"
        st.error(text, icon=":material/gpp_bad:")
        st.caption(
            "Models of the zoo work. Whoever starts the server with `--trust-uploads` lets every reader do all that the server may do."
        )
    rows = [
        {"What": layer.name, "Active": "yes" if layer.active else "no", "Needed": "yes" if layer.needed else "no", "How": layer.detail}
        for layer in server.isolation.layers
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")


def busy(server: ServerState) -> None:
    st.subheader("Now")
    with st.container(horizontal=True):
        st.metric("Jobs that run", f"{server.running} of {server.workers}", help="Readers take turns; a measurement runs alone.")
        st.metric("Jobs that wait", server.waiting)
        st.metric(
            "Results kept",
            show.size(server.kept.result_bytes),
            help=f"{show.plural(server.kept.results, 'result')}; those unused for longest make room.",
        )
        files = f"{show.plural(server.kept.sources, 'file')}; these are never dropped by themselves."
        st.metric("Readers' files", show.size(server.kept.source_bytes), help=files)


def limits(server: ServerState) -> None:
    st.subheader("What a job for a file may take")
    held = server.upload
    rows = [
        ("Memory, of all its processes and files", show.size(held.memory_bytes)),
        ("Files that it writes, kept in memory", show.size(held.scratch_bytes)),
        ("One file", show.size(held.file_bytes)),
        ("Processes and threads", show.number(held.processes)),
        ("Open files", show.number(held.open_files)),
        ("Processor time of one process", f"{held.cpu_seconds / HOUR_S:g} h"),
        ("Time, of each job", f"{jobs.client.LIMIT_S / MINUTE_S:g} min, measuring {jobs.client.MEASURE_LIMIT_S / MINUTE_S:g} min"),
    ]
    st.dataframe(pd.DataFrame(rows, columns=["What", "At most"]), hide_index=True, width="stretch")


def made_of(device: Device) -> None:
    st.subheader("Made of")
    installed = [(name, metadata.version(name)) for name in PACKAGES if any(metadata.distributions(name=name))]
    rows = [("Python", python_version()), *installed, ("Device", show.plain(device.name)), ("Its memory", show.size(device.memory_bytes))]
    st.dataframe(pd.DataFrame(rows, columns=["What", "Which"]), hide_index=True, width="stretch")


main()
