"""Helper threads that run calls which must not run on the caller's thread, and waits that Ctrl+C can end.

The problem. Python raises KeyboardInterrupt in the main thread, between any two of its instructions. On Windows it does
not interrupt a wait for a lock or a call into C. If the main thread took one of the monitor's locks, an interrupt could
leave the lock taken for ever. If it called a gate or a sink, Ctrl+C could not end a call that hangs.

The answer. `run_in_thread` has a helper thread make the call, and the caller waits. KeyboardInterrupt is raised only in
the main thread, so a helper thread is never interrupted, and the locks that it takes are always released.

What is guaranteed. The call is made at most once. Once a helper thread has it, the call runs to its end, also when
Ctrl+C ends the wait for it. What the call returns or raises is then dropped.

What can interleave. An interrupt in `submit`, before the helper thread has the call, means that the call is not made.
If the interrupt arrives after `submit` took an idle thread and before it queued the call there, that thread is lost to
the pool: it waits until the program ends. This costs one idle thread and nothing else, so `submit` does not prevent it.
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
"""Longest single wait in C: Python raises KeyboardInterrupt only after it."""

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

    `threading.Event` uses locks in Python code, which an interrupt in the middle of a wait can leave taken. A `Signal`
    has one lock, which is taken until the event is set. A waiter that acquires the lock releases it at once for the
    next waiter.

    What can interleave. An interrupt between acquire and release leaves the lock taken, and no other waiter can acquire
    it. But `set` writes `is_set` before it releases the lock, and each waiter checks `is_set` at least every `SLICE_S`.
    So every wait ends, at worst a slice late. Several threads may call `set`: the lock does not count, and the error of
    a second release is suppressed.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()
        self.is_set = False

    def set(self) -> None:
        """End all waits, now and later. Idempotent."""
        self.is_set = True
        with suppress(RuntimeError):  # the lock is already released
            self._closed.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False when `timeout` seconds passed first. None: no limit."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set:
            left = SLICE_S if end is None else min(SLICE_S, end - time.monotonic())
            if left <= 0:
                return False
            if self._closed.acquire(timeout=left):
                self.set()  # for the other waiters
        return True


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None) -> bool:
    """`Condition.wait_for` that Ctrl+C can end."""
    end = None if timeout is None else time.monotonic() + timeout
    while not predicate():
        left = SLICE_S if end is None else min(SLICE_S, end - time.monotonic())
        if left <= 0:
            return False
        condition.wait(left)
    return True


class Call(Generic[T]):
    """One call that a helper thread makes: its result, or what it raised.

    The helper thread writes the result before it sets `done`, and other threads read the result after `done`. So the
    result needs no lock.
    """

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
        self._function = None  # drop the references of the function early
        self.done.set()

    def result(self) -> T:
        """Return what the call returned; valid after `done`. Raises: what the call raised."""
        if self._error is None:
            return self._result[0]
        try:
            raise self._error
        finally:
            del self  # the traceback refers to this frame: without this, error and frame keep each other alive


class _PoolThread:
    """A helper thread: it makes one call after the other, and ends after `IDLE_S` without a call.

    What is guaranteed. Only a caller that removed the thread from `_idle` puts a call into its queue, and it puts
    exactly one. The thread adds itself to `_idle` after it made the call. So a call never waits behind another call,
    and no two callers share a thread.

    The race at the end. A caller may remove the thread from `_idle` just when the thread's wait times out. The thread
    ends only if it can remove itself from `_idle` first. If it is not in `_idle`, a caller has removed it and is about
    to put a call, so the thread waits again. `deque.pop` and `deque.remove` are atomic, so exactly one of the two
    succeeds, and no caller puts a call into the queue of a thread that has ended.

    The thread keeps no reference to a call while it waits (`del run`), so the garbage collector can free what the call
    referred to.
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
    os.register_at_fork(after_in_child=_idle.clear)  # a forked child has none of these threads


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
    """Have a helper thread make the call soon. If no thread can be started (the program ends), the caller makes it."""
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
    """Have a helper thread make the call, and return its result; Ctrl+C ends the wait, not the call.

    A thread of procmon's own makes the call itself. Raises: what the call raises.
    """
    if is_own():
        return function(*args, **kwargs)
    call = submit(function, *args, **kwargs)
    call.done.wait()
    return call.result()


async def run_in_thread_async(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`run_in_thread` for coroutines; a cancellation ends the wait, not the call.

    `asyncio.to_thread` is no alternative: the end of the program waits for its threads, even for one that hangs.
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
    call.done.wait()  # blocks the loop only for a moment: `function` has returned
    return call.result()
