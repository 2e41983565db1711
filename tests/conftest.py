"""What several tests share: one browser, a blank page for pictures, and two real pipelines."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

import jobs.client
from jobs.client import Client
from jobs.record import OptimizeResult
from tests import browser as driver
from tests.pictures import real, watched_page

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-attention"
GPT2 = "model=zoo/gpt2&mode=training&layers=6&width=32&heads=2&vocab=64&seq=8"


LONGEST = (
    "test_browser", "test_code_health", "test_every_optimization", "test_generated_matmuls", "test_control_flow",
    "test_graph_view", "test_fuzzed_models", "test_kernel_pages", "test_attention", "test_pages", "test_random_shapes",
    "test_any_order", "test_graph_tools", "test_seams_page", "test_library_norms",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, so that no process is left with one of them when the others have nothing more to do."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_configure() -> None:
    gc.disable()  # while libraries are loaded


def pytest_collection_finish() -> None:
    """Garbage is looked for among what tests make, not again and again among a million objects of the libraries, which stay to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    gc.enable()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with driver.browser() as launched:
        yield launched


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with watched_page(chromium) as opened:
        yield opened


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
