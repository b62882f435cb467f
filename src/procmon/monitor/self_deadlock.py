"""The guard against a callback that starts a process and waits for it, which is a deadlock.

A callback that starts a process and waits for it would wait for its own answer: the process is held until a callback
has decided, and the callback decides only after the process has run. So the monitor knows which threads are inside a
callback (or between two processes of an iteration), and recognises the processes that they start by their creator.
`Engine` gives these processes the verdict `own` at once, without a callback.
"""

import os
import threading

from ..records import ProcessHelper
from ..util.log import logger

__all__ = ["CallbackThreads"]


class CallbackThreads:
    """The native ids of the threads that are inside a callback, or between two processes of an iteration."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may run a finalizer that takes it
        self._threads: dict[int, int] = {}  # native id to the number of callbacks in that thread
        self._warned = False

    def __bool__(self) -> bool:
        return bool(self._threads)

    def enter(self, thread_id: int) -> None:
        """A callback begins in that thread. Callbacks may nest, and coroutines overlap in the loop's thread."""
        with self._lock:
            self._threads[thread_id] = self._threads.get(thread_id, 0) + 1

    def leave(self, thread_id: int) -> None:
        """A callback has ended in that thread."""
        with self._lock:
            if left := self._threads.pop(thread_id) - 1:
                self._threads[thread_id] = left

    def started(self, process: ProcessHelper) -> bool:
        """Whether one of these threads (there is one) started this process, or may have where the thread is unknown."""
        if process.creator_tid is not None:
            return process.creator_pid == os.getpid() and process.creator_tid in self._threads
        return os.getpid() in (process.creator_pid, process.parent_pid)

    def warn(self, process: ProcessHelper, outcome: str) -> None:
        """Log that a callback started this process, once for each monitor."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "a callback of this program has started %s (pid %d), which would be held until that very callback has"
                " answered; %s. Start processes outside callbacks, or see `own` in help(procmon.Monitor)",
                process.name, process.pid, outcome,
            )  # fmt: skip
