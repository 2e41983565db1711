"""What several tests share: one browser, a blank page for pictures, and two real pipelines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

import jobs.client
from jobs.client import Client
from jobs.record import OptimizeResult
from tests import browser as driver
from tests.pictures import blank_page, real

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-attention"
os.environ.setdefault("FXSCOPE_KERNELS", f"{tempfile.gettempdir()}/fxscope-test-kernels")  # for all clients, so that each is compiled once
GPT2 = "model=zoo/gpt2&mode=training&layers=6&width=32&heads=2&vocab=64&seq=8"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with driver.browser() as launched:
        yield launched


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    opened = blank_page(chromium)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.context.close()
    assert not errors


@pytest.fixture(scope="session")
def attention() -> OptimizeResult:
    return real(ATTENTION)


@pytest.fixture(scope="session")
def gpt2() -> OptimizeResult:
    return real(f"{GPT2}&pipeline=remove-dead-code,merge-common-subexpressions,fold-constants,fuse-attention,recompute-activations")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


@pytest.fixture
def default_client(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a test ask its own client."""
    monkeypatch.setattr(jobs.client, "_default", client)
