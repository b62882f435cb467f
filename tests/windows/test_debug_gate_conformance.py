"""DebugGate passes the conformance suite on a real tree."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from conformance import Adapter, GateConformance

ROOT = r"""
import _winapi, subprocess
processes = {}

def start(mark):
    process = subprocess.Popen(f'cmd /q /k "echo x> {mark}"', stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    processes[process.pid] = process
    return process.pid

def leave(pid, status):
    processes[pid].stdin.write(b"exit %d\r\n" % status)
    processes[pid].stdin.flush()

def kill(pid, status):
    _winapi.TerminateProcess(int(processes[pid]._handle), status)

def status(pid, timeout):
    try:
        return processes[pid].wait(timeout)
    except subprocess.TimeoutExpired:
        return None

while True:
    print(eval(input()), flush=True)
"""


class DebugAdapter(Adapter):
    """The gate's tree is a Python that starts one cmd per request; a cmd that runs first creates a file."""

    def __init__(self, folder: Path) -> None:
        self.gate = self.debug = procmon.DebugGate.run(
            [sys.executable, "-c", ROOT], include_first=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = folder
        self.marks: dict[int, Path] = {}

    def order(self, code: str) -> str:
        popen = self.debug.popen
        assert popen is not None and popen.stdin is not None and popen.stdout is not None
        print(code, file=popen.stdin, flush=True)  # type: ignore[arg-type]
        return str(popen.stdout.readline()).strip()

    def start(self) -> int:
        mark = self.folder / f"{len(self.marks)}.txt"
        pid = int(self.order(f"start({str(mark)!r})"))
        self.marks[pid] = mark
        return pid

    def ran(self, pid: int) -> bool:
        return self.marks[pid].exists()

    def end(self, pid: int, status: int) -> None:
        self.order(f"{'leave' if self.ran(pid) else 'kill'}({pid}, {status})")

    def exit_status(self, pid: int, timeout: float) -> int | None:
        answer = self.order(f"status({pid}, {timeout})")
        return None if answer == "None" else int(answer) & 0xFFFFFFFF

    def close(self) -> None:
        super().close()
        for pid in self.marks:
            if self.exit_status(pid, 0) is None:
                self.order(f"kill({pid}, 1)")
        popen = self.debug.popen
        assert popen is not None
        popen.kill()
        popen.communicate()


class TestDebugGate(GateConformance):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[DebugAdapter]:
        with DebugAdapter(tmp_path) as adapter:
            yield adapter
