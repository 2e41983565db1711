"""What is known of the machine that the app runs on: its ceilings, and the model that was fitted to it; and the buttons that find them out."""

from __future__ import annotations

import streamlit as st

from jobs.record import Calibrate, CeilingsResult, MeasureCeilings
from pages.ui import predicted, show, work
from profiler.prediction_record import Calibration

CEILINGS_SLOT, CALIBRATION_SLOT = "ceilings", "calibration"


def ceilings(kind: str) -> MeasureCeilings:
    """The request for those of the processor or of the GPU, whichever is meant.

    Args:
        kind: cpu or cuda; auto is the one that is taken where nobody says.
    """
    return MeasureCeilings(_device(kind))


def calibration(kind: str) -> Calibrate:
    """The same for a calibration."""
    return Calibrate(_device(kind))


def _device(kind: str) -> str:
    """One word for the device that is taken where nobody says, so that it is not measured twice."""
    return "auto" if kind == work.catalogue().device.kind else kind


def kept(kind: str) -> CeilingsResult | None:
    """What was found out before; a calibration brings ceilings of its own. Nothing is begun."""
    return work.kept(calibration(kind), CeilingsResult) or work.kept(ceilings(kind), CeilingsResult)


def asked(kind: str) -> CeilingsResult | None:
    """The buttons, and what is known: shown in words, and returned."""
    ceiling, fit = ceilings(kind), calibration(kind)
    measured, fitted = work.is_kept(ceiling), work.is_kept(fit)
    with st.container(horizontal=True, vertical_alignment="center"):
        if not fitted:
            st.button(
                "Measure this machine's ceilings again" if measured else "Measure this machine's ceilings",
                icon=":material/speed:", on_click=work.ask, args=(ceiling, CEILINGS_SLOT, measured),
                help="Matmul rate per dtype, copy bandwidth, time of a launch: about ten seconds. Then this machine stands among the devices.",
            )  # fmt: skip
        st.button(
            "Calibrate on this machine again" if fitted else "Calibrate on this machine",
            icon=":material/tune:", on_click=work.ask, args=(fit, CALIBRATION_SLOT, fitted),
            help="Ceilings, and models of the zoo run node by node, each in inference and training: two to four minutes. Predictions for this machine then stand "
            "on its own times, not on those of another of its kind.",
        )  # fmt: skip
    found = _found(fit, CALIBRATION_SLOT) or _found(ceiling, CEILINGS_SLOT)
    if found is None:
        return None
    st.caption(predicted.ceilings_in_words(found.ceilings))
    if found.calibration:
        st.caption(in_words(found.calibration))
    return found


def _found(request: Calibrate | MeasureCeilings, slot: str) -> CeilingsResult | None:
    """The result, or how far it is; the page goes on without it."""
    if not work.is_begun(request, slot):
        return None
    try:
        return work.answer(request, slot, CeilingsResult)
    except show.NothingYet:
        return None


def in_words(found: Calibration) -> str:
    """On what a model was fitted here, and how far it is off where it has not seen the model."""
    worst = max(found.graphs, key=lambda one: abs(one.error))
    return (
        f"Efficiency **fitted here** on {show.plural(len(found.graphs), 'graph')}. Predicted by a fit without a third of the models, its own among them, half "
        f"of the graphs are off by at most {found.typical_error:.0%} (measured against predicted), and the worst, {show.plain(worst.name)}, by {worst.error:+.0%}."
    )
