"""A live session of the command line: a gate, what decides, the screen, the questions, and how it ends."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from ._cli_screen import Screen, exit_line, question_line
from .audit import AuditLog
from .errors import GateClosed, ProcmonError
from .gates.base import Gate
from .monitor import Monitor
from .policy import Policy
from .records import Decision, ProcessHelper, Verdict, printable
from .win32.console import read_key

__all__ = ["Keyboard", "Session", "open_keyboard"]

TICK = 0.1


class Keyboard(Protocol):
    """Where a person answers."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""


class ConsoleKeyboard:
    """The keys of a Windows console; they are taken only while there is a question."""

    def key(self, timeout: float) -> str:
        """The next key within `timeout` seconds, or ""."""
        return read_key(timeout)


def open_keyboard(screen: Screen) -> Keyboard | None:
    """The console, where there is one to ask on and to read from. A reader of JSON is not asked."""
    asks = sys.platform == "win32" and screen.terminal and not screen.json_lines and sys.stdin.isatty()
    return ConsoleKeyboard() if asks else None


class Session:
    """Runs a monitor over a gate until the gate has ended, the user stops it, or nobody reads what it prints."""

    def __init__(
        self,
        gate: Gate,
        screen: Screen,
        *,
        policy: Policy | None = None,
        audit: AuditLog | None = None,
        audit_mode: bool = False,
        show_exits: bool = False,
        keyboard: Keyboard | None = None,
        otherwise: Verdict = Verdict.ALLOW,
    ) -> None:
        self.screen = screen
        self.policy = policy
        screen.show_default = policy is not None
        self._audit_mode = audit_mode
        self._keyboard = keyboard
        self._otherwise = otherwise
        self._questions: deque[tuple[ProcessHelper, float]] = deque()
        self._asked: set[ProcessHelper] = set()
        self._told_of_otherwise = False
        self.monitor = Monitor(gate, audit=[screen, audit] if audit is not None else screen)
        self.monitor.subscribe(self._decide)
        if show_exits:
            self.monitor.on_exit(self._show_exit)

    def run(self, tick: Callable[[], None] = lambda: None, *, patience: int = 0) -> None:
        """Until the end. ``tick`` is called some times a second. The first ``patience`` Ctrl+C are for others.

        Raises: what the gate failed with; KeyboardInterrupt.
        """
        asker = threading.Thread(target=self._ask, name="procmon questions", daemon=True)
        try:
            with self.monitor:
                asker.start()
                try:
                    while not self._over(tick, patience):
                        patience -= 1
                finally:
                    self._answer_the_rest()
        finally:
            if asker.is_alive():
                asker.join(1.0)  # it takes its question away
        if self.monitor.error is not None:
            raise self.monitor.error

    def _over(self, tick: Callable[[], None], patience: int) -> bool:
        """Wait for the end; False when Ctrl+C came first and there is patience left."""
        try:
            while not self.monitor.wait(TICK) and not self.screen.broken:
                tick()
        except KeyboardInterrupt:
            if patience > 0:
                return False
            raise
        return True

    def _answer_the_rest(self) -> None:
        """What is still asked about comes to what unanswered questions come to."""
        if self._otherwise is Verdict.BLOCK:
            for process in self.monitor.pending:
                if process in self._asked:
                    with suppress(ProcmonError):  # it has gone, or somebody was faster
                        self.monitor.block(process)

    def summary(self) -> str:
        """``5 held: 4 allowed, 1 blocked``"""
        counts = self.monitor.statistics
        late = f", {counts.stale} gone before their verdict" if counts.stale else ""
        return f"{counts.held} held: {counts.allowed} allowed, {counts.blocked} blocked{late}"

    def _decide(self, process: ProcessHelper) -> Decision | None:
        decision = self.policy(process) if self.policy is not None else None
        if decision is None or decision.verdict is Verdict.ALLOW:
            return decision
        if self._audit_mode:
            decision = replace(decision, audited=True)
        if decision.verdict is Verdict.DEFER and not decision.audited:
            rule = f"rule {decision.who}" if decision.who else "default"
            if self._keyboard is None:
                self._tell_of_otherwise()
                return replace(decision, verdict=self._otherwise)
            self._asked.add(process)
            data = {"process": process.as_dict(), "rule": decision.who}
            self.screen.event("ask", question_line(process, datetime.now(UTC), rule, self.screen), data)
            self._questions.append((process, time.monotonic()))
        return decision

    def _tell_of_otherwise(self) -> None:
        if not self._told_of_otherwise:
            self._told_of_otherwise = True
            self.screen.note(f"there is no terminal to ask on, so `ask` is {self._otherwise.value} (see --otherwise)")

    def _show_exit(self, process: ProcessHelper) -> None:
        at = datetime.now(UTC)
        self.screen.event(
            "exit", exit_line(process, at, self.screen), {"process": process.as_dict(), "at": at.isoformat()}
        )

    # ------------------------------------------------------------------------------------------------- questions

    def _ask(self) -> None:
        """One question after the other, each until it is answered, or somebody else has answered."""
        while self.monitor.running:
            if self._questions:
                process, since = self._questions.popleft()
                self._ask_about(process, since)
                self._asked.discard(process)
            else:
                time.sleep(0.05)
        self.screen.ask("")

    def _ask_about(self, process: ProcessHelper, since: float) -> None:
        assert self._keyboard is not None
        shown, verdict = "", None
        while self.monitor.running and process in self.monitor.pending:
            question = self._question(process, since)
            if question != shown:
                self.screen.ask(question)
                shown = question
            verdict = {"y": Verdict.ALLOW, "n": Verdict.BLOCK}.get(self._keyboard.key(TICK).lower())
            if verdict is not None:
                break
        self.screen.ask("")
        if verdict is not None:
            try:
                (self.monitor.allow if verdict is Verdict.ALLOW else self.monitor.block)(process)
            except (ProcmonError, GateClosed) as error:
                self.screen.note(f"too late: {error}")

    def _question(self, process: ProcessHelper, since: float) -> str:
        waiting = len(self._questions)
        more = f", {waiting} more after it" if waiting else ""
        left = ""
        if process.hold_left is not None:
            seconds = max(0, round(process.hold_left - (time.monotonic() - since)))
            left = f", {seconds} s left, then {self._otherwise.value}"
        return f"  start {printable(process.name)[:40]} ({process.pid})? y or n{left}{more} "


class Reloader:
    """Reads a policy again when its file has changed; called some times a second."""

    def __init__(self, policy: Policy, screen: Screen, loaded: Callable[[Policy], None] = lambda _: None) -> None:
        self._policy = policy
        self._screen = screen
        self._loaded = loaded
        self._next = time.monotonic() + 1

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        if not self._policy.has_changed():
            return
        try:
            self._policy.reload()
            said = f"reloaded: {self._policy!r}"
            self._loaded(self._policy)
        except (ProcmonError, ValueError) as error:  # a broken file, or rules that the driver does not take
            said = str(error)
        text = "\n".join(map(printable, said.split("\n")))
        self._screen.event("policy", text, {"message": said})
