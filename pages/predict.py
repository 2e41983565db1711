"""Predict

What would this graph do on another device? Its operations and bytes are counted; how fast a device does them stands in its data sheet, and how much of
that is reached was fitted to measurements. Nothing runs here: times are predicted, and beside them stands what was measured, where somebody did.
"""

import streamlit as st

from jobs.experiment import parse
from jobs.record import CeilingsResult, MeasureCeilings, Optimize, OptimizeResult, Predict, PredictResult
from pages.ui import choose, predicted, predicted_measured, recorded, show, state, work
from profiler.prediction_record import Sheet

CEILINGS, SLOT, CHOSEN = "ceilings", "predict", "device predicted for"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        here = this_machine()
        devices = (*here, *recorded.sheets())
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        show.nothing_to_count(found.report)
        answer = work.answer(Predict(experiment.words, devices, st.session_state.get(CHOSEN, "")), SLOT, PredictResult)
        if not answer.devices:
            st.info("No device of the table has a rate for the dtypes of this graph.", icon=":material/memory:")
            return
        words = work.words_of(SLOT)
        predicted.side_by_side(answer, bool(parse(words).pipeline), CHOSEN, predicted_measured.times(words, here[0].name if here else ""))
        if answer.chosen is None:
            st.info("Choose a device, by its bar or its row, to see where its time would go, node by node.", icon=":material/touch_app:")
        elif theirs := work.graphs_of(SLOT, found):
            predicted.nodes(theirs.graphs[-1], answer.chosen)


def this_machine() -> list[Sheet]:
    """This machine, where its ceilings were measured, and the button that measures them."""
    request = MeasureCeilings()
    known = work.is_kept(request)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Measure this machine's ceilings again" if known else "Measure this machine's ceilings",
            icon=":material/speed:", on_click=work.ask, args=(request, CEILINGS, known),
            help="Matmul rate per dtype, copy bandwidth, time of a launch: about ten seconds. Then this machine stands among the devices.",
        )  # fmt: skip
    if not work.is_begun(request, CEILINGS):
        return []
    found = work.answer(request, CEILINGS, CeilingsResult)
    st.caption(predicted.ceilings_in_words(found.ceilings))
    return [found.sheet]


main()
