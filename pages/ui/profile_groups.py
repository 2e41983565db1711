"""The section Groups: which operators, modules or lines take the time; and what the pipeline changed about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pages.ui import profile_charts, show
from pages.ui.profile_rows import GROUPS, PLACEHOLDER, Group, Row, boxes, group_frame, groups_of, matching
from pages.ui.profile_side import NO_LOGO, Side, mark, picked, take_point
from profiler.node_record import NodeProfile
from profiler.node_samples import Change, are_in_turns, spread, whole_change, whole_verdict
from profiler.node_samples import change as change_of

BY, MAP, TABLE = "profile by", "profile map", "profile groups"
MOST_BOXES = 220
FORMATS = {
    "ms": st.column_config.NumberColumn(format="%.3f", width=60, help="Measured: the medians of its nodes, summed."),
    "± ms": st.column_config.NumberColumn(
        format="%.3f", width=60, help="Half of the 95 % interval of the median of its nodes' time together, by single runs."
    ),
    "share": st.column_config.NumberColumn(format="percent", width=65, help="Of a whole run."),
    "GFLOP": st.column_config.NumberColumn(format="%.4f", width=65, help="Counted, operations of all kinds; a multiply-add is two."),
    "moved MiB": st.column_config.NumberColumn("moved MiB", format="%.2f", width=80, help="Counted: read and written."),
    "allocated MiB": st.column_config.NumberColumn(format="%.2f", help="Measured."),
    "launches": st.column_config.NumberColumn(width=65, help="Counted."),
    "nodes": st.column_config.NumberColumn(width=55),
}

GROUP_TITLE = st.column_config.TextColumn(width=170, pinned=True)  # the numbers move past it


def change_columns(unit: str) -> dict[str, Any]:
    """Units and meanings of the table of changes."""
    return {
        "as captured": st.column_config.NumberColumn(
            f"before, {unit}", format="%.4g", width=85, help="Measured: the medians of its nodes, summed."
        ),
        "after": st.column_config.NumberColumn(
            f"after, {unit}", format="%.4g", width=75, help="Measured: the medians of its nodes after the pipeline, summed."
        ),
        "change": st.column_config.NumberColumn(
            f"change, {unit}", format="%+.3g", width=85, help="Measured: median over blocks of after − before, by the shorter run of each."
        ),
        "from": st.column_config.NumberColumn(format="%+.3g", width=60, help="The 95 % interval of the change begins here."),
        "to": st.column_config.NumberColumn(format="%+.3g", width=60, help="The 95 % interval of the change ends here."),
        "seen": st.column_config.TextColumn(width=60, help="Does the interval leave zero out?"),
    }


def _by(key: str) -> str:
    return st.segmented_control("By", list(GROUPS), key=key, default="operator", required=True, label_visibility="collapsed") or "operator"


def panel(side: Side) -> None:
    """The map, and the groups as a table."""
    with st.container(horizontal=True, vertical_alignment="center"):
        by = _by(BY)
        text = st.text_input(
            "Filter", key=f"{TABLE} filter", icon=":material/search:", label_visibility="collapsed", placeholder=PLACEHOLDER
        )
    groups = groups_of(matching(side.rows, text), by)
    if not groups:
        st.caption("No node has all of these words in it.")
        return
    figure = profile_charts.tree(groups, boxes(groups, MOST_BOXES), side.chosen)
    st.plotly_chart(
        figure, key=MAP, on_select=lambda: take_point(MAP), selection_mode="points", config={"displayModeBar": False},
        alt=f"Map of the time of {len(side.rows)} nodes by {by}; the table below says the same.",
    )  # fmt: skip
    st.caption(
        f"{sum(len(group.rows) for group in groups):,} of {show.plural(len(side.rows), 'operator')}. Each rectangle is a node, as large as its time; one colour is one group. "
        "Click one to see the node, a row to mark its group in the graph."
    )
    table = group_frame(groups, by, side.profile.whole_ms, [_half(side.profile, group) for group in groups])
    st.dataframe(
        table, key=TABLE, hide_index=True, height=min(330, 40 + 35 * len(groups)), selection_mode="single-row", on_select=lambda: _take(groups),
        column_config={by: GROUP_TITLE, **FORMATS},
    )  # fmt: skip
    st.download_button(
        "CSV", table.to_csv(index=False), f"time-by-{by.replace(' ', '-')}.csv", "text/csv", icon=":material/download:", on_click="ignore"
    )


def _take(groups: list[Group]) -> None:
    rows = st.session_state[TABLE]["selection"]["rows"]
    mark([row.node.name for row in groups[rows[0]].rows] if rows and rows[0] < len(groups) else [])


def _half(profile: NodeProfile, group: Group) -> float | None:
    interval = spread(profile, _positions(profile, group.rows))
    return (interval[1] - interval[0]) / 2 if interval else None


def _positions(profile: NodeProfile, rows: Sequence[Row]) -> list[int]:
    """Where nodes stand among all that were timed."""
    at = {timing.name: number for number, timing in enumerate(profile.nodes)}
    return [at[row.node.name] for row in rows]


def change(side: Side) -> None:
    """Before and after the pipeline."""
    if side.first is None:
        st.info("There is one measured graph only. Add steps on the page Optimize, profile again, and choose the graph after the pipeline.")
        st.page_link("pages/optimize.py", label="Go to Optimize", icon=":material/auto_fix_high:")
        return
    by = _by("profile change by")
    first, last = side.first.profile, side.profile
    st.markdown(whole_words(whole_change(first, last), whole_verdict(first, last)))
    st.plotly_chart(
        profile_charts.before_and_after(side.first.rows, side.rows, by),
        key="profile change",
        config=NO_LOGO,
        on_select=lambda: _mark_group(side, by, picked("profile change")),
        selection_mode="points",
    )
    st.caption("The largest changes. Click a bar or a row: the graph marks its group.")
    found = changes(side.first, side, by)
    scale, unit = show.time_scale(max((max(one.before, one.after) for one in found.values()), default=1.0))
    table = change_frame(found, by, scale)
    st.dataframe(
        table, key="profile changes", hide_index=True, height=min(330, 40 + 35 * len(table)), column_config={by: GROUP_TITLE, **change_columns(unit)}, placeholder="",
        selection_mode="single-row", on_select=lambda: _take_change(side, by, list(table[by])),
    )  # fmt: skip
    if are_in_turns(first, last):
        st.caption(
            f"Both graphs ran in turns, in blocks of two runs each ({first.runs:,} runs of each). Before and after are medians over all runs; a change is the "
            "median over blocks of the difference between the shorter runs of each, with its 95 % interval, so that it need not be after − before. "
            "Where the interval holds zero, these runs show no difference; of intervals around no difference, one in twenty leaves zero out. The page Measure compares whole runs with more care."
        )
    else:
        st.caption("These graphs were measured one after the other, so a change may be the machine's, and has no interval.")


def _take_change(side: Side, by: str, titles: Sequence[str]) -> None:
    rows = st.session_state["profile changes"]["selection"]["rows"]
    _mark_group(side, by, titles[int(rows[0])] if rows and rows[0] < len(titles) else "")


def _mark_group(side: Side, by: str, title: str) -> None:
    """Marks the nodes of a group in the graph that is shown; a group that the pipeline removed has none in it."""
    mark([row.node.name for row in side.rows if GROUPS[by](row.node) == title])


def whole_words(found: Change, verdict: str) -> str:
    """What a whole run gained, in a sentence."""
    told = f"A whole run: **{show.milliseconds(found.before)}** as captured, **{show.milliseconds(found.after)}** after the pipeline (measured)"
    if found.interval is None:
        return f"{told}; too few runs in turns for an interval."
    low, high = found.interval
    return f"{told}; by block {_signed(found.ms)} ms, 95 % interval {_signed(low)} to {_signed(high)}: **{verdict}**."


def _signed(ms: float) -> str:
    return f"{ms:+.3g}".replace("-", "−")


def changes(first: Side, last: Side, by: str) -> dict[str, Change]:
    """By group, those first whose time changed most."""
    sides = [{group.title: group.rows for group in groups_of(side.rows, by)} for side in (first, last)]
    found = {
        title: change_of(
            first.profile,
            last.profile,
            _positions(first.profile, sides[0].get(title, [])),
            _positions(last.profile, sides[1].get(title, [])),
        )
        for title in sides[0].keys() | sides[1].keys()
    }
    return dict(sorted(found.items(), key=lambda one: (-abs(one[1].ms), one[0])))


def change_frame(found: Mapping[str, Change], by: str, scale: float = 1.0) -> pd.DataFrame:
    """One line per group; times in units of so many milliseconds."""
    return pd.DataFrame(
        {
            by: list(found),
            "as captured": [one.before / scale or None for one in found.values()],  # nothing, where no node is left to time
            "after": [one.after / scale or None for one in found.values()],
            "change": [one.ms / scale for one in found.values()],
            "from": [one.interval[0] / scale if one.interval else None for one in found.values()],
            "to": [one.interval[1] / scale if one.interval else None for one in found.values()],
            "seen": ["yes" if one.is_seen else "no" if one.interval else "too few runs" for one in found.values()],
        }
    )
