"""The app in a real browser: what only a browser shows, the graph above all."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from jobs.client import Client
from tests import browser as driver
from tests.browser import Server, settled
from tests.test_seams_page import CUT

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2"
FORWARD = "explore?model=zoo/attention&seq=16&width=32&heads=2"
FUSED = f"optimize?{ATTENTION}&pipeline=fuse-loops"
WINDOW: ViewportSize = {"width": 1440, "height": 900}


At = Callable[[str], Page]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server keeps."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with driver.server(data) as running:
        yield running


@pytest.fixture(scope="module")
def first(server: Server, chromium: Browser) -> Iterator[Page]:
    """The server's first visitor, who asks for a page by name."""
    context = chromium.new_context(viewport=WINDOW)
    yield visit(context.new_page(), server, f"optimize?{ATTENTION}")
    context.close()


@pytest.fixture
def page(first: Page, chromium: Browser) -> Iterator[Page]:
    """A fresh visitor; the test fails if the page's scripts did, or wanted what the server's policy forbids."""
    context = chromium.new_context(viewport=WINDOW)
    opened = context.new_page()
    errors: list[str] = []
    watch(opened, errors)
    yield opened
    context.close()
    assert not errors


@pytest.fixture(scope="module")
def at(first: Page, server: Server, chromium: Browser) -> Iterator[At]:
    """Pages by address, each opened once: for tests that leave model and pipeline as they are, and begin with any choice and any open group."""
    context = chromium.new_context(viewport=WINDOW)
    errors: list[str] = []
    opened: dict[str, Page] = {}

    def found(path: str) -> Page:
        if path not in opened:
            opened[path] = context.new_page()
            watch(opened[path], errors)
            visit(opened[path], server, path)
        return opened[path]

    yield found
    context.close()
    assert not errors


def watch(page: Page, errors: list[str]) -> None:
    """Collects what went wrong in the page's scripts, and what was refused by the policy that the server sends along."""
    page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)


def visit(page: Page, server: Server, path: str) -> Page:
    page.goto(f"{server.address}/{path}")
    if not path.startswith("measure"):
        panes(page).first.locator("g.leaf").first.wait_for(timeout=150_000)  # kernels are compiled
    return settled(page)


def panes(page: Page) -> Locator:
    return page.locator(".graph-view")


def unfolded_text(page: Page) -> str:
    """What the page says outside of folds: whether one is open is the visitor's business, not the address's."""
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = false)")
    return page.get_by_test_id("stMain").inner_text()


def node(page: Page, name: str, side: str = "after") -> Locator:
    """The drawn box of a node, by the name in its tooltip."""
    return page.locator(f".stage[data-side={side}] g.leaf").filter(has=page.locator("title", has_text=re.compile(rf"^{name}\n")))


def test_the_first_visitor_may_ask_for_any_page(first: Page) -> None:
    expect(first.get_by_test_id("stSidebarNavLink")).to_have_text(
        [
            re.compile(name)
            for name in ("Explore", "Optimize", "Memory", "Compare", "Measure", "Profile", "Predict", "Learn", "Class", "Gallery", "About")
        ]
    )
    expect(first.get_by_role("heading", name="Add a step")).to_be_visible()


def test_explore_may_be_asked_for_by_name(at: At) -> None:
    page = at(FORWARD)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(panes(page).locator("g.leaf").first).to_be_visible()


def test_a_click_explains_a_node_and_its_neighbours_light_up(at: At) -> None:
    page = at(FORWARD)
    page.get_by_role("button", name="Show everything that is open").click()
    node(page, "_softmax").click()
    expect(page.get_by_text("aten._softmax.default").first).to_be_visible()
    expect(page.get_by_text("softmax(").first).to_be_visible()  # its source line
    assert panes(page).locator(".near").count() >= 2
    page.get_by_role("button", name="masked_fill").first.click()  # what it reads
    expect(panes(page).locator(".status")).to_contain_text("masked_fill selected")


