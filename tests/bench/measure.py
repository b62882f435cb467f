"""How benchmarks measure: what is compared takes turns, so that the noise of a shared machine meets all of it alike.

Believe the ratios. A ratio is the median of the ratios of the turns, and its spread is from the first to the third
quartile of them.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Row", "cpu_of", "row", "seconds_of"]

TURNS = 9


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    microseconds: float
    """Median, of one of what the name says."""
    ratio: float
    """To what it is compared with."""
    spread: tuple[float, float]
    """First and third quartile of the ratio."""
    compared_with: str
    goal: str = ""

    def __str__(self) -> str:
        low, high = self.spread
        goal = f"; goal {self.goal}" if self.goal else ""
        return (
            f"{self.name:<52} {self.microseconds:>12,.1f} us  {self.ratio:>7.2f}x ({low:.2f}-{high:.2f})"
            f" of {self.compared_with}{goal}"
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
) -> Row:
    """Measure two things in turns; each returns its seconds, of `count` of what is reported."""
    times, ratios = [], []
    for turn in range(turns + 1):
        gc.collect()
        other, one = compared(), measured()
        if turn:  # the first one warms up
            times.append(one)
            ratios.append(one / other)
    quartiles = statistics.quantiles(ratios, n=4)
    median = statistics.median(times) / count * 1e6
    return Row(name, median, statistics.median(ratios), (quartiles[0], quartiles[2]), compared_with, goal)
