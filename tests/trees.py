"""Runs a real process tree through a gate, for the tests under tests/windows."""

import sys
import time
from collections.abc import Callable

from patience import PATIENCE
from procmon import ALLOW, BLOCK, ProcessHelper, Verdict, VerdictResult
from procmon.gates.base import Gate
from procmon.win32.kernel import is_wine

__all__ = ["BLOCKED", "SOON", "Decide", "drive", "eventually", "held", "next_held", "python"]

BLOCKED = 0xC0000364
SOON = PATIENCE / 2  # seconds; only a hang reaches it

Decide = Callable[[ProcessHelper], Verdict | None]


def drive(
    gate: Gate, decide: Decide = lambda process: ALLOW, until: Callable[[], bool] | None = None
) -> list[ProcessHelper]:
    """Answer held processes until the gate ends or `until` returns true; return all records, in order."""
    records: list[ProcessHelper] = []
    deadline = time.monotonic() + SOON
    while not gate.ended and not (until is not None and until()):
        assert time.monotonic() < deadline, f"{gate!r} did not end; it gave {records}"
        gate.wait(0.1)
        for record in gate.fetch():
            records.append(record)
            verdict = decide(record) if record.paused else None
            if verdict is ALLOW:
                assert gate.allow(record) == [VerdictResult.DONE]
            elif verdict is BLOCK:
                assert gate.block(record) == [VerdictResult.DONE]
    return records


def held(records: list[ProcessHelper]) -> list[str]:
    return [record.name for record in records if record.paused]


def next_held(gate: Gate) -> ProcessHelper:
    """The next process that `gate` holds; other processes are neither expected nor answered."""
    found: list[ProcessHelper] = []

    def keep(process: ProcessHelper) -> None:
        found.append(process)

    drive(gate, keep, until=lambda: bool(found))
    return found[0]


RETRY = """
import _winapi
def _again(*arguments, call=_winapi.CreateProcess):
    for left in range(4, -1, -1):
        try:
            return call(*arguments)
        except OSError as error:
            if error.winerror != 1359 or not left:
                raise
_winapi.CreateProcess = _again
"""
"""As tests/wine_creation.py, for a program that does not import procmon."""


def python(code: str) -> list[str]:
    """The command that runs this code."""
    retry = RETRY if "subprocess" in code and is_wine() else ""
    return [sys.executable, "-c", retry + code]


def eventually(condition: Callable[[], object], patience: float = SOON) -> bool:
    """Wait for a condition; False when it does not become true."""
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())
