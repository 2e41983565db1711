"""Every model of the zoo is captured in both modes, runs, and has a finite loss; none is named here."""

from __future__ import annotations

import pytest

from graphs.capture import capture
from graphs.errors import RequestError
from graphs.operators import explanation
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_models, zoo_source

SMALL = {"batch": "2", "seq": "8", "image": "32", "layers": "2", "width": "32", "heads": "4", "vocab": "50", "kv_heads": "2", "classes": "5", "depth": "2"}  # fmt: skip


def small(name: str) -> dict[str, str]:
    return {option.name: SMALL[option.name] for option in zoo_models()[name].options if option.name in SMALL}


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", list(zoo_models()))
def test_model_is_captured_priced_and_runs(name: str, mode: str) -> None:
    program = capture(zoo_source(name, small(name)), mode, "cpu").program
    graph = snapshot(program)
    assert graph.totals.unknown == 0, {node.target for node in graph.nodes if not node.cost.known}
    assert all(explanation(node) for node in graph.nodes), {node.target for node in graph.nodes if not explanation(node)}
    computing = [node for node in graph.nodes if node.op == "call_function" and node.module != "loss"]
    assert sum(node.source is not None for node in computing) > 0.9 * len(computing)
    outputs = dict(zip(((spec.role, spec.target) for spec in program.outputs), program.run(program.materialize(0)), strict=True))
    assert all(value is not None and bool(value.isfinite().all()) for value in outputs.values())
    if mode == "training":
        assert outputs["loss", "loss"].shape == ()  # type: ignore[union-attr]
        assert any(role == "gradient" and bool(value.any()) for (role, _), value in outputs.items())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", list(zoo_models()))
def test_options_are_adjustable_and_bad_ones_are_refused(name: str) -> None:
    assert {"batch", "dtype"} <= {option.name for option in zoo_models()[name].options}
    for bad in ({"dtype": "float7"}, {"batch": "0"}, {"batch": "many"}, {"colour": "red"}):
        with pytest.raises(RequestError) as caught:
            zoo_source(name, bad)
        assert caught.value.where in bad
        assert caught.value.help


def test_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError) as caught:
        zoo_source("gtp2", {})
    assert "zoo/gpt2" in caught.value.help
