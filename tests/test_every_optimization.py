"""Every optimization of the catalog is held to its own examples, refusals, claim and exactness; none is named here."""

from __future__ import annotations

import pytest

from graphs.capture import capture
from graphs.snapshot import snapshot
from optimizers.base import Example, Optimization
from optimizers.catalog import catalog
from optimizers.pipeline import Applied, apply, apply_optimization, offers
from optimizers.sameness import prove
from optimizers.verify import Judge
from tests import small_models as small
from tests.fuzzer.kernels import interpreted_kernels

ALL = list(catalog().values())
EXAMPLES = [pytest.param(o, e, id=f"{o.name}-{i}") for o in ALL for i, e in enumerate(o.examples)]
REFUSALS = [pytest.param(o, e, id=f"{o.name}-{e.reason}") for o in ALL for e in o.refusals]
RANKS = ("bitwise", "rounding", "approximate")
IN_A_ROW = [
    (small.ATTENTION, "inference"),
    (small.ATTENTION, "training"),
    (small.NORMALIZED, "training"),
    (small.STACK, "training"),
]


def applied(optimization: Optimization, example: Example) -> Applied:
    program = capture(example.source(), example.mode, "cpu", example.options).program
    before = snapshot(program)
    done = apply_optimization(program, before, optimization, example.settings, Judge(program))
    # Places are told by names of nodes, in addresses too: they may not depend on what a process did before.
    again = apply_optimization(program, before, optimization, example.settings)
    assert [node.name for node in again.snapshot.nodes] == [node.name for node in done.snapshot.nodes]
    assert done.step.verdict.kind == "bitwise" or not prove(program, done.program).proven
    return done


@pytest.mark.parametrize(("optimization", "example"), EXAMPLES)
def test_example_matches_keeps_its_answers_and_its_claim(optimization: Optimization, example: Example) -> None:
    step = applied(optimization, example).step
    assert len(step.matches) == example.matches
    assert step.verdict.kind in RANKS[: RANKS.index(optimization.exactness) + 1], step.verdict
    assert step.claim_broken == ()
    assert step.diff.removed or step.diff.added or step.diff.changed or step.diff.moved


@pytest.mark.parametrize(("optimization", "example"), REFUSALS)
def test_refusal_gives_its_reason_at_a_node(optimization: Optimization, example: Example) -> None:
    result = applied(optimization, example)
    assert any(example.reason in miss.reason for miss in result.step.misses), result.step.misses
    assert result.step.verdict.kind != "refuted"


@pytest.mark.parametrize("optimization", ALL, ids=lambda optimization: optimization.name)
def test_lesson_has_its_parts_and_examples_exist(optimization: Optimization) -> None:
    lesson = optimization.record.lesson
    assert all(part in lesson for part in ("## Why it is slow", "## What changes", "## When it does not apply"))
    assert optimization.examples
    assert optimization.refusals


@pytest.mark.parametrize(("source", "mode"), IN_A_ROW, ids=lambda value: getattr(value, "name", value))
def test_whole_catalog_in_a_row_keeps_answers_and_provenance(source: small.ModelSource, mode: str) -> None:
    program = capture(source, mode, "cpu").program
    graph, judge = snapshot(program), Judge(program)
    names = set(graph.by_name())
    for name in [name for name, one in catalog().items() if not one.costly]:
        with interpreted_kernels():  # what is compiled has tests of its own
            result = apply(program, graph, name, {}, judge)
        assert result.step.verdict.kind in RANKS, (name, result.step.verdict)
        assert result.step.verdict.kind == "bitwise" or not prove(program, result.program).proven, name
        for node in result.snapshot.nodes:
            assert node.origins, node.name
            assert set(node.origins) <= names, node.name
            assert node.shape is not None or node.op == "output" or node.bytes or not node.cost.launches, node.name
        program, graph = result.program, result.snapshot


def test_one_place_only_changes_one_place() -> None:
    program = capture(small.STACK, "training", "cpu").program
    before = snapshot(program)
    every = apply(program, before, "recompute-activations", {"every": "2"}).step
    assert len(every.sites) == 3
    one = apply(program, before, "recompute-activations", {"every": "2", "only": every.sites[1]}).step
    assert [match.anchor for match in one.matches] == [every.sites[1]]
    assert before.totals.peak_bytes > one.after.peak_bytes > every.after.peak_bytes


def test_offers_name_places_without_changing_the_graph() -> None:
    program = capture(small.ATTENTION, "inference", "cpu").program
    before = snapshot(program).digest()
    found = {offer.optimization: offer for offer in offers(program)}
    assert len(found["fuse-attention"].sites) == 1
    assert snapshot(program).digest() == before
