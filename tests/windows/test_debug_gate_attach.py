"""DebugGate on a running process: its children are held if this Windows lets them inherit the debugger."""

import ctypes
import subprocess

import pytest

import procmon
from procmon import ALLOW, ProcessFlags, VerdictResult
from procmon.gates.debug_loop import DebugLoop
from procmon.win32 import debug as win32_debug
from procmon.win32.kernel import is_wine, open_process
from trees import SOON, drive, eventually, held, next_held, python


def lets_children_inherit(pid: int) -> bool:
    """Can a debugger that attaches to a process also get its children? Windows: yes; Wine: tested here."""
    if not is_wine():
        return True
    flags = ctypes.c_uint32(1)
    with open_process(pid, 0x0600) as process:  # PROCESS_SET_INFORMATION, PROCESS_QUERY_INFORMATION
        try:
            win32_debug._NtSetInformationProcess(int(process), 31, ctypes.byref(flags), 4)  # ProcessDebugFlags
        except OSError:
            return False
    return True


def test_attach_holds_the_children_and_not_the_process_itself() -> None:
    code = "import subprocess; input(); print(subprocess.run('hostname', stdout=-3).returncode)"
    with subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        if not lets_children_inherit(running.pid):
            with pytest.raises(procmon.UnsupportedPlatform, match="start the command with DebugGate.run instead"):
                procmon.DebugGate.attach(running.pid)
            assert running.communicate("\n", timeout=SOON)[0].strip() == "0"
            return
        with procmon.DebugGate.attach(running.pid) as gate:
            assert gate.name == f"python (pid {running.pid})"
            assert running.stdin is not None
            running.stdin.write("\n")
            running.stdin.flush()
            assert held(drive(gate)) == ["hostname.exe"]
        assert running.communicate(timeout=SOON)[0].strip() == "0"


def test_an_attached_process_is_reported_and_never_held() -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as running:
        loop = DebugLoop(None, ALLOW, include_first=True, attached_pid=running.pid)
        loop.begin(lambda port: win32_debug._DebugActiveProcess(running.pid))  # as attach does, without the inheritance
        assert eventually(lambda: bool(loop.snapshot()))
        (itself,) = loop.fetch()
        assert itself.pid == running.pid and not itself.paused and ProcessFlags.RUNNING_BEFORE in itself.flags
        assert loop.answer([itself], ALLOW) == [VerdictResult.NOT_HELD]
        loop.stop()
        assert running.poll() is None
        running.communicate(b"\n", timeout=SOON)
        assert running.returncode == 0


def test_the_first_breakpoint_of_an_attached_process_is_its_own() -> None:
    """Windows reports it to the gate; Wine does not once BeingDebugged is cleared."""
    breaks = (
        "import ctypes; k = ctypes.WinDLL('kernel32'); k.SetErrorMode(3); input();"
        " k.RaiseException(0x80000003, 0, 0, None)"
    )
    free = subprocess.run(python(breaks), input=b"\n", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert free.returncode & 0xFFFFFFFF == 0x80000003
    with subprocess.Popen(
        python(breaks), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        loop = DebugLoop(None, ALLOW, include_first=True, attached_pid=running.pid)
        loop.begin(lambda port: win32_debug._DebugActiveProcess(running.pid))
        assert eventually(lambda: bool(loop.snapshot()))
        running.communicate(b"\n", timeout=SOON)
        loop.stop()
        assert running.returncode == free.returncode


def test_attaching_to_no_process_says_so() -> None:
    with pytest.raises(procmon.StaleProcess, match=r"procmon\.processes\(\) lists them"):
        procmon.DebugGate.attach(0x7FFFFFF0)


def test_attaching_twice_says_that_it_has_a_debugger() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        with pytest.raises(procmon.AccessDenied, match="has a debugger already"):
            procmon.DebugGate.attach(process.pid)
        gate.allow(process)
        assert drive(gate)[-1].exit_status == 0
