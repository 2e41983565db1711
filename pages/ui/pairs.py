"""Why are two operators in one kernel, or not? Every producer and consumer of the graph before a step, with the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from jobs.record import Pairs, PairsResult, request_hash
from optimizers.record import OptimizationRecord, PairRecord
from pages.ui import pipeline, show, work

WANTED = "pairs wanted"
SHOWN_OF_NODE = 6
SHOWN_REASONS = 6
APART = "you asked to keep them apart"
ANSWERS = ("all", "fused", "not fused")
NUMBER = re.compile(r"\d[\d,]*")


def explains(record: OptimizationRecord | None) -> bool:
    """Has the optimization a reason for every pair?"""
    return record is not None and record.explains


def known(words: str, step: int) -> tuple[PairRecord, ...] | None:
    """The pairs, where they were asked for before."""
    request = Pairs(words, step)
    if not work.is_kept(request):
        return None
    found = work.quietly(request, PairsResult)
    return found.pairs if found else None


def panel(words: str, step: int, choose: Callable[[str], None]) -> None:
    """The summary and the table; asked for by a button. Ends the page's part while the worker is at it."""
    request = Pairs(words, step)
    slot = f"pairs {request_hash(request)[:12]}"
    st.markdown("**Why, and why not?** Every operator and every operator that reads it.")
    if not st.session_state.get(WANTED) and not work.is_kept(request):
        st.caption("The planner has a reason for every pair: legal or not, worth it or not, and often a way out.")
        _ask(request, slot, "Show every pair", "ask pairs")
        return
    st.session_state[WANTED] = True
    found = [pair for pair in work.answer(request, slot, PairsResult).pairs if pair.bytes]
    summary(found)
    table(narrowed(found), step, f"{slot} table", choose)


def _ask(request: Pairs, slot: str, label: str, key: str) -> None:
    st.button(label, key=key, icon=":material/help_center:", on_click=_want, args=(request, slot))


def _want(request: Pairs, slot: str) -> None:
    """Shown once, they are shown for every step: who changes a fusion wants to see what became of it."""
    st.session_state[WANTED] = True
    work.ask(request, slot)


def summary(pairs: Sequence[PairRecord]) -> None:
    """How many are together, what that saves, and the reasons against the others, counted."""
    together = [pair for pair in pairs if pair.fused]
    apart = [pair for pair in pairs if not pair.fused]
    st.markdown(
        f":green[**{len(together):,} of {show.plural(len(pairs), 'pair')}**] are inside of one kernel: "
        f"**{show.size(sum(pair.bytes for pair in together))}** between them need not be written to memory and read again."
        f" {len(apart):,} are not, with {show.size(sum(pair.bytes for pair in apart))} between them."
    )
    counts = reasons(apart)
    if counts:
        rows = counts[:SHOWN_REASONS]
        st.dataframe(
            pd.DataFrame(
                {
                    "pairs": [count for _, count, _ in rows],
                    "why not together": [reason for reason, _, _ in rows],
                    "between them": [show.size(size) for _, _, size in rows],
                }
            ),
            hide_index=True,
            column_config={"pairs": st.column_config.NumberColumn(width=60), "between them": st.column_config.TextColumn(width=100)},
        )


def reasons(pairs: Sequence[PairRecord]) -> list[tuple[str, int, int]]:
    """(reason without names and numbers, pairs, bytes between them), the most frequent first."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for pair in pairs:
        counts[general(pair)] += 1
        sizes[general(pair)] += pair.bytes
    return [(reason, count, sizes[reason]) for reason, count in counts.most_common()]


def general(pair: PairRecord) -> str:
    """The reason as it would be for any pair: without names of nodes, without numbers."""
    text = pair.reason
    for name, word in ((pair.producer, "the producer"), (pair.consumer, "the consumer")):
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", word, text)
    text = re.sub(r"^\w+ reads the one", "another operator reads the one", text)
    return NUMBER.sub("n", text)


def narrowed(pairs: Sequence[PairRecord]) -> list[PairRecord]:
    """The pairs that the reader's filters leave."""
    left, middle, right = st.columns([1, 1.25, 1.4], vertical_alignment="bottom")
    text = left.text_input("Node", key="pairs filter", placeholder="part of a name", icon=":material/search:")
    answer = middle.segmented_control("Answer", ANSWERS, default="all", key="pairs answer", required=True)
    counts = reasons([pair for pair in pairs if not pair.fused])
    reason = right.selectbox("Reason", ["", *(one for one, _, _ in counts)], key="pairs reason", format_func=lambda one: one or "any")
    return matching(pairs, text, answer or "all", reason or "")


