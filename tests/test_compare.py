"""Two graphs that do not come from one another, side by side."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest

from graphs.align import aligned, longest_common
from graphs.diff import diff
from graphs.export import to_json
from graphs.ladder import climb
from graphs.record import GraphSnapshot
from graphs.sources.zoo import zoo_source
from jobs.client import Client
from tests.test_pages import opened, settle, texts

pytestmark = pytest.mark.usefixtures("default_client")


def graph(model: str, mode: str = "inference", **options: str) -> GraphSnapshot:
    return climb(zoo_source(model, options), mode, "cpu").graph


@pytest.fixture(scope="module")
def chain() -> GraphSnapshot:
    return graph("chain", depth="4")


def shuffled(one: GraphSnapshot, seed: int) -> GraphSnapshot:
    """The same graph, every node under another name."""
    numbers = list(range(len(one.nodes)))
    random.Random(seed).shuffle(numbers)
    names = {node.name: f"n{number}" for node, number in zip(one.nodes, numbers, strict=True)}
    nodes = tuple(
        msgspec.structs.replace(
            node, name=names[node.name], storage=names[node.storage], inputs=tuple(names[r] for r in node.inputs), detail=""
        )
        for node in one.nodes
    )
    return msgspec.structs.replace(one, nodes=nodes, outputs=tuple(names[name] for name in one.outputs))


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_under_other_names_is_the_same(chain: GraphSnapshot, seed: int) -> None:
    plain = msgspec.structs.replace(chain, nodes=tuple(msgspec.structs.replace(node, detail="") for node in chain.nodes))
    assert aligned(plain, shuffled(plain, seed)) == plain


def test_a_deeper_chain_has_its_layer_more_and_nothing_else() -> None:
    four, five = graph("chain", depth="4"), graph("chain", depth="5")
    found = diff(four, aligned(four, five))
    assert not found.removed
    added = aligned(four, five).by_name()
    assert {added[name].module.split(".")[1] for name in found.added if "." in added[name].module} == {"4"}


def test_another_batch_changes_shapes_and_no_names() -> None:
    one, two = graph("mlp", "training", batch="2"), graph("mlp", "training", batch="4")
    found = diff(one, aligned(one, two))
    assert not found.added
    assert not found.removed
    assert found.changed


@pytest.mark.parametrize("pair", [("mlp", "unet"), ("attention", "lstm"), ("resnet18", "moe")])
def test_names_are_unique_and_every_input_comes_before(pair: tuple[str, str]) -> None:
    one, two = graph(pair[0]), graph(pair[1])
    renamed = aligned(one, two)
    seen: set[str] = set()
    for node in renamed.nodes:
        assert node.name not in seen
        assert seen.issuperset(node.inputs)
        seen.add(node.name)
    assert seen.issuperset(renamed.outputs)
    assert [node.target for node in renamed.nodes] == [node.target for node in two.nodes]


def plain_length(one: list[int], two: list[int]) -> int:
    """The textbook's table."""
    row = [0] * (len(two) + 1)
    for a in one:
        before = row
        row = [0]
        for at, b in enumerate(two):
            row.append(before[at] + 1 if a == b else max(before[at + 1], row[at]))
    return row[-1]


@pytest.mark.parametrize("kinds", [1, 2, 4, 30])
def test_as_much_as_can_be_is_common(kinds: int) -> None:
    rng = random.Random(kinds)
    for _ in range(150):
        one, two = ([rng.randrange(kinds) for _ in range(rng.randrange(40))] for _ in range(2))
        pairs = longest_common(one, two)
        assert len(pairs) == plain_length(one, two)
        assert all(one[first] == two[second] for first, second in pairs)
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))


def test_long_graphs_of_few_operators_are_compared_at_once() -> None:
    """Ten thousand nodes of three kinds in another order: a table of all pairs would have a hundred million places."""
    rng = random.Random(0)
    one, two = ([rng.choice("abc") for _ in range(10_000)] for _ in range(2))
    assert len(longest_common(one, two)) > 7_000


def test_a_graph_after_its_steps_is_compared_with_the_captured_one(client: Client) -> None:
    app = opened("model=zoo/attention&pipeline=fuse-attention&with=model%3Dzoo/attention", "compare")
    assert not app.error
    assert ":red[**− 0** removed]" not in texts(app)
    assert "pipeline=fuse-attention" in texts(app)
    app.segmented_control(key="compare with steps").set_value("as captured")
    settle(app)
    assert ":red[**− 0** removed]" in texts(app)
    assert "Both are the same" in texts(app)


def test_equal_graphs_under_other_words_are_said_to_be_equal() -> None:
    app = opened("model=zoo/mlp&with=model%3Dzoo/mlp%26batch%3D32", "compare")
    assert "equal, node by node" in texts(app)


def test_two_versions_of_one_file_are_told_apart(client: Client) -> None:
    text = "import torch\n\n\ndef model():\n    return torch.nn.{}()\n\n\ndef inputs():\n    return (torch.randn(4),)\n"
    one, two = (client.keep_source(text.format(name).encode(), "model.py") for name in ("ReLU", "Tanh"))
    app = opened(f"model=source/{one}&with=model%3Dsource/{two}", "compare")
    assert f"(text {one[:6]})" in texts(app)
    assert f"(text {two[:6]})" in texts(app)
    assert "(text" not in texts(opened(f"model=source/{one}&with=model%3Dzoo/mlp", "compare"))


def test_one_is_kept_and_compared_with_what_is_chosen(client: Client) -> None:
    app = opened("model=zoo/chain&depth=4", "compare")
    assert not app.error
    next(button for button in app.button if button.label == "Keep this one").click()
    settle(app)
    assert "Both are the same" in texts(app)
    app.number_input(key="zoo/chain depth").set_value(5)
    settle(app)
    assert not app.error
    assert ":red[**− 0** removed]" in texts(app)
    assert list(app.dataframe[0].value["Counted"]) == ["kept", "chosen"]
    next(button for button in app.button if button.label == "Change sides").click()
    settle(app)
    assert ":green[**+ 0** added]" in texts(app)


def test_saved_graphs_are_compared_too(client: Client, chain: GraphSnapshot) -> None:
    drawn = to_json([chain], ["captured"], "model=zoo/chain&depth=4")
    app = opened(f"model=source/{client.keep_source(drawn, 'graph.json')}&with=model%3Dzoo/chain%26depth%3D4", "compare")
    assert not app.error
    assert "**− 0** removed" in texts(app)
    assert "**+ 0** added" in texts(app)
    assert "**~ 0** changed" in texts(app)


def test_a_wrong_kept_experiment_is_told(client: Client) -> None:
    app = opened("model=zoo/mlp&with=model%3Dzoo/nothing", "compare")
    assert "no model `zoo/nothing`" in app.error[0].value
    app.button[0].click()
    settle(app)
    assert not app.error  # the way out: another one is kept
