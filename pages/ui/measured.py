"""What came out of a measurement: the answer in words, how far it can be believed, charts, and one line per graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from graphs.record import Totals
from jobs.record import PEERS
from pages.ui import charts, show, titles
from profiler.prediction_record import Ceilings
from profiler.record import FEWEST, TOO_FEW, Conditions, Measurement
from profiler.statistics import pace

LOGO = {"displaylogo": False}
BELOW: dict[str, Any] = {"y": -0.3, "yanchor": "top", "x": 0, "xanchor": "left"}  # many names need more room than there is beside a title
CEILING_DTYPE = "float32"
UNEVEN = 1.1  # between medians of quarters: more is no noise of single runs
ENDED = {
    "narrow enough": "until the interval was narrow enough",
    "out of time": "as long as there was time",
    "most runs": "as many as are ever made",
    "cut short": "until the time limit cut them short, so this is part of a measurement",
}


def part(measurement: Measurement, totals: Mapping[str, Totals], ceilings: Ceilings | None = None, recorded: bool = False) -> None:
    """Everything; `totals` are counted, by the labels of graphs; `ceilings` are those of the device, where they were measured; `recorded`: on another one."""
    raw, (measurement, totals) = measurement, _titled(measurement, totals)
    st.subheader("Measured", anchor=False)
    verdict(measurement)
    trust(measurement)
    left, right = st.columns(2)
    left.plotly_chart(charts.times(measurement, measurement.labels), key="times", config=LOGO)
    peaks = charts.peaks(measurement, [totals[label].peak_bytes if label in totals else None for label in measurement.labels])
    right.plotly_chart(peaks, key="peaks", config=LOGO)
    table = side_by_side(measurement, totals, ceilings)
    st.dataframe(table, hide_index=True, key="side by side", column_config=aligned())
    st.caption(f":material/bolt: {energy_words(measurement)}")
    st.caption(f":material/speed: {utilisation_words(ceilings, recorded)}")
    graphs = [at for at, label in enumerate(measurement.labels) if label in totals]
    if len(graphs) > 2:
        steps(measurement, graphs)
    left, right = st.columns(2)
    right.plotly_chart(every_run(measurement), key="every run", config=LOGO)
    left.plotly_chart(time_and_memory(measurement), key="time and memory", config=LOGO)
    files(raw, numbers(measurement, totals))


def _titled(measurement: Measurement, totals: Mapping[str, Totals]) -> tuple[Measurement, Mapping[str, Totals]]:
    """Both with the graphs called as a reader calls them."""
    names = titles.of_graphs(totals)
    labels = tuple(names.get(label, label) for label in measurement.labels)
    failures = tuple(msgspec.structs.replace(one, label=names.get(one.label, one.label)) for one in measurement.failures)
    named = {names.get(label, label): total for label, total in totals.items()}
    return msgspec.structs.replace(measurement, labels=labels, failures=failures), named


def numbers(measurement: Measurement, totals: Mapping[str, Totals]) -> pd.DataFrame:
    """One line per graph to compute with: numbers in the units that the heads say, nothing where nothing is known."""
    rows = []
    for at, (label, timing) in enumerate(zip(measurement.labels, measurement.timings, strict=True)):
        low, high = timing.interval_ms if timing.has_interval else (None, None)
        seen = measurement.ratio_intervals[at] if at and measurement.verdicts[at] != TOO_FEW else (None, None)
        count, energy = totals.get(label), measurement.energy
        rows.append(
            {
                "graph": label,
                "runs": timing.runs,
                "time ms (measured)": timing.median_ms,
                "95 % from ms": low,
                "95 % to ms": high,
                "÷ first": measurement.ratios[at],
                "÷ first 95 % from": seen[0],
                "÷ first 95 % to": seen[1],
                "verdict": measurement.verdicts[at] if at else "",
                "smallest difference seen": measurement.detectable[at],
                "energy J (measured)": energy.joules[at] if energy and energy.joules else None,
                "ready in ms (measured)": timing.prepare_ms,
                "peak bytes (measured)": timing.peak_bytes,
                "peak bytes (counted)": count.peak_bytes if count else None,
            }
        )
    return pd.DataFrame(rows)


def files(measurement: Measurement, table: pd.DataFrame) -> None:
    """What was measured, to take along."""
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "CSV", table.to_csv(index=False), "measurement.csv", "text/csv", icon=":material/download:", on_click="ignore",
            help="The table above as numbers of one unit each.",
        )  # fmt: skip
        st.download_button(
            "JSON", lambda: msgspec.json.encode(measurement), "measurement.json", "application/json", icon=":material/download:", on_click="ignore",
            help="Every single run in milliseconds, with device, versions and conditions.",
        )  # fmt: skip


def verdict(measurement: Measurement) -> None:
    """The answer in words: faster, slower, or no difference, and by how much. Of the last graph; others stand in the table."""
    for failure in measurement.failures:
        st.warning(f"**{show.plain(failure.label)}** was not measured: {show.plain(failure.what)}", icon=":material/error:")
    if len(measurement.ratios) < 2:
        timing = measurement.timings[0]
        st.markdown(f"A run takes **{show.milliseconds(timing.median_ms)}** (measured, median of {timing.runs}).")
        return
    at = last_graph(measurement)
    ratio, (low, high), least = measurement.ratios[at], measurement.ratio_intervals[at], measurement.detectable[at]
    name = "" if at == len(measurement.labels) - 1 and at == 1 else f" `{measurement.labels[at]}`:"
    figures = f"Time after ÷ before: {ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}."
    match measurement.verdicts[at]:
        case "no difference":
            seen = f" (± {least:.1%})" if least is not None else ""
            st.info(f"**No difference found{seen}.**{name} {figures}", icon=":material/drag_handle:")
        case "faster":
            st.success(f"**Faster.**{name} {figures}", icon=":material/trending_down:")
        case "slower":
            st.warning(f"**Slower.**{name} {figures}", icon=":material/trending_up:")
        case other:
            st.info(
                f"**{show.sentence(other)}**{name} Time after ÷ before: {ratio:.3f}, too few for an interval.",
                icon=":material/hourglass_empty:",
            )


def energy_words(measurement: Measurement) -> str:
    """Whether energy was measured, how, and what it includes; or why not."""
    energy = measurement.energy
    if energy is None:
        return "Energy was not asked for when this was measured."
    if not energy.joules:
        return f"Energy was not measured: {show.plain(energy.why_not)}."
    idle = f" Idle just before: {energy.idle_w:.3g} W." if energy.idle_w is not None else ""
    source = show.plain(energy.source)
    return f"Energy of a run in joules (measured): runs back to back, in turns; {source}. Range: of two stretches.{idle}"


def last_graph(measurement: Measurement) -> int:
    """The last of the graphs; behind them stand the model itself and torch.compile."""
    return max((at for at, label in enumerate(measurement.labels) if at and label not in PEERS.values()), default=1)


def trust(measurement: Measurement) -> None:
    """How far it can be believed: runs, noise, the machine."""
    conditions = measurement.conditions
    for note in conditions.notes:
        st.caption(f":material/warning: {note}")
    uneven = max((pace(timing.times_ms) for timing in measurement.timings), key=_spread)
    if _spread(uneven) > UNEVEN:
        fast, slow = (show.milliseconds(median) for median in uneven)
        st.caption(
            f":material/warning: The machine changed its pace meanwhile: by quarters of the runs, one graph's median goes from {fast} to {slow}. Times are of that "
            "moment, and another might give others; ratios are of runs side by side, and stand."
        )
    low, high = measurement.control
    runs = measurement.timings[0].runs
    noise = (
        f"noise: single runs of `{measurement.labels[0]}` against each other come out between {low:.3f} and {high:.3f}, and ratios take the shorter of two, "
        "which noise moves less"
    )
    said = [
        f"{show.plural(runs, 'run')} of each, in turns, {ENDED[measurement.stopped]}",
        *([noise] if runs >= 2 * FEWEST else []),  # a block has two
        *_machine(conditions),
        f"{measurement.device.name}, torch {measurement.device.torch}",
        conditions.started.replace("T", " ").replace("+00:00", " UTC"),
    ]
    st.caption("; ".join(said) + ".")


def _spread(medians: tuple[float, float]) -> float:
    return medians[1] / medians[0] if medians[0] else 1.0


def _machine(conditions: Conditions) -> list[str]:
    said = [
        f"{conditions.method}",
        show.plural(conditions.threads, "thread") + (" on processors of their own" if conditions.pinned else ""),
    ]
    if conditions.clock_mhz:
        said.append(f"{conditions.clock_mhz[1]:,.0f} MHz")
    if conditions.others is not None:
        said.append(f"other processes took {conditions.others:.0%} of the machine")
    return said


def steps(measurement: Measurement, graphs: list[int]) -> None:
    """Waterfalls of what each step took away or added."""
    labels = [measurement.labels[at] for at in graphs]
    left, right = st.columns(2)
    medians = [measurement.timings[at].median_ms for at in graphs]
    left.plotly_chart(charts.waterfall(labels, medians, "Time by step (measured)", "ms"), key="time", config=LOGO)
    held = [measurement.timings[at].peak_bytes for at in graphs]
    if None not in held:
        values = [float(one or 0) for one in held]
        right.plotly_chart(charts.waterfall(labels, values, "Peak memory by step (measured)", "bytes"), key="held", config=LOGO)


def side_by_side(measurement: Measurement, totals: Mapping[str, Totals], ceilings: Ceilings | None = None) -> pd.DataFrame:
    """One line per graph, counted beside measured."""
    rows = []
    for at, (label, timing) in enumerate(zip(measurement.labels, measurement.timings, strict=True)):
        low, high = timing.interval_ms
        ratio_low, ratio_high = measurement.ratio_intervals[at]
        count, least = totals.get(label), measurement.detectable[at]
        energy = _energy(measurement, at)
        rows.append(
            {
                "": label,
                "time, measured": show.milliseconds(timing.median_ms),
                "95 %": f"{show.milliseconds(low)} – {show.milliseconds(high)}" if timing.has_interval else "",
                "÷ first": f"{measurement.ratios[at]:.3f}" if at else "1",
                "its 95 %": f"{ratio_low:.3f} – {ratio_high:.3f}" if at and measurement.verdicts[at] != TOO_FEW else "",
                "verdict": measurement.verdicts[at] if at else "",
                "peak, measured": show.size(timing.peak_bytes) if timing.peak_bytes is not None else "not measured",
                "peak, counted": show.size(count.peak_bytes) if count else "",
                **_utilisation(measurement, at, totals, ceilings),
                **energy,
                "would see": f"{least:.1%}" if least is not None else "",
                "ready in": show.milliseconds(timing.prepare_ms),
            }
        )
    return pd.DataFrame(rows)


def utilisation_words(ceilings: Ceilings | None, recorded: bool = False) -> str:
    """What MFU and HFU are here, or what is missing for them."""
    whose = "that device's" if recorded else "this machine's"
    if ceilings is None or CEILING_DTYPE not in ceilings.flops:
        way_out = "this recording holds none" if recorded else "the button on the page Predict measures them"
        return f"MFU and HFU need {whose} ceilings: {way_out}."
    rate = ceilings.flops[CEILING_DTYPE].value
    return (
        f"MFU: matmul operations of the captured graph (counted) ÷ time (measured) ÷ {rate / 1e9:,.0f} GFLOP/s, {whose} {CEILING_DTYPE} matmul "
        "ceiling (measured). HFU: with the operations that this graph does, recomputed ones included."
    )


def _utilisation(measurement: Measurement, at: int, totals: Mapping[str, Totals], ceilings: Ceilings | None) -> dict[str, str]:
    """Cells of one graph: Narayanan et al. (2021), section 5.1, with counted matmul operations only."""
    first, own = totals.get(measurement.labels[0]), totals.get(measurement.labels[at])
    if ceilings is None or CEILING_DTYPE not in ceilings.flops or first is None:
        return {}
    possible = ceilings.flops[CEILING_DTYPE].value * measurement.timings[at].median_ms / 1e3
    return {"MFU": f"{first.matmul_flops / possible:.1%}", "HFU": f"{own.matmul_flops / possible:.1%}" if own else ""}


def _energy(measurement: Measurement, at: int) -> dict[str, str]:
    """Cells of one graph; none where energy is not known."""
    energy = measurement.energy
    if energy is None or not energy.joules:
        return {}
    told, low, high = (_joules(value) for value in (energy.joules[at], *energy.ranges[at]))
    return {"energy, measured": f"{told} ({low} – {high}), {energy.watts[at]:.3g} W"}


def _joules(value: float) -> str:
    return f"{value:,.3g} J" if value >= 1 else f"{value * 1e3:,.3g} mJ"


def aligned() -> dict[str, Any]:
    """Numbers to the right."""
    names = (
        "time, measured",
        "95 %",
        "÷ first",
        "its 95 %",
        "would see",
        "energy, measured",
        "MFU",
        "HFU",
        "ready in",
        "peak, measured",
        "peak, counted",
    )
    helps = {
        "95 %": "Of the median of these runs. What the machine does in another hour is not in it; ratios of runs in turns are steadier.",
        "would see": "The smallest difference that these runs would have shown.",
        "energy, measured": "Of one run, joules; the range over stretches, and the average power.",
        "ready in": "Before the first run: code generated and compiled. No part of the time.",
    }
    return {name: st.column_config.TextColumn(alignment="right", help=helps.get(name)) for name in names}


def every_run(measurement: Measurement) -> go.Figure:
    """All times of all graphs in the order measured: noise, drift and jumps."""
    figure = go.Figure()
    slow, clock = show.time_scale(max(timing.median_ms for timing in measurement.timings))
    for at, (label, timing) in enumerate(zip(measurement.labels, measurement.timings, strict=True)):
        figure.add_scatter(
            x=list(range(1, timing.runs + 1)), y=[time / slow for time in timing.times_ms], name=label, mode="markers",
            marker={"size": 5, "opacity": 0.7, "symbol": charts.SYMBOLS[at % len(charts.SYMBOLS)]},
            hovertemplate="%{y:.4g} " + clock + "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    charts.finish(figure, 380, f"Every run, {clock} (measured)")
    figure.update_layout(legend=BELOW)
    figure.update_xaxes(title="run")
    figure.update_yaxes(**charts.log_axis(time / slow for timing in measurement.timings for time in timing.times_ms))
    return figure


def time_and_memory(measurement: Measurement) -> go.Figure:
    """Time against peak; the line joins what nothing else beats in both."""
    held = [(timing.median_ms, timing.peak_bytes, label) for label, timing in zip(measurement.labels, measurement.timings, strict=True)]
    points = [(time, peak, label) for time, peak, label in held if peak is not None]
    scale, unit = charts.scale_of(max([peak for _, peak, _ in points], default=1))
    best = [one for one in sorted(points) if not any(other[0] <= one[0] and other[1] < one[1] for other in points if other is not one)]
    figure = go.Figure()
    slow, clock = show.time_scale(max(time for time, _, _ in held))
    for at, (time, peak, label) in enumerate(held):
        if peak is not None:  # names stand in the legend: points of steps that change little lie upon one another
            figure.add_scatter(
                x=[peak / scale], y=[time / slow], name=label, mode="markers",
                marker={"size": 11, "symbol": charts.SYMBOLS[at % len(charts.SYMBOLS)], "opacity": 0.85},
                hovertemplate=f"%{{x:.4g}} {unit}, %{{y:.4g}} {clock}<extra>%{{fullData.name}}</extra>",
            )  # fmt: skip
    figure.add_scatter(
        x=[peak / scale for _, peak, _ in best], y=[time / slow for time, _, _ in best], mode="lines", line={"shape": "hv", "color": charts.QUIET, "dash": "dot"}, hoverinfo="skip", name="nothing is better in both"
    )  # fmt: skip
    charts.finish(figure, 380, "Time against peak memory (measured)")
    figure.update_layout(legend=BELOW)
    most = max([peak / scale for _, peak, _ in points], default=1.0)
    figure.update_xaxes(title=f"peak memory, {unit}", range=[0, 1.1 * most])
    figure.update_yaxes(title=clock, range=[0, 1.1 * max(time / slow for time, _, _ in held)])
    return figure
