"""Threads of the monitor's own that do what a thread of the user's must not, and waits that hear Ctrl+C.

Ctrl+C is an exception in the main thread, between any two of its instructions; on Windows no lock and no call into C
hears it. A thread of the user's that held a lock of the monitor's could be thrown out with the lock still taken; in a
call of a gate or a sink it could hang for good. So it does neither: `aside` has a thread of ours do it, and waits.
Where Ctrl+C ends the wait, what was begun goes on without anybody waiting: it is done once, and whole.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar

__all__ = ["OwnThread", "Signal", "is_own", "run_in_thread", "run_in_thread_async", "submit", "wait_for"]

SLICE = 0.1
"""Seconds of one wait in C, so that Ctrl+C is heard after it."""

IDLE = 1.0
"""Seconds after which a thread that has nothing to do ends."""

P = ParamSpec("P")
T = TypeVar("T")


class OwnThread(threading.Thread):
    """A thread of the monitor's own; the end of the program does not wait for it."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=f"procmon {name}", daemon=True)


def is_own() -> bool:
    """Whether the calling thread is one of them."""
    return isinstance(threading.current_thread(), OwnThread)


class Signal:
    """Something that happens once, to be waited for; Ctrl+C ends a wait, and harms no other.

    `threading.Event` is made of locks of Python's, which an exception in the middle of a wait can leave locked.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()
        self.is_set = False

    def set(self) -> None:
        """Let all go on who wait, now or later. Twice is no error."""
        self.is_set = True
        with suppress(RuntimeError):  # it was open
            self._closed.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set within `timeout` seconds; None: however long it takes."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set:
            left = SLICE if end is None else min(SLICE, end - time.monotonic())
            if left <= 0:
                return False
            if self._closed.acquire(timeout=left):
                self.set()  # for the others
        return True


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None) -> bool:
    """`Condition.wait_for`, in which Ctrl+C is heard."""
    end = None if timeout is None else time.monotonic() + timeout
    while not predicate():
        left = SLICE if end is None else min(SLICE, end - time.monotonic())
        if left <= 0:
            return False
        condition.wait(left)
    return True


class _PoolThread:
    """A thread that does one task after the other, and ends when there was none for a while."""

    def __init__(self, task: Callable[[], object]) -> None:
        self.tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.tasks.put(task)
        OwnThread(self._work, "hand").start()

    def _work(self) -> None:
        while True:
            try:
                task = self.tasks.get(timeout=IDLE)
            except Empty:
                with suppress(ValueError):  # somebody has just picked this one, and will have a task for it
                    _idle.remove(self)
                    return
            else:
                task()
                del task  # what it refers to may be waiting to be dropped
                _idle.append(self)


_idle: deque[_PoolThread] = deque()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads do not come along


def _submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "tuple[Future[T], Signal]":
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # nobody can take it back
    done = Signal()

    def task() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        done.set()

    try:
        hand = _idle.pop()
    except IndexError:
        try:
            _PoolThread(task)
        except RuntimeError:  # no thread can be started, as at the end of the program
            task()
    else:
        hand.tasks.put(task)
    return future, done


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    """Have a thread of ours call it, soon; in the calling one only when no thread can be started."""
    return _submit(function, *args, **kwargs)[0]


def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it returns or raises, called by a thread of ours; Ctrl+C ends the wait for it, and not the call."""
    if is_own():
        return function(*args, **kwargs)
    future, done = _submit(function, *args, **kwargs)
    done.wait()
    return future.result()


async def run_in_thread_async(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for coroutines; a cancellation ends the wait.

    `asyncio.to_thread` would not do: the end of the program waits for its threads.
    """
    return await asyncio.wrap_future(submit(function, *args, **kwargs))
