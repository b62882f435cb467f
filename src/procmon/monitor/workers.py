"""The threads that read from the gate and ask the callbacks: leader and followers.

All threads of the pool wait at one queue of *roles*, which are functions, and play one after the other. Two roles
matter. One thread is the *leader*: it waits at the gate (`Engine._lead`). When it has fetched something to ask about,
it passes the role on, by putting it into the queue, and then asks the callbacks itself (`Workers.ask`). So the thread
that is awake already does the work, and a callback that hangs does not keep others from the gate.

What is guaranteed. There is one leader: the role is one item, which is either in the queue or being played. At most
`Options.workers` threads ask at once; there is one thread more than that, so a thread is always left to lead. A thread
that is stuck in a callback past the deadline is given up: it does not count any more, another thread is started in its
place, and it ends when its callback returns. A coroutine occupies a thread only until its first await: the job then
waits for the loop, and comes back to the queue of jobs with the result.

What can interleave. A job may be put into the queue, without a lock, when a thread that asks has just found it empty.
Each such job is followed by a role `ask`; the thread that plays it looks at the queue, under the lock, after the job
is in it. So it finds the job, or another thread has taken it; a role too many finds nothing, and ends.
"""

import inspect
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue

from ..records import DecidedBy, ProcessHelper, Verdict
from ..util.log import ERROR, WARNING, log
from ..util.threads import OwnThread, submit
from .event_loop import Awaiting, LoopThread, close
from .holds import Hold, HoldTable
from .self_deadlock import CallbackThreads
from .sinks import Sink
from .subscriptions import Ruling, Subscription, read_opinion

__all__ = ["Options", "Workers"]

TICK_S = 0.25
"""Longest time between two looks of the leader at what does not wake it."""

