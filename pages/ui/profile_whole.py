"""What a profile says of the whole run: tiles, how the nodes add up to it, and where the numbers come from."""

from __future__ import annotations

import streamlit as st

from pages.ui import profile_charts, show
from profiler.node_record import NodeProfile

TOLERANCE = 0.10  # of a whole run, by which its nodes may miss it without a word


def tiles(profile: NodeProfile, word: str = "measured") -> None:
    """The whole, its parts, and how much of what ran is known to belong to a node.

    Args:
        word: measured, or recorded where another machine did.
    """
    low, high = profile.whole_interval_ms
    share = profile.mapped / profile.events if profile.events else 0.0
    work_word = "kernels" if profile.device.kind == "cuda" else "operators"
    rows = [
        ("Whole run", show.milliseconds(profile.whole_ms), f"Median of {profile.runs} runs without any mark; 95 % interval {show.milliseconds(low)} to {show.milliseconds(high)}."),
        ("All nodes", _of_whole(profile.nodes_ms, profile), "The medians of all nodes, summed."),
        ("Between", _of_whole(profile.between_ms, profile), "In a run, but in no node: Python between operators, memory given back, gaps in which a GPU waits."),
        ("Peak", show.size(profile.peak_bytes), "Most bytes held in a run beyond parameters and inputs."),
        ("Mapped", f"{share:.1%}", f"{profile.mapped:,} of {profile.events:,} {work_word} that torch.profiler saw in a run belong to a node of the graph."),
    ]  # fmt: skip
    for column, (title, value, meaning) in zip(st.columns([1.2, 1.15, 1.1, 1, 1.1]), rows, strict=True):
        column.metric(f"{title} · {word}", value, border=True, help=meaning)
    st.markdown(adds_up(profile))
    st.plotly_chart(profile_charts.composition(profile), key="profile composition", config={"displayModeBar": False})


def adds_up(profile: NodeProfile) -> str:
    """Whether the nodes make up the whole, and where the rest is if they do not."""
    whole = profile.whole_ms or 1.0
    share, between, uneven = (ms / whole for ms in (profile.nodes_ms, profile.between_ms, profile.uneven_ms))
    told = f"The nodes add up to **{share:.1%}** of a whole run"
    if abs(share - 1) <= TOLERANCE:
        return f"{told}: within {TOLERANCE:.0%}."
    timed = f"runs whose nodes were timed took {show.milliseconds(profile.marked_ms)}"
    meaning = "the machine interrupted now one node, now another" if uneven > 0 else timed
    why = f"; {meaning}" if abs(uneven) > TOLERANCE else ""
    return f"{told}; **{between:.1%} is overhead** between nodes; {_percent(uneven)} is no work, but how far runs differ{why}."


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("-", "−")


def _of_whole(ms: float, profile: NodeProfile) -> str:
    return f"{show.milliseconds(ms)} ({ms / (profile.whole_ms or 1):.0%})"


def footnote(profile: NodeProfile) -> None:
    """Where the numbers come from."""
    device, conditions = profile.device, profile.conditions
    unit = "multiprocessor" if device.kind == "cuda" else "core"
    st.caption(
        f"Measured on {device.name}, {show.plural(device.units, unit)}, torch {device.torch}, {show.plural(conditions.threads, 'thread')}: {profile.runs} runs of each graph and as many "
        f"with the clock read around every node ({show.milliseconds(profile.marked_ms)}), all in turns; {profile.profiled_runs} under torch.profiler; medians, intervals of 95 %. "
        f"Timed by {conditions.method}."
    )
    for note in conditions.notes:
        st.caption(f":material/info: {note}")
