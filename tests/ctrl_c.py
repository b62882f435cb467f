"""Ctrl+C in the main thread while something hangs: for the rings of both systems.

`Scene` is a monitor on a gate with two held processes, in which one call hangs. `ACTIONS` has every action of a main
thread on a monitor; `HANGS` has every call that can hang in it.
"""

import _thread
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

import procmon
from monitoring import until
from patience import PATIENCE
from procmon.monitor import engine

SOON = 2.0
"""Ctrl+C must be heard within this many seconds. Every wait and every hang in these tests is longer."""

ATTEMPTS = 3
"""On a busy machine a thread may wait this long for its turn. A wait that does not hear Ctrl+C fails each time."""


STRESS_SECONDS = 60.0 if os.environ.get("PROCMON_LONG") else 2.0


def shorten(monkeypatch: pytest.MonkeyPatch, patience: float = 0.3) -> None:
    """Shorten the limits of a stop, so that it gives up hanging calls after `patience` seconds."""
    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", patience)


class HangingGate(procmon.SimulatedGate):
    """A gate that does not return from one kind of call until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging = ""
        self.go_on = threading.Event()
        self.inside = threading.Event()

    def _call(self, kind: str) -> None:
        if kind == self.hanging:
            self.inside.set()
            self.go_on.wait(PATIENCE)

    def fetch(self) -> list[procmon.ProcessHelper]:
        self._call("fetch")
        return super().fetch()

    def snapshot(self) -> list[procmon.ProcessHelper]:
        self._call("snapshot")
        return super().snapshot()

    def allow(self, *processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        self._call("verdict")
        return super().allow(*processes)

    def block(self, *processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        self._call("verdict")
        return super().block(*processes)

    def close(self) -> None:
        self._call("close")
        super().close()


def locks_of(monitor: procmon.Monitor) -> ExitStack:
    """All locks of a monitor, as context managers."""
    stack, engine = ExitStack(), monitor._engine
    for lock in (engine._lock, engine.holds.lock, engine.workers._lock):
        stack.enter_context(lock)
    return stack


class Scene:
    """A running monitor, with `a.exe` and `b.exe` held; `hang` names the call that hangs."""

    def __init__(self, hang: str) -> None:
        self.hang = hang
        self.gate = HangingGate()
        self.write_ahead = hang == "sink ahead"
        self.written: list[procmon.Decision] = []
        self.monitor = procmon.Monitor(self.gate, default=procmon.DEFER, deadline=None, audit=self)
        self.monitor.start()
        if hang in ("callback", "callback that stops"):
            self.monitor.subscribe(self._callback)
        self.processes = [self.gate.start("a.exe"), self.gate.start("b.exe")]
        until(lambda: len(self.monitor.pending) == 2 or hang == "callback that stops", "both, held")
        self._begin_to_hang()

    def _begin_to_hang(self) -> None:
        if self.hang == "lock":
            threading.Thread(target=self._keep_the_lock, daemon=True).start()
            assert self.gate.inside.wait(PATIENCE)
        elif self.hang in ("fetch", "verdict", "snapshot", "close"):
            self.gate.hanging = self.hang
            if self.hang == "fetch":
                self.gate.wake()
                assert self.gate.inside.wait(PATIENCE)
        elif self.hang.startswith("sink"):
            self.gate.hanging = "sink"
            self.processes.append(self.gate.start("c.exe", flags=procmon.ProcessFlags.EXEMPT))

    def _keep_the_lock(self) -> None:
        with locks_of(self.monitor):
            self.gate.inside.set()
            self.gate.go_on.wait(PATIENCE)

    def _callback(self, process: procmon.ProcessHelper) -> None:
        if self.hang == "callback that stops":
            self.monitor.stop()
        self.gate.inside.set()
        self.gate.go_on.wait(PATIENCE)

    def write(self, decision: procmon.Decision) -> None:
        """The monitor writes its decisions here."""
        self.gate._call("sink")
        self.written.append(decision)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.go_on.set()
        self.monitor.stop()


def _iterate(scene: Scene) -> None:
    for _ in scene.monitor.starts(timeout=PATIENCE):
        pass


def _leave(scene: Scene) -> None:
    with scene.monitor.starts() as starts:
        scene.gate.start("late.exe")
        assert starts


ACTIONS: dict[str, Callable[[Scene], object]] = {
    "stop": lambda scene: scene.monitor.stop(),
    "with": lambda scene: scene.monitor.__exit__(None, None, None),
    "wait": lambda scene: scene.monitor.wait(PATIENCE),
    "iterate": _iterate,
    "leave an iteration": _leave,
    "allow": lambda scene: scene.monitor.allow(scene.processes[0]),
    "block": lambda scene: scene.monitor.block(scene.processes[1].pid),
    "pending": lambda scene: scene.monitor.pending,
    "history": lambda scene: scene.monitor.history,
    "statistics": lambda scene: scene.monitor.statistics,
    "repr": lambda scene: repr(scene.monitor),
    "subscribe": lambda scene: scene.monitor.subscribe(lambda process: None).cancel(),
    "on_exit": lambda scene: scene.monitor.on_exit(lambda process: None).cancel(),
    "sweep": lambda scene: scene.monitor.sweep(lambda process: None),
}

HANGS = ["callback", "callback that stops", "sink", "sink ahead", "fetch", "verdict", "snapshot", "close", "lock"]


class Keyboard:
    """Presses Ctrl+C in the main thread, from another thread, until it is heard.

    Python drops an interrupt that arrives in a callback of its garbage collector, in a ``__del__`` or in a callback of
    a weak reference, like every exception there, and reports it to `sys.unraisablehook`. Ctrl+C is then pressed again.
    `pressed` has the time of each press.
    """

    def __init__(self) -> None:
        self.pressed: list[float] = []
        self._presses: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._original = sys.unraisablehook

    def press(self, when: threading.Event | None = None) -> None:
        """Press Ctrl+C in a moment; with `when`, a moment after that event is set."""
        now = threading.Event()
        now.set()
        self._presses.put(when or now)

    def __enter__(self) -> Self:
        sys.unraisablehook = self._press_again
        threading.Thread(target=self._run, name="keyboard", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._presses.put(None)
        sys.unraisablehook = self._original

    def _run(self) -> None:
        while when := self._presses.get():
            when.wait(PATIENCE)
            time.sleep(0.02)
            self.pressed.append(time.monotonic())
            _thread.interrupt_main()  # does not wake a thread that waits for a lock; Ctrl+C on Windows does not either

    def _press_again(self, dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is KeyboardInterrupt:
            self.press()
        else:
            self._original(dropped)


def seconds_until_heard(action: Callable[[], object], what: str, begun: threading.Event | None = None) -> float:
    """Run an action, press Ctrl+C in it, and return after how many seconds it was heard.

    With `begun`, Ctrl+C is pressed when the action has set that event; otherwise it may arrive before the action on a
    busy machine. The ``try`` begins before the request to press.

    Raises: AssertionError when Ctrl+C is not heard.
    """
    end = time.monotonic() + PATIENCE
    with Keyboard() as keyboard:
        try:
            keyboard.press(begun)
            with suppress(procmon.ProcmonError):  # too late, for example
                action()
            while time.monotonic() < end:
                time.sleep(0.001)
        except KeyboardInterrupt:
            return time.monotonic() - keyboard.pressed[-1]
    raise AssertionError(f"{what}: Ctrl+C was never heard")


def assert_heard_soon(attempt: Callable[[], float]) -> None:
    """Assert that one of several attempts returns less than `SOON`: how many seconds Ctrl+C took to be heard."""
    took: list[float] = []
    while len(took) < ATTEMPTS and (not took or took[-1] >= SOON):
        took.append(attempt())
    assert took[-1] < SOON, f"Ctrl+C was heard after {took} s"


def check(hang: str, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl+C in an action is heard soon, and nothing stays held."""
    shorten(monkeypatch, patience=0.1)

    def attempt() -> float:
        with Scene(hang) as scene:
            took = seconds_until_heard(lambda: ACTIONS[action](scene), action)
            if hang == "lock":
                scene.gate.go_on.set()
            scene.monitor._engine.begin_stop()
            for process in scene.processes:
                assert scene.gate.verdict_of(process, PATIENCE) is not None, (
                    f"{process} is held, though the monitor stops"
                )
            return took

    assert_heard_soon(attempt)


