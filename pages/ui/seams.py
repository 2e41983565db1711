"""Where torch.compile would cut the model: asked for by a button, shown as a table whose rows lead into the graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from graphs.record import Seam, SeamReport
from jobs.record import Seams, SeamsResult, request_hash
from pages.ui import show, work

SHOWN_GRAPHS = 200
UNKNOWN = "cannot be told"


def tab(words: str, choose: Callable[[str], None], light: Callable[[str], None]) -> None:
    """The tab's content; choosing a row calls `choose` with the node after the seam, the button below calls `light` with a query."""
    request = Seams(words)
    slot = f"seams {request_hash(request)[:12]}"  # its own for each model: another model's seams say nothing about this one
    if not work.is_begun(request, slot):
        st.caption(
            "`torch.compile` reads a model's code with TorchDynamo. Where it meets something that it cannot put into a graph, it ends the graph, "
            "lets Python do that piece, and begins another: a graph break. Nothing is fused across it."
        )
        st.button(
            "Where would torch.compile break?", key="ask seams", icon=":material/content_cut:", on_click=work.ask, args=(request, slot)
        )
        return
    report = work.answer(request, slot, SeamsResult).report
    summary(report)
    if report.seams:
        table(report, f"{slot} table", choose)
        nodes = list(dict.fromkeys(seam.node for seam in report.seams if seam.node))
        st.button(
            "Light them in the graph",
            key="light seams",
            icon=":material/highlight:",
            on_click=light,
            args=(query(nodes),),
            disabled=not nodes,
        )
    if len(report.operators) > 1:
        graphs(report)


def summary(report: SeamReport) -> None:
    """How many graphs there are, in one box; what was left out, below."""
    graphs, places = len(report.operators), len(report.seams)
    if report.whole:
        st.success("**One graph: torch.compile takes the whole model.**", icon=":material/check_circle:")
    elif report.notes:
        st.warning(
            f"**{show.plural(places, 'seam')} found, and perhaps there are more.** {show.sentence(report.notes[0])}",
            icon=":material/content_cut:",
        )
    elif not graphs:
        st.warning("**torch.compile takes nothing of this model:** all of it runs as plain Python.", icon=":material/content_cut:")
    else:
        st.warning(
            f"**torch.compile makes {show.plural(graphs, 'graph')} of this model,** with seams at {show.plural(places, 'line')}.",
            icon=":material/content_cut:",
        )
    how = "on shapes, without weights" if report.shapes_only else "with numbers, since Python asks for some"
    st.caption(
        f"{show.plural(sum(report.operators), 'operator')} in graphs (torch's own, before they become ATen), "
        f"{show.plural(report.guards, 'guard')} to check. Found in {report.seconds:.1f} s {how}; the forward pass only."
    )


def table(report: SeamReport, key: str, choose: Callable[[str], None]) -> None:
    """One row per seam; the chosen one is told in full below."""
    st.dataframe(
        frame(report.seams),
        key=key,
        hide_index=True,
        height=min(360, 37 + 35 * len(report.seams)),
        selection_mode="single-row",
        on_select=lambda: _chosen(key, report.seams, choose),
        column_config={
            "line": st.column_config.TextColumn(width=150),
            "code": st.column_config.TextColumn(width=180),
            "why": st.column_config.TextColumn(width=370),
            "then": st.column_config.TextColumn(width=110, help="The first node of the graph above that comes after the seam."),
            "way out": st.column_config.TextColumn(width=230),
        },
    )
    rows = st.session_state.get(key, {}).get("selection", {}).get("rows", [])
    if rows and rows[0] < len(report.seams):
        st.markdown(in_full(report.seams[rows[0]]))
    else:
        st.caption("Choose a row: the graph goes to the first node after the seam, and the seam is told in full here.")


def frame(seams: Sequence[Seam]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": [f"{seam.source.file.rpartition('/')[2]}:{seam.source.line}" if seam.source else "" for seam in seams],
            "code": [seam.source.text if seam.source else "" for seam in seams],
            "why": [reason(seam).replace("`", "") for seam in seams],
            "then": [seam.node or UNKNOWN for seam in seams],
            "way out": [seam.way_out for seam in seams],
        }
    )


def reason(seam: Seam) -> str:
    """The reason, and how far it reaches."""
    return f"{seam.reason}; from there all of `{seam.function}` runs as plain Python" if seam.whole else seam.reason


def in_full(seam: Seam) -> str:
    """Reason, way out, and torch's own words, as Markdown."""
    parts = [f"**{show.sentence(reason(seam))}**"]
    if seam.source and "/" in seam.source.file:
        parts.append(f"In {show.plain(seam.source.file)}, line {seam.source.line}.")
    if seam.way_out:
        parts.append(f"Way out: {show.sentence(seam.way_out)}")
    if seam.callers:
        called = seam.callers[-1]
        parts.append(f"Called from {show.plain(called.file)}, line {called.line}: {show.plain(called.text)}")
    if seam.torch_says:
        parts.append(f":gray[torch says: {show.sentence(seam.torch_says)}]")
    if seam.whole:
        parts.append(f"What else in `{seam.function}` would break shows when this is mended.")
    if seam.times > 1:
        parts.append(f"Dynamo met it {seam.times:,} times while it compiled.")
    if not seam.node:
        parts.append("Which node comes after it cannot be told from the lines of the captured graph.")
    return "  \n".join(parts)


def graphs(report: SeamReport) -> None:
    """The graphs of torch.compile, in the order in which it makes them."""
    shown = len(report.operators[:SHOWN_GRAPHS])
    columns = {"graph": [*range(1, shown + 1)], "operators": [*report.operators[:shown]], "runs": [*report.runs[:shown]]}
    with st.expander(f"The {show.plural(len(report.operators), 'graph')}"):
        st.dataframe(
            pd.DataFrame(columns), hide_index=True, width="content", height=min(360, 37 + 35 * shown),
            column_config={"runs": st.column_config.NumberColumn(help="How often it ran in one forward pass.")},
        )  # fmt: skip


def query(nodes: Sequence[str]) -> str:
    """What the graph's finder takes for exactly these nodes."""
    return f"/^({'|'.join(re.escape(name) for name in nodes)}) /"


def _chosen(key: str, seams: Sequence[Seam], choose: Callable[[str], None]) -> None:
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(seams) and seams[rows[0]].node:
        choose(seams[rows[0]].node)
