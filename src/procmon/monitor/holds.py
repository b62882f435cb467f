"""The held processes and the decisions of a monitor: each process decided once; each decision counted, kept, written.

A `Case` is *decided* when its ruling is set, under the lock and only once. Its verdict is then *sent* to the gate, with
those of other cases in one call. When the gate has returned, the same thread *notes* the decision: in one step under
the lock it removes the case from `held`, counts the decision, adds it to the history, and queues it for the sinks. So
history, statistics and sinks agree at every moment.

Two other threads can note a case. One learns that the gate has an answer from another caller, a *direct* answer. The
other is the stop, if the gate does not return.

No thread holds the lock while it calls the gate, a sink or the log. The lock is reentrant because the garbage collector
may run a user's finalizer, which calls a monitor, in a thread that holds it.
"""

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import AlreadyAnswered, GateClosed, NotHeld, ProcessTampered, StaleProcess
from ..gates.base import Gate
from ..records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.log import ERROR, log_soon
from ..util.recent import Recent
from ..util.threads import run_in_thread
from .cases import Case
from .sinks import Sinks
from .subscriptions import Ruling

__all__ = ["BATCH_S", "HoldTable"]

BATCH_S = 0.002
"""Longest time that a verdict waits for others, to be sent in one call with them."""

DECIDERS = 25_000
"""The deciders of the latest processes are kept until these exit, for at least this number of processes."""


