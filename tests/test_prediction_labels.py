"""Predictions against latencies that others measured on GPUs: what was timed is what is counted, and how far off the times are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.prediction_labels import LABELS, Label, errors, fitted, labels, mean_error
from benchmarks.prediction_local import kendall
from benchmarks.prediction_models import labelled_source
from benchmarks.prediction_table import labelled_run
from graphs.capture import capture
from graphs.record import Cost, GraphSnapshot, NodeRecord, Totals
from graphs.snapshot import snapshot
from profiler.calibrations import calibration
from profiler.prediction.calibrate import seconds_of
from profiler.prediction_record import MATMUL, SOFTMAX
from profiler.sheets import sheet

LAYERS = 24


@pytest.fixture(scope="module")
def runs() -> list[Label]:
    return labels()


def test_the_operators_that_were_timed_are_the_operators_that_are_counted(runs: list[Label]) -> None:
    """BERT-large for inference: the authors' list of one layer, times 24, against the captured graph."""
    with LABELS.with_name("bert_large-inf-512-8-ops.csv").open(newline="") as file:
        timed = list(csv.DictReader(file))
    linear = [row for row in timed if row["name"].endswith(("query", "key", "value", "dense")) and "layer_0" in row["name"]]
    products = [row for row in timed if row["name"].startswith("matmul")]
    counted = next(one.counted.forward for one in runs if one.run == "bert_large-inf-512-8")
    found = {kind: sum(count for count, work in counted.work if work.kind == kind) for kind in (MATMUL, SOFTMAX)}
    assert len(linear) == 6
    assert len(products) == 2
    assert found[MATMUL] == LAYERS * (len(linear) + len(products)) + 2, "and the pooler and the classifier"
    assert found[SOFTMAX] == LAYERS
    shapes = {(work.batch, work.rows, work.columns, work.depth): count for count, work in counted.work if work.kind == MATMUL}
    assert shapes[128, 512, 512, 64] == LAYERS, "scores of 8 × 16 heads"
    assert shapes[1, 4096, 4096, 1024] == LAYERS
    assert shapes[1, 4096, 1024, 4096] == LAYERS


def test_published_times_are_met_within_the_reported_error(runs: list[Label]) -> None:
    found = errors(runs, calibration("gpu"))
    inference, training = ([one for one in found if one.label.training == training] for training in (False, True))
    assert mean_error(inference) < 0.07
    assert mean_error(training) < 0.08
    assert mean_error(found) < 0.35 * mean_error(found, lambda one: one.roofline)


def test_a_gpu_that_calibration_never_saw_is_met_too(runs: list[Label]) -> None:
    """The split of the data's authors: the A100 with 80 GB is left out."""
    unseen = [one for one in runs if "80GB" in one.device]
    found = errors(unseen, fitted([one for one in runs if "80GB" not in one.device]))
    assert mean_error(found) < 0.10
    assert mean_error(found) < 0.4 * mean_error(found, lambda one: one.roofline)


def test_a_generation_without_measurements_is_given_the_share_of_all(runs: list[Label]) -> None:
    """The V100 left out: its generation is no nearer to the P100's than to the A100's."""
    model = fitted([one for one in runs if "V100" not in one.device])
    assert model.architecture["volta"] == pytest.approx(1.0, abs=0.01)
    assert model.architecture["pascal"] < 0.95
    found = errors([one for one in runs if "V100" in one.device], model)
    assert mean_error(found) < 0.10


def test_gpus_without_measurements_stand_in_a_sensible_order(runs: list[Label]) -> None:
    what = next(one.counted.forward for one in runs if one.run == "gpt2_large-inf-1024-4")
    names = ("H100 SXM", "H100 PCIe", "A100 40GB PCIe", "L4", "T4", "P4")
    seconds = [seconds_of(what, sheet(name), calibration("gpu")) for name in names]
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.5 * seconds[2]


def test_what_did_not_run_is_left_out_and_what_the_graph_lacks_is_added(tmp_path: Path) -> None:
    fields = {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_head": 2,
        "n_layer": 2,
        "vocab_size": 64,
        "n_positions": 32,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
    }
    (tmp_path / "gpt2_tiny.json").write_text(json.dumps(fields))
    graph = snapshot(capture(labelled_source(tmp_path, "gpt2_tiny", True, 8, 2), "training", "cpu").program)
    run = labelled_run(graph, "gpt2_tiny", True)
    parameters = [node for node in graph.nodes if node.role == "parameter" and node.op == "placeholder"]
    launched = {
        phase: sum(node.cost.launches > 0 for node in graph.nodes if node.phase == phase) for phase in ("forward", "loss", "backward")
    }
    assert launched["loss"] > 0
    assert sum(count for count, _ in run.forward.work) == launched["forward"], "not the loss"
    assert sum(count for count, _ in run.backward.work) == launched["backward"] + len(parameters) + 2, "gradients added up, two masks"


def test_idle_dropout_is_left_out() -> None:
    kept = NodeRecord("d", "call_function", "aten.clone.default", "forward", "", None, (8,), "float32", (1,), 32, "d", "activation",
                      Cost(0, 0, 32, 32, 1), ("d",), ("x",))  # fmt: skip
    asked = msgspec.structs.replace(kept, name="x", target="aten.relu.default", inputs=())
    moved = msgspec.structs.replace(kept, name="e", strides=(2,))
    graph = GraphSnapshot((asked, kept, moved), ("e",), Totals(3, 3, 0, 0, 0, 0, 0))
    assert labelled_run(graph, "bert", False).forward.calls == 2, "the copy that changes strides stays"


def test_kendall_counts_pairs() -> None:
    assert kendall([1, 2, 3], [10, 20, 30]) == 1
    assert kendall([3, 2, 1], [10, 20, 30]) == -1
    assert kendall([1, 3, 2], [10, 20, 30]) == pytest.approx(1 / 3)
    assert kendall([2, 1], [10, 10.1], same=0.05) == 1, "alike is no pair"
