"""Fusion beside Inductor: launches and bytes, time, and what planning costs.

    python -m benchmarks.fusion                                every section
    python -m benchmarks.fusion counts [WORD …]                launches and bytes of thirteen graphs, those whose title holds a word
    python -m benchmarks.fusion time [WORD …]                  captured graph, pipeline and torch.compile, in turns
    python -m benchmarks.fusion planning                       seconds of every rewrite on graphs up to 10,000 nodes

Counts are exact and the same on any machine; they take some ten minutes, because torch.compile plans the same models. Of times only ratios travel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from benchmarks.fusion_inductor import Scheduled, scheduled
from benchmarks.fusion_models import ROWS, Row
from benchmarks.fusion_pipeline import Optimized, launches_left, optimized
from benchmarks.fusion_planning import measured
from benchmarks.fusion_time import MODELS, timed

Each = TypeVar("Each")
ALLOWED_TIME = 1.05
PLANNING_LIMIT_S = 10.0


def counts(words: Sequence[str]) -> None:
    """Launches and bytes: as captured, Inductor's, ours; then where a row misses and what still runs."""
    print("| graph | captured: launches, MB | Inductor here | Inductor's MB | earlier count | ours | our MB | launches | bytes |")
    print("|---|---|---|---|---|---|---|---|---|")
    found: list[tuple[Row, Scheduled, Optimized]] = []
    for row in _chosen(ROWS, words, lambda row: f"{row.title} {row.mode}"):
        theirs, ours = scheduled(row.source(), row.mode), optimized(row.source(), row.mode)
        found.append((row, theirs, ours))
        print(_counted(row, theirs, ours), flush=True)
    for row, theirs, ours in found:
        _explain(row, theirs, ours)


def _counted(row: Row, theirs: Scheduled, ours: Optimized) -> str:
    cells = [
        f"{row.title}, {row.mode}",
        f"{ours.before.launches}, {ours.before.bytes_moved / 1e6:,.0f}",
        f"{theirs.kernels} ({theirs.library} library)",
        f"{theirs.bytes / 1e6:,.0f}",
        f"{row.kernels}",
        f"{ours.after.launches}",
        f"{ours.after.bytes_moved / 1e6:,.0f}",
        f"{ours.after.launches / theirs.kernels:.2f}",
        f"{ours.after.bytes_moved / theirs.bytes:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _explain(row: Row, theirs: Scheduled, ours: Optimized) -> None:
    """What was done, what was promised and not kept, and what is left where the row misses."""
    print(f"\n{row.title}, {row.mode}: {', '.join(ours.words)}")
    for sentence in ours.broken:
        print(f"  claim broken: {sentence}")
    wanted = min(row.most or theirs.kernels, theirs.kernels)
    if ours.after.launches > wanted:
        print(f"  missed: {ours.after.launches} launches, wanted at most {wanted}")
    if ours.after.bytes_moved > theirs.bytes:
        print(f"  missed: {ours.after.bytes_moved / 1e6:,.0f} MB, Inductor {theirs.bytes / 1e6:,.0f} MB")
    for name, launches, moved in launches_left(ours.graph):
        print(f"  {launches:4} {name:60} {moved / 1e6:10,.1f} MB")


def times(words: Sequence[str]) -> None:
    """Medians and ratios in turns."""
    print("| model | captured | ours | torch.compile | ours ÷ captured | ours ÷ torch.compile | compiling, ours and theirs | error |")
    print("|---|---|---|---|---|---|---|---|")
    for title in _chosen(MODELS, words, str):
        for mode in ("inference", "training"):
            each = timed(MODELS[title](mode), mode)
            ratios = [f"{middle:.2f} ({low:.2f}–{high:.2f})" for middle, low, high in (each.to_captured, each.to_theirs)]
            mark = "" if each.to_theirs[0] <= ALLOWED_TIME else " missed"
            cells = [
                f"{title}, {mode}",
                f"{each.captured:.1f} ms",
                f"{each.ours:.1f} ms",
                f"{each.theirs:.1f} ms",
                ratios[0],
                ratios[1] + mark,
            ]
            print(f"| {' | '.join(cells)} | {each.our_seconds:.0f} s, {each.their_seconds:.0f} s | {each.error:.0e} |", flush=True)


def planning(words: Sequence[str]) -> None:
    """Seconds per 1,000 nodes at several sizes, and the exponent."""
    found = _chosen(measured(), words, lambda growth: growth.name)
    sizes = list(found[0].seconds)
    print(f"| rewrite | {' | '.join(f'{size:,} nodes' for size in sizes)} | exponent |\n|{'---|' * (len(sizes) + 2)}")
    for growth in found:
        cells = [f"{seconds:.2f} s ({1000 * seconds / size:.3f})" for size, seconds in growth.seconds.items()]
        slow = " missed" if max(growth.seconds.values()) > PLANNING_LIMIT_S else ""
        print(f"| {growth.name} | {' | '.join(cells)} | {growth.exponent:.2f}{slow} |")


def _chosen(known: Iterable[Each], words: Sequence[str], title: Callable[[Each], str]) -> list[Each]:
    return [each for each in known if not words or any(word in title(each) for word in words)]


SECTIONS: dict[str, Callable[[Sequence[str]], None]] = {"counts": counts, "time": times, "planning": planning}


def main(words: Sequence[str]) -> None:
    sections = [word for word in words if word in SECTIONS] or list(SECTIONS)
    others = [word for word in words if word not in SECTIONS]
    for name in sections:
        print(f"\n## {name}\n")
        SECTIONS[name](others)


if __name__ == "__main__":
    main(sys.argv[1:])
