"""What steps, graphs and nodes are called where a person reads: the words of an address are for the machine too, and hold what tells a reader nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from graphs.record import NodeRecord
from jobs.experiment import STEP, StepWords, parse_pipeline
from jobs.record import PEERS
from optimizers.amounts import bytes_of, in_words, is_amount

FOR_MACHINES = ("plan",)  # a whole plan of recomputation as one word
AGAIN = re.compile(r" \(\d+\)$")  # behind the label of a step that comes again
LONG = 24  # letters of a value that are still read


def step_title(words: str) -> str:
    """A step for a reader: `recompute-to-budget(budget=16302186B,plan=…)` is `recompute-to-budget (budget 15.55 MiB)`. What is no step stays."""
    if not STEP.fullmatch(words):
        return words
    step = parse_pipeline(words)[0]
    told = [_setting(step, key, value) for key, value in step.settings if key not in FOR_MACHINES]
    return f"{step.name} ({', '.join(told)})" if told else step.name


def _setting(step: StepWords, key: str, value: str) -> str:
    if key == "budget" and value.endswith("B") and is_amount(value):
        return f"{key} {in_words(bytes_of(value, 0))}"
    if len(value) <= LONG:
        return f"{key} {value}"
    pairs = key == "apart"
    count = value.count("-" if pairs else ".") + 1
    if count == 1:
        return f"{key} {value[: LONG - 1]}…"
    return f"{key} {count} pairs" if pairs else f"{count} nodes"


def numbered(steps: Iterable[str]) -> list[str]:
    """Titles of the steps of a pipeline, in order: `2. fuse-loops`. The number keeps apart what else would read alike."""
    return [f"{number}. {step_title(words)}" for number, words in enumerate(steps, 1)]


def of_graphs(labels: Iterable[str]) -> Mapping[str, str]:
    """The title of every graph by its label; the captured one comes first, and the model itself keeps its name."""
    steps = [label for label in labels if label not in PEERS.values()][1:]
    return dict(zip(steps, numbered(AGAIN.sub("", step) for step in steps), strict=True))


def node_title(node: NodeRecord) -> str:
    """What a reader knows a node by: a parameter's or buffer's own name, `input 0`, and of all others the node's name."""
    if node.op != "placeholder":
        return node.name
    return f"{node.role} {node.target}" if node.role in ("input", "seed") else node.target or node.name
