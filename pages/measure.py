"""Measure

What the pipeline gains on this machine. The graph without any step and the graph with all of them run in turns, so that both meet the same
weather; the difference comes with a 95 % interval, and may be none. Beside what is measured stands what was counted from the graph.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from graphs.record import GraphSnapshot, Totals
from jobs.experiment import Experiment
from jobs.record import Measure, MeasureResult, Optimize, OptimizeResult
from pages.ui import charts, choose, show, state, work
from pages.ui.graph_view import graph_view, wish
from profiler.record import Device, Measurement

SLOT = "measure"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        device_line(catalogue.device)
        every_step = ask(experiment)
        request = Measure(experiment.words, every_step)
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        totals = [graph.totals for graph in found.graphs]
        labels = ["captured", *(step.words for step in found.steps)]
        counted = st.container()
        with counted:
            counted_part(labels, totals)
        if not work.is_asked(request, SLOT) and not work.is_kept(request):
            st.info("Not measured yet. Press **Measure** above; it takes from some seconds to a few minutes.", icon=":material/timer:")
            return
        measured = work.answer(request, SLOT, MeasureResult)
        measured_part(measured.measurement, labels, totals)
        node_part(found.graphs[-1], measured.node_ms)


def device_line(device: Device) -> None:
    unit = "multiprocessor" if device.kind == "cuda" else "core"
    st.caption(
        f":material/memory: Measured on **{device.name}**, {show.plural(device.units, unit)}, {show.size(device.memory_bytes)} memory, "
        f"torch {device.torch}"
    )


def ask(experiment: Experiment) -> bool:
    """The button and its toggle; returns whether every step is to be measured."""
    with st.container(horizontal=True, vertical_alignment="center"):
        button = st.container(width="content")
        every_step = st.toggle(
            "every step", key="every step", help="Measure the graph after each step as well, not only the first and the last."
        )
        request = Measure(experiment.words, every_step)
        again = work.is_kept(request)
        button.button(
            "Measure again" if again else "Measure", type="primary", icon=":material/timer:", on_click=work.ask, args=(request, SLOT, again)
        )
    if not experiment.pipeline:
        st.caption("The pipeline is empty, so there is only the captured graph to measure. Add steps on the Optimize page to compare.")
        st.page_link("pages/optimize.py", label="Go to Optimize", icon=":material/auto_fix_high:")
    return every_step


def counted_part(labels: Sequence[str], totals: Sequence[Totals]) -> None:
    """Waterfalls of what was counted; there whether or not anything was measured."""
    st.subheader("Counted", anchor=False)
    show.totals_table(list(zip(labels, totals, strict=True)))
    if len(totals) < 2:
        return
    left, right = st.columns(2)
    for column, field, title in ((left, "peak_bytes", "Peak memory (counted)"), (right, "bytes_moved", "Bytes moved (counted)")):
        values = [float(getattr(total, field)) for total in totals]
        column.plotly_chart(charts.waterfall(labels, values, title, "bytes"), key=field, config={"displaylogo": False})


def measured_part(measurement: Measurement, labels: Sequence[str], totals: Sequence[Totals]) -> None:
    """Time and peak memory of what ran, and the verdict in words."""
    st.subheader("Measured", anchor=False)
    # Without `every step` only the first and the last graph ran; which ones did is told by how many there are.
    ends = [labels[0], f"all {len(labels) - 1} steps"]
    shown = list(labels) if len(measurement.labels) == len(labels) else ends
    counts = list(totals) if len(measurement.labels) == len(totals) else [totals[0], totals[-1]][: len(measurement.labels)]
    verdict(measurement)
    left, right = st.columns(2)
    left.plotly_chart(charts.times(measurement, shown), key="times", config={"displaylogo": False})
    peaks = charts.peaks(measurement, [count.peak_bytes for count in counts], shown)
    right.plotly_chart(peaks, key="peaks", config={"displaylogo": False})
    if len(measurement.timings) > 2:
        left, right = st.columns(2)
        medians = [timing.median_ms for timing in measurement.timings]
        left.plotly_chart(charts.waterfall(shown, medians, "Time by step (measured)", "ms"), key="time", config={"displaylogo": False})
        held = [float(timing.peak_bytes) for timing in measurement.timings]
        right.plotly_chart(
            charts.waterfall(shown, held, "Peak memory by step (measured)", "bytes"), key="held", config={"displaylogo": False}
        )
    st.dataframe(side_by_side(measurement, shown, counts), hide_index=True)
    device = measurement.device
    runs = " and ".join(sorted({f"{timing.runs}" for timing in measurement.timings}))
    st.caption(f"{device.name}, torch {device.torch}; {runs} runs of each graph, in turns; medians, intervals of 95 %.")


@st.fragment
def node_part(graph: GraphSnapshot, node_ms: Mapping[str, float]) -> None:
    """Where the time of the last graph goes: the picture in colours of time, and the nodes that take longest."""
    st.subheader("Where the time goes (measured)", anchor=False)
    whole = sum(node_ms.values())
    st.caption(
        f"Every operator run by itself and waited for; together {show.milliseconds(whole)}, more than a whole run, "
        "since launching and computing cannot overlap. Good for comparing operators with one another."
    )
    left, right = st.columns([1.6, 1])
    with left:
        seen = graph_view([graph], "timed graph", measured_ms=node_ms, height=520, look={"colour": "time"})
        wish("timed graph", seen["digest"], st.session_state.get("turn", 0), st.session_state.get("focus", ""))
    longest = sorted((name for name in node_ms if name in graph.by_name()), key=lambda name: -node_ms[name])[:100]
    by_name = graph.by_name()
    with right:
        rows = {
            "node": longest,
            "time (measured)": [show.milliseconds(node_ms[name]) for name in longest],
            "share": [f"{node_ms[name] / whole:.1%}" for name in longest],
            "module": [by_name[name].module for name in longest],
        }
        st.dataframe(
            pd.DataFrame(rows),
            key="longest",
            hide_index=True,
            height=520,
            selection_mode="single-row",
            on_select=lambda: take_longest(longest),
        )


def take_longest(names: Sequence[str]) -> None:
    rows = st.session_state["longest"]["selection"]["rows"]
    if rows and rows[0] < len(names):
        st.session_state["focus"] = names[rows[0]]
        st.session_state["turn"] = st.session_state.get("turn", 0) + 1


def verdict(measurement: Measurement) -> None:
    """The answer in words: faster, slower, or no difference, and by how much."""
    if len(measurement.ratios) < 2:
        timing = measurement.timings[0]
        st.markdown(f"A run takes **{show.milliseconds(timing.median_ms)}** (measured, median of {timing.runs}).")
        return
    ratio, (low, high) = measurement.ratios[-1], measurement.ratio_intervals[-1]
    text = f"**{show.sentence(measurement.verdict)}** Time after ÷ before: {ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}."
    if low <= 1 <= high:
        st.info(text, icon=":material/drag_handle:")
    elif ratio < 1:
        st.success(text, icon=":material/trending_down:")
    else:
        st.warning(text, icon=":material/trending_up:")


def side_by_side(measurement: Measurement, labels: Sequence[str], counts: Sequence[Totals]) -> pd.DataFrame:
    """One line per graph, counted beside measured."""
    rows = []
    for index, (label, timing, count) in enumerate(zip(labels, measurement.timings, counts, strict=False)):
        low, high = timing.interval_ms
        ratio_low, ratio_high = measurement.ratio_intervals[index]
        rows.append(
            {
                "Graph": label,
                "Launches (counted)": f"{count.launches:,}",
                "Bytes moved (counted)": show.size(count.bytes_moved),
                "Peak memory (counted)": show.size(count.peak_bytes),
                "Peak memory (measured)": show.size(timing.peak_bytes),
                "Time (measured)": f"{show.milliseconds(timing.median_ms)}  [{show.milliseconds(low)}, {show.milliseconds(high)}]",
                "Time ÷ first (measured)": "1" if index == 0 else f"{measurement.ratios[index]:.3f}  [{ratio_low:.3f}, {ratio_high:.3f}]",
            }
        )
    return pd.DataFrame(rows)


main()
