"""The checks of selftest end, whatever a gate does: here without one. tests/windows/test_selftest.py runs all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from procmon.cli import selftest_checks


def test_a_controller_that_holds_nothing_fails_the_check_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest_checks, "CONTROLLER", "import time; time.sleep(3600)")
    monkeypatch.setattr(selftest_checks, "CONTROLLER_TIMEOUT_S", 0.0)
    ground: Any = SimpleNamespace(name="none", kind="none")
    with pytest.raises(selftest_checks.Failed, match="the controller did not start"):
        selftest_checks.killed(ground, tmp_path)
