"""The event loop on which callbacks that are coroutines run."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import Future

from ._own import AskingThreads

__all__ = ["LoopThread"]


class LoopThread:
    """The user's loop, once `use` has named it; else one of our own, in a thread that starts when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._ours = False

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines on `loop`, whose thread is the calling one."""
        self._loop, self._thread_id = loop, threading.get_native_id()

    def run(self, awaitable: Awaitable[object], asking_threads: AskingThreads) -> "Future[object]":
        """Await it on the loop; `asking_threads` has the loop's thread meanwhile.

        Raises: RuntimeError when the loop has been closed.
        """
        with self._lock:
            loop = self._loop or self._start()
        thread_id = self._thread_id

        async def awaiting() -> object:
            asking_threads.enter(thread_id)
            try:
                return await awaitable
            finally:
                asking_threads.leave(thread_id)

        coroutine = awaiting()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            coroutine.close()
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise

    def close(self) -> None:
        """Cancel what runs on a loop of our own, and end it; a loop of the user's stays as it is."""
        with self._lock:
            loop, ours, self._ours = self._loop, self._ours, False
        if ours and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        started = threading.Event()

        def run() -> None:
            with asyncio.Runner() as runner:  # which cancels what is left when the loop stops
                self._loop, self._thread_id = runner.get_loop(), threading.get_native_id()
                started.set()
                self._loop.run_forever()

        threading.Thread(target=run, name="procmon loop", daemon=True).start()
        started.wait()
        assert self._loop is not None
        self._ours = True
        return self._loop
