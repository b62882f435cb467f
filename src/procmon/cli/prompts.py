"""Questions on the terminal: may this process run? One at a time, one key for each, with the time left."""

import os
import sys
import time
from collections import deque
from datetime import UTC, datetime
from typing import Protocol

from ..errors import GateClosed, ProcmonError
from ..monitor.monitor import Monitor
from ..records import ProcessHelper, Verdict, printable
from ..win32.console import is_console, read_key
from .screen import Screen, question_lines
from .text import cut, short_path, width

__all__ = ["Keyboard", "Questions", "open_keyboard"]

TICK_S = 0.1

KEY_DEBOUNCE_S = 0.4
"""How long a new question ignores keys: they were pressed for the question before, or for no question."""

CONSOLE_HOSTS = {"conhost.exe", "openconsole.exe", "winpty-agent.exe"}
"""What a terminal starts for each of its tabs, and may wait for."""


class Keyboard(Protocol):
    """Where the keys come from."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""


class ConsoleKeyboard:
    """The keys of a Windows console; they are read only while there is a question."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""
        return read_key(timeout)


def open_keyboard(screen: Screen) -> Keyboard | None:
    """Return the console, or None where questions cannot be shown or answered; with JSON lines none are asked."""
    asks = screen.terminal and not screen.json_lines and is_console(sys.stdin)
    return ConsoleKeyboard() if asks and sys.platform == "win32" else None


class Questions:
    """Asks about held processes, one after the other; `run` does so in a thread of its own."""

    def __init__(self, monitor: Monitor, screen: Screen, keyboard: Keyboard, fail: Verdict) -> None:
        self._monitor = monitor
        self._screen = screen
        self._keyboard = keyboard
        self._fail = fail
        self._waiting: deque[tuple[ProcessHelper, str, float]] = deque()  # with the rule, and since when
        self._above = _self_and_above(monitor.gate.snapshot())
        self.error: OSError | None = None
        """Why no further question can be asked."""

    def needs(self, process: ProcessHelper) -> bool:
        """Whether the terminal may have to wait for this process before it can show a question."""
        starters = {process.parent_pid, process.creator_pid}
        return process.name in CONSOLE_HOSTS and not self._above.isdisjoint(starters)

    def add(self, process: ProcessHelper, rule: str) -> None:
        """Queue a question about a process."""
        self._waiting.append((process, rule, time.monotonic()))

    def run(self) -> None:
        """Ask one question after the other, each until it is answered here or elsewhere."""
        try:
            while self._monitor.running:
                if self._waiting:
                    self._ask_about(*self._waiting.popleft())
                else:
                    time.sleep(0.05)
        except GateClosed:
            pass  # there is nothing left to ask about
        except OSError as error:
            self.error = error
        self._screen.ask("")

    def _ask_about(self, process: ProcessHelper, rule: str, since: float) -> None:
        if process not in self._monitor.pending:
            return
        started_by = self._parent_of(process)
        self._screen.line(question_lines(process, datetime.now(UTC), started_by, rule, self._screen))
        deaf_until = time.monotonic() + KEY_DEBOUNCE_S
        shown, verdict = "", None
        while verdict is None and self._monitor.running and process in self._monitor.pending:
            if (question := self._question(process, since)) != shown:
                self._screen.ask(question)
                shown = question
            key = self._keyboard.key(TICK_S).lower()
            if time.monotonic() >= deaf_until:
                verdict = {"y": Verdict.ALLOW, "n": Verdict.BLOCK}.get(key)
        self._screen.ask("")
        if verdict is not None:
            try:
                (self._monitor.allow if verdict is Verdict.ALLOW else self._monitor.block)(process)
            except ProcmonError as error:
                self._screen.note(f"too late: {error}")

    def _parent_of(self, process: ProcessHelper) -> str:
        for parent in self._monitor.gate.snapshot():
            if parent.pid == process.parent_pid and parent.start_key < process.start_key:
                return f"{printable(parent.name)} ({parent.pid})"
        return f"process {process.parent_pid}"

    def _question(self, process: ProcessHelper, since: float) -> str:
        then = ""
        if process.hold_left is not None:
            seconds = max(0, round(process.hold_left - (time.monotonic() - since)))
            then = f"{seconds} s left, then {self._fail.value}"
        more = f"{len(self._waiting)} more waiting" if self._waiting else ""
        end = f" ({process.pid}) run? [y/n] {'; '.join(filter(None, (then, more)))} "
        name, columns = printable(process.name), self._screen.columns
        if columns is None:
            return f"  let {name}{end}"
        return cut(f"  let {short_path(name, max(12, columns - width(end) - 6))}{end}", columns)


def _self_and_above(running: list[ProcessHelper]) -> set[int]:
    """The pids of this program and of its ancestors; the terminal is among them."""
    parents = {process.pid: process.parent_pid for process in running}
    above: set[int] = set()
    pid = os.getpid()
    while pid in parents and pid not in above:
        above.add(pid)
        pid = parents[pid]
    return above
