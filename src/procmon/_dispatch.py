"""The engine of a monitor: fetches from the gate, has the callbacks asked, sends the verdicts.

Threads. One *dispatcher* waits at the gate, takes in its records, and sees to deadlines; it never runs foreign code, so
nothing can delay it. *Workers* take jobs from one queue: to ask the callbacks about a process, to report an exit, to
write to the sinks. A worker that is stuck in one of these past the deadline is given up and replaced. A callback's
coroutine runs on an event loop and occupies no worker meanwhile.

The `Ledger` sees to it that each process is answered once. `stop` has it answer what is held, then closes the gate.

The threads know the engine, not the `Monitor`: when the last reference to that goes, the engine stops by itself. What a
garbage collector may call at any point, inside any lock, must not lock: `drop` and `do_later` only leave word, in a
SimpleQueue, which is made for that.
"""

import atexit
import inspect
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue

from ._ledger import Hold, Ledger, Sink
from ._loops import LoopThread
from ._own import AskingThreads
from ._subscriptions import Callback, Decider, ExitCallback, Match, Subscription, read_opinion
from .errors import GateClosed, ProcmonError
from .gates.base import Gate
from .records import DecidedBy, ProcessHelper, Verdict

log = logging.getLogger("procmon")

TICK = 0.25
"""Seconds between two looks of the dispatcher at what nobody wakes it for."""

STOP_PATIENCE = 5.0
"""Seconds that a second stop waits for the first."""


class State(Enum):
    """Where a monitor is in its life; each state is entered once, in this order."""

    READY = "ready"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


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
    """What a worker does: ask all callbacks about one process, report one exit, write to the sinks."""

    process: ProcessHelper | None = None
    hold: Hold | None = None
    """None: nobody waits for a verdict."""
    steps: Generator[Awaitable[object], object, object] | None = None
    name: str = "audit"
    """Of the callback that is being asked."""
    due: float | None = None
    in_worker: bool = False
    future: "Future[object] | None" = None
    given_up: bool = False


