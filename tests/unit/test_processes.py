"""ProcessTree, from records of any source: its parents and children, and its drawing."""

import dataclasses
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import procmon
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DecidedBy, VerdictResult
from procmon.system.tree import ProcessTree

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def process(pid: int, parent: int, second: int | None = None, name: str = "a.exe") -> procmon.ProcessHelper:
    created = None if second is None else NOW + timedelta(seconds=second)
    return procmon.ProcessHelper(
        pid=pid,
        parent_pid=parent,
        image_name=f"c:\\tools\\{name}",
        start_key=pid if second is None else second + 1,
        created=created,
    )


def test_it_draws_each_process_below_its_parent() -> None:
    tree = ProcessTree([
        process(4, 0, 0, "system"), process(8, 4, 1, "smss.exe"), process(12, 8, 2, "csrss.exe"),
        process(16, 4, 3, "registry"), process(20, 99, 4, "explorer.exe"), process(24, 20, 5, "cmd.exe"),
    ])  # fmt: skip
    assert str(tree).splitlines() == [
        "system 4",
        "├─ smss.exe 8",
        "│  └─ csrss.exe 12",
        "└─ registry 16",
        "explorer.exe 20",
        "└─ cmd.exe 24",
    ]
    assert repr(tree) == str(tree)
    assert repr(tree.below(20)) == "explorer.exe 20\n└─ cmd.exe 24"
    assert [one.pid for one in tree] == [4, 8, 12, 16, 20, 24]
    assert len(tree) == 6 and process(8, 4, 1) in tree and process(8, 4, 2) not in tree and 8 not in tree


def test_a_parent_that_is_younger_than_its_child_is_none() -> None:
    child, other = process(8, 4, 1), process(4, 0, 2)
    tree = ProcessTree([other, child])
    assert tree.parent(child) is None
    assert tree.children(other) == []
    assert tree.roots == [other, child]


def test_a_clock_set_back_makes_no_child_a_root() -> None:
    gate = procmon.SimulatedGate()
    parent = replace(gate.start("c:/a.exe", parent_pid=4), created=NOW)
    child = replace(gate.start("c:/b.exe", parent_pid=parent.pid), created=NOW - timedelta(seconds=2))
    assert ProcessTree([child, parent]).parent(child) == parent
    no_keys = [replace(one, start_key=0) for one in (parent, child)]
    assert ProcessTree(no_keys).roots == no_keys[:1]


def test_the_order_of_pids_says_nothing_about_age() -> None:
    parent, child = process(5000, 4, 1), process(1204, 5000, 1)
    assert ProcessTree([child, parent]).parent(child) == parent


def test_reused_pids_that_point_at_each_other_make_no_circle() -> None:
    for processes in (
        [process(4, 8, 1), process(8, 4, 1)],
        [process(4, 8), process(8, 4)],
        [process(4, 4, 1)],
        [process(4, 12, 1), process(8, 4, 1), process(12, 8, 1)],
    ):
        tree = ProcessTree(processes)
        assert sorted(one.pid for one in tree) == sorted(one.pid for one in processes)


def test_a_tree_deeper_than_the_stack_is_drawn() -> None:
    depth = sys.getrecursionlimit() * 2
    tree = ProcessTree(process(pid, pid - 1, pid) for pid in range(1, depth + 1))
    assert len(list(tree)) == depth
    assert len(tree.roots) == 1
    assert str(tree).count("\n") == depth - 1


def test_what_is_not_in_it_is_stale() -> None:
    tree = ProcessTree([process(4, 0, 1)])
    for stranger in (8, process(4, 0, 2)):
        with pytest.raises(procmon.StaleProcess, match=r"procmon\.tree\(\) gives the tree of today"):
            tree.parent(stranger)


def test_records_of_two_sources_are_one_process_by_their_creation_time() -> None:
    from_list, from_gate = process(4, 0, 1), process(4, 0, 1)
    object.__setattr__(from_gate, "start_key", 77)
    assert ProcessTree([from_list]).children(from_gate) == []


def test_start_keys_of_a_gate_overrule_a_clock_that_was_set_back() -> None:
    parent = procmon.ProcessHelper(pid=5000, parent_pid=4, image_name="p.exe", start_key=1, created=NOW)
    child = procmon.ProcessHelper(
        pid=1204, parent_pid=5000, image_name="c.exe", start_key=2, created=NOW - timedelta(seconds=2)
    )
    assert ProcessTree([child, parent]).parent(child) == parent


def test_of_two_created_in_one_tick_the_link_tells_the_parent() -> None:
    parent, child = process(5000, 4, 7), process(1204, 5000, 7)
    assert ProcessTree([child, parent]).parent(child) == parent


