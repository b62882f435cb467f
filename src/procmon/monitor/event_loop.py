"""The event loop on which callbacks that are coroutines run.

The way of a coroutine. A worker calls the callback, which returns an awaitable. The worker puts it on the loop
(`LoopThread.run`) and goes on with other jobs. When the awaitable is done, the loop's thread calls `on_done`, which
queues the job again; the next free worker reads `result` or `error` and decides (`Workers._resume`, `Workers._run`).

What is guaranteed. While the loop runs, `on_done` is called once for each awaitable that has started, also if it was
cancelled. After a `cancel` that came before the start it is not called. `result` and `error` are written before
`on_done` queues the job, so the worker that takes it from the queue needs no lock for them. Each awaitable is either
awaited or closed.

asyncio is imported when the first coroutine comes: most programs have none, and the import costs more than procmon's.
"""

import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..util.threads import OwnThread
from .self_deadlock import CallbackThreads

if TYPE_CHECKING:
    import asyncio

__all__ = ["Awaiting", "LoopThread"]


class Awaiting:
    """An awaitable that runs on a loop, or is on its way there.

    What can interleave. `cancel` may come from any thread, before the loop's thread has started the awaitable or after
    that. The awaitable lies in the list `_box` until one of the two pops it. Popping is atomic, so exactly one of them
    gets it: either the loop awaits it, and `cancel` cancels the task on the loop's thread, or `cancel` closes it, and
    the loop finds the box empty. If the loop ends before it has started the awaitable, `cancel` closes it as well.
    """

    def __init__(self, awaitable: Awaitable[object], on_done: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._box = [awaitable]
        self._on_done = on_done
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def start(self, loop: "asyncio.AbstractEventLoop", callback_threads: CallbackThreads) -> None:
        """Start it soon on `loop`, whose thread calls `on_done` at the end. Raises: RuntimeError: it was closed."""
        self._loop = loop
        loop.call_soon_threadsafe(self._start, loop, callback_threads)

    def _start(self, loop: "asyncio.AbstractEventLoop", callback_threads: CallbackThreads) -> None:
        if self._box:
            awaitable = self._box.pop()
            self._task = loop.create_task(_await(awaitable, callback_threads))
            self._task.add_done_callback(lambda task: self._end(task, awaitable))

    def _end(self, task: "asyncio.Task[object]", awaitable: Awaitable[object]) -> None:
        import asyncio

        close(awaitable)  # a task that is cancelled early has never begun with it
        if task.cancelled():
            self.error = asyncio.CancelledError("the callback was cancelled")
        elif (error := task.exception()) is not None:
            self.error = error
        else:
            self.result = task.result()
        self._on_done()

    def cancel(self) -> None:
        """Cancel it soon, from any thread."""
        try:
            close(self._box.pop())
        except IndexError:
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop was closed
                    self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class LoopThread:
    """The user's loop, once `use` has named it; else one of our own, in a thread that starts when it is needed.

    `_lock` makes `close` and `run` exclude each other: a coroutine is put on the loop before `close` stops it, and then
    the `asyncio.Runner` cancels it, or `run` finds `_closed` set and raises. `_run` takes no lock: `run` holds it while
    it waits for the thread to begin.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._ours = False
        self._closed = False

    def use(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Run coroutines on `loop`, whose thread is the calling one."""
        self._loop, self._thread_id = loop, threading.get_native_id()

    def is_here(self) -> bool:
        """Whether the calling thread is that of the user's loop, and the loop is running."""
        if self._loop is None or self._ours or threading.get_native_id() != self._thread_id:
            return False
        return self._loop.is_running()

    def run(self, awaiting: Awaiting, callback_threads: CallbackThreads) -> None:
        """Await it on the loop; the guard against waiting for oneself has the loop's thread meanwhile.

        Raises: RuntimeError when the loop has been closed; what prevents making one. Then the awaitable is closed.
        """
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the monitor has stopped")
                awaiting.start(self._loop or self._make(), callback_threads)
        except BaseException:
            awaiting.cancel()
            raise

    def close(self) -> None:
        """Cancel what runs on a loop of our own, and end it; a loop of the user's stays as it is."""
        with self._lock:
            loop, self._closed = self._loop, True
        if self._ours and loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(loop.stop)

    def _make(self) -> "asyncio.AbstractEventLoop":
        import asyncio

        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop).__enter__()  # here, where its errors belong
        try:
            OwnThread(lambda: self._run(runner), "loop").start()
        except RuntimeError:
            runner.close()
            raise
        self._loop, self._ours = runner.get_loop(), True
        return self._loop

    def _run(self, runner: "asyncio.Runner") -> None:
        with runner:  # which cancels what is left when the loop stops
            while not self._closed:
                with suppress(SystemExit, KeyboardInterrupt):  # a callback's; it has them as its error, too
                    runner.get_loop().run_forever()


async def _await(awaitable: Awaitable[object], callback_threads: CallbackThreads) -> object:
    thread_id = threading.get_native_id()
    callback_threads.enter(thread_id)
    try:
        return await awaitable
    finally:
        callback_threads.leave(thread_id)


def close(awaitable: Awaitable[object]) -> None:
    """Close a coroutine that never ran, or has ended."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
