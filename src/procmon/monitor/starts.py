"""Held processes as an iterator: ``for process in monitor.starts()``, with or without ``async``."""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..records import DecidedBy, ProcessHelper, Verdict
from ..util.threads import Signal, run_in_thread, run_in_thread_async
from .engine import Engine
from .subscriptions import Match, Ruling, Subscription

__all__ = ["Starts"]


@dataclass(slots=True, eq=False)
class _Ticket:
    """One call of ``next``: its process, and how the call ended.

    The helper thread writes `process`; the caller writes `wake`, `arrived` and `failed`. Each write is one assignment,
    which is atomic. So an interrupt finds the ticket in one of three states: no process, a process that has not
    arrived, or a process that has arrived.
    """

    wake: Callable[[], object]
    """Called when there may be a process, after `take` found none."""
    thread: int
    """Native id of the caller, which is busy with the process until it asks for the next one."""
    process: ProcessHelper | None = None
    arrived: bool = False
    """The caller has the process."""
    failed: bool = False
    """The caller was interrupted before it had the process."""


class _StartQueue:
    """The processes that wait for an iteration, and those given to callers. It refers to its `Starts` only weakly, so
    that the garbage collector can free the `Starts`.

    The hand-over. A helper thread takes a process from the queue (`take`) while the caller waits, and Ctrl+C or a
    cancellation may end that wait at any moment. So a process that was taken may not have reached the caller. It stays
    with its ticket in `tickets`, and the caller confirms it (`arrived`) or reports that it never got it (`failed`).

    What is guaranteed. Each process is given to one caller. A process whose caller was interrupted before the
    confirmation goes back to the head of `waiting`, in its old order, and the next `take` gives it again. A process
    that was given stays in `tickets` until it has its verdict, so that `close` can answer it.

    What can interleave. An interrupt can arrive before `take` has run: then `take` finds `failed`, and gives nothing.
    It can arrive after `take` and before the confirmation: then `failed` is set on a ticket with a process, `tidy`
    wakes the callers that wait, and the next `take` puts the process back. `lock` guards everything but the attributes
    of the tickets. It is reentrant for the same reason as the lock of `HoldTable`. No verdict is sent while it is held.
    """

    def __init__(self, engine: Engine, starts: "Starts") -> None:
        self.engine = engine
        self.starts = weakref.ref(starts)
        self.lock = threading.RLock()
        self.subscription: Subscription | None = None
        self.waiting: deque[ProcessHelper] = deque()
        self.tickets: list[_Ticket] = []  # each with a process
        self.unserved: set[_Ticket] = set()  # each without one
        self.busy: set[int] = set()  # native ids of the threads that are busy with a process
        self.interrupted = False  # written by the caller: the iteration has ended, and a helper thread closes it soon
        self.closed = False

    def open(self, match: Match) -> None:
        with self.lock:
            if not self.closed:
                self.engine.at_stop.append(self.wake)
                self.subscription = self.engine.subscribe(self.put, match, name="starts")

    def put(self, process: ProcessHelper) -> Verdict | None:
        with self.lock:
            # Closed after the engine began to ask, or about to be closed: another iteration may wait for the process.
            if self.closed or self.interrupted or self.starts() is None:
                return None
            self.waiting.append(process)
        self.wake()
        return Verdict.DEFER

    def wake(self) -> None:
        with self.lock:
            tickets = list(self.unserved)
            self.unserved.clear()
        for ticket in tickets:
            ticket.wake()

    def take(self, ticket: _Ticket) -> None:
        """Give the ticket the next undecided process. If there is none, the ticket is woken when one arrives."""
        with self.lock:
            self._set_busy(ticket.thread, False)
            if ticket.failed:  # if it fails after this line, `tidy`, which waits for the lock, finds its process
                return
            lost = [one for one in self.tickets if one.failed]
            self.waiting.extendleft(one.process for one in reversed(lost) if one.process is not None)
            self.tickets = [one for one in self.tickets if not one.failed and self._is_undecided(one.process)]
            while self.waiting:
                process = self.waiting.popleft()
                if self._is_undecided(process):
                    ticket.process = process
                    self.tickets.append(ticket)
                    self._set_busy(ticket.thread, True)
                    return
            self.unserved.add(ticket)

    def _is_undecided(self, process: ProcessHelper | None) -> bool:
        case = None if process is None else self.engine.holds.held.get(process.identity)
        return case is not None and case.ruling is None

    def _set_busy(self, thread: int, busy: bool) -> None:
        if busy and thread not in self.busy:
            self.busy.add(thread)
            self.engine.callback_threads.enter(thread)
        elif not busy and thread in self.busy:
            self.busy.discard(thread)
            self.engine.callback_threads.leave(thread)

    def tidy(self) -> None:
        """After an interrupt: the thread is not busy with the process that it never got; another caller may get it."""
        with self.lock:
            for ticket in self.tickets:
                if ticket.failed:
                    self._set_busy(ticket.thread, False)
        self.wake()

    def close(self, *, cut_off: bool = False) -> None:
        """End the iteration. If it was cut off, its unanswered processes get what a stop gives, not the default."""
        with self.lock:
            self.closed = True
            unanswered = [ticket.process for ticket in self.tickets] + list(self.waiting)
            self.tickets.clear()
            self.waiting.clear()
            for thread in list(self.busy):
                self._set_busy(thread, False)
        if self.subscription is not None:
            self.subscription.cancel()
            with suppress(ValueError):
                self.engine.at_stop.remove(self.wake)
        self.wake()
        ruling = self.engine.last_ruling if cut_off else Ruling(self.engine.unanswered, DecidedBy.DEFAULT)
        ruling = ruling._replace(who="starts")
        for process in unanswered:
            if process is not None and (case := self.engine.holds.held.get(process.identity)) is not None:
                self.engine.holds.decide(case, ruling)
        self.engine.holds.flush()


