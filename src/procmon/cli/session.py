"""A live session of the command line: a gate, the deciders, the screen, and the end of the session."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from ..audit import NO_TERMINAL, AuditLog
from ..errors import ProcmonError
from ..gates.base import Gate
from ..monitor.monitor import Monitor
from ..monitor.sinks import Sink
from ..policy.policy import Policy
from ..records import DecidedBy, Decision, ProcessHelper, Verdict
from .allow_all import AllowAll
from .answers import Answers, Inspect, look_up
from .prompts import Keyboard, Questions
from .results import Results
from .screen import Screen, exit_line

__all__ = ["Session"]

TICK_S = 0.1

INTERRUPTED_STOP_S = 0.2
"""How long Ctrl+C waits for the monitor to stop."""


class Session:
    """Runs a monitor over a gate until the gate has ended, the user stops it, or the reader of the output has gone.

    `fail` is the verdict for processes undecided at the end, and for failures of the rules. It is the monitor's default
    as well, which is used only at the stop, because `rules` decides about every process. `results` keeps the decisions
    instead of a line for each process. `goes_on` is for a gate whose processes must be decided even if the reader has
    gone. `answers` are asked before `policy`.
    """

    def __init__(
        self,
        gate: Gate,
        screen: Screen,
        *,
        policy: Policy | None = None,
        log: AuditLog | None = None,
        audit: bool = False,
        show_exits: bool = False,
        keyboard: Keyboard | None = None,
        fail: Verdict = Verdict.ALLOW,
        results: Results | None = None,
        goes_on: bool = False,
        allow_all: AllowAll | None = None,
        answers: Answers | None = None,
        inspect: Inspect = look_up,
        sinks: Iterable[Sink] = (),
    ) -> None:
        self.screen = screen
        self._policy = policy
        self._answers = answers
        self._audit = audit
        self._fail = fail
        self._goes_on = goes_on
        self._allow_all = allow_all
        self._would: Counter[Verdict] = Counter()  # of audited decisions
        self._noted: set[str] = set()
        if audit or (policy is not None and policy.mode == "audit"):
            screen.verdict_columns = len("would block")
        shown = screen if results is None else results
        reporting = ReportingLog(log, screen) if log is not None else None
        written: list[Sink] = [shown, *sinks] if reporting is None else [shown, *sinks, reporting]
        self.monitor = Monitor(gate, default=fail, fail=fail, audit=written)
        if reporting is not None:
            reporting.monitor = self.monitor
        self.monitor.subscribe(self.rules)
        if show_exits:
            self.monitor.on_exit(self._show_exit)
        if reporting is not None:
            self.monitor.on_exit(reporting.write_exit)
        if results is not None:
            self.monitor.on_exit(results.exited)
        self._questions = None
        if keyboard is not None:
            self._questions = Questions(self.monitor, screen, keyboard, fail, answers=answers, inspect=inspect)

    def run(
        self,
        tick: Callable[[], None] = lambda: None,
        *,
        patience: int = 0,
        ready: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> None:
        """Run until the end, or until `stop` is set. `ready` is called when the monitor runs.

        `tick` is called a few times a second. The first `patience` Ctrl+C do not end the session.

        Raises: the error of the gate or the keyboard; KeyboardInterrupt.
        """
        asker = None
        if self._questions is not None:
            asker = threading.Thread(target=self._questions.run, name="procmon questions", daemon=True)
        self.monitor.start()
        try:
            if asker is not None:
                asker.start()
            ready()
            while not self._over(tick, patience, stop):
                patience -= 1
                self.screen.note("Ctrl+C went to the command; press it again to end procmon, and the command goes on")
            self._stop(None)
        except BaseException:
            self.screen.ending = True
            self._stop(INTERRUPTED_STOP_S)
            raise
        finally:
            if asker is not None and asker.is_alive():
                asker.join(TICK_S)  # it clears its question from the screen
        for error in (self.monitor.error, self._questions.error if self._questions is not None else None):
            if error is not None:
                raise error

    def _stop(self, timeout: float | None) -> None:
        """Stop the monitor. A log or a terminal that hangs may keep it longer than `timeout`.

        Processes not answered by then are released when the gate is closed.
        """
        threading.Thread(target=self.monitor.stop, name="procmon stop", daemon=True).start()
        if not self.monitor.wait(timeout):
            self.screen.stuck = True

    def allow_pending(self) -> None:
        """Let the processes run that wait for an answer."""
        for process in self.monitor.pending:
            with suppress(ProcmonError):  # it has just been answered
                self.monitor.allow(process)

    def end(self) -> None:
        """Stop the monitor and close its gate, from another thread, within half a second if nothing hangs."""
        self.screen.ending = True
        self._stop(INTERRUPTED_STOP_S)
        self.monitor.gate.close()

    def _over(self, tick: Callable[[], None], patience: int, stop: threading.Event | None) -> bool:
        """Wait for the end; False when Ctrl+C came first and there is patience left."""
        try:
            while not self.monitor.wait(TICK_S) and (self._goes_on or not self.screen.broken):
                failed = self._questions is not None and self._questions.error is not None
                if failed or (stop is not None and stop.is_set()):
                    break
                tick()
        except KeyboardInterrupt:
            if patience > 0:
                return False
            raise
        return True

    def print_summary(self) -> None:
        """Print the counts of the session."""
        counts = self.monitor.statistics
        parts = [f"{counts.held:,} held: {counts.allowed:,} allowed, {counts.blocked:,} blocked"]
        if self._would:
            blocked, asked = self._would[Verdict.BLOCK], self._would[Verdict.DEFER]
            parts.append(f"{blocked:,} would have been blocked, {asked:,} asked about")
        if counts.tampered:
            parts.append(f"{counts.tampered:,} with other code in their memory")
        if counts.stale:
            parts.append(f"{counts.stale:,} gone, or answered by the gate, before a verdict")
        if counts.pending:
            blocks = self._fail is Verdict.BLOCK
            parts.append(f"{counts.pending:,} without a verdict, which the gate {'blocks' if blocks else 'releases'}")
        if (unasked := counts.gate_decided - counts.tampered - self.screen.started_before) > 0:
            parts.append(f"{unasked:,} decided by the gate itself")
        if counts.audit_errors:
            parts.append(f"{counts.audit_errors:,} not written to the log")
        if self.screen.started_before:
            parts.append(f"{self.screen.started_before:,} started before procmon was connected, and were not held")
        data = {**counts.as_dict(), "started_before": self.screen.started_before}
        self.screen.event("summary", self.screen.colour("dim", "; ".join(parts)), data)

    def rules(self, process: ProcessHelper) -> Decision:
        """The monitor's callback; its name is in the decisions that follow from its failures."""
        if self._allow_all is not None and self._allow_all.active:
            return Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.EXEMPT, who="allow-all")
        try:
            decision = self._answers(process) if self._answers is not None else None
            if decision is None and self._policy is not None:
                decision = self._policy(process)
        except Exception as error:
            self._note_once(f"the rules failed: {error!r}; the verdict is {self._fail.value} (see --fail)")
            raise
        if decision is None:
            return Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.DEFAULT)
        if decision.verdict is not Verdict.ALLOW:
            if self._audit:
                decision = replace(decision, audited=True)
            if decision.audited:
                self._would[decision.verdict] += 1
            elif decision.verdict is Verdict.DEFER:
                return self._ask(process, decision)
        return decision

    def _ask(self, process: ProcessHelper, decision: Decision) -> Decision:
        if self._questions is None:
            self._note_once(f"there is no terminal to ask on, so `ask` is {self._fail.value} (see --fail)")
            return replace(decision, verdict=self._fail, by=DecidedBy.DEFAULT, who="", reason=NO_TERMINAL)
        if self._questions.needs(process):
            return Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.EXEMPT)
        default = "default" if self.screen.show_default else ""
        message = decision.note.message if decision.note is not None else ""
        self._questions.add(process, f"rule {decision.who}" if decision.who else default, message)
        return decision

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.screen.note(text)

    def _show_exit(self, process: ProcessHelper) -> None:
        at = process.exited_at or datetime.now(UTC)
        data = {"process": process.as_dict(), "at": at.isoformat(), "lifetime": process.lifetime}
        self.screen.event("exit", exit_line(process, at, self.screen), data)


class ReportingLog:
    """The audit log as a sink. When a line cannot be written, it shows the reason on the screen, each reason once."""

    write_ahead = True

    def __init__(self, log: AuditLog, screen: Screen) -> None:
        self._log = log
        self._screen = screen
        self.monitor: Monitor | None = None  # until the log has the line that begins its session
        self._reported = ""

    def write(self, decision: Decision, /) -> None:
        """Write a decision, before its verdict is sent; the first one after the line that begins the session."""
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            with suppress(OSError, ProcmonError):  # the screen shows it; the decision is tried all the same
                self._try(lambda: self._log.write_start(monitor))
        self._try(lambda: self._log.write(decision))

    def write_exit(self, process: ProcessHelper) -> None:
        """Write the exit of a process."""
        with suppress(OSError, ProcmonError):  # the screen shows it
            self._try(lambda: self._log.write_exit(process))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ProcmonError) as error:
            reason = str(error) if isinstance(error, ProcmonError) else f"{self._log.path}: {error}"
            if self._reported != reason:
                self._reported = reason
                self._screen.note(f"{reason}; the verdicts stand, and are not in the log")
            raise
        self._reported = ""
