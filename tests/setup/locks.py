"""Locks between processes: several dev.py can run at once; one of them sets up while the others wait."""

import contextlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from . import project


class Lock:
    """A lock file that one process holds at a time. The system releases it when that process ends, in any way."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "a+b")

    def take(self, waiting_for: str | None = None) -> bool:
        """Take the lock. While another process holds it, report `waiting_for` and wait; without it return False."""
        reported = False
        while not self._try():
            if waiting_for is None:
                return False
            if not reported:
                project.report(f"waiting for another dev.py: {waiting_for}")
                reported = True
            time.sleep(0.2)
        return True

    def _try(self) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


_in_process: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By name: threads of this process wait for each other without a report."""


@contextlib.contextmanager
def locked(name: str, waiting_for: str) -> Iterator[None]:
    """Hold a named lock. Another dev.py that waits for the lock reports `waiting_for`."""
    with _in_process[name]:
        lock = Lock(project.DEV / f"{name}.lock")
        lock.take(waiting_for)
        try:
            yield
        finally:
            lock.close()


def set_up() -> contextlib.AbstractContextManager[None]:
    """Hold the one lock under which anything in ``.dev`` is made."""
    return locked("set-up", "it sets up the environment")
