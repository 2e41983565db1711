"""The records of optimizations: what they say of themselves, and what a step did. Without torch."""

from __future__ import annotations

from typing import Literal

import msgspec

from graphs.record import Diff, Totals

Direction = Literal["lower", "same", "higher", "any"]
Exactness = Literal["bitwise", "rounding", "approximate"]
VerdictKind = Literal["bitwise", "rounding", "approximate", "refuted", "not run"]
How = Literal["run", "proven"]


class Claim(msgspec.Struct, frozen=True):
    """What an optimization promises about a graph's counted totals wherever it finds a match.

    `lower` and `higher` admit equality; `same` does not admit a change; `any` promises nothing.
    """

    launches: Direction = "same"
    flops: Direction = "same"
    bytes_moved: Direction = "same"
    peak_bytes: Direction = "any"


ParameterKind = Literal["number", "nodes", "pairs", "memory", "plan"]


class Parameter(msgspec.Struct, frozen=True):
    """What the reader may set: its name, default, limits and meaning.

    Attributes:
        kind: a whole number within the limits; names of nodes (`add.mul.relu`); or pairs of names (`add.mul-relu.exp`); or an amount of memory
            (`0.5` of the peak, `512MiB`), whose default is in percent of the peak; or a plan that was made before, as one word. Of names and plans the default is none.
        choices: what each number stands for, from the minimum on, where the number alone tells a reader nothing.
    """

    name: str
    default: int
    minimum: int
    maximum: int
    meaning: str
    kind: ParameterKind = "number"
    choices: tuple[str, ...] = ()


class OptimizationRecord(msgspec.Struct, frozen=True):
    """One entry of the catalog, as shown to the reader.

    Attributes:
        kind: cleanup, algebra, fusion, search or memory: the folder it lives in.
        lesson: the module's docstring, Markdown.
        applies_to: the modes (inference, training) in which it can have something to do.
        explains: it has a reason for every pair of producer and consumer.
    """

    name: str
    kind: str
    summary: str
    lesson: str
    claim: Claim
    exactness: Exactness
    parameters: tuple[Parameter, ...]
    applies_to: tuple[str, ...]
    explains: bool = False


class MatchRecord(msgspec.Struct, frozen=True):
    """A place where the optimization applied: the anchor's name, every node it touched, and what it found."""

    anchor: str
    nodes: tuple[str, ...]
    note: str = ""


class MissRecord(msgspec.Struct, frozen=True):
    """A near-match and the reason, one sentence, why the optimization left it alone."""

    node: str
    reason: str


class WorstTensor(msgspec.Struct, frozen=True):
    """The output that moved furthest.

    Attributes:
        tensor: role and name, such as `gradient model.fc1.weight`.
        error: largest absolute difference from the float64 reference, over the reference's largest magnitude.
        before_error: the same for the unoptimized program: what rounding alone costs.
    """

    tensor: str
    error: float
    before_error: float


class Verdict(msgspec.Struct, frozen=True):
    """Did the step keep the answers? `reason` says how it was judged, or why it was not run.

    Attributes:
        how: by running both graphs on the same inputs, or proven from the graphs alone, which holds for all inputs (of kind `bitwise` only).
        tensors: outputs that were compared, or proven to be the same.
    """

    kind: VerdictKind
    worst: WorstTensor | None = None
    reason: str = ""
    tensors: int = 0
    how: How = "run"


class PairRecord(msgspec.Struct, frozen=True):
    """A producer and a consumer: are they in one kernel, and why, or why not.

    Attributes:
        bytes: of the value between them.
        reason: a clause; way_out: what would make a fusion of them, where there is something.
    """

    producer: str
    consumer: str
    fused: bool
    bytes: int
    reason: str
    way_out: str = ""


class Move(msgspec.Struct, frozen=True):
    """One rewrite of a search: the step in words, and the predicted seconds of the graph after it."""

    words: str
    seconds: float


class SearchRecord(msgspec.Struct, frozen=True):
    """What a search came to: the price of the start, greedy's path to where it stops, the found path, and how many graphs were priced."""

    seconds: float
    greedy: tuple[Move, ...]
    found: tuple[Move, ...]
    priced: int


class StepRecord(msgspec.Struct, frozen=True):
    """One optimization applied to one graph.

    Attributes:
        words: the step as written in the pipeline, such as `recompute-activations(every=2)`.
        parameters: the values used, defaults included.
        sites: the anchors of all matches found before any rewrite (with `only=` one of them is rewritten).
        claim_broken: the totals that went against the claim, as sentences; empty when it holds.
        search: of a search, its path and greedy's.
    """

    optimization: str
    words: str
    parameters: dict[str, int | str]
    before: Totals
    after: Totals
    matches: tuple[MatchRecord, ...]
    misses: tuple[MissRecord, ...]
    sites: tuple[str, ...]
    diff: Diff
    verdict: Verdict
    claim_broken: tuple[str, ...] = ()
    seconds: float = 0.0
    search: SearchRecord | None = None


class BudgetPoint(msgspec.Struct, frozen=True):
    """Steps that may be added to a pipeline, and what the graph is after them.

    Attributes:
        words: the steps, in order; none is the graph as it is.
        peak: counted bytes.
        seconds: predicted for one run, on a machine of the device's class.
        exactness: of the least exact step.
        bound: predicted seconds that no recomputation after the same other steps does with less than, at this budget; 0 where unknown.
        verdict: of the whole; `not run`, with the reason, where the steps are verified when they are taken.
    """

    words: tuple[str, ...]
    peak: int
    seconds: float
    exactness: Exactness
    bound: float = 0.0
    verdict: Verdict = Verdict("not run")


class BudgetFront(msgspec.Struct, frozen=True):
    """Points of which none is better than another in peak, time and exactness, largest peak first.

    Attributes:
        now: the graph as it is, which may be among them.
        tried: how many were found in all.
        held: what is there at the smallest peak: nodes with their bytes, largest first; at: the node that runs then.
    """

    now: BudgetPoint
    points: tuple[BudgetPoint, ...]
    tried: int
    at: str = ""
    held: tuple[tuple[str, int], ...] = ()


class Offer(msgspec.Struct, frozen=True):
    """What an optimization could do on a graph: the places, and the near-misses."""

    optimization: str
    sites: tuple[str, ...]
    misses: tuple[MissRecord, ...]
