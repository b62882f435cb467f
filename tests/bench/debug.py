"""What DebugGate costs on a tree of 100 short processes, beside a debugger in C and the one of PythonForWindows."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from unittest import mock

import procmon
from procmon.gates.debug_loop import DebugLoop
from procmon.win32.debug import DebugEvent

from .measure import Row, row_of, seconds_of
from .rivals import DEBUG_LOOP

CHILDREN = 100
TREE = ["cmd", "/c", f"for /l %i in (1,1,{CHILDREN}) do @hostname >nul"]
T = TypeVar("T")

TURNS = 4
"""The first one warms up; a turn takes a tree four times."""

REPEATS = 3
"""Turns that may be repeated: on a busy machine Wine fails to create a process now and then, which ends the tree."""


class Incomplete(Exception):
    """A tree ended before all its programs had run, so that its time says nothing."""


def rows() -> Iterator[Row]:
    """Measure."""
    shares: list[float] = []
    turns: list[tuple[float, ...]] = []
    repeats = 0
    with mock.patch.object(DebugLoop, "_created", _timed(DebugLoop._created, shares)):
        while len(turns) < TURNS:
            shares.clear()
            try:
                turns.append((*_turn(), statistics.median(shares)))
            except Incomplete as error:
                repeats += 1
                if repeats > REPEATS:
                    raise
                print(f"  debug: a turn is repeated: {error}")
    each = [[seconds / (CHILDREN + 1) * 1e3 for seconds in turn[:4]] + [turn[4] * 1e3] for turn in turns[1:]]
    ours_ms, c_ms, rival_ms, bare_ms, share_ms = (list(column) for column in zip(*each, strict=True))
    name = "DebugGate + Monitor, a process of a tree of 100"
    yield row_of(name, ours_ms, c_ms, "a debug loop in C", unit="ms", at_most_ratio=1.05)
    yield row_of(name, ours_ms, rival_ms, "PythonForWindows' debugger", unit="ms", at_most_ratio=0.5)
    yield row_of(name, ours_ms, bare_ms, "the same without a debugger", unit="ms")
    yield row_of(
        "DebugGate, its own share of a process", share_ms, ours_ms, "all that it takes", unit="ms", at_most=1.0
    )


def _turn() -> tuple[float, float, float, float]:
    """Seconds of a tree under the gate, the debugger in C, PythonForWindows', and none. Raises: Incomplete."""
    try:
        bare = seconds_of(lambda: subprocess.run(TREE, stdout=subprocess.DEVNULL, check=True))
    except subprocess.CalledProcessError as error:
        raise Incomplete(str(error)) from error
    in_c, rival = _answer([str(DEBUG_LOOP), *TREE]), _answer([sys.executable, "-m", "bench.rival_debugger"])
    return seconds_of(_gated), in_c, rival, bare


def _timed(method: Callable[[DebugLoop, DebugEvent], T], shares: list[float]) -> Callable[[DebugLoop, DebugEvent], T]:
    """The method, with a watch around it."""

    def timed(loop: DebugLoop, event: DebugEvent) -> T:
        begin = time.perf_counter()
        result = method(loop, event)
        shares.append(time.perf_counter() - begin)
        return result

    return timed


def _gated() -> None:
    monitor = procmon.Monitor(procmon.DebugGate.run(TREE, stdout=subprocess.DEVNULL))
    monitor.subscribe(lambda process: procmon.ALLOW)
    with monitor:
        if not monitor.wait(300):
            raise RuntimeError("the command did not end")
    _check("the gate", len(monitor.history))


def _answer(command: list[str]) -> float:
    """Seconds that another debugger took for the tree, as its last line says. Raises: Incomplete."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    processes, microseconds = done.stdout.splitlines()[-1].split()
    _check(command[0], int(processes))
    return int(microseconds) / 1e6


def _check(debugger: str, processes: int) -> None:
    if processes != CHILDREN + 1:
        raise Incomplete(f"{debugger} saw {processes} of {CHILDREN + 1} processes")