def test_a_row_of_the_table_is_found_in_the_graph(at: At) -> None:
    page = at(FORWARD)
    page.get_by_role("tab", name="Nodes").click()
    box = page.get_by_placeholder("Part of a name")
    box.fill("softmax")
    box.press("Enter")
    settled(page)
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    table.click(position={"x": 20, "y": 55})
    expect(panes(page).locator(".status")).to_contain_text("softmax selected")


def test_groups_close_and_open_and_the_graph_moves(at: At) -> None:
    page = at("?model=zoo/mlp")
    drawn = panes(page).locator("g.leaf").count()
    toggle = panes(page).locator("g.group.open").first.locator("> .toggle")
    toggle.click()
    assert panes(page).locator("g.leaf").count() < drawn
    panes(page).get_by_role("button", name="Open and close groups as at first").click()
    assert panes(page).locator("g.leaf").count() == drawn
    world = panes(page).locator("svg > g.world").first
    before = world.get_attribute("transform")
    box = page.locator(".stage").bounding_box()
    assert box
    page.mouse.move(box["x"] + 30, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 340, steps=4)
    page.mouse.up()
    moved = world.get_attribute("transform")
    assert moved != before
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    assert world.get_attribute("transform") != moved


def test_the_graph_answers_to_keys(at: At) -> None:
    page = at("?model=zoo/mlp")
    panes(page).focus()
    page.keyboard.press("ArrowDown")
    expect(panes(page).locator(".status")).to_contain_text("selected")
    first = panes(page).locator(".status").inner_text()
    page.keyboard.press("ArrowDown")
    assert panes(page).locator(".status").inner_text() != first


def test_a_step_is_added_drawn_and_kept_in_the_address(server: Server, page: Page, chromium: Browser) -> None:
    visit(page, server, f"optimize?{ATTENTION}")
    page.locator("summary", has_text="Fusion").first.click()  # offers are folded by kind
    card = page.locator(".st-key-add-fuse-attention")
    card.get_by_role("button").click()
    settled(page)
    assert "pipeline=fuse-attention" in page.url
    assert page.locator(".stage[data-side=before] g.leaf.removed").count() > 5
    assert page.locator(".stage[data-side=after] g.leaf:is(.added, .fused)").count() >= 3
    expect(page.get_by_text("same up to rounding").first).to_be_visible()
    elsewhere = chromium.new_context(viewport=WINDOW).new_page()
    elsewhere.goto(page.url)
    settled(elsewhere)
    unfolded_text(elsewhere)
    # waited for, because icons may come a moment after the page
    expect(elsewhere.get_by_test_id("stMain")).to_have_text(unfolded_text(page), use_inner_text=True, timeout=15_000)
    elsewhere.context.close()


