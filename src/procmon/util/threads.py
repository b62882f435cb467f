"""Helper threads that run calls which must not run on the caller's thread, and waits that Ctrl+C can end.

Ctrl+C is an exception in the main thread, between any two of its instructions; on Windows neither a wait for a lock nor
a call into C hears it. A user's thread that holds one of the monitor's locks could be thrown out with the lock still
taken, and in a call of a gate or a sink it could hang for good. So it does neither: `run_in_thread` has a helper thread
make the call, and waits. Ctrl+C ends the wait, not the call: that is made once, and to its end.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, TypeVar

__all__ = ["Call", "OwnThread", "Signal", "is_own", "run_in_thread", "run_in_thread_async", "submit", "wait_for"]

SLICE_S = 0.1
"""Longest single wait in C, so that Ctrl+C is heard after it."""

IDLE_S = 1.0
"""Time after which an idle helper thread ends."""

P = ParamSpec("P")
T = TypeVar("T")


class OwnThread(threading.Thread):
    """A thread that belongs to procmon; the end of the program does not wait for it."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=f"procmon {name}", daemon=True)


def is_own() -> bool:
    """Whether the calling thread is one of procmon's own."""
    return isinstance(threading.current_thread(), OwnThread)


class Signal:
    """An event that is set once. Ctrl+C ends a wait for it, and harms no other wait.

    `threading.Event` is made of Python-level locks, which an exception in the middle of a wait can leave locked. Here
    is one lock, taken until the event is set; a waiter that gets it gives it back at once.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()
        self.is_set = False

    def set(self) -> None:
        """End all waits, now and later. Idempotent."""
        self.is_set = True
        with suppress(RuntimeError):  # it was released before
            self._closed.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set within `timeout` seconds; None: no limit."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set:
            left = SLICE_S if end is None else min(SLICE_S, end - time.monotonic())
            if left <= 0:
                return False
            if self._closed.acquire(timeout=left):
                self.set()  # for the other waiters
        return True


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None) -> bool:
    """`Condition.wait_for` that hears Ctrl+C."""
    end = None if timeout is None else time.monotonic() + timeout
    while not predicate():
        left = SLICE_S if end is None else min(SLICE_S, end - time.monotonic())
        if left <= 0:
            return False
        condition.wait(left)
    return True


class Call(Generic[T]):
    """One call that a helper thread makes: its result, or what it raised."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.done = Signal()

    def run(self) -> None:
        """Make the call. Never raises."""
        assert self._function is not None, "a call is made once"
        try:
            self._result.append(self._function())
        except BaseException as error:
            self._error = error
        self._function = None  # what it refers to may be waiting to be dropped
        self.done.set()

    def result(self) -> T:
        """What it returned; to be asked for once it is done. Raises: what the call raised."""
        if self._error is None:
            return self._result[0]
        try:
            raise self._error
        finally:
            del self  # the traceback refers to this frame: without this, error and frame keep each other alive


class _PoolThread:
    """A helper thread: makes one call after the other, and ends when there was none for a while.

    Whoever takes it out of `_idle` gives it exactly one call. That rule also settles the race at its end: the thread
    that has waited long enough takes itself out. If it finds itself gone, a caller has taken it and will put a call,
    so it waits on. Taking from a deque is atomic, so one of the two gets it, and no call is put into a dead thread.
    """

    def __init__(self, call: Call[T]) -> None:
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.calls.put(call.run)
        OwnThread(self._work, "helper").start()

    def _work(self) -> None:
        while True:
            try:
                run = self.calls.get(timeout=IDLE_S)
            except Empty:
                with suppress(ValueError):
                    _idle.remove(self)
                    return
            else:
                run()
                del run
                _idle.append(self)


_idle: deque[_PoolThread] = deque()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads are not forked


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
    """Have a helper thread make the call soon; where none can be started (the program ends), the caller makes it."""
    call = Call(lambda: function(*args, **kwargs))
    try:
        _idle.pop().calls.put(call.run)
    except IndexError:
        try:
            _PoolThread(call)
        except RuntimeError:
            call.run()
    return call


def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the call returns, made by a helper thread; Ctrl+C ends the wait for it, not the call.

    A thread of procmon's own makes the call itself. Raises: what the call raises.
    """
    if is_own():
        return function(*args, **kwargs)
    call = submit(function, *args, **kwargs)
    call.done.wait()
    return call.result()


async def run_in_thread_async(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for coroutines; a cancellation ends the wait.

    `asyncio.to_thread` will not do: the end of the program waits for its threads.
    """
    import asyncio  # here: a program without coroutines does not need it

    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(done.set)

    call = submit(work)
    await done.wait()
    call.done.wait()  # the helper thread is leaving `work`
    return call.result()
