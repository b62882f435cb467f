"""Shared by the tests of the command line: a gate over a real command, keys, and a scene with both."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import procmon
from procmon import ALLOW, SimulatedGate, Verdict
from procmon.cli import main
from procmon.cli.prompts import Keyboard
from procmon.cli.screen import Screen

Script = Callable[["CommandGate"], None]


class CommandGate(SimulatedGate):
    """A gate over a real command; a script invents the processes that the command starts."""

    def __init__(self, script: Script, before: Script, status: int, fail: Verdict | None) -> None:
        super().__init__("scripted", fail=fail)
        self.popen = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
        before(self)
        self._script = threading.Thread(target=self._play, args=(script,), daemon=True)
        self._script.start()

    def _play(self, script: Script) -> None:
        with suppress(procmon.GateClosed):  # the command line has given up
            try:
                script(self)
                self.end()
                time.sleep(10)
            finally:
                self.close()  # releases held processes: the test must fail, not hang


class Keys:
    """A keyboard that returns one of these keys at each poll, and then none."""

    def __init__(self, keys: str, looked: threading.Event) -> None:
        self._keys = iter(keys)
        self._looked = looked

    def key(self, timeout: float) -> str:
        self._looked.set()
        time.sleep(0.01)
        return next(self._keys, "")


class Scene:
    """The set-up of a test of a live command, and what the test sees."""

    def __init__(self) -> None:
        self.gate: CommandGate | None = None
        self.asked: dict[str, object] = {}
        """Of the gate."""
        self.waits = threading.Event()
        """The command has started, and waits for its end."""
        self.questions = threading.Event()
        """A question is open."""
        self.left: list[int] = []
        """The statuses of exits that bypass Python's own end, which would wait for hanging threads."""

    def gates(
        self, script: Script, *, before: Script = lambda _: None, status: int = 0, keys: str | None = None
    ) -> main.Gates:
        """Gates on which `script` starts processes in a thread; `before` first adds, without a thread, running ones."""

        def run(
            command: Sequence[str], *, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool
        ) -> CommandGate:
            self.asked = {"command": list(command), "hold": hold_timeout, "fail": fail, "check": check_before_release}
            self.gate = CommandGate(script, before, status, fail)
            return self.gate

        def driver(*, hold_timeout: float | None, fail: Verdict | None, check_before_release: bool) -> CommandGate:
            return run([], hold_timeout=hold_timeout, fail=fail, check_before_release=check_before_release)

        def keyboard(_: Screen) -> Keyboard | None:
            return None if keys is None else Keys(keys, self.questions)

        return main.Gates(run=run, driver=driver, keyboard=keyboard)


ASKING = '[[rule]]\nname = "new tools"\nimage = "**/tools/*"\nverdict = "ask"\n'


def two(gate: CommandGate) -> None:
    """A tool and a game, one after the other; the game's path is the one that `policy` blocks."""
    for image in ("c:/tools/a.exe", "c:/games/chess.exe"):
        process = gate.start(image, command_line=f'"{image}" /x')
        if gate.verdict_of(process) is ALLOW:
            gate.exit(process, 3)


def without_time(text: str) -> list[str]:
    """The lines that were printed."""
    return [line[9:] if line[2:3] == ":" else line for line in text.splitlines()]
