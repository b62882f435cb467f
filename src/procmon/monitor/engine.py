"""The engine of a monitor: fetches from the gate, has the callbacks asked, sends the verdicts.

Threads. One *dispatcher* waits at the gate, takes in its records, and sees to deadlines; it runs no foreign code but
the gate's (and of a sink that writes ahead), so nothing else can delay it. *Workers* take jobs from one queue: to ask
the callbacks about a process, or to report an exit. A worker that is stuck in one of these past the deadline is given
up and replaced. A callback's coroutine runs on an event loop and occupies no worker meanwhile. Sinks have a thread of
their own.

The `HoldTable` sees to it that each process is answered once. The *keeper* waits for the word to stop, from wherever it
comes, and sees it through: has what is held answered, then closes the gate. It calls nothing that could hang but that
last one.

The user's threads only post a request and wait, see `util.threads`. The threads know the engine, not the `Monitor`:
when the last reference to that goes, the engine stops by itself. The garbage collector may call `drop` and `do_later`
at any point, also while a lock is held. So they take no lock: they put a request into a SimpleQueue (it is reentrant).
"""

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from queue import SimpleQueue

from ..errors import GateClosed, ProcmonError
from ..gates.base import Gate
from ..records import DecidedBy, ProcessHelper, Verdict
from ..util.log import ERROR, WARNING, log
from ..util.threads import OwnThread, Signal, is_own, run_in_thread, run_in_thread_async, submit
from .holds import Hold, HoldTable
from .subscriptions import Callback, Decider, ExitCallback, Match, Subscription
from .workers import Options, Workers

TICK = 0.25
"""Seconds between two looks of the dispatcher at what nobody wakes it for."""

PATIENCE = 2.0
"""Seconds that a stop waits for a gate that has not answered what is held, and for a sink that has not returned."""

ANOTHER = 0.5
"""Seconds after which another thread answers, in a stop, what is left by one that the gate does not let go."""

OTHERS = 3
"""How many such threads there are at most."""

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