# ----------------------------------------------------------------------------------------------- the end of a program

PROGRAM = """
import atexit, os, signal, sys, threading, time
from ctrl_c import Scene, engine

hang, engine.STOP_TIMEOUT_S, engine.EXIT_TIMEOUT_S = sys.argv[1], {stop_timeout}, {exit_timeout}

@atexit.register  # first, so called last
def report():
    patience = 20 if hang == "close" else 0  # no stop ends there, so that the short wait for it may end first
    held = sum(scene.gate.verdict_of(process, patience) is None for process in scene.processes)
    print("held" if held else "let go", time.time(), flush=True)

def press(number, when):
    when.wait()
    time.sleep(0.3)
    print("pressed", number, time.time(), flush=True)
    if sys.platform == "win32":
        os.kill(0, signal.CTRL_C_EVENT)  # to all of this console, of which there is only this program
    else:
        os.kill(os.getpid(), signal.SIGINT)

scene = Scene(hang)
stops, ends = threading.Event(), threading.Event()
for number, when in enumerate((stops, ends), 1):
    threading.Thread(target=press, args=(number, when), daemon=True).start()
if {presses}:
    try:
        stops.set()
        scene.monitor.stop()
    except KeyboardInterrupt:
        print("heard", time.time(), flush=True)
print("end", time.time(), flush=True)
if {presses}:
    ends.set()
"""


def program_ends(hang: str, *, stop_timeout: float, exit_timeout: float, presses: bool) -> dict[str, float]:
    """Let a program end in which a call hangs: its output lines, and how many seconds before its end each came."""
    root = Path(__file__).resolve().parents[1]
    code = PROGRAM.format(stop_timeout=stop_timeout, exit_timeout=exit_timeout, presses=presses)
    done = subprocess.run(
        [sys.executable, "-c", code, hang],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "tests")])},
        creationflags=getattr(subprocess, "CREATE_NEW_CONSOLE", 0),
        capture_output=True,
        text=True,
        timeout=120,
    )
    ended = time.time()
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    return {what: ended - float(when) for what, _, when in lines}


def check_exit(hang: str) -> None:
    """The end of a program releases held processes, and no hang delays it for long."""
    ends = hang not in ("close", "lock")  # a stop gives up on other hangs; with these the program waits
    said = program_ends(hang, stop_timeout=0.3, exit_timeout=50 if ends else 1.5, presses=False)
    assert "let go" in said or hang == "lock", "only the end of the process itself lets go"
    assert said["end"] < 40


def check_real_ctrl_c(hang: str) -> None:
    """The system's own Ctrl+C ends a hanging stop; a second one ends the hanging end of the program."""
    limit = 20.0  # seconds; a stop that does not hear it takes longer, and so does the end of the program
    said = program_ends(hang, stop_timeout=2 * limit, exit_timeout=2 * limit, presses=True)
    heard, ended = said["pressed 1"] - said["heard"], said["pressed 2"]
    assert heard < limit and ended < limit, f"{hang}: {heard:.1f} s to a stop's end, {ended:.1f} s to the program's"
