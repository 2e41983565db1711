"""A treemap in a lesson: how much of a model is where, by its modules; the sizes only once the answer was told."""

from __future__ import annotations

from typing import get_args

import plotly.graph_objects as go
import streamlit as st

from lessons.ledger import What, tree
from lessons.lesson import Found
from lessons.vocabulary import many, percent, size
from pages.ui import charts

TONES = ("#3f76c4", "#a8621d", "#2f7a50", "#8a5a9e", "#b04a56", "#457886")  # white text can be read on all of them
REST = "#687282"  # for what is next to nothing
SMALL = 0.001


def picture(found: Found, key: str, told: bool, first: What) -> None:
    """The map, of what the reader chooses; `first` is what the screen speaks of."""
    if not told:
        st.plotly_chart(figure(tree(found.before, first), "operations", told=False), key=f"{key} treemap", config={"displaylogo": False})
        st.caption("Names only: the sizes appear once you have predicted.")
        return
    chosen = st.segmented_control("Size of a box", get_args(What), default=first, required=True, key=f"{key} what")
    st.plotly_chart(figure(tree(found.before, chosen), chosen, told=True), key=f"{key} treemap", config={"displaylogo": False})
    st.caption("Counted in the captured graph. Click a box to look inside, and the bar above to come back.")


def figure(amounts: dict[tuple[str, ...], int], what: What, told: bool) -> go.Figure:
    """Boxes as large as their amounts, or all alike; a colour for each of the largest parts."""
    sizes = with_parents({path: amount if told else 1 for path, amount in amounts.items()})
    whole = sizes[()]
    tones = _tones(amounts)
    paths = list(sizes)
    drawn = go.Figure(
        go.Treemap(
            ids=["/".join(("model", *path)) for path in paths],
            labels=[path[-1] if path else "all" for path in paths],
            parents=["/".join(("model", *path[:-1])) if path else "" for path in paths],
            values=[sizes[path] for path in paths],
            branchvalues="total",
            text=[f"{written(sizes[path], what)}<br>{percent(sizes[path], whole)}" if told else "" for path in paths],
            textinfo="label+text" if told else "label",
            hovertemplate="%{label}<br>%{text}<extra></extra>" if told else "%{label}<extra></extra>",
            marker={"colors": [_tone(path, tones) for path in paths], "cornerradius": 3},
            textfont={"color": "#ffffff", "size": 13},
            tiling={"pad": 2},
            root={"color": "rgba(0,0,0,0)"},
            pathbar={"textfont": {"size": 12, "color": "#ffffff"}},
        )
    )
    charts.finish(drawn, 460, f"Where the {what} are (counted)" if told else "The parts of the model")
    return drawn


def written(amount: int, what: What) -> str:
    return size(amount, binary=False) if what == "bytes moved" else many(amount)


def with_parents(amounts: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    """Every path and every path above it, with the sum of what is below."""
    found: dict[tuple[str, ...], int] = {(): 0}
    for path, amount in amounts.items():
        for end in range(len(path) + 1):
            found[path[:end]] = found.get(path[:end], 0) + amount
    return found


def _tones(amounts: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], str]:
    """A colour for every module of modules, and for every part beside them, the largest first."""
    whole = sum(amounts.values())
    groups: dict[tuple[str, ...], int] = {}
    for path, amount in amounts.items():
        group = path[: _depth(path)]
        groups[group] = groups.get(group, 0) + amount
    large = [group for group in sorted(groups, key=lambda group: -groups[group]) if groups[group] > SMALL * whole]
    return {group: TONES[at % len(TONES)] for at, group in enumerate(large)}


def _depth(path: tuple[str, ...]) -> int:
    """Down to the part of one block, such as its attention; where there are no blocks, to the part of the model."""
    block = next((at for at, part in enumerate(path) if " × " in part), None)
    return min(len(path), 2 if block is None else block + 2)


def _tone(path: tuple[str, ...], tones: dict[tuple[str, ...], str]) -> str:
    return next((tones[path[:end]] for end in range(len(path), 0, -1) if path[:end] in tones), REST)
