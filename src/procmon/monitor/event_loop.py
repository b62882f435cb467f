"""The event loop on which callbacks that are coroutines run."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress

from ..util.threads import OwnThread
from .self_deadlock import CallbackThreads

__all__ = ["LoopThread"]


class LoopThread:
    """The user's loop, once `use` has named it; else one of our own, in a thread that starts when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._ours = False
        self._closed = False

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines on `loop`, whose thread is the calling one."""
        self._loop, self._thread_id = loop, threading.get_native_id()

    def is_here(self) -> bool:
        """Whether the calling thread is that of the user's loop, and the loop is running."""
        if self._loop is None or self._ours or threading.get_native_id() != self._thread_id:
            return False
        return self._loop.is_running()

    def run(self, awaitable: Awaitable[object], callback_threads: CallbackThreads) -> "Future[object]":
        """Await it on the loop; `asking_threads` has the loop's thread meanwhile.

        Raises: RuntimeError when the loop has been closed, or none can be made.
        """
        coroutine = self._await(awaitable, callback_threads)
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the monitor has stopped")
                loop = self._loop or self._start()
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        except BaseException:
            coroutine.close()
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise

    async def _await(self, awaitable: Awaitable[object], callback_threads: CallbackThreads) -> object:
        thread_id = self._thread_id
        callback_threads.enter(thread_id)
        try:
            return await awaitable
        finally:
            callback_threads.leave(thread_id)

    def close(self) -> None:
        """Cancel what runs on a loop of our own, and end it; a loop of the user's stays as it is."""
        with self._lock:
            loop, self._closed = self._loop, True
        if self._ours and loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        begun: Future[asyncio.AbstractEventLoop] = Future()
        OwnThread(lambda: self._run(begun), "loop").start()
        self._loop = begun.result()
        self._ours = True
        return self._loop

    def _run(self, begun: "Future[asyncio.AbstractEventLoop]") -> None:
        try:
            with asyncio.Runner() as runner:  # which cancels what is left when the loop stops
                loop, self._thread_id = runner.get_loop(), threading.get_native_id()
                begun.set_result(loop)
                while not self._closed:
                    with suppress(SystemExit, KeyboardInterrupt):  # of a callback: they are in its future, too
                        loop.run_forever()
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)