class Engine:
    """What a `Monitor` is a handle of."""

    def __init__(self, gate: Gate, options: Options) -> None:
        self.gate = gate
        self.options = options
        self.state = State.READY
        self.error: Exception | None = None
        self.ledger = Ledger(gate, options.history, options.sinks, self._note_failure, self._write)
        self.changed = self.ledger.changed
        self.stopped = threading.Event()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.exit_subscriptions: tuple[Subscription, ...] = ()
        self.asking_threads = AskingThreads()
        self.at_stop: list[Callable[[], None]] = []
        self._later: deque[Callable[[], None]] = deque()
        self.dropped = False
        self.loops = LoopThread()
        self._queue: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._jobs: set[Job] = set()  # queued or being asked
        self._workers = 0
        self._hanging = 0
        self._dispatcher: threading.Thread | None = None

    # --------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        with self.changed:
            if self.state is not State.READY:
                raise ProcmonError(f"the monitor is {self.state.value} already; make a new gate and a new Monitor")
            if self.gate.closed:
                raise GateClosed("the gate was closed before the monitor started; make a new gate")
            self.state = State.RUNNING
            _running.add(self)
            for _ in range(self.options.workers):
                self._add_worker()
        try:
            self._fetch()  # so that `pending` has at once what the gate held before
        except BaseException as error:
            self.error = error if isinstance(error, Exception) else None
            self.stop()
            raise
        self._dispatcher = threading.Thread(target=self._dispatch, name=f"procmon {self.gate.name}", daemon=True)
        self._dispatcher.start()

    def stop(self) -> None:
        """Answer all that is held, close the gate, end the threads; from any thread, any number of times."""
        with self.changed:
            first, started = self.state in (State.READY, State.RUNNING), self.state is State.RUNNING
            if first:
                self.state = State.STOPPING
                self.changed.notify_all()
        if not first:
            if not self._is_own_thread():  # which the first one to stop may be waiting for
                self.stopped.wait(STOP_PATIENCE)
            return
        try:
            if started:
                self._release_all()
        finally:  # a second Ctrl+C, say: what is still held is let go by the gate
            self._close()

    def _close(self) -> None:
        try:
            self.gate.close()
        except Exception as error:
            self._note_failure(error, "closing the gate")
        self.ledger.abandon(self.unanswered)
        with self.changed:
            self.state = State.STOPPED
            futures = [job.future for job in self._jobs if job.future is not None]
        for future in futures:
            future.cancel()
        for _ in range(self._workers):
            self._queue.put(None)
        self.loops.close()
        self.ledger.flush()
        _running.discard(self)
        self.stopped.set()
        for tell in tuple(self.at_stop):
            tell()
        if self._dispatcher is not None and not self._is_own_thread():
            self._dispatcher.join(1.0)

    def drop(self) -> None:
        """Stop soon: the `Monitor` is gone, or the gate has failed."""
        self.dropped = True
        self._queue.put(self._tend)

    def do_later(self, task: Callable[[], None]) -> None:
        """Have a task run by a worker, or by the dispatcher's next tick where all of them are stuck."""
        self._later.append(task)
        self._queue.put(self._tend)

    def _tend(self) -> bool:
        while self._later:
            with suppress(IndexError):  # another thread was faster
                self._later.popleft()()
        if self.dropped:
            self.gate.wake()
        return True

    def _release_all(self) -> None:
        try:
            self._fetch()  # what the gate holds and nobody has seen yet
        except Exception as error:
            if not isinstance(error, GateClosed) and self.error is None:
                self._note_failure(error, "the last fetch")
        self.ledger.release(self.unanswered)

    @property
    def unanswered(self) -> Verdict:
        """The verdict of those whom nobody answers: the default, or ALLOW where the default is to go on holding."""
        return Verdict.ALLOW if self.options.default is Verdict.DEFER else self.options.default

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._dispatcher or threading.get_native_id() in self.asking_threads

    def _note_failure(self, error: Exception, doing: str) -> None:
        log.error("%s: %s failed, so the monitor stops and lets go", self.gate.name, doing, exc_info=error)
        if self.error is None:
            self.error = error
        self.drop()

    # ---------------------------------------------------------------------------------------------- subscriptions

    def subscribe(self, callback: Callback | Decider, match: Match) -> Subscription:
        subscription = Subscription(callback, match, self._unsubscribe)
        with self.changed:
            self.subscriptions += (subscription,)
        return subscription

    def subscribe_to_exits(self, callback: ExitCallback, match: Match) -> Subscription:
        subscription = Subscription(callback, match, self._unsubscribe)
        with self.changed:
            self.exit_subscriptions += (subscription,)
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self.changed:
            self.subscriptions = tuple(one for one in self.subscriptions if one is not subscription)
            self.exit_subscriptions = tuple(one for one in self.exit_subscriptions if one is not subscription)

    # -------------------------------------------------------------------------------------------- the dispatcher

    def _dispatch(self) -> None:
        try:
            while self.state is State.RUNNING and not self.dropped:
                if self._wait():
                    self._fetch()
                self._give_up_the_late()
                self._tend()
                if self.gate.ended and (self.gate.closed or not (self.ledger.held or self._jobs)):
                    break
        except GateClosed:
            pass  # somebody closed the gate under the monitor: that ends it, too
        except Exception as error:
            self._note_failure(error, "reading from the gate")
        if self.dropped and self.error is None:
            log.warning("%s: the Monitor was dropped, so it stopped; keep a reference to it", self.gate.name)
        self.stop()

    def _wait(self) -> bool:
        deadline = self.options.deadline
        tick = TICK if deadline is None else min(TICK, max(0.005, deadline / 4))
        if not self.gate.ended:
            return self.gate.wait(tick)
        with self.changed:  # an ended gate does not wait any more, but what it held may still want its verdict
            self.changed.wait(tick)
        return False

    def _fetch(self) -> None:
        for news in self.ledger.fetch():
            if isinstance(news, ProcessHelper):
                if self.exit_subscriptions:
                    job = Job(news)
                    self._enqueue(job, self._ask(job, news, self.exit_subscriptions))
            elif self.state is not State.RUNNING:
                self.ledger.answer(news, self.unanswered, DecidedBy.STOP)
            elif not self._answer_own(news):
                job = Job(news.process, news)
                self._enqueue(job, self._ask(job, news.process, self.subscriptions))

    def _write(self) -> None:
        """Write to the sinks here, if this is a worker or a thread of the user's."""
        if not self.options.sinks:
            return
        if threading.current_thread() is self._dispatcher:
            self._enqueue(Job(), self._write_step())
        else:
            self.ledger.write()

    def _write_step(self) -> Generator[Awaitable[object], object, object]:
        self.ledger.write()
        return None
        yield  # a generator that has nothing to await

    def _answer_own(self, hold: Hold) -> bool:
        """Let go what a callback has started and might wait for; False when it is to be asked about like any other."""
        if not self.asking_threads.started(hold.process):
            return False
        own = self.options.own
        outcome = f"it gets {own.value} at once" if own else "with own=None it may wait until the deadline"
        self.asking_threads.warn(hold.process, outcome)
        return own is not None and self.ledger.answer(hold, own, DecidedBy.EXEMPT, "own") is not None

    # ------------------------------------------------------------------------------------------------ the workers

    def _add_worker(self) -> None:
        self._workers += 1
        threading.Thread(target=self._work, name=f"procmon worker {self._workers}", daemon=True).start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if not task():
                    return  # it took too long: another worker has this one's place
            except Exception:
                log.exception("a worker failed; it goes on")

    def _enqueue(self, job: Job, steps: Generator[Awaitable[object], object, object]) -> None:
        job.steps = steps
        with self.changed:
            self._jobs.add(job)
        self._queue.put(lambda: self._go_on(job))

    def _ask(
        self, job: Job, process: ProcessHelper, subscriptions: Iterable[Subscription]
    ) -> Generator[Awaitable[object], object, object]:
        """Ask one after the other; yield what is to be awaited, and return the first opinion."""
        for subscription in subscriptions:
            if job.given_up or self.state is not State.RUNNING or (job.hold is not None and job.hold.claimed):
                return None
            job.name = subscription.name
            if subscription.concerns(process):
                result = subscription(process)
                if inspect.isawaitable(result):
                    result = yield result
                if job.hold is not None and result is not None:
                    return result
        return None

    def _go_on(self, job: Job) -> bool:
        """Run a job until it is done or has to await something; False when the worker was given up meanwhile."""
        thread = threading.get_native_id()
        with self.changed:
            if job.given_up or self.state is not State.RUNNING:
                self._jobs.discard(job)
                return True
            job.in_worker = True
            if job.due is None and self.options.deadline is not None:
                job.due = time.monotonic() + self._time_for(job)
            self.asking_threads.enter(thread)
            future, job.future = job.future, None
        try:
            awaited, outcome, error = self._step(job, future)
        finally:
            self.asking_threads.leave(thread)
        if awaited is not None:
            stays = self._leave(job)
            if stays:
                self._await(job, awaited)
            elif inspect.iscoroutine(awaited):
                awaited.close()
            return stays
        if not job.given_up:
            self._finish(job, outcome, error)
        return self._leave(job)

    def _time_for(self, job: Job) -> float:
        deadline = self.options.deadline or 0.0
        if job.hold is None or job.hold.process.hold_left is None:
            return deadline
        waited = time.monotonic() - job.hold.since  # for a worker
        return min(deadline, 0.8 * job.hold.process.hold_left - waited)  # answer before the gate does

    def _step(
        self, job: Job, future: "Future[object] | None"
    ) -> tuple[Awaitable[object] | None, object, BaseException | None]:
        """Go on with the callbacks: what is to be awaited, else what came of it, or what was raised."""
        assert job.steps is not None
        try:
            if future is None:
                return next(job.steps), None, None
            if (raised := future.exception()) is not None:
                return job.steps.throw(raised), None, None
            return job.steps.send(future.result()), None, None
        except StopIteration as end:
            return None, end.value, None
        except BaseException as error:  # SystemExit and asyncio's CancelledError, too: a process waits for its answer
            return None, None, error

    def _leave(self, job: Job) -> bool:
        with self.changed:
            job.in_worker = False
            self._hanging -= job.given_up
            return not job.given_up

    def _await(self, job: Job, awaitable: Awaitable[object]) -> None:
        try:
            future = self.loops.run(awaitable, self.asking_threads)
        except RuntimeError as error:
            self._finish(job, None, error)
            return
        with self.changed:
            job.future = future
            if self.state is not State.RUNNING:  # a stop has passed while it had no future to cancel
                future.cancel()
        future.add_done_callback(lambda _: self._queue.put(lambda: self._go_on(job)))

    def _finish(self, job: Job, outcome: object, error: BaseException | None) -> None:
        verdict, by, who, audited = self.options.default, DecidedBy.DEFAULT, "", False
        try:
            if error is None and job.hold is not None and outcome is not None:
                try:
                    verdict, by, who, audited = read_opinion(outcome, job.name)
                except TypeError as nonsense:
                    error = nonsense
            if error is not None:
                log.error("callback %s failed on %r", job.name, job.process, exc_info=error)
                verdict, by, who = self.options.on_error, DecidedBy.ERROR, job.name
                with self.changed:
                    self.ledger.counts["callback_errors"] += 1
            if job.hold is not None:
                job.name = "audit"  # what may take long from here on
                self.ledger.conclude(job.hold, verdict, by, who, audited)
        finally:
            with self.changed:
                self._jobs.discard(job)
                self.changed.notify_all()

    def _give_up_the_late(self) -> None:
        if self.options.deadline is None:
            return
        now = time.monotonic()
        with self.changed:
            late = [job for job in self._jobs if job.due is not None and job.due <= now]
            late = [job for job in late if job.in_worker or job.future is not None]
            for job in late:
                job.given_up = True
                self._jobs.discard(job)
                self.ledger.counts["deadlines"] += 1
                if job.in_worker:
                    self._hanging += 1
                    self._add_worker()
        for job in late:
            if job.future is not None:
                job.future.cancel()
            log.warning("%s has not returned for %r in time; %d hang now", job.name, job.process, self._hanging)
            if job.hold is not None:
                self.ledger.conclude(job.hold, self.options.on_deadline, DecidedBy.DEADLINE, job.name)


_running: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def _stop_all() -> None:
    for engine in list(_running):
        engine.stop()


atexit.register(_stop_all)
