"""A process' parent, grandparent and so on, from the records that went by."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..records import ProcessHelper

__all__ = ["Ancestry", "Lookup", "Noted"]

Lookup = Callable[[int], ProcessHelper | None]
"""A running process by its pid; None where there is none (any more)."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A process as it came by, and who it descends from."""

    process: ProcessHelper
    parent: ProcessHelper | None
    """None where it is not known."""
    images: tuple[str, ...]
    """Of its ancestors, nearest first."""


class Ancestry:
    """Remembers who started whom, so that a parent which has gone can still be named.

    A child's line is fixed when the child is noted. That is when its parent's pid certainly is the parent's: later the
    parent may have gone and Windows may have used its pid again.

    The order in which the gate saw processes says which of two came first. The clock does not: it may be set back
    between the creation of a parent and that of its child. Only for processes that ran before the gate is there
    nothing but the clock, and among these a pid that was used again is what makes a parent younger than its child.
    """

    LIMIT = 32_768
    """Processes remembered; the one noted longest ago is forgotten first."""
    DEPTH = 64
    """Ancestors kept of each: a chain of processes that each start the next must not grow for ever."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup
        self._known: OrderedDict[int, Noted] = OrderedDict()
        self._lock = threading.Lock()

    def creator(self, process: ProcessHelper) -> ProcessHelper | None:
        """The record of the process that called the system to create it; None where that is not known."""
        pid = process.creator_pid
        if pid is None or pid == process.parent_pid:
            return None if pid is None else self.note(process).parent
        with self._lock:
            known = self._known.get(pid)
        if known is not None and not _younger(known.process, process):
            return known.process
        return self._lookup(pid) if self._lookup is not None else None

    def note(self, process: ProcessHelper) -> Noted:
        """Remember `process`, and say who it descends from, as far as that is known."""
        with self._lock:
            known = self._known.get(process.pid)
        if known is not None and known.images and _same(known.process, process):
            return known
        noted = Noted(process, *self._line(process, {process.pid}))
        with self._lock:
            self._known[process.pid] = noted
            self._known.move_to_end(process.pid)
            while len(self._known) > self.LIMIT:
                self._known.popitem(last=False)
        return noted

    def _line(self, process: ProcessHelper, below: set[int]) -> tuple[ProcessHelper | None, tuple[str, ...]]:
        """Parent of `process` and images of its ancestors.

        `below` holds the pids on the way here, for a reused pid can close a circle.
        """
        pid = process.parent_pid
        if pid == 0 or pid in below or len(below) > self.DEPTH:
            return None, ()
        with self._lock:
            known = self._known.get(pid)
        running = self._lookup(pid) if self._lookup is not None else None
        old = len(below) > 1  # a link between processes that ran before: their pids may have been used again since
        if known is not None and not (old and _later(known.process, process)):
            if _is_parent(known.process, process, running):
                return known.process, (known.process.image_name, *known.images)[: self.DEPTH]
            if running is not None and not _other(known.process, running):
                return None, ()  # it came after its child, by the gate's order
        if running is None or (old and _later(running, process)):
            return None, ()
        _, images = self._line(running, below | {pid})
        return running, (running.image_name, *images)[: self.DEPTH]


def _same(one: ProcessHelper, other: ProcessHelper) -> bool:
    """Two records of one process; start keys begin anew with each gate, so these alone do not prove it."""
    return one == other and one.parent_pid == other.parent_pid and one.image_name == other.image_name


def _is_parent(known: ProcessHelper, child: ProcessHelper, running: ProcessHelper | None) -> bool:
    """`known` started `child`, though `running` has its pid now."""
    if _younger(known, child):
        return False
    if running is None or not _other(known, running):
        return True
    # Another process runs with the pid of the known one. If it came after the child, the known one was there before.
    return _later(running, child)


def _other(known: ProcessHelper, running: ProcessHelper) -> bool:
    """They are not the same process: no policy was asked about the one that runs, when it came."""
    if running.created is None or known.created is None:
        return False
    return running.created != known.created


def _later(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """The clock says that `parent` came after `child`."""
    return parent.created is not None and child.created is not None and parent.created > child.created


def _younger(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """`parent` came after `child` in the order of the gate: its pid is a used-again one, and it is not the parent."""
    return 0 < child.start_key < parent.start_key
