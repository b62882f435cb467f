"""What the tests of the monitor share."""

import time
from collections.abc import Callable, Iterator

import pytest

import procmon


def until(condition: Callable[[], object], what: str, patience: float = 5.0) -> None:
    """Wait for a condition; fail, naming `what`, when it does not come."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        time.sleep(0.001)


def decided(monitor: procmon.Monitor) -> list[tuple[str, procmon.Verdict, procmon.DecidedBy, str]]:
    """The history, as (name, verdict, by, who)."""
    return [(one.process.name, one.verdict, one.by, one.who) for one in monitor.history]


@pytest.fixture
def gate() -> Iterator[procmon.SimulatedGate]:
    """A gate on which nothing is left held in the end, because its monitor has stopped."""
    gate = procmon.SimulatedGate()
    yield gate
    assert gate.closed, "every test ends with its monitor stopped"
    assert [one for one in gate._processes.values() if one.paused] == []
