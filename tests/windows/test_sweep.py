"""Monitor.sweep on real processes, ended as a DriverGate ends them."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

import procmon
from patience import PATIENCE
from procmon.records import VerdictResult
from procmon.system.listing import lookup
from procmon.system.terminate import terminate

BLOCKED = 0xC0000364


class RunningGate(procmon.SimulatedGate):
    """A gate that knows some running processes and ends them as DriverGate does."""

    def __init__(self, *running: procmon.ProcessHelper) -> None:
        super().__init__("running")
        self.running = running

    def terminate(self, process: procmon.ProcessHelper) -> None:
        terminate(process)

    def snapshot(self) -> list[procmon.ProcessHelper]:
        return list(self.running)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen("cmd", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def sweep(*running: procmon.ProcessHelper) -> list[VerdictResult | None]:
    decisions = procmon.Monitor(RunningGate(*running)).sweep(lambda process: procmon.BLOCK, terminate=True)
    return [decision.result for decision in decisions]


def record(pid: int) -> procmon.ProcessHelper:
    found = lookup(pid)
    assert found is not None
    return found


def test_it_ends_a_running_process_with_the_status_of_a_block(child: "subprocess.Popen[bytes]") -> None:
    assert sweep(record(child.pid)) == [VerdictResult.DONE]
    assert child.wait(PATIENCE) & 0xFFFFFFFF == BLOCKED


def test_without_a_time_of_creation_the_image_must_be_the_same(child: "subprocess.Popen[bytes]") -> None:
    known = replace(record(child.pid), created=None)
    assert sweep(replace(known, image_name="c:\\other.exe")) == [VerdictResult.STALE]
    assert child.poll() is None
    assert sweep(known) == [VerdictResult.DONE]


def test_another_process_that_has_the_pid_now_is_left_alone(child: "subprocess.Popen[bytes]") -> None:
    known = record(child.pid)
    assert known.created is not None
    assert sweep(replace(known, created=known.created - timedelta(seconds=1))) == [VerdictResult.STALE]
    assert child.poll() is None


def test_a_process_that_has_gone_is_stale(child: "subprocess.Popen[bytes]") -> None:
    known = record(child.pid)
    child.kill()
    child.wait(PATIENCE)
    assert sweep(known) == [VerdictResult.STALE]
    assert sweep(replace(known, pid=0x7FFFFFF0)) == [VerdictResult.STALE]


def test_it_does_not_end_itself(caplog: pytest.LogCaptureFixture) -> None:
    assert sweep(record(os.getpid())) == [None]
    assert "this program" in caplog.text
