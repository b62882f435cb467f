"""DebugGate when something fails, or ends at the wrong moment: no other process is affected, and nothing stays held."""

import _thread
import math
import subprocess
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

import procmon
from ctrl_c import assert_heard_soon, seconds_until_heard
from procmon import ProcessHelper, VerdictResult
from procmon.gates import debug as debug_gate
from procmon.gates import debug_loop, unreported
from procmon.win32 import debug as win32_debug
from procmon.win32 import debugged, kernel
from procmon.win32 import process as win32_process
from procmon.win32.debug import DebugEvent
from trees import BLOCKED, SOON, drive, eventually, next_held, python


def test_a_process_that_the_gate_has_left_is_beyond_terminate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The debugger owned its handle: the value may belong to another process by now."""
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as running:
        loop = debug_loop.DebugLoop(None, procmon.ALLOW, include_first=True, attached_pid=running.pid)
        loop.begin(lambda port: win32_debug._DebugActiveProcess(running.pid))
        assert eventually(lambda: bool(loop.snapshot()))
        (process,) = loop.fetch()
        detach, told = win32_debug.DebugPort.detach, []

        def and_then_terminate(port: win32_debug.DebugPort, pid: int) -> None:
            detach(port, pid)
            with pytest.raises(procmon.StaleProcess) as refused:
                loop.terminate(process)
            told.append(refused.value)

        monkeypatch.setattr(win32_debug.DebugPort, "detach", and_then_terminate)
        loop.stop()
        assert len(told) == 1 and running.poll() is None
        running.communicate(b"\n", timeout=SOON)
        assert running.returncode == 0


def test_one_that_will_not_die_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import subprocess as s; l = [s.Popen('hostname', stdout=-3) for _ in range(3)]; [p.wait() for p in l]"
    with procmon.DebugGate.run(python(code), include_first=False) as gate:
        children: list[ProcessHelper] = []
        drive(gate, children.append, until=lambda: len(children) == 3)
        end, immortal = kernel.terminate_process, gate._loop._living[children[0].pid].handle

        def refuse_one(handle: int, status: int) -> None:
            if handle == immortal:
                raise OSError(1450, "TerminateProcess: no resources")
            end(handle, status)

        monkeypatch.setattr(kernel, "terminate_process", refuse_one)
        assert gate.block(*children) == [VerdictResult.DONE] * 3
        assert eventually(lambda: sorted(gate.snapshot(), key=lambda one: one.start_key)[1:] == children[:1])
    assert gate.popen is not None and gate.popen.wait(SOON) == 0  # it waits for all of them

    def logged() -> list[str]:
        return sorted(line.split("it ")[-1] for line in caplog.messages if "could not be ended" in line)

    assert eventually(lambda: logged() == ["runs", "stays frozen until the gate is closed"])


@pytest.mark.parametrize("status", [0xC0000008, 0xC0000235])
def test_an_exception_that_the_program_raises_itself_ends_it_as_without_a_gate(status: int) -> None:
    """The kernel raises the same codes for a bad handle in a debugged process, and the program must not see those."""
    code = f"import ctypes; ctypes.WinDLL('kernel32').RaiseException(ctypes.c_uint32({status}), 0, 0, None)"
    free = subprocess.run(python(code), stderr=subprocess.DEVNULL, check=False)
    with procmon.DebugGate.run(python(code), stderr=subprocess.DEVNULL) as gate:
        drive(gate)
        assert gate.popen is not None
        assert gate.popen.wait(SOON) == free.returncode
    assert free.returncode != 0  # ctypes turns it into an OSError; if the debugger hid it, there would be none


@pytest.mark.parametrize("verdict", [procmon.ALLOW, procmon.BLOCK])
def test_what_is_held_when_the_gate_is_closed_gets_the_disconnect_verdict(verdict: procmon.Verdict) -> None:
    gate = procmon.DebugGate.run("hostname", fail=verdict, stdout=subprocess.DEVNULL)
    assert gate.failures == {"on_timeout": verdict, "on_disconnect": verdict}
    assert repr(gate).endswith(", fail=block>") == (verdict is procmon.BLOCK)
    next_held(gate)
    gate.close()
    assert gate.popen is not None
    assert gate.popen.wait(SOON) & 0xFFFFFFFF == (0 if verdict is procmon.ALLOW else BLOCKED)


@pytest.mark.parametrize("include_first", [True, False])
@pytest.mark.parametrize("when", ["at once", "never"])
def test_a_command_that_windows_reports_after_the_gate_is_closed_is_blocked_if_it_is_to_be_held(
    when: str, include_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows reports a process when its first thread runs."""
    if when == "never":
        monkeypatch.setattr(win32_debug.DebugPort, "wait", lambda port, limit_ms=None: None)
        monkeypatch.setattr(win32_debug.DebugPort, "poll", lambda port: None)
    gate = procmon.DebugGate.run("hostname", fail=procmon.BLOCK, include_first=include_first, stdout=subprocess.DEVNULL)
    gate.close()
    assert gate.popen is not None
    assert gate.popen.wait(SOON) & 0xFFFFFFFF == (BLOCKED if include_first else 0)


