"""Every lesson is run: its experiments by a worker, its numbers and answers computed, and none of them typed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from graphs.errors import RequestError, SourceError
from graphs.record import KernelRecord
from jobs.client import Client
from jobs.experiment import Experiment
from jobs.record import Catalogue, CatalogueResult, Explore, ExploreResult, Kernels, KernelsResult, Optimize, OptimizeResult
from lessons import ledger, telling, vocabulary
from lessons.formula import work_out
from lessons.lesson import Found, Lesson, Screen, What
from lessons.numbers import Numbers, numbers
from lessons.reading import lessons, named, read
from pages.ui import lesson_found, lesson_place
from profiler.prediction_record import Ceiling, Ceilings
from profiler.record import Conditions, Device, Measurement, Timing

OTHER = "model=zoo/attention"
OTHER_FORMULA = "tanh(a*b) + a / b at a=1, b=2"
ONE = Ceiling(1e11, 0.02, 5)
A_MACHINE = Ceilings("some processor", "cpu", 2, {"float32": ONE}, Ceiling(2e10, 0.01, 5), ONE, Ceiling(1e-6, 0.01, 5), 1.0)
SCREENS = [pytest.param(lesson, screen, id=f"{lesson.name}-{at}") for lesson in lessons() for at, screen in enumerate(lesson.screens, 1)]
# Digits that are part of a name, of code, of a link or of a computed place are no figures.
NO_FIGURES = re.compile(r"\{\{.*?\}\}|`[^`]*`|\$[^$]*\$|\b[A-Za-z]+-?\d+\b|\(\w+ et al\.,? \d{4}\)|arXiv:\S+", re.DOTALL)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


def found_for(worker: Client, screen: Screen, on: str = "") -> What | None:
    """What a screen speaks of; of another model or formula if one is given."""
    if screen.formula:
        return work_out(OTHER_FORMULA if on else screen.formula)
    if screen.numbers:
        own = numbers(screen.numbers)
        return Numbers({name: 1 + value // 3 for name, value in own.values.items()}) if on else own
    if not screen.words:
        return None
    found = answered(worker, lesson_place.on_model(screen.words, on))
    found = replace(found, ceilings=A_MACHINE if "ceilings" in screen.needs else None, **generated(worker, screen, found.words))
    if "measurement" not in screen.needs:
        return found
    for markdown in (screen.text, screen.question.ask if screen.question else ""):
        telling.text(lessons()[0], screen, found, markdown)  # the reader sees these before anything is measured
    return replace(found, measurement=measured(2 if found.steps else 1))


def answered(worker: Client, experiment: Experiment) -> Found:
    """Graphs and steps; without steps the capture alone, as the page asks for it."""
    if not experiment.pipeline:
        captured = cast(ExploreResult, worker.run(Explore(experiment.words)))
        return Found(experiment.words, captured.report, (captured.graph,))
    answer = cast(OptimizeResult, worker.run(Optimize(experiment.words)))
    return Found(experiment.words, answer.report, answer.graphs, answer.steps)


def generated(worker: Client, screen: Screen, words: str) -> dict[str, tuple[KernelRecord, ...]]:
    """The code of kernels that a screen needs."""
    asked = {"kernels": "", "triton": lesson_found.GPU}
    return {need: cast(KernelsResult, worker.run(Kernels(words, (), gpu))).kernels for need, gpu in asked.items() if need in screen.needs}


def measured(graphs: int) -> Measurement:
    """As a measurement of so many graphs comes back; here it was never made."""
    timings = tuple(
        Timing(10.0 / at, (9.9 / at, 10.1 / at), None, 3, (9.0 / at, 10.0 / at, 12.0 / at), 700.0) for at in range(1, graphs + 1)
    )
    ratios = tuple(timing.median_ms / timings[0].median_ms for timing in timings)
    intervals = tuple((ratio - 0.01, ratio + 0.01) for ratio in ratios)
    conditions = Conditions("2026-01-01T00:00:00+00:00", "wall clock", 2, False, None, None, None)
    device = Device("cpu", "some processor", 2, 2**33, "2.13")
    verdicts = ("nothing to compare", "faster")[:graphs]
    labels = ("captured", "last")[:graphs]
    return Measurement(
        device, labels, timings, ratios, intervals, verdicts, (None, 0.01)[:graphs], (0.99, 1.01), "narrow enough", conditions
    )


@pytest.mark.parametrize(("lesson", "screen"), SCREENS)
def test_a_screen_can_be_told_with_numbers_that_are_computed(worker: Client, lesson: Lesson, screen: Screen) -> None:
    found = found_for(worker, screen)
    for markdown in (screen.text, screen.after, screen.beside, screen.question.ask if screen.question else ""):
        assert "{{" not in telling.text(lesson, screen, found, markdown)
        typed = re.findall(r"\d[\d.,]*", NO_FIGURES.sub("", markdown))
        assert not typed, f"typed instead of computed: {typed}"
    if not screen.question:
        return
    assert found
    assert telling.why_not(screen, found) == ""
    true = telling.answer(lesson, screen, found)
    assert isinstance(true, str) or math.isfinite(true)
    assert telling.close(true, true)
    for step in found.steps if isinstance(found, Found) else ():
        assert step.matches, "a step of the lesson's own experiment does nothing"
        assert step.verdict.kind != "refuted"


def _found_or_told(worker: Client, screen: Screen) -> tuple[What | None, str]:
    """On the other model; or the problem, with its way out, that the page shows where the experiment cannot be done on it."""
    try:
        return found_for(worker, screen, OTHER), ""
    except RequestError as error:
        return None, f"{error.what}: {error.help}" if error.help else "no way out"


@pytest.mark.parametrize(("lesson", "screen"), SCREENS)
def test_a_screen_speaks_of_another_model_or_says_why_not(worker: Client, lesson: Lesson, screen: Screen) -> None:
    found, told = _found_or_told(worker, screen)
    if told:
        assert len(told) > 20
        return
    if found is None:
        return
    reason = telling.why_not(screen, found)
    if reason:
        assert len(reason) > 20
        return
    telling.text(lesson, screen, found, screen.text + screen.after + screen.beside)
    if screen.question:
        telling.answer(lesson, screen, found)


def told_by(worker: Client, name: str, screen: int) -> tuple[Found, Mapping[str, Any]]:
    """What a screen (from 1) found, and the functions that its file defines for it."""
    lesson = named(name)
    assert lesson
    found = found_for(worker, lesson.screens[screen - 1])
    assert isinstance(found, Found)
    return found, lesson.screens[screen - 1].code


def test_intensities_of_the_course(worker: Client) -> None:
    """Rows A10, A11 and A13, and the ridges by data sheets that stand there."""
    one, _ = told_by(worker, "arithmetic-intensity", 1)
    assert (vocabulary.per_element(one.before), vocabulary.intensity(one.before)) == pytest.approx((1 / 3, 1 / 12))
    chain, _ = told_by(worker, "arithmetic-intensity", 2)
    assert [vocabulary.fraction(vocabulary.per_element(graph)) for graph in chain.graphs] == ["1/3", "3/5"]
    assert [vocabulary.moved(graph) for graph in chain.graphs] == [36 * 2097152, 20 * 2097152]
    layers, words = told_by(worker, "arithmetic-intensity", 3)
    assert [words["one"](layers, at) for at in (0, 1)] == pytest.approx([1.00, 292.6], abs=0.05)
    assert words["answer"](layers) == "the second"
    assert [round(vocabulary.gpu_ridge(name)) for name in ("A100 40GB PCIe", "H200 SXM", "H100 SXM")] == [201, 206, 295]


def test_a_step_of_training_has_the_operators_of_the_course(worker: Client) -> None:
    """Row A05: 4 forward, 5 backward, 2 of the update."""
    found, words = told_by(worker, "backward-graph", 6)
    assert [words["runs"](found, *phases) for phases in (("forward", "loss"), ("backward",), ("update",))] == [4, 5, 2]
    computing = [node.target.removeprefix("aten.").partition(".")[0] for node in vocabulary.operators(found.before) if node.cost.launches]
    assert computing[:4] == ["mm", "relu", "mm", "mse_loss"]
    assert sorted(computing[4:]) == ["mm", "mm", "mm", "mse_loss_backward", "sub", "sub", "threshold_backward"]


def test_the_ledger_of_the_course(worker: Client) -> None:
    """Rows A66 to A68, A70, A71 and P3-01: formulas with symbols and counts in the graph agree, and give the course's figures."""
    whole, words = told_by(worker, "flops-ledger", 3)
    z = ledger.sizes_of(whole.before)
    assert z == ledger.Sizes(b=1, s=4096, h=4096, n=32, g=32, d=128, i=11008, v=32000, N=32)
    rows = {row.part: row for row in words["rows"](whole)}
    assert sum(row.formula for row in rows.values()) == words["formula"](whole) == 62_972_810_493_952
    assert [part for part, row in rows.items() if row.formula != row.counted] == ["softmax"]
    assert sum(row.counted for part, row in rows.items() if part != "softmax") == whole.before.totals.matmul_flops
    parts = ledger.parameter_rows(whole.before, z)
    assert all(row.formula == row.counted for row in parts)
    assert sum(row.counted for row in parts) == whole.report.parameters == 6_738_415_616
    assert told_by(worker, "flops-ledger", 1)[1]["answer"](whole) == 202_383_360
    product = told_by(worker, "flops-ledger", 2)[1]
    assert (product["answer"](whole), product["answer"](whole) - product["exactly"](whole)) == (2 * 4096**3, 4096**2)
    slide = told_by(worker, "flops-ledger", 5)[1]
    assert slide["whole"](whole) / 1e12 == pytest.approx(96.76, abs=0.005)
    assert slide["true"](whole) / (z.s * z.h**2 * z.N) == 16.125


