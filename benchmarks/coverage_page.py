"""The page docs/coverage.md: totals first, then every architecture, then what stands low and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

MODES = ("inference", "training")
PACKAGES = re.compile(r"(?:a package is missing|needs the package|requires the|ImportError)[^`]*")
WORDS = {0: "—", 1: "export", 2: "strict export", 3: "guarded run", 4: "make_fx", 5: "eager run", 6: "module tree"}


class Result(msgspec.Struct, frozen=True):
    """One capture. Rung 0: the source itself gave no model.

    Attributes:
        reasons: why each better rung failed, with the line.
        unknown: targets without a cost rule.
        sourced, placed: shares of operator nodes with a source line and with a module path.
        same: how the captured program's outputs compare with the model's: bitwise, close, different, or why not compared.
    """

    name: str
    kind: str
    mode: str
    rung: int
    nodes: int
    seconds: float
    reasons: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    sourced: float = 0.0
    placed: float = 0.0
    same: str = ""
    error: float = 0.0

    @property
    def missing(self) -> bool:
        """It needs a package that fxscope does not bring."""
        return self.rung == 0 and any(PACKAGES.search(reason) for reason in self.reasons)

    @property
    def is_graph(self) -> bool:
        return 1 <= self.rung <= 5

    def line(self) -> str:
        return f"{self.name:32} {self.mode:9} {self.rung} {WORDS[self.rung]:13} {self.nodes:6} nodes {self.seconds:6.1f} s  {self.same}"


def page(results: list[Result]) -> str:
    """The whole page as Markdown."""
    skipped = {result.name for result in results if result.missing}
    counted = [result for result in results if result.name not in skipped]
    parts = [
        _top(counted),
        _rungs(counted),
        _checks(counted),
        _provenance(counted),
        _unknown(counted),
        _table(counted),
        _low(counted),
        _missing(results, skipped),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def totals(results: Iterable[Result]) -> dict[str, tuple[int, int]]:
    """By mode: how many have an operator graph, of how many."""
    found = {mode: [result for result in results if result.mode == mode] for mode in MODES} if isinstance(results, list) else {}
    return {mode: (sum(result.is_graph for result in of), len(of)) for mode, of in found.items()}


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(1, whole):.1f} %)"


def _top(results: list[Result]) -> str:
    found = totals(results)
    minutes = sum(result.seconds for result in results) / 60
    families = len({result.name for result in results})
    kinds = Counter(result.kind for result in results if result.mode == "inference" and result.kind)
    return f"""# What can be captured

Written by `python -m benchmarks.coverage`; not edited by hand. The captures took {minutes:.0f} minutes. {families} architectures, each small,
each captured for inference and for training by the ladder (see architecture.md). The families of `transformers` are built from a
config.json as a reader would paste it: the well-known ones, and of the others every sixteenth by a checksum of its name. Language models that may also look at images are captured on text where they accept that.

- Operator graph for inference: **{_share(*found["inference"])}**
- Operator graph for training: **{_share(*found["training"])}**

Kinds: {", ".join(f"{kind} {count}" for kind, count in kinds.most_common())}."""


def _rungs(results: list[Result]) -> str:
    rows = ["| rung | method | inference | training |", "|---|---|---|---|"]
    for rung, words in WORDS.items():
        counts = [sum(result.rung == rung for result in results if result.mode == mode) for mode in MODES]
        rows.append(f"| {rung or '—'} | {'no model' if not rung else words} | {counts[0]} | {counts[1]} |")
    return "## Rungs\n\n" + "\n".join(rows)


def _checks(results: list[Result]) -> str:
    runs = [result for result in results if result.mode == "inference" and 1 <= result.rung <= 4]
    counts = Counter(result.same.split(":")[0] for result in runs)
    compared = sum(counts[word] for word in ("bitwise", "close", "as exported", "different"))
    good = counts["bitwise"] + counts["close"]
    text = f"""## Outputs

