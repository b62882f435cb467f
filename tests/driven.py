"""Programs that the driver holds, and other programs that own its gate, for the tests under tests/windows."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel import WineKernel

from procmon import DriverGate, ProcessHelper
from procmon.win32.kernel import is_wine
from trees import SOON

__all__ = [
    "BLOCKED",
    "SOON",
    "Programs",
    "Run",
    "controller",
    "held",
    "opened",
    "records_of",
    "telling_kernel",
]

BLOCKED = 0xC0000364

Run = Callable[..., "subprocess.Popen[Any]"]


@contextmanager
def telling_kernel() -> Iterator[Run]:
    """Starts processes that are reported to the driver."""
    if is_wine():
        with WineKernel() as kernel:
            yield kernel.run
    else:
        yield subprocess.Popen


class Programs:
    """Starts programs that create a file when they run, and exit on request."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self._run = folder, run
        self.started: dict[int, tuple[subprocess.Popen[Any], Path]] = {}

    def start(self) -> int:
        mark = self.folder / f"{len(self.started)}.txt"
        command = f'cmd /q /k "echo x> {mark}"'
        program = self._run(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.started[program.pid] = program, mark
        return program.pid

    def ran(self, pid: int) -> bool:
        return self.started[pid][1].exists()

    def all_ran(self) -> bool:
        return all(map(self.ran, self.started))

    def end(self, pid: int, status: int) -> None:
        program, _ = self.started[pid]
        if self.ran(pid):
            assert program.stdin is not None
            program.stdin.write(b"exit %d\r\n" % status)
            program.stdin.flush()
        else:
            import _winapi

            _winapi.TerminateProcess(int(program._handle), status)  # type: ignore[attr-defined]

    def exit_status(self, pid: int, timeout: float) -> int | None:
        try:
            return self.started[pid][0].wait(timeout) & 0xFFFFFFFF
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        for program, _ in self.started.values():
            program.kill()
            program.communicate()


def opened(**options: Any) -> DriverGate:
    """A gate that holds the processes of the tests, and has reported the running ones."""
    gate = DriverGate(**{"hold_timeout": None if is_wine() else 1.0, "exempt_descendants": False} | options)
    gate.fetch()
    return gate


def records_of(gate: DriverGate, pids: set[int], wanted: Callable[[ProcessHelper], bool]) -> dict[int, ProcessHelper]:
    """The first wanted record of each of these processes."""
    found: dict[int, ProcessHelper] = {}
    end = time.monotonic() + SOON
    while pids - set(found):
        assert time.monotonic() < end, f"no such record of {pids - set(found)}"
        gate.wait(0.2)
        found |= {record.pid: record for record in gate.fetch() if record.pid in pids and wanted(record)}
    return found


def held(gate: DriverGate, *pids: int) -> list[ProcessHelper]:
    found = records_of(gate, set(pids), lambda record: record.paused)
    return [found[pid] for pid in pids]


CONTROLLER = """
import sys, procmon
gate = procmon.DriverGate(hold_timeout=None, exempt_descendants=False, report_exits=False)
gate.fetch()
print("ready", flush=True)
held = 0
while held < int(sys.argv[1]):
    gate.wait()
    held += sum(process.paused for process in gate.fetch())
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def controller(count: int) -> Iterator["subprocess.Popen[str]"]:
    """Another program that owns the gate and prints when it holds `count` processes."""
    command = [sys.executable, "-c", CONTROLLER, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()
