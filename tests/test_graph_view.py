"""The picture against the record, and the picture under a reader's hands; in a real browser, without Streamlit."""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from graphs.align import aligned
from graphs.diff import diff
from graphs.ladder import climb
from graphs.lifetimes import lifetimes, memory_curve
from graphs.record import GraphSnapshot, NodeRecord
from graphs.sources.zoo import zoo_source
from jobs.record import OptimizeResult
from pages.ui.graph_view import payload_of
from pages.ui.graph_view.drawing import SHORT_DTYPES, kind, label, shape_text
from tests.pictures import random_graph, random_pipeline, real_payload, shown, watched_page

EVERYTHING = "await view.session.setOpen(true)"


def run(page: Page, code: str) -> Any:
    return page.evaluate(f"async () => {{ {code} }}")


def payload(seed: int, count: int = 60, steps: int = 4) -> tuple[list[GraphSnapshot], dict[str, Any]]:
    graphs, diffs = random_pipeline(seed, count, steps)
    return graphs, payload_of(graphs, [f"step {index}" for index in range(len(graphs))], diffs)


# ---------------------------------------------------------------- the drawing against the record


@pytest.fixture(scope="module", params=range(8))
def drawn(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[tuple[Page, list[GraphSnapshot]]]:
    """Graphs of a random pipeline, and their picture with everything open."""
    graphs, data = payload(request.param, 120)
    with watched_page(chromium) as page:
        run(shown(page, data), EVERYTHING)
        yield page, graphs


def test_every_edge_of_every_graph_is_in_the_picture_and_no_other(drawn: tuple[Page, list[GraphSnapshot]]) -> None:
    page, graphs = drawn
    for at, graph in enumerate(graphs):
        edges = run(
            page,
            f"""const {{ model }} = view.session;
            return model.edges.filter((edge) => edge.first <= {at} && {at} <= edge.last).map((edge) => [model.name[edge.from], model.name[edge.to]]);""",
        )
        assert Counter(map(tuple, edges)) == Counter((name, node.name) for node in graph.nodes for name in node.inputs)
        alive = run(page, f"const m = view.session.model; return m.name.filter((_, index) => m.alive(index, {at}));")
        assert sorted(alive) == sorted(node.name for node in graph.nodes)


def test_every_edge_is_drawn_once_as_link_stub_or_fold_and_every_stub_has_its_partner(drawn: tuple[Page, list[GraphSnapshot]]) -> None:
    found = run(
        drawn[0],
        """const { scene, tree, model } = view.session;
        const drawn = [...scene.edges.flatMap((edge) => edge.edges), ...tree.stubs];
        const folded = model.edges.filter((edge) => !tree.leaves[edge.from] || !tree.leaves[edge.to]).length;
        const partners = scene.stubs.every((stub) => stub.from.sends.includes(stub) && stub.to.takes.includes(stub));
        const ends = scene.items.flatMap((item) => [...item.sends, ...item.takes]).length;
        return { drawn: drawn.length, distinct: new Set(drawn).size, folded, total: model.edges.length, partners, ends, stubs: scene.stubs.length };""",
    )
    assert found["drawn"] == found["distinct"]
    assert found["drawn"] + found["folded"] == found["total"]
    assert found["partners"]
    assert found["ends"] == 2 * found["stubs"] > 0


def test_groups_hold_their_own_nodes_inside_their_borders_without_overlap(drawn: tuple[Page, list[GraphSnapshot]]) -> None:
    wrong = run(
        drawn[0],
        """const { scene, tree, model } = view.session;
        const wrong = [];
        for (const leaf of tree.leaves.filter(Boolean)) {
          for (let box = leaf.parent; box.parent; box = box.parent) {
            const [phase, path] = box.id.replace(/[#×].*/, "").split("/");
            const own = Number(phase) === model.phase[leaf.index] && (path === "" || `${model.module[leaf.index]}.`.startsWith(`${path}.`) || box.repeat);
            if (!own) wrong.push([box.id, model.name[leaf.index]]);
          }
        }
        for (const box of [tree.root, ...scene.items.filter((item) => item.group)]) {
          const inner = box.children;
          for (const a of inner) {
            if (a.x < 0 || a.y < 0 || a.x + a.width > box.width + 0.5 || a.y + a.height > box.height + 0.5) wrong.push(["outside", a.id]);
            for (const b of inner) {
              const apart = a === b || a.last < b.first || b.last < a.first || a.x + a.width <= b.x + 0.5 || b.x + b.width <= a.x + 0.5 || a.y + a.height <= b.y + 0.5 || b.y + b.height <= a.y + 0.5;
              if (!apart) wrong.push(["overlap", a.id, b.id]);
            }
          }
        }
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


def test_every_node_is_told_as_it_is_in_each_graph(page: Page) -> None:
    """Shape, dtype, operator and numbers change from graph to graph, there and back; so does what is held at the peak."""
    rng = random.Random(0)
    graphs = [random_graph(rng, 60)]
    for _ in range(4):
        nodes = [changed(node, rng) if rng.random() < 0.3 else node for node in graphs[-1].nodes]
        graphs.append(msgspec.structs.replace(graphs[-1], nodes=tuple(nodes)))
    shown(page, payload_of(graphs, [str(at) for at in range(5)], [diff(*pair) for pair in pairwise(graphs)]))
    for at, graph in enumerate(graphs):
        told = run(
            page,
            f"""const {{ KINDS }} = await import("/model.js");
            const m = view.session.model.seen({at});
            return m.name.map((name, i) => [name, [m.target[i], m.label[i], m.shape[i], m.dtype[i], KINDS[m.kind[i]], m.values.bytes[i], m.values.flops[i]]]);""",
        )
        wanted = {}
        for node in graph.nodes:
            flops = node.total.flops if node.op == "call_function" else None
            wanted[node.name] = [
                node.target,
                label(node),
                shape_text(node),
                SHORT_DTYPES.get(node.dtype, node.dtype),
                kind(node),
                node.bytes,
                flops,
            ]
        assert dict(told) == wanted
        held = run(page, f"const m = view.session.model.seen({at}); return m.name.map((name, i) => [name, m.values.peak[i]]);")
        lives, peak = lifetimes(graph.nodes, graph.outputs), memory_curve(graph.nodes, graph.outputs).peak_position
        assert {name: size for name, size in held if size is not None} == {
            life.name: life.bytes if life.start <= peak <= life.end else 0 for life in lives
        }


def changed(node: NodeRecord, rng: random.Random) -> NodeRecord:
    size, dtype = rng.choice([4, 8, 16]), rng.choice(["float32", "int64"])
    target = f"aten.{rng.choice(['relu', 'gelu'])}.default" if node.op == "call_function" and len(node.inputs) == 1 else node.target
    cost = msgspec.structs.replace(node.cost, flops=size)
    return msgspec.structs.replace(node, shape=(size, 2), dtype=dtype, bytes=8 * size, target=target, cost=cost)


def test_both_sides_show_their_own_sizes(page: Page) -> None:
    two, four = (climb(zoo_source("mlp", {"batch": size}), "inference", "cpu").graph for size in ("2", "4"))
    renamed = aligned(two, four)
    shown(page, payload_of([two, renamed], ["kept", "chosen"], [diff(two, renamed)]))
    run(page, EVERYTHING)
    for side, rows, at in (("before", "2", 0), ("after", "4", 1)):
        lines = run(
            page,
            f"return [...document.querySelectorAll('.stage[data-side={side}] g.leaf.changed > text.shape')].map((t) => t.textContent);",
        )
        assert len(lines) > 8
        assert all(re.match(rf"f32 {rows}×", line) for line in lines)
        found = run(
            page, f"const {{ find }} = await import('/find.js'); return find(view.session.model, {at}, 'shape:{rows}×64').chains.length;"
        )
        assert found > 4
    before, after = (run(page, f"const {{ toDot }} = await import('/export.js'); return toDot(view.panes[{at}]);") for at in (0, 1))
    assert ("f32 2×64" in before, "f32 4×64" in before) == (True, False)
    assert ("f32 2×64" in after, "f32 4×64" in after) == (False, True)


def test_what_is_gone_is_not_drawn_over_what_came(page: Page) -> None:
    """A whole group that went away where another stands now fades with all that is inside of it."""
    one, two = graph_of("mlp"), graph_of("attention")
    renamed = aligned(one, two)
    shown(page, payload_of([one, renamed], ["kept", "chosen"], [diff(one, renamed)]))
    run(page, EVERYTHING)
    over = run(
        page,
        """const after = view.session.panes.find((pane) => pane.side === "after");
        const [gone, here] = [[], []];
        for (const item of view.session.scene.items) {
          const known = after.context.status.get(item);
          if (known.status === "absent" || (item.group && item.open && known.status !== "removed")) continue;
          (known.status === "removed" ? gone : here).push(item);
        }
        const touch = (a, b) => a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height;
        return gone.filter((item) => !after.context.status.get(item).covered && here.some((other) => touch(item, other))).map((item) => item.id);""",
    )
    assert over == []
    assert run(page, "return document.querySelectorAll('.stage[data-side=after] g.group.covered').length;") > 0


def graph_of(model: str) -> GraphSnapshot:
    return climb(zoo_source(model, {}), "inference", "cpu").graph


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


@pytest.mark.parametrize("seed", [1, 11])
def test_a_pipeline_that_grows_step_by_step_hardly_moves_what_was_there(page: Page, seed: int) -> None:
    graphs, diffs = random_pipeline(seed, 120, 12)
    before: dict[str, list[float]] = {}
    moved: list[float] = []
    for last in range(1, 13):
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
