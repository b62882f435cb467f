"""The threads that ask the callbacks, and what happens to a callback that outlasts the deadline.

All threads of the pool wait at one queue of *roles*, which are functions. A thread plays one role after the other.
`Engine` has the roles of the leader and of the thread that stands by; `Workers.ask` is the role of a thread that asks.

What is guaranteed. At most `Options.workers` threads ask at once. The pool has one thread more, so one is always left
for the gate. A thread that is stuck in a callback past the deadline is given up: it no longer counts, another thread is
started in its place, and it ends when its callback returns. A coroutine occupies no thread of the pool while it runs:
its case waits for the loop, and returns to the queue of cases with the result.

What can interleave. `_resume` takes no lock. So it may add a case to the queue just after a thread found the queue
empty and stopped asking. That is why `_resume` also queues the role `ask`, after the case. The thread that plays this
role checks the queue again, under the lock. It finds the case, or another thread has taken it.
"""

import inspect
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from ..records import DecidedBy, Verdict
from ..util.log import ERROR, WARNING, log, log_soon
from ..util.threads import OwnThread, submit
from .cases import Case
from .deadlines import Deadlines
from .event_loop import Awaiting, LoopThread, close
from .holds import HoldTable
from .self_deadlock import CallbackThreads
from .sinks import Sink
from .subscriptions import Ruling, read_opinion

__all__ = ["Options", "Workers"]

_NO_LOCK = nullcontext()

_VERDICTS = "the gate, or a sink that writes ahead,"
"""`Case.name` once its callbacks have returned: the calls that may hang from then on, with the verdicts of any case."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the user; see `Monitor`."""

    default: Verdict
    fail: Verdict
    on_error: Verdict
    deadline: float | None
    on_deadline: Verdict
    workers: int
    own: Verdict | None
    history: int
    sinks: tuple[Sink, ...]


@dataclass(slots=True, eq=False)
class _Asker:
    """A thread that asks callbacks, and its current case."""

    case: Case | None = None
    given_up: bool = False
    stops: bool = False
    """The callback that it calls has stopped the monitor."""


