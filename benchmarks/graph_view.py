"""The graph view beside Model Explorer and Netron: the same graphs, the same browser, one run.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install ai-edge-model-explorer netron
    python -m benchmarks.graph_view --peers /tmp/peers/bin [--rounds 3]

For each graph: seconds from opening the page until the first picture is there (each tool's own page, served or opened from this machine, its
data on disk), and the JavaScript heap after a garbage collection. Then, for fxscope alone: opening a group, all groups, frames per second while
panning, finding and selecting. Headless Chromium with software rendering.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Error, Page, sync_playwright

from graphs.capture import capture
from graphs.export import to_dot, to_model_explorer
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from pages.ui.graph_view import payload_of
from pages.ui.graph_view.page import page as web_page

GRAPHS = {
    "GPT-2 small, joint": ("gpt2", {"batch": "1", "seq": "64"}),
    "Llama, 40 layers, joint": ("llama", {"layers": "40", "width": "64", "heads": "4", "vocab": "500"}),
}
PATIENCE_S = 60
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
    "--use-angle=swiftshader",
]
PLAIN = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-gpu"]
SIZE = {"width": 1440, "height": 900}

OWN = """async () => {
  const found = {}, session = view.session, now = () => performance.now();
  const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const fps = async () => {
    let frames = 0;
    const start = now();
    await new Promise((done) => {
      const next = () => {
        frames += 1;
        session.move({ ...session.at, x: session.at.x + 6 * Math.sin(frames / 9), y: session.at.y - 3 });
        if (now() - start < 2000) requestAnimationFrame(next); else done();
      };
      next();
    });
    return frames / ((now() - start) / 1000);
  };
  const boxes = session.scene.items.filter((item) => item.group && !item.open).sort((a, b) => b.count - a.count).slice(0, 5).map((item) => item.id);
  found.toggle = [];
  for (const id of boxes) {
    const start = now();
    await session.toggle(session.scene.byId.get(id));
    found.toggle.push(now() - start);
  }
  let start = now();
  await session.setOpen(true);
  await painted();
  found.everything = now() - start;
  found.items = session.scene.items.length;
  view.main.fit();
  found.fpsFar = await fps();
  view.main.frameOn([session.scene.items.filter((item) => !item.group)[100]]);
  found.fpsNear = await fps();
  start = now(); session.select(session.scene.items.find((item) => item.label === "mm"), "after"); found.select = now() - start;
  for (const query of ["mm -> add -> gelu", "softmax -> * -> mm"]) {
    start = now(); view.query.value = query; view.find(); found.find = Math.max(found.find || 0, now() - start);
  }
  const { buildTree } = await import(fxscope["tree.js"]), { placeAll } = await import(fxscope["layout.js"]);
  const tree = buildTree(session.model), open = (box) => { box.open = true; box.children.filter((child) => child.group).forEach(open); };
  open(tree.root);
  start = now(); placeAll(tree.root, session.model, new Map()); found.positions = now() - start;
  return found;
}"""


def main() -> None:
    """Runs everything and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--peers", type=Path, help="the bin folder of an environment with ai-edge-model-explorer and netron")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        plain = playwright.chromium.launch(executable_path=_chromium(), args=PLAIN)
        for title, (model, options) in GRAPHS.items():
            graph = snapshot(capture(zoo_source(model, options), "training", "cpu").program)
            files = _write(Path(folder), model, graph)
            print(f"\n{title}: {len(graph.nodes):,} nodes\n\n| | first picture | heap |\n|---|---|---|")
            _compare(chromium, files, given.peers, given.rounds)
            _own(plain, files, "software rendering without WebGL")
            _own(chromium, files, "WebGL emulated in software, as Model Explorer needs it")


def _chromium() -> str | None:
    import shutil

    return shutil.which("chromium")


def _write(folder: Path, name: str, graph: GraphSnapshot) -> dict[str, Path]:
    files = {"fxscope": folder / f"{name}.html", "Model Explorer": folder / f"{name}.json", "Netron": folder / f"{name}.dot"}
    files["fxscope"].write_text(web_page(payload_of([graph]), name, name, []))
    files["Model Explorer"].write_text(json.dumps(to_model_explorer(graph, name)))
    files["Netron"].write_text(to_dot(graph))
    return files


