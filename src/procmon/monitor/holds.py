"""What a monitor holds and has decided: each process answered once; each decision counted, kept and written.

One rule keeps everything straight: a `Hold` is *claimed*, under the lock `changed`, by whoever answers it, and only
once. Under that lock nothing is called that could hang: no gate, no sink, no handler of the log.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol, runtime_checkable

from ..errors import GateClosed, StaleProcess
from ..gates.base import Gate
from ..records import DecidedBy, Decision, ProcessHelper, Statistics, Verdict, VerdictResult
from ..util.log import ERROR, log
from ..util.threads import submit


@runtime_checkable
class Sink(Protocol):
    """Where decisions are written, `AuditLog` for one.

    >>> import procmon
    >>> class Printed:
    ...     def write(self, decision):
    ...         print(decision)
    >>> with procmon.Monitor(procmon.SimulatedGate(), default=procmon.DEFER, audit=Printed()) as monitor:
    ...     process = monitor.gate.start("a.exe")
    <Decision allow 1000 'a.exe' by stop>
    """

    def write(self, decision: Decision, /) -> object:
        """Called once for each decision, in order, after its verdict was sent; by one thread of the monitor's.

        If the sink has an attribute ``write_ahead`` that is true, it is called before the verdict is sent, by any
        thread, and the verdict waits for it; and once more where the verdict then came too late.
        """


@dataclass(slots=True, eq=False)
class Hold:
    """One process that waits for its verdict."""

    process: ProcessHelper
    since: float = field(default_factory=time.monotonic)
    claimed: bool = False
    """Somebody is answering it, or has."""


class HoldTable:
    """The holds, the history and the counts of one monitor; `changed` guards all of them."""

    def __init__(
        self,
        gate: Gate,
        history: int,
        sinks: tuple[Sink, ...],
        on_failure: Callable[[BaseException, str], None],
    ) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.held: dict[tuple[int, int], Hold] = {}
        self.history: deque[Decision] = deque(maxlen=history)
        self.counts: Counter[str] = Counter()
        self._gate = gate
        self._sinks = sinks
        self._write_ahead = tuple(sink for sink in sinks if getattr(sink, "write_ahead", False))
        self._on_failure = on_failure
        self._longest_hold = 0.0
        self.sent = 0
        """Verdicts from which the gate has returned."""
        self._sending = 0
        self._unwritten: deque[tuple[Decision, bool]] = deque()  # and whether the sinks `_ahead` had it before
        self._writing_since: float | None = None  # the first of them; None: nobody writes
        self._fetching = threading.RLock()  # taken before `changed`, and held while the gate is called: it may hang

    def statistics(self) -> Statistics:
        with self.changed:
            longest = timedelta(seconds=self._longest_hold)
            return Statistics(pending=len(self.held), longest_hold=longest, **self.counts)

    # ------------------------------------------------------------------------------------------------ from the gate

    def fetch(self) -> list[Hold | ProcessHelper]:
        """Take in what is new at the gate: the holds that want a verdict, and the records of exits, in order."""
        with self._fetching:
            news = [one for record in self._gate.fetch() if (one := self._take_in(record)) is not None]
        self._have_written()  # what the gate itself has decided
        return news

    def _take_in(self, record: ProcessHelper) -> Hold | ProcessHelper | None:
        with self.changed:
            self.counts["fetched"] += 1
            hold = self.held.get(record.identity)
            if record.exited:
                self.counts["exited"] += 1
                if hold is not None and self._drop(hold):  # others ended it while it was held
                    self.counts["stale"] += 1
                return record
            if record.paused:
                if hold is None:
                    self.counts["held"] += 1
                    self.held[record.identity] = hold = Hold(record)
                    return hold
            elif record.verdict is not None and record.decided_by is not DecidedBy.USER:
                self._note_the_gates(record, record.verdict, hold)
            return None

    def _note_the_gates(self, record: ProcessHelper, verdict: Verdict, hold: Hold | None) -> None:
        held = 0.0
        self.counts["gate_decided"] += 1
        if hold is not None and self._drop(hold):
            held = time.monotonic() - hold.since
            self.counts["blocked" if verdict is Verdict.BLOCK else "allowed"] += 1
        by = record.decided_by or DecidedBy.NO_CONTROLLER
        self._keep(Decision(process=record, verdict=verdict, by=by, held_for=held))

    def _drop(self, hold: Hold) -> bool:
        """Claim a hold that needs no answer any more; False when somebody is just sending one."""
        if hold.claimed:
            return False
        hold.claimed = True
        del self.held[hold.process.identity]
        self.changed.notify_all()
        return True

    # ------------------------------------------------------------------------------------------------- to the gate

    def conclude(
        self, hold: Hold, verdict: Verdict, by: DecidedBy, who: str = "", audited: bool = False, reason: str = ""
    ) -> None:
        """Answer, or go on holding where the verdict is DEFER."""
        if verdict is Verdict.DEFER and not audited:
            with self.changed:
                if not hold.claimed:
                    self.counts["deferred"] += 1
        else:
            self.answer(hold, verdict, by, who, audited, reason)

    def answer(
        self, hold: Hold, verdict: Verdict, by: DecidedBy, who: str = "", audited: bool = False, reason: str = ""
    ) -> Decision | None:
        """Send a verdict; None when somebody else has answered before."""
        with self.changed:
            if hold.claimed:
                return None
            hold.claimed = True
            self._sending += 1
        process = hold.process
        held = time.monotonic() - hold.since
        decision = Decision(
            process=process, verdict=verdict, by=by, who=who, held_for=held, audited=audited, reason=reason
        )
        failure: BaseException | None = None
        try:
            decision = self._send(decision)
        except BaseException as error:
            failure = error
        with self.changed:
            self._sending -= 1
            self.sent += 1
            self.held.pop(process.identity, None)
            self._note(decision, sent=True)
        self._have_written()
        if failure is not None and not isinstance(failure, GateClosed):
            self._on_failure(failure, f"answering {process!r}")
        return decision

    def answer_by_hand(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        """Send the user's verdict; `Decision.result` says what came of it.

        Raises: StaleProcess when no such process is known, GateClosed, or whatever the gate raises.
        """
        if not isinstance(process, ProcessHelper | int):
            raise TypeError(f"a ProcessHelper or its pid is wanted, not {process!r}")
        known = process if isinstance(process, ProcessHelper) else self._find(process)
        late = Decision(process=known, verdict=verdict, by=DecidedBy.USER, result=VerdictResult.ANSWERED)
        if (hold := self.held.get(known.identity)) is None:
            with self._fetching:  # where it may be on its way to `held`
                if (hold := self.held.get(known.identity)) is None:
                    return late if self.describe_verdict(known) else self._answer_unfetched(known, verdict)
        answered = self.answer(hold, verdict, DecidedBy.USER)
        if answered is not None and answered.result is None:
            raise GateClosed(f"the gate failed or was closed before it could answer {known!r}, and lets go by itself")
        return answered or late

    def _answer_unfetched(self, process: ProcessHelper, verdict: Verdict) -> Decision:
        decision = self._send(Decision(process=process, verdict=verdict, by=DecidedBy.USER))
        if decision.result is VerdictResult.DONE:
            with self.changed:
                self.counts["held"] += 1
                self._note(decision, sent=True)
            self._have_written()
        else:
            self._write_to_sinks(self._write_ahead, decision)
        return decision

    def _send(self, decision: Decision) -> Decision:
        """The same decision, with the gate's answer."""
        self._write_to_sinks(self._write_ahead, decision)
        blocks = decision.verdict is Verdict.BLOCK and not decision.audited
        [answer] = (self._gate.block if blocks else self._gate.allow)(decision.process)
        return replace(decision, result=answer)

    def _find(self, pid: int) -> ProcessHelper:
        with self.changed:
            held = [hold.process for hold in self.held.values() if hold.process.pid == pid]
            answered = [decision.process for decision in self.history if decision.process.pid == pid]
        if held:
            return held[-1]
        running = [] if self._gate.closed else [process for process in self._gate.snapshot() if process.pid == pid]
        for process in (*running, *reversed(answered)):
            return process
        raise StaleProcess(
            f"{self._gate.name} knows no process with pid {pid}: it has gone, or never came this way", pid
        )

    def describe_verdict(self, process: ProcessHelper) -> str:
        """How a process was answered, in words, as far as the history goes back; "" when it does not."""
        with self.changed:
            for decision in reversed(self.history):
                if decision.process == process and decision.result in (VerdictResult.DONE, None):
                    return f"{decision.verdict.value} by {decision.by.value} {decision.who}".rstrip()
        return ""

    def release(self, verdict: Verdict) -> None:
        """Answer all that is held and nobody is answering, because the monitor stops; several threads may do so."""
        for hold in list(self.held.values()):
            self.answer(hold, verdict, DecidedBy.STOP)

    def wait_for_verdicts(self, patience: float) -> bool:
        """Wait until none is being sent; False when one was after `patience` seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: self._sending == 0, patience)

    def abandon(self, verdict: Verdict) -> None:
        """Note what a stop has left to the gate, which hung; it is closed now and has let it go."""
        with self.changed:
            for hold in list(self.held.values()):
                if self._drop(hold):
                    held = time.monotonic() - hold.since
                    self._note(Decision(process=hold.process, verdict=verdict, by=DecidedBy.STOP, held_for=held))

    # --------------------------------------------------------------------------------------------------- decisions

    def note_swept(self, decision: Decision) -> None:
        """Keep and write what was done to a process that was never held."""
        with self.changed:
            self._keep(decision)
        self._have_written()

    def _note(self, decision: Decision, *, sent: bool = False) -> None:
        if decision.result is VerdictResult.DONE:
            blocked = decision.verdict is Verdict.BLOCK and not decision.audited
            self.counts["blocked" if blocked else "allowed"] += 1
            self._longest_hold = max(self._longest_hold, decision.held_for)
        else:
            self.counts["stale"] += 1
        self._keep(decision, sent=sent)

    def _keep(self, decision: Decision, *, sent: bool = False) -> None:
        self.history.append(decision)
        if self._sinks:
            self._unwritten.append((decision, sent and decision.result in (VerdictResult.DONE, None)))
        self.changed.notify_all()

    def _have_written(self) -> None:
        """Have the sinks told what they have not had yet; not under the lock."""
        if not self._unwritten:
            return
        with self.changed:
            if not self._unwritten or self._writing_since is not None:
                return
            self._writing_since = time.monotonic()
        submit(self._write)

    def _write(self) -> None:
        """Tell the sinks one decision after the other, until there is none. Only one thread at a time does so."""
        while True:
            with self.changed:
                if not self._unwritten:
                    self._writing_since = None
                    self.changed.notify_all()
                    return
                self._writing_since = time.monotonic()
                decision, had_it = self._unwritten.popleft()
            self._write_to_sinks([sink for sink in self._sinks if not (had_it and sink in self._write_ahead)], decision)

    def wait_for_sinks(self, patience: float) -> bool:
        """Wait until everything is written; False when it was not after `patience` seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: self._writing_since is None, patience)

    def unwritten(self) -> tuple[int, float]:
        """How many decisions a sink has not had yet, and for how many seconds it has not returned from the first."""
        with self.changed:
            since = self._writing_since
            return (0, 0.0) if since is None else (len(self._unwritten) + 1, time.monotonic() - since)

    def _write_to_sinks(self, sinks: Iterable[Sink], decision: Decision) -> None:
        for sink in sinks:
            try:
                sink.write(decision)
            except BaseException as error:  # SystemExit, too: it must not end the thread
                with self.changed:
                    self.counts["audit_errors"] += 1
                log(ERROR, "%r could not write %r; its verdict stands", sink, decision, error=error)
