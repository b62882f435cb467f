"""Held processes as an iterator: ``for process in monitor.starts()``, with or without ``async``."""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from ._dispatch import Engine, State
from ._subscriptions import Match, Subscription
from .errors import ProcmonError
from .records import DecidedBy, ProcessHelper, Verdict

__all__ = ["Starts"]

SLICE = 0.1
"""Seconds of one wait: Ctrl+C does not interrupt a lock on Windows."""


class _Inbox:
    """What has come, and what was given out. It does not know its `Starts`, which may be dropped."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.changed = threading.Condition(threading.RLock())
        self.waiting: deque[ProcessHelper] = deque()
        self.given: list[ProcessHelper] = []
        self.wake_ups: set[Callable[[], object]] = set()
        self.taker = 0  # native id of the thread that is busy with what it took
        self.closed = False

    def put(self, process: ProcessHelper) -> Verdict | None:
        with self.changed:
            if self.closed:  # since the engine has decided to ask: nobody would ever take it
                return None
            self.waiting.append(process)
        self.wake()
        return Verdict.DEFER

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()
            for wake_up in tuple(self.wake_ups):
                wake_up()

    def take(self) -> ProcessHelper | None:
        """The next one that is still held."""
        with self.changed:
            while self.waiting:
                process = self.waiting.popleft()
                hold = self.engine.ledger.held.get(process.identity)
                if hold is not None and not hold.claimed:
                    self.given = [one for one in self.given if one.identity in self.engine.ledger.held]
                    self.given.append(process)
                    self._busy(threading.get_native_id())
                    return process
        return None

    def idle(self) -> None:
        self._busy(0)

    def _busy(self, thread: int) -> None:
        with self.changed:
            before, self.taker = self.taker, thread
        if before:
            self.engine.asking_threads.leave(before)
        if thread:
            self.engine.asking_threads.enter(thread)

    def close(self, subscription: Subscription) -> None:
        subscription.cancel()
        with suppress(ValueError):
            self.engine.at_stop.remove(self.wake)
        with self.changed:
            self.closed = True
            unanswered = [*self.given, *self.waiting]
            self.given.clear()
            self.waiting.clear()
            self._busy(0)
        for process in unanswered:
            hold = self.engine.ledger.held.get(process.identity)
            if hold is not None:
                self.engine.ledger.answer(hold, self.engine.unanswered, DecidedBy.DEFAULT, subscription.name)


class Starts:
    """The processes that start, each held until `Monitor.allow` or `Monitor.block`; made by `Monitor.starts`.

    However the iteration ends (`break`, timeout, the monitor stopped, the iterator dropped or closed): what it gave and
    nobody answered then gets the monitor's default.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> with procmon.Monitor(gate) as monitor, monitor.starts(timeout=5) as starts:
    ...     a = gate.start("a.exe")
    ...     for process in starts:
    ...         monitor.block(process)
    ...         break
    <Decision block 1000 'a.exe' by user>
    """

    def __init__(self, engine: Engine, timeout: float | None, match: Match) -> None:
        self._engine = engine
        self._timeout = timeout
        self._inbox = inbox = _Inbox(engine)
        self._subscription = subscription = engine.subscribe(inbox.put, match)
        subscription.name = "starts"
        engine.at_stop.append(inbox.wake)
        self._finalizer = weakref.finalize(self, engine.do_later, lambda: inbox.close(subscription))
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return f"<Starts of {self._engine.gate.name}: {len(self._inbox.waiting)} waiting{', closed' * self._is_closed}>"

    @property
    def _is_closed(self) -> bool:
        return self._subscription.cancelled

    def close(self) -> None:
        """End the iteration; what is unanswered gets the default. Twice is no error."""
        if self._finalizer.detach() is not None:
            self._inbox.close(self._subscription)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ProcessHelper:
        self._inbox.idle()
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while (process := self._inbox.take()) is None:
            left = SLICE if end is None else min(SLICE, end - time.monotonic())
            if left <= 0 or self._is_over():
                self.close()
                raise StopIteration
            with self._inbox.changed:
                if not self._inbox.waiting:
                    self._inbox.changed.wait(left)
        return process

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProcessHelper:
        self._inbox.idle()
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake_up() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(arrived.set)

        with self._inbox.changed:
            self._inbox.wake_ups.add(wake_up)
        try:
            while (process := self._inbox.take()) is None:
                if self._is_over():
                    await asyncio.to_thread(self.close)
                    raise StopAsyncIteration
                try:
                    await asyncio.wait_for(arrived.wait(), self._timeout)
                except TimeoutError:
                    await asyncio.to_thread(self.close)
                    raise StopAsyncIteration from None
                arrived.clear()
            return process
        finally:
            with self._inbox.changed:
                self._inbox.wake_ups.discard(wake_up)

    def _is_over(self) -> bool:
        if self._engine.state is State.READY:
            raise ProcmonError("the monitor does not run, so nothing will ever come: start() it, or use a `with`")
        return self._is_closed or self._engine.stopped.is_set()
