"""Files that do harm to whoever opens them, brought as a reader brings them. What each format refuses is tested beside its reader:
`tests/test_archives.py`, `tests/test_hostile_files.py`. Here is what happens when the whole way is gone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.attacks.ground import Ground
from tests.test_archives import HOSTILE
from tests.test_hostile_files import Payload, external, external_in_a_branch, hostile, pickled

ARCHIVES = ["points outside", "points outside ", "is a link", "times its size", "is damaged|larger than it says"]
PICKLES = [
    ("m.pt2", "pickled weight", "more than a tensor"),
    ("m.pt2", "object", "no tensor"),
]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that is there only where the attack was able to write one."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ARCHIVES, ids=["dots", "from the root", "a link", "a bomb", "a lie about its size"])
def test_an_archive_with_a_trick_is_refused(field: Ground, what: str) -> None:
    assert re.search(what.strip(), field.refusal(HOSTILE[what], "net.zip").what)


@pytest.mark.parametrize(("name", "kind", "reason"), PICKLES, ids=[kind for _, kind, _ in PICKLES])
def test_a_pickle_in_an_archive_of_torch_is_not_read(field: Ground, mark: Path, name: str, kind: str, reason: str) -> None:
    assert reason in field.refusal(hostile(kind, mark), name).what


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt"])
def test_a_pickle_with_code_is_not_read(field: Ground, mark: Path, name: str) -> None:
    field.refusal(pickled(mark), name)


@pytest.mark.parametrize("kind", ["sample inputs", "expression"])
def test_what_is_not_needed_of_an_archive_is_not_read(field: Ground, mark: Path, kind: str) -> None:
    assert field.upload(hostile(kind, mark), "m.pt2").graph.nodes


def test_the_pickle_does_harm_where_it_is_read(tmp_path: Path) -> None:
    torch.load(io.BytesIO(pickled(tmp_path / "ran")), weights_only=False)
    assert (tmp_path / "ran").exists()
    assert Payload(tmp_path).mark == tmp_path


@pytest.mark.parametrize("content", [external(), external_in_a_branch()], ids=["a weight", "a weight in a branch"])
def test_weights_elsewhere_are_not_followed(field: Ground, content: bytes) -> None:
    assert "weights are not in the file" in field.refusal(content, "m.onnx").what


@pytest.mark.parametrize(
    "name",
    ["../../../etc/cron.d/x.py", "a\0b.py", "<img src=x onerror=alert(1)>.py", "\x1b[2J\u202egnp.py", "x" * 5000 + ".py"],
    ids=["dots", "null", "html", "terminal", "long"],
)
def test_a_name_of_a_file_is_only_a_name(field: Ground, name: str) -> None:
    """It is shown, and never a path; where it is shown, signs that steer a terminal or turn text around are gone."""
    assert re.search("as planned|null character", field.refusal("raise ValueError('as planned')", name).what)
    kept = list((field.folder / "sources").rglob("*"))
    assert all(path.is_dir() or len(path.name) == 64 for path in kept)