@pytest.mark.parametrize("held", [True, False])
def test_only_a_process_that_has_run_nothing_is_ended_as_unreported(held: bool) -> None:
    """Not a later one with its pid, and not one that runs: another debugger in the tree has that."""
    with procmon.DebugGate.run(python("input()"), include_first=held, stdin=subprocess.PIPE) as gate:
        drive(gate, lambda process: None, until=lambda: len(gate.snapshot()) == 1)
        assert gate.popen is not None
        [listed] = [one for one in win32_process.running() if one.pid == gate.popen.pid]
        if not held:
            with kernel.open_process(listed.pid, unreported._EXAMINE) as process:
                assert eventually(lambda: debugged.has_begun(process))
        unreported.end_unreported(listed._replace(created=listed.created - 1))
        assert gate.popen.poll() is None
        unreported.end_unreported(listed)
        if held:
            gate.allow(*gate.snapshot())  # a held process that was killed ends when it is answered
            assert gate.popen.wait(SOON) & 0xFFFFFFFF == BLOCKED
        else:
            gate.popen.communicate(b"\n", timeout=SOON)  # type: ignore[arg-type]
            assert gate.popen.returncode == 0


@pytest.mark.parametrize("child", ["reported", "not reported", "reported without memory for its record"])
def test_a_child_that_starts_while_the_gate_is_closed_is_blocked(child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event waits in the queue, or its first thread has not run yet."""
    wait, poll = win32_debug.DebugPort.wait, win32_debug.DebugPort.poll
    created, late = list[int](), list[DebugEvent]()

    def close_as_the_child_starts(port: win32_debug.DebugPort, limit_ms: int | None = None) -> DebugEvent | None:
        event = wait(port, limit_ms)
        if event is None or event.code != win32_debug.CREATE_PROCESS:
            return event
        created.append(event.pid)
        if len(created) == 1:
            return event
        late.append(DebugEvent.from_buffer_copy(event))
        gate._loop._stopping = True
        return None

    def poll_the_child(port: win32_debug.DebugPort) -> DebugEvent | None:
        if not late or child == "not reported":
            return poll(port)
        if child == "reported without memory for its record":
            monkeypatch.setattr(debug_loop, "describe", no_memory)
        return late.pop()

    def no_memory(*arguments: object, **options: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(win32_debug.DebugPort, "wait", close_as_the_child_starts)
    monkeypatch.setattr(win32_debug.DebugPort, "poll", poll_the_child)
    code = "import subprocess, sys; sys.stdin.read(); sys.exit(subprocess.run('hostname').returncode == 0xC0000364)"
    gate = procmon.DebugGate.run(
        python(code), include_first=False, on_disconnect=procmon.BLOCK, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    drive(gate, until=lambda: len(gate.snapshot()) == 1)
    assert gate.popen is not None
    gate.popen.communicate(timeout=SOON)
    assert gate.popen.returncode == 1, "the child has run"
    gate.close()


@pytest.mark.parametrize("verdict", [procmon.ALLOW, procmon.BLOCK])
def test_ctrl_c_while_the_command_starts_gives_it_the_disconnect_verdict(verdict: procmon.Verdict) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def first(port: win32_debug.DebugPort) -> None:
        started.append(subprocess.Popen("hostname", stdout=subprocess.DEVNULL, creationflags=win32_debug.DEBUG_PROCESS))
        loop.first_pid = started[0].pid
        _thread.interrupt_main()

    loop = debug_loop.DebugLoop(on_disconnect=verdict)
    with pytest.raises(KeyboardInterrupt):
        loop.begin(first)
        time.sleep(SOON)
    assert started[0].wait(SOON) & 0xFFFFFFFF == (0 if verdict is procmon.ALLOW else BLOCKED)


EXITS = """
import atexit, sys
import procmon

def make():
    global gate
    gate = procmon.DebugGate.run([sys.executable, "-c", "open({ran!r}, 'w')"], fail=procmon.BLOCK)
    gate.wait()
    if {watched}:
        monitor = procmon.Monitor(gate, fail=procmon.BLOCK)
        monitor.subscribe(lambda process: procmon.DEFER)
        monitor.start()
        atexit.monitor = monitor

{begin}
"""


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("begin", ["make()", "make(); raise SystemExit(3)", "atexit.register(make)"])
def test_the_end_of_the_program_blocks_what_is_held_also_by_a_gate_of_an_exit_function(
    begin: str, watched: bool, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    code = EXITS.format(ran=ran.as_posix(), watched=watched, begin=begin)
    subprocess.run(python(code), timeout=SOON, check=False)
    time.sleep(0.5)
    assert not ran.exists()


def test_what_a_gate_does_when_it_is_closed_is_apart_from_its_hold_timeout() -> None:
    gate = procmon.DebugGate.run("hostname", hold_timeout=0, on_disconnect=procmon.BLOCK, stdout=subprocess.DEVNULL)
    with gate:
        assert drive(gate)[-1].exit_status == 0


def test_a_hold_timeout_that_no_clock_can_keep() -> None:
    for never in (math.inf, math.nan):
        with pytest.raises(ValueError, match="None for no limit"):
            procmon.DebugGate.run(["hostname"], hold_timeout=never)
    with procmon.DebugGate.run(["hostname"], hold_timeout=1e12, stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        time.sleep(0.1)
        assert gate.allow(process) == [VerdictResult.DONE]
        assert drive(gate)[-1].exit_status == 0


@pytest.mark.parametrize("command", [b"hostname", [b"hostname"]])
def test_a_command_that_cannot_be_named_by_text_leaves_nothing_held(command: list[str]) -> None:
    """Popen accepts bytes, our types do not: the call must fail before it starts a process."""
    with procmon.DebugGate.run(command, stdout=subprocess.DEVNULL) as gate:
        assert repr(gate).startswith("<DebugGate hostname (pid ")
        assert drive(gate)[-1].exit_status == 0


def test_no_command_at_all_is_what_popen_says_of_it() -> None:
    with pytest.raises(OSError, match="WinError"):
        procmon.DebugGate.run([])


@pytest.mark.parametrize("where", ["run", "close"])
def test_ctrl_c_ends_a_call_while_windows_does_not_return(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a program on a missing drive. Its held processes are released as soon as Windows returns."""
    popen, detach = subprocess.Popen, win32_debug.DebugPort.detach

    def attempt() -> float:
        go_on, started = threading.Event(), list[subprocess.Popen[bytes]]()

        def start(*arguments: object, **options: object) -> object:
            go_on.wait(SOON)
            started.append(popen(*arguments, **options))  # type: ignore[call-overload]
            return started[-1]

        def leave(port: win32_debug.DebugPort, pid: int) -> None:
            go_on.wait(SOON)
            detach(port, pid)

        with monkeypatch.context() as patch:
            if where == "run":
                patch.setattr(subprocess, "Popen", start)
                took = seconds_until_heard(lambda: procmon.DebugGate.run("hostname", stdout=subprocess.DEVNULL), where)
            else:
                gate = procmon.DebugGate.run("hostname", stdout=subprocess.DEVNULL)
                assert gate.wait(SOON)
                assert gate.popen is not None
                started.append(gate.popen)  # type: ignore[arg-type]
                patch.setattr(win32_debug.DebugPort, "detach", leave)
                took = seconds_until_heard(gate.close, where)
            go_on.set()
            assert eventually(lambda: started)
            assert started[0].wait(SOON) == 0
        return took

    assert_heard_soon(attempt)


def test_a_dropped_gate_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection may happen anywhere, also under a lock that the gate's thread needs, such as a log handler's."""
    monkeypatch.setattr(debug_gate, "_STOP_TIMEOUT_S", 0.2)
    lock, detach = threading.Lock(), win32_debug.DebugPort.detach

    def under_the_lock(port: win32_debug.DebugPort, pid: int) -> None:
        with lock:
            detach(port, pid)

    monkeypatch.setattr(win32_debug.DebugPort, "detach", under_the_lock)
    gate = procmon.DebugGate.run("cmd", include_first=False, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    popen, thread = gate.popen, gate._loop._thread
    assert popen is not None and popen.stdin is not None and thread is not None
    with lock:
        began = time.monotonic()
        del gate
        assert time.monotonic() - began < SOON / 2 and thread.is_alive()
    thread.join(SOON)
    assert not thread.is_alive()
    popen.communicate(timeout=SOON)


def test_a_child_whose_first_thread_runs_after_its_parent_ended_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows reports a process when its first thread runs. Its parent, the last of the tree, can end before."""
    wait, late, events = win32_debug.DebugPort.wait, list[DebugEvent](), list[int]()

    def wait_with_a_late_child(port: win32_debug.DebugPort, limit_ms: int | None = None) -> DebugEvent | None:
        if win32_debug.EXIT_PROCESS in events and late:
            return late.pop()
        event = wait(port, limit_ms)
        if event is None:
            return None
        if event.code == win32_debug.CREATE_PROCESS and win32_debug.CREATE_PROCESS in events and not late:
            late.append(DebugEvent.from_buffer_copy(event))
            kernel.terminate_process(parent.handle, 7)
            return None
        events.append(event.code)
        return event

    monkeypatch.setattr(win32_debug.DebugPort, "wait", wait_with_a_late_child)
    gate = procmon.DebugGate.run(python("import subprocess; subprocess.run('hostname')"), include_first=False)
    with gate:
        assert eventually(lambda: len(gate.snapshot()) == 1)
        parent = gate._loop._living[gate.snapshot()[0].pid]
        held = next_held(gate)
        assert held.name == "hostname.exe" and gate._loop._living.keys() == {held.pid}
        assert gate.block(held) == [VerdictResult.DONE]
        assert gate.wait(SOON)
        drive(gate)
    assert gate.popen is not None and gate.popen.wait(SOON) == 7
