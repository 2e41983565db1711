"""The documents are followed to the letter."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphs.errors import RequestError
from optimizers import catalog as catalog_module
from optimizers import cleanup
from optimizers.catalog import catalog
from tests.test_every_optimization import (
    test_example_matches_keeps_its_answers_and_its_claim as check_example,
)
from tests.test_every_optimization import test_lesson_has_its_parts_and_examples_exist as check_lesson
from tests.test_every_optimization import test_refusal_gives_its_reason_at_a_node as check_refusal

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def sixth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The document's file, saved under the name that the document gives, in a folder that the catalog looks into."""
    text = (DOCS / "add-an-optimization.md").read_text()
    path = re.search(r"Save it as `optimizers/cleanup/(\w+\.py)`", text)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert path
    assert code
    (tmp_path / path[1]).write_text(code[1])
    monkeypatch.setattr(cleanup, "__path__", [*cleanup.__path__, str(tmp_path)])
    catalog_module.catalog.cache_clear()
    yield "drop-identity"
    catalog_module.catalog.cache_clear()
    sys.modules.pop("optimizers.cleanup.drop_identity", None)


def test_a_sixth_optimization_needs_one_new_file_and_nothing_else(sixth: str) -> None:
    optimization = catalog()[sixth]
    assert isinstance(sys.modules[optimization.find.__module__], types.ModuleType)
    assert optimization.record.kind == "cleanup"
    check_lesson(optimization)
    for example in optimization.examples:
        check_example(optimization, example)
    for refusal in optimization.refusals:
        check_refusal(optimization, refusal)


def test_without_the_file_it_is_unknown_and_the_error_names_the_known() -> None:
    from optimizers.catalog import named

    with pytest.raises(RequestError) as caught:
        named("drop-identity")
    assert "Choose from" in caught.value.help or "Did you mean" in caught.value.help


def test_every_dependency_has_its_reason() -> None:
    root = DOCS.parent
    text = (DOCS / "architecture.md").read_text()
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (root / name).read_text().splitlines():
            if "==" in line:
                assert f"`{line.split('==')[0]}`" in text, line


def test_the_proxy_lets_files_through_that_the_app_takes() -> None:
    root = DOCS.parent
    taken = tomllib.loads((root / ".streamlit/config.toml").read_text())["server"]["maxUploadSize"]
    allowed = re.search(r"upload_file/ \{\n\s+client_max_body_size (\d+)m;", (DOCS / "deploy.md").read_text())
    assert allowed
    assert taken < int(allowed[1]) <= taken + 1


def test_the_container_has_all_that_the_app_is_made_of_and_nothing_secret() -> None:
    root = DOCS.parent
    inside = {line[1:] for line in (root / ".containerignore").read_text().splitlines() if line.startswith("!")}
    rooms = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"])
    assert rooms | {"app.py", "server.py", "static", ".streamlit/config.toml", "requirements.txt"} <= inside
    assert not [name for name in inside if not (root / name).exists()]
    assert not inside & {".streamlit", "data", ".git"}
