"""DebugGate on real process trees: held and passed processes, and that nothing stays held."""

import ctypes
import functools
import gc
import os
import random
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

import procmon
from ctrl_c import assert_heard_soon, seconds_until_heard
from procmon import ALLOW, BLOCK, DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from procmon.gates import debug as debug_gate
from procmon.gates.base import Gate
from procmon.win32 import debug as win32_debug
from trees import BLOCKED, SOON, drive, eventually, held, next_held, python


@pytest.fixture(params=["waiting", "polling"])
def each_port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait for the debug object; the second is for an ntdll that does not return it."""
    if request.param == "polling":
        monkeypatch.setattr(win32_debug, "DebugPort", functools.partial(win32_debug.DebugPort, polling=True))


# -------------------------------------------------------------------------------------------------------- what it holds


@pytest.mark.usefixtures("each_port")
def test_every_process_of_a_deep_tree_is_held_and_its_record_is_whole() -> None:
    with procmon.DebugGate.run(["cmd", "/c", "cmd /c cmd /c hostname"], stdout=subprocess.PIPE) as gate:
        records = drive(gate)
        assert gate.popen is not None and gate.popen.stdout is not None
        output = gate.popen.stdout.read()
        gate.popen.stdout.close()
        assert gate.popen.wait(SOON) == 0
    assert held(records) == ["cmd.exe", "cmd.exe", "cmd.exe", "hostname.exe"]
    assert output.strip()
    starts = [record for record in records if record.paused]
    for parent, child in pairwise(starts):
        assert child.parent_pid == parent.pid
        assert child.created is not None and parent.created is not None and child.created >= parent.created
        assert child.start_key > parent.start_key
    assert starts[0].parent_pid == os.getpid()
    assert [record.command_line for record in starts] == [
        'cmd /c "cmd /c cmd /c hostname"', "cmd /c cmd /c hostname", "cmd /c hostname", "hostname",
    ]  # fmt: skip
    assert all(record.image_name == rf"c:\windows\system32\{record.name}" for record in starts)
    assert all(record.native_name and record.native_name.lower().endswith(record.name) for record in starts)
    assert not any(record.seen for record in starts)
    exits = [record for record in records if record.exited]
    assert [record.pid for record in exits] == [record.pid for record in reversed(starts)]
    assert all(record.exit_status == 0 and record.seen and record.verdict is ALLOW for record in exits)
    assert all(0 <= record.lifetime < SOON for record in exits if record.lifetime is not None)
    assert all(record.created and record.exited_at and record.created <= record.exited_at for record in exits)


@pytest.mark.promise("A blocked process runs no instruction, and its parent sees 0xC0000364", gate="DebugGate")
@pytest.mark.usefixtures("each_port")
def test_a_blocked_process_never_runs_and_its_parent_sees_the_status(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    command = f'cmd /c "echo x> {mark}"'
    code = f"import subprocess; print(hex(subprocess.run({command!r}).returncode))"
    with procmon.DebugGate.run(python(code), stdout=subprocess.PIPE, text=True) as gate:
        records = drive(gate, lambda process: BLOCK if process.name == "cmd.exe" else ALLOW)
        assert gate.popen is not None
        output, _ = gate.popen.communicate(timeout=SOON)
    assert output.strip() == hex(BLOCKED)
    assert not mark.exists()
    gone = next(record for record in records if record.exited and record.name == "cmd.exe")
    assert (gone.exit_status, gone.verdict, gone.decided_by) == (BLOCKED, BLOCK, DecidedBy.CONTROLLER)


def test_a_blocked_command_ends_with_the_status() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.PIPE) as gate:
        drive(gate, lambda process: BLOCK)
        assert gate.popen is not None
        assert gate.popen.communicate(timeout=SOON)[0] == b""
        assert gate.popen.returncode & 0xFFFFFFFF == BLOCKED


@pytest.mark.promise("One held process delays no other", gate="DebugGate")
def test_one_held_process_holds_no_other() -> None:
    code = "import subprocess as s; l = [s.Popen('hostname') for _ in range(10)]; print(sum(p.wait() for p in l))"
    kept: list[ProcessHelper] = []

    def keep_the_third(process: ProcessHelper) -> Verdict | None:
        if process.name == "hostname.exe":
            kept.append(process)
            return None if len(kept) == 3 else ALLOW
        return ALLOW

    with procmon.DebugGate.run(python(code), stdout=subprocess.PIPE) as gate:
        exits = 0

        def nine_are_gone() -> bool:
            return len(kept) == 10 and len(gate.snapshot()) == 2

        records = drive(gate, keep_the_third, until=nine_are_gone)
        exits = sum(record.exited for record in records)
        assert exits == 9
        assert [process for process in gate.snapshot() if process.paused] == [kept[2]]
        assert gate.allow(kept[2]) == [VerdictResult.DONE]  # deferred until now
        drive(gate)
        assert gate.popen is not None
        assert gate.popen.communicate(timeout=SOON)[0].split()[-1] == b"0"


def test_thirty_at_once_each_get_their_own_verdict() -> None:
    code = (
        "import subprocess as s\n"
        "l = [s.Popen(['cmd', '/c', 'exit', str(n)]) for n in range(30)]\n"
        "print(*(p.wait() for p in l))"
    )
    lot = random.Random(1)
    later: list[ProcessHelper] = []
    expected: dict[int, int] = {}

    def decide(process: ProcessHelper) -> Verdict | None:
        if process.name != "cmd.exe":
            return ALLOW
        number = int((process.command_line or "").split()[-1])
        verdict = lot.choice([ALLOW, BLOCK])
        expected[number] = number if verdict is ALLOW else BLOCKED
        if lot.random() < 0.3:
            later.append(process)
            return None
        return verdict

    with procmon.DebugGate.run(python(code), stdout=subprocess.PIPE, text=True) as gate:
        drive(gate, decide, until=lambda: len(expected) == 30)
        for process in reversed(later):
            allowed = expected[int((process.command_line or "").split()[-1])] != BLOCKED
            assert (gate.allow if allowed else gate.block)(process) == [VerdictResult.DONE]
        drive(gate)
        assert gate.popen is not None
        statuses = [int(status) for status in gate.popen.communicate(timeout=SOON)[0].split()]
    assert later and statuses == [expected[number] for number in range(30)]


def test_a_held_process_has_run_nothing_even_if_its_parent_resumes_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    command = f'cmd /c "echo x> {mark}"'
    code = (
        "import _winapi, ctypes, subprocess\n"
        "info = subprocess.STARTUPINFO()\n"
        f"p, t, pid, tid = _winapi.CreateProcess(None, {command!r}, None, None, False, 4, None, None, info)\n"
        "resume = ctypes.WinDLL('kernel32').ResumeThread\n"
        "resume.argtypes = [ctypes.c_void_p]\n"
        "for _ in range(5): resume(int(t))\n"
        "print('resumed', flush=True)\n"
        "print(_winapi.WaitForSingleObject(p, 20000))\n"
    )
    with procmon.DebugGate.run(python(code), include_first=False, stdout=subprocess.PIPE, text=True) as gate:
        child = next_held(gate)
        assert child.name == "cmd.exe"
        assert gate.popen is not None and gate.popen.stdout is not None
        assert gate.popen.stdout.readline().strip() == "resumed"
        time.sleep(0.3)
        assert not mark.exists()
        gate.allow(child)
        drive(gate)
        assert mark.exists()
        gate.popen.communicate(timeout=SOON)


def test_a_detached_process_in_a_group_of_its_own_is_held_too() -> None:
    code = "import subprocess as s; s.Popen('hostname', creationflags=s.DETACHED_PROCESS | s.CREATE_NEW_PROCESS_GROUP)"
    with procmon.DebugGate.run(python(code), stdout=subprocess.DEVNULL) as gate:
        records = drive(gate)  # the gate goes on after the command itself has exited
    assert held(records) == ["python.exe", "hostname.exe"]
    assert [record.name for record in records if record.exited][-1] in ("python.exe", "hostname.exe")


def test_two_gates_do_not_see_each_other() -> None:
    with (
        procmon.DebugGate.run(["cmd", "/c", "hostname"], stdout=subprocess.DEVNULL) as one,
        procmon.DebugGate.run(["cmd", "/c", "cmd /c exit 3"]) as other,
    ):
        first = next_held(one)
        assert held(drive(other)) == ["cmd.exe", "cmd.exe"]
        assert other.popen is not None and other.popen.wait(SOON) == 3
        one.allow(first)
        assert held(drive(one)) == ["hostname.exe"]


def test_a_process_that_the_tree_itself_debugs_is_that_debuggers() -> None:
    inner = (
        "import procmon\n"
        "with procmon.DebugGate.run('hostname') as gate:\n"
        "    while not gate.ended:\n"
        "        gate.wait()\n"
        "        gate.allow(*(process for process in gate.fetch() if process.paused))\n"
        "print(gate.popen.returncode or gate.popen.wait())\n"
    )
    with procmon.DebugGate.run(python(inner), stdout=subprocess.PIPE, text=True) as gate:
        assert held(drive(gate)) == ["python.exe"]
        assert gate.popen is not None
        assert gate.popen.communicate(timeout=SOON)[0].split()[-1] == "0"


def test_a_tree_that_is_ended_from_outside_while_one_is_held() -> None:
    with procmon.DebugGate.run(["cmd", "/c", "hostname"], include_first=False, stdout=subprocess.DEVNULL) as gate:
        child = next_held(gate)
        parent = next(process for process in gate.snapshot() if process.pid == child.parent_pid)
        gate.terminate(parent)
        assert eventually(lambda: parent not in gate.snapshot())
        assert [process for process in gate.snapshot() if process.paused] == [child]
        gate.terminate(child)
        statuses = [record.exit_status for record in drive(gate) if record.exited]
        assert statuses == [BLOCKED, BLOCKED]
        with pytest.raises(procmon.StaleProcess, match="has gone"):
            gate.terminate(child)


def test_the_first_process_passes_when_it_is_not_included() -> None:
    with procmon.DebugGate.run(["cmd", "/c", "hostname"], include_first=False, stdout=subprocess.DEVNULL) as gate:
        records = drive(gate)
    first = records[0]
    assert not first.paused and first.decided_by is DecidedBy.EXEMPT and ProcessFlags.EXEMPT in first.flags
    assert held(records) == ["hostname.exe"]


# ------------------------------------------------------------------------------------------------ nothing stays held


@pytest.mark.fault(
    "the gate is closed",
    gate="DebugGate",
    held="gets on_disconnect; its tree runs on",
    told="-",
    counted="-",
    written="-",
)
def test_close_lets_the_held_run_and_the_tree_go_on(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    command = f'cmd /c "cmd /c "echo x> {mark}" & hostname"'
    gate = procmon.DebugGate.run(command, include_first=False, stdout=subprocess.PIPE)
    next_held(gate)
    assert not mark.exists()
    gate.close()
    gate.close()
    assert gate.popen is not None
    assert gate.popen.communicate(timeout=SOON)[0].strip()
    assert gate.popen.returncode == 0 and mark.exists()
    assert gate.closed and gate.ended and gate.wait(0)
    for call in (gate.fetch, gate.snapshot, gate.allow, gate.block):
        with pytest.raises(procmon.GateClosed, match="is closed: make a new one"):
            call()


def test_a_verdict_given_just_before_close_still_counts(tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    gate = procmon.DebugGate.run(f'cmd /c "echo x> {mark}"')
    gate.block(next_held(gate))
    gate.close()
    assert gate.popen is not None and gate.popen.wait(SOON) & 0xFFFFFFFF == BLOCKED
    assert not mark.exists()


@pytest.mark.fault(
    "the gate is dropped without a close",
    gate="DebugGate",
    held="gets on_disconnect; its tree runs on",
    told="-",
    counted="-",
    written="-",
)
def test_a_dropped_gate_lets_the_held_run() -> None:
    gate = procmon.DebugGate.run(["hostname"], stdout=subprocess.PIPE)
    next_held(gate)
    popen = gate.popen
    assert popen is not None
    del gate
    gc.collect()
    assert popen.communicate(timeout=SOON)[0].strip()


HOLDING = """
import sys, procmon
gate = procmon.DebugGate.run(sys.argv[1])
while not any(process.paused for process in gate.fetch()):
    gate.wait()
