"""Predict

What would this graph do on another device? Its operations and bytes are counted; how fast a device does them stands in its data sheet, and how much of
that is reached was fitted to measurements. Nothing runs here: times are predicted, and beside them stands what was measured, where somebody did.
"""

import streamlit as st

from jobs.experiment import parse
from jobs.record import Optimize, OptimizeResult, Predict, PredictResult
from pages.ui import choose, predicted, predicted_measured, recorded, show, state, this_machine, work

SLOT, CHOSEN = "predict", "device predicted for"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        here = this_machine.asked(experiment.device)
        devices = (*([here.known] if here else []), *recorded.devices())
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        show.nothing_to_count(found.report)
        answer = work.answer(Predict(experiment.words, devices, st.session_state.get(CHOSEN, "")), SLOT, PredictResult)
        if not answer.devices:
            st.info("No device of the table has a rate for the dtypes of this graph.", icon=":material/memory:")
            return
        words = work.words_of(SLOT)
        name = here.sheet.name if here and parse(words).device == experiment.device else ""
        predicted.side_by_side(answer, bool(parse(words).pipeline), CHOSEN, predicted_measured.times(words, name))
        if answer.chosen is None:
            st.info("Choose a device, by its bar or its row, to see where its time would go, node by node.", icon=":material/touch_app:")
        elif theirs := work.graphs_of(SLOT, found):
            predicted.nodes(theirs.graphs[-1], answer.chosen)


main()
