"""The threads that ask the callbacks. One that is stuck in a callback past the deadline is given up and replaced."""

import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

from ..records import DecidedBy, ProcessHelper, Verdict
from ..util.log import ERROR, WARNING, log
from ..util.threads import OwnThread, submit
from .event_loop import LoopThread
from .holds import Hold, HoldTable, Sink
from .self_deadlock import CallbackThreads
from .subscriptions import Subscription, read_opinion

__all__ = ["Options", "Workers"]


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


class Workers:
    """As many as `Options.workers`, and one queue; the ledger's lock guards their jobs."""

    def __init__(self, options: Options, holds: HoldTable, on_failure: Callable[[BaseException, str], None]) -> None:
        self.options = options
        self.callback_threads = CallbackThreads()
        self.loops = LoopThread()
        self.is_over = False
        """Nobody is to be asked any more."""
        self._holds = holds
        self._changed = holds.changed
        self._on_failure = on_failure
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._jobs: set[Job] = set()  # queued or being asked
        self._count = 0
        self._hanging = 0

    def start(self) -> None:
        """Start them all."""
        for _ in range(self.options.workers):
            self._add_one()

    @property
    def busy(self) -> bool:
        """Somebody is being asked, or about to be."""
        return bool(self._jobs)

    def put(self, task: Callable[[], object]) -> None:
        """Have one of them do it, unless all are stuck. It locks nothing."""
        self._queue.put(task)

    def ask(self, process: ProcessHelper, hold: Hold | None, subscriptions: Iterable[Subscription]) -> None:
        """Have the callbacks asked; without a hold their answers do not count."""
        job = Job(process, hold)
        job.steps = self._steps(job, subscriptions)
        with self._changed:
            self._jobs.add(job)
        self._queue.put(lambda: self._go_on(job))

    def close(self) -> None:
        """Cancel what awaits something, and end the threads, each when it has done what it is at."""
        with self._changed:
            futures = [job.future for job in self._jobs if job.future is not None]
        for future in futures:
            future.cancel()
        self._queue.put(None)
        self.loops.close()

    def give_up_the_late(self) -> None:
        """Answer for those that have outlasted the deadline, and replace the workers that hang in them."""
        if self.options.deadline is None:
            return
        now = time.monotonic()
        with self._changed:
            late = [job for job in self._jobs if job.due is not None and job.due <= now]
            late = [job for job in late if job.in_worker or job.future is not None]
            for job in late:
                job.given_up = True
                self._jobs.discard(job)
                self._holds.counts["deadlines"] += 1
            hanging = sum(job.in_worker for job in late)
            self._hanging += hanging
        failure = None
        try:
            for _ in range(hanging):
                self._add_one()
        except RuntimeError as error:  # so it is as the program ends
            failure = error
        for job in late:
            if job.future is not None:
                job.future.cancel()
            told = (job.name, job.process, self._hanging)
            submit(log, WARNING, "%s has not returned for %r in time; %d hang now", *told)
            if job.hold is not None:
                self._holds.conclude(job.hold, self.options.on_deadline, DecidedBy.DEADLINE, job.name)
        if failure is not None:
            self._on_failure(failure, "starting a thread")

    # ------------------------------------------------------------------------------------------------ the threads

    def _add_one(self) -> None:
        self._count += 1
        OwnThread(self._work, f"worker {self._count}").start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if task() is False:
                    return  # it took too long: another worker has this one's place
            except BaseException as error:
                log(ERROR, "a worker failed; it goes on", error=error)
        self._queue.put(None)  # for the next one

    def _steps(self, job: Job, subscriptions: Iterable[Subscription]) -> Generator[Awaitable[object], object, object]:
        """Ask one after the other; yield what is to be awaited, and return the first opinion."""
        for subscription in subscriptions:
            if job.given_up or self.is_over or (job.hold is not None and job.hold.claimed):
                return None
            job.name = subscription.name
            if subscription.concerns(job.process):
                result = subscription(job.process)
                if inspect.isawaitable(result):
                    result = yield result
                if job.hold is not None and result is not None:
                    return result
        return None

    def _go_on(self, job: Job) -> bool:
        """Run a job until it is done or has to await something; False when the worker was given up meanwhile."""
        thread = threading.get_native_id()
        with self._changed:
            if job.given_up or self.is_over:
                self._jobs.discard(job)
                return True
            job.in_worker = True
            if job.due is None and self.options.deadline is not None:
                job.due = time.monotonic() + self._time_for(job)
            self.callback_threads.enter(thread)
            future, job.future = job.future, None
        try:
            awaited, outcome, error = self._step(job, future)
            if awaited is None and not job.given_up:
                self._finish(job, outcome, error)
        finally:
            self.callback_threads.leave(thread)
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
        with self._changed:
            job.in_worker = False
            self._hanging -= job.given_up
            return not job.given_up

    def _await(self, job: Job, awaitable: Awaitable[object]) -> None:
        try:
            future = self.loops.run(awaitable, self.callback_threads)
        except Exception as error:
            self._finish(job, None, error)
            return
        with self._changed:
            job.future = future
            is_over = self.is_over
        if is_over:  # a stop has passed while it had no future to cancel
            future.cancel()
        future.add_done_callback(lambda _: self._queue.put(lambda: self._go_on(job)))

    def _finish(self, job: Job, outcome: object, error: BaseException | None) -> None:
        verdict, by, who, audited, reason = self.options.default, DecidedBy.DEFAULT, "", False, ""
        try:
            if error is None and job.hold is not None and outcome is not None:
                try:
                    verdict, by, who, audited = read_opinion(outcome, job.name)
                except BaseException as nonsense:  # also one whose repr fails
                    error = nonsense
            if error is not None:
                log(ERROR, "callback %s failed on %r", job.name, job.process, error=error)
                verdict, by, who, reason = self.options.on_error, DecidedBy.ERROR, job.name, _in_words(error)
                with self._changed:
                    self._holds.counts["callback_errors"] += 1
            if job.hold is not None:
                job.name = "the gate, or a sink that writes ahead,"  # what may not return from here on
                self._holds.conclude(job.hold, verdict, by, who, audited, reason)
        finally:
            with self._changed:
                self._jobs.discard(job)
                self._changed.notify_all()


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__  # it has no words for itself
