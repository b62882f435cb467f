"""Which of two records is older, and whether two are of one process: the rules that all look-ups share.

Windows reuses a pid after its process has gone, and a clock can be set back. Start keys give the order of creations
independently of the clock, but only among keys of one kind: some gates count from 1, while the list of running
processes (and `DebugGate`) uses the time of creation in ticks of 100 ns.
"""

from datetime import datetime

from ..records import ProcessHelper

__all__ = ["can_be_parent", "same_process", "started_after"]

_EARLIEST_TICK = 1 << 56
"""Larger keys are times: in ticks since 1601 this is the year 1829."""


def can_be_parent(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """Whether `parent`, whose pid `child` names, is older and had not exited by then; if not, the pid was reused.

    Of two keys of one kind the smaller is older; equal keys do not contradict the link. With keys of two kinds the
    times of creation decide, except for a held child: it is so young that the pid still belongs to its parent, and a
    clock that was set back must not hide the parent.
    """
    if parent.pid == child.pid or (parent.exited_at and child.created and parent.exited_at < child.created):
        return False
    if parent.start_key and child.start_key and _is_time(parent.start_key) == _is_time(child.start_key):
        return parent.start_key <= child.start_key
    if child.paused or parent.created is None or child.created is None:
        return True
    return parent.created <= child.created


def same_process(one: ProcessHelper, other: ProcessHelper) -> bool:
    """Whether two records of any sources are of one process: by the creation time, or by the start key without one."""
    if one.created is None or other.created is None:
        return one == other
    return one.pid == other.pid and one.created == other.created


def started_after(record: ProcessHelper, created: datetime | None) -> bool:
    """A process created then, with the record's pid, is a later one. A driver can note a creation late, never early."""
    return created is not None and record.created is not None and created > record.created


def _is_time(key: int) -> bool:
    return key >= _EARLIEST_TICK
