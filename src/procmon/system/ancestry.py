"""The images of a process' parent, grandparent and so on, from the records that went by."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from ..records import ProcessHelper

__all__ = ["Ancestry", "Lookup"]

Lookup = Callable[[int], ProcessHelper | None]
"""A running process by its pid; None where there is none (any more)."""


class Ancestry:
    """Remembers who started whom, so that a parent which has gone can still be named.

    A child's line is fixed when the child is noted. That is when its parent's pid certainly is the parent's: later the
    parent may have gone and Windows may have used its pid again.
    """

    LIMIT = 32_768
    """Processes remembered; the one noted longest ago is forgotten first."""
    DEPTH = 64
    """Ancestors kept of each: a chain of processes that each start the next must not grow for ever."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup
        self._known: OrderedDict[int, tuple[ProcessHelper, tuple[str, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, process: ProcessHelper) -> tuple[str, ...]:
        """Remember `process`; the images of its ancestors, nearest first, as far as they are known."""
        with self._lock:
            known = self._known.get(process.pid)
        if known is not None and known[1] and _same(known[0], process):
            return known[1]
        line = self._line(process, {process.pid})
        with self._lock:
            self._known[process.pid] = (process, line)
            self._known.move_to_end(process.pid)
            while len(self._known) > self.LIMIT:
                self._known.popitem(last=False)
        return line

    def _line(self, process: ProcessHelper, below: set[int]) -> tuple[str, ...]:
        """Ancestors of `process`; `below` holds the pids on the way here, for a reused pid can close a circle."""
        pid = process.parent_pid
        if pid == 0 or pid in below or len(below) > self.DEPTH:
            return ()
        with self._lock:
            known = self._known.get(pid)
        parent = self._lookup(pid) if self._lookup is not None else None
        if parent is not None and parent.created and process.created and parent.created > process.created:
            parent = None  # a later process of that pid; its start key is not of the gate's making
        if known is not None and not _younger(known[0], process) and not _other(known[0], parent):
            return (known[0].image_name, *known[1])[: self.DEPTH]
        if parent is None:
            return ()
        return (parent.image_name, *self._line(parent, below | {pid}))[: self.DEPTH]


def _same(one: ProcessHelper, other: ProcessHelper) -> bool:
    """Two records of one process; start keys begin anew with each gate, so these alone do not prove it."""
    return one == other and one.parent_pid == other.parent_pid and one.image_name == other.image_name


def _other(known: ProcessHelper, running: ProcessHelper | None) -> bool:
    """Another process runs with the pid of the known one: nobody was asked about that, when it came."""
    if running is None or running.created is None or known.created is None:
        return False
    return running.created != known.created


def _younger(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """`parent` came after `child`: its pid is a used-again one, and it is not the parent."""
    if parent.created is not None and child.created is not None:
        return parent.created > child.created
    return 0 < child.start_key < parent.start_key
