"""The rows of the table of faults with real processes: under the debug API, and under the driver."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import procmon
from driven import BLOCKED, SOON, Programs, controller, held, opened
from procmon import BLOCK, DriverGate, VerdictResult
from procmon.driver.info import driver_info
from procmon.win32.device import Connection
from procmon.win32.kernel import open_process
from trees import drive, eventually, next_held, python

TERMINATE, SUSPEND_RESUME = 0x0001, 0x0800


def end_from_outside(pid: int, status: int) -> None:
    """Terminate a process as Task Manager does."""
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    with open_process(pid, TERMINATE) as process:
        assert kernel32.TerminateProcess(ctypes.c_void_p(int(process)), status)


@pytest.mark.fault(
    "another process ends the held process",
    gate="DebugGate",
    held="ends, and never ran",
    told="its exit; STALE or ANSWERED for a verdict",
    counted="-",
    written="-",
)
def test_a_process_held_by_the_debug_gate_can_be_ended_from_outside(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    with procmon.DebugGate.run(f'cmd /c "echo x> {mark}"') as gate:
        process = next_held(gate)
        end_from_outside(process.pid, 9)
        gate.allow(process)
        drive(gate)
        assert gate.popen is not None and gate.popen.wait(SOON) == 9
    assert not mark.exists()


@pytest.mark.fault(
    "the parent of a held process is ended",
    gate="DebugGate",
    held="stays held, and runs when it is allowed",
    told="the parent's exit",
    counted="-",
    written="-",
)
def test_the_end_of_a_parent_leaves_its_child_held_by_the_debug_gate(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    code = f"import subprocess; child = subprocess.Popen('cmd /c \"echo x> {mark.as_posix()}\"')\n"
    code += "print('created', flush=True); child.wait()"
    with procmon.DebugGate.run(python(code), stdout=subprocess.PIPE, text=True) as gate:
        parent = next_held(gate)
        assert gate.allow(parent) == [VerdictResult.DONE]
        child = next_held(gate)
        # Wine reports a process before its creator resumes it; the child of one that ends before that runs nothing.
        assert gate.popen is not None and gate.popen.stdout is not None
        assert gate.popen.stdout.readline() == "created\n"
        end_from_outside(parent.pid, 9)
        assert child in gate.snapshot() and not mark.exists()
        assert gate.allow(child) == [VerdictResult.DONE]
        drive(gate)
    assert eventually(mark.exists)


@pytest.mark.fault(
    "another process ends the held process",
    gate="DriverGate",
    held="ends, and never ran",
    told="a later verdict changes nothing",
    counted="died_held, on NT",
    written="-",
)
def test_a_process_held_by_the_driver_can_be_ended_from_outside(programs: Programs) -> None:
    with opened() as gate:
        pid = programs.start()
        (process,) = held(gate, pid)
        programs.end(pid, 9)
        assert programs.exit_status(pid, SOON) == 9
        assert len(gate.allow(process)) == 1  # on NT its record may be gone; with kernel.py it is still there
        assert eventually(lambda: driver_info().held_count == 0)
        other = programs.start()
        assert gate.allow(*held(gate, other)) == [VerdictResult.DONE]
        assert eventually(lambda: programs.ran(other))
    assert not programs.ran(pid)


def pause(pid: int, name: str) -> None:
    """NtSuspendProcess or NtResumeProcess."""
    with open_process(pid, SUSPEND_RESUME) as process:
        assert ctypes.WinDLL("ntdll")[name](ctypes.c_void_p(int(process))) == 0


WITH_A_TIMEOUT = """
import procmon, sys
gate = procmon.DriverGate(hold_timeout=1.0, on_timeout=procmon.BLOCK, exempt_descendants=False)
gate.fetch()
print("ready", flush=True)
while not any(process.paused for process in gate.fetch()):
    gate.wait()
print("held", flush=True)
sys.stdin.readline()
while not any(process.decided_by is procmon.DecidedBy.GATE_TIMEOUT for process in gate.fetch()):
    gate.wait(0.1)
