"""What a worker says is not believed: it may have been taken over by the file that it was to look at."""

from __future__ import annotations

import re
import time
import typing

import msgspec
import pytest

from jobs import record
from jobs.answers import ANSWERS, fault
from jobs.client import canonical
from jobs.record import Catalogue, Done, Empty, Explore, InspectResult, Problem, Progress, Request, request_hash
from tests.attacks.ground import MODEL, Ground

SPEAKING = """
import fcntl, os, time

def say(data):
    "To the server, in the worker's place."
    for number in range(3, 30):
        try:
            writes = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        except OSError:
            continue
        if writes:
            while data:
                data = data[os.write(number, data):]

def frame(data):
    say(len(data).to_bytes(4, "big") + data)
"""
SHORT_S = 1.5


def said(*messages: object) -> str:
    return SPEAKING + "".join(f"frame({msgspec.msgpack.encode(message)!r})\n" for message in messages) + "time.sleep(60)\n"


# By hand, as an attacker would, without our encoder's help.
GARBAGE = [
    ("a length and nothing", SPEAKING + "say((1000).to_bytes(4, 'big'))\ntime.sleep(60)", "longer than"),
    ("half a length", SPEAKING + "say(b'\\0\\0')\ntime.sleep(60)", "longer than"),
    (
        "a length and a byte at a time",
        SPEAKING + "say((1 << 27).to_bytes(4, 'big'))\nwhile True: say(b'x'); time.sleep(0.01)",
        "longer than",
    ),
    ("a frame larger than any", SPEAKING + "say(b'\\xff' * 4)\ntime.sleep(60)", "hangs|longer than"),
    ("no message", SPEAKING + "frame(b'\\xc1' * 20)\ntime.sleep(60)", "cannot be read|MessagePack|Decode"),
    ("an empty frame", SPEAKING + "frame(b'')\ntime.sleep(60)", "cannot be read|truncated|Decode"),
    ("a message of another kind", SPEAKING + "frame(b'\\x81\\xa4type\\xa5Crash')\ntime.sleep(60)", "cannot be read|Invalid"),
    ("nested without end", SPEAKING + "frame(b'\\x82\\xa4type\\xa4Done\\xa6result' + b'\\x91' * 100_000 + b'\\xc0')\ntime.sleep(60)", "."),
]


@pytest.mark.parametrize(("code", "reason"), [one[1:] for one in GARBAGE], ids=[one[0] for one in GARBAGE])
def test_garbage_from_a_worker_ends_its_job_only(field: Ground, code: str, reason: str) -> None:
    error = field.refusal(code, limit_s=SHORT_S if "longer" in reason else 60)
    assert re.search(reason, error.what), error.what


@pytest.mark.parametrize(
    "result",
    [Empty(), InspectResult(None), b"\xc1", {"type": "ExploreResult"}, {"type": "ExploreResult", "report": {}, "graph": []}],
    ids=["none", "another's", "no bytes of a result", "no fields", "fields of other kinds"],
)
def test_an_answer_to_another_question_is_none(field: Ground, result: object) -> None:
    raw = msgspec.Raw(result if isinstance(result, bytes) else msgspec.msgpack.encode(result))
    assert "cannot be read" in field.refusal(said(Done(raw))).what


@pytest.mark.parametrize("kind", ["SystemExit", "__class__", "FxscopeError", "BaseException", "readable", ""])
def test_an_error_of_no_known_kind_is_an_error_of_the_job(field: Ground, kind: str) -> None:
    """The name is looked up among errors, where it must not find anything else."""
    forged = Problem(kind, "forged", "here", "no way out")
    error = field.refusal(said(forged))
    assert error.what == "forged"
    assert type(error).__name__ in ("JobError", "FxscopeError")


def test_what_steers_a_terminal_or_turns_text_around_is_taken_out_of_a_forged_error(field: Ground) -> None:
    message = {
        "type": "Problem",
        "kind": "JobError",
        "what": "\x1b]0;x\x07\u202egnp\0 " + "long " * 10_000,
        "where": "\x9b31m",
        "help": "\u2028",
    }
    error = field.refusal(said(message))
    assert len(error.what) <= 1000
    assert "\x1b" not in str(error)


