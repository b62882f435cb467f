"""The engine of a monitor: fetches from the gate, has the callbacks asked, sends the verdicts.

Threads. One *dispatcher* waits at the gate, takes in its records, and sees to deadlines; it runs no foreign code but
the gate's (and of a sink that writes ahead), so nothing else can delay it. *Workers* take jobs from one queue: to ask
the callbacks about a process, or to report an exit. A worker that is stuck in one of these past the deadline is given
up and replaced. A callback's coroutine runs on an event loop and occupies no worker meanwhile. Sinks have a thread of
their own.

The `Ledger` sees to it that each process is answered once. The *keeper* waits for the word to stop, from wherever it
comes, and sees it through: has what is held answered, then closes the gate. It calls nothing that could hang but that
last one.

Threads of the user's only leave word and wait, see `_aside`. The threads know the engine, not the `Monitor`: when the
last reference to that goes, the engine stops by itself. What a garbage collector may call at any point, inside any
lock, must not lock: `drop` and `do_later` only leave word, in a SimpleQueue, which is made for that.
"""

import atexit
import inspect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue

from ._aside import OwnThread, Signal, aside, is_own, later, submit
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

PATIENCE = 2.0
"""Seconds that a stop waits for a gate that has not answered what is held, and for a sink that has not returned."""

ANOTHER = 0.5
"""Seconds after which another thread answers, in a stop, what is left by one that the gate does not let go."""

EXIT_PATIENCE = 6.0
"""Seconds that the end of the program waits for its monitors: more than a stop takes unless closing the gate hangs."""

