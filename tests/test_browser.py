"""The app in a real browser: what only a browser shows, the graph above all."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests import browser as driver
from tests.browser import Server, settled

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with driver.server(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh visitor; the test fails if the page's scripts did."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors


def visit(page: Page, server: Server, path: str) -> Page:
    page.goto(f"{server.address}/{path}")
    if not path.startswith("measure"):
        panes(page).first.locator("g.leaf").first.wait_for(timeout=60_000)
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


# First, because a server whose first visitor asks for a page by name is a case of its own.
def test_the_first_visitor_may_ask_for_any_page(tmp_path: Path, page: Page) -> None:
    with driver.server(tmp_path) as fresh:
        visit(page, fresh, f"optimize?{ATTENTION}")
        expect(page.get_by_test_id("stSidebarNavLink")).to_have_text(
            [re.compile(name) for name in ("Explore", "Optimize", "Memory", "Compare", "Measure")]
        )
        expect(page.get_by_role("heading", name="Add a step")).to_be_visible()


def test_explore_may_be_asked_for_by_name(server: Server, page: Page) -> None:
    visit(page, server, f"explore?{ATTENTION}")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(panes(page).locator("g.leaf").first).to_be_visible()


def test_a_click_explains_a_node_and_its_neighbours_light_up(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/attention&seq=16&width=32&heads=2")
    page.get_by_role("button", name="Show everything that is open").click()
    node(page, "_softmax").click()
    expect(page.get_by_text("aten._softmax.default").first).to_be_visible()
    expect(page.get_by_text("softmax(").first).to_be_visible()  # its source line
    assert panes(page).locator(".near").count() >= 2
    page.get_by_role("button", name="masked_fill").first.click()  # what it reads
    expect(panes(page).locator(".status")).to_contain_text("masked_fill selected")


def test_a_row_of_the_table_is_found_in_the_graph(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/attention&seq=16&width=32&heads=2")
    box = page.get_by_placeholder("Part of a name")
    box.fill("softmax")
    box.press("Enter")
    settled(page)
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    table.click(position={"x": 20, "y": 55})
    expect(panes(page).locator(".status")).to_contain_text("softmax selected")


def test_groups_close_and_open_and_the_graph_moves(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/mlp")
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


def test_the_graph_answers_to_keys(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/mlp")
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
    elsewhere = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
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
    assert page.get_by_test_id("stPlotlyChart").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_draw_the_graph_in_their_own_colours(server: Server, chromium: Browser, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = visit(context.new_page(), server, "?model=zoo/mlp")
    paper = panes(page).evaluate("element => getComputedStyle(element).backgroundColor")
    shade = sum(int(part) for part in re.findall(r"\d+", paper)[:3]) / 3
    assert shade > 200 if scheme == "light" else shade < 60
    context.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_web_process_never_loads_torch(server: Server, page: Page) -> None:
    visit(page, server, f"optimize?{ATTENTION}&pipeline=fuse-attention")
    web = Path(f"/proc/{server.process.pid}")
    assert "libtorch" not in (web / "maps").read_text()
    workers = [int(pid) for task in (web / "task").iterdir() for pid in (task / "children").read_text().split()]
    assert any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)  # so the test can tell


def test_a_line_of_code_lights_what_it_became(server: Server, page: Page) -> None:
    visit(page, server, "?model=zoo/attention&seq=16&width=32&heads=2")
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
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    elsewhere = visit(context.new_page(), server, page.url.partition("/?")[2] and "?" + page.url.partition("/?")[2])
    expect(panes(elsewhere).locator(".legend")).to_contain_text("operations")
    expect(panes(elsewhere).locator(".status")).to_contain_text("mse_loss selected")
    context.close()


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
