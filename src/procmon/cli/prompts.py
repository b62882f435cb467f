"""Questions on the terminal: may this process run? One at a time, with the time left; some answers are kept."""

import os
import sys
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Protocol

from ..errors import GateClosed, PolicyError, ProcmonError
from ..monitor.monitor import Monitor
from ..records import ProcessHelper, Verdict
from ..system.identity import can_be_parent
from ..util.printable import printable
from ..win32.console import is_console, read_key
from .answers import HOUR, KINDS, Answers, Inspect
from .screen import Screen, question_lines
from .text import cut, short_path, width

__all__ = ["Keyboard", "Questions", "open_keyboard"]

TICK_S = 0.1

KEY_DEBOUNCE_S = 0.4
"""How long a new question ignores keys: they were pressed for the previous question, or for none."""

CONSOLE_HOSTS = {"conhost.exe", "openconsole.exe", "winpty-agent.exe"}
"""Programs that a terminal starts for each of its tabs, and may wait for."""


VERDICTS = {"y": Verdict.ALLOW, "n": Verdict.BLOCK, "a": Verdict.ALLOW, "v": Verdict.BLOCK, "1": Verdict.ALLOW}
"""The verdict that each key gives."""

HELP = """\
y  let it run          a  always let it run     1  let it run, and for an hour whatever has its path
n  block it            v  never let it run      i  signer, hash, user and parents
a and v then ask how to identify it: p its path, s its signer, h its hash"""

HELP_WITHOUT_ANSWERS = """\
y  let it run          n  block it              i  signer, hash, user and parents
With --answers FILE there are also a, always; v, never; 1, for an hour."""

DETAILS = ("signer", "product", "sha256", "user", "integrity", "original_file_name", "origin")
"""The details that ``i`` shows, where they are known."""


class Keyboard(Protocol):
    """The source of keys."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""


class ConsoleKeyboard:
    """The keys of a Windows console, which are read only while there is a question."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""
        return read_key(timeout)


def open_keyboard(screen: Screen) -> Keyboard | None:
    """Return the console; None where questions cannot be shown or answered, and with JSON lines."""
    asks = screen.terminal and not screen.json_lines and is_console(sys.stdin)
    return ConsoleKeyboard() if asks and sys.platform == "win32" else None