SINK_PATIENCE = 30.0
"""Seconds after which a sink that has not returned is told of."""


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
    """What a worker does: ask all callbacks about one process, or report one exit."""

    process: ProcessHelper
    hold: Hold | None = None
    """None: nobody waits for a verdict."""
    steps: Generator[Awaitable[object], object, object] | None = None
    name: str = ""
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
        self.ledger = Ledger(gate, options.history, options.sinks, self._note_failure)
        self.changed = self.ledger.changed
        self.stopped = Signal()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.exit_subscriptions: tuple[Subscription, ...] = ()
        self.asking_threads = AskingThreads()
        self.at_stop: list[Callable[[], None]] = []
        self._later: deque[Callable[[], None]] = deque()
        self.loops = LoopThread()
        self._queue: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self._jobs: set[Job] = set()  # queued or being asked
        self._workers = 0
        self._hanging = 0
        self._sink_told = False
        self._dispatcher: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._word: SimpleQueue[bool] = SimpleQueue()  # for the keeper: stop; True because the Monitor is gone
        self._pid = os.getpid()

    # --------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        with self._never_half():
            aside(self._start)

    async def start_later(self) -> None:
        with self._never_half():
            await later(self._start)

    @contextmanager
    def _never_half(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            raise
        except BaseException:  # Ctrl+C, a cancellation: nobody would know that it runs
            self.begin_stop()
            raise

    def _start(self) -> None:
        with self.changed:
            if self.state is not State.READY:
                if self.state is State.RUNNING:
                    raise ProcmonError("the monitor runs already: `start`, or `with`, once is enough")
                raise ProcmonError(f"the monitor is {self.state.value}, and starts once; make a new gate and Monitor")
            if any(other.gate is self.gate and not other.is_forked for other in list(_running)):
                raise ProcmonError("another monitor has this gate, and each process goes to one of them: make two")
            if self.gate.closed:
                raise GateClosed("the gate was closed before the monitor started; make a new gate")
            self.state = State.RUNNING
        try:
            self._have_keeper()
            _running.add(self)
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)  # anew, to come before what the gate has registered
            for _ in range(self.options.workers):
                self._add_worker()
            self._fetch()  # so that `pending` has at once what the gate held before
            self._dispatcher = OwnThread(self._dispatch, self.gate.name)
            self._dispatcher.start()
        except BaseException as error:
            self.error = error if isinstance(error, Exception) else None
            self.begin_stop()
            self.stopped.wait()
            raise

    def begin_stop(self) -> None:
        """Have the keeper stop it, soon."""
        if self.state is State.READY:
            aside(self._have_keeper)
        self._word.put(False)

    def stop(self) -> None:
        """Answer all that is held, close the gate, end the threads; from any thread, any number of times.

        For a thread of the user's it returns when that is done. One of ours may not wait for it, as it may have a
        lock, or be waited for.
        """
        if not self.is_forked:
            self.begin_stop()
            if not is_own():
                self.stopped.wait()

    async def stop_later(self) -> None:
        """The same for a coroutine."""
        if not self.is_forked:
            self.begin_stop()
            await later(self.stopped.wait)

    def drop(self) -> None:
        """Stop soon: the `Monitor` is gone."""
        self._word.put(True)

    @property
    def is_forked(self) -> bool:
        """It belongs to the process that this one was forked from; its threads did not come along."""
        return os.getpid() != self._pid

    def check_caller(self, instead: str) -> None:
        """Raises: ProcmonError where one would wait on the very loop that the callbacks need."""
        if self.loops.is_here():
            raise ProcmonError(f"this would stop the event loop on which the monitor's callbacks run; {instead}")

    def check_runs(self) -> None:
        """Raises: ProcmonError where one would wait for ever."""
        if self.state is State.READY:
            raise ProcmonError("the monitor does not run, so nothing will ever come: start() it, or use a `with`")
        if self.is_forked:
            raise ProcmonError("the monitor runs in the process that this one was forked from: make one here")

    def _have_keeper(self) -> None:
        with self.changed:
            if self._keeper is not None:
                return
            self._keeper = OwnThread(self._keep, "keeper")
        try:
            self._keeper.start()
        except RuntimeError:  # no thread can be started: then it does not start, either
            self._word.put(False)
            self._keep()

    def _keep(self) -> None:
        was_dropped = self._word.get()
        with self.changed:
            has_run, self.state = self.state is State.RUNNING, State.STOPPING
            self.changed.notify_all()
        try:
            hangs = has_run and not self._release_all()
            self._close()
            if hangs:
                log.error("%s: the gate hangs; it was closed, and lets go what has no verdict", self.gate.name)
            if not self.ledger.wait_for_sinks(PATIENCE):
                log.error("a sink hangs: %d decisions are not written", self.ledger.unwritten()[0])
            if was_dropped and has_run:
                log.warning("%s: the Monitor was dropped, so it stopped; keep a reference to it", self.gate.name)
            if self._dispatcher is not None:
                self._dispatcher.join(1.0)
        finally:
            _running.discard(self)
            self.stopped.set()
            for tell in list(self.at_stop):
                tell()

    def _release_all(self) -> bool:
        """Have everything answered; where the gate does not return from one, by others. False when it hangs."""
        answered = Signal()

        def release() -> None:
            self.ledger.release(self.unanswered)
            try:
                self._fetch()  # what the gate holds and nobody has seen yet
            except BaseException as error:
                if not isinstance(error, GateClosed) and self.error is None:
                    self._note_failure(error, "the last fetch")
            self.ledger.release(self.unanswered)
            answered.set()

        submit(release)
        left, since = len(self.ledger.held), time.monotonic()
        while not answered.wait(ANOTHER):
            if len(self.ledger.held) != left:
                left, since = len(self.ledger.held), time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                return False
            else:
                submit(release)
        return self.ledger.wait_for_verdicts(PATIENCE)

    def _close(self) -> None:
        try:
            self.gate.close()
        except BaseException as error:
            self._note_failure(error, "closing the gate")
        self.ledger.abandon(self.unanswered)
        with self.changed:
            self.state = State.STOPPED
            futures = [job.future for job in self._jobs if job.future is not None]
        for future in futures:
            future.cancel()
        self._queue.put(None)
        self.loops.close()

    def do_later(self, task: Callable[[], None]) -> None:
        """Have a task run by a worker, or by the dispatcher's next tick where all of them are stuck."""
        self._later.append(task)
        self._queue.put(self._tend)

    def _tend(self) -> bool:
        while self._later:
            try:
                task = self._later.popleft()
            except IndexError:  # another thread was faster
                break
            task()
        return True

    @property
    def unanswered(self) -> Verdict:
        """The verdict of those whom nobody answers: the default, or ALLOW where the default is to go on holding."""
        return Verdict.ALLOW if self.options.default is Verdict.DEFER else self.options.default

    def _note_failure(self, error: BaseException, doing: str) -> None:
        if self.error is None:
            self.error = error if isinstance(error, Exception) else ProcmonError(f"{doing} raised {error!r}")
        self.begin_stop()
        log.error("%s: %s failed, so the monitor stops and lets go", self.gate.name, doing, exc_info=error)

    # ---------------------------------------------------------------------------------------------- subscriptions

    def subscribe(
        self, callback: Callback | Decider | ExitCallback, match: Match, *, to_exits: bool = False, name: str = ""
    ) -> Subscription:
        subscription = Subscription(callback, match, lambda cancelled: aside(self._forget, cancelled))
        subscription.name = name or subscription.name
        aside(self._add, subscription, to_exits)
        return subscription

    def _add(self, subscription: Subscription, to_exits: bool) -> None:
        with self.changed:
            if to_exits:
                self.exit_subscriptions += (subscription,)
            else:
                self.subscriptions += (subscription,)

    def _forget(self, subscription: Subscription) -> None:
        with self.changed:
            self.subscriptions = tuple(one for one in self.subscriptions if one is not subscription)
            self.exit_subscriptions = tuple(one for one in self.exit_subscriptions if one is not subscription)

    # -------------------------------------------------------------------------------------------- the dispatcher

    def _dispatch(self) -> None:
        try:
            while self.state is State.RUNNING:
                if self._wait():
                    self._fetch()
                self._give_up_the_late()
                self._tell_of_the_sink()
                self._tend()
                if self.gate.ended and (self.gate.closed or not (self.ledger.held or self._jobs)):
                    break
        except GateClosed:
            pass  # somebody closed the gate under the monitor: that ends it, too
        except BaseException as error:
            self._note_failure(error, "reading from the gate")
        self.begin_stop()

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

    def _answer_own(self, hold: Hold) -> bool:
        """Let go what a callback has started and might wait for; False when it is to be asked about like any other."""
        if not self.asking_threads.started(hold.process):
            return False
        own = self.options.own
        answered = own is not None and self.ledger.answer(hold, own, DecidedBy.EXEMPT, "own") is not None
        outcome = f"it gets {own.value} at once" if own else "with own=None it may wait until the deadline"
        submit(self.asking_threads.warn, hold.process, outcome)
        return answered

    # ------------------------------------------------------------------------------------------------ the workers

    def _add_worker(self) -> None:
        self._workers += 1
        OwnThread(self._work, f"worker {self._workers}").start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if not task():
                    return  # it took too long: another worker has this one's place
            except BaseException:
                log.exception("a worker failed; it goes on")
        self._queue.put(None)  # for the next one

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
            if awaited is None and not job.given_up:
                self._finish(job, outcome, error)
        finally:
            self.asking_threads.leave(thread)
            stays = self._leave(job)
        if awaited is not None:
            if stays:
                self._await(job, awaited)
            elif inspect.iscoroutine(awaited):
                awaited.close()
        return stays

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
        except Exception as error:
            self._finish(job, None, error)
            return
        with self.changed:
            job.future = future
            is_over = self.state is not State.RUNNING
        if is_over:  # a stop has passed while it had no future to cancel
            future.cancel()
        future.add_done_callback(lambda _: self._queue.put(lambda: self._go_on(job)))

    def _finish(self, job: Job, outcome: object, error: BaseException | None) -> None:
        verdict, by, who, audited, reason = self.options.default, DecidedBy.DEFAULT, "", False, ""
        try:
            if error is None and job.hold is not None and outcome is not None:
                try:
                    verdict, by, who, audited = read_opinion(outcome, job.name)
                except TypeError as nonsense:
                    error = nonsense
            if error is not None:
                log.error("callback %s failed on %r", job.name, job.process, exc_info=error)
                verdict, by, who = self.options.on_error, DecidedBy.ERROR, job.name
                reason = f"{type(error).__name__}: {error}"
                with self.changed:
                    self.ledger.counts["callback_errors"] += 1
            if job.hold is not None:
                job.name = "the gate, or a sink that writes ahead,"  # what may not return from here on
                self.ledger.conclude(job.hold, verdict, by, who, audited, reason)
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
            hanging = sum(job.in_worker for job in late)
            self._hanging += hanging
        failure = None
        try:
            for _ in range(hanging):
                self._add_worker()
        except RuntimeError as error:  # so it is as the program ends
            failure = error
        for job in late:
            if job.future is not None:
                job.future.cancel()
            submit(log.warning, "%s has not returned for %r in time; %d hang now", job.name, job.process, self._hanging)
            if job.hold is not None:
                self.ledger.conclude(job.hold, self.options.on_deadline, DecidedBy.DEADLINE, job.name)
        if failure is not None:
            self._note_failure(failure, "starting a thread")

    def _tell_of_the_sink(self) -> None:
        decisions, seconds = self.ledger.unwritten()
        hangs = seconds > SINK_PATIENCE
        if hangs and not self._sink_told:
            submit(log.error, "a sink has not returned for %.0f s: %d decisions are not written", seconds, decisions)
        self._sink_told = hangs


_running: set[Engine] = set()


def _stop_all() -> None:
    engines = [engine for engine in list(_running) if not engine.is_forked]
    end = time.monotonic() + EXIT_PATIENCE
    for engine in engines:
        engine.begin_stop()
    for engine in engines:
        if not engine.stopped.wait(max(0.0, end - time.monotonic())):
            log.error("%s: the gate hangs; what it holds is let go by the end of the program", engine.gate.name)
