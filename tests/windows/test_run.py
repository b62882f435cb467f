"""procmon.run and procmon.guard on real processes."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import procmon
from ctrl_c import Keyboard
from patience import PATIENCE
from procmon import ALLOW, BLOCK, ProcessHelper, Verdict
from procmon.win32.debug import DebugEvent, DebugPort
from procmon.win32.kernel import is_wine
from trees import BLOCKED, SOON, eventually, python

KERNEL = Path(__file__).resolve().parents[2] / "driver" / "wine" / "kernel.py"
SLEEPS = "import time; time.sleep(600)"
PARENT_OF_A_SLEEPER = (
    f"import subprocess, sys; print('hi', flush=True); subprocess.run([sys.executable, '-c', {SLEEPS!r}])"
)


def no_whoami(process: ProcessHelper) -> Verdict | None:
    return BLOCK if process.name == "whoami.exe" else None


def test_it_decides_and_says_what_came_of_it() -> None:
    result = procmon.run(["cmd", "/c", "hostname & whoami & exit 7"], no_whoami, capture_output=True, text=True)
    assert isinstance(result.stdout, str) and len(result.stdout.split()) == 1
    assert (result.returncode, result.stderr) == (7, "")
    assert [(each.process.name, each.verdict) for each in result.decisions] == [
        ("cmd.exe", ALLOW), ("hostname.exe", ALLOW), ("whoami.exe", BLOCK),
    ]  # fmt: skip
    assert [each.process.name for each in result.blocked] == ["whoami.exe"]
    assert repr(result) == "<RunResult status 7: 2 allowed, 1 blocked>"
    [root] = result.tree.roots
    assert [(each.name, each.exit_status) for each in result.tree.children(root)] == [
        ("hostname.exe", 0), ("whoami.exe", BLOCKED),
    ]  # fmt: skip
    assert all(each.lifetime is not None for each in result.tree)


def test_output_that_no_pipe_holds_does_not_block_it() -> None:
    code = "import sys; sys.stderr.write('e' * 300_000); sys.stdout.write('o' * 300_000)"
    result = procmon.run(python(code), capture_output=True, timeout=SOON)
    assert (result.stdout, result.stderr) == (b"o" * 300_000, b"e" * 300_000)


def test_it_waits_for_what_the_command_leaves_running() -> None:
    late = "import subprocess; subprocess.call('whoami')"
    left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}])"
    result = procmon.run(python(left), no_whoami, timeout=SOON)
    assert [each.process.name for each in result.blocked] == ["whoami.exe"]


def test_a_timeout_ends_the_tree() -> None:
    started: list[ProcessHelper] = []
    timeout = 3.0
    while len(started) < 2 and timeout < PATIENCE:  # a busy machine may take longer to start both
        started.clear()
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            procmon.run(python(PARENT_OF_A_SLEEPER), started.append, capture_output=True, text=True, timeout=timeout)
        assert caught.value.timeout == timeout
        timeout *= 2
    assert str(caught.value.stdout) == "hi\n"
    assert len(started) == 2
    assert eventually(lambda: not {each.pid for each in started} & {each.pid for each in procmon.processes()})


def test_a_timeout_ends_a_command_that_windows_has_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows reports a process when its first thread runs."""
    wait, start, gates = DebugPort.wait, procmon.DebugGate.run, list[procmon.DebugGate]()

    def wait_late(port: DebugPort, limit_ms: int | None = None) -> DebugEvent | None:
        time.sleep(0.2)
        return wait(port, limit_ms)

    def keep(*arguments: Any, **options: Any) -> procmon.DebugGate:
        gates.append(start(*arguments, **options))
        return gates[0]

    monkeypatch.setattr(DebugPort, "wait", wait_late)
    monkeypatch.setattr(procmon.DebugGate, "run", keep)
    with pytest.raises(subprocess.TimeoutExpired):
        procmon.run(python("import time; time.sleep(2)"), timeout=0)
    assert gates[0].popen is not None
    assert gates[0].popen.wait(SOON) & 0xFFFFFFFF == BLOCKED


def test_ctrl_c_ends_the_tree() -> None:
    started: list[ProcessHelper] = []

    def decide(process: ProcessHelper) -> None:
        started.append(process)
        if len(started) == 2:
            keyboard.press()

    with Keyboard() as keyboard, pytest.raises(KeyboardInterrupt):
        procmon.run(python(PARENT_OF_A_SLEEPER), decide, capture_output=True)
    assert eventually(lambda: not {each.pid for each in started} & {each.pid for each in procmon.processes()})


def test_ctrl_c_while_the_monitor_starts_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor has closed the gate by then, which lets the command go."""
    start, gates = procmon.Monitor.start, list[procmon.DebugGate]()

    def interrupted(monitor: procmon.Monitor) -> procmon.Monitor:
        start(monitor)
        assert isinstance(monitor.gate, procmon.DebugGate)
        gates.append(monitor.gate)
        monitor.stop()
        raise KeyboardInterrupt

    monkeypatch.setattr(procmon.Monitor, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        procmon.run(python("import time; time.sleep(3600)"), capture_output=True)
    assert gates[0].popen is not None
    assert gates[0].popen.wait(SOON) == 1


def test_check_raises_for_a_status_that_is_not_0() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        procmon.run(python("print('hi'); raise SystemExit(3)"), capture_output=True, text=True, check=True)
    assert (caught.value.returncode, caught.value.output) == (3, "hi\n")


def test_a_command_that_is_blocked_has_the_status_of_a_policy() -> None:
    assert procmon.run("whoami", default=BLOCK).returncode == BLOCKED


def test_a_command_that_is_not_there_raises_what_popen_raises() -> None:
    with pytest.raises(FileNotFoundError):
        procmon.run("there-is-no-such-command")


def test_communicate_can_be_called_again_after_its_timeout(tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    code = f"import os, time\nprint('one', flush=True)\n{wait}\nprint('two')"
    gate = procmon.DebugGate.run(python(code), stdout=subprocess.PIPE, text=True)
    with procmon.Monitor(gate):
        with pytest.raises(subprocess.TimeoutExpired):
            gate.communicate(timeout=0.5)
        go.touch()
        assert gate.communicate(timeout=SOON) == ("one\ntwo\n", None)


def test_guard_installs_what_is_missing_and_undoes_it() -> None:
    service = procmon.DriverService()
    assert service.status().state is procmon.DriverState.NOT_INSTALLED
    with procmon.guard(no_whoami) as monitor:
        assert service.status().running
        # Processes that this one starts are never held; a descendant whose parent the driver does not know is held.
        whoami = [sys.executable, str(KERNEL), "--", "whoami"] if is_wine() else ["whoami"]
        status = subprocess.run(whoami, stdout=subprocess.DEVNULL, timeout=SOON, check=False).returncode
        assert status & 0xFFFFFFFF == (BLOCKED if is_wine() else 0)
    assert service.status().state is procmon.DriverState.NOT_INSTALLED
    assert not monitor.running


def test_guard_in_a_coroutine_installs_what_is_missing_and_undoes_it() -> None:
    service = procmon.DriverService()

    async def main() -> None:
        async with procmon.guard(no_whoami) as monitor:
            assert service.status().running and monitor.running
            assert not await monitor.wait_async(0.01)

    asyncio.run(main())
    assert service.status().state is procmon.DriverState.NOT_INSTALLED
