"""Measure

What the pipeline gains on this machine. The graph without any step and the graph with all of them run in turns, so that both meet the same
weather; the difference comes with a 95 % interval, and may be none. Beside what is measured stands what was counted from the graph.
"""

from collections.abc import Mapping

import streamlit as st

from graphs.record import Totals
from jobs.experiment import Experiment, parse
from jobs.record import Measure, MeasureResult, Optimize, OptimizeResult
from pages.ui import charts, choose, measured, recorded, show, state, this_machine, titles, work
from profiler.record import Device

SLOT = "measure"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        known = recorded.choose()
        if known is not None:
            recorded.part(known, experiment)
            return
        device_line(catalogue.device)
        request = ask(experiment, catalogue.device)
        work.left_behind(request, SLOT)
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        show.nothing_to_run(found.report, "measured")
        totals = totals_of(work.words_of("optimize"), found)
        idle_steps(found)
        if not work.is_begun(request, SLOT):
            st.info("Not measured yet. Press **Measure** above; it takes from some seconds to a few minutes.", icon=":material/timer:")
            counted_part(totals)
            return
        with show.patient():  # what is counted stands there while it runs, and where it was cancelled
            measurement = work.answer(request, SLOT, MeasureResult).measurement
            kept = this_machine.kept(measurement.device.kind)
            theirs = totals_of(work.words_of(SLOT), work.graphs_of(SLOT, found))
            measured.part(measurement, theirs, kept.ceilings if kept else None)
            st.page_link("pages/profile_nodes.py", label="Where the time goes, node by node", icon=":material/monitoring:")
        counted_part(totals)


def totals_of(words: str, found: OptimizeResult | None) -> dict[str, Totals]:
    """What was counted of the graphs of an experiment, by their labels."""
    return dict(zip(parse(words).graph_labels, (graph.totals for graph in found.graphs), strict=True)) if found else {}


def idle_steps(found: OptimizeResult) -> None:
    """Which steps did nothing: a measurement of them compares a graph with itself."""
    done = zip(titles.numbered(step.words for step in found.steps), (step.diff for step in found.steps), strict=True)
    idle = [title for title, diff in done if not (diff.removed or diff.added or diff.changed or diff.moved)]
    if idle:
        st.info(
            f"Nothing to do for {', '.join(f'`{title}`' for title in idle)}: no node of the graph changed.",
            icon=":material/info:",
        )


def device_line(device: Device) -> None:
    unit = "multiprocessor" if device.kind == "cuda" else "core"
    st.caption(
        f":material/memory: Measured on **{device.name}**, {show.plural(device.units, unit)}, {show.size(device.memory_bytes)} memory, "
        f"torch {device.torch}"
    )


def ask(experiment: Experiment, device: Device) -> Measure:
    """The button and what is to be measured."""
    with st.container(horizontal=True, vertical_alignment="center"):
        button = st.container(width="content")
        every_step = st.toggle("every step", key="every step", help="The graph after each step as well, not only the first and the last.")
        eager = st.toggle("eager PyTorch", key="peer eager", help="The model itself, as PyTorch runs it operator by operator.")
        compiled = st.toggle(
            "torch.compile", key="peer compile", help="The model under torch.compile; the time that it takes to compile is told apart."
        )
        threads, pinned = (0, False) if device.kind == "cuda" else how(device)
        peers = tuple(name for name, wanted in (("eager", eager), ("compile", compiled)) if wanted)
        request = Measure(experiment.words, every_step, peers, threads, pinned)
        again, runs = work.is_kept(request), work.can_run(experiment.words)
        button.button(
            "Measure again" if again else "Measure",
            type="primary",
            icon=":material/timer:",
            on_click=work.ask,
            args=(request, SLOT, again),
            disabled=not runs,
        )
    if runs and not experiment.pipeline and not peers:
        st.caption("The pipeline is empty, so there is only the captured graph to measure. Add steps on the Optimize page to compare.")
        st.page_link("pages/optimize.py", label="Go to Optimize", icon=":material/auto_fix_high:")
    return request


def how(device: Device) -> tuple[int, bool]:
    """Compute threads, and whether they stay where they are."""
    with st.popover("Threads", icon=":material/tune:"):
        most = max(1, device.units)
        threads = st.number_input("Compute threads", 1, most, most, key="threads")
        pinned = st.toggle(
            "each on a processor of its own",
            key="pinned",
            help="Steadier where nothing else runs; on a machine that others use too, threads had better be free to move.",
        )
    return (0 if threads == most else int(threads)), pinned


def counted_part(totals: Mapping[str, Totals]) -> None:
    """Waterfalls of what was counted; there whether or not anything was measured."""
    st.subheader("Counted", anchor=False)
    names = titles.of_graphs(totals)
    totals = {names.get(label, label): total for label, total in totals.items()}
    show.totals_table(list(totals.items()))
    if len(totals) < 2:
        return
    left, right = st.columns(2)
    for column, field, title in ((left, "peak_bytes", "Peak memory (counted)"), (right, "bytes_moved", "Bytes moved (counted)")):
        values = [float(getattr(total, field)) for total in totals.values()]
        column.plotly_chart(charts.waterfall(list(totals), values, title, "bytes"), key=field, config={"displaylogo": False})


main()
