"""The checks of ``procmon-gate selftest``: each starts real processes under a gate, and examines what they did.

The docstring of a check is the promise that the check tests. A check returns what it saw, or raises `Failed` or
`NotTried`.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..gates.base import Gate
from ..gates.debug import DebugGate
from ..gates.driver import DriverGate
from ..monitor.monitor import Monitor
from ..records import STATUS_BLOCKED, DecidedBy, ProcessHelper, Verdict
from ..system.details import inspect
from ..system.listing import processes
from ..win32 import kernel
from ..win32.files import system_folder

__all__ = ["CHECKS", "DebugGround", "DriverGround", "Failed", "Ground", "NotTried", "expect"]

PATIENCE_S = 10.0
"""How long a check waits for an event, such as a hold, that takes milliseconds on an idle machine."""

EXIT_TIMEOUT_S = 10.0
"""How long a check waits for a command to end."""

CONTROLLER_TIMEOUT_S = 60.0
"""How long the controller that a check kills may take to start, and to hold a process."""

HELD_S = 0.3
"""How long a check holds a process to see that it does not run."""

ENOUGH_TO_BLOCK_A_PIPE = 300_000  # bytes

Start = Callable[..., "subprocess.Popen[Any]"]
Decide = Callable[[ProcessHelper], Verdict | None]

PARALLEL = """
import subprocess, sys
late = subprocess.Popen(["cmd", "/c", "echo ran>" + sys.argv[1]])
subprocess.call(["cmd", "/c", "echo ran>" + sys.argv[2]])
late.wait()
"""
"""Starts two programs, and waits for the second one before the first one."""

CONTROLLER = """
import sys
import procmon
kind, mark, *command = sys.argv[1:]
gate = procmon.DebugGate.run(command) if kind == "debug" else procmon.DriverGate(exempt_descendants=False)
print("ready", flush=True)
while True:
    gate.wait(1)
    for process in gate.fetch():
        if process.paused and mark in (process.command_line or ""):
            print("held", flush=True)
        elif process.paused:
            gate.allow(process)
