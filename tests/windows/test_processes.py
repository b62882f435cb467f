"""The list of running processes, and look-ups of single ones."""

import os
import subprocess
from collections.abc import Iterator

import pytest

import procmon
from procmon import ProcessFlags
from procmon.system.listing import lookup


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen("cmd", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_it_lists_us_and_our_child_once_each(child: "subprocess.Popen[bytes]") -> None:
    found = procmon.processes()
    (we,) = [process for process in found if process.pid == os.getpid()]
    (it,) = [process for process in found if process.pid == child.pid]
    assert it.parent_pid == we.pid and it.name == "cmd.exe" and it.image_name == r"c:\windows\system32\cmd.exe"
    assert we.created is not None and it.created is not None and we.created < it.created
    assert it.flags == we.flags == ProcessFlags.RUNNING_BEFORE
    assert not it.paused and it.native_name
    assert all(process.pid and process.image_name for process in found)
    assert [process.start_key for process in found] == sorted(process.start_key for process in found)


def test_one_process_by_its_pid(child: "subprocess.Popen[bytes]") -> None:
    found = lookup(child.pid)
    assert found is not None and found in procmon.processes()
    assert found.image_name == r"c:\windows\system32\cmd.exe"
    child.kill()
    child.wait()
    assert lookup(child.pid) is None  # although our Popen keeps the pid from being reused
    assert lookup(0) is None
    assert lookup(0x7FFFFFF0) is None


def test_the_tree_has_our_child_below_us(child: "subprocess.Popen[bytes]") -> None:
    tree = procmon.tree()
    assert child.pid in [process.pid for process in tree.children(os.getpid())]
    parent = tree.parent(child.pid)
    assert parent is not None and parent.pid == os.getpid()
    below = procmon.tree(child.pid)
    assert str(below) == f"cmd.exe {child.pid}"
    with pytest.raises(procmon.StaleProcess):
        procmon.tree(0x7FFFFFF0)


def test_records_of_the_list_and_of_a_gate_are_the_same_process() -> None:
    with procmon.DebugGate.run("hostname", stdout=subprocess.DEVNULL) as gate:
        gate.wait()
        (held,) = gate.fetch()
        assert held in procmon.processes()
        assert held in procmon.tree()
        assert lookup(held.pid) == held
        gate.allow(held)
