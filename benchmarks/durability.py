"""What is lost when processes are killed, the power is cut and disks are full: `python -m benchmarks.durability [--rounds N] [--cuts N] [--servers N]`.

Writers are killed on the real disk of this machine; power cuts are replayed (`power_cut.py`), since only a model can drop what was not synced; the
full disk is a small one in memory. Servers are real clients with their worker: they are killed, and in between they lose their workers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.keeping import faults
from benchmarks.killing import kill_often
from benchmarks.power_cut import Disk, record
from jobs.client import Client
from jobs.engines import LocalEngine
from jobs.version import ROOT

SERVE = "from benchmarks.durability import serve; import sys; serve(sys.argv[1], int(sys.argv[2]))"


def serve(folder: str, seed: int) -> None:
    """Runs jobs and takes uploads without end, tells each that is done, and kills its own worker now and then."""
    from graphs.errors import JobError
    from jobs.record import Sleep

    client, chance = Client(Path(folder)), random.Random(seed)

    def kill_workers() -> None:
        while True:
            time.sleep(chance.uniform(0.2, 1.0))
            assert isinstance(client._engine, LocalEngine)
            for pid in client._engine.pids():
                os.kill(pid, signal.SIGKILL)
                print("killed", flush=True)

    client.run(Sleep(0.01))  # PyTorch is loaded
    threading.Thread(target=kill_workers, daemon=True).start()
    number = 0
    while True:
        number += 1
        try:
            client.run(request := Sleep(0.02 + seed * 1e-4 + number * 1e-6))
        except JobError:  # its worker was killed: the same job again
            print("again", flush=True)
            continue
        print("job", client.submit(request), flush=True)
        print("source", client.keep_source(b"# %d of %d\ndef model(): ..." % (number, seed), "model.py"), flush=True)


def killed_servers(folder: Path, count: int) -> tuple[str, int, int, list[str]]:
    """(row's name, kills, told, faults) of servers killed at random moments after their first job."""
    chance, told, worker_kills = random.Random(0), list[tuple[str, str]](), 0
    found: list[str] = []
    for number in range(count):
        server = subprocess.Popen([sys.executable, "-c", SERVE, str(folder), str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        lines = [server.stdout.readline()]  # it works by now
        time.sleep(chance.uniform(0, 1.5))
        os.kill(server.pid, signal.SIGKILL)
        lines += server.stdout.read().splitlines()
        server.wait()
        worker_kills += sum(line.startswith("killed") for line in lines)
        told += [(line.split()[0], line.split()[1]) for line in lines if len(line.split()) == 2]
        client = Client(folder)
        for kind, name in told:
            there = client.state(name).status == "done" if kind == "job" else client.source(name) is not None
            found += [] if there else [f"{kind} {name} is lost after kill {number}"]
        client.close()
        found += faults(folder, [])
    return f"kill -9 of {count} servers, and of {worker_kills} workers", count + worker_kills, len(told), found


def killed_writers(folder: Path, rounds: int) -> tuple[str, int, int, list[str]]:
    kills = kill_often(folder, rounds, 0, longest_ms=400)
    name = f"kill -9 of writers, two at a time ({kills.before_anything} while they started)"
    return name, kills.kills, kills.told, kills.faults + ["a writer ended by itself"] * kills.ended


def power_cuts(work: Path, cuts: int, beside: bool) -> tuple[str, int, int, list[str]]:
    """Cuts at random moments of one recording of 150 things kept."""
    root = work / "data"
    root.mkdir()
    calls = record(["-m", "benchmarks.keeping", str(root), "3", "150", *(["beside"] if beside else [])], root, work)
    moments, found, told, done = random.Random(1), list[str](), list[str](), 0
    replayed = Disk(str(root), root.stat().st_ino)
    for number, moment in enumerate(sorted(moments.randrange(len(calls) + 1) for _ in range(cuts))):
        for call in calls[done:moment]:
            replayed.do(call)
            told += call.data.decode().splitlines() if call.kind == "a" else []
        done = moment
        with tempfile.TemporaryDirectory(dir=work) as left:
            replayed.cut(Path(left), random.Random(number))
            found += [f"cut {number}: {fault}" for fault in faults(Path(left), told)]
    return f"power cut{', journal kept open' if beside else ''} ({len(calls)} calls)", cuts, len(told), found


def full_disk(folder: Path) -> tuple[str, int, int, list[str]]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.full_disk", str(folder)], cwd=ROOT, capture_output=True, text=True, check=True)
    levels = json.loads(done.stdout)["every_level"]
    return f"disk full to every page of the last {80 * 4} KiB ({levels['refused']} refused)", 80, levels["kept"], levels["wrong"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What is lost when processes are killed, power is cut and disks are full.")
    parser.add_argument("--rounds", type=int, default=500, help="of two writers killed")
    parser.add_argument("--cuts", type=int, default=500, help="of the power, for each of two recordings")
    parser.add_argument("--servers", type=int, default=20, help="killed with their workers")
    asked = parser.parse_args()
    print("| what happens | times | told to be kept | lost or damaged |\n|---|---|---|---|")
    for case, count in ((killed_writers, asked.rounds), (killed_servers, asked.servers)):
        with tempfile.TemporaryDirectory() as folder:
            show(case(Path(folder) / "data", count))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a model of a disk needs no disk below it
    for beside in (False, True):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            show(power_cuts(Path(folder), asked.cuts, beside))
    with tempfile.TemporaryDirectory() as folder:
        show(full_disk(Path(folder)))


def show(row: tuple[str, int, int, list[str]]) -> None:
    name, times, told, found = row
    print(f"| {name} | {times:,} | {told:,} | {len(found)} |", flush=True)
    for fault in found[:5]:
        print(f"  {fault}", file=sys.stderr)


if __name__ == "__main__":
    main()
