"""What DebugGate costs on a tree of 100 short processes, beside a debugger in C and the one of PythonForWindows."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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

PAIRS = 8
"""Turns of the gate and the debugger in C, whose times are close; each begins every other turn."""

OTHERS = 3
"""Turns with PythonForWindows' debugger, which takes three times as long, and with none."""

REPEATS = 3
"""Turns that may be repeated: on a busy machine Wine fails to create a process now and then, which ends the tree."""


class Incomplete(Exception):
    """A tree ended before all its programs had run, so that its time says nothing."""


def rows() -> Iterator[Row]:
    """Measure."""
    shares: list[float] = []
    with mock.patch.object(DebugLoop, "_created", _timed(DebugLoop._created, shares)):
        _turns(1, lambda _: [_gated()])  # warms up
        shares.clear()
        pairs = _turns(PAIRS, lambda number: _pair(gate_first=number % 2 == 1))
        others = _turns(OTHERS, lambda _: [_gated(), _rival(), _bare()])
    name = "DebugGate + Monitor, a process of a tree of 100"
    ours_ms, c_ms = zip(*pairs, strict=True)
    yield row_of(name, ours_ms, c_ms, "a debug loop in C", unit="ms", at_most_ratio=1.05)
    ours_ms, rival_ms, bare_ms = zip(*others, strict=True)
    yield row_of(name, ours_ms, rival_ms, "PythonForWindows' debugger", unit="ms", at_most_ratio=0.5)
    yield row_of(name, ours_ms, bare_ms, "the same without a debugger", unit="ms")
    share_ms = [1e3 * statistics.median(shares)] * len(ours_ms)
    yield row_of(
        "DebugGate, its own share of a process", share_ms, ours_ms, "all that it takes", unit="ms", at_most=1.0
    )


def _turns(count: int, turn: Callable[[int], Sequence[float]]) -> list[list[float]]:
    """Milliseconds of a process, for each turn and each that takes part in it."""
    found: list[list[float]] = []
    repeats = 0
    while len(found) < count:
        try:
            found.append([seconds / (CHILDREN + 1) * 1e3 for seconds in turn(len(found))])
        except Incomplete as error:
            repeats += 1
            if repeats > REPEATS:
                raise
            print(f"  debug: a turn is repeated: {error}")
    return found


def _pair(gate_first: bool) -> tuple[float, float]:
    """Seconds of a tree under the gate, and under the debugger in C."""
    if gate_first:
        return _gated(), _in_c()
    in_c = _in_c()
    return _gated(), in_c


def _in_c() -> float:
    return _answer([str(DEBUG_LOOP), *TREE])


def _rival() -> float:
    return _answer([sys.executable, "-m", "bench.rival_debugger"])


def _bare() -> float:
    try:
        return seconds_of(lambda: subprocess.run(TREE, stdout=subprocess.DEVNULL, check=True))
    except subprocess.CalledProcessError as error:
        raise Incomplete(str(error)) from error


def _timed(method: Callable[[DebugLoop, DebugEvent], T], shares: list[float]) -> Callable[[DebugLoop, DebugEvent], T]:
    """The method, with a watch around it."""

    def timed(loop: DebugLoop, event: DebugEvent) -> T:
        begin = time.perf_counter()
        result = method(loop, event)
        shares.append(time.perf_counter() - begin)
        return result

    return timed


def _gated() -> float:
    begin = time.perf_counter()
    monitor = procmon.Monitor(procmon.DebugGate.run(TREE, stdout=subprocess.DEVNULL))
    monitor.subscribe(lambda process: procmon.ALLOW)
    with monitor:
        if not monitor.wait(300):
            raise RuntimeError("the command did not end")
    seconds = time.perf_counter() - begin
    _check("the gate", len(monitor.history))
    return seconds


def _answer(command: list[str]) -> float:
    """Seconds that another debugger took for the tree, as its last line says. Raises: Incomplete."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    processes, microseconds = done.stdout.splitlines()[-1].split()
    _check(command[0], int(processes))
    return int(microseconds) / 1e6


def _check(debugger: str, processes: int) -> None:
    if processes != CHILDREN + 1:
        raise Incomplete(f"{debugger} saw {processes} of {CHILDREN + 1} processes")
