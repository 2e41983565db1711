"""How long the app takes from its command to a page that can be used, and whether the web process stays without torch.

    python -m benchmarks.start [ROUNDS]

Seconds of wall time, median of some starts, each with an empty data folder and a port of its own. *Serves* is the first answer of the
web process; *first graph* is a headless browser showing the first model's graph, for which the worker had to load torch.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests import browser


def main(rounds: int) -> None:
    """Starts the app `rounds` times and prints the medians."""
    serves, first_graph, loaded = [], [], False
    with browser.browser() as chromium:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as data:
                start = time.perf_counter()
                with browser.server(Path(data)) as server:
                    serves.append(time.perf_counter() - start)
                    page = chromium.new_page()
                    page.goto(server.address)
                    page.locator(".graph-view g.leaf").first.wait_for(timeout=60_000)
                    first_graph.append(time.perf_counter() - start)
                    loaded |= "libtorch" in Path(f"/proc/{server.process.pid}/maps").read_text()
                    page.close()
    print(f"serves       {statistics.median(serves):.2f} s (lowest {min(serves):.2f}, highest {max(serves):.2f}, {rounds} starts)")
    print(f"first graph  {statistics.median(first_graph):.2f} s (lowest {min(first_graph):.2f}, highest {max(first_graph):.2f})")
    print(f"torch in the web process: {'yes' if loaded else 'no'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