print("told", flush=True)
"""


@pytest.mark.fault(
    "the controller is suspended past the timeout",
    gate="DriverGate",
    held="gets on_timeout from the driver",
    told="the record again, decided by the gate's timeout, when it resumes",
    counted="timeouts",
    written="by gate timeout, when it resumes",
)
def test_a_suspended_controller_costs_a_process_no_more_than_the_timeout(programs: Programs) -> None:
    command = [sys.executable, "-c", WITH_A_TIMEOUT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        before = driver_info().counters.timeouts
        pid = programs.start()
        assert process.stdout.readline() == "held\n"
        pause(process.pid, "NtSuspendProcess")
        assert programs.exit_status(pid, SOON) == BLOCKED
        assert driver_info().counters.timeouts == before + 1
        pause(process.pid, "NtResumeProcess")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "told\n"


@pytest.mark.fault(
    "the controller is suspended, then killed",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="-",
    counted="disconnects",
    written="-",
)
def test_a_suspended_controller_that_is_killed_releases_what_it_holds(programs: Programs) -> None:
    with controller(1) as process:
        pid = programs.start()
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        pause(process.pid, "NtSuspendProcess")
        process.kill()
        process.wait()
        assert eventually(lambda: driver_info().held_count == 0)
        assert eventually(lambda: programs.ran(pid))


@pytest.mark.fault(
    "the controller exits without a stop",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="-",
    counted="disconnects",
    written="-",
)
def test_a_controller_that_exits_without_a_stop_releases_what_it_holds(programs: Programs) -> None:
    code = "import os, procmon; gate = procmon.DriverGate(hold_timeout=None, exempt_descendants=False)\n"
    code += "gate.fetch(); print('ready', flush=True)\n"
    code += "while not any(process.paused for process in gate.fetch()): gate.wait()\n"
    code += "print('held', flush=True); input(); os._exit(3)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        pid = programs.start()
        assert process.stdout.readline() == "held\n"
        process.communicate("\n", timeout=SOON)
        assert eventually(lambda: programs.ran(pid))
    assert driver_info().controller_pid == 0


@pytest.mark.fault(
    "the controller closes its event",
    gate="DriverGate",
    held="stays held, and gets its verdict",
    told="-: the driver holds a reference, so the event still exists",
    counted="-",
    written="-",
)
def test_an_event_that_the_controller_closes_harms_nothing(programs: Programs) -> None:
    gate = opened()
    try:
        connection = gate._connection
        assert isinstance(connection, Connection)
        connection._events[0].close()  # once: a second CloseHandle could close a handle that was given its value
        pid = programs.start()
        (process,) = held_by_looking(gate, pid)
        assert gate.block(process) == [VerdictResult.DONE]
        assert programs.exit_status(pid, SOON) == BLOCKED
    finally:
        gate.close()
    opened().close()


def held_by_looking(gate: DriverGate, pid: int) -> list[procmon.ProcessHelper]:
    """The held record of a pid, without the event."""
    found: list[procmon.ProcessHelper] = []
    deadline = time.monotonic() + SOON
    while not found:
        assert time.monotonic() < deadline, "it was not held"
        found = [record for record in gate.fetch() if record.pid == pid and record.paused]
        time.sleep(0.01)
    return found


@pytest.mark.fault(
    "the driver is stopped, deleted and started again while a process is held",
    gate="DriverGate",
    held="gets on_disconnect at the stop",
    told="GateClosed: the driver was stopped",
    counted="-",
    written="-",
)
def test_a_driver_that_is_stopped_and_deleted_releases_what_it_holds_and_can_come_back(
    service: procmon.DriverService, programs: Programs
) -> None:
    gate = opened(on_disconnect=BLOCK)
    pid = programs.start()
    held(gate, pid)
    path = service.status().path
    service.stop()
    assert programs.exit_status(pid, SOON) == BLOCKED
    with pytest.raises(procmon.GateClosed):
        gate.fetch()
    gate.close()
    service.delete()
    with pytest.raises(procmon.DriverError):
        procmon.DriverGate()
    service.install()
    service.start()
    assert service.status().path == path
    with opened() as again:
        other = programs.start()
        assert again.allow(*held(again, other)) == [VerdictResult.DONE]


@pytest.mark.fault(
    "a second process, or a second handle, sends REGISTER",
    gate="DriverGate",
    held="stays with the first controller",
    told="ControllerBusy, with the pid of the first",
    counted="-",
    written="-",
)
def test_a_second_registration_is_refused_and_the_first_goes_on(programs: Programs) -> None:
    with opened() as gate:
        pid = programs.start()
        (process,) = held(gate, pid)
        with pytest.raises(procmon.ControllerBusy):
            procmon.DriverGate()
        code = "import procmon\ntry:\n procmon.DriverGate()\nexcept procmon.ControllerBusy as error:\n print(error)"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=SOON)
        assert str(os.getpid()) in done.stdout
        assert process in gate.snapshot()
        assert gate.allow(process) == [VerdictResult.DONE]
        assert eventually(lambda: programs.ran(pid))
