"""Pictures for tests: random pipelines of graphs, real ones, and the graph view in a browser without Streamlit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

from playwright.sync_api import Browser, Page, Route

from graphs.diff import diff
from graphs.record import Cost, Diff, GraphSnapshot, NodeRecord, Source, Totals
from jobs.experiment import parse
from jobs.record import Optimize, OptimizeResult
from jobs.run import perform
from jobs.version import ROOT
from pages.ui.graph_view import payload_of

HOST = "http://picture.test"
MIME = {"js": "text/javascript", "css": "text/css"}
OPS = ("mm", "add", "mul", "relu", "view", "softmax", "gelu", "sum")
PHASES = ("forward", "loss", "backward")
NO_TOTALS = Totals(0, 0, 0, 0, 0, 0, 0)
BLANK = """<!doctype html><html lang="en"><head><title>picture</title><link rel="stylesheet" href="/graph_view.css"><style>
body { margin: 0; --st-text-color: #1d2430; --st-background-color: #ffffff; --st-primary-color: #2f5fa8; --st-blue-color: #2f5fa8; --st-green-color: #2b7a4b;
  --st-red-color: #b3392f; --st-orange-color: #b06a12; --st-border-color: #d9dde4; --st-font: sans-serif; }
.graph-view { height: 880px !important; }</style></head><body><main><h1>Picture</h1><div class="graph-view"></div></main></body></html>"""


def random_graph(rng: random.Random, count: int) -> GraphSnapshot:
    """A dataflow graph: inputs and parameters first, then ops in phases and nested modules, some reading one tensor twice."""
    nodes: list[NodeRecord] = []
    for index in range(count):
        name = f"n{index}"
        earlier = [node.name for node in nodes]
        if index < max(2, count // 10):
            role = rng.choice(["input", "parameter"])
            nodes.append(_node(name, "placeholder", f"{role}.{index}", "forward", "", role, ()))
            continue
        reads = tuple(rng.choice(earlier[-12:] if rng.random() < 0.8 else earlier) for _ in range(rng.randint(1, 3)))
        phase = PHASES[min(2, index * 3 // count)] if rng.random() < 0.95 else "backward"
        module = ".".join(rng.choice("ab") + str(rng.randint(0, 2)) for _ in range(rng.randint(0, 3)))
        nodes.append(_node(name, "call_function", f"aten.{rng.choice(OPS)}.default", phase, module, "activation", reads))
    return _graph(nodes)


def random_pipeline(seed: int, count: int = 60, steps: int = 4) -> tuple[list[GraphSnapshot], list[Diff]]:
    """A graph and what some random rewrites made of it."""
    rng = random.Random(seed)
    graphs = [random_graph(rng, count)]
    for step in range(steps):
        graphs.append(_rewritten(rng, graphs[-1], step))
    return graphs, [diff(before, after) for before, after in zip(graphs, graphs[1:], strict=False)]


def _rewritten(rng: random.Random, graph: GraphSnapshot, step: int) -> GraphSnapshot:
    """One op replaced by a new one, one bypassed, one that reads something else."""
    nodes = list(graph.nodes)
    ops = [index for index, node in enumerate(nodes) if node.op == "call_function"]
    old = rng.choice(ops)
    new = _replace(nodes[old], name=f"new{step}", target="aten.addmm.default")
    nodes[old] = new
    swapped = {graph.nodes[old].name: new.name}
    gone = rng.choice([index for index in ops if index != old])
    swapped[nodes[gone].name] = swapped.get(nodes[gone].inputs[0], nodes[gone].inputs[0])
    del nodes[gone]
    return _graph([_replace(node, inputs=tuple(_followed(swapped, name) for name in node.inputs)) for node in nodes])


def _followed(swapped: dict[str, str], name: str) -> str:
    while name in swapped:
        name = swapped[name]
    return name


def _node(name: str, op: str, target: str, phase: str, module: str, role: str, inputs: tuple[str, ...]) -> NodeRecord:
    cost = Cost(flops=8, bytes_read=4, bytes_written=4, launches=1) if op == "call_function" else Cost()
    source = Source("model.py", 1 + len(name), f"{name} = …")
    return NodeRecord(name, op, target, phase, module, source, (4, 4), "float32", (4, 1), 64, name, role, cost, (name,), inputs)


def _replace(node: NodeRecord, **fields: Any) -> NodeRecord:
    return NodeRecord(**{**{name: getattr(node, name) for name in node.__struct_fields__}, **fields})


def _graph(nodes: Sequence[NodeRecord]) -> GraphSnapshot:
    return GraphSnapshot(tuple(nodes), (nodes[-1].name,), NO_TOTALS)


def real(words: str) -> OptimizeResult:
    """A real pipeline, computed here; what else could be done is not looked for, since no picture shows it."""
    with mock.patch("jobs.run.offers", return_value=()):
        return cast(OptimizeResult, perform(Optimize(parse(words).words), {}, lambda progress: None))


def real_payload(found: OptimizeResult) -> dict[str, Any]:
    return payload_of(found.graphs, ["captured", *(step.words for step in found.steps)], [step.diff for step in found.steps])


def blank_page(browser: Browser, scheme: str = "light") -> Page:
    """A page that can import the picture's modules from disk."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=cast(Any, scheme), accept_downloads=True)
    page = context.new_page()
    page.route(f"{HOST}/**", _serve)
    page.goto(f"{HOST}/")
    return page


@contextmanager
def watched_page(browser: Browser) -> Iterator[Page]:
    """A blank page; at the end it must turn out that no script on it failed."""
    page = blank_page(browser)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.context.close()
    assert not errors


def _serve(route: Route) -> None:
    name = route.request.url.removeprefix(HOST).partition("?")[0].lstrip("/")
    if not name:
        route.fulfill(body=BLANK, content_type="text/html")
        return
    path = ROOT / "static" / "graph" / name if name.endswith(".js") else ROOT / "pages" / "ui" / "graph_view" / name
    if path.is_file():
        route.fulfill(body=path.read_text(), content_type=MIME[path.suffix[1:]])
    else:
        route.fulfill(status=404)


def shown(page: Page, payload: dict[str, Any], settings: dict[str, Any] | None = None) -> Page:
    """The view of a payload on that page, as `window.view`; what it reports goes to `window.reports`."""
    page.evaluate(
        """async ([payload, settings]) => {
          const { View } = await import("/view.js");
          window.reports = [];
          window.view = new View(document.querySelector(".graph-view"), { report: (name, value) => reports.push([name, value]) });
          await view.load(payload, settings);
        }""",
        [payload, settings or {}],
    )
    return page
