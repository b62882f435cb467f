"""Comparing two records: which is older, and whether both describe one process."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import procmon
from procmon.system.ancestry import Ancestry
from procmon.system.identity import can_be_parent, same_process, started_after

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TICKS = 133_500_000_000_000_000
PARENT = procmon.ProcessHelper(pid=100, parent_pid=4, image_name=r"c:\word.exe", start_key=7, created=NOON)
CHILD = procmon.ProcessHelper(
    pid=200, parent_pid=100, image_name=r"c:\cmd.exe", start_key=8, created=NOON - timedelta(seconds=2)
)


def test_the_order_of_a_gate_overrules_a_clock_that_was_set_back() -> None:
    assert can_be_parent(PARENT, CHILD)
    assert not can_be_parent(replace(PARENT, start_key=9), CHILD)


def test_equal_keys_do_not_contradict_the_link() -> None:
    assert can_be_parent(replace(PARENT, start_key=8), CHILD)


def test_keys_of_two_makes_are_not_compared() -> None:
    """The list of running processes uses times as keys; a driver uses counters."""
    listed = replace(PARENT, start_key=TICKS)
    assert not can_be_parent(listed, CHILD)
    assert can_be_parent(listed, replace(CHILD, created=NOON))
    assert can_be_parent(listed, replace(CHILD, created=None))


def test_a_held_child_keeps_its_parent_though_the_clock_was_set_back() -> None:
    assert can_be_parent(replace(PARENT, start_key=TICKS), replace(CHILD, paused=True))


def test_nothing_is_its_own_parent() -> None:
    assert not can_be_parent(PARENT, replace(PARENT, parent_pid=100))


def test_records_of_two_sources_are_one_process_by_their_time() -> None:
    assert same_process(PARENT, replace(PARENT, start_key=TICKS))
    assert not same_process(PARENT, replace(PARENT, created=NOON + timedelta(seconds=1)))
    assert same_process(PARENT, replace(PARENT, created=None))
    assert not same_process(PARENT, replace(PARENT, created=None, start_key=1))


def test_a_process_created_later_is_another_one() -> None:
    assert started_after(PARENT, NOON + timedelta(microseconds=1))
    assert not started_after(PARENT, NOON)
    assert not started_after(PARENT, None)


@pytest.mark.parametrize("learn", ["remember", "note"])
def test_ancestry_gives_the_records_of_a_line_nearest_first(learn: str) -> None:
    ancestry = Ancestry()
    grandchild = procmon.ProcessHelper(pid=300, parent_pid=200, image_name="x.exe", start_key=9)
    for process in (PARENT, CHILD, grandchild):
        getattr(ancestry, learn)(process)
    noted = ancestry.note(grandchild)
    assert noted.ancestors == (CHILD, PARENT)
    assert noted.parent is CHILD
    assert noted.images == (CHILD.image_name, PARENT.image_name)


def test_remembering_asks_windows_for_nothing() -> None:
    asked: list[int] = []
    ancestry = Ancestry(asked.append)
    ancestry.remember(CHILD)
    assert asked == []
    assert ancestry.note(CHILD).parent is None
    assert asked == [100]


def test_a_chain_of_remembered_processes_is_cut_at_its_depth() -> None:
    ancestry = Ancestry()
    for pid in range(1, 200):
        last = procmon.ProcessHelper(pid=pid, parent_pid=pid - 1, image_name="a.exe", start_key=pid)
        ancestry.remember(last)
    assert len(ancestry.note(last).ancestors) == Ancestry.DEPTH
