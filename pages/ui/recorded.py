"""Measurements of other machines, marked as such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pandas as pd
import streamlit as st

from jobs.experiment import Experiment, parse
from jobs.record import Measure, MeasureResult
from jobs.recorded import Recording, recordings
from pages.ui import measured, show, state
from profiler.prediction_record import Known

HERE = "this machine"
CHOSEN = "measured on"
THERE = "recorded there"


def choose(suits: Callable[[Recording], bool] = lambda found: bool(found.entries)) -> Recording | None:
    """This machine, or one whose measurements are kept; None for this one. Asks only where there is a choice.

    Args:
        suits: has a recording what this page shows?
    """
    found = {name: one for name, one in named().items() if suits(one)}
    if not found:
        return None
    name = st.segmented_control(
        "Measured on",
        [HERE, *found],
        default=HERE,
        key=CHOSEN,
        required=True,
        width="content",
        format_func=lambda name: name if name in found else "This machine",
    )
    return found.get(name or HERE)


def named() -> dict[str, Recording]:
    """Every recording by its title; by the name of its file as well where another has the same."""
    known = recordings()
    often = Counter(one.title for one in known.values())
    return {f"{one.title} ({name})" if often[one.title] > 1 else one.title: one for name, one in known.items()}


def devices() -> list[Known]:
    """The devices of recordings that hold what they reach, named after their recordings."""
    return [
        msgspec.structs.replace(
            one.ceilings.known, sheet=msgspec.structs.replace(one.ceilings.sheet, name=title, source=f"{THERE}, {one.started[:10]}")
        )
        for title, one in named().items()
        if one.ceilings
    ]


def measured_there(words: str) -> dict[str, MeasureResult]:
    """What recordings know of an experiment, by their titles."""
    found = {title: one.find(Measure(words)) for title, one in named().items()}
    return {title: result for title, result in found.items() if result is not None}


def origin(recording: Recording) -> None:
    """Where everything below was measured, and when."""
    device = recording.device
    versions = ", ".join(f"{name} {version}" for name, version in recording.versions.items())
    st.info(
        f"**Recorded on {show.plain(device.name)}** ({device.kind}, {show.size(device.memory_bytes)} memory) on {recording.started[:10]}; "
        f"{show.plain(versions)}. Nothing here was measured on this machine.",
        icon=":material/history:",
    )


def part(recording: Recording, experiment: Experiment) -> None:
    """What the recording knows of the experiment, and what else it knows."""
    origin(recording)
    result = recording.find(Measure(experiment.words, every_step=True, peers=("eager",)))
    if result is None:
        st.markdown("This experiment is not in the recording. These are:")
    else:
        totals = dict(zip(experiment.graph_labels, result.totals, strict=False))
        measured.part(result.measurement, totals, recording.ceilings.ceilings if recording.ceilings else None, recorded=True)
        st.subheader("All of this recording", anchor=False)
    contents(recording)


def contents(recording: Recording) -> None:
    """One line per experiment; choosing one opens it."""
    rows = [
        {
            "experiment": entry.request.words,
            "captured": measurement.timings[0].median_ms,
            "last step ÷ captured": measurement.ratios[measured.last_graph(measurement)],
            "verdict": measurement.verdicts[measured.last_graph(measurement)],
        }
        for entry in recording.entries
        for measurement in (entry.result.measurement,)
    ]
    _list(rows)
    failures(recording)


def profiles(recording: Recording) -> None:
    """One line per profiled experiment; choosing one opens it."""
    _list(
        [
            {
                "experiment": entry.words,
                "captured": entry.whole_ms[0],
                "after the pipeline": entry.whole_ms[-1] if len(entry.whole_ms) > 1 else None,
                "nodes": " → ".join(f"{nodes:,}" for nodes in entry.nodes),
            }
            for entry in recording.profiles
        ]
    )
    failures(recording)


def _list(rows: Sequence[Mapping[str, Any]]) -> None:
    words = [row["experiment"] for row in rows]
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, key="recorded", selection_mode="single-row", placeholder="", on_select=lambda: _open(words),
        column_config={
            "captured": st.column_config.NumberColumn("captured, ms", format="%.3g", help="Recorded: median of a run."),
            "after the pipeline": st.column_config.NumberColumn("after the pipeline, ms", format="%.3g", help="Recorded: median of a run."),
            "last step ÷ captured": st.column_config.NumberColumn(format="%.3f"),
            "nodes": st.column_config.TextColumn(alignment="right"),
        },
    )  # fmt: skip


def failures(recording: Recording) -> None:
    """What could not be measured there, and why."""
    if recording.failed:
        with st.expander(f"{show.plural(len(recording.failed), 'experiment')} could not be measured there"):
            st.dataframe(pd.DataFrame([{"experiment": one.label, "why": one.what} for one in recording.failed]), hide_index=True)


def _open(words: Sequence[str]) -> None:
    rows = st.session_state["recorded"]["selection"]["rows"]
    if rows and rows[0] < len(words):
        chosen = parse(words[int(rows[0])])
        state.change(model=chosen.model, mode=chosen.mode, options=chosen.options, pipeline=chosen.pipeline)
