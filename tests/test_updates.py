"""The optimizer's update: written in place, behind each gradient, and what may never be overwritten."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.base import Match
from optimizers.catalog import catalog
from optimizers.pipeline import Applied, apply, apply_optimization
from optimizers.record import Claim
from optimizers.verify import Judge
from profiler.measure import shared_inputs
from profiler.peak import peak_bytes
from tests import small_models as small

FEW = small.source(lambda: small.Stack(4), 4, 32)  # a batch so small that weights are nearly all memory


class Tied(nn.Module):
    """One table for words in and words out: its gradient is complete at the very end of backward, and its old value is read until then."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mixing, self.head = nn.Embedding(32, 8), nn.Linear(8, 8), nn.Linear(8, 32, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mixing(self.words(tokens)).tanh())


TIED = ModelSource("tied", Tied, lambda: (torch.randint(0, 32, (2, 6)),), None, (__file__,))


@functools.cache
def trained(source: ModelSource, update: str) -> Program:
    return capture(source, "training", "cpu", CaptureOptions(update=update)).program


def steps(program: Program, *names: str) -> list[Applied]:
    judge, graph, found = Judge(program), snapshot(program), list[Applied]()
    for name in names:
        found.append(apply(program, graph, name, {}, judge))
        program, graph = found[-1].program, found[-1].snapshot
        assert found[-1].step.verdict.kind == "bitwise", found[-1].step.verdict
        assert peak_bytes(program, program.materialize(0)) == graph.totals.peak_bytes
    return found


def weights(program: Program) -> int:
    return sum(value.nbytes for value, spec in zip(program.materialize(0), program.inputs, strict=True) if spec.role == "parameter")


@pytest.mark.parametrize("source", [FEW, TIED], ids=["blocks", "tied"])
@pytest.mark.parametrize("update", ["sgd", "adamw"])
def test_in_place_and_behind_its_gradient_an_update_takes_hardly_any_memory(source: ModelSource, update: str) -> None:
    program = trained(source, update)
    in_place, early, last = steps(program, "update-in-place", "update-as-gradients-come", "run-in-place")
    assert len(in_place.step.matches) == sum(spec.role in ("parameter", "state") for spec in program.outputs)
    assert not in_place.step.misses
    before, after = in_place.step.before.peak_bytes, last.step.after.peak_bytes
    if source is FEW:
        assert early.step.after.peak_bytes < in_place.step.after.peak_bytes <= before - 2 * weights(program) * (update == "adamw")
        assert after < 0.6 * weights(program)  # once all of the gradients, which are as large, were there together
    assert after < before


def test_without_it_the_new_moments_of_adamw_are_there_beside_the_old() -> None:
    program = trained(FEW, "adamw")
    (early,) = steps(program, "update-as-gradients-come")
    assert not early.step.matches
    assert any("put update-in-place before" in miss.reason for miss in early.step.misses)


def test_behind_updates_in_place_recomputation_plans_with_the_memory_that_there_is() -> None:
    program = trained(small.source(lambda: small.Stack(4), 64, 32), "adamw")
    in_place, early, recomputed = steps(program, "update-in-place", "update-as-gradients-come", "recompute-activations")
    assert recomputed.step.matches
    assert recomputed.step.after.peak_bytes < early.step.after.peak_bytes
    assert recomputed.program.overwrites() == in_place.program.overwrites() != set()


def planted(change: object, at: str, program: Program) -> Applied:
    """A step that changes one node of a graph, and what is said of it."""

    def find(gm: fx.GraphModule) -> list[Match]:
        return [Match(node, (node,)) for node in gm.graph.nodes if node.name == at]

    claim = Claim("any", "any", "any", "any")
    step = replace(catalog()["reorder-for-peak"], find=find, rewrite=change, claim=claim, costly=False)  # type: ignore[arg-type]
    return apply_optimization(program, snapshot(program), step, {}, Judge(program))


def test_an_update_before_the_old_value_is_read_is_refuted() -> None:
    program = steps(trained(FEW, "sgd"), "update-in-place")[0].program
    late = [node for node in program.gm.graph.nodes if node.name.endswith("_in_place")][-2]  # of the last layer's weight

    def too_early(gm: fx.GraphModule, match: Match) -> None:
        weight = match.anchor.all_input_nodes[0]
        first = next(node for node in gm.graph.nodes if node.op == "call_function")
        reader = next(user for user in weight.users if user.target is torch.ops.aten.t.default)
        with gm.graph.inserting_before(first):
            written = gm.graph.call_function(torch.ops.aten.mul_.Tensor, (weight, 0.5))
        written.meta["origin"] = match.anchor.meta["origin"]
        match.anchor.replace_input_with(weight, written)
        assert reader > written

    assert planted(too_early, late.name, program).step.verdict.kind == "refuted"


def test_an_input_that_does_not_hold_its_new_value_afterwards_is_written_into_unlawfully() -> None:
    program = trained(FEW, "sgd")

    def touched(gm: fx.GraphModule, match: Match) -> None:
        weight = match.anchor.all_input_nodes[0]
        with gm.graph.inserting_before(match.anchor):
            written = gm.graph.call_function(torch.ops.aten.mul_.Tensor, (weight, 1.0))
        written.meta["origin"] = match.anchor.meta["origin"]
        match.anchor.replace_input_with(weight, written)

    step = planted(touched, next(node.name for node in program.gm.graph.nodes if node.name.startswith("sub")), program).step
    assert step.verdict.kind == "refuted"
    assert "writes into its input" in step.verdict.reason


def test_graphs_that_are_measured_side_by_side_do_not_train_one_another() -> None:
    program = trained(FEW, "sgd")
    (in_place,) = steps(program, "update-in-place")
    own, other = shared_inputs([program, in_place.program], 0)
    gone = in_place.program.overwrites()
    assert gone
    for at, (one, two) in enumerate(zip(own, other, strict=True)):
        assert (one is two) == (at not in gone)
