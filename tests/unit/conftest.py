"""The shared fixtures of this ring."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from commandline import Scene
from patience import PATIENCE
from procmon import DriverService
from procmon.cli import prompts
from service_manager import Computer, Manager, executable


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """`verdict_of` waits one second by default; on a busy machine a verdict may take longer."""
    verdict_of = procmon.SimulatedGate.verdict_of

    @functools.wraps(verdict_of)
    def wait(
        gate: procmon.SimulatedGate, process: procmon.ProcessHelper | int, timeout: float = PATIENCE
    ) -> procmon.Verdict | None:
        return verdict_of(gate, process, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procmon.SimulatedGate, "verdict_of", wait)
        yield


@pytest.fixture
def gate() -> Iterator[procmon.SimulatedGate]:
    """A gate. The test must stop its monitor, so that nothing stays held."""
    gate = procmon.SimulatedGate()
    yield gate
    assert gate.closed, "every test ends with its monitor stopped"
    assert [one for one in gate._processes.values() if one.paused] == []


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene whose gate is closed at the end. Its keys are pressed at once, so its questions accept them at once."""
    monkeypatch.setattr(prompts, "KEY_DEBOUNCE_S", 0.0)
    scene, wait = Scene(), procmon.Monitor.wait

    def waits(monitor: procmon.Monitor, timeout: float | None = None) -> bool:
        scene.waits.set()
        return wait(monitor, timeout)

    monkeypatch.setattr(procmon.Monitor, "wait", waits)
    monkeypatch.setattr(os, "_exit", scene.left.append)
    yield scene
    if scene.gate is not None:
        scene.gate.close()
        scene.gate.popen.wait()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy file with one rule."""
    path = tmp_path / "policy.toml"
    path.write_text('[[rule]]\nname = "no games"\nimage = "**/games/*"\nverdict = "block"\n', encoding="utf-8")
    return path


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Computer:
    """A computer with the x64 driver in the package."""
    computer = Computer(tmp_path)
    (computer.system32 / "drivers").mkdir(parents=True)
    executable(computer.packaged)
    monkeypatch.setattr("procmon.win32.machine.is_wine", lambda: False)
    monkeypatch.setattr("procmon.win32.machine.native_machine", lambda: computer.kernel)
    monkeypatch.setattr("procmon.win32.files.system_folder", lambda: str(computer.system32))
    monkeypatch.setattr("procmon.win32.file_access.descriptor", computer.descriptor)
    monkeypatch.setattr("procmon.win32.file_access.PureWindowsPath", Path)
    monkeypatch.setattr("procmon.driver.driver_file._package", lambda: tmp_path / "package")
    return computer


@pytest.fixture
def service(manager: Manager, computer: Computer) -> DriverService:
    return DriverService(manager=manager)