Every captured inference that can run was run on random weights and inputs beside the model itself. Compared: {_share(compared, len(runs))}.
Equal bit for bit: {_share(counts["bitwise"], compared)}; within 1e-4 of the largest value: {_share(good, compared)}.
"As exported": the graph computes what the model does while it is exported, which is not what it does otherwise."""
    rest = [result for result in runs if result.same not in ("bitwise", "close")]
    rows = [f"| {result.name} | {_cell(result.same)} | {result.error:.1e} |" for result in rest]
    return text + ("\n\n| architecture | what happened | error |\n|---|---|---|\n" + "\n".join(rows) if rows else "")


def _provenance(results: list[Result]) -> str:
    graphs = [result for result in results if result.mode == "training" and result.is_graph]
    low = [result for result in graphs if min(result.sourced, result.placed) < 0.99]
    text = f"""## Where nodes come from

In training graphs, module path and source line are known for at least 99 % of the operator nodes in {_share(len(graphs) - len(low), len(graphs))}."""
    rows = [f"| {one.name} | {100 * one.placed:.1f} % | {100 * one.sourced:.1f} % | {one.rung} |" for one in low]
    return text + ("\n\n| below that | module path | source line | rung |\n|---|---|---|---|\n" + "\n".join(rows) if rows else "")


def _unknown(results: list[Result]) -> str:
    where: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for target in result.unknown if result.is_graph else ():
            where[target].add(result.name)
    if not where:
        return "## Cost\n\nEvery operator of every graph has a cost rule."
    rows = [f"| `{target}` | {', '.join(sorted(names)[:6])}{' …' if len(names) > 6 else ''} |" for target, names in sorted(where.items())]
    return "## Cost\n\nOperators without a cost rule, counted as unknown:\n\n| operator | in |\n|---|---|\n" + "\n".join(rows)


def _table(results: list[Result]) -> str:
    rows = [
        "## Every architecture", "",
        "| architecture | kind | inference: rung | nodes | s | outputs | training: rung | nodes | s |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    by_name: dict[str, dict[str, Result]] = defaultdict(dict)
    for result in results:
        by_name[result.name][result.mode] = result
    for name, modes in sorted(by_name.items(), key=lambda item: (next(iter(item[1].values())).kind, item[0])):
        one, other = modes["inference"], modes["training"]
        outputs = one.same if one.same in ("bitwise", "close", "as exported", "different") else ""
        rows.append(
            f"| {name} | {one.kind or other.kind} | {one.rung} | {one.nodes:,} | {one.seconds:.1f} | {outputs} "
            f"| {other.rung} | {other.nodes:,} | {other.seconds:.1f} |"
        )
    return "\n".join(rows)


def _low(results: list[Result]) -> str:
    """Why an architecture is not on the first rung: the reason of torch.export, and where nothing ran the last one too."""
    low = [result for result in results if result.rung != 1]
    rows = ["## Not on the first rung", "", "| architecture | mode | rung | why, and where |", "|---|---|---|---|"]
    for result in low:
        reasons = [*result.reasons[:1], *(result.reasons[-1:] if result.rung >= 5 and len(result.reasons) > 1 else ())]
        rows.append(f"| {result.name} | {result.mode} | {result.rung or '—'} | {_cell('; '.join(reasons))} |")
    return "\n".join(rows) if low else ""


def _missing(results: list[Result], skipped: set[str]) -> str:
    rows = {result.name: result.reasons[0] for result in results if result.name in skipped and result.reasons}
    if not rows:
        return ""
    lines = "\n".join(f"| {name} | {_cell(reason)} |" for name, reason in sorted(rows.items()))
    return f"## Not counted: they need a package that fxscope does not bring\n\n| architecture | why |\n|---|---|\n{lines}"


def _cell(text: str) -> str:
    """One table cell: no bars, no line breaks, not endless."""
    plain = " ".join(text.replace("|", "\\|").split())
    return plain if len(plain) <= 420 else plain[:420] + " …"
