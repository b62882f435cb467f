"""The fixtures that several files of this ring use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from commandline import Scene
from procmon.cli import prompts


@pytest.fixture
def gate() -> Iterator[procmon.SimulatedGate]:
    """A gate. Its test ends with the monitor stopped, so that nothing is left held."""
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
