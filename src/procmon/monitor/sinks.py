"""The sinks, which write decisions: each has a bounded queue, and a writer thread that empties it.

No verdict waits for a sink, and no sink for another. The exception is a sink that writes ahead: the thread that sends a
verdict calls it first.

What is guaranteed. A decision is in the queue from the moment it is in the history until the sink has returned: the
writer removes it after the call, not before. So "the queue is empty" means "all decisions are written", at any moment,
and a stop waits for that. A sink's queue has at most one writer at a time: the thread that starts the writer sets
`_since`, under the lock, and the writer resets it in the same step in which it finds the queue empty.
"""

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import IOBase
from itertools import islice
from typing import Protocol, runtime_checkable

from ..records import Decision, VerdictResult
from ..util.arguments import is_awaitable
from ..util.log import ERROR, log, log_soon
from ..util.threads import submit
from .cases import Case

__all__ = ["Sink", "Sinks", "read_sinks"]

QUEUE_LIMIT = 10_000
"""Decisions that may wait for one sink; further ones are dropped and counted."""

BATCH_LIMIT = 100
"""Decisions that a sink is given at once, if it takes several."""

SLOW_S = 30.0
"""Time after which a sink that has not returned is logged."""


@runtime_checkable
class Sink(Protocol):
    """An object that writes decisions, such as an `AuditLog`.

    >>> import procmon
    >>> class Printed:
    ...     def write(self, decision):
    ...         print(decision)
    >>> with procmon.Monitor(procmon.SimulatedGate(), default=procmon.DEFER, audit=Printed()) as monitor:
    ...     process = monitor.gate.start("a.exe")
    <Decision allow 1000 'a.exe' by stop>
    """

    def write(self, decision: Decision, /) -> object:
        """Called once for each decision, in order, after its verdict was sent; by one thread of the monitor at a time.
        Its result is ignored, and not awaited: a coroutine function is refused.

        If the sink has an attribute ``write_ahead`` that is true, any thread calls it before the verdict is sent, also
        several threads at once, and the verdict waits for it. Where the verdict then came too late, it is called once
        more.

        A sink may also have ``write_some(decisions)``, which writes the first of several decisions at once and returns
        how many. If it raises, it must have written none; the decisions are then written one by one.
        """


_NOT_AWAITED = "write of a sink is not awaited: make it a function, which may put the decision into a queue"


