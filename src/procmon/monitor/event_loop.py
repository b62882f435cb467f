"""The event loop on which callbacks that are coroutines run.

How a coroutine runs. A worker calls the callback, which returns an awaitable. The worker puts the awaitable on the loop
(`LoopThread.run`) and goes on with other cases. When the awaitable is done, the loop's thread calls `on_done`, which
queues the case again; the next free worker reads `result` or `error` and decides (`Workers._resume`, `Workers._run`).

What is guaranteed. While the loop runs, `on_done` is called once for each awaitable that has started, even if it was
cancelled. For an awaitable that was cancelled before its start, `on_done` is not called. `result` and `error` are
written before `on_done` queues the case, so the worker that takes the case from the queue needs no lock for them. Each
awaitable is either awaited or closed.

asyncio is imported for the first coroutine: most programs have none, and importing asyncio takes longer than procmon.
"""

import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..util.threads import OwnThread
from .self_deadlock import CallbackThreads

if TYPE_CHECKING:
    import asyncio

__all__ = ["Awaiting", "LoopThread"]


class Awaiting:
    """An awaitable that runs on a loop, or waits to start there.

    What can interleave. Any thread may call `cancel`, before or after the loop's thread starts the awaitable. The
    awaitable is in the list `_box` until `_start` or `cancel` pops it. `list.pop` is atomic, so exactly one of the two
    gets the awaitable. Either the loop awaits it, and `cancel` cancels the task on the loop's thread; or `cancel`
    closes it, and the loop finds the box empty. If the loop ends before it starts the awaitable, `cancel` closes it as
    well.
    """

    def __init__(self, awaitable: Awaitable[object], on_done: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.done = False
        """`result` or `error` has been written."""
        self._box = [awaitable]
        self._on_done = on_done
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def start(self, loop: "asyncio.AbstractEventLoop", callback_threads: CallbackThreads) -> None:
        """Start it soon on `loop`, whose thread calls `on_done` at the end. Raises: RuntimeError: it is closed."""
        self._loop = loop
        loop.call_soon_threadsafe(self._start, loop, callback_threads)

    def _start(self, loop: "asyncio.AbstractEventLoop", callback_threads: CallbackThreads) -> None:
        if self._box:
            awaitable = self._box.pop()
            self._task = loop.create_task(_await(awaitable, callback_threads))
            self._task.add_done_callback(lambda task: self._end(task, awaitable))

    def _end(self, task: "asyncio.Task[object]", awaitable: Awaitable[object]) -> None:
        import asyncio

        close(awaitable)  # a task that is cancelled early has not started it
        if task.cancelled():
            self.error = asyncio.CancelledError("the callback was cancelled")
        elif (error := task.exception()) is not None:
            self.error = error
        elif isinstance(result := task.result(), _Exited):
            self.error = result.error
        else:
            self.result = result
        self.done = True
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
    """The user's loop, once `use` has set it; otherwise a loop of our own, in a thread that starts when needed.

    `_lock` makes `close` and `run` exclude each other. Either `run` puts a coroutine on the loop before `close` stops
    the loop, and then the `asyncio.Runner` cancels the coroutine; or `run` finds `_closed` set and raises. `_run` does
    not acquire the lock, because `run` holds it while it waits for the thread to start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._ours = False
        self._closed = False

    def use(self, loop: "asyncio.AbstractEventLoop", thread_id: int) -> None:
        """Run coroutines on `loop`, which runs in the thread of that native id."""
        self._loop, self._thread_id = loop, thread_id

    def is_here(self) -> bool:
        """Whether the calling thread is that of the user's loop, and the loop is running."""
        if self._loop is None or self._ours or threading.get_native_id() != self._thread_id:
            return False
        return self._loop.is_running()

    def run(self, awaiting: Awaiting, callback_threads: CallbackThreads) -> None:
        """Await it on the loop; meanwhile `callback_threads` contains the loop's thread.

        Raises: RuntimeError when the loop has been closed; the error that prevented a loop of our own. In both cases
        the awaitable is closed.
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
        """End a loop of our own, which cancels its coroutines; the user's loop is not changed."""
        with self._lock:
            loop, self._closed = self._loop, True
        if self._ours and loop is not None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(loop.stop)

    def _make(self) -> "asyncio.AbstractEventLoop":
        import asyncio

        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop).__enter__()  # its errors are the caller's
        try:
            OwnThread(lambda: self._run(runner), "loop").start()
        except RuntimeError:
            runner.close()
            raise
        self._loop, self._ours = runner.get_loop(), True
        return self._loop

    def _run(self, runner: "asyncio.Runner") -> None:
        with runner:  # when the loop stops, the runner cancels the other tasks
            while not self._closed:
                with suppress(SystemExit, KeyboardInterrupt):  # raised by a callback, whose `error` they are, too
                    runner.get_loop().run_forever()


@dataclass(frozen=True, slots=True)
class _Exited:
    """The result of an awaitable that raised SystemExit. A task that raises it would end the user's loop."""

    error: SystemExit


async def _await(awaitable: Awaitable[object], callback_threads: CallbackThreads) -> object:
    thread_id = threading.get_native_id()
    callback_threads.enter(thread_id)
    try:
        return await awaitable
    except SystemExit as error:
        return _Exited(error)
    finally:
        callback_threads.leave(thread_id)


def close(awaitable: Awaitable[object]) -> None:
    """Close a coroutine that never ran, or has ended."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