"""
"""Holds one process until it is killed."""


class Failed(Exception):
    """A promise was not kept."""


class NotTried(Exception):
    """A check cannot be made on this machine; the text says why."""


class Expected(Exception):
    """The exception that the callback of a check raises."""


class Ground(Protocol):
    """The environment of the checks: it starts a command under a gate."""

    name: str
    kind: str

    def start(self, command: Sequence[str], **options: Any) -> tuple[Gate, "Callable[[], subprocess.Popen[Any]]"]:
        """Make the gate, and a function that returns the command, started under it."""


class DebugGround:
    """Commands under a `DebugGate`."""

    name, kind = "DebugGate", "debug"

    def start(self, command: Sequence[str], **options: Any) -> tuple[Gate, "Callable[[], subprocess.Popen[Any]]"]:
        """Run the command under a gate."""
        gate = DebugGate.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        assert gate.popen is not None
        popen = gate.popen
        return gate, lambda: popen


class DriverGround:
    """Commands that the driver holds. `popen` starts them; under Wine it must notify the driver of each process."""

    name, kind = "DriverGate", "driver"

    def __init__(self, popen: Start | None = None) -> None:
        self._popen = popen or subprocess.Popen
        self.is_told = popen is not None or not kernel.is_wine()

    def start(self, command: Sequence[str], **options: Any) -> tuple[Gate, "Callable[[], subprocess.Popen[Any]]"]:
        """Open the gate, and return a function that starts the command."""
        gate = DriverGate(exempt_descendants=False, **options)
        return gate, lambda: self.spawn(command)

    def spawn(self, command: Sequence[str]) -> "subprocess.Popen[Any]":
        """Start a command."""
        return self._popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Scene:
    """One command under a gate: `decide` decides about its processes; all others of the machine are allowed."""

    def __init__(self, folder: Path, decide: Decide) -> None:
        self.held: list[ProcessHelper] = []
        self.exits: list[ProcessHelper] = []
        self._mark = str(folder).lower()
        self._decide = decide

    @contextmanager
    def running(self, ground: Ground, command: Sequence[str], **options: Any) -> "Iterator[Scene]":
        """Start the command; at the end none of its processes is held."""
        gate, begin = ground.start(command, **options)
        self.monitor = Monitor(gate)
        self.monitor.subscribe(self._callback)
        self.monitor.on_exit(self._exited)
        with self.monitor:
            self.command = begin()
            try:
                yield self
            finally:
                self.monitor.stop()
                if self.command.poll() is None:
                    self.command.kill()

    def status(self) -> int:
        """Wait for the command; return its exit status."""
        return self.command.wait(EXIT_TIMEOUT_S) & 0xFFFFFFFF

    def decided(self, pid: int) -> tuple[Verdict, DecidedBy] | None:
        """The last decision about a process."""
        found = [(each.verdict, each.by) for each in self.monitor.history if each.process.pid == pid]
        return found[-1] if found else None

    def _callback(self, process: ProcessHelper) -> Verdict | None:
        mine = self._mark in (process.command_line or "").lower()
        if not mine and process.parent_pid not in {each.pid for each in self.held}:
            return Verdict.ALLOW
        self.held.append(process)
        return self._decide(process)

    def _exited(self, process: ProcessHelper) -> None:
        if process in self.held:
            self.exits.append(process)


# ------------------------------------------------------------------------------------------------------ the checks


def hold(ground: Ground, folder: Path) -> str:
    """a new process runs no instruction before its verdict, and runs after it"""
    ran = folder / "ran"
    with Scene(folder, lambda _: Verdict.DEFER).running(ground, _writes(ran)) as scene:
        [process] = _until(lambda: scene.held, "no process was held")
        time.sleep(HELD_S)
        expect(not ran.exists(), "the process ran while it was held")
        scene.monitor.allow(process)
        expect(scene.status() == 0 and ran.exists(), "the process did not run after it was allowed")
        return f"held for {scene.monitor.history[-1].held_for:.2f} s"


def allow(ground: Ground, folder: Path) -> str:
    """an allowed process keeps its own exit status"""
    with Scene(folder, lambda _: Verdict.ALLOW).running(ground, [*_writes(folder / "ran"), "&", "exit", "7"]) as scene:
        status = scene.status()
        expect(status == 7, f"the exit status is 0x{status:X}, not 7")
        _until(lambda: scene.exits, "the exit was not reported")
        expect(scene.exits[0].exit_status == 7, f"the record says {scene.exits[0]!r}")
        return "7"


def block(ground: Ground, folder: Path) -> str:
    """a blocked process runs no instruction, and its parent sees the status 0xC0000364"""
    ran = folder / "ran"
    with Scene(folder, lambda _: Verdict.BLOCK).running(ground, _writes(ran)) as scene:
        status = scene.status()
        expect(status == STATUS_BLOCKED, f"the exit status is 0x{status:X}")
        expect(not ran.exists(), "the process ran")
        return f"0x{status:X}"


def tree(ground: Ground, folder: Path) -> str:
    """every process of a tree is held, each with its parent"""
    command = ["cmd", "/c", "cmd", "/c", f"hostname>{folder / 'name'}"]
    with Scene(folder, lambda _: Verdict.ALLOW).running(ground, command) as scene:
        expect(scene.status() == 0, "the command failed")
        names = [process.name for process in scene.held]
        expect(names == ["cmd.exe", "cmd.exe", "hostname.exe"], f"held: {', '.join(names)}")
        for parent, child in zip(scene.held, scene.held[1:], strict=False):
            expect(child.parent_pid == parent.pid, f"{child!r} has another parent than {parent!r}")
        return " > ".join(names)


def defer(ground: Ground, folder: Path) -> str:
    """one held process does not delay another"""
    late, other = folder / "late", folder / "other"

    def decide(process: ProcessHelper) -> Verdict:
        is_late = process.name == "cmd.exe" and str(late).lower() in (process.command_line or "").lower()
        return Verdict.DEFER if is_late else Verdict.ALLOW

    with Scene(folder, decide).running(ground, _python(PARALLEL, late, other)) as scene:
        _until(other.exists, "the other process did not run")
        expect(not late.exists(), "the held process ran")
        [process] = scene.monitor.pending
        scene.monitor.allow(process)
        expect(scene.status() == 0 and late.exists(), "the held process did not run after it was allowed")
        return ""


def wow64(ground: Ground, folder: Path) -> str:
    """32-bit programs are held and blocked like others"""
    program = Path(system_folder()).with_name("SysWOW64") / "cmd.exe"
    if not program.is_file():
        raise NotTried("this Windows has no 32-bit programs")
    ran = folder / "ran"
    command = [str(program), *_writes(ran)[1:]]
    with Scene(folder, lambda _: Verdict.BLOCK).running(ground, command) as scene:
        expect(scene.status() == STATUS_BLOCKED and not ran.exists(), "the process ran")
        return scene.held[0].image_name


def timeout(ground: Ground, folder: Path) -> str:
    """a process that is not decided in time gets the gate's own verdict"""
    ran, limit = folder / "ran", 0.5
    scene = Scene(folder, lambda _: Verdict.DEFER)
    with scene.running(ground, _writes(ran), hold_timeout=limit, on_timeout=Verdict.BLOCK):
        began = time.monotonic()
        expect(scene.status() == STATUS_BLOCKED and not ran.exists(), "the process ran")
        passed = time.monotonic() - began
        verdict = _until(lambda: scene.decided(scene.held[0].pid), "there is no decision about it")
        expect(verdict == (Verdict.BLOCK, DecidedBy.GATE_TIMEOUT), f"the decision is {verdict}")
        return f"{passed:.2f} s, with a limit of {limit} s"