class Engine:
    """What a `Monitor` is a handle of."""

    def __init__(self, gate: Gate, options: Options) -> None:
        self.gate = gate
        self.options = options
        self.state = State.READY
        self.error: Exception | None = None
        self.holds = HoldTable(gate, options.history, options.sinks, self._note_failure)
        self.changed = self.holds.changed
        self.stopped = Signal()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.exit_subscriptions: tuple[Subscription, ...] = ()
        self.workers = Workers(options, self.holds, self._note_failure)
        self.callback_threads = self.workers.callback_threads
        self.at_stop: list[Callable[[], None]] = []
        self._later: deque[Callable[[], None]] = deque()
        self._sink_told = False
        self._dispatcher: threading.Thread | None = None
        self._shutdown_thread: threading.Thread | None = None
        self._stop_requests: SimpleQueue[bool] = SimpleQueue()  # for the keeper: stop; True because the Monitor is gone
        self._pid = os.getpid()

    # --------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        with self._never_half():
            run_in_thread(self._start)

    async def start_later(self) -> None:
        with self._never_half():
            await run_in_thread_async(self._start)

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
            self._start_shutdown_thread()
            _running.add(self)
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)  # anew, to come before what the gate has registered
            self.workers.start()
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
            run_in_thread(self._start_shutdown_thread)
        self._stop_requests.put(False)

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
            await run_in_thread_async(self.stopped.wait)

    def drop(self) -> None:
        """Stop soon: the `Monitor` is gone."""
        self._stop_requests.put(True)

    @property
    def is_forked(self) -> bool:
        """It belongs to the process that this one was forked from; its threads did not come along."""
        return os.getpid() != self._pid

    def check_caller(self, instead: str) -> None:
        """Raises: ProcmonError where one would wait on the very loop that the callbacks need."""
        if self.workers.loops.is_here():
            raise ProcmonError(f"this would stop the event loop on which the monitor's callbacks run; {instead}")

    def check_runs(self) -> None:
        """Raises: ProcmonError where one would wait for ever."""
        if self.state is State.READY:
            raise ProcmonError("the monitor does not run, so nothing will ever come: start() it, or use a `with`")
        if self.is_forked:
            raise ProcmonError("the monitor runs in the process that this one was forked from: make one here")

    def _start_shutdown_thread(self) -> None:
        with self.changed:
            if self._shutdown_thread is not None:
                return
            self._shutdown_thread = OwnThread(self._keep, "keeper")
        try:
            self._shutdown_thread.start()
        except RuntimeError:  # no thread can be started: then it does not start, either
            self._stop_requests.put(False)
            self._keep()

    def _keep(self) -> None:
        was_dropped = self._stop_requests.get()
        with self.changed:
            has_run, self.state = self.state is State.RUNNING, State.STOPPING
            self.workers.is_over = True
            self.changed.notify_all()
        try:
            hangs = has_run and not self._release_all()
            self._close()
            if hangs:
                log(ERROR, "%s: the gate hangs; it was closed, and lets go what has no verdict", self.gate.name)
            if not self.holds.wait_for_sinks(PATIENCE):
                log(ERROR, "a sink hangs: %d decisions are not written", self.holds.unwritten()[0])
            if was_dropped and has_run:
                log(WARNING, "%s: the Monitor was dropped, so it stopped; keep a reference to it", self.gate.name)
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
            self.holds.release(self.unanswered)
            try:
                self._fetch()  # what the gate holds and nobody has seen yet
            except BaseException as error:
                if not isinstance(error, GateClosed) and self.error is None:
                    self._note_failure(error, "the last fetch")
            self.holds.release(self.unanswered)
            answered.set()

        submit(release)
        sent, since, others = self.holds.sent, time.monotonic(), OTHERS
        while not answered.wait(ANOTHER):
            if self.holds.sent != sent:
                sent, since = self.holds.sent, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                return False
            elif others:
                others -= 1
                submit(release)
        return self.holds.wait_for_verdicts(PATIENCE)

    def _close(self) -> None:
        try:
            self.gate.close()
        except BaseException as error:
            self._note_failure(error, "closing the gate")
        self.holds.abandon(self.unanswered)
        with self.changed:
            self.state = State.STOPPED
        self.workers.close()

    def do_later(self, task: Callable[[], None]) -> None:
        """Have a task run by a worker, or by the dispatcher's next tick where all of them are stuck."""
        self._later.append(task)
        self.workers.put(self._tend)

    def _tend(self) -> None:
        while self._later:
            try:
                task = self._later.popleft()
            except IndexError:  # another thread was faster
                break
            task()

    @property
    def unanswered(self) -> Verdict:
        """The verdict of those whom nobody answers: the default, or ALLOW where the default is to go on holding."""
        return Verdict.ALLOW if self.options.default is Verdict.DEFER else self.options.default

    def _note_failure(self, error: BaseException, doing: str) -> None:
        if self.error is None:
            self.error = error if isinstance(error, Exception) else ProcmonError(f"{doing} raised {error!r}")
        self.begin_stop()
        log(ERROR, "%s: %s failed, so the monitor stops and lets go", self.gate.name, doing, error=error)

    # ---------------------------------------------------------------------------------------------- subscriptions

    def subscribe(
        self, callback: Callback | Decider | ExitCallback, match: Match, *, to_exits: bool = False, name: str = ""
    ) -> Subscription:
        subscription = Subscription(callback, match, lambda cancelled: run_in_thread(self._forget, cancelled))
        subscription.name = name or subscription.name
        run_in_thread(self._add, subscription, to_exits)
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
                self.workers.give_up_the_late()
                self._tell_of_the_sink()
                self._tend()
                if self.gate.ended and (self.gate.closed or not (self.holds.held or self.workers.busy)):
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
        for news in self.holds.fetch():
            if isinstance(news, ProcessHelper):
                if self.exit_subscriptions:
                    self.workers.ask(news, None, self.exit_subscriptions)
            elif self.state is not State.RUNNING:
                self.holds.answer(news, self.unanswered, DecidedBy.STOP)
            elif not self._answer_own(news):
                self.workers.ask(news.process, news, self.subscriptions)

    def _answer_own(self, hold: Hold) -> bool:
        """Let go what a callback has started and might wait for; False when it is to be asked about like any other."""
        if not self.callback_threads.started(hold.process):
            return False
        own = self.options.own
        answered = own is not None and self.holds.answer(hold, own, DecidedBy.EXEMPT, "own") is not None
        outcome = f"it gets {own.value} at once" if own else "with own=None it may wait until the deadline"
        submit(self.callback_threads.warn, hold.process, outcome)
        return answered

    def _tell_of_the_sink(self) -> None:
        decisions, seconds = self.holds.unwritten()
        hangs = seconds > SINK_PATIENCE
        if hangs and not self._sink_told:
            submit(log, ERROR, "a sink has not returned for %.0f s: %d decisions are not written", seconds, decisions)
        self._sink_told = hangs


_running: set[Engine] = set()


def _stop_all() -> None:
    engines = [engine for engine in list(_running) if not engine.is_forked]
    end = time.monotonic() + EXIT_PATIENCE
    for engine in engines:
        engine.begin_stop()
    for engine in engines:
        if not engine.stopped.wait(max(0.0, end - time.monotonic())):
            log(ERROR, "%s: the gate hangs; what it holds is let go by the end of the program", engine.gate.name)
