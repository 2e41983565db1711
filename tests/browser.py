"""A real server and a real browser for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from jobs.version import ROOT

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
START_S, SETTLE_S = 30, 90


class Server:
    """The app on a port of its own, with its own data."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"http://127.0.0.1:{port}"


@contextmanager
def server(data: Path, *options: str, log: Path | None = None, script: Path = ROOT / "server.py", port: int = 0) -> Iterator[Server]:
    """The app as `make run` starts it, but elsewhere; ended afterwards.

    Args:
        options: of `streamlit run`, and behind `--` of the app.
        log: takes all that the server says.
        script: what is served, where it is not the app.
        port: where it listens; default is one that is free.
    """
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}", *options]
    environment = {**os.environ, "FXSCOPE_DATA": str(data)}
    with open(log or os.devnull, "wb") as said:
        errors = subprocess.STDOUT if log else None
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=errors)
    try:
        found = Server(process, port)
        _wait_until_up(found)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_up(found: Server) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{found.address}/_stcore/health", timeout=2).read()
        except OSError:
            assert time.monotonic() < until, "the app did not start"
            assert found.process.poll() is None, "the app ended at once"
            time.sleep(0.1)
        else:
            return


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without windows, which takes a fifth of the work to open a page, where Debian has installed it; with them, or Playwright's own, elsewhere."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell") or shutil.which("chromium"), args=FLAGS
        )
        try:
            yield launched
        finally:
            launched.close()


def settled(page: Page) -> Page:
    """Waits until the page has run, no work is left and every graph is drawn."""
    app = page.get_by_test_id("stApp")
    expect(app).to_have_attribute("data-test-connection-state", "CONNECTED", timeout=SETTLE_S * 1000)
    until = time.monotonic() + SETTLE_S
    quiet = 0
    while quiet < 3:
        assert time.monotonic() < until, "the page did not come to rest"
        page.wait_for_timeout(150)
        resting = app.get_attribute("data-test-script-state") == "notRunning"
        drawn = page.locator(".graph-view").count() == page.locator(".graph-view:has(g.leaf, g.group)").count()
        quiet = quiet + 1 if resting and drawn and not page.get_by_test_id("stProgress").count() else 0
    return page
