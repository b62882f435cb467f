"""What the tests of the examples share: a screen."""

import sys
from collections.abc import Iterator

import pytest

from examples.screen import Screen

collect_ignore = ["test_off_windows.py"] if sys.platform == "win32" else []


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen | None]:
    """A screen of our own, one for all, as Tk hangs when one goes; None on Windows, which has one."""
    if sys.platform == "win32":
        yield None
    else:
        with Screen() as screen, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISPLAY", screen.display)
            yield screen
