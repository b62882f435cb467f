"""A pytest plugin for dev.py: records each test as it ends, so that the tests of an interrupted run can be counted.

One line each, the fields separated by tabs: ``collected N``, ``passed NODE``, ``failed NODE``, ``skipped NODE``,
``end STATUS``. A file that cannot be collected counts as failed.
"""

from pathlib import Path
from typing import IO

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with the path of the record."""
    parser.addoption("--ring-record", required=True, help="where to write down how each test ended")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the record."""
    config.pluginmanager.register(Recorder(Path(config.getoption("--ring-record"))))


class Recorder:
    """Writes a record, line by line. Each line reaches the file at once, because the process may be killed."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="\n", buffering=1)
        self._outcomes: set[str] = set()

    def _write(self, what: str, of: object) -> None:
        self._file.write(f"{what}\t{of}\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that could not be collected."""
        if report.failed:
            self._write("failed", report.nodeid)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record how many tests will run."""
        self._write("collected", len(session.items))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how a phase of a test ended: its set-up, its call or its tear-down."""
        self._outcomes.add(report.outcome)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Record a test: failed if one of its phases failed."""
        ended = next(outcome for outcome in ("failed", "skipped", "passed") if outcome in self._outcomes)
        self._write(ended, nodeid)
        self._outcomes.clear()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Record the end of the run, and its status."""
        self._write("end", int(exitstatus))
