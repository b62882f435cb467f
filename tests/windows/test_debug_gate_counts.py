"""DebugGate's calls to Windows for each new process: counted, because times depend on the machine."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import procmon
from patience import PATIENCE
from procmon.win32 import memory, nt
from procmon.win32 import process as win32_process

CHILDREN = 5
QUESTIONS = {
    "_NtQueryInformationProcess": nt,
    "_ReadProcessMemory": memory,
    "_WriteProcessMemory": memory,
    "_QueryFullProcessImageNameW": win32_process,
    "_GetProcessTimes": win32_process,
}


def counted(function: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: object) -> object:
        calls[name] += 1
        return function(*arguments)

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls from now on that read a process, by name."""
    found: Counter[str] = Counter()
    for name, module in QUESTIONS.items():
        monkeypatch.setattr(module, name, counted(getattr(module, name), name, found))
    return found


def started(command: list[str]) -> int:
    """The number of processes in the tree of a command."""
    starts = 0

    def count(process: procmon.ProcessHelper) -> procmon.Verdict:
        nonlocal starts
        starts += 1
        return procmon.ALLOW

    monitor = procmon.Monitor(procmon.DebugGate.run(command))
    monitor.subscribe(count)
    with monitor:
        assert monitor.wait(PATIENCE)
    return starts


def test_each_new_process_is_asked_seven_times(calls: Counter[str]) -> None:
    """Twice for numbers and names, twice for its parameters, once each for its path, its times and the mark."""
    starts = started(["cmd", "/c", " & ".join(["hostname >nul"] * CHILDREN)])
    assert starts == CHILDREN + 1
    assert calls == {
        "_NtQueryInformationProcess": 2 * starts,  # its numbers; its native path
        "_QueryFullProcessImageNameW": starts,
        "_GetProcessTimes": starts,
        "_WriteProcessMemory": starts,
        "_ReadProcessMemory": 2 * starts,  # where its parameters are; these
    }


def test_a_command_line_that_does_not_fit_beside_its_parameters_is_one_read_more(calls: Counter[str]) -> None:
    assert started(["cmd", "/c", f"rem {'x' * 8000}"]) == 1
    assert calls["_ReadProcessMemory"] == 3