class _SinkQueue:
    """The decisions that one sink has not written yet."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.write_ahead = bool(getattr(sink, "write_ahead", False))
        self._write_some: Callable[[list[Decision]], int] | None = getattr(sink, "write_some", None)
        self.errors = 0
        self.dropped = 0
        self.waiting: deque[Case] = deque()  # the first of them are being written
        self._changed = threading.Condition(threading.RLock())
        self._since: float | None = None  # when the writer began with the first; None: there is no writer
        self._is_slow = self._is_full = False  # and logged

    def put(self, cases: list[Case]) -> None:
        with self._changed:
            room = max(0, QUEUE_LIMIT - len(self.waiting))
            self.waiting.extend(cases[:room])
            self.dropped += len(cases[room:])

    def start(self) -> None:
        """Start a writer, unless there is one or the queue is empty."""
        with self._changed:
            if not self.waiting or self._since is not None:
                return
            self._since = time.monotonic()
        submit(self._write_all)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                some = list(islice(self.waiting, BATCH_LIMIT))
            written = self._write(some)
            with self._changed:
                for _ in range(written):
                    self.waiting.popleft()
                self._since = time.monotonic() if self.waiting else None
                if self._since is None:
                    self._changed.notify_all()
                    return

    def _write(self, cases: list[Case]) -> int:
        """As `write`. A decision that cannot be made (out of memory, say) is lost and counted; the writer goes on."""
        try:
            return self.write([case.decision for case in cases])
        except BaseException as error:
            if len(cases) > 1:
                return self._write(cases[:1])
            self._count_error("the decision about ", cases[0].process, error)
            return 1

    def write(self, decisions: list[Decision]) -> int:
        """Write at least the first of these, and return how many."""
        if self._write_some is not None and len(decisions) > 1:
            with suppress(BaseException):  # see the comment below
                written: object = self._write_some(decisions)
                is_awaitable(written)  # closed, and refused below
                if isinstance(written, int) and 0 < written <= len(decisions):
                    return written
                self._write_some = None
                text = "%r: write_some returned %r, not how many of %d it wrote; each is written by itself from here on"
                log(ERROR, text, self.sink, written, len(decisions))
        decision = decisions[0]
        try:
            if is_awaitable(self.sink.write(decision)):
                raise TypeError(_NOT_AWAITED)
        except BaseException as error:  # SystemExit, too: it must not end the thread
            self._count_error("", decision, error)
        return 1

    def _count_error(self, what: str, unwritten: object, error: BaseException) -> None:
        with self._changed:
            self.errors += 1
        log(ERROR, "%r could not write %s%r; its verdict stands", self.sink, what, unwritten, error=error)

    def wait(self, end: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, max(0.0, end - time.monotonic()))

    def check(self) -> None:
        if self.dropped and not self._is_full:
            log_soon(ERROR, "the sink %r is too slow: decisions are dropped, and counted", self.sink)
        self._is_full = self.dropped > 0
        since = self._since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds > SLOW_S and not self._is_slow:
            text = "the sink %r has not returned for %.0f s: %d decisions are not written"
            log_soon(ERROR, text, self.sink, seconds, len(self.waiting))
        self._is_slow = seconds > SLOW_S


class Sinks:
    """All sinks of one monitor."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._queues = tuple(_SinkQueue(sink) for sink in sinks)
        self._ahead = tuple(queue for queue in self._queues if queue.write_ahead)
        self.writes_ahead = bool(self._ahead)

    @property
    def counts(self) -> dict[str, int]:
        """Decisions that a sink could not write, or never got because its queue was full."""
        queues = self._queues
        return {"audit_errors": sum(q.errors for q in queues), "audit_dropped": sum(q.dropped for q in queues)}

    @property
    def unwritten(self) -> int:
        """Number of decisions that wait for the slowest sink."""
        return max((len(queue.waiting) for queue in self._queues), default=0)

    def write_ahead(self, decisions: list[Decision]) -> None:
        """Write to the sinks that write ahead; returns when all have written."""
        for queue in self._ahead:
            left = decisions
            while left:
                left = left[queue.write(left[:BATCH_LIMIT]) :]

    def put(self, cases: Iterable[Case]) -> None:
        """Queue the decisions of cases. Calls no sink, so the caller may hold a lock, which keeps the order."""
        for queue in self._queues:
            queue.put([case for case in cases if case.is_for_sinks and not (queue.write_ahead and _is_written(case))])

    def start(self) -> None:
        """Start a writer for each queue that has decisions and no writer. The caller must not hold a lock."""
        for queue in self._queues:
            if queue.waiting:
                queue.start()

    def wait(self, timeout: float) -> bool:
        """Wait until all decisions are written; False when `timeout` seconds passed first."""
        end = time.monotonic() + timeout
        return all(queue.wait(end) for queue in self._queues)

    def check(self) -> None:
        """Log the sinks that have hung for long, or that lose decisions."""
        for queue in self._queues:
            queue.check()


def _is_written(case: Case) -> bool:
    return case.written_ahead and case.result in (VerdictResult.DONE, None)


def read_sinks(audit: Sink | Iterable[Sink] | None) -> tuple[Sink, ...]:
    """The sinks of the option ``audit``. Raises: TypeError."""
    if audit is None:
        return ()
    sinks = tuple(audit) if isinstance(audit, Iterable) and not isinstance(audit, Sink) else (audit,)
    for sink in sinks:
        if isinstance(sink, IOBase):
            raise TypeError(f"audit takes an AuditLog, or an object with write(decision), not the text file {sink!r}")
        if isinstance(sink, type) or not isinstance(sink, Sink):
            raise TypeError(f"audit takes objects with a method write(decision), not {sink!r}")
        if inspect.iscoroutinefunction(sink.write):
            raise TypeError(f"{_NOT_AWAITED}; {sink!r} has a coroutine function")
    return sinks