class Workers:
    """The pool, its cases and their deadlines. `_lock` guards the state; `holds` has the reason why it is reentrant."""

    def __init__(self, options: Options, holds: HoldTable, on_failure: Callable[[BaseException, str], None]) -> None:
        self.options = options
        self.callback_threads = CallbackThreads()
        self.loops = LoopThread()
        self.counts: Counter[str] = Counter()
        self.begun = 0
        """Number of cases begun. If it does not change while cases are queued, no thread has become free."""
        self.is_over = False
        """No callback is asked any more."""
        self._holds = holds
        self._on_failure = on_failure
        self._default = Ruling(options.default, DecidedBy.DEFAULT)
        self._roles: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._cases: deque[Case] = deque()
        self._lock = threading.RLock()
        self._askers: set[_Asker] = set()
        self._current = threading.local()  # its `asker`: that of the calling thread
        self._stoppers: list[_Asker] = []  # whose callback has stopped the monitor
        self._awaiting: set[Case] = set()
        self._deadlines = Deadlines(options.deadline)
        self._started = 0
        self._hanging = 0

    # ------------------------------------------------------------------------------------------------ the threads

    def start(self) -> None:
        """Start the threads. Raises: RuntimeError when the system gives none."""
        for _ in range(self.options.workers + 1):
            self._start_one()

    def play(self, role: Callable[[], object]) -> None:
        """Have a thread of the pool call a function soon."""
        self._roles.put(role)

    def close(self) -> None:
        """Cancel the awaited callbacks, and end each thread after its current role."""
        self.is_over = True
        self._roles.put(None)
        with self._lock:
            self._cases.clear()
            awaiting, self._awaiting = self._awaiting, set()
        for case in awaiting:
            self._cancel(case)
        self.loops.close()

    def has_role_within(self, seconds: float) -> bool:
        """Wait up to `seconds` for a role; return whether there is one. The role goes back into the queue."""
        try:
            role = self._roles.get(timeout=seconds)
        except Empty:
            return False
        self._roles.put(role)
        return True

    def _start_one(self) -> None:
        self._started += 1
        OwnThread(self._work, f"worker {self._started}").start()

    def _work(self) -> None:
        while (role := self._roles.get()) is not None:
            try:
                if role() is False:
                    return  # it was given up, and another thread has its place
            except BaseException as error:  # the leader may be lost: no thread would wait at the gate any more
                self._on_failure(error, "a worker")
        self._roles.put(None)  # for the next thread

    # -------------------------------------------------------------------------------------------------- the cases

    def add(self, cases: list[Case]) -> bool:
        """Queue cases, and wake the other threads that may ask; return whether the calling thread may ask, too."""
        with self._lock:
            self._cases.extend(cases)
            free = min(len(self._cases), self.options.workers - len(self._askers))
        for _ in range(free - 1):
            self._roles.put(self.ask)
        return free > 0

    def note_stop(self) -> None:
        """A callback in the calling thread, if there is one, stops the monitor. Takes no lock: a finalizer may stop."""
        asker: _Asker | None = getattr(self._current, "asker", None)
        if asker is not None and asker.case is not None:
            asker.stops = True
            self._stoppers.append(asker)

    def have_stoppers_returned(self) -> bool:
        """Each callback that has stopped the monitor has returned, and its process is decided if it had an opinion."""
        return not any(asker.stops for asker in self._stoppers)

    @property
    def queued(self) -> int:
        """Number of cases that no thread has begun."""
        return len(self._cases)

    @property
    def is_idle(self) -> bool:
        """There is nothing to ask, and nothing is being asked."""
        return not (self._cases or self._askers or self._awaiting)

    def ask(self) -> bool:
        """Ask about queued cases until none is left; False when this thread was given up meanwhile."""
        asker, thread = _Asker(), threading.get_native_id()
        with self._lock:
            if len(self._askers) >= self.options.workers:
                return True  # these threads check the queue before they end
            self._askers.add(asker)
        self._current.asker = asker
        self.callback_threads.enter(thread)
        try:
            while (case := self._next(asker)) is not None:
                self._run(case)
                self._holds.flush_unless_more(bool(self._cases) and not self.is_over)
        except BaseException as error:
            self._on_failure(error, "asking callbacks")
        finally:
            self.callback_threads.leave(thread)
        return not asker.given_up

    def _next(self, asker: _Asker) -> Case | None:
        asker.stops = False
        with self._lock:
            if asker.given_up:
                self._hanging -= 1
                return None
            while self._cases and not self.is_over:
                case = asker.case = self._cases.popleft()
                self._awaiting.discard(case)
                if case.given_up:  # while it was awaited
                    continue
                self.begun += 1
                if case.has_returned:  # in time, however long the case has waited for this thread
                    case.due = None
                self._deadlines.begin(case)
                return case
            self._askers.discard(asker)
            asker.case = None
        self._holds.note_change()
        return None

    def _run(self, case: Case) -> None:
        """Ask the callbacks until one returns an opinion, which decides, or an awaitable, which goes to the loop."""
        process, is_held, subscriptions = case.process, not case.process.exited, case.subscriptions
        ruling, result = self._default, None
        try:
            awaited = case.awaiting
            if not case.has_returned or not is_held:
                case.awaiting = None
            if awaited is not None:
                if awaited.error is not None:
                    raise awaited.error
                result = awaited.result
            while result is None or not is_held:
                # Of an exit that is given up, `_rest_of` has the callbacks from `next` on. A start needs no lock.
                with _NO_LOCK if is_held else self._lock:
                    if case.given_up or self.is_over or case.ruling is not None:
                        return
                    if case.next >= len(subscriptions):
                        break
                    subscription = subscriptions[case.next]
                    case.next += 1
                case.name = subscription.name
                result = subscription.ask(process)
                if result is not None and not isinstance(result, Verdict) and inspect.isawaitable(result):
                    self._await(case, result)
                    return
            if result is not None and is_held:
                ruling = read_opinion(result, case.name)
        except BaseException as error:  # SystemExit and CancelledError, too: a process waits for its verdict
            with self._lock:
                if case.given_up:
                    return
                case.awaiting = None  # if the log hangs, the deadline decides
            ruling = self._note_error(case, error)
            if not is_held:
                self._cases.appendleft(case)  # an exit is reported to the other callbacks, too
        if is_held and not case.given_up:
            case.name = _VERDICTS
            self._holds.decide(case, ruling)
            case.awaiting = None  # not before: until then the verdict that it returned counts, and no deadline

    def _note_error(self, case: Case, error: BaseException) -> Ruling:
        log(ERROR, "callback %s failed on %r", case.name, case.process, error=error)
        with self._lock:
            self.counts["callback_errors"] += 1
        return self._ruling_on(error, case)

    def _ruling_on(self, error: BaseException, case: Case) -> Ruling:
        return Ruling(self.options.on_error, DecidedBy.ERROR, case.name, reason=_in_words(error))

    def _await(self, case: Case, awaitable: Awaitable[object]) -> None:
        with self._lock:
            if case.given_up or self.is_over:
                close(awaitable)
                return
            self._awaiting.add(case)  # from here on the deadline cancels it; the thread goes on with other cases
            case.awaiting = awaiting = Awaiting(awaitable, lambda: self._resume(case))
        try:
            self.loops.run(awaiting, self.callback_threads)
        except BaseException:
            case.awaiting = None  # the awaitable was closed
            with self._lock:
                self._awaiting.discard(case)
            raise

    @staticmethod
    def _cancel(case: Case) -> None:
        awaiting, case.awaiting = case.awaiting, None  # the history keeps the case, and must keep no coroutine
        if awaiting is not None:
            awaiting.cancel()

    def _resume(self, case: Case) -> None:
        """Queue a case whose awaitable is done. The user's loop calls this in its thread, so it takes no lock."""
        self._cases.append(case)
        self._roles.put(self.ask)

    def _decide_returned(self, case: Case, awaited: Awaiting) -> None:
        """Decide a case whose coroutine has returned, and send the verdict, while all workers ask about others.

        An error is logged last: the log may hang, and the case has no deadline any more.
        """
        error = awaited.error
        try:
            ruling = read_opinion(awaited.result, case.name) if error is None else self._ruling_on(error, case)
        except BaseException as mistaken:  # the result is no opinion
            error, ruling = mistaken, self._ruling_on(mistaken, case)
        self._holds.decide(case, ruling)
        self._holds.flush()
        if error is not None:
            self._note_error(case, error)

    # -------------------------------------------------------------------------------------------------- deadlines

    def give_up_the_late(self) -> float:
        """Decide the cases past their deadline by `on_deadline`, and replace the threads that hang in them. Where a
        coroutine has returned, its verdict decides.

        Returns the seconds until the leader should check again.
        """
        now = time.monotonic()
        if self._deadlines.may_be_late(now):
            self._give_up_the_late(now)
        return self._deadlines.next_check(now)

    def _give_up_the_late(self, now: float) -> None:
        with self._lock:
            asked = [asker.case for asker in self._askers if asker.case is not None]
            late = self._deadlines.late([*asked, *self._awaiting], now)
            returned = {case: case.awaiting for case in late if case.has_returned}
            late -= {case for case in returned if case.process.exited}  # its other callbacks are asked in time
            stuck = [asker for asker in self._askers if asker.case in late]
            for asker in stuck:
                asker.given_up = True
            for case in late:
                case.given_up = True
            self._askers.difference_update(stuck)
            self._awaiting.difference_update(late)
            self.counts["deadlines"] += sum(case.name is not _VERDICTS for case in late if case not in returned)
            self._hanging += len(stuck)
            rest = [_rest_of(case) for case in late if case.process.exited]
            self._cases.extend(rest)
        for case in late:
            self._cancel(case)
            if (awaited := returned.get(case)) is not None:
                submit(self._decide_returned, case, awaited)  # a log that hangs, or a gate, does not delay the leader
                continue
            named = (case.name, case.process, self._hanging)
            log_soon(WARNING, "%s has not returned for %r in time; %d hang now", *named)
            if not case.process.exited:
                self._holds.decide(case, Ruling(self.options.on_deadline, DecidedBy.DEADLINE, case.name))
        for _ in rest:
            self._roles.put(self.ask)
        try:
            for _ in stuck:
                self._start_one()
                self._roles.put(self.ask)
        except RuntimeError as error:  # while the program ends, for example. Last: the stop decides what is undecided
            self._on_failure(error, "starting a thread")


def _rest_of(case: Case) -> Case:
    """The case of an exit whose callback is given up: the callbacks after that one, with a deadline of their own."""
    return Case(case.process, case.identity, subscriptions=case.subscriptions, next=case.next)


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__  # its `__str__` raised