def matching(pairs: Sequence[PairRecord], text: str = "", answer: str = "all", reason: str = "") -> list[PairRecord]:
    """Pairs of which one name has the text, that are fused or not, and of that reason in general."""
    word = text.strip().lower()
    return [
        pair
        for pair in pairs
        if (word in pair.producer.lower() or word in pair.consumer.lower())
        and (answer == "all" or pair.fused == (answer == "fused"))
        and (not reason or (not pair.fused and general(pair) == reason))
    ]


def table(pairs: Sequence[PairRecord], step: int, key: str, choose: Callable[[str], None]) -> None:
    """One row per pair; the chosen one is told in full below, with what can be done about it."""
    st.dataframe(
        frame(pairs),
        key=key,
        hide_index=True,
        height=min(360, 37 + 35 * max(1, len(pairs))),
        selection_mode="single-row",
        on_select=lambda: _chosen(key, pairs, choose),
        column_config={
            "producer": st.column_config.TextColumn(width=105),
            "consumer": st.column_config.TextColumn(width=105),
            "one kernel": st.column_config.TextColumn(width=75),
            "between them": st.column_config.TextColumn(width=102, help="Bytes of the value that the one makes and the other reads."),
            "why": st.column_config.TextColumn(width=288),
            "way out": st.column_config.TextColumn(width=200),
        },
    )
    rows = st.session_state.get(key, {}).get("selection", {}).get("rows", [])
    if rows and rows[0] < len(pairs):
        with st.container(border=True):
            in_full(pairs[rows[0]], step, "pair")
    else:
        st.caption("Choose a row: the graph goes to the consumer, and what can be done about the pair is told here.")


def _chosen(key: str, pairs: Sequence[PairRecord], choose: Callable[[str], None]) -> None:
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(pairs):
        choose(pairs[rows[0]].consumer)


def frame(pairs: Sequence[PairRecord]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "producer": [pair.producer for pair in pairs],
            "consumer": [pair.consumer for pair in pairs],
            "one kernel": ["yes" if pair.fused else "no" for pair in pairs],
            "between them": [show.size(pair.bytes) for pair in pairs],
            "why": [pair.reason for pair in pairs],
            "way out": [pair.way_out for pair in pairs],
        }
    )


def in_full(pair: PairRecord, step: int, key: str) -> None:
    """The reason, the way out, and the buttons that keep a pair apart or let it together again."""
    st.markdown(sentence(pair))
    if pair.fused:
        st.button(
            "Keep these two apart", key=f"apart {key} {pair.producer} {pair.consumer}", icon=":material/call_split:",
            on_click=pipeline.keep_apart, args=(step, pair.producer, pair.consumer),
            help="The planner plans again without this fusion; the step is verified again.",
        )  # fmt: skip
    elif pair.reason == APART:
        st.button(
            "Let them together again", key=f"together {key} {pair.producer} {pair.consumer}", icon=":material/call_merge:",
            on_click=pipeline.let_together, args=(step, pair.producer, pair.consumer),
        )  # fmt: skip


def sentence(pair: PairRecord) -> str:
    """`` `mm_3` → `add`: not one kernel, because … Way out: … `` as Markdown."""
    answer = ":green[**one kernel**]" if pair.fused else ":orange[**not one kernel**]"
    out = f" :gray[Way out:] {show.sentence(pair.way_out)}" if pair.way_out else ""
    return f"`{pair.producer}` → `{pair.consumer}`: {answer}, {show.size(pair.bytes)} between them; {show.plain(pair.reason)}.{out}"


def of_node(words: str, step: int, names: Sequence[str], key: str) -> None:
    """In a node's details: the pairs that it is in. Of a kernel, those at its border: why it ends there."""
    found = known(words, step)
    request = Pairs(words, step)
    if found is None:
        _ask(request, f"pairs {request_hash(request)[:12]}", "Why fused, why not?", f"ask pairs {key}")
        return
    inside = set(names)
    mine = [pair for pair in found if pair.bytes and (pair.producer in inside) != (pair.consumer in inside)]
    if not mine:
        st.caption("No pair of operators that could be one kernel ends here.")
        return
    st.caption("Why its kernel ends where it does:" if len(inside) > 1 else "In one kernel with its neighbours?")
    for number, pair in enumerate(mine[:SHOWN_OF_NODE]):
        in_full(pair, step, f"{key} {number}")
    if len(mine) > SHOWN_OF_NODE:
        st.caption(f"and {len(mine) - SHOWN_OF_NODE} more in the table of pairs below.")