def test_the_training_table_of_the_course(worker: Client) -> None:
    """Rows A68 and A69."""
    whole, table = told_by(worker, "flops-ledger", 6)
    counted = table["counted"](whole)
    total = sum(counted.values())
    assert total / 1e12 == pytest.approx(192.182, abs=5e-4)
    assert [round(100 * count / total, 3) for count in counted.values()] == [1.676, 0.007, 0.002, 41.276, 55.364, 1.676]
    assert table["answer"](whole) == "none"
    training, thrice = told_by(worker, "flops-ledger", 7)
    assert thrice["answer"](training) == 2


def test_one_block_of_the_course(worker: Client) -> None:
    """Rows A72 and P3-02; the graph turns queries and keys, and counts their signs: 7bsnd."""
    found, words = told_by(worker, "flops-ledger", 4)
    assert words["blocks_work"](found) / 1e12 == pytest.approx(0.897648, abs=5e-7)
    assert words["with_softmax"](found) / 1e12 == pytest.approx(0.898051, abs=5e-7)
    rows = {row.part: row for row in words["rows"](found)}
    assert {part for part, row in rows.items() if row.formula != row.counted} == {"softmax", "rotary positions"}
    assert rows["rotary positions"].counted * 3 == rows["rotary positions"].formula * 7


