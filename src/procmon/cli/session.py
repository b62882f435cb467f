"""A live session of the command line: a gate, what decides, the screen, and how it ends."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ..audit import AuditLog
from ..errors import ProcmonError
from ..gates.base import Gate
from ..monitor.holds import Sink
from ..monitor.monitor import Monitor
from ..policy.policy import Policy
from ..records import DecidedBy, Decision, ProcessHelper, Verdict, printable
from .prompts import Keyboard, Questions
from .screen import Screen, exit_line

__all__ = ["Reloader", "Session", "in_words"]

TICK = 0.1

PATIENCE = 0.2
"""Seconds that Ctrl+C waits for the end of the monitor."""


class Session:
    """Runs a monitor over a gate until the gate has ended, the user stops it, or nobody reads what it prints.

    Whatever is not decided by then, or fails, gets `otherwise`: the monitor's own default, which is asked for nothing
    else, since every process has a decision of its own from here.
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
        otherwise: Verdict = Verdict.ALLOW,
    ) -> None:
        self.screen = screen
        self._policy = policy
        self._audit = audit
        self._otherwise = otherwise
        self._would: Counter[Verdict] = Counter()  # of what was only audited
        self._told: set[str] = set()
        if audit or (policy is not None and policy.mode == "audit"):
            screen.verdict_columns = len("would block")
        sinks: list[Sink] = [screen] if log is None else [screen, ReportingLog(log, screen)]
        self.monitor = Monitor(gate, default=otherwise, on_error=otherwise, on_deadline=otherwise, audit=sinks)
        self.monitor.subscribe(self.rules)
        if show_exits:
            self.monitor.on_exit(self._show_exit)
        self._questions = Questions(self.monitor, screen, keyboard, otherwise) if keyboard is not None else None

    def run(self, tick: Callable[[], None] = lambda: None, *, patience: int = 0) -> None:
        """Until the end. ``tick`` is called some times a second. The first ``patience`` Ctrl+C are for others.

        Raises: what the gate or the keyboard failed with; KeyboardInterrupt.
        """
        asker = None
        if self._questions is not None:
            asker = threading.Thread(target=self._questions.run, name="procmon questions", daemon=True)
        self.monitor.start()
        try:
            if asker is not None:
                asker.start()
            while not self._over(tick, patience):
                patience -= 1
                self.screen.note("Ctrl+C is the command's; once more ends procmon, and the command goes on")
            self._stop(None)
        except BaseException:
            self.screen.ending = True
            self._stop(PATIENCE)
            raise
        finally:
            if asker is not None and asker.is_alive():
                asker.join(TICK)  # it takes its question away
        for error in (self.monitor.error, self._questions.error if self._questions is not None else None):
            if error is not None:
                raise error

    def _stop(self, patience: float | None) -> None:
        """Stop the monitor; a log or a terminal that hangs may keep it longer than there is patience.

        Whom it has not answered by then the gate lets go when it is closed.
        """
        threading.Thread(target=self.monitor.stop, name="procmon stop", daemon=True).start()
        if not self.monitor.wait(patience):
            self.screen.stuck = True

    def _over(self, tick: Callable[[], None], patience: int) -> bool:
        """Wait for the end; False when Ctrl+C came first and there is patience left."""
        try:
            while not self.monitor.wait(TICK) and not self.screen.broken:
                if self._questions is not None and self._questions.error is not None:
                    break
                tick()
        except KeyboardInterrupt:
            if patience > 0:
                return False
            raise
        return True

    def print_summary(self) -> None:
        """Print what came of it all."""
        counts = self.monitor.statistics
        parts = [f"{counts.held:,} held: {counts.allowed:,} allowed, {counts.blocked:,} blocked"]
        if self._would:
            blocked, asked = self._would[Verdict.BLOCK], self._would[Verdict.DEFER]
            parts.append(f"{blocked:,} would have been blocked, {asked:,} asked about")
        if counts.stale:
            parts.append(f"{counts.stale:,} gone before a verdict")
        if counts.pending:
            parts.append(f"{counts.pending:,} without a verdict, which the gate lets go")
        if counts.audit_errors:
            parts.append(f"{counts.audit_errors:,} not written to the log")
        self.screen.event("summary", self.screen.colour("dim", "; ".join(parts)), counts.as_dict())

    def rules(self, process: ProcessHelper) -> Decision:
        """The callback; its name stands in the decisions that its failures come to."""
        try:
            decision = self._policy(process) if self._policy is not None else None
        except Exception as error:
            self._tell_once(f"the rules failed: {error!r}; whom they fail on gets {self._otherwise.value}")
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
            self._tell_once(f"there is no terminal to ask on, so `ask` is {self._otherwise.value} (see --otherwise)")
            return replace(decision, verdict=self._otherwise)
        if self._questions.needs(process):
            return Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.EXEMPT)
        default = "default" if self.screen.show_default else ""
        self._questions.add(process, f"rule {decision.who}" if decision.who else default)
        return decision

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.screen.note(text)

    def _show_exit(self, process: ProcessHelper) -> None:
        at = datetime.now(UTC)
        self.screen.event(
            "exit", exit_line(process, at, self.screen), {"process": process.as_dict(), "at": at.isoformat()}
        )


class ReportingLog:
    """The audit log, as a sink that says on the screen why a line could not be written; each reason once."""

    write_ahead = True

    def __init__(self, log: AuditLog, screen: Screen) -> None:
        self._log = log
        self._screen = screen
        self._told = ""

    def write(self, decision: Decision, /) -> None:
        """Write it, before its verdict goes out."""
        try:
            self._log.write(decision)
        except (OSError, ProcmonError) as error:
            reason = str(error) if isinstance(error, ProcmonError) else f"{self._log.path}: {error}"
            if self._told != reason:
                self._told = reason
                self._screen.note(f"{reason}; the verdicts stand, and are not in the log")
            raise
        self._told = ""


def in_words(policy: Policy) -> str:
    """``office.toml: 3 rules, enforced, no default``"""
    return repr(policy).removeprefix("<Policy ").removesuffix(">")


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
            said = f"reloaded: {in_words(self._policy)}"
            self._loaded(self._policy)
        except (ProcmonError, ValueError) as error:  # a broken file, or rules that the driver does not take
            said = str(error)
        text = "\n".join(map(printable, said.split("\n")))
        self._screen.event("policy", text, {"message": said})
