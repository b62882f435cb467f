"""Shared by the tests of the examples: a screen."""

import sys
from collections.abc import Iterator

import pytest

from examples.screen import Screen

collect_ignore = ["test_off_windows.py"] if sys.platform == "win32" else []


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen | None]:
    """One virtual screen for all tests, because Tk hangs when a screen ends; None on Windows, which has a screen."""
    if sys.platform == "win32":
        yield None
    else:
        with Screen() as screen, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISPLAY", screen.display)
            yield screen
