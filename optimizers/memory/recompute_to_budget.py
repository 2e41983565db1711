"""Recompute to a budget: forget what costs least to compute again, until the peak keeps to the memory that you give.

## Why it is slow
What a training step may use is limited by the card, and what it keeps for backward is most of it. To forget everything and compute it again costs a whole
forward pass more; often a small part of that is enough, if it is the right one.

## What changes
Of everything that the forward pass makes, a search chooses what to forget and what runs again in backward, operator by operator. Each choice is
judged by the whole schedule that it leads to: what is there at every moment, views, gradients and what is computed again included. So the budget is one
for the *peak*, not for the bytes that are kept. What runs again does so right before backward reads it, and is freed when backward has. Where one
round is not enough, a stretch is walked through twice or three times (Griewank and Walther 2000, *Revolve*).

A point of the page Memory's *Budget* brings its plan with it (`plan=`, one word for this very graph): then nothing is searched, and the step does what the point shows.

Cheap things come first: activations, norms and casts, dropout from its mask. A matmul runs again only where nothing else helps. The note says how much more
work the plan is, and how much every plan must be, by a linear program.

## When it does not apply
Random draws are kept, for a second draw would differ. A budget below what the search finds is refused, with the smallest it found and what is
there then. What every schedule needs, such as all gradients at the end, no recomputation makes smaller: look at *chunk-linear-cross-entropy* for the logits.

## Try it
Train `zoo/resnet50` with `batch=32` and ask for `budget=0.5`: half the peak for two percent more operations. Then lower it, and see on the page Memory how the
curve becomes flat: a plan for a budget fills it from end to end.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.amounts import bytes_of, in_words
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import as_it_is, held_at_peak, schedule
from optimizers.recomputation.plan import Plan, Scheduled
from optimizers.recomputation.plan import plan as planned
from optimizers.recomputation.problem import Problem, device_of, problem_of
from optimizers.recomputation.rewriting import ran_again, rewrite
from optimizers.recomputation.written import OtherPlanError, read
from optimizers.record import Claim, Parameter

UNITS = ("time", "operations")
NAMED = 4  # storages that a refusal names


def find(gm: fx.GraphModule, budget: str = "0.5", cost: int = 0, plan: str = "") -> Iterator[Match | Miss]:
    """One place: the whole plan."""
    problem = problem_of(gm, device_of(gm), UNITS[cost])
    yield from kept_anyway(problem)
    if problem.backward == len(problem.operators):
        yield Miss(gm.graph.output_node(), "This graph has no backward, so it keeps no activations.")
        return
    now = as_it_is(problem)
    wanted = bytes_of(budget, now.peak)
    if now.peak <= wanted:
        yield Miss(problem.nodes[now.at], f"The peak of {in_words(now.peak)} keeps to {in_words(wanted)} as it is.")
        return
    if plan:
        yield _brought(problem, plan, wanted)
        return
    found = planned(problem, wanted)
    best = found.cheapest
    if best is None:
        yield Miss(problem.nodes[found.at], _impossible(problem, found))
        return
    order = best.order
    again = ran_again(problem, order)
    yield Match(again[0], again, (problem, order), in_short(problem, found, best, len(again)))


def _brought(problem: Problem, word: str, wanted: int) -> Match | Miss:
    """The plan that the words bring, as it was written, where it is one for this graph and keeps to the budget."""
    first = problem.nodes[problem.backward]
    try:
        levels = read(problem, word)
    except OtherPlanError as error:
        return Miss(first, f"The plan cannot be used: {error} Take `plan` away, and one is made for this graph.")
    outcome = Core(problem).evaluate(levels)
    if outcome.at < 0 or outcome.peak > wanted:
        comes_to = "is too long" if outcome.at < 0 else f"comes to {in_words(outcome.peak)}"
        return Miss(first, f"The plan {comes_to}, and the budget is {in_words(wanted)}. Take `plan` away, and one is made for this budget.")
    order = schedule(problem, levels)
    again = ran_again(problem, order)
    if not again:
        return Miss(first, "The plan forgets nothing.")
    total = max(1, sum(one.cost for one in problem.operators))
    what = "predicted time" if problem.unit == "time" else "operations"
    share = f"{outcome.cost / total:.2%} more {what}, as planned before"
    return Match(
        again[0], again, (problem, order), f"{len(again)} operators run again: the peak becomes {in_words(outcome.peak)}, for {share}"
    )


def in_short(problem: Problem, found: Plan, best: Scheduled, again: int) -> str:
    """What the plan comes to, in a clause."""
    what = "predicted time" if problem.unit == "time" else "operations"
    total = max(1, sum(one.cost for one in problem.operators))
    bound = f"; no schedule of this order does with less than {found.bound / total:.2%}" if found.bound else ""
    gap = " (nothing cheaper exists)" if found.bound is not None and best.cost <= found.bound else bound
    return f"{again} operators run again: the peak becomes {in_words(best.peak)}, for {best.cost / total:.2%} more {what}{gap}"


def kept_anyway(problem: Problem) -> Iterator[Miss]:
    """What backward reads and cannot be made again."""
    read = {storage for one in problem.operators[problem.backward :] for storage in one.reads}
    for at, one in enumerate(problem.operators[: problem.backward]):
        if read.intersection(one.writes) and one.why_kept:
            yield Miss(problem.nodes[at], one.why_kept)


def _impossible(problem: Problem, found: Plan) -> str:
    held = held_at_peak(problem, found.levels)
    largest = ", ".join(f"{problem.operators[at].name} ({in_words(size)})" for at, size in held[:NAMED])
    more = f" and {len(held) - NAMED} more" if len(held) > NAMED else ""
    floor = "" if found.least < found.budget else f" No schedule needs less than {in_words(found.least)}."
    return (
        f"{in_words(found.budget)} is below what recomputation reaches here: the smallest peak found is {in_words(found.peak)}, "
        f"while {problem.operators[found.at].name} runs, when {largest}{more} are there.{floor}"
    )


class _Deep(nn.Module):
    """Layers whose activations are wide beside what they read."""

    def __init__(self, layers: int = 6, p: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.drop(torch.tanh(layer(x)) * torch.sigmoid(x))
        return x


def _inputs() -> tuple[Tensor]:
    return (torch.randn(256, 8),)


OPTIMIZATION = Optimization(
    name="recompute-to-budget",
    summary="Computes the cheapest activations again, as many as it takes to keep the peak within a budget.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="lower"),
    examples=(
        Example(_Deep, _inputs, "training", matches=1, settings={"budget": "0.6"}),
        Example(lambda: _Deep(p=0.5), _inputs, "training", matches=1, settings={"budget": "0.7", "cost": "1"}),
    ),
    refusals=(
        Example(_Deep, _inputs, reason="no backward"),
        Example(_Deep, _inputs, "training", reason="keeps to", settings={"budget": "1"}),
        Example(_Deep, _inputs, "training", reason="the smallest peak found is", settings={"budget": "1KiB"}),
        Example(_Deep, _inputs, "training", reason="another graph", settings={"plan": "AAAAAAYwAA"}),
        Example(lambda: _Deep(p=0.5), _inputs, "training", reason="second draw", settings={"budget": "0.7"}),
    ),
    exactness="bitwise",
    parameters=(
        Parameter("budget", 50, 1, 100, "what the peak may be", "memory"),
        Parameter("cost", 0, 0, 1, "what is kept low", choices=("predicted time", "operations")),
        Parameter("plan", 0, 0, 0, "a plan that was made before, to be carried out as it is", "plan"),
    ),
    costly=True,
)
