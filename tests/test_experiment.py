"""The words of an experiment: what they mean, that they survive a round trip, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from graphs.errors import RequestError
from jobs.client import canonical
from jobs.experiment import Experiment, StepWords, parse
from jobs.record import Explore, Optimize, request_hash

FULL = "model=zoo/gpt2&mode=training&batch=4&seq=128&pipeline=fuse-attention,recompute-activations(every=2,only=mm_3)&device=cpu"

GOOD = [
    "model=zoo/mlp",
    "model=zoo/mlp&mode=training",
    FULL,
    "model=zoo/mlp&pipeline=a,a,b(x=1)",
    f"model=source/{'0' * 64}&device=cuda",
    "model=file:/a folder/my&model.py".replace("&", "%26"),
]

BAD = {
    "": "no model is named",
    "mode=training": "no model is named",
    "zoo/mlp": "`zoo/mlp` has no value",
    "&&": "not of the form word=value",
    "model=": "`model` has no value",
    "model=zoo/mlp&batch=": "`batch` has no value",
    "model=zoo/mlp&model=zoo/gpt2": "`model` is given twice",
    "model=zoo/mlp&mode=learning": "mode=learning is unknown",
    "model=zoo/mlp&device=tpu": "device=tpu is unknown",
    "model=zoo/mlp&pipeline=a(": "`a(` is not a step",
    "model=zoo/mlp&pipeline=a b": "`a b` is not a step",
    "model=zoo/mlp&pipeline=a,,b": "`,b` is not a step",
    "model=zoo/mlp&pipeline=a(every)": "`every` is not a setting of a",
    "model=zoo/mlp&pipeline=a(x=1,x=2)": "`x=2` is not a setting of a",
}


def test_words_say_model_mode_options_pipeline_and_device() -> None:
    steps = (StepWords("fuse-attention"), StepWords("recompute-activations", (("every", "2"), ("only", "mm_3"))))
    assert parse(FULL) == Experiment("zoo/gpt2", "training", (("batch", "4"), ("seq", "128")), steps, "cpu")


def test_what_is_left_out_is_inference_on_the_machines_best_device_without_steps() -> None:
    assert parse("model=zoo/mlp") == Experiment("zoo/mlp", "inference", (), (), "auto")


@pytest.mark.parametrize("words", GOOD)
def test_an_experiments_own_words_give_the_experiment_back(words: str) -> None:
    experiment = parse(words)
    assert parse(experiment.words) == experiment
    assert parse(experiment.words).words == experiment.words


@pytest.mark.parametrize(("words", "what"), BAD.items())
def test_wrong_words_are_refused_with_what_where_and_a_way_out(words: str, what: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(words)
    assert what in caught.value.what
    assert caught.value.where or "word=value" in caught.value.what
    assert caught.value.help.endswith(".")


def test_the_order_of_words_and_settings_does_not_change_the_hash() -> None:
    shuffled = "device=cpu&pipeline=fuse-attention, recompute-activations(only=mm_3, every=2)&seq=128&model=zoo/gpt2&batch=4&mode=training"
    assert parse(shuffled).hash == parse(FULL).hash


def test_the_order_of_steps_does() -> None:
    assert parse("model=zoo/mlp&pipeline=a,b").hash != parse("model=zoo/mlp&pipeline=b,a").hash


def test_the_same_question_in_other_words_is_the_same_job() -> None:
    assert request_hash(canonical(Optimize("mode=training&model=zoo/mlp"))) == request_hash(
        canonical(Optimize("model=zoo/mlp&mode=training&device=auto"))
    )


def test_exploring_leaves_the_pipeline_aside() -> None:
    assert canonical(Explore("model=zoo/mlp&pipeline=a")) == Explore("model=zoo/mlp&mode=inference")


@pytest.mark.parametrize("model", ["file:/etc/passwd", "somewhere/else", "mlp"])
def test_only_the_command_line_may_name_a_file_of_this_machine(model: str) -> None:
    with pytest.raises(RequestError) as caught:
        canonical(Explore(f"model={model}"))
    assert caught.value.where == "model"
    assert "zoo/NAME" in caught.value.help


def test_a_step_with_a_setting_replaced_or_removed() -> None:
    step = StepWords("a", (("every", "2"),))
    assert step.with_setting("only", "mm").words == "a(every=2,only=mm)"
    assert step.with_setting("every", "").words == "a"
