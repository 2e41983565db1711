"""Fusions on the Optimize page: a kernel beside its code, the reason for every pair, what a reader fuses and keeps apart, and the long list of offers."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from playwright.sync_api import Browser, expect
from streamlit.testing.v1 import AppTest

from graphs.errors import RequestError
from graphs.record import KernelRecord, LineLink
from jobs.client import Client
from jobs.experiment import StepWords, parse
from jobs.record import Kernels, KernelsResult, Optimize, OptimizeResult, Pairs, PairsResult
from jobs.run import perform
from optimizers.catalog import catalog
from optimizers.record import MissRecord, PairRecord
from pages.ui import kernels, offers, pairs, pipeline, show
from pages.ui.kernels import spans, view_data
from tests.pictures import blank_page
from tests.test_pages import click, opened, settle, texts, words

MODEL = "model=zoo/attention&mode=training&seq=16&width=32&heads=2"
FUSED = f"{MODEL}&pipeline=fuse-loops"


def answered(client: Client, asked: Any) -> Any:
    return client.run(asked)


@pytest.fixture(scope="module")
def optimized(client: Client) -> OptimizeResult:
    return cast(OptimizeResult, client.run(Optimize(parse(FUSED).words)))


@pytest.fixture(scope="module")
def softmax(client: Client, optimized: OptimizeResult) -> KernelRecord:
    """The kernel around the softmax of the forward pass."""
    (node,) = [node for node in optimized.graphs[-1].nodes if node.target == "kernel.div·masked_fill·softmax"]
    return cast(KernelsResult, client.run(Kernels(parse(FUSED).words, (node.name,)))).kernels[0]


# ---------------------------------------------------------------- asked of the worker


def test_a_kernel_comes_with_code_links_and_the_nodes_that_it_replaced(softmax: KernelRecord) -> None:
    inside = [node.name for node in softmax.body.nodes if node.op == "call_function"]
    assert inside == ["div", "masked_fill", "_softmax"]
    assert [node.op for node in softmax.body.nodes[:2]] == ["placeholder"] * 2
    assert (softmax.device, softmax.described, softmax.language, softmax.launches) == ("CPU", False, "cpp", 1)
    assert {link.node for link in softmax.links} == set(inside)
    assert "def call(" in softmax.caller


def test_sources_travel_only_when_asked_for(optimized: OptimizeResult) -> None:
    assert b"static_cast" not in msgspec.msgpack.encode(optimized)


def test_pairs_are_those_of_the_graph_before_the_step(client: Client, optimized: OptimizeResult) -> None:
    found = cast(PairsResult, client.run(Pairs(parse(FUSED).words, 0))).pairs
    names = set(optimized.graphs[0].by_name())
    assert {pair.producer for pair in found} | {pair.consumer for pair in found} <= names
    together = {(pair.producer, pair.consumer) for pair in found if pair.fused}
    assert ("div", "masked_fill") in together
    assert any("library" in pair.reason and pair.way_out for pair in found if not pair.fused)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (Kernels(f"{MODEL}&pipeline=fuse-loops", ("bmm",)), "`bmm` is no kernel"),
        (Kernels(f"{MODEL}&pipeline=fuse-loops", (), "h1000"), "no description of a GPU"),
        (Pairs(f"{MODEL}&pipeline=fuse-loops", 1), "no step 2"),
        (Pairs(f"{MODEL}&pipeline=fuse-attention", 0), "does not explain pairs"),
    ],
)
def test_what_is_not_there_is_refused_in_words(client: Client, asked: Any, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        client.run(asked)


def test_later_steps_do_not_matter_to_the_pairs_of_a_step(client: Client) -> None:
    alone = client.submit(Pairs(FUSED, 0))
    assert client.submit(Pairs(f"{FUSED},recompute-activations", 0)) == alone


# ---------------------------------------------------------------- words and numbers


def test_lines_are_told_as_spans() -> None:
    assert spans([3, 5, 6, 7, 9]) == "3, 5–7, 9"
    assert spans([]) == ""


def test_where_a_node_is_in_the_code_is_told_plainly(softmax: KernelRecord) -> None:
    node = softmax.body.by_name()["div"]
    assert kernels.where(node, LineLink("div", (4,))) == "line 4"
    assert kernels.where(node, LineLink("div", (4, 5, 6, 7), whole_loop=True)) == "somewhere in the loop of lines 4–7"
    assert kernels.where(node, None).startswith("not in the code")
    view = msgspec.structs.replace(node, cost=msgspec.structs.replace(node.cost, launches=0))
    assert kernels.where(view, LineLink("div", (4, 5), whole_loop=True)) == "a view: only in the addresses of lines 4–5"


def test_launches_say_what_they_are_counted_from(softmax: KernelRecord) -> None:
    (line,) = kernels.counted(softmax)
    assert "loop nest" in line
    assert "one after another" not in line
    torn = msgspec.structs.replace(softmax, source=softmax.source + "\n for(int64_t x0=0;;) {}")
    assert "2 loops, one after another" in kernels.counted(torn)[0]
    two = msgspec.structs.replace(
        softmax, launches=2, nests=(softmax.nests[0], msgspec.structs.replace(softmax.nests[0], library="aten.mm"))
    )
    assert [line.partition(":")[0] for line in kernels.counted(two)[1:]] == ["Launch 1", "Launch 2"]
    assert kernels.counted(two)[2].endswith("a call of a library")


PAIRS = (
    PairRecord("mm_3", "add", False, 512, "mm_3: it is a library's kernel", "An epilogue."),
    PairRecord("mm_4", "mul", False, 256, "mm_4: it is a library's kernel"),
    PairRecord("mul", "exp", False, 64, "mul's loop goes over 1,024 elements, exp's over 64"),
    PairRecord("exp", "relu", True, 1024, "one loop computes both"),
)


def test_reasons_are_counted_without_names_and_numbers() -> None:
    assert pairs.reasons(PAIRS[:3]) == [
        ("the producer: it is a library's kernel", 2, 768),
        ("the producer's loop goes over n elements, the consumer's over n", 1, 64),
    ]


def test_pairs_are_narrowed_by_name_answer_and_reason() -> None:
    assert [pair.consumer for pair in pairs.matching(PAIRS, text="MUL")] == ["mul", "exp"]
    assert pairs.matching(PAIRS, answer="fused") == [PAIRS[3]]
    assert pairs.matching(PAIRS, answer="not fused", reason="the producer: it is a library's kernel") == list(PAIRS[:2])


def test_a_pair_is_told_with_its_way_out() -> None:
    assert "**not one kernel**" in pairs.sentence(PAIRS[0])
    assert "Way out:[gray]" not in pairs.sentence(PAIRS[0])
    assert pairs.sentence(PAIRS[0]).endswith("An epilogue.")
    assert "**one kernel**" in pairs.sentence(PAIRS[3])


def test_offers_are_grouped_by_kind_and_found_by_words() -> None:
    records = [one.record for one in catalog().values()]
    grouped = offers.by_kind(records)
    assert list(grouped) == [kind for kind in offers.KINDS if kind in grouped]
    assert sum(map(len, grouped.values())) == len(records)
    assert {record.kind for record in records} <= set(offers.KINDS)
    assert [record.name for record in offers.matching(records, "fuse LOOPS")] == ["fuse-loops"]
    assert offers.matching(records, "no such word") == []


# ---------------------------------------------------------------- the page


pages = pytest.mark.usefixtures("default_client")


@pages
def test_a_step_is_changed_in_its_form() -> None:
    app = opened(FUSED, "optimize")
    key = "step 0 fuse-loops"
    app.text_input(key=f"{key} apart").set_value("div.masked_fill")
    submit(app)
    assert parse(words(app)).pipeline == (StepWords("fuse-loops", (("apart", "div.masked_fill"),)),)
    assert "apart: `div.masked_fill`" in texts(app)
    app.text_input(key="step 0 fuse-loops(apart=div.masked_fill) apart").set_value("")
    submit(app)
    assert parse(words(app)).pipeline == (StepWords("fuse-loops"),)


def submit(app: AppTest) -> None:
    next(button for button in app.button if button.label == "Change this step").click()
    settle(app)


@pages
@pytest.mark.parametrize(
    ("step", "what"),
    [("fuse-nodes(nodes=div.mask)", "There is no node `mask`"), ("fuse-loops(apart=div)", "`apart` of fuse-loops cannot be `div`")],
)
def test_names_that_are_wrong_are_told_plainly_and_the_page_stays(step: str, what: str) -> None:
    app = opened(MODEL, "optimize")
    app.query_params["pipeline"] = step
    settle(app)
    assert what in app.error[0].value.replace("\\", "")
    assert "Traceback" not in texts(app)
    assert len(app.dataframe) > 0


@pages
def test_a_link_to_a_step_that_fails_shows_the_graph_as_captured() -> None:
    app = opened(f"{MODEL}&pipeline=fuse-nodes(nodes=div.mask)", "optimize")
    assert "There is no node `mask`" in app.error[0].value.replace("\\", "")
    assert "The graph as captured" in [one.value for one in app.subheader]
    assert "shown" not in next(one.value for one in app.markdown if "1. fuse" in one.value)
    assert len(app.error) == 1
    settle(app)
    assert len(app.error) == 1  # not asked for again
    click(app, "remove 0")
    assert not app.error
    assert parse(words(app)).pipeline == ()


@pages
def test_what_finds_nothing_as_it_is_can_be_added_with_other_settings() -> None:
    app = opened("model=zoo/mlp", "optimize")
    app.text_input(key="offers filter").set_value("apply-rule")
    settle(app)
    assert "None of these finds anything" in texts(app)
    assert "left to do" not in texts(app)
    assert "`output`: Nowhere in this graph stands add(matmul(x, y), matmul(x, z))" in texts(app)
    rule = app.selectbox(key="set apply-rule rule")
    (twice,) = [option for option in rule.options if option.endswith(": x = t(t(x))")]
    rule.set_value(int(twice.partition(":")[0]))
    click(app, "add apply-rule")
    assert parse(words(app)).pipeline == (StepWords("apply-rule", (("rule", twice.partition(":")[0]),)),)
    assert f"rule: `{twice}`" in texts(app)


def test_near_misses_are_told_once_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(show.st, "caption", told.append)
    show.reasons([MissRecord(f"mm_{number}", "it is small") for number in range(6)] + [MissRecord("add", "it is large.")])
    assert told == ["`mm_0`, `mm_1`, `mm_2`, `mm_3` and 2 more: It is small.", "`add`: It is large."]
    told.clear()
    show.reasons([MissRecord("mm", f"reason {number}") for number in range(show.SHOWN_REASONS + 2)])
    assert len(told) == show.SHOWN_REASONS + 1
    assert told[-1].startswith("and 2 reasons more")


@pages
def test_a_step_behind_kernels_that_finds_nothing_says_where_to_put_it() -> None:
    app = opened(f"{FUSED},fuse-attention", "optimize")
    assert "move it up" in app.info[0].value
    app = opened("model=zoo/mlp&pipeline=fuse-attention", "optimize")
    assert "move it up" not in app.info[0].value


def test_sentences_begin_with_a_capital_but_names_stay() -> None:
    assert show.sentence("there is no node") == "There is no node."
    assert show.sentence("zoo/gpt2 has no mode") == "zoo/gpt2 has no mode."
    assert show.sentence("device=tpu is unknown") == "device=tpu is unknown."


@pages
def test_chosen_nodes_are_fused_by_a_step_of_their_own() -> None:
    app = opened(MODEL, "optimize")
    assert "fuse chosen" not in [button.key for button in app.button]
    app.session_state["chosen nodes"] = ["div"]
    settle(app)
    assert app.button(key="fuse chosen").disabled
    app.session_state["chosen nodes"] = ["div", "nothing"]
    settle(app)
    assert app.button(key="fuse chosen").disabled
    assert "Not in the graph at the end of the pipeline" in texts(app)
    click(app, "unchoose nothing")
    app.session_state["chosen nodes"] = [*app.session_state["chosen nodes"], "masked_fill"]
    settle(app)
    click(app, "fuse chosen")
    assert parse(words(app)).pipeline == (StepWords("fuse-nodes", (("nodes", "div.masked_fill"),)),)
    assert app.session_state["chosen nodes"] == []
    assert "1 place rewritten" in texts(app)


@pages
def test_a_pair_is_kept_apart_and_let_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(FUSED, "optimize")
    if "ask pairs" in [button.key for button in app.button]:  # not kept from an earlier test
        click(app, "ask pairs")
    assert "are inside of one kernel" in texts(app)
    table = next(one.value for one in app.dataframe if "one kernel" in one.value.columns)
    assert set(table["one kernel"]) == {"yes", "no"}
    kept: list[StepWords] = []
    monkeypatch.setattr(pipeline.state, "current", lambda: parse(FUSED if not kept else f"{MODEL}&pipeline={kept[-1].words}"))
    monkeypatch.setattr(pipeline, "replace", lambda index, step: kept.append(step))
    pipeline.keep_apart(0, "div", "masked_fill")
    pipeline.keep_apart(0, "masked_fill", "_softmax")
    assert kept[-1].words == "fuse-loops(apart=div.masked_fill-masked_fill._softmax)"
    pipeline.let_together(0, "masked_fill", "div")
    assert kept[-1].words == "fuse-loops(apart=masked_fill._softmax)"


@pages
def test_the_places_of_a_step_say_what_it_found() -> None:
    app = opened(f"{MODEL}&pipeline=merge-common-subexpressions", "optimize")
    table = next(one.value for one in app.dataframe if "what it found" in one.value.columns)
    assert table["what it found"].str.contains("value ").all()


# ---------------------------------------------------------------- in a browser


def test_names_in_code_and_nodes_are_never_markup(chromium: Browser, softmax: KernelRecord) -> None:
    evil = "<img src=x onerror=globalThis.hit=1>"
    nodes = tuple(msgspec.structs.replace(one, target=evil) for one in softmax.body.nodes)
    record = msgspec.structs.replace(
        softmax, source=f"// {evil}\n{softmax.source}", device=evil, body=msgspec.structs.replace(softmax.body, nodes=nodes)
    )
    page = blank_page(chromium)
    page.evaluate(
        """async (data) => {
          const { KernelView } = await import("/kernel.js");
          globalThis.view = new KernelView(document.querySelector("main").appendChild(document.createElement("div")), data);
        }""",
        view_data(record),
    )
    expect(page.get_by_text("<img").first).to_be_attached()
    assert page.locator("img").count() == 0
    assert page.evaluate("globalThis.hit") is None
    code = page.locator(".row code").all_text_contents()
    assert [line.strip() for line in code] == [line.strip() for line in record.source.split("\n")]  # coloured, and nothing lost
    page.context.close()


def test_the_worker_gives_the_code_of_all_kernels_at_once() -> None:
    found = cast(KernelsResult, perform(Kernels(parse("model=zoo/mlp&mode=training&pipeline=fuse-loops").words), {}, lambda progress: None))
    assert found.kernels
    assert all(kernel.source and kernel.exact for kernel in found.kernels)
