"""Shared by the tests of the monitor."""

import threading
import time
from collections.abc import Callable

import procmon
from patience import PATIENCE


def waits_for(event: threading.Event) -> Callable[[procmon.ProcessHelper], None]:
    """A callback that returns when `event` is set."""

    def wait(process: procmon.ProcessHelper) -> None:
        event.wait(PATIENCE)

    return wait


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition; fail, naming `what`, if it does not become true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        time.sleep(0.001)


def decided(monitor: procmon.Monitor) -> list[tuple[str, procmon.Verdict, procmon.DecidedBy, str]]:
    """The history as tuples (name, verdict, decided by, decider)."""
    return [(one.process.name, one.verdict, one.by, one.who) for one in monitor.history]
