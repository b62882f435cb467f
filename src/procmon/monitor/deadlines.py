"""The deadline of callbacks: when each case is due.

The time of a case begins when a thread asks its first callback. `Workers.give_up_the_late` decides the late cases by
`on_deadline`. The leader calls it at the times that `Deadlines.next_check` gives.
"""

import math
import time
from collections.abc import Iterable

from .cases import Case

__all__ = ["Deadlines"]

TICK_S = 0.25
"""Longest time between two checks of the leader for deadlines and slow sinks, which do not wake it."""

SHORTEST_TICK_S = 0.005


class Deadlines:
    """When the begun cases are due. The lock of `Workers` guards it."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds  # the gate may have a limit all the same
        self._next_due = math.inf  # no case is due before
        self._tick = min(TICK_S, max(SHORTEST_TICK_S, self._seconds / 4))

    def begin(self, case: Case) -> None:
        """Set when the case is due. The time of a coroutine goes on while it is awaited and when it is resumed."""
        if case.due is None:
            now = time.monotonic()
            case.due = now + _time_for(case, self._seconds, now)
        self._next_due = min(self._next_due, case.due)

    def may_be_late(self, now: float) -> bool:
        """Whether a case may be late: `late` then finds out which."""
        return now >= self._next_due

    def late(self, begun: Iterable[Case], now: float) -> set[Case]:
        """The late ones of all begun cases."""
        timed = {case: case.due for case in begun if case.due is not None}
        late = {case for case, due in timed.items() if due <= now}
        self._next_due = min((due for case, due in timed.items() if case not in late), default=math.inf)
        return late

    def next_check(self, now: float) -> float:
        """Seconds until the leader should check again."""
        return min(self._tick, max(SHORTEST_TICK_S, self._next_due - now))


def _time_for(case: Case, deadline: float, now: float) -> float:
    """Seconds for the callbacks of a case."""
    if case.process.hold_left is None or case.process.exited:
        return deadline
    waited = now - case.since  # for a free thread
    return min(deadline, 0.8 * case.process.hold_left - waited)  # answer before the gate does