def test_the_tree_of_a_model_loses_nothing(worker: Client) -> None:
    whole, _ = told_by(worker, "flops-ledger", 1)
    trees = {what: ledger.tree(whole.before, what) for what in ledger.AMOUNTS}
    totals = whole.before.totals
    assert [sum(tree.values()) for tree in trees.values()] == [whole.report.parameters, totals.flops, totals.bytes_moved]
    assert trees["parameters"]["model", "layers × 32", "mlp", "gate_proj"] == 32 * 4096 * 11008
    assert ("model", "layers × 32", "self_attn", "_softmax") in trees["operations"]
    moved = {part: sum(amount for path, amount in trees["bytes moved"].items() if part in path) for part in ("self_attn", "mlp")}
    assert moved["self_attn"] > 10 * moved["mlp"]


def test_formulas_hold_for_fewer_heads_of_keys_and_values(worker: Client) -> None:
    found, words = told_by(worker, "flops-ledger", 9)
    z = ledger.sizes_of(found.before)
    assert z
    assert (z.n, z.g, z.i) == (8, 2, 1408)
    rows = [*words["rows"](found), *ledger.parameter_rows(found.before, z)]
    assert [row.part for row in rows if row.formula != row.counted] == ["softmax"]


def test_a_region_on_its_way_down(worker: Client) -> None:
    """Row A11 in the loops themselves: four loads and a store, on both devices the same; row A20 beside it."""
    chain, words = told_by(worker, "graph-to-kernel", 2)
    assert (words["loads"](chain), words["stores"](chain)) == (4, 1)
    loops = chain.kernels[0].loops
    assert loops[0].startswith("for p0: 2097152:")
    assert all(node.name in loops[0] for node in chain.kernels[0].body.nodes if node.op == "placeholder")
    processor, gpu = (told_by(worker, "graph-to-kernel", screen)[1] for screen in (3, 4))
    assert processor["ADDED"] // processor["LANES"] == 64
    both, _ = told_by(worker, "graph-to-kernel", 4)
    assert both.triton[0].loops == loops
    assert gpu["accesses"](both) == (4, 1)
    softmax, rows = told_by(worker, "graph-to-kernel", 5)
    assert (rows["answer"](softmax), rows["reductions"](softmax), rows["kernel"](softmax).launches) == (4, 2, 1)
    assert "no loop at all" in rows["on_gpu"](softmax)


