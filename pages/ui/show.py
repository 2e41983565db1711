"""The visual elements that pages share: problem box, verdict, tiles, tables, and how numbers are written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd
import streamlit as st
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.scriptrunner import StopException

from graphs.errors import FxscopeError
from graphs.record import CaptureReport, Diff, Totals
from jobs.record import Problem
from jobs.report import amount
from optimizers.record import MissRecord, StepRecord, Verdict

KIND_TITLES = {
    "RequestError": "The request does not make sense",
    "SourceError": "The file cannot be used",
    "CaptureError": "The model could not be turned into a graph",
    "RewriteError": "An optimization went wrong",
    "TooLargeError": "Too large for this machine",
    "DeviceError": "The device failed",
    "BusyError": "This server is busy",
    "StoreError": "What is kept on disk cannot be used",
    "JobError": "The work did not finish",
}

WRONG_ADDRESS = "The address of this page asks for something that is not there"

# Streamlit leaves 6 rem above a page and 5 beside it: room that a graph can use.
# What a component shows nothing of stands outside of the flow, or each would leave a gap behind the picture.
SPACING = "<style>.stMainBlockContainer {padding: 2.2rem 2rem 3rem;} @media (max-width: 640px) {.stMainBlockContainer {padding: 4rem 1rem 3rem;}} .stSidebar [data-testid='stSidebarHeader'] {height: 2.5rem;} .stForm textarea, .stForm input {font-family: var(--st-code-font, monospace); font-size: 0.82rem;} [data-testid='stMarkdownContainer']:has(> table) {overflow-x: auto;} .stElementContainer:has(.fxscope-history) {display: none;} .stElementContainer[class*='-unseen-'] {position: absolute;}</style>"

# Streamlit makes an entry of the browser's history of every change of an address. That a page completes its own address, or that the graph was moved,
# is no place to go back to: the reader would press Back many times, and a page that completes its address again would never let go.
# A lesson opened from the list is one: it adds no model.
HISTORY = """<i class="fxscope-history"></i><script>
if (!window.fxscopeHistory) {
  window.fxscopeHistory = true;
  const push = history.pushState.bind(history);
  const experiment = (search) => { const words = new URLSearchParams(search); words.delete("look"); words.delete("room"); return words.toString(); };
  history.pushState = (state, title, to) => {
    const next = new URL(to || location.href, location.href), old = experiment(location.search);
    const completes = next.pathname === location.pathname && ((!old && next.searchParams.has("model")) || old === experiment(next.search));
    if (completes) history.replaceState(state, title, to); else push(state, title, to);
  };
}
</script>"""


MODULE_TREE = 6  # the rung of the ladder on which no operator is known
SHOWN_REASONS, SHOWN_NODES = 8, 4  # of near-misses, where there is little room


class VerdictWords(NamedTuple):
    text: str
    icon: str
    color: str
    meaning: str


VERDICTS = {
    "bitwise": VerdictWords("same bits", ":material/check_circle:", "green", "Every output is equal to the last bit."),
    "rounding": VerdictWords(
        "same up to rounding", ":material/check_circle:", "green", "The outputs differ by no more than rounding explains."
    ),
    "approximate": VerdictWords(
        "approximate", ":material/change_circle:", "orange", "The outputs differ by more than rounding, as this step announces."
    ),
    "refuted": VerdictWords("refuted", ":material/cancel:", "red", "The step changed the answers."),
    "not run": VerdictWords("not verified", ":material/help:", "gray", "The step was not run."),
}


class Figure(NamedTuple):
    """One counted total: its field in Totals, title, how it is written, and what it means."""

    field: str
    title: str
    unit: str
    meaning: str


FIGURES = (
    Figure("launches", "Launches", "", "Kernels that run, one per operator that is not a view."),
    Figure("flops", "Operations", "FLOP", "Floating-point operations of all kinds; a multiply-add is two."),
    Figure("bytes_moved", "Bytes moved", "bytes", "Read and written, if every operand crosses main memory once."),
    Figure("peak_bytes", "Peak memory", "bytes", "Allocated by the graph at its worst moment, without parameters and inputs."),
    Figure("nodes", "Nodes", "", "Nodes of the graph, inputs and output included."),
)


# ---------------------------------------------------------------- numbers


def size(count: float) -> str:
    """Bytes with a binary unit: `1.9 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:,.0f} B" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def number(count: float, unit: str = "") -> str:
    """`12,345` below a million, `1.23 M` above; with a unit the prefix goes to it: `1.23 GFLOP`."""
    if unit == "bytes":
        return size(count)
    return amount(count, unit)


def change(before: float, after: float) -> str:
    """Two figures: `−12 %`, `+0.0023 %`; or `same`, `nearly the same`, `new`."""
    if before == after:
        return "same"
    if not before:
        return "new"
    share = abs(after - before) / abs(before) * 100
    if share < 0.001:
        return "nearly the same"
    return f"{'+' if after > before else '−'}{f'{share:.0f}' if share >= 10 else f'{share:.2g}'} %"


def milliseconds(value: float) -> str:
    """Milliseconds in the unit that suits them, three figures: `133 ns`, `41.2 µs`, `12.3 ms`, `1.23 s`, `16.2 h`."""
    scale, unit = time_scale(value)
    count = value / scale
    return f"{count:.2f} s" if unit == "s" else f"{count:.3g} {unit}" if abs(count) < 999.5 else f"{count:.0f} {unit}"


def time_scale(largest: float) -> tuple[float, str]:
    """Milliseconds of the unit in which that many are written, and its name."""
    for scale, unit in ((3.6e6, "h"), (6e4, "min"), (1e3, "s"), (1.0, "ms"), (1e-3, "µs")):
        if abs(largest) >= 0.9995 * scale:
            return scale, unit
    return (1e-6, "ns") if largest else (1.0, "ms")


def plural(count: int, word: str) -> str:
    """`1 place`, `12 places`, `3 near-misses`."""
    ending = "es" if word.endswith(("s", "ch")) else "s"
    return f"{count:,} {word}{'' if count == 1 else ending}"


# ---------------------------------------------------------------- boxes


def opening(doc: str | None, bare: bool = False) -> None:
    """A page's head: its docstring, first line as title; `bare`, only what every page needs."""
    _through_the_front_door()
    title, _, text = (doc or "").strip().partition("\n")
    st.html(SPACING)
    st.html(HISTORY, unsafe_allow_javascript=True)
    if not bare:
        st.header(title, anchor=False)
        st.caption(" ".join(text.split()))


def _through_the_front_door() -> None:
    """Until app.py has run once, Streamlit takes a folder named `pages` for its older kind of navigation and, when the first
    visitor asks for a page by name, runs that page's file without app.py. Then begin again, properly."""
    if PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def as_problem(error: FxscopeError) -> Problem:
    return Problem(type(error).__name__, error.what, error.where, error.help)


def problem(problem: Problem, title: str = "", cancelled: bool = False) -> None:
    """What went wrong, where, and the way out."""
    title = "Cancelled" if cancelled else title or KIND_TITLES.get(problem.kind, "Something went wrong")
    lines = [f"**{title}**", sentence(problem.what)]
    if problem.where:
        lines.append(f"Where: {plain(problem.where)}" if "`" in problem.where else f"Where: `{problem.where}`")
    if problem.help:
        lines.append(sentence(problem.help))
    box, icon = (st.info, ":material/cancel:") if cancelled else (st.error, ":material/error:")
    box("  \n".join(lines), icon=icon)


