"""The picture under a reader's hands: finding, colours, keys, outline, files and links; in a real browser, without Streamlit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from graphs.export import to_dot, to_json, to_model_explorer
from graphs.record import GraphSnapshot
from jobs.record import OptimizeResult
from pages.ui.graph_view import payload_of
from pages.ui.graph_view.drawing import label
from pages.ui.graph_view.page import page as web_page
from tests.pictures import blank_page, random_pipeline, real_payload, shown, watched_page

EVERYTHING = "await view.session.setOpen(true)"


def run(page: Page, code: str) -> Any:
    return page.evaluate(f"async () => {{ {code} }}")


def payload(seed: int, count: int = 60, steps: int = 4) -> tuple[list[GraphSnapshot], dict[str, Any]]:
    graphs, diffs = random_pipeline(seed, count, steps)
    return graphs, payload_of(graphs, [f"step {index}" for index in range(len(graphs))], diffs)


# ---------------------------------------------------------------- finding


def test_paths_between_two_nodes_are_lit(page: Page, attention: OptimizeResult) -> None:
    graph = attention.graphs[0]
    shown(page, payload_of([graph]))
    run(page, "const m = view.session.model; await view.goTo(m.find('triu', 0)); view.path(m.find('bmm_1', 0));")
    lit = set(run(page, "const { model, lit } = view.session; return [...lit].map((index) => model.name[index]);"))
    below = {"triu"}
    for node in graph.nodes:
        if below & set(node.inputs):
            below.add(node.name)
    above = {"bmm_1"}
    for node in reversed(graph.nodes):
        if node.name in above:
            above |= set(node.inputs)
    assert lit == below & above
    assert "_softmax" in lit


PATTERNS = ("mm -> add", "softmax -> * -> mm", "relu -> relu", "* -> gelu -> *", "op:mm -> * -> * -> add", "sum")


@pytest.fixture(scope="module")
def undrawn(chromium: Browser) -> Iterator[Page]:
    """One page for what is asked of a model alone, without a picture."""
    with watched_page(chromium) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(50))
def test_patterns_find_what_brute_force_finds(undrawn: Page, seed: int) -> None:
    graphs, data = payload(seed, 40, 1)
    pattern = PATTERNS[seed % len(PATTERNS)]
    found = undrawn.evaluate(
        """async ([payload, pattern]) => { const { find } = await import("/find.js"); const { Model } = await import("/model.js");
        const m = new Model(payload);
        return find(m, 1, pattern).chains.map((chain) => chain.map((index) => m.name[index])); }""",
        [data, pattern],
    )
    assert sorted(map(tuple, found)) == brute_force(graphs[1], [part.removeprefix("op:") for part in pattern.split(" -> ")])


def brute_force(graph: GraphSnapshot, ops: list[str]) -> list[tuple[str, ...]]:
    def fits(name: str, op: str) -> bool:
        return op == "*" or (label(nodes[name]).lstrip("_") == op if len(ops) > 1 else op in f"{name} {nodes[name].target}")

    nodes = graph.by_name()
    chains = [(name,) for name in nodes if fits(name, ops[0])]
    for op in ops[1:]:
        chains = [(*chain, name) for chain in chains for name in nodes if chain[-1] in nodes[name].inputs and fits(name, op)]
    return sorted(chains)


@pytest.mark.parametrize(
    ("query", "words"),
    [("/[/", "no regular expression"), ("/abc", "ends with a slash"), ("colour:red", "no field"), ("mm -> ", "Between two arrows")],
)
def test_a_wrong_query_says_what_is_wrong(page: Page, attention: OptimizeResult, query: str, words: str) -> None:
    shown(page, real_payload(attention))
    page.get_by_label("Find nodes").fill(query)
    expect(page.locator(".hits")).to_contain_text(words)


def test_find_walks_through_its_hits_and_neighbourhoods_light(page: Page, attention: OptimizeResult) -> None:
    shown(page, real_payload(attention))
    box = page.get_by_label("Find nodes")
    box.fill("op:mm shape:32")
    expect(page.locator(".hits")).to_have_text(re.compile(r"^\d+ found"))
    box.press("Enter")
    expect(page.locator(".hits")).to_have_text(re.compile(r"^1 of \d+"))
    box.press("Shift+Enter")
    expect(page.locator(".stage[data-side=after] g.selected")).to_have_count(1)
    box.press("Escape")
    graph = attention.graphs[1]
    start = next(node.name for node in graph.nodes if node.target.startswith("aten._scaled_dot_product"))
    run(page, f"view.goTo(view.session.model.find('{start}', 1))")
    page.keyboard.press("d")
    expect(page.locator(".hits")).to_contain_text("depend on it")
    lit = run(page, "const { model, lit } = view.session; return [...lit].map((index) => model.name[index]);")
    below = {start}
    for node in graph.nodes:
        if below & set(node.inputs) and node.op != "output":
            below.add(node.name)
    assert set(lit) == below


# ---------------------------------------------------------------- colours, keys, outline, large graphs


def test_colours_say_how_many_nodes_carry_a_value(page: Page, attention: OptimizeResult) -> None:
    shown(page, payload_of(attention.graphs[:1]))
    for name in page.locator("select[aria-label='Colour by'] option").evaluate_all("options => options.map((o) => o.value)"):
        page.get_by_label("Colour by").select_option(name)
        if name == "kind":
            expect(page.locator(".legend")).to_be_hidden()
            continue
        have, total = map(int, re.findall(r"(\d+) of (\d+) nodes", page.locator(".legend em").inner_text())[0])
        assert 0 < have <= total
        assert page.locator("g.tinted").count() > 0, name


def test_everything_answers_to_keys(page: Page, gpt2: OptimizeResult) -> None:
    shown(page, real_payload(gpt2))
    page.locator(".graph-view").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_label("Find nodes")).to_be_focused()
    page.keyboard.press("Escape")
    for key, state in (("p", "unfold"), ("w", "wide")):
        page.keyboard.press(key)
        assert run(page, f"return view.session.{state};") is True
        page.keyboard.press(key)
    page.keyboard.press("ArrowDown")
    expect(page.locator(".status")).to_contain_text("selected")
    page.keyboard.press("Escape")
    assert run(page, "return view.session.selected;") is None


def test_the_outline_is_a_tree_that_keys_walk(page: Page, attention: OptimizeResult) -> None:
    shown(page, payload_of(attention.graphs[:1]))
    page.locator(".graph-view").focus()
    page.keyboard.press("o")
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    texts = tree.get_by_role("treeitem").all_inner_texts()
    assert any("reads" in text for text in texts)
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "selected" in page.locator(".status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Browser, attention: OptimizeResult, scheme: str) -> None:
    page = shown(blank_page(chromium, scheme), real_payload(attention))
    run(page, "view.session.setColour('flops')")
    found = Axe().run(page).response["violations"]
    page.context.close()
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []


def test_a_large_picture_is_a_canvas_that_answers(page: Page) -> None:
    _, data = payload(5, 2400, 0)
    shown(page, data)
    run(page, EVERYTHING)
    expect(page.locator(".stage canvas")).to_be_visible()
    page.wait_for_function("Number(document.querySelector('.stage canvas').dataset.drawn) > 20")
    spot = run(
        page,
        """const item = view.session.scene.items.filter((i) => !i.group)[40]; view.main.centre(item);
        const { at } = view.session; const box = view.main.frame.getBoundingClientRect();
        return [box.left + (item.left + item.width / 2) * at.scale + at.x, box.top + (item.top + 12) * at.scale + at.y, item.label];""",
    )
    page.mouse.click(spot[0], spot[1])
    assert run(page, "return view.session.model.label[view.session.selected.index];") == spot[2]


def test_a_newer_layout_ends_an_older_one(page: Page) -> None:
    _, data = payload(6, 2000, 0)
    shown(page, data)
    done = run(
        page,
        """const s = view.session; const all = []; const walk = (box) => { all.push(box.id); box.children.filter((c) => c.group).forEach(walk); }; walk(s.tree.root);
        const first = s.arrange(all); const second = s.arrange([""]); return [await first, await second, s.scene.items.length === s.tree.root.children.length];""",
    )
    assert done == [False, True, True]


# ---------------------------------------------------------------- files and links


def test_the_picture_is_saved_as_svg_png_and_dot(page: Page, attention: OptimizeResult, tmp_path: Path) -> None:
    shown(page, real_payload(attention))
    visible = run(page, "return view.session.scene.items.filter((i) => view.main.context.status.get(i).status !== 'absent').length;")
    files = {}
    for choice in ("svg", "png 1600", "dot"):
        with page.expect_download() as wanted:
            page.get_by_label("Save what is shown").select_option(choice)
        files[choice] = tmp_path / wanted.value.suggested_filename
        wanted.value.save_as(files[choice])
    root = ElementTree.parse(files["svg"]).getroot()
    shapes = [group for group in root.iter("{http://www.w3.org/2000/svg}g") if re.search(r"\b(leaf|group)\b", group.get("class", ""))]
    assert len([group for group in shapes if "absent" not in group.get("class", "")]) == visible
    image = files["png 1600"].read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(image[16:20], "big") == 1600
    dot = files["dot"].read_text()
    assert dot.count("{") == dot.count("}")
    assert "scaled_dot_product" in dot


def test_the_web_page_opens_without_network_and_shows_the_session(chromium: Browser, gpt2: OptimizeResult, tmp_path: Path) -> None:
    text = web_page(real_payload(gpt2), "GPT-2 </script><b>", "model=zoo/gpt2", [["graph", "verdict"], ["captured", "<i>"]])
    assert len(text) < 5_000_000
    path = tmp_path / "session.html"
    path.write_text(text)
    context = chromium.new_context(offline=True, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.locator("g.leaf").first.wait_for()
    page.get_by_label("Find nodes").fill("log_softmax")
    page.get_by_label("Find nodes").press("Enter")
    expect(page.locator("#details")).to_contain_text("aten._log_softmax")
    assert page.title() == "GPT-2 </script><b>"
    assert problems == []
    context.close()


def test_json_files_carry_every_node_and_edge(attention: OptimizeResult) -> None:
    graph = attention.graphs[0]
    collection = to_model_explorer(graph, "attention")
    assert collection["label"] == "attention"  # without it Model Explorer refuses the file
    explorer = collection["graphs"][0]["nodes"]
    assert [node["id"] for node in explorer] == [node.name for node in graph.nodes]
    assert [[edge["sourceNodeId"] for edge in node["incomingEdges"]] for node in explorer] == [list(node.inputs) for node in graph.nodes]
    kept = json.loads(to_json(attention.graphs, ["a", "b"], "words"))
    assert [len(one["nodes"]) for one in kept["graphs"]] == [len(one.nodes) for one in attention.graphs]
    assert to_dot(graph).count(" -> ") == sum(len(node.inputs) for node in graph.nodes)


def test_a_link_brings_back_the_look(page: Page, gpt2: OptimizeResult) -> None:
    data = real_payload(gpt2)
    shown(page, data)
    run(
        page,
        "view.session.setStep(2); view.session.setColour('flops'); await view.session.toggle(view.session.scene.items.find((i) => i.group && !i.open)); view.main.zoom(1.3);",
    )
    page.wait_for_function("reports.some(([name]) => name === 'look')")
    page.wait_for_timeout(1000)
    look = run(page, "return JSON.parse(reports.filter(([name]) => name === 'look').pop()[1]);")
    opened = run(page, "return view.session.openIds;")
    shown(page, data, look)
    assert run(page, "return [view.session.step, view.session.colour];") == [2, "flops"]
    assert run(page, "return view.session.openIds;") == opened
    assert run(page, "return Math.round(view.session.at.x);") == look["at"]["x"]