# ---------------------------------------------------------------- first picture and heap


def _compare(chromium: Browser, files: dict[str, Path], peers: Path | None, rounds: int) -> None:
    tools: dict[str, Callable[[Page], None]] = {"fxscope": lambda page: _fxscope(page, files["fxscope"])}
    if peers is None:
        _row("fxscope", [_once(chromium, tools["fxscope"]) for _ in range(rounds)])
        return
    with _model_explorer(peers, files["Model Explorer"]) as explorer, _netron(peers, files["Netron"]) as netron:
        tools["Model Explorer"] = lambda page: _open_explorer(page, explorer)
        tools["Netron"] = lambda page: _open_netron(page, netron)
        found: dict[str, list[tuple[float, float] | None]] = {name: [] for name in tools}
        for _ in range(rounds):
            for name, act in tools.items():
                if None not in found[name]:  # what did not finish once is not tried again
                    found[name].append(_once(chromium, act))
        for name, runs in found.items():
            _row(name, runs)


def _once(chromium: Browser, act: Callable[[Page], None]) -> tuple[float, float] | None:
    """(seconds to the first picture, heap in MB), or None when it did not come in time."""
    context = chromium.new_context(viewport=SIZE)  # type: ignore[arg-type]
    page = context.new_page()
    start = time.perf_counter()
    try:
        act(page)
        seconds = time.perf_counter() - start
        page.wait_for_timeout(1500)
        session = context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    except Error:
        return None
    finally:
        context.close()
    return seconds, heap


def _row(name: str, runs: list[tuple[float, float] | None]) -> None:
    if None in runs:
        print(f"| {name} | none after {PATIENCE_S} s | |")
        return
    seconds, heaps = zip(*[run for run in runs if run], strict=True)
    print(f"| {name} | {statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f}) | {statistics.median(heaps):.0f} MB |")


def _fxscope(page: Page, path: Path) -> None:
    page.goto(path.as_uri())
    page.locator(".graph-view[data-drawn]").wait_for(timeout=PATIENCE_S * 1000)


def _open_explorer(page: Page, address: str) -> None:
    """Its picture is there when the canvas is and the panel `Processing graph` has begun to go."""
    page.goto(address)
    page.wait_for_function("document.querySelector('canvas.main')?.width > 300", timeout=PATIENCE_S * 1000)


def _open_netron(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Accept").click(timeout=10_000)
    page.locator("body.default g.node").first.wait_for(timeout=PATIENCE_S * 1000)  # `default` is set when the layout is done


@contextmanager
def _model_explorer(peers: Path, model: Path) -> Iterator[str]:
    port = _free_port()
    command = [peers / "model-explorer", model, "--no_open_in_browser", "--skip_health_check", "--port", str(port)]
    with _running(command, port):
        yield f"http://localhost:{port}/?data={quote(json.dumps({'models': [{'url': str(model)}]}))}"


@contextmanager
def _netron(peers: Path, model: Path) -> Iterator[str]:
    port = _free_port()
    with _running([peers / "netron", "--port", str(port), model], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[Path | str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("localhost", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---------------------------------------------------------------- fxscope alone


def _own(chromium: Browser, files: dict[str, Path], rendering: str) -> None:
    page = chromium.new_page(viewport=SIZE)  # type: ignore[arg-type]
    _fxscope(page, files["fxscope"])
    found = page.evaluate(OWN)
    page.close()
    print(f"\nfxscope, {found['items']:,} items when all is open, {rendering}:")
    print(f"- opening one of the five largest groups: {', '.join(f'{ms:.0f}' for ms in found['toggle'])} ms")
    print(
        f"- opening everything until it is painted: {found['everything']:.0f} ms; of it positions, all groups anew: {found['positions']:.0f} ms"
    )
    print(f"- panning all of it: {found['fpsFar']:.0f} frames a second from afar, {found['fpsNear']:.0f} from near")
    print(f"- selecting a node: {found['select']:.0f} ms; finding a pattern of three ops: {found['find']:.0f} ms")


if __name__ == "__main__":
    main()