SHORTEST_TICK_S = 0.005


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; see `Monitor`."""

    default: Verdict
    on_error: Verdict
    deadline: float | None
    on_deadline: Verdict
    workers: int
    own: Verdict | None
    history: int
    sinks: tuple[Sink, ...]


@dataclass(slots=True, eq=False)
class Job:
    """Callbacks to ask about one process, or to call with one exit."""

    process: ProcessHelper
    subscriptions: tuple[Subscription, ...]
    hold: Hold | None = None
    """None for an exit: results do not count."""
    next: int = 0
    """Index of the callback to ask next."""
    name: str = ""
    """Of the callback that is being asked."""
    due: float | None = None
    awaiting: Awaiting | None = None
    given_up: bool = False


@dataclass(slots=True, eq=False)
class _Asker:
    """A thread that asks callbacks, and the job it is at."""

    job: Job | None = None
    given_up: bool = False


class Workers:
    """The pool, its jobs and their deadlines. `_lock` guards its state; see `HoldTable` for why it is reentrant."""

    def __init__(self, options: Options, holds: HoldTable, on_failure: Callable[[BaseException, str], None]) -> None:
        self.options = options
        self.callback_threads = CallbackThreads()
        self.loops = LoopThread()
        self.counts: Counter[str] = Counter()
        self.is_over = False
        """No callback is asked any more."""
        self._holds = holds
        self._on_failure = on_failure
        self._default = Ruling(options.default, DecidedBy.DEFAULT)
        self._roles: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._jobs: deque[Job] = deque()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)  # notified when no thread asks any more
        self._askers: set[_Asker] = set()
        self._awaiting: set[Job] = set()
        self._next_due = float("inf")  # no job is due before
        self._tick = TICK_S
        if options.deadline is not None:
            self._tick = min(TICK_S, max(SHORTEST_TICK_S, options.deadline / 4))
        self._started = 0
        self._hanging = 0

    # ------------------------------------------------------------------------------------------------ the threads

    def start(self) -> None:
        """Start the threads. Raises: RuntimeError when the system gives none."""
        for _ in range(self.options.workers + 1):
            self._start_one()

    def play(self, role: Callable[[], object]) -> None:
        """Have a thread of the pool call a function soon. It takes no lock, so finalizers may call it."""
        self._roles.put(role)

    def close(self) -> None:
        """Cancel what is awaited, and end each thread when it has done what it is at."""
        self.is_over = True
        self._roles.put(None)
        with self._lock:
            self._jobs.clear()
            awaiting = [job.awaiting for job in self._awaiting if job.awaiting is not None]
            self._awaiting.clear()
        for one in awaiting:
            one.cancel()
        self.loops.close()

    def _start_one(self) -> None:
        self._started += 1
        OwnThread(self._work, f"worker {self._started}").start()

    def _work(self) -> None:
        while (role := self._roles.get()) is not None:
            try:
                if role() is False:
                    return  # it was given up, and another thread has its place
            except BaseException as error:
                log(ERROR, "a worker failed; it goes on", error=error)
        self._roles.put(None)  # for the next thread

    # --------------------------------------------------------------------------------------------------- the jobs

    def add(self, jobs: Iterable[Job]) -> bool:
        """Queue jobs, and wake the threads that may ask besides the calling one; whether that may, too."""
        with self._lock:
            self._jobs.extend(jobs)
            free = min(len(self._jobs), self.options.workers - len(self._askers))
        for _ in range(free - 1):
            self._roles.put(self.ask)
        return free > 0

    @property
    def queued(self) -> int:
        """Jobs that no thread has begun."""
        return len(self._jobs)

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until there is nothing to ask; False when there was after `timeout` seconds."""
        with self._lock:
            return self._idle.wait_for(lambda: not (self._jobs or self._askers or self._awaiting), timeout)

    def ask(self) -> bool:
        """Ask about what is queued until there is no more; False when this thread was given up meanwhile."""
        asker, thread = _Asker(), threading.get_native_id()
        with self._lock:
            if len(self._askers) >= self.options.workers:
                return True  # they will come to it
            self._askers.add(asker)
        self.callback_threads.enter(thread)
        try:
            while (job := self._next(asker)) is not None:
                self._run(job)
                self._holds.flush_unless_more(bool(self._jobs) and not self.is_over)
        except BaseException as error:
            self._on_failure(error, "asking callbacks")
        finally:
            self.callback_threads.leave(thread)
        return not asker.given_up

    def _next(self, asker: _Asker) -> Job | None:
        with self._lock:
            if asker.given_up:
                self._hanging -= 1
                return None
            while self._jobs and not self.is_over:
                job = asker.job = self._jobs.popleft()
                self._awaiting.discard(job)
                if job.given_up:
                    continue
                if job.due is None and self.options.deadline is not None:
                    job.due = time.monotonic() + self._time_for(job, self.options.deadline)
                if job.due is not None and job.due < self._next_due:
                    self._next_due = job.due
                return job
            self._askers.discard(asker)
            if not self._askers:
                self._idle.notify_all()
            return None

    @staticmethod
    def _time_for(job: Job, deadline: float) -> float:
        if job.hold is None or job.process.hold_left is None:
            return deadline
        waited = time.monotonic() - job.hold.since  # for a thread
        return min(deadline, 0.8 * job.process.hold_left - waited)  # answer before the gate does

    def _run(self, job: Job) -> None:
        """Ask the callbacks until one has an opinion, which decides, or has to be awaited, which goes to the loop."""
        ruling, result = self._default, None
        try:
            if job.awaiting is not None:
                awaited, job.awaiting = job.awaiting, None
                if awaited.error is not None:
                    raise awaited.error
                result = awaited.result
            while result is None or job.hold is None:
                if job.given_up or self.is_over or (job.hold is not None and job.hold.ruling is not None):
                    return
                if job.next == len(job.subscriptions):
                    break
                subscription = job.subscriptions[job.next]
                job.next += 1
                job.name = subscription.name
                if subscription.concerns(job.process):
                    result = subscription(job.process)
                    if result is not None and not isinstance(result, Verdict) and inspect.isawaitable(result):
                        self._await(job, result)
                        return
            if result is not None and job.hold is not None:
                ruling = read_opinion(result, job.name)
        except BaseException as error:  # SystemExit and CancelledError, too: a process waits for its verdict
            if job.given_up:
                return
            log(ERROR, "callback %s failed on %r", job.name, job.process, error=error)
            with self._lock:
                self.counts["callback_errors"] += 1
            ruling = Ruling(self.options.on_error, DecidedBy.ERROR, job.name, reason=_in_words(error))
        if job.hold is not None and not job.given_up:
            job.name = "the gate, or a sink that writes ahead,"  # what may not return from here on
            self._holds.decide(job.hold, ruling)

    def _await(self, job: Job, awaitable: Awaitable[object]) -> None:
        with self._lock:
            if job.given_up or self.is_over:
                close(awaitable)
                return
            self._awaiting.add(job)  # from here on the deadline cancels it; the thread goes on with other jobs
            job.awaiting = Awaiting(awaitable, lambda: self._resume(job))
        try:
            self.loops.run(job.awaiting, self.callback_threads)
        except BaseException:
            job.awaiting = None  # it was closed
            with self._lock:
                self._awaiting.discard(job)
            raise

    def _resume(self, job: Job) -> None:
        """Queue a job whose awaitable is done. The user's loop calls this in its thread, so it takes no lock."""
        self._jobs.append(job)
        self._roles.put(self.ask)

    # -------------------------------------------------------------------------------------------------- deadlines

    @property
    def next_look(self) -> float:
        """Seconds after which the leader should call `give_up_the_late` again."""
        return min(self._tick, max(SHORTEST_TICK_S, self._next_due - time.monotonic()))

    def give_up_the_late(self) -> None:
        """Decide by `on_deadline` what has outlasted the deadline, and replace the threads that hang in it."""
        now = time.monotonic()
        if now < self._next_due:
            return
        with self._lock:
            stuck = [asker for asker in self._askers if _is_due(asker.job, now)]
            late = {asker.job for asker in stuck if asker.job is not None}
            late |= {job for job in self._awaiting if _is_due(job, now)}
            for asker in stuck:
                asker.given_up = True
            for job in late:
                job.given_up = True
            self._askers.difference_update(stuck)
            self._awaiting.difference_update(late)
            self.counts["deadlines"] += len(late)
            self._hanging += len(stuck)
            left = [asker.job for asker in self._askers] + list(self._awaiting)
            self._next_due = min((job.due for job in left if job and job.due is not None), default=float("inf"))
        try:
            for _ in stuck:
                self._start_one()
                self._roles.put(self.ask)
        except RuntimeError as error:  # so it is as the program ends
            self._on_failure(error, "starting a thread")
        for job in late:
            if job.awaiting is not None:
                job.awaiting.cancel()
            named = (job.name, job.process, self._hanging)
            submit(log, WARNING, "%s has not returned for %r in time; %d hang now", *named)
            if job.hold is not None:
                self._holds.decide(job.hold, Ruling(self.options.on_deadline, DecidedBy.DEADLINE, job.name))


def _is_due(job: Job | None, now: float) -> bool:
    return job is not None and job.due is not None and job.due <= now


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__  # it has no words for itself
