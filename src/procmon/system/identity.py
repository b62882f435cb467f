"""Which of two records is older, and whether two are of one process: the rules that all look-ups share.

A pid is used again after its process has gone, and a clock can be set back. Start keys tell the order of creations
whatever the clock says, but only among keys of one make: a gate counts from 1, while the list of running processes (and
`DebugGate`) starts from the time of creation in ticks of 100 ns.
"""

from datetime import datetime

from ..records import ProcessHelper

__all__ = ["can_be_parent", "same_process", "started_after"]

_EARLIEST_TICK = 1 << 56
"""Larger keys are times: in ticks since 1601 this is the year 1829."""


def can_be_parent(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """`parent`, whose pid `child` names, came before it and had not exited by then: else the pid was used again.

    Of two keys of one make the smaller is older; two that are equal do not contradict the link. With keys of two makes
    the times of creation decide, except for a child that is held: it is so young that its parent's pid is still the
    parent's, and a clock that was set back must not hide it.
    """
    if parent.pid == child.pid or (parent.exited_at and child.created and parent.exited_at < child.created):
        return False
    if parent.start_key and child.start_key and _is_time(parent.start_key) == _is_time(child.start_key):
        return parent.start_key <= child.start_key
    if child.paused or parent.created is None or child.created is None:
        return True
    return parent.created <= child.created


def same_process(one: ProcessHelper, other: ProcessHelper) -> bool:
    """Two records, of whatever sources, are of one process: by its time of creation, else by its start key."""
    if one.created is None or other.created is None:
        return one == other
    return one.pid == other.pid and one.created == other.created


def started_after(record: ProcessHelper, created: datetime | None) -> bool:
    """A process created then, with the record's pid, is a later one. A driver may note a creation late, never early."""
    return created is not None and record.created is not None and created > record.created


def _is_time(key: int) -> bool:
    return key >= _EARLIEST_TICK
