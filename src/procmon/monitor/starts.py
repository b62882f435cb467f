"""Held processes as an iterator: ``for process in monitor.starts()``, with or without ``async``."""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..records import DecidedBy, ProcessHelper, Verdict
from ..util.threads import Signal, run_in_thread, run_in_thread_async
from .engine import Engine
from .subscriptions import Match, Subscription

__all__ = ["Starts"]


@dataclass(slots=True, eq=False)
class _Request:
    """One who wants the next process."""

    wake_up: Callable[[], object]
    """Called when there may be one, if there was none."""
    thread: int
    """Native id of the thread that will be busy with it."""
    process: ProcessHelper | None = None
    withdrawn: bool = False


class _StartQueue:
    """What has come, and what was given out. It does not know its `Starts`, which may be dropped."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.RLock()
        self.subscription: Subscription | None = None
        self.waiting: deque[ProcessHelper] = deque()
        self.given: list[ProcessHelper] = []
        self.requests: dict[_Request, None] = {}  # that found nothing
        self.taker = 0  # native id of the thread that is busy with what it took
        self.closed = False

    def open(self, match: Match) -> None:
        with self.lock:
            if not self.closed:
                self.engine.at_stop.append(self.wake)
                self.subscription = self.engine.subscribe(self.put, match, name="starts")

    def put(self, process: ProcessHelper) -> Verdict | None:
        with self.lock:
            if self.closed:  # since the engine has decided to ask: nobody would ever take it
                return None
            self.waiting.append(process)
        self.wake()
        return Verdict.DEFER

    def wake(self) -> None:
        with self.lock:
            requests = list(self.requests)
            self.requests.clear()
        for request in requests:
            request.wake_up()

    def take(self, request: _Request) -> ProcessHelper | None:
        """The next one that is still held; None: the request is woken when there may be one."""
        with self.lock:
            self._busy(0)
            if request.withdrawn:
                return None
            while self.waiting:
                process = self.waiting.popleft()
                hold = self.engine.holds.held.get(process.identity)
                if hold is not None and not hold.claimed:
                    self.given = [one for one in self.given if one.identity in self.engine.holds.held]
                    self.given.append(process)
                    self._busy(request.thread)
                    request.process = process
                    return process
            self.requests[request] = None
        return None

    def withdraw(self, request: _Request) -> None:
        """Take back what was given to one who never got it."""
        with self.lock:
            request.withdrawn = True
            if request.process in self.given:
                self.given.remove(request.process)
                self.waiting.appendleft(request.process)
                self._busy(0)
        self.wake()

    def _busy(self, thread: int) -> None:
        before, self.taker = self.taker, thread
        if before:
            self.engine.callback_threads.leave(before)
        if thread:
            self.engine.callback_threads.enter(thread)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            unanswered = [*self.given, *self.waiting]
            self.given.clear()
            self.waiting.clear()
            self._busy(0)
        if self.subscription is not None:
            self.subscription.cancel()
            with suppress(ValueError):
                self.engine.at_stop.remove(self.wake)
        self.wake()
        for process in unanswered:
            hold = self.engine.holds.held.get(process.identity)
            if hold is not None:
                self.engine.holds.answer(hold, self.engine.unanswered, DecidedBy.DEFAULT, "starts")


class Starts:
    """The processes that start, each held until `Monitor.allow` or `Monitor.block`; made by `Monitor.starts`.

    When it ends (timeout, Ctrl+C while it waits, the monitor stopped, the iterator closed or dropped), what it gave and
    nobody answered gets the monitor's default. Use it in a `with` where you may leave by `break` or an exception:
    an iterator that a name still refers to goes on holding what starts.

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
        self._in_with = False
        self._queue = inbox = _StartQueue(engine)
        self._finalizer = weakref.finalize(self, engine.do_later, inbox.close)
        self._finalizer.atexit = False
        run_in_thread(inbox.open, match)

    def __repr__(self) -> str:
        inbox = self._queue
        return f"<Starts of {self._engine.gate.name}: {len(inbox.waiting)} waiting{', closed' * inbox.closed}>"

    def close(self) -> None:
        """End the iteration; what is unanswered gets the default. Twice is no error."""
        run_in_thread(self._queue.close)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        self._in_with = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ProcessHelper:
        self._engine.check_caller("iterate with `async for`")
        try:
            process = self._next()
        except Exception:
            raise
        except BaseException:  # Ctrl+C: a traceback keeps us alive, and nobody will ask again; in a `with` one may
            if not self._in_with:
                self._engine.do_later(self._queue.close)
            raise
        if process is None:
            self.close()
            raise StopIteration
        return process

    def _next(self) -> ProcessHelper | None:
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            arrived = Signal()
            with self._request(arrived.set) as request:
                if (process := run_in_thread(self._queue.take, request)) is not None:
                    return process
                left = None if end is None else end - time.monotonic()
                if self._is_over() or not arrived.wait(left):
                    return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProcessHelper:
        loop = asyncio.get_running_loop()
        end = None if self._timeout is None else loop.time() + self._timeout
        while True:
            arrived = asyncio.Event()

            def wake_up(arrived: asyncio.Event = arrived) -> None:
                with suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(arrived.set)

            with self._request(wake_up) as request:
                if (process := await run_in_thread_async(self._queue.take, request)) is not None:
                    return process
                if self._is_over():
                    break
                try:
                    async with asyncio.timeout_at(end):
                        await arrived.wait()
                except TimeoutError:
                    break
        await run_in_thread_async(self.close)
        raise StopAsyncIteration

    @contextmanager
    def _request(self, wake_up: Callable[[], object]) -> Iterator[_Request]:
        request = _Request(wake_up, threading.get_native_id())
        try:
            yield request
        except BaseException:  # Ctrl+C or a cancellation, most often: the next one who asks is to have it
            self._engine.do_later(lambda: self._queue.withdraw(request))
            raise
        finally:
            self._queue.requests.pop(request, None)

    def _is_over(self) -> bool:
        self._engine.check_runs()
        return self._queue.closed or self._engine.stopped.is_set
