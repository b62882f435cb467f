"""The ancestors of a process, from the records seen so far and the running processes."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..records import ProcessHelper
from ..util.arguments import is_awaitable
from .identity import can_be_parent, same_process

__all__ = ["Ancestry", "Lookup", "Noted"]

Lookup = Callable[[int], ProcessHelper | None]
"""Finds a running process by its pid; None if there is none (any more)."""


@dataclass(frozen=True, slots=True)
class Noted:
    """The record of a process, and its ancestors."""

    process: ProcessHelper
    ancestors: tuple[ProcessHelper, ...]
    """Nearest first, as far as they are known."""

    @property
    def parent(self) -> ProcessHelper | None:
        """None if it is not known."""
        return self.ancestors[0] if self.ancestors else None

    @property
    def images(self) -> tuple[str, ...]:
        """The image names of its ancestors, nearest first."""
        return tuple(ancestor.image_name for ancestor in self.ancestors)


class Ancestry:
    """Remembers which process started which, so that a parent can be named after its exit. Thread-safe.

    A child's ancestors are fixed when the child is noted: at that time its parent's pid certainly belongs to the
    parent. Later the parent may have exited and Windows may have reused the pid. If no ancestors were found, the next
    `note` searches again. `can_be_parent` decides which of two processes is older.
    """

    LIMIT = 32_768
    """Processes remembered; the one noted longest ago is forgotten first."""
    DEPTH = 64
    """Ancestors kept of each: a chain of processes that each start the next must not grow for ever."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup
        self._known: OrderedDict[int, Noted] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, process: ProcessHelper) -> None:
        """Note `process`, with the ancestors that were noted before it. Makes no Windows call."""
        with self._lock:
            parent = self._known.get(process.parent_pid)
            if parent is None or not can_be_parent(parent.process, process):
                self._keep(Noted(process, ()))
            else:
                self._keep(Noted(process, (parent.process, *parent.ancestors[: self.DEPTH - 1])))

    def note(self, process: ProcessHelper) -> Noted:
        """Note `process` and return it with its ancestors; a parent that was not noted is looked up."""
        with self._lock:
            known = self._known.get(process.pid)
        if known is not None and known.ancestors and _same_record(known.process, process):
            return known
        noted = Noted(process, self._find(process, {process.pid}))
        with self._lock:
            self._keep(noted)
        return noted

    def creator(self, process: ProcessHelper) -> ProcessHelper | None:
        """The process that called the system to create it; None if unknown."""
        pid = process.creator_pid
        if pid is None or pid == process.parent_pid:
            return None if pid is None else self.note(process).parent
        with self._lock:
            known = self._known.get(pid)
        if known is not None and can_be_parent(known.process, process):
            return known.process
        running = self._find_running(pid)
        return running if running is not None and can_be_parent(running, process) else None

    def _find_running(self, pid: int) -> ProcessHelper | None:
        found: object = self._lookup(pid) if self._lookup is not None else None
        if is_awaitable(found) or not isinstance(found, ProcessHelper | None):
            raise TypeError(f"lookup returns a ProcessHelper, or None if no such process runs; not {found!r}")
        return found

    def _keep(self, noted: Noted) -> None:
        """The lock is held."""
        pid = noted.process.pid
        self._known[pid] = noted
        self._known.move_to_end(pid)
        while len(self._known) > self.LIMIT:
            self._known.popitem(last=False)

    def _find(self, process: ProcessHelper, below: set[int]) -> tuple[ProcessHelper, ...]:
        """Ancestors of `process`; `below` has the pids on the way here, because a reused pid can close a circle."""
        pid = process.parent_pid
        if pid == 0 or pid in below or len(below) > self.DEPTH:
            return ()
        with self._lock:
            known = self._known.get(pid)
        running = self._find_running(pid)
        if running is not None and known is not None and not _reused(known.process, running):
            running = known.process  # its start key is the gate's
        if running is not None and not can_be_parent(running, process):
            running = None  # a later process of that pid
        if known is not None and can_be_parent(known.process, process) and not _reused(known.process, running):
            return (known.process, *known.ancestors)[: self.DEPTH]
        if running is None:
            return ()
        return (running, *self._find(running, below | {pid}))[: self.DEPTH]


def _same_record(known: ProcessHelper, asked: ProcessHelper) -> bool:
    """Each gate numbers start keys itself, so equal keys alone do not prove that two records are of one process."""
    return known == asked and known.parent_pid == asked.parent_pid and known.image_name == asked.image_name


def _reused(known: ProcessHelper, running: ProcessHelper | None) -> bool:
    """Another process runs with the pid of the known one; False if one of the two creation times is missing."""
    if running is None or running.created is None or known.created is None:
        return False
    return not same_process(known, running)