def test_prefill_computes_more_for_each_byte_than_decode(worker: Client) -> None:
    prefill, decode = (told_by(worker, "arithmetic-intensity", screen)[0] for screen in (5, 6))
    assert vocabulary.intensity(prefill.before) > 100 * vocabulary.intensity(decode.before)
    assert vocabulary.ridge(A_MACHINE) == 5


def test_lessons_stand_in_order_and_lead_to_what_there_is(worker: Client) -> None:
    assert [lesson.number for lesson in lessons()] == sorted({lesson.number for lesson in lessons()})
    known = {one.name for one in cast(CatalogueResult, worker.run(Catalogue())).optimizations}
    for lesson in lessons():
        assert set(lesson.leads_to) <= known
        assert lesson.title
        assert lesson.summary
        assert named(lesson.name) is lesson
        assert sum(screen.question is not None for screen in lesson.screens) >= 3, "a lesson asks"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("---\ntitle: a\nsummary: b\n---\n## A\n```experiment\nmodel=zoo/mlp\nneeds: rain\n```\n", "no need `rain`"),
        ("## A screen\n", "has a number in its name and a head"),
        ("---\ntitle: a\n---\n## A\n", "no summary"),
        ("---\ntitle: a\nsummary: b\n---\n", "has screens"),
        ("---\ntitle: a\nsummary: b\n---\n## A\n```question\nHow?\nunit: bytes\n```\n", "without `def answer"),
        (
            "---\ntitle: a\nsummary: b\n---\n## A\n```question\nHow?\n```\n```python\ndef answer(found): return 1\n```\n",
            "number with a unit, or for one",
        ),
        ("---\ntitle: a\nsummary: b\n---\n## A\n```experiment\nmodel=zoo/mlp\npicture: oil\n```\n", "no picture `oil`"),
        ("---\ntitle: a\nsummary: b\n---\n## A\n```after\na\n```\n```after\nb\n```\n", "two parts"),
        ("---\ntitle: a\nsummary: b\n---\n## A\n```notes\nSay {{launches(found.before)}}.\n```\n", "nothing is computed in notes"),
    ],
)
def test_what_is_wrong_with_a_lesson_is_told(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "01_wrong.md"
    path.write_text(text)
    with pytest.raises(SourceError, match=what) as caught:
        read(path)
    assert "01_wrong.md" in caught.value.where


def test_notes_are_for_the_presenter_and_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "01_noted.md"
    path.write_text("---\ntitle: a\nsummary: b\n---\n## A\nTo read.\n```notes\nTo say.\n```\n")
    assert [(screen.text, screen.notes) for screen in read(path).screens] == [("To read.", "To say.")]
    noted = [screen.notes for lesson in lessons() for screen in lesson.screens if screen.notes]
    assert noted
    assert not any(re.search(r"\d", notes) for notes in noted), "typed instead of computed"


def test_what_cannot_be_computed_names_its_line(worker: Client) -> None:
    lesson = lessons()[0]
    screen = lesson.screens[0]
    with pytest.raises(SourceError, match="NameError") as caught:
        telling.text(lesson, screen, None, "{{nothing_of_that_name}}")
    assert f"line {screen.line}" in caught.value.where


def test_a_prediction_counts_within_a_tenth() -> None:
    assert [telling.close(predicted, 100) for predicted in (90, 110, 89, 111)] == [True, True, False, False]
    assert telling.close("yes", "yes")
    assert not telling.close("no", "yes")


def test_another_model_keeps_the_mode_and_the_steps() -> None:
    screen = "model=zoo/mlp&mode=training&batch=4&pipeline=remove-dead-code"
    assert (
        lesson_place.on_model(screen, "model=zoo/attention&seq=8").words
        == "model=zoo/attention&mode=training&seq=8&pipeline=remove-dead-code"
    )
    assert lesson_place.on_model(screen, "").words == msgspec.structs.replace(lesson_place.on_model(screen, "")).words