def test_the_tree_of_a_history_shows_what_was_decided() -> None:
    gate = procmon.SimulatedGate()
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: procmon.BLOCK if process.name == "curl.exe" else procmon.ALLOW)
        gate.play([("start", "make.exe"), ("start", "curl.exe", "make.exe"), ("end",)])
        monitor.wait(PATIENCE)
        decided = ["make.exe 1000", "└─ curl.exe 1004 (blocked)"]
        assert str(ProcessTree(monitor.history)).splitlines() == decided
        assert str(ProcessTree(decision.process for decision in monitor.history)).splitlines() == decided


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("verdict", [ALLOW, BLOCK])
def test_a_decision_that_came_too_late_is_not_drawn(verdict: procmon.Verdict, first: int) -> None:
    """The gate's own decision counts, whichever of the two comes first."""
    held = procmon.SimulatedGate().start("a.exe")
    other = ALLOW if verdict is BLOCK else BLOCK
    late = procmon.Decision(process=held, verdict=other, by=DecidedBy.RULE, result=VerdictResult.ANSWERED)
    both = [late, procmon.Decision(process=held, verdict=verdict, by=DecidedBy.GATE_TIMEOUT)]
    blocked = " (blocked)" if verdict is BLOCK else ""
    assert str(ProcessTree([both[first], both[1 - first]])) == f"a.exe 1000{blocked}"
    assert str(ProcessTree([late])) == "a.exe 1000"


def test_in_a_notebook_lists_and_trees_are_tables_and_their_texts_are_escaped() -> None:
    listed = procmon.ProcessList([process(8, 4, 1, "<b>.exe")])
    assert "&lt;b&gt;.exe" in listed._repr_html_() and "<b>" not in listed._repr_html_()
    tree = ProcessTree([process(4, 0, 0), process(8, 4, 1, "<b>.exe")])._repr_html_()
    assert tree.count("<tr>") == 3 and "└─ &lt;b&gt;.exe 8" in tree


@pytest.mark.parametrize(("pattern", "pids"), [("chrome", [8]), ("CHROME.EXE", [8]), ("c*", [8, 12]), ("b/**", [])])
def test_the_list_is_filtered_by_name(pattern: str, pids: list[int]) -> None:
    listed = procmon.ProcessList([process(8, 4, 1, "chrome.exe"), process(12, 4, 2, "cmd.exe"), process(16, 4, 3)])
    assert [one.pid for one in listed.named(pattern)] == pids


def test_an_empty_tree_says_so() -> None:
    assert repr(ProcessTree([])) == "<ProcessTree of 0 processes>"


def test_elsewhere_it_says_that_windows_is_needed() -> None:
    if sys.platform == "win32":
        assert procmon.processes()
        return
    with pytest.raises(procmon.UnsupportedPlatform, match="needs Windows"):
        procmon.processes()
    with pytest.raises(procmon.UnsupportedPlatform, match="needs Windows"):
        procmon.tree()


def test_a_pid_that_was_used_again_is_another_process_with_its_own_children() -> None:
    first, second = process(8, 4, 1, "first.exe"), process(8, 4, 5, "second.exe")
    of_first, of_second, orphan = process(12, 8, 2), process(16, 8, 6), process(20, 8, 4)
    first = dataclasses.replace(first, exited=True, exited_at=NOW + timedelta(seconds=3))
    tree = ProcessTree([second, first, of_second, of_first, orphan])
    assert len(tree) == 5
    assert tree.children(first) == [of_first]
    assert tree.children(second) == tree.children(8) == [of_second]
    assert orphan in tree.roots  # `first` had exited, and `second` had not yet started


def test_a_label_of_your_own_is_drawn() -> None:
    tree = ProcessTree([process(4, 0, 0), process(8, 4, 1)], label=lambda process: f"<{process.pid}>")
    assert repr(tree) == "<4>\n└─ <8>"
    assert repr(tree.below(8)) == "<8>"


def test_what_became_of_a_process_is_drawn() -> None:
    made = process(8, 4, 1)
    gone = dataclasses.replace(made, exited=True, exit_status=0, exited_at=NOW + timedelta(seconds=2.5))
    for record, drawn in (
        (dataclasses.replace(made, paused=True), "a.exe 8 (paused)"),
        (dataclasses.replace(gone, verdict=procmon.BLOCK), "a.exe 8 (blocked)"),
        (gone, "a.exe 8 (1.50 s)"),
        (dataclasses.replace(gone, exit_status=0xC0000005), "a.exe 8 (status 0xC0000005, 1.50 s)"),
    ):
        assert repr(ProcessTree([record])) == drawn
