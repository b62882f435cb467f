"""How benchmarks measure: what is compared takes turns, so that the noise of a shared machine meets all of it alike.

Believe the ratios. A ratio is the median of the ratios of the turns, and its spread is from the first to the third
quartile of them. Where a goal is a time, the fastest turn is compared with it: other work only adds to it.
"""

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "cpu_of", "resident_bytes", "row", "row_of", "seconds_of"]

TURNS = 9


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    median: float
    best: float
    unit: str
    """Of these two: microseconds, unless it is said."""
    ratio: float
    """To what it is compared with."""
    spread: tuple[float, float]
    """First and third quartile of the ratio."""
    compared_with: str
    goal: str = ""
    met: bool | None = None
    """Whether the goal is; None where it is no number here."""

    def __str__(self) -> str:
        low, high = self.spread
        verdict = {True: ": met", False: ": NOT MET", None: ""}[self.met]
        goal = f"; goal {self.goal}{verdict}" if self.goal else ""
        return (
            f"{self.name:<54} {self.median:>10,.1f} {self.unit} (best {self.best:,.1f})"
            f"  {self.ratio:.2f}x ({low:.2f}-{high:.2f}) of {self.compared_with}{goal}"
        )


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds on the clock that an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def cpu_of(action: Callable[[], object]) -> float:
    """Seconds of CPU that this process spends in an action, in all its threads."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def row(
    name: str,
    measured: Callable[[], float],
    compared: Callable[[], float],
    compared_with: str,
    *,
    count: int = 1,
    turns: int = TURNS,
    goal: str = "",
    at_most: float | None = None,
    at_most_ratio: float | None = None,
) -> Row:
    """Measure two things in turns; each returns its seconds, of `count` of what is reported."""
    times, others = [], []
    for turn in range(turns + 1):
        gc.collect()
        other, one = compared(), measured()
        if turn:  # the first one warms up
            times.append(one / count * 1e6)
            others.append(other / count * 1e6)
    return row_of(name, times, others, compared_with, goal=goal, at_most=at_most, at_most_ratio=at_most_ratio)


def row_of(
    name: str,
    values: Sequence[float],
    others: Sequence[float],
    compared_with: str,
    *,
    unit: str = "us",
    goal: str = "",
    at_most: float | None = None,
    at_most_ratio: float | None = None,
) -> Row:
    """The row of what was measured in turns. Goals are for the fastest turn and for the median of the ratios."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    ratio, best = statistics.median(ratios), min(values)
    met = None
    if at_most is not None or at_most_ratio is not None:
        met = (at_most is None or best <= at_most) and (at_most_ratio is None or ratio <= at_most_ratio)
        limits = (f"{at_most:g} {unit}" if at_most is not None else "", f"{at_most_ratio}x" if at_most_ratio else "")
        goal = goal or " and ".join(filter(None, limits))
    spread = quartiles[0], quartiles[2]
    return Row(name, statistics.median(values), best, unit, ratio, spread, compared_with, goal, met)


class _MemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = [
        ("bytes", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    ]


def resident_bytes(process: "subprocess.Popen[str] | None" = None) -> int:
    """The memory that a process has now; of None, this one."""
    if sys.platform == "win32":
        counters = _MemoryCounters(bytes=ctypes.sizeof(_MemoryCounters))
        handle = ctypes.c_void_p(-1 if process is None else int(vars(process)["_handle"]))
        if not ctypes.WinDLL("kernel32").K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.bytes):
            raise ctypes.WinError()
        return int(counters.working_set)
    pages = Path(f"/proc/{process.pid if process else 'self'}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
