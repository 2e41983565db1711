"""The same jobs on one node and on two: what a Ray cluster gives, and whether every job is done exactly once.

    python -m benchmarks.cluster [--jobs 1000] [--real 60] [--nodes 1 2]

Each cluster is real: a head without work and nodes with one processor each, all on this machine, so more nodes than processors gain nothing.
`wait` jobs hold a node for 20 ms and compute nothing: what is left is the cost of handing a job over. `real` jobs capture a model, apply three
steps and verify them. Begun: how often nodes began jobs, which is the number of jobs where each is done exactly once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.client import Client
from jobs.cluster import ClusterEngine
from jobs.record import Optimize, Request, Sleep
from jobs.settings import Settings
from tests.ray_cluster import cluster

STEPS = "merge-common-subexpressions,fold-constants,fuse-attention"
WAIT_S = 0.02


def waits(count: int) -> list[Request]:
    return [Sleep(WAIT_S + number * 1e-7) for number in range(count)]


def real(count: int) -> list[Request]:
    words = "model=zoo/attention&mode=training&width=64&heads=2"
    return [Optimize(f"{words}&seq={8 + number}&pipeline={STEPS}", run_proven=True) for number in range(count)]


def done(client: Client, requests: Sequence[Request]) -> tuple[float, int, int]:
    """Seconds for all, jobs that were done, and how often one was begun."""
    engine = client._engine
    assert isinstance(engine, ClusterEngine)
    start = time.monotonic()
    jobs = [client.submit(request, reader=f"reader {number % 50}") for number, request in enumerate(requests)]
    while any(client.state(job).status in ("queued", "running") for job in jobs):
        time.sleep(0.05)
    seconds = time.monotonic() - start
    begun = engine.begun()
    return seconds, sum(client.state(job).status == "done" for job in jobs), sum(begun.get(job, 0) for job in jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--real", type=int, default=60)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print("| nodes | jobs | of | seconds | jobs/s | begun |\n|---|---|---|---|---|---|")
    for nodes in given.nodes:
        with cluster(nodes) as made, tempfile.TemporaryDirectory() as folder:
            settings = Settings(engine=made.address, waiting=given.jobs + given.real, waiting_of_a_reader=given.jobs + given.real)
            client = Client(Path(folder), settings=settings)
            assert isinstance(client._engine, ClusterEngine)
            while client._engine.slots < nodes:
                time.sleep(0.2)
            done(client, waits(2 * nodes))  # every node loads PyTorch once
            for kind, requests in (("wait", waits(given.jobs)), ("real", real(given.real))):
                seconds, good, begun = done(client, requests)
                print(f"| {nodes} | {kind} | {good}/{len(requests)} | {seconds:.1f} | {good / seconds:.1f} | {begun} |", flush=True)
            client.close()


if __name__ == "__main__":
    main()