class Questions:
    """Asks about held processes, one after the other; `run` does so in a thread of its own."""

    def __init__(
        self,
        monitor: Monitor,
        screen: Screen,
        keyboard: Keyboard,
        fail: Verdict,
        *,
        answers: Answers | None,
        inspect: Inspect,
    ) -> None:
        self._monitor = monitor
        self._answers = answers
        self._inspect = inspect
        self._screen = screen
        self._keyboard = keyboard
        self._fail = fail
        self._waiting: deque[tuple[ProcessHelper, str, str, float]] = deque()  # with rule, message, time of `add`
        self._above = _self_and_above(monitor.gate.snapshot())
        self.error: Exception | None = None
        """The error after which no further question can be asked."""

    def needs(self, process: ProcessHelper) -> bool:
        """Whether the terminal may have to wait for this process before it can show a question."""
        starters = {process.parent_pid, process.creator_pid}
        return process.name in CONSOLE_HOSTS and not self._above.isdisjoint(starters)

    def add(self, process: ProcessHelper, rule: str, message: str = "") -> None:
        """Queue a question about a process; `message` is the rule's message to the person who is asked."""
        self._waiting.append((process, rule, message, time.monotonic()))

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
        except Exception as error:  # it ends the session, which must not go on when it cannot ask
            self.error = error
        self._screen.ask("")

    def _ask_about(self, process: ProcessHelper, rule: str, message: str, since: float) -> None:
        if process not in self._monitor.pending:
            return
        kept = self._answers(process) if self._answers is not None else None
        if kept is not None and kept.verdict is not Verdict.DEFER:
            self._decide(process, kept.verdict)  # the answer to an earlier question is an answer to this one
            return
        started_by = self._parent_of(process)
        self._screen.line(question_lines(process, datetime.now(UTC), started_by, rule, self._screen, message))
        keys_count_from = time.monotonic() + KEY_DEBOUNCE_S
        shown, always, verdict = "", "", None
        while verdict is None and self._monitor.running and process in self._monitor.pending:
            if (question := self._question(process, since, always)) != shown:
                self._screen.ask(question)
                shown = question
            key = self._keyboard.key(TICK_S).lower()
            if key and time.monotonic() >= keys_count_from:
                always, verdict = self._answered(process, key, always)
        self._screen.ask("")
        if verdict is not None:
            self._decide(process, verdict)

    def _decide(self, process: ProcessHelper, verdict: Verdict) -> None:
        try:
            (self._monitor.allow if verdict is Verdict.ALLOW else self._monitor.block)(process)
        except ProcmonError as error:
            self._screen.note(f"too late: {error}")

    def _answered(self, process: ProcessHelper, key: str, always: str) -> tuple[str, Verdict | None]:
        """The effect of a key, after ``a`` or ``v`` (`always`): the next `always`, and the verdict if there is one."""
        if always:
            if key not in KINDS:
                return "", None  # back to the question
            kept = self._keep(process, VERDICTS[always], key)
            return ("", VERDICTS[always]) if kept else (always, None)
        if key in "av1" and self._answers is None:
            self._screen.note("answers are kept in a file; begin with --answers FILE")
        elif key == "1":
            return ("", Verdict.ALLOW) if self._keep(process, Verdict.ALLOW, "p", HOUR) else ("", None)
        elif key in "av":
            return key, None
        elif key in VERDICTS:
            return "", VERDICTS[key]
        elif key == "i":
            self._screen.line("\n".join(self._details(process)))
        elif key == "?":
            self._screen.line(HELP if self._answers is not None else HELP_WITHOUT_ANSWERS)
        return "", None

    def _keep(self, process: ProcessHelper, verdict: Verdict, kind: str, lasts: timedelta | None = None) -> bool:
        assert self._answers is not None
        try:
            name = self._answers.keep(process, verdict, kind, at=datetime.now(UTC), lasts=lasts)
        except PolicyError as error:
            self._screen.note(str(error))
            return False
        self._screen.note(f"kept in {self._answers.path}: {name}")
        return True

    def _details(self, process: ProcessHelper) -> list[str]:
        """The known details of the program, and its ancestors."""
        lines = []
        try:
            details = self._inspect(process)
            reasons = getattr(details, "reasons", {})
            for name in DETAILS:
                value = getattr(details, name, None)
                if value is not None:
                    lines.append(f"  {name.replace('_', ' ')}: {getattr(value, 'name', value)}")
                elif name in reasons:
                    lines.append(f"  {name.replace('_', ' ')}: not known: {reasons[name]}")
        except (ProcmonError, OSError) as error:
            lines.append(f"  its details are not known: {error}")
        parents = [f"{parent.name} ({parent.pid})" for parent in self._parents(process)]
        return [printable(line) for line in [*lines, f"  started by {' < '.join(parents) or 'nothing that is known'}"]]

    def _parents(self, process: ProcessHelper) -> list[ProcessHelper]:
        """The ancestors of a process, as far as the gate knows them, the nearest first."""
        above: list[ProcessHelper] = []
        running = {each.pid: each for each in self._monitor.gate.snapshot()}
        while (parent := running.get(process.parent_pid)) and parent not in above and can_be_parent(parent, process):
            above.append(parent)
            process = parent
        return above

    def _parent_of(self, process: ProcessHelper) -> str:
        for parent in self._parents(process):
            return f"{printable(parent.name)} ({parent.pid})"
        return f"process {process.parent_pid}"

    def _question(self, process: ProcessHelper, since: float, always: str) -> str:
        then = ""
        if process.hold_left is not None:
            seconds = max(0, round(process.hold_left - (time.monotonic() - since)))
            then = f"{seconds} s left, then {self._fail.value}"
        more = f"{len(self._waiting)} more waiting" if self._waiting else ""
        begin, keys = "  let ", "run? [y/n/a/v/1/i/?]" if self._answers is not None else "run? [y/n/i/?]"
        if always:
            begin = "  always let " if always == "a" else "  never let "
            keys = "run? by its path, signer or hash [p/s/h]"
        end = f" ({process.pid}) {keys} {'; '.join(filter(None, (then, more)))} "
        name, columns = printable(process.name), self._screen.columns
        if columns is None:
            return f"{begin}{name}{end}"
        return cut(f"{begin}{short_path(name, max(12, columns - width(end) - len(begin)))}{end}", columns)


def _self_and_above(running: list[ProcessHelper]) -> set[int]:
    """The pids of this program and of its ancestors; the terminal is among them."""
    parents = {process.pid: process.parent_pid for process in running}
    above: set[int] = set()
    pid = os.getpid()
    while pid in parents and pid not in above:
        above.add(pid)
        pid = parents[pid]
    return above
