"""What a monitor holds and has decided: each process decided once; each decision counted, kept and written.

A `Case` is *decided* when it gets its ruling, under the lock and only once. Its verdict is then sent with those of
other cases in one call of the gate. A case leaves `held` in the same step in which its decision is counted, kept and
queued for the sinks, and whoever takes it out does that: the thread that sent its verdict, or, where the gate has not
returned from it, the stop that gives up waiting. So history, statistics and sinks agree at every moment.

The lock is never held while the gate, a sink or the log is called. It is reentrant because the garbage collector may
run a user's finalizer, which calls a monitor, in a thread that has it.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from logging import ERROR

from ..errors import AlreadyAnswered, GateClosed, NotHeld, ProcessTampered, StaleProcess
from ..gates.base import Gate
from ..records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.log import log
from ..util.recent import Recent
from ..util.threads import run_in_thread
from .cases import Case
from .sinks import Sinks
from .subscriptions import Ruling

__all__ = ["BATCH_S", "HoldTable"]

BATCH_S = 0.002
"""Longest time that a verdict waits for others, to be sent in one call with them."""

DECIDERS = 25_000
"""Processes of which it is kept, until they exit, who decided: the latest ones, so many at least."""


class HoldTable:
    """The cases that are held, the history and the counts of one monitor."""

    def __init__(
        self, gate: Gate, history: int, sinks: Sinks, on_failure: Callable[[BaseException, str], None]
    ) -> None:
        self.lock = threading.RLock()
        self.held: dict[tuple[int, int], Case] = {}
        self.history: deque[Case] = deque(maxlen=history)
        self.counts: Counter[str] = Counter()
        self.longest_hold = 0.0
        self.batching = False
        """A verdict may wait for others; see `flush_unless_more`."""
        self._gate = gate
        self._sinks = sinks
        self._on_failure = on_failure
        self._changed = threading.Condition(self.lock)
        self._waiting = 0  # threads in `wait_until`
        self._batch: list[Case] = []  # decided, not yet sent
        self._batch_since = 0.0
        self._sending = 0  # batches for which the gate has been called and has not returned
        self._fetching = threading.RLock()  # taken before `lock`, and held while the gate fetches
        self._deciders = Recent[tuple[int, int], DecidedBy](DECIDERS)  # of what was answered and has not exited
        self._by_hand: set[tuple[int, int]] = set()  # for which `_answer_unfetched` calls the gate
        self._is_over = False  # all has been noted, and nothing more is

    # ---------------------------------------------------------------------------------------------- from the gate

    def fetch(self) -> list[Case]:
        """Take in what is new at the gate: what is held and to be decided, and exits, in order."""
        with self._fetching:
            records = self._gate.fetch()
            now = time.monotonic()
            with self.lock:
                self.counts["fetched"] += len(records)
                cases = [case for record in records if (case := self._take_in(record, now)) is not None]
        for record in records:
            if record.flags and ProcessFlags.TERMINATE_FAILED in record.flags and not record.exited:
                text = "process %d (%s) was blocked and cannot be terminated yet: it stays held, tried every second"
                log(ERROR, text, record.pid, record.image_name)
        self._sinks.start()  # for what the gate itself has decided
        return cases

    def _take_in(self, record: ProcessHelper, now: float) -> Case | None:
        identity = record.identity
        case = self.held.get(identity)
        if record.exited:
            self.counts["exited"] += 1
            if case is not None and case.ruling is None:
                if record.verdict is not None and record.decided_by is DecidedBy.CONTROLLER:
                    self._note_beside(record, Ruling(record.verdict, DecidedBy.CONTROLLER), now)
                else:  # it was killed while it was held
                    self._drop(case, Ruling(Verdict.ALLOW, DecidedBy.NO_CONTROLLER))
                    self.counts["stale"] += 1
            return Case(self._with_decider(record, case), identity)
        undying = bool(record.flags) and ProcessFlags.TERMINATE_FAILED in record.flags
        self.counts["terminate_failed"] += undying
        if record.paused:
            # One that the gate shows again has been decided in between, if it is not in the table any more.
            if case is None and not record.seen and identity not in self._deciders:
                self.counts["held"] += 1
                self.held[identity] = case = Case(record, identity, now)
                return case
        elif record.verdict is not None and not self._is_known(record, case) and not (undying and record.seen):
            self._note_the_gates(record, record.verdict, case, now)
        return None

    def _is_known(self, record: ProcessHelper, case: Case | None) -> bool:
        """The verdict was given to the gate from here, or in the session of another controller."""
        return record.decided_by is DecidedBy.CONTROLLER and (
            record.identity in self._deciders or case is not None or ProcessFlags.RUNNING_BEFORE in record.flags
        )

    def _with_decider(self, record: ProcessHelper, case: Case | None) -> ProcessHelper:
        """The record of an exit, with who decided, where the gate knows only that it was told."""
        if record.decided_by is not DecidedBy.CONTROLLER:
            return record
        by = self._deciders.get(record.identity, DecidedBy.CONTROLLER)
        if case is not None and case.ruling is not None:  # its verdict is just being sent
            by = case.ruling.by
        if by is DecidedBy.CONTROLLER:  # it may be about to be heard, and is known by its decider
            return record
        self._deciders.discard(record.identity)
        return replace(record, decided_by=by)

    def _note_the_gates(self, record: ProcessHelper, verdict: Verdict, case: Case | None, now: float) -> None:
        held_for = 0.0
        self.counts["gate_decided"] += 1
        self.counts["tampered"] += ProcessFlags.TAMPERED in record.flags
        ruling = Ruling(verdict, record.decided_by or DecidedBy.NO_CONTROLLER)
        if case is not None and case.ruling is None:
            self._drop(case, ruling)
            held_for = now - case.since
            self.counts["blocked" if verdict is Verdict.BLOCK else "allowed"] += 1
        if ruling.by is DecidedBy.CONTROLLER:
            self._deciders[record.identity] = ruling.by
        self._keep([Case.of(ruling.decision(record, held_for))])

    def hear_answers(
        self, processes: Sequence[ProcessHelper], verdict: Verdict, results: Sequence[VerdictResult]
    ) -> None:
        """Note what the gate was told beside this table; the gate calls it after each verdict, from any thread.

        What was told from here has a case that is decided, or is in `_by_hand`. The record of another one may be in
        the table, on its way there, or still at the gate, which gives it with its verdict, or with its exit as well.
        Whoever comes first notes the decision, and the others find its decider.
        """
        beside = [
            process
            for process, result in zip(processes, results, strict=True)
            if result is VerdictResult.DONE
            and ((case := self.held.get(process.identity)) is None or case.ruling is None)
            and process.identity not in self._by_hand
        ]
        if beside:
            run_in_thread(self._note_all_beside, beside, Ruling(verdict, DecidedBy.CONTROLLER))

    def _note_all_beside(self, processes: list[ProcessHelper], ruling: Ruling) -> None:
        with self.lock:
            for process in processes:
                self._note_beside(process, ruling, time.monotonic())
        self._sinks.start()

    def _note_beside(self, process: ProcessHelper, ruling: Ruling, now: float) -> None:
        identity = process.identity
        case = self.held.get(identity)
        if self._is_over or identity in self._deciders or (case is not None and case.ruling is not None):
            return
        if case is None:
            self.counts["held"] += 1
            case = Case(process, identity, now, ruling=ruling)
        else:
            self._drop(case, ruling)
        self._stamp([case])
        self._note([case], {case: VerdictResult.DONE})

    def _drop(self, case: Case, ruling: Ruling) -> None:
        """Take out an undecided case that needs no verdict any more; a thread that asks about it finds it decided."""
        case.ruling = ruling
        del self.held[case.identity]
        self.note_change()

    # ------------------------------------------------------------------------------------------------ to the gate

    def decide(self, case: Case, ruling: Ruling) -> None:
        """Decide a case unless it is decided; its verdict is sent by the next `flush`. DEFER goes on holding."""
        with self.lock:
            if case.ruling is not None:
                return
            if ruling.defers:
                self.counts["deferred"] += 1
                return
            case.ruling = ruling
            if not self._batch:
                self._batch_since = time.monotonic()
            self._batch.append(case)

    def flush(self) -> None:
        """Send the verdicts that wait."""
        with self.lock:
            batch, self._batch = self._batch, []
            if not batch:
                return
            self._stamp(batch)
            self._sending += 1
        self._send(batch)

    def flush_unless_more(self, more: bool) -> None:
        """Send the verdicts that wait, unless `more` are coming and the first has not waited for long.

        What is left here is not forgotten: `batching` is true, so the leader looks after it. The leader resets
        `batching` before it looks for the last time; so either it sees this batch, or this thread sees the reset.
        """
        if not more or self.is_late:
            self.flush()

    @property
    def is_late(self) -> bool:
        """A verdict has waited for others as long as it may, or nothing looks after it any more."""
        return bool(self._batch) and (not self.batching or time.monotonic() - self._batch_since > BATCH_S)

    def answer(self, case: Case, ruling: Ruling) -> Decision | None:
        """Decide a case and send its verdict at once; None when it was decided before."""
        with self.lock:
            if case.ruling is not None:
                return None
            case.ruling = ruling
            self._stamp([case])
            self._sending += 1
        return case.decide(self._send([case]).get(case))

    def release(self, ruling: Ruling) -> None:
        """Decide all cases that are undecided, and send all verdicts that wait, because the monitor stops."""
        with self.lock:
            for case in self.held.values():
                if case.ruling is None:
                    case.ruling = ruling
                    self._batch.append(case)
        self.flush()

    @staticmethod
    def _stamp(batch: list[Case]) -> None:
        at, now = datetime.now(UTC), time.monotonic()
        for case in batch:
            case.at = at
            case.held_for = now - case.since

    def _send(self, batch: list[Case]) -> dict[Case, VerdictResult]:
        """Send verdicts, all of one kind in one call of the gate; then note the decisions. Returns the results."""
        if self._sinks.writes_ahead:
            self._sinks.write_ahead([case.decide(None) for case in batch if case.is_for_sinks])
            for case in batch:
                case.written_ahead = True
        results: dict[Case, VerdictResult] = {}
        failure: BaseException | None = None
        blocked = [case for case in batch if case.blocks]
        allowed = [case for case in batch if not case.blocks] if blocked else batch
        for call, cases in ((self._gate.allow, allowed), (self._gate.block, blocked)):
            if cases:
                try:
                    results.update(zip(cases, call(*[case.process for case in cases]), strict=True))
                except BaseException as error:
                    failure = error
        with self.lock:
            self._sending -= 1
            # Not those that a stop which gave up waiting has noted.
            self._note([case for case in batch if self.held.pop(case.identity, None) is not None], results)
        self.note_change()
        self._sinks.start()
        if failure is not None and not isinstance(failure, GateClosed):
            self._on_failure(failure, f"answering {batch[0].process!r}")
        return results

    def _note(self, cases: list[Case], results: Mapping[Case, VerdictResult]) -> None:
        """Count and keep decided cases, which have just been taken out of `held`."""
        for case in cases:
            case.subscriptions = ()  # the history keeps no callback alive
            case.result = results.get(case)
            tampered = case.result is VerdictResult.TAMPERED
            if (case.result is not VerdictResult.DONE and not tampered) or case.ruling is None:
                self.counts["stale"] += 1
                continue
            self._deciders[case.identity] = DecidedBy.TAMPER if tampered else case.ruling.by
            self.counts["blocked" if case.ruling.blocks or tampered else "allowed"] += 1
            if case.held_for > self.longest_hold:
                self.longest_hold = case.held_for
        self._keep(cases)

    def _keep(self, cases: Iterable[Case]) -> None:
        self.history.extend(cases)
        self._sinks.put(cases)

    def recorded(self) -> list[Case]:
        """The history, oldest first; Ctrl+C does not wait for the lock.

        With the GIL a copy is one step. A free-threaded Python may find that another thread adds to the history
        meanwhile, and raises. A copy under the lock cannot fail so, and a helper thread makes it.
        """
        try:
            return list(self.history)
        except RuntimeError:
            return run_in_thread(self._recorded_locked)

    def _recorded_locked(self) -> list[Case]:
        with self.lock:
            return list(self.history)

    # -------------------------------------------------------------------------------------------------- by hand

    def answer_by_hand(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        """Send the user's verdict.

        Raises: StaleProcess, NotHeld, AlreadyAnswered, ProcessTampered, GateClosed, or whatever the gate raises.
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
            case VerdictResult.TAMPERED:
                text = f"{known!r} was blocked, not allowed: the log has what was found in its memory (on_tamper)"
                raise ProcessTampered(text, known)
            case _:
                first = self.describe_verdict(known) or "longer ago than the history goes back, or beside this monitor"
                raise AlreadyAnswered(f"{known!r} has had its verdict: {first}; a second one changes nothing", known)

    def _answer_by_hand(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        if not isinstance(process, ProcessHelper | int):
            raise TypeError(f"a ProcessHelper or its pid is wanted, not {process!r}")
        known = process if isinstance(process, ProcessHelper) else self._find(process)
        ruling = Ruling(verdict, DecidedBy.USER)
        late = ruling.decision(known, result=VerdictResult.ANSWERED)
        if (case := self.held.get(known.identity)) is None:
            with self._fetching:  # it may be on its way into `held`
                if (case := self.held.get(known.identity)) is None:
                    return late if self.describe_verdict(known) else self._answer_unfetched(known, ruling)
        answered = self.answer(case, ruling)
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
        case = Case.of(replace(decision, result=result))
        case.written_ahead = True
        if result is VerdictResult.DONE:
            with self.lock:
                self.counts["held"] += 1
                self.counts["blocked" if ruling.blocks else "allowed"] += 1
                self._deciders[case.identity] = ruling.by
                self._keep([case])
            self._sinks.start()
        else:
            self._sinks.write_ahead([case.decision])
        return case.decision

    def _find(self, pid: int) -> ProcessHelper:
        with self.lock:
            held = [case.process for case in self.held.values() if case.process.pid == pid]
            answered = [case.process for case in self.history if case.process.pid == pid]
        if held:
            return held[-1]
        running = [] if self._gate.closed else [process for process in self._gate.snapshot() if process.pid == pid]
        for process in (*running, *reversed(answered)):
            return process
        raise StaleProcess(f"{self._gate.name} knows no process with pid {pid}: it has gone, or was never seen", pid)

    def describe_verdict(self, process: ProcessHelper) -> str:
        """The verdict of a process in words, as far as the history goes back; "" when it is not there."""
        with self.lock:
            case = self.held.get(process.identity)
            if case is not None and case.ruling is not None:
                return _in_words(case.ruling)
            for case in reversed(self.history):
                if case.identity == process.identity and case.result in (VerdictResult.DONE, None):
                    return _in_words(case.decision)
        return ""

    # -------------------------------------------------------------------------------------------------- its end

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until something is true of which `note_change` tells; False when it was not after `timeout` seconds."""
        with self.lock:
            self._waiting += 1  # before it asks: see `note_change`
            try:
                return self._changed.wait_for(condition, timeout)
            finally:
                self._waiting -= 1

    def wait_until_sent(self, timeout: float) -> bool:
        """Wait until no verdict is being sent; False when one was after `timeout` seconds."""
        return self.wait_until(lambda: not self._sending, timeout)

    def note_change(self) -> None:
        """Something has changed for which a thread may wait: what is held, being sent, or being asked. Call it then."""
        if self._waiting:
            with self.lock:
                self._changed.notify_all()

    def abandon(self, ruling: Ruling) -> None:
        """Note all that a stop could not have answered: the gate hung or failed, and is closed now, which let it go."""
        with self.lock:
            self._is_over = True
            left = list(self.held.values())
            self.held.clear()
            self._batch.clear()
            self._stamp(left)
            for case in left:
                case.ruling = case.ruling or ruling
            self._note(left, {})
        self._sinks.start()

    def note_swept(self, decision: Decision) -> None:
        """Keep and write what was done to a process that was never held."""
        with self.lock:
            self._keep([Case.of(decision)])
        self._sinks.start()


def _in_words(decided: Ruling | Decision) -> str:
    return f"{decided.verdict.value} by {decided.by.value} {decided.who}".rstrip()
