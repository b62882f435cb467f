"""What holds for every ring: which system collects it, how Hypothesis searches, and that Ctrl+C is heard."""

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("conformance", "monitoring", "commandline", "trees")

WINDOWS_RING = Path(__file__).resolve().parent / "windows"


# No deadlines, since a busy machine is no fault of the code. The same examples in each run, but for the long tests.
hypothesis.settings.register_profile(
    "procmon",
    deadline=None,
    derandomize=not os.environ.get("PROCMON_LONG"),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("procmon")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run tests/windows elsewhere: its files make Windows calls as soon as they are imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if sys.platform != "win32" and any(path.is_relative_to(WINDOWS_RING) for path in paths):
        raise pytest.UsageError("tests/windows needs Windows, or Wine: python3 dev.py test tests/windows")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave tests/windows out where all of tests is asked for."""
    return True if sys.platform != "win32" and collection_path == WINDOWS_RING else None


def pytest_report_header() -> str | None:
    """Say what a bare `pytest` leaves out."""
    if sys.platform != "win32":
        return "tests/windows is not collected here; python3 dev.py test runs it too, under Wine"
    return None