def test_a_lie_about_progress_is_only_shown(field: Ground) -> None:
    told: list[Progress] = []
    lies = [
        Progress("\x1b[2J" + "x" * 5000, 7.0),
        Progress("![](http://example.com/seen.png)", float("nan")),
        Problem("JobError", "over", help="x"),
    ]
    sha = field.client.keep_source(
        (SPEAKING + "".join(f"frame({msgspec.msgpack.encode(lie)!r})\ntime.sleep(0.6)\n" for lie in lies)).encode(), "m.py"
    )
    with pytest.raises(Exception, match="over"):
        field.client.run(Explore(f"model=source/{sha}&device=cpu"), told.append)
    assert all(len(one.text) <= 1000 and "\x1b" not in one.text for one in told)
    field.goes_on()


def test_a_lie_about_its_graph_is_told_to_nobody_else(field: Ground) -> None:
    """A result is kept under the hash of what was asked, and what was asked names the file."""
    honest = field.upload(MODEL + "# honest")
    lie = msgspec.structs.replace(honest, graph=msgspec.structs.replace(honest.graph, nodes=()))
    forged = field.upload(said(Done(msgspec.Raw(msgspec.msgpack.encode(lie)))))
    assert forged.graph.nodes == ()
    assert field.upload(MODEL + "# honest").graph.nodes == honest.graph.nodes
    assert field.upload(MODEL + "# honest again").graph.nodes == honest.graph.nodes


def test_a_flood_of_messages_does_not_fill_the_server(field: Ground) -> None:
    flood = SPEAKING + f"message = {msgspec.msgpack.encode(Progress('x', 0.5))!r}\nwhile True: frame(message)\n"
    assert "without end" in field.refusal(flood, limit_s=5).what


def test_a_worker_s_messages_wait_in_its_pipe_and_not_in_the_server(field: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    tell = type(field.client)._tell

    def slowly(client: typing.Any, job: typing.Any, progress: Progress) -> None:
        if progress.text == "x" and len(waiting) < 3:
            time.sleep(0.3)
            waiting.append(client._engine._busy[job.id]._frames.qsize())
        tell(client, job, progress)

    monkeypatch.setattr(type(field.client), "_tell", slowly)
    field.refusal(SPEAKING + f"message = {msgspec.msgpack.encode(Progress('x', 0.5))!r}\nfor _ in range(30_000): frame(message)\n")
    assert waiting
    assert max(waiting) <= 16


def test_every_request_has_one_kind_of_answer() -> None:
    assert set(ANSWERS) == set(typing.get_args(Request))
    assert set(ANSWERS.values()) == set(typing.get_args(record.Result))
    assert fault(Catalogue(), msgspec.msgpack.encode(Empty())) is not None
    assert fault(record.Sleep(1.0), msgspec.msgpack.encode(Empty())) is None


CRAFTED = [
    ("model=source/{0}&args=a", "model=source/{0}&args=a&batch=1"),
    ("model=source/{0}&args=x%26inputs%3Dy", "model=source/{0}&args=x&inputs=y"),
    ("model=source/{0}&args=a%3Db", "model=source/{0}&args=a%253Db"),
    ("model=source/{0}&args=a+b", "model=source/{0}&args=a%2Bb"),
    ("model=source/{0}&args=%C3%A9", "model=source/{0}&args=e%CC%81"),
    ("model=source/{0}&args=a%00", "model=source/{0}&args=a"),
    ("model=source/{0}&class=A", "model=source/{0}&class=a"),
    ("model=source/{0}", "model=source/{1}"),
]


@pytest.mark.parametrize("words", CRAFTED)
def test_words_that_are_not_the_same_never_share_a_result(field: Ground, words: tuple[str, str]) -> None:
    shas = [field.client.keep_source(f"# {number}".encode(), "a.py") for number in range(2)]
    asked = [canonical(Explore(one.format(*shas))) for one in words]
    assert request_hash(asked[0]) != request_hash(asked[1])


def test_a_file_s_name_and_content_cannot_be_shifted_into_each_other(field: Ground) -> None:
    assert field.client.keep_source(b"b.py", "a.py") != field.client.keep_source(b"", "a.pyb.py")
    assert field.client.keep_source(b"x", "a.py") != field.client.keep_source(b"x", "b.py")
