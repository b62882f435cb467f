"""The fixture of the tests of the driver's core."""

from collections.abc import Iterator

import pytest

from core.harness import Core


@pytest.fixture
def core() -> Iterator[Core]:
    """The core on this machine, started."""
    with Core() as core:
        yield core