def error(ground: Ground, folder: Path) -> str:
    """a callback that raises does not leave the process held"""

    def fail(_: ProcessHelper) -> Verdict:
        raise Expected

    with Scene(folder, fail).running(ground, _writes(folder / "ran")) as scene:
        expect(scene.status() == 0, "the process did not run")
        expect(bool(scene.held), "no process was held")
        return scene.monitor.history[0].by.value


def stop(ground: Ground, folder: Path) -> str:
    """nothing stays held when the monitor stops"""
    with Scene(folder, lambda _: Verdict.DEFER).running(ground, _writes(folder / "ran")) as scene:
        _until(lambda: scene.held, "no process was held")
        scene.monitor.stop()
        expect(scene.status() == 0, "the process did not run")
        return ""


def killed(ground: Ground, folder: Path) -> str:
    """what a controller holds goes on when the controller is killed"""
    ran = folder / "ran"
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = _python(CONTROLLER, ground.kind, "echo ran>", *_writes(ran))
    with ExitStack() as stack:
        controller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        stack.callback(controller.wait)
        stack.callback(controller.kill)
        assert controller.stdout is not None
        stack.callback(controller.stdout.close)
        killer = threading.Timer(CONTROLLER_TIMEOUT_S, controller.kill)  # ends the reads below
        stack.callback(killer.cancel)
        killer.start()
        expect(controller.stdout.readline() == "ready\n", "the controller did not start")
        if isinstance(ground, DriverGround):
            stack.callback(ground.spawn(_writes(ran)).wait, EXIT_TIMEOUT_S)
        expect(controller.stdout.readline() == "held\n", "no process was held")
        expect(not ran.exists(), "the process ran while it was held")
        controller.kill()
        began = time.monotonic()
        _until(ran.exists, "the process did not run")
        return f"{time.monotonic() - began:.2f} s after it was killed"


def output(ground: Ground, folder: Path) -> str:
    """a command that prints more than a pipe holds ends"""
    if isinstance(ground, DriverGround):
        raise NotTried("pipes are no concern of the driver")
    text = folder / "text"
    text.write_bytes(b"x" * ENOUGH_TO_BLOCK_A_PIPE)
    gate = DebugGate.run(["cmd", "/c", "type", str(text)], stdout=subprocess.PIPE)
    with Monitor(gate):
        printed, _ = gate.communicate(EXIT_TIMEOUT_S)
    expect(printed is not None and len(printed) == ENOUGH_TO_BLOCK_A_PIPE, "a part of the output is missing")
    return f"{ENOUGH_TO_BLOCK_A_PIPE:,} bytes"


def details(ground: Ground, folder: Path) -> str:
    """a running process is found, and its details are known"""
    [me] = [process for process in processes() if process.pid == os.getpid()]
    known = inspect(me)
    facts = {
        "user": known.user, "session": known.session, "command line": known.command_line, "sha256": known.sha256,
    }  # fmt: skip
    missing = [name for name, value in facts.items() if value is None]
    expect(not missing, f"not known: {', '.join(missing)}; {known.reasons}")
    return f"{me.name}, {len(processes())} processes"


def _writes(path: Path) -> list[str]:
    return ["cmd", "/c", f"echo ran>{path}"]


def _python(code: str, *arguments: object) -> list[str]:
    if getattr(sys, "frozen", False):
        raise NotTried("this is a frozen program, and there is no Python beside it")
    return [sys.executable, "-c", code, *map(str, arguments)]


def expect(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Failed(otherwise)


def _until(found: Callable[[], Any], otherwise: str) -> Any:
    """Wait until `found` returns a true value, and return it."""
    end = time.monotonic() + PATIENCE_S
    while not (result := found()):
        expect(time.monotonic() < end, otherwise)
        time.sleep(0.01)
    return result


CHECKS = (hold, allow, block, tree, defer, wow64, timeout, error, stop, killed, output, details)
