"""The picture against the record, and the picture under a reader's hands; in a real browser, without Streamlit."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
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
from tests import browser as driver
from tests.pictures import blank_page, random_pipeline, real, real_payload, shown

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-attention"
GPT2 = "model=zoo/gpt2&mode=training&layers=6&width=32&heads=2&vocab=64&seq=8"
EVERYTHING = "await view.session.setOpen(true)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with driver.browser() as launched:
        yield launched


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    opened = blank_page(chromium)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.context.close()
    assert not errors


@pytest.fixture(scope="module")
def attention() -> OptimizeResult:
    return real(ATTENTION)


@pytest.fixture(scope="module")
def gpt2() -> OptimizeResult:
    return real(f"{GPT2}&pipeline=remove-dead-code,merge-common-subexpressions,fold-constants,fuse-attention,recompute-activations")


def run(page: Page, code: str) -> Any:
    return page.evaluate(f"async () => {{ {code} }}")


def payload(seed: int, count: int = 60, steps: int = 4) -> tuple[list[GraphSnapshot], dict[str, Any]]:
    graphs, diffs = random_pipeline(seed, count, steps)
    return graphs, payload_of(graphs, [f"step {index}" for index in range(len(graphs))], diffs)


# ---------------------------------------------------------------- the drawing against the record


@pytest.mark.parametrize("seed", range(12))
def test_every_edge_of_every_graph_is_in_the_picture_and_no_other(page: Page, seed: int) -> None:
    graphs, data = payload(seed)
    shown(page, data)
    for at, graph in enumerate(graphs):
        drawn = run(
            page,
            f"""const {{ model }} = view.session;
            return model.edges.filter((edge) => edge.first <= {at} && {at} <= edge.last).map((edge) => [model.name[edge.from], model.name[edge.to]]);""",
        )
        assert Counter(map(tuple, drawn)) == Counter((name, node.name) for node in graph.nodes for name in node.inputs)
        alive = run(page, f"const m = view.session.model; return m.name.filter((_, index) => m.alive(index, {at}));")
        assert sorted(alive) == sorted(node.name for node in graph.nodes)


@pytest.mark.parametrize("seed", range(6))
def test_every_edge_is_drawn_once_as_link_stub_or_fold_and_every_stub_has_its_partner(page: Page, seed: int) -> None:
    _, data = payload(seed, 150)
    shown(page, data)
    found = run(
        page,
        f"""{EVERYTHING};
        const {{ scene, tree, model }} = view.session;
        const drawn = [...scene.edges.flatMap((edge) => edge.edges), ...tree.stubs];
        const folded = model.edges.filter((edge) => !tree.leaves[edge.from] || !tree.leaves[edge.to]).length;
        const partners = scene.stubs.every((stub) => stub.from.sends.includes(stub) && stub.to.takes.includes(stub));
        const ends = scene.items.flatMap((item) => [...item.sends, ...item.takes]).length;
        return {{ drawn: drawn.length, distinct: new Set(drawn).size, folded, total: model.edges.length, partners, ends, stubs: scene.stubs.length }};""",
    )
    assert found["drawn"] == found["distinct"]
    assert found["drawn"] + found["folded"] == found["total"]
    assert found["partners"]
    assert found["ends"] == 2 * found["stubs"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_groups_hold_their_own_nodes_inside_their_borders_without_overlap(page: Page, seed: int) -> None:
    _, data = payload(seed, 120)
    shown(page, data)
    wrong = run(
        page,
        f"""{EVERYTHING};
        const {{ scene, tree, model }} = view.session;
        const wrong = [];
        for (const leaf of tree.leaves.filter(Boolean)) {{
          for (let box = leaf.parent; box.parent; box = box.parent) {{
            const [phase, path] = box.id.replace(/[#×].*/, "").split("/");
            const own = Number(phase) === model.phase[leaf.index] && (path === "" || `${{model.module[leaf.index]}}.`.startsWith(`${{path}}.`) || box.repeat);
            if (!own) wrong.push([box.id, model.name[leaf.index]]);
          }}
        }}
        for (const box of [tree.root, ...scene.items.filter((item) => item.group)]) {{
          const inner = box.children;
          for (const a of inner) {{
            if (a.x < 0 || a.y < 0 || a.x + a.width > box.width + 0.5 || a.y + a.height > box.height + 0.5) wrong.push(["outside", a.id]);
            for (const b of inner) {{
              const apart = a === b || a.last < b.first || b.last < a.first || a.x + a.width <= b.x + 0.5 || b.x + b.width <= a.x + 0.5 || a.y + a.height <= b.y + 0.5 || b.y + b.height <= a.y + 0.5;
              if (!apart) wrong.push(["overlap", a.id, b.id]);
            }}
          }}
        }}
        return wrong;""",
    )
    assert wrong == []


def test_a_tensor_read_twice_is_two_edges(page: Page) -> None:
    graphs, _ = random_pipeline(0, 5, 0)
    nodes = [*graphs[0].nodes]
    twice = type(nodes[-1])(**{**{name: getattr(nodes[-1], name) for name in nodes[-1].__struct_fields__}, "inputs": (nodes[0].name,) * 2})
    graph = GraphSnapshot((*nodes[:-1], twice), graphs[0].outputs, graphs[0].totals)
    shown(page, payload_of([graph]))
    assert run(page, f"const m = view.session.model; return m.around(m.find('{twice.name}', 0), 0, 'inputs').length;") == 2


def test_a_cycle_is_refused_in_words(page: Page) -> None:
    _, data = payload(1, 20, 0)
    source, reader = data["edges"][0], data["edges"][1]
    data["edges"] += [reader, source, 0, 0]
    shown(page, data)
    expect(page.locator(".stages")).to_contain_text("has a cycle through")


def test_equal_blocks_fold_and_parameters_stand_in_their_readers(page: Page, gpt2: OptimizeResult) -> None:
    shown(page, payload_of(gpt2.graphs[:1]))
    repeats = run(
        page,
        """const found = []; const walk = (box) => { if (box.repeat) found.push([box.label, box.repeat]); box.children.filter((c) => c.group).forEach(walk); };
        walk(view.session.tree.root); return found;""",
    )
    assert max(count for _, count in repeats) >= 4  # of six blocks, the first and the last may differ
    read = {name for node in gpt2.graphs[0].nodes for name in node.inputs if node.op != "output"}
    parameters = [node for node in gpt2.graphs[0].nodes if node.role == "parameter" and node.name in read]
    assert run(page, "return view.session.tree.folded.size;") >= len(parameters) > 50
    run(page, "await view.session.setUnfold(true)")
    assert run(page, "return view.session.tree.folded.size;") == 0


# ---------------------------------------------------------------- steps


def test_nothing_moves_that_a_step_leaves_alone(page: Page) -> None:
    _, data = payload(3, 120, 20)
    shown(page, data)
    run(page, EVERYTHING)
    moved: list[float] = []
    before: dict[str, list[float]] = {}
    for step in range(21):
        now = run(
            page,
            f"""view.session.setStep({step});
            const {{ status }} = view.main.context;
            const alive = view.session.scene.items.filter((item) => !item.group && ["kept", "added", "changed", "fused"].includes(status.get(item).status));
            const place = (item) => view.main.painter.shapes.get(item.id).style.transform.match(/-?[0-9.]+/g).map(Number);
            return Object.fromEntries(alive.map((item) => [item.id, place(item)]));""",
        )
        moved += [abs(now[name][0] - x) + abs(now[name][1] - y) for name, (x, y) in before.items() if name in now]
        before = now
    assert len(moved) > 1000
    assert statistics.median(moved) == 0
    assert max(moved) == 0


def test_what_a_step_did_is_marked_by_shape_as_well_as_colour(page: Page, attention: OptimizeResult) -> None:
    shown(page, real_payload(attention))
    diff = attention.steps[0].diff
    names = {
        side: {
            mark: set(run(page, f"return [...document.querySelectorAll('.stage[data-side={side}] g.leaf.{mark} > title')].map((t) => t.textContent.split('\\n')[0]);"))
            for mark in ("removed", "changed", "added", "fused")
        }
        for side in ("before", "after")
    }  # fmt: skip
    assert names["before"]["removed"] <= set(diff.removed)
    assert len(names["before"]["removed"]) > 10
    assert names["after"]["added"] | names["after"]["fused"] <= set(diff.added)
    assert any("scaled_dot_product" in name for name in names["after"]["fused"])
    assert names["after"]["removed"] == names["before"]["removed"]  # they fade where they were
    style = "(mark, what) => getComputedStyle(document.querySelector(`.stage[data-side=before] g.${mark} > .box`))[what]"
    dashes = {mark: page.evaluate(f"({style})('{mark}', 'strokeDasharray')") for mark in ("removed", "changed", "kept")}
    assert len(set(dashes.values())) == 3
    glyphs = {mark: page.locator(f".stage g.leaf.{mark} .badge text").first.text_content() for mark in ("removed", "changed", "fused")}
    assert glyphs == {"removed": "−", "changed": "~", "fused": "⊕"}


def test_a_choice_on_one_side_lights_its_kin_on_the_other(page: Page, attention: OptimizeResult) -> None:
    shown(page, real_payload(attention))
    run(page, "const m = view.session.model; view.goTo(m.find('_softmax', 0))")
    expect(page.locator(".stage[data-side=before] g.selected > title")).to_have_text(re.compile("^_softmax\n"))
    expect(page.locator(".stage[data-side=after] g.near > title").filter(has_text="scaled_dot_product").first).to_be_attached()
    fused = next(name for name in attention.steps[0].diff.added if "scaled_dot_product" in name and "backward" not in name)
    run(page, f"view.goTo(view.session.model.find('{fused}', 1))")
    expect(page.locator(".stage[data-side=before] g.near > title").filter(has_text=re.compile("^_softmax\n"))).to_be_attached()


def test_steps_are_walked_with_slider_and_keys(page: Page, gpt2: OptimizeResult) -> None:
    shown(page, real_payload(gpt2))
    last = len(gpt2.steps)
    expect(page.locator("output.step")).to_have_text(re.compile(f"^{last}\\. "))
    page.locator(".graph-view").focus()
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("output.step")).to_have_text(f"{last - 1}. {gpt2.steps[-2].words}")
    page.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    expect(page.locator("output.step")).to_have_text("as captured")
    expect(page.locator(".stage[data-side=before]")).to_be_hidden()
    assert ["step", 0] in page.evaluate("reports")


@pytest.mark.parametrize("seed", [0, 1, 3, 11])
def test_a_pipeline_that_grows_step_by_step_hardly_moves_what_was_there(page: Page, seed: int) -> None:
    graphs, diffs = random_pipeline(seed, 120, 20)
    before: dict[str, list[float]] = {}
    moved: list[float] = []
    for last in range(1, 21):
        data = payload_of(graphs[: last + 1], [f"step {index}" for index in range(last + 1)], diffs[:last])
        if last == 1:
            shown(page, data)
        else:
            page.evaluate("(grown) => view.load(grown)", data)
        now = run(
            page,
            f"""{EVERYTHING};
            const {{ scene, model, step }} = view.session;
            const alive = scene.items.filter((item) => !item.group && model.alive(item.index, step));
            return Object.fromEntries(alive.map((item) => [model.name[item.index], [item.left, item.top]]));""",
        )
        moved += [abs(now[name][0] - x) + abs(now[name][1] - y) for name, (x, y) in before.items() if name in now]
        before = now
    assert statistics.median(moved) == 0
    assert sum(distance < 40 for distance in moved) >= 0.95 * len(moved)  # 40: the height of a node


def test_a_grown_pipeline_keeps_what_was_open(page: Page, gpt2: OptimizeResult) -> None:
    names = ["captured", *(step.words for step in gpt2.steps)]
    diffs = [step.diff for step in gpt2.steps]
    shown(page, payload_of(gpt2.graphs[:2], names[:2], diffs[:1]))
    run(
        page,
        "const box = view.session.scene.items.find((i) => i.group && !i.open); window.opened = box.id; await view.session.toggle(box);",
    )
    page.evaluate("(grown) => view.load(grown)", payload_of(gpt2.graphs[:3], names[:3], diffs[:2]))
    assert run(page, "return view.session.openIds.includes(opened);")


def test_an_end_of_a_far_edge_leads_to_the_other(page: Page, attention: OptimizeResult) -> None:
    shown(page, payload_of(attention.graphs[:1]))
    run(page, "await view.session.setOpen(true); view.main.centre(view.session.scene.items.find((i) => i.sends.length === 1));")
    spot = run(
        page,
        """const item = view.session.scene.items.find((i) => i.sends.length === 1); const { at } = view.session;
        const box = view.main.frame.getBoundingClientRect();
        return [box.left + (item.left + item.width - 10) * at.scale + at.x, box.top + (item.top + item.height + 3) * at.scale + at.y, item.sends[0].to.label];""",
    )
    page.mouse.click(spot[0], spot[1])
    assert run(page, "const { selected, model } = view.session; return model.label[selected.index];") == spot[2]


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


@pytest.mark.parametrize("seed", range(50))
def test_patterns_find_what_brute_force_finds(page: Page, seed: int) -> None:
    graphs, data = payload(seed, 40, 1)
    shown(page, data)
    pattern = PATTERNS[seed % len(PATTERNS)]
    found = page.evaluate(
        """async (pattern) => { const { find } = await import("/find.js"); const m = view.session.model;
        return find(m, 1, pattern).chains.map((chain) => chain.map((index) => m.name[index])); }""",
        pattern,
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
    run(page, "view.goTo(view.session.model.find('triu', 1))")
    page.keyboard.press("d")
    expect(page.locator(".hits")).to_contain_text("depend on it")
    lit = run(page, "const { model, lit } = view.session; return [...lit].map((index) => model.name[index]);")
    graph = attention.graphs[1]
    below = {"triu"}
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
