"""The command line of the profiler: `python -m profiler record` measures on this machine what pages can show on others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from graphs.errors import FxscopeError
from jobs.recorded import read
from jobs.recording import record, requests_for, title, wanted


def main(words: list[str] | None = None) -> int:
    """Returns 0, 1 where nothing could be measured, or 2 where the words are wrong."""
    parser = argparse.ArgumentParser(prog="python -m profiler", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "record", help="measure zoo models and pipelines and save what came out"
    )
    command.add_argument(
        "experiments",
        nargs="*",
        help="experiments in words, such as 'model=zoo/mlp&mode=training&pipeline=fuse-loops', 'ceilings' or 'calibration'; without any, a list made for the device",
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    command.add_argument("--minutes", type=_minutes, default=8.0, help="no experiment is begun after so many (default 8)")
    command.add_argument("--out", type=Path, default=None, help="where to write (default profiler/recordings/DEVICE-DAY.json)")
    command.add_argument("--profile", action="store_true", help="of the experiments that are named, every node too")
    command.add_argument("--add", action="store_true", help="go on with the file that is there; what it holds is not measured again")
    command.add_argument("--list", action="store_true", help="only say what would be measured on that device")
    given = parser.parse_args(words)
    try:
        requests = [request for one in given.experiments for request in wanted(one, given.profile)]
        if given.list:
            kind = given.device if given.device != "auto" else "cpu"
            print("\n".join(title(request) for request in requests or requests_for(kind)))
            return 0
        path = record(given.device, given.minutes, given.out, requests, lambda text: print(text, flush=True), given.add)
        found = read(path)
    except FxscopeError as error:
        print(error, file=sys.stderr)
        return 2
    if not (found.entries or found.profiles or found.ceilings):
        print(f"nothing was measured; {path} says why", file=sys.stderr)
        return 1
    print(f"saved {path}")
    return 0


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time; give minutes above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