def test_work_that_takes_long_shows_progress_and_can_be_cancelled(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/chain&depth=2")
    page.get_by_label("Model", exact=False).first.click()
    page.get_by_role("option", name=re.compile("own model")).click()
    settled(page)
    expect(page.get_by_text("has no option")).to_have_count(0)  # those of the model before are gone
    page.locator("textarea").first.fill("while True:\n    pass")
    page.get_by_role("button", name="Show its graph").click()
    cancel = page.get_by_role("button", name="Cancel")
    cancel.wait_for(timeout=10_000)
    expect(panes(page).locator("g.leaf").first).to_be_visible()  # the last good graph stays
    cancel.click()
    expect(page.get_by_text("Cancelled")).to_be_visible(timeout=10_000)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(panes(page).locator("g.leaf").first).to_be_visible()


def test_names_from_a_file_are_never_markup(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/chain&depth=2")
    page.get_by_label("Model", exact=False).first.click()
    page.get_by_role("option", name=re.compile("own model")).click()
    settled(page)
    page.locator("textarea").first.fill(
        "from torch import nn\nimport torch\n"
        "def model():\n    net = nn.Module()\n    class Net(nn.Module):\n"
        "        def __init__(self):\n            super().__init__()\n"
        "            self.add_module('<img src=x onerror=document.title=1>', nn.Linear(2, 2))\n"
        "        def forward(self, x):\n            return next(self.children())(x)\n"
        "    return Net()\n"
        "def inputs():\n    return torch.ones(1, 2)\n"
    )
    page.get_by_role("button", name="Show its graph").click()
    page.wait_for_timeout(1500)
    settled(page)
    expect(page.get_by_text("<img").first).to_be_attached()
    assert page.locator("img[src=x]").count() == 0


def test_measuring_draws_charts(server: Server, page: Page) -> None:
    visit(page, server, f"measure?{ATTENTION}&device=cpu&pipeline=fuse-attention")
    page.get_by_role("button", name="Measure", exact=True).click()
    page.get_by_role("heading", name="Measured", exact=True).wait_for(timeout=60_000)
    settled(page)
    for title in ("Time of a run, ", "Peak memory, ", "Peak memory (counted)", "Bytes moved (counted)"):
        expect(page.get_by_test_id("stPlotlyChart").filter(has_text=re.compile(re.escape(title)))).to_have_count(1)


def test_what_is_proven_can_be_run_too(server: Server, page: Page) -> None:
    visit(page, server, "optimize?model=zoo/chain&mode=training&depth=6&width=16&batch=256&device=cpu&pipeline=recompute-activations")
    press = page.get_by_role("button", name="Run it too")
    press.wait_for(timeout=60_000)
    press.click()
    expect(press).to_have_count(0, timeout=60_000)


def test_both_themes_draw_the_graph_in_their_own_colours(at: At) -> None:
    page = at("?model=zoo/mlp")
    for scheme, channel in {"dark": "[0-5]?[0-9]", "light": "2[0-9][0-9]"}.items():
        page.emulate_media(color_scheme=cast(Any, scheme))
        expect(panes(page)).to_have_css("background-color", re.compile(rf"^rgb\({channel}(, {channel}){{2}}\)$"), timeout=15_000)


def test_a_click_on_the_map_of_time_leads_to_the_node(server: Server, page: Page) -> None:
    page.goto(f"{server.address}/profile_nodes?model=zoo/mlp&device=cpu")
    page.get_by_text("Not profiled yet").wait_for(timeout=60_000)
    settled(page).get_by_test_id("stMain").get_by_role("button", name="Profile").click()
    page.get_by_text("Whole run · measured").wait_for(timeout=60_000)
    settled(page).get_by_role("radio", name="Groups", exact=True).click()
    box = page.get_by_test_id("stPlotlyChart").nth(1).locator(".bars .point path").first
    box.wait_for(timeout=30_000)
    place = settled(page) and box.bounding_box()
    assert place
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    expect(page.get_by_text("of a run (measured)")).to_be_visible(timeout=30_000)
    expect(panes(page).locator("g.leaf.selected")).to_have_count(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_web_process_never_loads_torch(server: Server, at: At) -> None:
    at(FUSED)
    web = Path(f"/proc/{server.process.pid}")
    assert "libtorch" not in (web / "maps").read_text()
    workers = [int(pid) for task in (web / "task").iterdir() for pid in (task / "children").read_text().split()]
    assert any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)  # so the test can tell


def test_a_line_of_code_lights_what_it_became(at: At) -> None:
    page = at(FORWARD)
    page.get_by_role("tab", name="Source lines").click()
    table = page.get_by_test_id("stDataFrame").locator("visible=true")
    table.scroll_into_view_if_needed()
    table.click(position={"x": 20, "y": 55})
    expect(panes(page).locator(".hits")).to_have_text(re.compile(r"^1 of \d+"))
    expect(panes(page).get_by_label("Find nodes")).to_have_value(re.compile(r"^source:.*:\d+$"))
    assert panes(page).locator("g.leaf.dim").count() > 5
    assert panes(page).locator("g.leaf.lit").count() >= 1


def look_of(page: Page) -> str:
    """What the address says of how the graph is seen."""
    packed = dict(parse_qsl(urlsplit(page.url).query)).get("look", "")
    return zlib.decompress(base64.urlsafe_b64decode(packed)).decode() if packed else ""


def test_the_menu_saves_the_session_as_a_program_and_as_a_web_page(server: Server, page: Page) -> None:
    visit(page, server, f"optimize?{ATTENTION}&device=cpu&pipeline=fuse-attention")
    page.get_by_text("Save this session").click()
    settled(page)
    page.get_by_role("button", name="Write the file").click()
    save = page.get_by_role("button", name="Save fxscope_step_1.py")
    save.wait_for(timeout=60_000)
    settled(page)
    for button, name, holds in (
        (save, "fxscope_step_1.py", "fuse-attention"),
        (page.get_by_role("button", name="Web page"), "fxscope.html", "<title>fxscope: zoo/attention</title>"),
    ):
        with page.expect_download(timeout=60_000) as caught:
            button.click()
        assert caught.value.suggested_filename == name
        content = caught.value.path().read_text()
        assert holds in content
        if name.endswith(".py"):
            compile(content, name, "exec")


def test_the_look_is_in_the_address(server: Server, page: Page, chromium: Browser) -> None:
    visit(page, server, "?model=zoo/mlp&mode=training")
    panes(page).get_by_label("Colour by").select_option("flops")
    node(page, "mse_loss").click()
    for _ in range(60):  # the address follows when the reader has come to rest
        if "mse_loss" in look_of(page):
            break
        page.wait_for_timeout(250)
    settled(page)
    assert "mse_loss" in look_of(page)
    context = chromium.new_context(viewport=WINDOW)
    elsewhere = visit(context.new_page(), server, page.url.partition("/?")[2] and "?" + page.url.partition("/?")[2])
    expect(panes(elsewhere).locator(".legend")).to_contain_text("operations")
    expect(panes(elsewhere).locator(".status")).to_contain_text("mse_loss selected")
    context.close()


def test_back_leaves_a_page_at_once(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/mlp&mode=training&batch=7")
    for name in ("Memory", "Optimize"):
        page.get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=30_000)
        settled(page)
    panes(page).locator("g.leaf").first.click()  # changes the address
    page.wait_for_function("location.search.includes('look=')")
    settled(page)
    for name in ("Memory", "Explore"):
        page.go_back()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=30_000)
        settled(page)
    assert "batch=7" in page.url


def test_a_lesson_that_was_opened_is_one_step_back_from_the_list(server: Server, page: Page) -> None:
    page.goto(f"{server.address}/learn")
    settled(page).get_by_role("button", name="Open").first.click()
    leave = page.get_by_role("button", name="All lessons")
    leave.wait_for(timeout=30_000)
    settled(page)
    page.go_back()
    page.get_by_role("button", name="Open").first.wait_for(timeout=30_000)
    page.go_forward()
    leave.click()
    page.get_by_role("button", name="Open").first.wait_for(timeout=30_000)
    settled(page).go_back()
    expect(leave).to_be_visible(timeout=30_000)


def test_a_double_click_adds_one_step(server: Server, page: Page) -> None:
    visit(page, server, "optimize?model=zoo/mlp&mode=inference&batch=6")
    page.get_by_role("button", name="Add", exact=True).first.dblclick()
    page.wait_for_function("location.search.includes('pipeline=')")
    settled(page)
    expect(page.locator("[class*='st-key-remove-']")).to_have_count(1)
    assert "%2C" not in page.url.partition("pipeline=")[2].partition("&")[0]


def test_a_click_does_not_send_the_graph_again(server: Server, page: Page) -> None:
    received: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    visit(page, server, "?model=zoo/gpt2&mode=training&layers=6&width=32&heads=2&vocab=64&seq=8")
    first = sum(received)
    received.clear()
    panes(page).focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(1500)
    settled(page)
    assert first > 60_000  # the graph and its table came once
    assert 0 < sum(received) < first / 3


def test_the_cursor_of_memory_and_the_graph_move_one_another(server: Server, page: Page) -> None:
    visit(page, server, "memory?model=zoo/mlp&mode=training&device=cpu")
    now, status = page.locator(".timeline .now"), panes(page).locator(".status")
    expect(now).to_contain_text("81 of 84: sum_5 runs")  # begins at the peak
    box = page.get_by_role("slider", name="Position in the order of execution").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 60, box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 90, steps=3)
    page.mouse.up()
    running = re.search(r": (\w+) runs", now.inner_text())
    assert running
    expect(status).to_contain_text(f"{running[1]} selected")
    settled(page)
    node(page, "mse_loss_backward").click()
    expect(now).to_contain_text("mse_loss_backward runs")
    expect(page.locator(".timeline .chosen")).to_have_attribute("data-name", "mse_loss_backward")


