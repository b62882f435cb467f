"""The engine of a monitor: it reads from the gate, has the callbacks asked, and stops everything at the end.

The parts. `Workers` is a pool of threads, which ask the callbacks. `HoldTable` has the held processes, decides each of
them once, and sends the verdicts to the gate. `Sinks` writes the decisions. `Engine` connects them.

The leader. One thread of the pool at a time is the leader: it waits at the gate, and checks deadlines. When it has
fetched a process, it leaves the gate and asks the callbacks itself, because it is awake already. Meanwhile another
thread *stands by*: every `BATCH_S` it checks whether the place at the gate is free, and then takes it. So a start that
is decided at once wakes no other thread, and a callback that hangs keeps other processes from the gate for `BATCH_S`
and no longer. After `STAND_BY_LOOKS` checks without a new case, the thread stops standing by and sleeps.

How the leader changes. Two locks say who does what, and a thread never waits for either. `_at_gate` is held by the
leader. `_stands_by` is held from the moment that a thread is asked to stand by until it stops. Two orders make sure
that there is always a leader or a thread that stands by:
- A thread that stops standing by releases `_stands_by`, then tries to acquire `_at_gate`, to become the leader.
- A leader that leaves the gate releases `_at_gate`, then tries to acquire `_stands_by`, to ask a thread to stand by.
Each releases its own lock before it tries the lock of the other. So at least one of the two finds the other lock free.

The stop. The *shutdown thread* waits for requests: to have a helper thread run a task, or to stop. It decides all held
processes in one batch, then closes the gate. It waits at most `STOP_TIMEOUT_S` each for that batch, for other verdicts
that are being sent, and for the sinks. The only call that it makes itself and that could hang is `close` of the gate.

Locks. `Engine`, `Workers`, `HoldTable` and each queue of `Sinks` guard their state with a lock of their own. A thread
that holds one of them acquires another in one order only: the lock of the hold table, then that of a sink's queue.

The user's threads only post a request and wait, see `util.threads`. The pool's threads refer to the engine and not to
the `Monitor`: when the last reference to the `Monitor` is dropped, the engine stops. The garbage collector may call
`drop` and `do_later` between any two instructions, even where a thread holds a lock. So they acquire no lock: they put
a request into a SimpleQueue, which is reentrant.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from functools import partial
from queue import SimpleQueue

from ..errors import GateClosed, ProcmonError
from ..gates.base import Gate, hear_answers
from ..records import DecidedBy, Verdict
from ..util.at_exit import last_steps
from ..util.log import ERROR, WARNING, log_soon
from ..util.threads import Call, OwnThread, Signal, is_own, run_in_thread, run_in_thread_async, submit
from .cases import Case
from .holds import BATCH_S, HoldTable
from .sinks import Sinks
from .statistics import Statistics
from .subscriptions import Callback, Decider, ExitCallback, Match, Ruling, Subscription
from .workers import Options, Workers

STOP_TIMEOUT_S = 2.0
"""How long a stop waits for the gate to take the last verdicts, and for the sinks to write the last decisions."""

LOG_TIMEOUT_S = 1.0
"""How long a stop waits for its lines to be logged: a handler of the log may hang."""

EXIT_TIMEOUT_S = 3 * STOP_TIMEOUT_S + 2 * LOG_TIMEOUT_S
"""How long the end of the program waits for its monitors: longer than a stop takes, unless closing the gate hangs."""

STAND_BY_LOOKS = 10
"""Checks without a new case after which a thread stops standing by. On Windows a check takes up to 16 ms."""


class State(Enum):
    """Where a monitor is in its life; each state is entered once, in this order."""

    READY = "ready"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Engine:
    """The state and the threads of a monitor; `Monitor` is its handle."""

    def __init__(self, gate: Gate, options: Options) -> None:
        self.gate = gate
        self.options = options
        self.state = State.READY
        self.error: Exception | None = None
        self.sinks = Sinks(options.sinks)
        self.holds = HoldTable(gate, options.history, self.sinks, self._note_failure)
        self.workers = Workers(options, self.holds, self._note_failure)
        self.callback_threads = self.workers.callback_threads
        self.stopped = Signal()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.exit_subscriptions: tuple[Subscription, ...] = ()
        self.at_stop: list[Callable[[], None]] = []
        self.at_exit = False
        """The end of the program has begun to stop this engine."""
        self._lock = threading.RLock()
        self._at_gate = threading.Lock()
        self._stands_by = threading.Lock()
        self._begun = -1  # `Workers.begun` at the leader's last check
        self._pause = BATCH_S  # until the leader's next check, while cases are queued
        self._shutdown_thread: threading.Thread | None = None
        self._log_lines: list[Call[None]] = []  # about the stop, which waits for them
        self._requests: SimpleQueue[Callable[[], object] | bool] = SimpleQueue()  # a task; to stop: True if dropped
        self.drop = partial(self._requests.put, True)
        """Stop soon: the `Monitor` is gone. Its finalizer calls this, and must not keep the `Monitor` alive. So this
        function refers to the queue alone: the engine refers to callbacks, which often refer to the `Monitor`."""
        self._pid = os.getpid()

    @property
    def counts(self) -> dict[str, int]:
        """All counts of `Statistics`; takes no lock."""
        return {**self.holds.counts, **self.workers.counts, **self.sinks.counts}

    def statistics(self) -> Statistics:
        """A snapshot of all counts."""
        with self.holds.lock:
            longest = timedelta(seconds=self.holds.longest_hold)
            return Statistics(pending=len(self.holds.held), longest_hold=longest, **self.counts)

    # --------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        with self._stop_if_interrupted():
            run_in_thread(self._start)

    async def start_async(self) -> None:
        """The same for a coroutine; coroutines of callbacks run on its loop."""
        import asyncio  # here: a program without coroutines does not need it

        use_loop = partial(self.workers.loops.use, asyncio.get_running_loop(), threading.get_native_id())
        with self._stop_if_interrupted():
            await run_in_thread_async(self._start, use_loop)

    @contextmanager
    def _stop_if_interrupted(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            raise
        except BaseException:  # Ctrl+C, a cancellation: the caller does not know that the monitor runs
            self.begin_stop()
            raise

    def _start(self, use_loop: Callable[[], None] = lambda: None) -> None:
        with _claiming, self._lock:
            if self.state is not State.READY:
                if self.state is State.RUNNING:
                    raise ProcmonError("the monitor runs already: `start`, or `with`, once is enough")
                raise ProcmonError(f"the monitor is {self.state.value}, and starts once; make a new gate and Monitor")
            if self._is_gate_taken():
                raise ProcmonError("another monitor has this gate, and each process goes to only one: make two gates")
            if self.gate.closed:
                raise GateClosed("the gate was closed before the monitor started; make a new gate")
            self.state = State.RUNNING
            use_loop()  # not before: a monitor that runs keeps its loop
            _running.add(self)
        try:
            self._start_shutdown_thread()
            hear_answers(self.gate, self.holds.hear_answers)
            atexit.unregister(_stop_all_first)
            atexit.register(_stop_all_first)
            if self._fetch():  # here, so that `pending` has the held processes at once
                self.workers.play(self.workers.ask)
            self.workers.start()
            self.workers.play(self._lead)
        except BaseException as error:
            self.error = error if isinstance(error, Exception) else None
            self.begin_stop()
            self.stopped.wait()
            raise

    def _is_gate_taken(self) -> bool:
        """Another monitor runs on this gate."""
        return any(one.gate is self.gate and one is not self and not one.is_forked for one in list(_running))

    def begin_stop(self) -> None:
        """Have the shutdown thread stop the monitor soon; returns at once."""
        if self.state is State.READY:
            run_in_thread(self._start_shutdown_thread)
        self._requests.put(False)

    def stop(self) -> None:
        """Decide all held processes, close the gate unless another monitor runs on it, end the threads. Thread-safe and
        idempotent.

        A user's thread waits until the monitor has stopped. A thread of procmon's own does not wait: it may hold a
        lock, or the stop may wait for that thread.
        """
        if not self.is_forked:
            if is_own():
                self.workers.note_stop()
                self.begin_stop()
            else:
                self.begin_stop()
                self.stopped.wait()

    async def stop_async(self) -> None:
        """`stop` for coroutines."""
        if not self.is_forked:
            self.begin_stop()
            await run_in_thread_async(self.stopped.wait)

    @property
    def is_forked(self) -> bool:
        """The engine belongs to the process that this one was forked from; its threads were not forked."""
        return os.getpid() != self._pid

    def check_caller(self, instead: str) -> None:
        """Raises: ProcmonError where the caller would block the event loop that the callbacks need."""
        if self.workers.loops.is_here():
            raise ProcmonError(f"this would stop the event loop on which the monitor's callbacks run; {instead}")

    def check_runs(self) -> None:
        """Raises: ProcmonError where the caller would wait for ever."""
        if self.state is State.READY:
            raise ProcmonError("the monitor does not run, so nothing will ever come: start() it, or use a `with`")
        if self.is_forked:
            raise ProcmonError("the monitor runs in the process that this one was forked from: make one here")

    def _start_shutdown_thread(self) -> None:
        with self._lock:
            if self._shutdown_thread is not None:
                return
            self._shutdown_thread = OwnThread(self._shut_down, "shutdown")
        try:
            self._shutdown_thread.start()
        except RuntimeError:  # no thread can be started: then the monitor does not start, either
            self._requests.put(False)
            self._shut_down()

    def _shut_down(self) -> None:
        while callable(was_dropped := self._requests.get()):
            submit(was_dropped)
        with self._lock:
            has_run, self.state = self.state is State.RUNNING, State.STOPPING
        self.workers.is_over = True
        try:
            released = False
            try:
                released = not has_run or submit(self._release).done.wait(STOP_TIMEOUT_S)
                if not released:
                    self._log(ERROR, "%s: the gate hangs; its close answers its processes", self.gate.name)
            except BaseException as error:  # no memory, say: the close answers them
                self._note_failure(error, "the stop")
            try:
                if has_run or not self._is_gate_taken():
                    self.gate.close()
            except BaseException as error:
                self._note_failure(error, "closing the gate")
            # For processes that the leader fetched meanwhile, or that the close had the gate answer.
            self.holds.wait_until_sent(STOP_TIMEOUT_S if released else STOP_TIMEOUT_S / 10)
            self.holds.abandon(self.last_ruling)
            self.state = State.STOPPED
            self.workers.close()
            if not self.sinks.wait(STOP_TIMEOUT_S):
                self._log(ERROR, "a sink hangs: %d decisions are not written", self.sinks.unwritten)
            if was_dropped and has_run:
                self._log(WARNING, "%s: the Monitor was dropped, so it stopped; keep a reference to it", self.gate.name)
            end = time.monotonic() + LOG_TIMEOUT_S
            for line in self._log_lines:
                line.done.wait(max(0.0, end - time.monotonic()))
        finally:
            _running.discard(self)
            if has_run:
                hear_answers(self.gate, None)
            self.stopped.set()
            for call in list(self.at_stop):
                call()

    def _release(self) -> None:
        """Decide all held processes, including those not fetched yet, and wait until no verdict is being sent.

        The result of a callback that has stopped the monitor counts, if it returns soon.
        """
        self.holds.wait_until(self.workers.have_stoppers_returned, STOP_TIMEOUT_S / 2)
        self.holds.release(self.last_ruling)
        try:
            self.holds.fetch()
        except BaseException as error:
            if not isinstance(error, GateClosed) and self.error is None:
                self._note_failure(error, "the last fetch")
        self.holds.release(self.last_ruling)
        self.holds.wait_until_sent(STOP_TIMEOUT_S)

    def do_later(self, task: Callable[[], object]) -> None:
        """Have a helper thread run a task, while the monitor runs."""
        self._requests.put(task)

    @property
    def unanswered(self) -> Verdict:
        """The verdict of a process about which an iteration ends without an answer: the default, or `fail` where the
        default is DEFER. At a stop, and where the iteration is cut off, `last_ruling` decides."""
        return self.options.fail if self.options.default is Verdict.DEFER else self.options.default

    @property
    def last_ruling(self) -> Ruling:
        """The ruling for all cases that a stop, or an iteration that is cut off, leaves undecided. They do not have the
        answer of their callbacks, so a monitor that fails closed blocks them."""
        blocks = Verdict.BLOCK in (self.options.default, self.options.fail)
        return Ruling(Verdict.BLOCK if blocks else Verdict.ALLOW, DecidedBy.STOP)

    def _note_failure(self, error: BaseException, doing: str) -> None:
        if self.error is None:
            self.error = error if isinstance(error, Exception) else ProcmonError(f"{doing} raised {error!r}")
        text = "%s: %s failed, so the monitor stops; held processes get %s"
        self._log(ERROR, text, self.gate.name, doing, self.last_ruling.verdict.name, error=error)
        self.begin_stop()

    def _log(self, level: int, message: str, *args: object, error: BaseException | None = None) -> None:
        self._log_lines.append(log_soon(level, message, *args, error=error))

    # ---------------------------------------------------------------------------------------------- subscriptions

    def subscribe(
        self, callback: Callback | Decider | ExitCallback, match: Match, *, to_exits: bool = False, name: str = ""
    ) -> Subscription:
        subscription = Subscription(callback, match, lambda cancelled: run_in_thread(self._forget, cancelled))
        subscription.name = name or subscription.name
        run_in_thread(self._add, subscription, to_exits)
        return subscription

    def _add(self, subscription: Subscription, to_exits: bool) -> None:
        with self._lock:
            if to_exits:
                self.exit_subscriptions += (subscription,)
            else:
                self.subscriptions += (subscription,)

    def _forget(self, subscription: Subscription) -> None:
        with self._lock:
            self.subscriptions = tuple(one for one in self.subscriptions if one is not subscription)
            self.exit_subscriptions = tuple(one for one in self.exit_subscriptions if one is not subscription)

    # ------------------------------------------------------------------------------------------------- the leader

    def _lead(self) -> bool:
        """Wait at the gate and ask the callbacks by turns, until another thread leads; False when given up."""
        while self._at_gate.acquire(blocking=False):
            if not self._wait_at_gate():
                return True  # the monitor ends: there is no leader any more
            self._at_gate.release()
            if self._stands_by.acquire(blocking=False):
                self.workers.play(self._stand_by)
            if not self.workers.ask():
                return False
        return True

    def _stand_by(self) -> bool:
        """Lead once a check finds the leader away; sleep after `STAND_BY_LOOKS` checks without a new case."""
        begun, quiet = -1, 0
        while quiet < STAND_BY_LOOKS:
            if self.workers.has_role_within(BATCH_S):
                self.workers.play(self._stand_by)  # the other role first; then any thread stands by
                return True
            if not self._at_gate.locked():
                break
            quiet = quiet + 1 if begun == self.workers.begun else 0
            begun = self.workers.begun
        self._stands_by.release()
        return self._lead()

    def _wait_at_gate(self) -> bool:
        """Wait until there is a case that the calling thread may ask about; False when the monitor ends."""
        try:
            while self.state is State.RUNNING:
                seconds = self._look_after()
                if self.gate.ended:
                    # `ended` is read again: a held process may have exited meanwhile, and is not fetched yet.
                    if (self.gate.closed or self.holds.wait_until(self._is_done, seconds)) and self.gate.ended:
                        self.begin_stop()
                        break
                elif self.gate.wait(seconds) and self._fetch():
                    return True
        except GateClosed:  # not by the monitor, which ends then
            self.begin_stop()
        except BaseException as error:
            self._note_failure(error, "reading from the gate")
        return False

    def _look_after(self) -> float:
        """Check deadlines, verdicts that wait, and sinks, without blocking; return the seconds until the next check."""
        seconds = self.workers.give_up_the_late()
        queued, begun = self.workers.queued, self.workers.begun
        # Verdicts may wait for others while callbacks return one after the other: then the next check is soon.
        # `batching` is reset before `is_late` is read, see `HoldTable.flush_unless_more`.
        self.holds.batching = moves = queued > 0 and begun != self._begun
        self._begun = begun
        if self.holds.is_late:
            self._flush()
        self.sinks.check()
        if not queued:
            return seconds
        self._pause = BATCH_S if moves else 2 * self._pause
        return min(self._pause, seconds)

    def _flush(self) -> None:
        """Send the verdicts that wait. Where a sink writes ahead, which may hang, a helper thread does."""
        if self.sinks.writes_ahead:
            submit(self.holds.flush)
        else:
            self.holds.flush()

    def _is_done(self) -> bool:
        return self.workers.is_idle and not self.holds.held

    def _fetch(self) -> bool:
        """Fetch, and queue the cases to ask about; return whether the calling thread may ask."""
        cases: list[Case] = []
        for case in self.holds.fetch():
            if case.process.exited:
                case.subscriptions = self.exit_subscriptions
                if case.subscriptions:
                    cases.append(case)
            elif not (self.callback_threads and self._answer_own(case)):
                case.subscriptions = self.subscriptions
                cases.append(case)
        if self.state is not State.RUNNING:  # the last fetch of the stop may have been before this one
            self.holds.release(self.last_ruling)
        may_ask = self.workers.add(cases)
        self.holds.batching = len(cases) > 1  # the leader, or the thread that stands by, checks soon
        return may_ask

    def _answer_own(self, case: Case) -> bool:
        """Decide a process that a callback started and may wait for; False when callbacks are asked as usual."""
        if not self.callback_threads.started(case.process):
            return False
        own = self.options.own
        if own is not None:
            self.holds.decide(case, Ruling(own, DecidedBy.EXEMPT, "own"))
            self._flush()
        outcome = f"it gets {own.value} at once" if own else "with own=None it may wait until the deadline"
        submit(self.callback_threads.warn, case.process, outcome)
        return own is not None


_running: set[Engine] = set()
_claiming = threading.RLock()  # taken before the lock of an engine: of two monitors that start, one gets the gate


def _stop_all() -> None:
    engines = [engine for engine in list(_running) if not (engine.is_forked or engine.at_exit)]
    end = time.monotonic() + EXIT_TIMEOUT_S
    for engine in engines:
        engine.at_exit = True  # so a later exit function does not wait again after Ctrl+C
        engine.begin_stop()
    for engine in engines:
        if not engine.stopped.wait(max(0.0, end - time.monotonic())):
            text = "%s: the gate hangs; its processes are answered at the end of the program"
            log_soon(ERROR, text, engine.gate.name).done.wait(LOG_TIMEOUT_S)


def _stop_all_first() -> None:
    """Each start registers this function again, so that it runs before the exit functions of the gate."""
    _stop_all()


# For monitors that an exit function starts: Python calls no exit function registered then. Before the steps of gates.
last_steps.insert(0, _stop_all)