SPECIAL = re.compile(r"([\\\[\]*_~$#|<>!:])")


def plain(text: str) -> str:
    """Text that nobody here wrote, safe inside Markdown: only code between backticks keeps its meaning."""
    parts = text.split("`")
    if len(parts) % 2 == 0 or "``" in text:  # Markdown pairs runs of the same length, which need not be the pairs seen here
        parts = [text.replace("`", "'")]
    return "`".join(part if index % 2 else SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def sentence(text: str) -> str:
    text = text.strip()
    named = re.match(r"\S*[/=_]|\w+\.\w", text)  # `zoo/gpt2`, `device=tpu`, `torch.export`: a name stays as it is written
    text = plain(text if named else f"{text[:1].upper()}{text[1:]}")
    return text + ("" if text.endswith((".", "!", "?", "…", ":")) else ".")


class NothingYet(StopException):
    """There is nothing to show below this line, and the reader knows why. Unlike `st.stop`, which forbids every further element, it lets
    what stands around it finish its own part."""


@contextmanager
def patient() -> Iterator[None]:
    """Around a part of a page that may have nothing to show yet: the parts behind it are shown all the same."""
    with contextlib.suppress(NothingYet):
        yield


@contextmanager
def problems() -> Iterator[None]:
    """A page's edge: errors of ours end in a problem box."""
    try:
        yield
    except NothingYet:
        pass
    except FxscopeError as error:
        problem(as_problem(error))


def standing(report: CaptureReport) -> None:
    """Says so at once when the graph is not the best that there is."""
    if report.rung > 1:
        why = f" {sentence(report.refused[0])}" if report.refused else ""
        says = " ".join(sentence(note) for note in report.notes if not report.runs)
        if 2 < report.rung < 6:
            says = f"{says} The tab *Graph breaks* can tell where torch.compile would cut it."
        (st.warning if report.rung > 3 else st.info)(
            f"**Captured by {report.method} (step {report.rung} of 6 down the ladder).** {report.meaning}{why} {says}".strip(),
            icon=":material/stairs:",
        )


def nothing_to_count(report: CaptureReport) -> None:
    """On pages that count, change or predict: says so, and ends the page's part, where no operator is known."""
    if report.rung < MODULE_TREE:
        return
    why = sentence(report.refused[0]) if report.refused else report.meaning
    st.warning(f"**No operator is known that could be counted or changed: captured by {report.method}.** {why}", icon=":material/stairs:")
    st.page_link("pages/explore.py", label="See on Explore what is known", icon=":material/account_tree:")
    raise NothingYet


def nothing_to_run(report: CaptureReport, what: str) -> None:
    """On pages that run the graph: says so, and ends the page's part, where it cannot run.

    Args:
        what: could be done with it: measured, profiled.
    """
    if report.runs:
        return
    why = f" {sentence(report.refused[0])}" if report.refused else ""
    st.warning(
        f"**This graph is there to look at and cannot run, so nothing can be {what}: captured by {report.method}.**{why}",
        icon=":material/stairs:",
    )
    st.page_link("pages/explore.py", label="See the graph on Explore", icon=":material/account_tree:")
    raise NothingYet


def verdict(verdict: Verdict, before: Sequence[Verdict] = ()) -> None:
    """The verdict in words and with an icon; a refutation names the worst tensor, and who changed the answers first.

    Args:
        before: the verdicts of the steps before it.
    """
    words = VERDICTS[verdict.kind]
    if verdict.kind != "refuted":
        st.badge(verdict_text(verdict), icon=words.icon, color=words.color, help=f"{words.meaning} {plain(verdict.reason)}".strip())  # pyright: ignore[reportArgumentType]
        return
    worst = verdict.worst
    moved = f"Worst: `{worst.tensor}`, {error_text(verdict)}." if worst else sentence(verdict.reason)
    first = next((at for at, one in enumerate(before, 1) if one.kind == "refuted"), 0)
    if first:
        st.warning(
            f"**The answers were changed before, by step {first}.** Behind it, of this step alone nothing is known.", icon=words.icon
        )
    else:
        st.error(f"**Refuted: this step changed the answers.** {moved}", icon=words.icon)


def verdict_text(verdict: Verdict) -> str:
    """`same bits, proven`, or without the second word where both graphs were run."""
    text = VERDICTS[verdict.kind].text
    return f"{text}, proven" if verdict.how == "proven" else text


def error_text(verdict: Verdict) -> str:
    """How far the worst tensor moved, against what rounding alone costs."""
    if not verdict.worst:
        return ""
    return f"off by {verdict.worst.error:.2e} of its largest value; the unoptimized program is off by {verdict.worst.before_error:.2e}"


def verdict_line(verdict: Verdict) -> None:
    """How the verdict came about, one line."""
    words = VERDICTS[verdict.kind]
    parts = [words.meaning if not verdict.reason else sentence(verdict.reason)]
    if verdict.tensors:
        parts.append(f"{plural(verdict.tensors, 'tensor')} {'the same' if verdict.how == 'proven' else 'compared'}.")
    if verdict.worst and verdict.kind != "refuted":
        parts.append(f"Worst: `{verdict.worst.tensor}`, {error_text(verdict)}.")
    st.caption(" ".join(parts))


# ---------------------------------------------------------------- totals


def tiles(totals: Totals, has_operators: bool = True) -> None:
    """Counted totals, one tile each; where no operator is known only the nodes, for nothing else is zero there."""
    figures = FIGURES if has_operators else FIGURES[-1:]
    for column, figure in zip(st.columns(len(FIGURES)), figures, strict=False):
        value = number(getattr(totals, figure.field), figure.unit)
        column.metric(f"{figure.title} · counted", value, border=True, help=figure.meaning)
    without_a_rule([totals])


def without_a_rule(totals: Sequence[Totals]) -> None:
    """Says where operations and bytes are more than what stands there."""
    most = max(one.unknown for one in totals)
    if most:
        st.caption(
            f":material/help: {plural(most, 'node')} without a rule for cost: operations and bytes are at least what is counted here."
        )


def totals_table(rows: Sequence[tuple[str, Totals]]) -> None:
    """Counted totals of several graphs, one line each, with the change against the line above in words."""
    table: list[dict[str, str]] = []
    before: Totals | None = None
    for title, totals in rows:
        row = {"Counted": title}
        for figure in FIGURES:
            value = getattr(totals, figure.field)
            text = number(value, figure.unit)
            if before is not None and value != getattr(before, figure.field):
                text += f"  ({change(getattr(before, figure.field), value)})"
            row[figure.title] = text
        table.append(row)
        before = totals
    meanings = {figure.title: st.column_config.TextColumn(help=figure.meaning) for figure in FIGURES}
    st.dataframe(pd.DataFrame(table), hide_index=True, width="stretch", column_config=meanings)
    without_a_rule([totals for _, totals in rows])


def savings(step: StepRecord) -> str:
    """What a step changed, one line of Markdown: `Counted: launches 120 → 96 · peak 1.2 GiB → 0.9 GiB`. A figure and its unit stay together."""
    parts = []
    for figure in FIGURES[:4]:
        before, after = getattr(step.before, figure.field), getattr(step.after, figure.field)
        if change(before, after) not in ("same", "nearly the same"):
            color = "green" if after < before else "orange"
            name = figure.title.lower()
            values = " → ".join(number(value, figure.unit).replace(" ", "\u00a0") for value in (before, after))
            parts.append(f"{name} {values} :{color}[{change(before, after)}]".replace(" %", "\u00a0%"))
    if parts and not any(getattr(step.after, figure.field) < getattr(step.before, figure.field) for figure in FIGURES[:4]):
        parts.append("nothing counted got smaller: alone, this step only costs")
    return f"Counted: {' · '.join(parts)}" if parts else "Counted totals as good as unchanged"


# ---------------------------------------------------------------- changes


def diff(diff: Diff) -> None:
    """How many nodes a step removed, added, changed and kept, and how many of these run at another place."""
    places = f" &ensp; :blue[**↕ {len(diff.moved):,}** moved]" if diff.moved else ""
    st.markdown(
        f":red[**− {len(diff.removed):,}** removed] &ensp; :green[**+ {len(diff.added):,}** added] &ensp; "
        f":orange[**~ {len(diff.changed):,}** changed] &ensp; :gray[{diff.kept:,} kept]{places}"
    )


def legend(marks: bool = False, sides: tuple[str, str] | None = None) -> None:
    """How the graph is to be read; `sides` names two graphs that are no before and after."""
    text = (
        ":blue[▭ blue] multiplies matrices · ┄ dashed outline: a view, moves nothing · *italic*: parameters it reads · ↘ ↗ ends of far edges, click to follow · "
        "▾ leaves the graph. Double click or ± opens a group; drag moves, wheel zooms; **?** shows the keys."
    )
    if marks:
        removed, added = (f"only in {side}" for side in sides) if sides else ("removed", "added")
        text = (
            f":red[− dashed, struck through]: {removed} · :green[+ thick]: {added} · :green[⊕ double]: does the work of several · "
            ":orange[~ dotted]: changed; a closed group shows how many. " + text
        )
    st.caption(text)


def misses(misses: Sequence[MissRecord], key: str, choose: Callable[[str], None] = lambda name: None) -> None:
    """Near-misses and why; choosing a row calls `choose` with its node."""
    if not misses:
        return

    def chosen() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(misses):
            choose(misses[rows[0]].node)

    table = pd.DataFrame([{"Node": miss.node, "Why not here": miss.reason} for miss in misses])
    height = min(260, 40 + 35 * len(misses))
    st.dataframe(table, hide_index=True, key=key, on_select=chosen, selection_mode="single-row", height=height)
    rows = st.session_state.get(key, {}).get("selection", {}).get("rows", [])
    if rows and rows[0] < len(misses):  # a long reason does not fit into its cell
        st.caption(f"`{misses[rows[0]].node}`: {sentence(misses[rows[0]].reason)}")


def reasons(misses: Sequence[MissRecord]) -> None:
    """Near-misses as text, for places that are too narrow for a table: every reason once, with the nodes that it holds for."""
    nodes: dict[str, list[str]] = {}
    for miss in misses:
        nodes.setdefault(miss.reason, []).append(miss.node)
    for reason, names in list(nodes.items())[:SHOWN_REASONS]:
        more = f" and {len(names) - SHOWN_NODES} more" if len(names) > SHOWN_NODES else ""
        st.caption(f"{', '.join(f'`{name}`' for name in names[:SHOWN_NODES])}{more}: {sentence(reason)}")
    if len(nodes) > SHOWN_REASONS:
        st.caption(f"and {plural(len(nodes) - SHOWN_REASONS, 'reason')} more; add the step to see all of them.")
