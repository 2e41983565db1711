"""Jobs on a real Ray cluster: a head and two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from graphs.errors import JobError, RequestError
from jobs.client import Client
from jobs.cluster import ClusterEngine
from jobs.record import Crash, Empty, Explore, ExploreResult, Optimize, Progress, Sleep
from jobs.settings import Settings
from tests.ray_cluster import Cluster, cluster, kill
from tests.test_jobs import MODEL, until


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster(nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def client(nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"), settings=Settings(engine=nodes.address))
    until(lambda: engine(made).slots == 2)
    yield made
    made.close()


def engine(client: Client) -> ClusterEngine:
    assert isinstance(client._engine, ClusterEngine)
    return client._engine


def place(client: Client, job: str) -> str:
    """The node that has a job."""
    found = engine(client).where(job)
    return found[0] if found else ""


def test_results_are_those_of_this_machine_and_a_file_runs_in_a_sandbox_there(client: Client, tmp_path: Path) -> None:
    sha = client.keep_source(f"import os\nassert not os.path.exists('/etc/shadow')\n{MODEL}".encode(), "mine.py")
    local = Client(tmp_path)
    local.keep_source(f"import os\nassert not os.path.exists('/etc/shadow')\n{MODEL}".encode(), "mine.py")
    for request in (Explore("model=zoo/mlp&device=cpu"), Explore(f"model=source/{sha}&device=cpu")):
        there, here = (cast(ExploreResult, one.run(request)) for one in (client, local))
        assert there.graph == here.graph
    local.close()


def test_what_is_wrong_there_is_told_as_here(client: Client) -> None:
    with pytest.raises(RequestError, match="no model `zoo/nope`"):
        client.run(Optimize("model=zoo/nope"))
    with pytest.raises(JobError, match="SIGSEGV"):
        client.run(Crash(11))
    with pytest.raises(JobError, match="took longer than 1 s"):
        client.run(Sleep(30.6), limit_s=1)


def test_progress_is_told_and_a_job_can_be_cancelled(client: Client) -> None:
    told: list[Progress] = []
    assert client.run(Sleep(1.2), told.append) == Empty()
    assert [one for one in told if one.text == "sleeping"]
    job = client.submit(Sleep(30.1))
    until(lambda: bool(place(client, job)))
    client.cancel(job)
    until(lambda: client.state(job).status == "cancelled")
    assert client.run(Sleep(0.01)) == Empty()


def test_every_job_of_many_is_done_exactly_once(client: Client) -> None:
    jobs = [client.submit(Sleep(number / 1e5), reader=f"reader {number % 7}") for number in range(1, 60)]
    until(lambda: all(client.state(job).status == "done" for job in jobs))
    begun = engine(client).begun()
    assert [begun[job] for job in jobs] == [1] * len(jobs)


def test_a_job_for_a_gpu_waits_for_one_and_says_so(client: Client) -> None:
    job = client.submit(Explore("model=zoo/mlp&device=cuda"))
    until(lambda: "waiting for a GPU" in (client.state(job).progress or Progress("", 0)).text)
    assert "no node of the cluster has one" in cast(Progress, client.state(job).progress).text
    client.cancel(job)
    until(lambda: client.state(job).status == "cancelled")


def test_a_lost_node_loses_no_job(client: Client, nodes: Cluster) -> None:
    jobs = [client.submit(Sleep(4.0 + number / 100)) for number in range(2)]
    until(lambda: all(place(client, job) for job in jobs))
    assert place(client, jobs[0]) != place(client, jobs[1])  # both nodes have work
    kill(nodes._nodes[1])
    until(lambda: all(client.state(job).status == "done" for job in jobs), 120)
    begun = engine(client).begun()
    assert sorted(begun[job] for job in jobs) == [1, 2]
    assert client.run(Sleep(0.02)) == Empty()


def test_where_no_cluster_answers_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no engine `nowhere`"):
        Client(tmp_path, settings=Settings(engine="nowhere"))