def test_nodes_and_lines_light_up_together_and_fusions_are_the_readers(at: At) -> None:
    page = at(FUSED)
    page.get_by_role("button", name="Show everything that is open").click()
    page.locator(".stage[data-side=after] g.leaf.fused", has_text="div·masked_fill").click()
    page.locator(".kernel-view .row.linked").first.wait_for(timeout=60_000)
    settled(page)
    together(page)
    ctrl = {"modifiers": ["Control"]}
    node(page, "_softmax_backward_data", "before").or_(node(page, "bmm")).first.scroll_into_view_if_needed()
    node(page, "bmm").click(**ctrl)  # type: ignore[arg-type]
    expect(page.get_by_text("1 chosen node")).to_be_visible(timeout=20_000)
    expect(page.locator(".stage[data-side=after] g.leaf.chosen")).to_have_count(1)


def together(page: Page) -> None:
    """A node lights its lines, a line its node, a click keeps them, and the keyboard does the same."""
    view = page.locator(".kernel-view")
    button = view.get_by_role("button", name=re.compile("masked_fill"))
    button.hover()
    lit = view.locator(".row.lit .names")
    assert set(filter(None, lit.all_inner_texts())) == {"masked_fill"}
    expect(view.locator("g.leaf.lit")).to_have_count(1)
    view.locator(".row.linked").first.hover()
    expect(view.locator(".kernel-told")).to_contain_text(re.compile(r"^Line \d+ computes "))
    view.get_by_role("button", name=re.compile("_softmax")).click()
    page.mouse.move(0, 0)
    expect(view.get_by_role("button", name=re.compile("_softmax"))).to_have_attribute("aria-pressed", "true")
    expect(view.locator(".kernel-told")).to_contain_text("_softmax: aten._softmax.default")
    view.locator(".code").focus()
    page.keyboard.press("ArrowDown")
    expect(view.locator(".row.current")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(view.locator(".row.lit")).to_have_count(0)


def test_a_graph_break_leads_into_the_picture(data: Path, server: Server, page: Page) -> None:
    kept = Client(data)
    words = f"model=source/{kept.keep_source(CUT.encode(), 'net.py')}"
    kept.close()
    visit(page, server, f"?{words}")
    page.get_by_role("tab", name="Graph breaks").click()
    page.get_by_role("button", name="Where would torch.compile break?").click()
    expect(page.get_by_text("torch.compile makes 3 graphs of this model")).to_be_visible(timeout=60_000)
    table = page.get_by_test_id("stDataFrame").locator("visible=true").first
    settled(page)
    table.scroll_into_view_if_needed()
    table.click(position={"x": 15, "y": 37 + 17 + 35})  # the box before the second row
    expect(page.get_by_text("Way out: Use torch.where")).to_be_visible(timeout=20_000)
    expect(panes(page).locator("g.leaf.selected")).to_contain_text("mul")


def test_the_picture_and_the_cards_walk_to_the_same_step(server: Server, page: Page) -> None:
    visit(page, server, "optimize?model=zoo/mlp&pipeline=remove-dead-code,merge-common-subexpressions")
    back = page.get_by_role("button", name="One step back")
    for heading in ("Step 1: remove-dead-code", "The graph as captured"):
        back.click()
        expect(page.get_by_role("heading", name=heading)).to_be_visible(timeout=30_000)
    page.locator(".st-key-show-1 button").first.click()
    expect(page.get_by_role("heading", name="Step 2: merge-common-subexpressions")).to_be_visible(timeout=30_000)
    expect(page.locator("output.step")).to_have_text("2. merge-common-subexpressions")
    back.click()
    expect(page.get_by_role("heading", name="Step 1: remove-dead-code")).to_be_visible(timeout=30_000)
