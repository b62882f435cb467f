"""What a monitor holds and has decided: each process decided once; each decision counted, kept and written.

A `Hold` is *decided* when it gets its ruling, under the lock and only once. Its verdict is then sent with those of
other holds in one call of the gate. A hold leaves `held` in the same step in which its decision is counted, kept and
queued for the sinks, and whoever takes it out does that: the thread that sent its verdict, or, where the gate has not
returned from it, the stop that gives up waiting. So history, statistics and sinks agree at every moment.

The lock is never held while the gate, a sink or the log is called. It is reentrant because the garbage collector may
run a user's finalizer, which calls a monitor, in a thread that has it.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from logging import ERROR

from ..errors import AlreadyAnswered, GateClosed, NotHeld, StaleProcess
from ..gates.base import Gate
from ..records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.log import log
from ..util.threads import run_in_thread
from .sinks import Sinks
from .subscriptions import Ruling

__all__ = ["BATCH_S", "Hold", "HoldTable"]

BATCH_S = 0.002
"""Longest time that a verdict waits for others, to be sent in one call with them."""

DECIDERS = 50_000
"""Processes of which it is kept, until they exit, who decided; the latest ones."""


@dataclass(slots=True, eq=False)
class Hold:
    """One process that waits for its verdict."""

    process: ProcessHelper
    since: float = field(default_factory=time.monotonic)
    ruling: Ruling | None = None
    """Set once; None: undecided."""
    written_ahead: bool = False
    """The sinks that write ahead have had its decision."""


class HoldTable:
    """The holds, the history and the counts of one monitor."""

    def __init__(
        self, gate: Gate, history: int, sinks: Sinks, on_failure: Callable[[BaseException, str], None]
    ) -> None:
        self.lock = threading.RLock()
        self.held: dict[tuple[int, int], Hold] = {}
        self.history: deque[Decision] = deque(maxlen=history)
        self.counts: Counter[str] = Counter()
        self.longest_hold = 0.0
        self.batching = False
        """A decided hold may wait for others; see `flush_late`."""
        self._gate = gate
        self._sinks = sinks
        self._on_failure = on_failure
        self._changed = threading.Condition(self.lock)  # notified when nothing is held, or nothing being sent
        self._batch: list[Hold] = []  # decided, not yet sent
        self._batch_since = 0.0
        self._sending = 0  # batches for which the gate has been called and has not returned
        self._fetching = threading.RLock()  # taken before `lock`, and held while the gate fetches
        self._deciders: dict[tuple[int, int], DecidedBy] = {}  # of what was answered and has not exited, oldest first
        self._by_hand: set[tuple[int, int]] = set()  # for which `_answer_unfetched` calls the gate
        self._is_over = False  # all has been noted, and nothing more is

    # ---------------------------------------------------------------------------------------------- from the gate

    def fetch(self) -> list[Hold | ProcessHelper]:
        """Take in what is new at the gate: the holds to decide, and the records of exits, in order."""
        with self._fetching:
            records = self._gate.fetch()
            with self.lock:
                news = [one for record in records if (one := self._take_in(record)) is not None]
        for record in records:
            if ProcessFlags.TERMINATE_FAILED in record.flags and not record.exited:
                log(
                    ERROR,
                    "process %d (%s) was blocked and cannot be terminated yet: it stays held and is tried every second",
                    record.pid,
                    record.image_name,
                )
        self._sinks.start()  # for what the gate itself has decided
        return news

    def _take_in(self, record: ProcessHelper) -> Hold | ProcessHelper | None:
        self.counts["fetched"] += 1
        hold = self.held.get(record.identity)
        if record.exited:
            self.counts["exited"] += 1
            if hold is not None and hold.ruling is None:
                if record.verdict is not None and record.decided_by is DecidedBy.CONTROLLER:
                    self._note_beside(record, Ruling(record.verdict, DecidedBy.CONTROLLER))
                else:  # it was killed while it was held
                    self._drop(hold)
                    self.counts["stale"] += 1
            return self._with_decider(record, hold)
        undying = ProcessFlags.TERMINATE_FAILED in record.flags
        self.counts["terminate_failed"] += undying
        if record.paused:
            # One that the gate shows again has been decided in between, if it is not in the table any more.
            if hold is None and not record.seen and record.identity not in self._deciders:
                self.counts["held"] += 1
                self.held[record.identity] = hold = Hold(record)
                return hold
        elif record.verdict is not None and not self._is_known(record, hold) and not (undying and record.seen):
            self._note_the_gates(record, record.verdict, hold)
        return None

    def _is_known(self, record: ProcessHelper, hold: Hold | None) -> bool:
        """The verdict was given to the gate from here, or in the session of another controller."""
        return record.decided_by is DecidedBy.CONTROLLER and (
            record.identity in self._deciders or hold is not None or ProcessFlags.RUNNING_BEFORE in record.flags
        )

    def _with_decider(self, record: ProcessHelper, hold: Hold | None) -> ProcessHelper:
        """The record of an exit, with who decided, where the gate knows only that it was told."""
        if record.decided_by is not DecidedBy.CONTROLLER:
            return record
        by = self._deciders.get(record.identity, DecidedBy.CONTROLLER)
        if hold is not None and hold.ruling is not None:  # its verdict is just being sent
            by = hold.ruling.by
        if by is DecidedBy.CONTROLLER:  # it may be about to be heard, and is known by its decider
            return record
        self._deciders.pop(record.identity, None)
        return replace(record, decided_by=by)

    def _note_the_gates(self, record: ProcessHelper, verdict: Verdict, hold: Hold | None) -> None:
        held_for = 0.0
        self.counts["gate_decided"] += 1
        ruling = Ruling(verdict, record.decided_by or DecidedBy.NO_CONTROLLER)
        if hold is not None and hold.ruling is None:
            self._drop(hold, ruling)
            held_for = time.monotonic() - hold.since
            self.counts["blocked" if verdict is Verdict.BLOCK else "allowed"] += 1
        if ruling.by is DecidedBy.CONTROLLER:
            self._keep_decider(record, ruling.by)
        self._keep(ruling.decision(record, held_for))

    def hear_answers(
        self, processes: Sequence[ProcessHelper], verdict: Verdict, results: Sequence[VerdictResult]
    ) -> None:
        """Note what the gate was told beside this table; the gate calls it after each verdict, from any thread.

        What was told from here has a hold that is decided, or is in `_by_hand`. The record of another one may be in
        the table, on its way there, or still at the gate, which gives it with its verdict, or with its exit as well.
        Whoever comes first notes the decision, and the others find its decider.
        """
        beside = [
            process
            for process, result in zip(processes, results, strict=True)
            if result is VerdictResult.DONE
            and ((hold := self.held.get(process.identity)) is None or hold.ruling is None)
            and process.identity not in self._by_hand
        ]
        if beside:
            run_in_thread(self._note_all_beside, beside, Ruling(verdict, DecidedBy.CONTROLLER))

    def _note_all_beside(self, processes: list[ProcessHelper], ruling: Ruling) -> None:
        with self.lock:
            for process in processes:
                self._note_beside(process, ruling)
        self._sinks.start()

    def _note_beside(self, process: ProcessHelper, ruling: Ruling) -> None:
        if self._is_over or process.identity in self._deciders:
            return
        hold = self.held.get(process.identity)
        if hold is None:
            self.counts["held"] += 1
            hold = Hold(process)
        elif hold.ruling is None:
            self._drop(hold, ruling)
        else:
            return
        self._note(ruling.decision(hold.process, time.monotonic() - hold.since, VerdictResult.DONE), False)

    def _drop(self, hold: Hold, ruling: Ruling | None = None) -> None:
        """Take out an undecided hold that needs no verdict any more; a thread that asks about it finds it decided."""
        hold.ruling = ruling or Ruling(Verdict.ALLOW, DecidedBy.NO_CONTROLLER)
        del self.held[hold.process.identity]
        if not self.held:
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------ to the gate

    def decide(self, hold: Hold, ruling: Ruling) -> None:
        """Decide a hold unless it is decided; its verdict is sent by the next `flush`. DEFER goes on holding."""
        with self.lock:
            if hold.ruling is not None:
                return
            if ruling.defers:
                self.counts["deferred"] += 1
                return
            hold.ruling = ruling
            if not self._batch:
                self._batch_since = time.monotonic()
            self._batch.append(hold)

    def flush(self) -> None:
        """Send the verdicts that wait."""
        if not self._batch:
            return
        with self.lock:
            batch, self._batch = self._batch, []
            self._sending += 1
        self._send(batch)

    def flush_unless_more(self, more: bool) -> None:
        """Send the verdicts that wait, unless `more` are coming and the first has not waited for long.

        What is left here is not forgotten: `batching` is true, so the leader looks after it. The leader resets
        `batching` before it looks for the last time; so either it sees this batch, or this thread sees the reset.
        """
        if not (more and self.batching) or time.monotonic() - self._batch_since > BATCH_S:
            self.flush()

    @property
    def is_late(self) -> bool:
        """A verdict has waited for others as long as it may, or nothing looks after it any more."""
        return bool(self._batch) and (not self.batching or time.monotonic() - self._batch_since > BATCH_S)

    @property
    def has_batch(self) -> bool:
        """Verdicts wait to be sent."""
        return bool(self._batch)

    def answer(self, hold: Hold, ruling: Ruling) -> Decision | None:
        """Decide a hold and send its verdict at once; None when it was decided before."""
        with self.lock:
            if hold.ruling is not None:
                return None
            hold.ruling = ruling
            self._sending += 1
        return self._send([hold])[0]

    def release(self, ruling: Ruling) -> None:
        """Decide all holds that are undecided, and send all verdicts that wait, because the monitor stops."""
        with self.lock:
            for hold in self.held.values():
                if hold.ruling is None:
                    hold.ruling = ruling
                    self._batch.append(hold)
        self.flush()

    def _send(self, batch: list[Hold]) -> list[Decision]:
        """Send verdicts, all of one kind in one call of the gate; then note the decisions."""
        ahead: list[Decision] | None = None
        if self._sinks.writes_ahead:
            ahead = [self._decision(hold) for hold in batch]
            self._sinks.write_ahead(ahead)
            for hold in batch:
                hold.written_ahead = True
        results: dict[Hold, VerdictResult] = {}
        failure: BaseException | None = None
        for call, blocks in ((self._gate.allow, False), (self._gate.block, True)):
            if holds := [hold for hold in batch if hold.ruling is not None and hold.ruling.blocks is blocks]:
                try:
                    results |= zip(holds, call(*[hold.process for hold in holds]), strict=True)
                except BaseException as error:
                    failure = error
        if ahead is None:
            decisions = [self._decision(hold, results.get(hold)) for hold in batch]
        else:
            decisions = [replace(one, result=results.get(hold)) for one, hold in zip(ahead, batch, strict=True)]
        with self.lock:
            self._sending -= 1
            for hold, decision in zip(batch, decisions, strict=True):
                self._finish(hold, decision)
            self._changed.notify_all()
        self._sinks.start()
        if failure is not None and not isinstance(failure, GateClosed):
            self._on_failure(failure, f"answering {batch[0].process!r}")
        return decisions

    def _decision(self, hold: Hold, result: VerdictResult | None = None) -> Decision:
        assert hold.ruling is not None
        return hold.ruling.decision(hold.process, time.monotonic() - hold.since, result)

    def _finish(self, hold: Hold, decision: Decision) -> None:
        """Take out a decided hold and note its decision, unless a stop that gave up has done so."""
        if self.held.get(hold.process.identity) is hold:
            del self.held[hold.process.identity]
            self._note(decision, hold.written_ahead)

    # -------------------------------------------------------------------------------------------------- by hand

    def answer_by_hand(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        """Send the user's verdict.

        Raises: StaleProcess, NotHeld, AlreadyAnswered, GateClosed, or whatever the gate raises.
        """
        decision = self._answer_by_hand(process, verdict)
        known = decision.process
        match decision.result:
            case VerdictResult.DONE:
                return decision
            case VerdictResult.UNKNOWN:
                raise StaleProcess(f"{known!r} has gone; nothing was done", known)
            case VerdictResult.STALE:
                text = f"{known!r} has gone, and its pid belongs to another process now; nothing was done"
                raise StaleProcess(text, known)
            case VerdictResult.NOT_HELD:
                raise NotHeld(f"{known!r} is not held, it runs; `sweep` can end running processes", known)
            case _:
                first = self.describe_verdict(known) or "longer ago than the history goes back, or beside this monitor"
                raise AlreadyAnswered(f"{known!r} has had its verdict: {first}; a second one changes nothing", known)

    def _answer_by_hand(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        if not isinstance(process, ProcessHelper | int):
            raise TypeError(f"a ProcessHelper or its pid is wanted, not {process!r}")
        known = process if isinstance(process, ProcessHelper) else self._find(process)
        ruling = Ruling(verdict, DecidedBy.USER)
        late = ruling.decision(known, result=VerdictResult.ANSWERED)
        if (hold := self.held.get(known.identity)) is None:
            with self._fetching:  # it may be on its way into `held`
                if (hold := self.held.get(known.identity)) is None:
                    return late if self.describe_verdict(known) else self._answer_unfetched(known, ruling)
        answered = self.answer(hold, ruling)
        if answered is not None and answered.result is None:
            raise GateClosed(f"the gate failed or was closed before it could answer {known!r}, and lets go by itself")
        return answered or late

    def _answer_unfetched(self, process: ProcessHelper, ruling: Ruling) -> Decision:
        """Answer a process whose record the gate has not given yet; it will come with its verdict."""
        self._sinks.write_ahead([decision := ruling.decision(process)])
        self._by_hand.add(process.identity)
        try:
            [result] = (self._gate.block if ruling.blocks else self._gate.allow)(process)
        finally:
            self._by_hand.discard(process.identity)
        decision = replace(decision, result=result)
        if result is VerdictResult.DONE:
            with self.lock:
                self.counts["held"] += 1
                self._note(decision, True)
            self._sinks.start()
        else:
            self._sinks.write_ahead([decision])
        return decision

    def _find(self, pid: int) -> ProcessHelper:
        with self.lock:
            held = [hold.process for hold in self.held.values() if hold.process.pid == pid]
            answered = [decision.process for decision in self.history if decision.process.pid == pid]
        if held:
            return held[-1]
        running = [] if self._gate.closed else [process for process in self._gate.snapshot() if process.pid == pid]
        for process in (*running, *reversed(answered)):
            return process
        raise StaleProcess(f"{self._gate.name} knows no process with pid {pid}: it has gone, or was never seen", pid)

    def describe_verdict(self, process: ProcessHelper) -> str:
        """The verdict of a process in words, as far as the history goes back; "" when it is not there."""
        with self.lock:
            hold = self.held.get(process.identity)
            if hold is not None and hold.ruling is not None:
                return _in_words(hold.ruling)
            for decision in reversed(self.history):
                if decision.process == process and decision.result in (VerdictResult.DONE, None):
                    return _in_words(decision)
        return ""

    # -------------------------------------------------------------------------------------------------- its end

    def wait_until_sent(self, timeout: float) -> bool:
        """Wait until no verdict is being sent; False when one was after `timeout` seconds."""
        with self.lock:
            return self._changed.wait_for(lambda: not self._sending, timeout)

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until nothing is held; False when something was after `timeout` seconds."""
        with self.lock:
            return self._changed.wait_for(lambda: not self.held, timeout)

    def abandon(self, ruling: Ruling) -> None:
        """Note all that a stop could not have answered: the gate hung or failed, and is closed now, which let it go."""
        with self.lock:
            self._is_over = True
            for hold in list(self.held.values()):
                hold.ruling = hold.ruling or ruling
                self._finish(hold, self._decision(hold))
            self._batch.clear()
        self._sinks.start()

    # ------------------------------------------------------------------------------------------------- decisions

    def note_swept(self, decision: Decision) -> None:
        """Keep and write what was done to a process that was never held."""
        with self.lock:
            self._keep(decision)
        self._sinks.start()

    def _note(self, decision: Decision, written_ahead: bool) -> None:
        if decision.result is VerdictResult.DONE:
            self._keep_decider(decision.process, decision.by)
            blocked = decision.verdict is Verdict.BLOCK and not decision.audited
            self.counts["blocked" if blocked else "allowed"] += 1
            self.longest_hold = max(self.longest_hold, decision.held_for)
        else:
            self.counts["stale"] += 1
        self._keep(decision, written_ahead and decision.result in (VerdictResult.DONE, None))

    def _keep_decider(self, process: ProcessHelper, by: DecidedBy) -> None:
        self._deciders[process.identity] = by
        if len(self._deciders) > DECIDERS:
            del self._deciders[next(iter(self._deciders))]

    def _keep(self, decision: Decision, written_ahead: bool = False) -> None:
        self.history.append(decision)
        self._sinks.put(decision, written_ahead=written_ahead)


def _in_words(decided: Ruling | Decision) -> str:
    return f"{decided.verdict.value} by {decided.by.value} {decided.who}".rstrip()