class HoldTable:
    """The held cases, the history and the counts of one monitor."""

    def __init__(
        self, gate: Gate, history: int, sinks: Sinks, on_failure: Callable[[BaseException, str], None]
    ) -> None:
        self.lock = threading.RLock()
        self.held: dict[tuple[int, int], Case] = {}
        self.history: deque[Case] = deque(maxlen=min(history, sys.maxsize))
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
        self._sending = 0  # calls of `_send` that have not returned from the gate
        self._fetching = threading.RLock()  # taken before `lock`, and held while the gate fetches
        self._deciders = Recent[tuple[int, int], DecidedBy](DECIDERS)  # of answered processes that have not exited
        self._refused = Recent[tuple[int, int], None](DECIDERS)  # processes whose verdict came too late
        self._answering_unfetched: set[tuple[int, int]] = set()  # for which `_answer_unfetched` calls the gate
        self._is_over = False  # all cases have been noted, and no more will be

    # ---------------------------------------------------------------------------------------------- from the gate

    def fetch(self) -> list[Case]:
        """Fetch from the gate; return the cases to decide, and the exits, in order."""
        with self._fetching:
            records = self._gate.fetch()
            now = time.monotonic()
            with self.lock:
                self.counts["fetched"] += len(records)
                cases = [case for record in records if (case := self._take_in(record, now)) is not None]
        for record in records:
            if record.flags and ProcessFlags.TERMINATE_FAILED in record.flags and not record.exited:
                text = "process %d (%s) was blocked and cannot be terminated yet: it stays held, tried every second"
                log_soon(ERROR, text, record.pid, record.image_name)
        self._sinks.start()  # for the decisions of the gate itself
        return cases

    def _take_in(self, record: ProcessHelper, now: float) -> Case | None:
        identity = record.identity
        case = self.held.get(identity)
        if record.exited:
            self.counts["exited"] += 1
            if record.verdict is not None and self._is_news(record, case):
                self._note_gate_verdict(_before_exit(record), record.verdict, case, now)
            elif case is not None and case.ruling is None:
                if record.verdict is not None and record.decided_by is DecidedBy.CONTROLLER:
                    self._note_direct(record, Ruling(record.verdict, DecidedBy.CONTROLLER), now)
                else:  # it was killed while it was held
                    self._drop(case, Ruling(Verdict.ALLOW, DecidedBy.NO_CONTROLLER))
                    self.counts["stale"] += 1
            return Case(self._with_decider(record, case), identity)
        undying = bool(record.flags) and ProcessFlags.TERMINATE_FAILED in record.flags
        self.counts["terminate_failed"] += undying
        if record.paused:
            # A process that the gate returns again was decided in between if the table no longer has it.
            if case is None and not record.seen and identity not in self._deciders:
                self.counts["held"] += 1
                self.held[identity] = case = Case(record, identity, now)
                return case
            if case is not None and case.ruling is None:
                case.process = record  # for example, another process has created a thread in it meanwhile
        elif record.verdict is not None and self._is_news(record, case):
            self._note_gate_verdict(record, record.verdict, case, now)
        return None

    def _is_news(self, record: ProcessHelper, case: Case | None) -> bool:
        """Whether the gate decided by itself, and this record is the first to say so.

        A driver has one record for each process. A process that exits before the next fetch is returned once, as an
        exit: then the exit is the first record with the verdict. Other gates return both.
        """
        repeats = record.exited or ProcessFlags.TERMINATE_FAILED in record.flags  # what an earlier record may have said
        if record.decided_by is DecidedBy.TAMPER and ProcessFlags.TAMPERED in record.flags:
            return not repeats  # the check before a release returns a record of its own
        if record.identity in self._deciders:
            return False
        if record.decided_by is DecidedBy.CONTROLLER:  # a direct answer before the first fetch, in this session?
            return not (case is not None or record.seen or ProcessFlags.RUNNING_BEFORE in record.flags)
        # Without a case, a process that was fetched has been noted, even if `_deciders` has forgotten it meanwhile.
        return not (repeats and record.seen) or case is not None or record.identity in self._refused

    def _with_decider(self, record: ProcessHelper, case: Case | None) -> ProcessHelper:
        """The record of an exit. Where the gate knows only that its controller decided, the decider is added."""
        if record.decided_by is not DecidedBy.CONTROLLER:
            self._deciders.discard(record.identity)
            return record
        by = self._deciders.get(record.identity, DecidedBy.CONTROLLER)
        if case is not None and case.ruling is not None:  # its verdict is being sent
            by = case.ruling.by
        if by is DecidedBy.CONTROLLER:  # keep the decider: `hear_answers` may still come, and looks for it
            return record
        self._deciders.discard(record.identity)
        return replace(record, decided_by=by)

    def _note_gate_verdict(self, record: ProcessHelper, verdict: Verdict, case: Case | None, now: float) -> None:
        held_for = 0.0
        self.counts["gate_decided"] += 1
        self.counts["tampered"] += ProcessFlags.TAMPERED in record.flags
        ruling = Ruling(verdict, record.decided_by or DecidedBy.NO_CONTROLLER)
        if case is not None and case.ruling is None:
            self._drop(case, ruling)
            held_for = now - case.since
            self.counts["blocked" if verdict is Verdict.BLOCK else "allowed"] += 1
        self._deciders[record.identity] = ruling.by
        self._keep([Case.of(ruling.decision(record, held_for))])

    def hear_answers(
        self, processes: Sequence[ProcessHelper], verdict: Verdict, results: Sequence[VerdictResult]
    ) -> None:
        """Note the direct answers: verdicts that the gate got from another caller than this table. The gate calls this
        after each verdict, from any thread.

        A process that this table answered has a decided case, or is in `_answering_unfetched`. Any other answer is
        direct. The record of its process may be in the table or on its way there. It may also be still at the gate;
        then `fetch` returns it later, with its verdict. The first thread to see the verdict notes the decision, the
        others find its decider.
        """
        direct = [
            process
            for process, result in zip(processes, results, strict=True)
            if result is VerdictResult.DONE
            and ((case := self.held.get(process.identity)) is None or case.ruling is None)
            and process.identity not in self._answering_unfetched
        ]
        if direct:
            run_in_thread(self._note_all_direct, direct, Ruling(verdict, DecidedBy.CONTROLLER))

    def _note_all_direct(self, processes: list[ProcessHelper], ruling: Ruling) -> None:
        with self.lock:
            for process in processes:
                self._note_direct(process, ruling, time.monotonic())
        self._sinks.start()

    def _note_direct(self, process: ProcessHelper, ruling: Ruling, now: float) -> None:
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
        """Remove an undecided case that needs no verdict any more; a thread that asks about it finds it decided."""
        case.ruling = ruling
        del self.held[case.identity]
        self.note_change()

    # ------------------------------------------------------------------------------------------------ to the gate

    def decide(self, case: Case, ruling: Ruling) -> None:
        """Decide a case unless it is decided; the next `flush` sends its verdict. With DEFER it stays held, and its
        deadline decides no more: the thread that asked about it may hang in a call that sends other verdicts."""
        with self.lock:
            if case.ruling is not None or (case.deferred and ruling.by is DecidedBy.DEADLINE):
                return
            if ruling.defers:
                self.counts["deferred"] += not case.deferred
                case.deferred = True
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
        """Send the verdicts that wait, unless `more` follow and the first has not waited for `BATCH_S`.

        A batch that is not sent here is not forgotten. While `batching` is true, the leader checks for batches. The
        leader first resets `batching`, then checks once more. So either the leader sees this batch, or this thread sees
        the reset, and sends the batch itself.
        """
        if not more or self.is_late:
            self.flush()

    @property
    def is_late(self) -> bool:
        """A verdict has waited for others for `BATCH_S`, or no thread checks for it any more."""
        return bool(self._batch) and (not self.batching or time.monotonic() - self._batch_since > BATCH_S)

    def answer(self, case: Case, ruling: Ruling) -> Decision | None:
        """Decide a case and send its verdict at once; None when it is already decided."""
        with self.lock:
            if case.ruling is not None:
                return None
            case.ruling = ruling
            self._stamp([case])
            self._sending += 1
        return case.make_decision(self._send([case]).get(case))

    def release(self, ruling: Ruling) -> None:
        """Decide all undecided cases, and send all verdicts that wait, because the monitor stops."""
        with self.lock:
            for case in list(self.held.values()):  # a finalizer may answer one meanwhile
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
        """Send verdicts, with one call of the gate for each kind; then note the decisions. Return the results."""
        results: dict[Case, VerdictResult] = {}
        failure: BaseException | None = None
        try:
            if self._sinks.writes_ahead:
                self._sinks.write_ahead([case.make_decision(None) for case in batch if case.is_for_sinks])
                for case in batch:
                    case.written_ahead = True
        except BaseException as error:  # out of memory, say: the verdicts are sent all the same
            failure = error
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
            # A stop that gave up waiting has removed and noted the others.
            self._note([case for case in batch if self.held.pop(case.identity, None) is not None], results)
        self.note_change()
        self._sinks.start()
        if failure is not None and not isinstance(failure, GateClosed):
            self._on_failure(failure, f"answering {batch[0].process!r}")
        return results

    def _note(self, cases: list[Case], results: Mapping[Case, VerdictResult]) -> None:
        """Count and keep decided cases that are no longer in `held`."""
        for case in cases:
            case.subscriptions = ()  # the history keeps no callback alive
            case.result = results.get(case)
            tampered = case.result is VerdictResult.TAMPERED
            if (case.result is not VerdictResult.DONE and not tampered) or case.ruling is None:
                self.counts["stale"] += 1
                self._refused[case.identity] = None
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

        With the GIL the copy is atomic. A free-threaded Python raises if another thread adds to the history during the
        copy. Then a helper thread makes the copy under the lock, where this cannot happen.
        """
        try:
            return list(self.history)
        except RuntimeError:
            return run_in_thread(self._recorded_locked)

    def _recorded_locked(self) -> list[Case]:
        with self.lock:
            return list(self.history)

    # ------------------------------------------------------------------------------------------------- by the user

    def answer_for_user(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
        """Send the user's verdict.

        Raises: StaleProcess, NotHeld, AlreadyAnswered, ProcessTampered, GateClosed, and what the gate raises.
        """
        decision = self._answer_for_user(process, verdict)
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
                first = self.describe_verdict(known) or "longer ago than the history goes back, or at the gate itself"
                raise AlreadyAnswered(f"{known!r} has had its verdict: {first}; a second one changes nothing", known)

    def _answer_for_user(self, process: ProcessHelper | int, verdict: Verdict) -> Decision:
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
            raise GateClosed(f"the gate failed or was closed before it could answer {known!r}, and releases it itself")
        return answered or late

    def _answer_unfetched(self, process: ProcessHelper, ruling: Ruling) -> Decision:
        """Answer a process whose record is not fetched yet; `fetch` will return the record with its verdict."""
        self._sinks.write_ahead([decision := ruling.decision(process)])
        self._answering_unfetched.add(process.identity)
        try:
            [result] = (self._gate.block if ruling.blocks else self._gate.allow)(process)
        finally:
            self._answering_unfetched.discard(process.identity)
        case = Case(process, process.identity, ruling=ruling, at=decision.at, result=result, written_ahead=True)
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
            held = [case.process for case in list(self.held.values()) if case.process.pid == pid]
            answered = [case.process for case in list(self.history) if case.process.pid == pid]
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
            for case in reversed(list(self.history)):
                if case.identity == process.identity and case.result in (VerdictResult.DONE, None):
                    return _in_words(case.decision)
        return ""

    # -------------------------------------------------------------------------------------------------- its end

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition, checked at each `note_change`; False when `timeout` seconds passed first."""
        with self.lock:
            self._waiting += 1  # before the first check: `note_change` reads it after the change
            try:
                return self._changed.wait_for(condition, timeout)
            finally:
                self._waiting -= 1

    def wait_until_sent(self, timeout: float) -> bool:
        """Wait until no verdict is being sent; False when `timeout` seconds passed first."""
        return self.wait_until(lambda: not self._sending, timeout)

    def note_change(self) -> None:
        """Wake the threads in `wait_until`. To be called after a change of what is held, being sent or being asked."""
        if self._waiting:
            with self.lock:
                self._changed.notify_all()

    def abandon(self, ruling: Ruling) -> None:
        """Note all cases that a stop could not answer: the gate hung or failed, and its close released them."""
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
        """Keep and write the decision about a process that was never held."""
        with self.lock:
            self._keep([Case.of(decision)])
        self._sinks.start()


def _before_exit(record: ProcessHelper) -> ProcessHelper:
    """The record that a gate would have returned between the verdict and the exit."""
    return replace(record, exited=False, exit_status=None, exited_at=None)


def _in_words(decided: Ruling | Decision) -> str:
    return f"{decided.verdict.value} by {decided.by.value} {decided.who}".rstrip()
