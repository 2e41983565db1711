"""One ground for all attacks of a process: PyTorch is loaded once. It goes with the last of them, and its small limits with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.sandbox.probe import isolation
from tests.attacks.ground import Ground, ground


@pytest.fixture(scope="package")
def field() -> Iterator[Ground]:
    assert isolation().safe, isolation().missing
    with pytest.MonkeyPatch.context() as patch, ground() as made:
        patch.setenv(
            "FXSCOPE_UPLOAD_GIB", "0.9"
        )  # each forked process is counted with the quarter of a GiB that it shares with the nursery
        yield made
