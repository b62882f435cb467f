"""DebugGate when something goes wrong, or goes at the wrong moment: nobody else is harmed, and nobody stays held."""

import subprocess

import pytest

import procmon
from procmon import Answer, ProcessHelper
from procmon.gates import _debug_loop
from procmon.win32 import debug as win32_debug
from procmon.win32 import kernel

pytest.register_assert_rewrite("trees")
from trees import SOON, drive, eventually, python  # noqa: E402


def test_a_process_that_the_gate_has_left_is_beyond_terminate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handle was the debugger's: the value may be another process' by now."""
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as running:
        loop = _debug_loop.DebugLoop(None, procmon.ALLOW, include_first=True, attached_pid=running.pid)
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
        assert gate.block(*children) == [Answer.DONE] * 3
        assert eventually(lambda: sorted(gate.snapshot(), key=lambda one: one.start_key)[1:] == children[:1])
    assert gate.popen is not None and gate.popen.wait(SOON) == 0  # it waits for all of them
    assert [line.split("it ")[-1] for line in caplog.messages if "could not be ended" in line] == [
        "stays frozen until the gate is closed", "runs",
    ]  # fmt: skip