print("holding", flush=True)
"""


@pytest.mark.fault(
    "the controller is killed, exits, or ends with an error",
    gate="DebugGate",
    held="runs",
    told="-",
    counted="-",
    written="-",
)
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_end_of_the_controller_lets_the_held_run(end: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran.txt"
    wait = "input()" if end == "kill" else ""
    command = [*python(HOLDING + wait), f'cmd /c "echo x> {mark}"']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline().strip() == b"holding"
        if end == "kill":
            time.sleep(0.2)
            assert not mark.exists()
            controller.kill()
        assert eventually(mark.exists)


@pytest.mark.promise("A hold ends at its timeout, for that process alone, and the record shows it", gate="DebugGate")
@pytest.mark.usefixtures("each_port")
@pytest.mark.parametrize("verdict", [ALLOW, BLOCK])
def test_the_hold_timeout_answers(verdict: Verdict) -> None:
    gate = procmon.DebugGate.run(["hostname"], hold_timeout=0.3, on_timeout=verdict, stdout=subprocess.PIPE)
    with gate:
        first = next_held(gate)
        assert first.hold_left is not None and 0 < first.hold_left <= 0.3
        again, gone = drive(gate)
        assert again == first and not again.paused and again.seen
        assert (again.verdict, again.decided_by) == (verdict, DecidedBy.GATE_TIMEOUT)
        assert gone.exited and gone.exit_status == (0 if verdict is ALLOW else BLOCKED)
        assert gate.popen is not None
        assert bool(gate.popen.communicate(timeout=SOON)[0]) == (verdict is ALLOW)
        assert gate.allow(first) == [VerdictResult.ANSWERED]


def test_a_process_that_timed_out_before_the_fetch_is_given_once() -> None:
    with procmon.DebugGate.run(["hostname"], hold_timeout=0, stdout=subprocess.DEVNULL) as gate:
        assert gate.popen is not None
        gate.popen.wait(SOON)
        assert eventually(lambda: not gate.snapshot())
        start, gone = gate.fetch()
    assert start.decided_by is DecidedBy.GATE_TIMEOUT and not start.paused and not start.exited
    assert gone.exited


def test_ctrl_c_ends_a_wait() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL) as gate:
        next_held(gate)
        assert_heard_soon(lambda: seconds_until_heard(lambda: gate.wait(SOON), "wait"))


def test_a_failure_of_the_debug_api_ends_the_gate_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.PIPE) as gate:
        next_held(gate)
        broken = OSError("WaitForMultipleObjects: broken")

        def fail(port: win32_debug.DebugPort, timeout_ms: int | None = None) -> None:
            raise broken

        monkeypatch.setattr(win32_debug.DebugPort, "wait", fail)
        gate._loop._ring()  # ends the wait in progress
        assert gate.wait(SOON)
        assert not gate.ended
        with pytest.raises(procmon.ProcmonError, match="the debug loop failed") as told:
            gate.fetch()
        assert told.value.__cause__ is broken
        drive(gate)
        assert gate.snapshot() == []
        assert gate.popen is not None and gate.popen.communicate(timeout=SOON)[0].strip()


# -------------------------------------------------------------------------------------------------- verdicts and errors


def test_a_late_or_wrong_verdict_is_reported_and_changes_nothing() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        stranger = ProcessHelper(pid=process.pid, parent_pid=0, image_name="", start_key=1)
        unknown = ProcessHelper(pid=3, parent_pid=0, image_name="")
        assert gate.block(stranger, unknown) == [VerdictResult.STALE, VerdictResult.UNKNOWN]
        assert gate.allow(process, process) == [VerdictResult.DONE, VerdictResult.ANSWERED]
        assert drive(gate)[-1].exit_status == 0
        assert gate.block(process) == [VerdictResult.ANSWERED]


@pytest.mark.usefixtures("each_port")
def test_errors_of_the_command_reach_the_caller() -> None:
    with pytest.raises(FileNotFoundError):
        procmon.DebugGate.run(["no-such-command-anywhere"])
    with pytest.raises(ValueError, match="on_timeout is ALLOW or BLOCK"):
        procmon.DebugGate.run(["hostname"], on_timeout=procmon.DEFER)
    with pytest.raises(ValueError, match="hold_timeout"):
        procmon.DebugGate.run(["hostname"], hold_timeout=-1)
    with pytest.raises(TypeError, match="no_such_option"):
        procmon.DebugGate.run(["hostname"], no_such_option=1)


# ------------------------------------------------------------------------------------------------------ the inside


def test_the_debug_event_has_the_size_of_the_header() -> None:
    assert ctypes.sizeof(win32_debug.DebugEvent) == (176 if ctypes.sizeof(ctypes.c_void_p) == 8 else 96)


def test_what_it_shows_of_itself() -> None:
    gate = procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL)
    process = next_held(gate)
    assert isinstance(gate, Gate)
    assert repr(gate) == f"<DebugGate hostname (pid {process.pid}): 1 alive, 1 held>"
    gate.allow(process)
    drive(gate)
    assert repr(gate) == f"<DebugGate hostname (pid {process.pid}) ended>"
    gate.close()
    assert repr(gate) == f"<DebugGate hostname (pid {process.pid}) closed>"


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("cmd", "cmd"),
        (r"C:\Windows\cmd.exe /c dir", "cmd"),
        (r'"C:\Program Files\a b.exe" x', "a b"),
        (r"C:\Program Files\a b.exe", "a b"),
        ("c:/x/tool.EXE", "tool"),
    ],
)
def test_a_command_is_named_by_its_program(first: str, name: str) -> None:
    assert debug_gate._command_name(first) == name