class Starts:
    """The processes that start, each held until `Monitor.allow` or `Monitor.block`; made by `Monitor.starts`.

    When the iteration ends (timeout, `close`, the end of its `with`), its unanswered processes get the monitor's
    default. When it is cut off (Ctrl+C while it waits, a `with` left by an exception, an iterator dropped), they get
    what a stop of the monitor gives: BLOCK if ``default`` or ``fail`` is BLOCK. Use it in a `with` where you may leave
    by `break` or an exception: an iterator that a name still refers to goes on holding new processes.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> with procmon.Monitor(gate) as monitor, monitor.starts(timeout=5) as starts:
    ...     a = gate.start("a.exe")
    ...     for process in starts:
    ...         monitor.block(process)
    ...         break
    <Decision block 1000 'a.exe' by user>
    """

    if TYPE_CHECKING:  # `_of` sets these
        _engine: Engine
        _timeout: float | None
        _in_with: bool
        _queue: "_StartQueue"
        _finalizer: "weakref.finalize[..., Starts]"

    def __init__(self, *arguments: object, **options: object) -> None:
        raise TypeError("Starts are made by Monitor.starts(timeout=..., match=...)")

    @classmethod
    def _of(cls, engine: Engine, timeout: float | None, match: Match) -> Self:
        """The processes that start from now on, for `Monitor.starts`."""
        starts = cls.__new__(cls)
        starts._engine = engine
        starts._timeout = timeout
        starts._in_with = False
        starts._queue = queue = _StartQueue(engine, starts)
        starts._finalizer = weakref.finalize(starts, _close_later, weakref.ref(queue))
        starts._finalizer.atexit = False
        run_in_thread(queue.open, match)
        return starts

    def __repr__(self) -> str:
        queue = self._queue
        return f"<Starts of {self._engine.gate.name}: {len(queue.waiting)} waiting{', closed' * queue.closed}>"

    def close(self) -> None:
        """End the iteration; its unanswered processes get the default. Idempotent."""
        self._close(cut_off=False)

    async def aclose(self) -> None:
        """`close` for coroutines."""
        await run_in_thread_async(self.close)

    def _close(self, *, cut_off: bool) -> None:
        run_in_thread(partial(self._queue.close, cut_off=cut_off))
        self._finalizer.detach()

    def __enter__(self) -> Self:
        self._in_with = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(cut_off=error is not None)

    async def __aenter__(self) -> Self:
        self._in_with = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await run_in_thread_async(partial(self._close, cut_off=error is not None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ProcessHelper:
        self._engine.check_caller("iterate with `async for`")
        end = None if self._timeout is None else time.monotonic() + self._timeout
        ticket = _Ticket(lambda: None, threading.get_native_id())
        try:
            while not ticket.arrived:
                signal = Signal()
                ticket.wake = signal.set
                run_in_thread(self._queue.take, ticket)
                if ticket.process is not None:
                    ticket.arrived = True
                elif self._is_over() or not signal.wait(None if end is None else end - time.monotonic()):
                    break
        except Exception:
            raise
        except BaseException:  # Ctrl+C. The traceback keeps the iterator alive, so it is closed explicitly
            self._interrupt(ticket, closes=not self._in_with)
            raise
        if ticket.process is None:
            self.close()
            raise StopIteration
        return ticket.process

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProcessHelper:
        import asyncio  # here: a program without coroutines does not need it

        loop = asyncio.get_running_loop()
        end = None if self._timeout is None else loop.time() + self._timeout
        ticket = _Ticket(lambda: None, threading.get_native_id())
        try:
            while not ticket.arrived:
                event = asyncio.Event()
                ticket.wake = lambda event=event: _set_on_loop(loop.call_soon_threadsafe, event.set)  # type: ignore[misc]
                await run_in_thread_async(self._queue.take, ticket)
                if ticket.process is not None:
                    ticket.arrived = True
                elif self._is_over():
                    break
                else:
                    async with asyncio.timeout_at(end):
                        await event.wait()
        except TimeoutError:
            pass
        except BaseException:  # a cancellation; the iteration may go on
            self._interrupt(ticket, closes=False)
            raise
        if ticket.process is None:
            await self.aclose()
            raise StopAsyncIteration
        return ticket.process

    def _interrupt(self, ticket: _Ticket, *, closes: bool) -> None:
        ticket.failed = True
        if closes:
            self._queue.interrupted = True
        self._engine.do_later(partial(self._queue.close, cut_off=True) if closes else self._queue.tidy)

    def _is_over(self) -> bool:
        self._engine.check_runs()
        return self._queue.closed or self._engine.stopped.is_set


def _close_later(queue: "weakref.ref[_StartQueue]") -> None:
    """Close the queue of a `Starts` that was freed. A finalizer keeps its arguments alive, so this function takes a
    weak reference: the engine may have a callback that refers to the `Starts`, which would then never be freed. While
    the monitor runs, the subscription keeps the queue alive.
    """
    if (left := queue()) is not None:
        left.engine.do_later(partial(left.close, cut_off=True))  # perhaps dropped by an exception


def _set_on_loop(call_soon: Callable[[Callable[[], object]], object], set_event: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop was closed
        call_soon(set_event)
