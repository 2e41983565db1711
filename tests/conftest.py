"""What several tests share: one browser, a blank page for pictures, and two real pipelines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from jobs.record import OptimizeResult
from tests import browser as driver
from tests.pictures import blank_page, real

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-attention"
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
