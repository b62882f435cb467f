"""The monitor: fetches held processes from a gate, asks the callbacks, sends the verdicts."""

from __future__ import annotations  # so that help() shows `Callback`, not its expansion

import sys
import weakref
from collections.abc import Callable, Iterable
from types import EllipsisType, TracebackType
from typing import Self, overload

from ..errors import ProcmonError
from ..gates.base import Gate
from ..records import Decision, ProcessHelper, Verdict
from ..system.ancestry import Ancestry
from ..system.decision_list import DecisionList
from ..system.listing import lookup
from ..util.arguments import allow_or_block, check_count, check_process, check_process_or_pid, check_seconds
from ..util.log import WARNING, log
from ..util.threads import run_in_thread, run_in_thread_async
from .engine import Engine, State
from .sinks import Sink, read_sinks
from .starts import Starts
from .statistics import Statistics
from .subscriptions import Callback, Decider, ExitCallback, Match, Subscription
from .sweep import sweep
from .workers import Options

__all__ = ["Monitor"]

FAULT_COUNTS = ("callback_errors", "deadlines", "tampered", "audit_errors", "audit_dropped")
"""Counts that a repr shows when they are not 0."""


class Monitor:
    r"""Asks callbacks about every process that a gate holds, and answers the gate.

    Callbacks are asked in the order of their subscription; the first that returns something decides. The monitor owns
    its gate from `start` on: `stop` answers all held processes and closes the gate. A monitor starts once.

    Failures fail open, as in the gates: if a mistake in a callback blocked every start, no program could start to
    repair it. Where starts must fail closed, pass ``fail=BLOCK``, to the gate as well. `default` is no part of that: a
    callback without an opinion has not failed.

    default:      verdict when no callback has an opinion; ALLOW, BLOCK, or DEFER: the process stays held until you
                  answer
    fail:         ALLOW or BLOCK: the value of `on_error` and `on_deadline` where these are not given. Processes still
                  held when the monitor stops get BLOCK if `fail` or `default` is BLOCK, otherwise ALLOW
    on_error:     verdict when a callback raises or returns a wrong type; the traceback is logged. May be DEFER
    deadline:     seconds for all callbacks of one process together, None = no limit; less where the gate's own hold
                  timeout is earlier. A deferred process has no deadline
    on_deadline:  verdict when the callbacks take longer; another thread replaces the one that hangs. May be DEFER
    workers:      callbacks that run at the same time; 1 = never two at once (except one past its deadline).
                  Coroutines do not count
    own:          verdict for processes that a callback's own thread starts: the callback might wait for them, and so
                  for itself. None = the callbacks are asked about them as usual
    history:      number of decisions that `history` keeps
    audit:        a sink, or several: an object with ``write(decision)``, such as an `AuditLog`, that gets each decision
                  after its verdict was sent

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> monitor = procmon.Monitor(gate)
    >>> @monitor.subscribe
    ... def decide(process):
    ...     if process.name == "notepad.exe":
    ...         return procmon.BLOCK
    >>> with monitor:
    ...     notepad, calc = gate.start("c:/windows/notepad.exe"), gate.start("c:/windows/calc.exe")
    ...     gate.verdict_of(notepad), gate.verdict_of(calc)
    (<Verdict.BLOCK>, <Verdict.ALLOW>)
    >>> monitor
    <Monitor stopped on simulated: 1 allowed, 1 blocked, 0 pending>

    Raises: TypeError or ValueError when an option is invalid.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        default: Verdict = Verdict.ALLOW,
        fail: Verdict = Verdict.ALLOW,
        on_error: Verdict | None = None,
        deadline: float | None = 30.0,
        on_deadline: Verdict | None = None,
        workers: int = 1,
        own: Verdict | None = Verdict.ALLOW,
        history: int = 1000,
        audit: Sink | Iterable[Sink] | None = None,
    ) -> None:
        if isinstance(gate, type) or not isinstance(gate, Gate):
            raise TypeError(f"a Monitor needs a gate (DriverGate, DebugGate, SimulatedGate), not {gate!r}")
        self._fail = allow_or_block("fail", fail)
        on_error = fail if on_error is None else on_error
        on_deadline = fail if on_deadline is None else on_deadline
        for option, value in (("default", default), ("on_error", on_error), ("on_deadline", on_deadline)):
            if not isinstance(value, Verdict):
                raise TypeError(f"{option} is ALLOW, BLOCK or DEFER, not {value!r}")
        if own is Verdict.DEFER or not (own is None or isinstance(own, Verdict)):
            raise TypeError(f"own is ALLOW, BLOCK or None, not {own!r}")
        if check_seconds("deadline", deadline) == 0:
            raise ValueError("deadline is 0, so no callback could answer in time; None is no limit")
        check_count("workers", workers, least=1)
        check_count("history", history, least=0)
        failures: dict[str, Verdict] = getattr(gate, "failures", {})
        differ = [f"{name}={verdict.name}" for name, verdict in failures.items() if verdict is not fail]
        if differ and differ != ["on_tamper=BLOCK"]:
            text = "the monitor has fail=%s, but its gate %s has %s: give both the same fail="
            log(WARNING, text, fail.name, gate.name, ", ".join(differ))
        self._engine = Engine(
            gate, Options(default, fail, on_error, deadline, on_deadline, workers, own, history, read_sinks(audit))
        )
        self._finalizer = weakref.finalize(self, self._engine.drop)
        self._finalizer.atexit = False  # the engines that run are stopped by an exit function of their own

    def __repr__(self) -> str:
        engine = self._engine
        state = "failed" if engine.error is not None else engine.state.value
        counts = engine.counts
        fail = ", fail=BLOCK" if self._fail is Verdict.BLOCK else ""
        return (
            f"<Monitor {state} on {engine.gate.name}{fail}: {counts.get('allowed', 0)} allowed,"
            f" {counts.get('blocked', 0)} blocked, {len(engine.holds.held)} pending"
            + "".join(f", {counts[of]} {of.replace('_', ' ')}" for of in FAULT_COUNTS if counts.get(of))
            + ">"
        )

    # --------------------------------------------------------------------------------------------------- its life

    def start(self) -> None:
        """Start answering; returns at once.

        >>> import procmon
        >>> monitor = procmon.Monitor(procmon.SimulatedGate())
        >>> monitor.start()
        >>> monitor.running
        True
        >>> monitor.stop()

        Raises: ProcmonError when it has been started before, GateClosed when its gate was closed, and the gate's error
        when the gate cannot be read.
        """
        self._engine.start()

    def stop(self) -> None:
        """Answer all held processes, close the gate, and ask no more callbacks.

        They get BLOCK if `default` or `fail` is BLOCK, otherwise ALLOW. Thread-safe and idempotent. In a callback or a
        sink it returns at once, and the monitor stops soon; the result of that callback still counts, if it returns
        within a second and is no coroutine. Ctrl+C ends the wait within half a second, even if something hangs; the
        monitor stops all the same.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> monitor = procmon.Monitor(gate, default=procmon.DEFER)
        >>> monitor.start()
        >>> process = gate.start("a.exe")
        >>> monitor.stop()
        >>> monitor.history
        [<Decision allow 1000 'a.exe' by stop>]
        """
        self._engine.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the monitor has stopped; False when `timeout` seconds passed first. Ctrl+C ends it at any time.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> with procmon.Monitor(gate) as monitor:
        ...     gate.end()
        ...     monitor.wait(5)
        True

        Raises: ProcmonError when it was never started.
        """
        check_seconds("timeout", timeout)
        self._engine.check_runs()
        self._engine.check_caller("use `await monitor.wait_async()`")
        return self._engine.stopped.wait(timeout)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """`wait` for coroutines.

        Raises: ProcmonError when it was never started.
        """
        check_seconds("timeout", timeout)
        self._engine.check_runs()
        return await run_in_thread_async(self._engine.stopped.wait, timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self._engine.start_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.stop_async()

    @property
    def failures(self) -> dict[str, Verdict]:
        """Every verdict of failure in force, by its option: `on_error`, `on_deadline`, and those of the gate.

        >>> import procmon
        >>> procmon.Monitor(procmon.SimulatedGate(), on_error=procmon.BLOCK).failures["on_error"]
        <Verdict.BLOCK>
        """
        options = self._engine.options
        own = {"on_error": options.on_error, "on_deadline": options.on_deadline}
        return own | dict(getattr(self.gate, "failures", {}))

    @property
    def gate(self) -> Gate:
        """The gate it was made with."""
        return self._engine.gate

    @property
    def fail(self) -> Verdict:
        """The value of `on_error` and `on_deadline` where these are not given: fail open (ALLOW) or closed (BLOCK)."""
        return self._fail

    @property
    def running(self) -> bool:
        """Started, and not stopped."""
        return self._engine.state is State.RUNNING

    @property
    def error(self) -> Exception | None:
        """The failure that stopped the monitor, such as an error of the gate; otherwise None."""
        return self._engine.error

    # -------------------------------------------------------------------------------------------------- callbacks

    @overload
    def subscribe(self, callback: Callback | Decider, /, *, match: Match = None) -> Subscription: ...

    @overload
    def subscribe(self, /, *, match: Match = None) -> Callable[[Callback | Decider], Subscription]: ...

    def subscribe(
        self, callback: Callback | Decider | EllipsisType = ..., /, *, match: Match = None
    ) -> Subscription | Callable[[Callback | Decider], Subscription]:
        r"""Ask `callback` about every process, or about those that `match`; also as a decorator.

        It gets a `ProcessHelper` and returns ALLOW, BLOCK, DEFER, a `Decision`, or None: no opinion. It may be a
        coroutine function, or an object with a method ``decide``; a `Policy` is a callback. `match` is a glob on the
        image name (``*`` within a part, ``**`` across parts; without a slash the last part counts) or a function of the
        process that returns whether to ask the callback.

        >>> import procmon
        >>> monitor = procmon.Monitor(procmon.SimulatedGate())
        >>> monitor.subscribe(lambda process: procmon.BLOCK, match="**/temp/**")
        <Subscription <lambda> matching '**/temp/**'>

        Raises: TypeError when `callback` is no callback, ValueError when `match` is an empty pattern, ProcmonError when
        the monitor has stopped.
        """
        self._check_calls()
        if callback is ...:
            return lambda function: self._engine.subscribe(function, match)
        return self._engine.subscribe(callback, match)

    @overload
    def on_exit(self, callback: ExitCallback, /, *, match: Match = None) -> Subscription: ...

    @overload
    def on_exit(self, /, *, match: Match = None) -> Callable[[ExitCallback], Subscription]: ...

    def on_exit(
        self, callback: ExitCallback | EllipsisType = ..., /, *, match: Match = None
    ) -> Subscription | Callable[[ExitCallback], Subscription]:
        """Call `callback` with the record of every process that exits; its result does not count.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> monitor = procmon.Monitor(gate)
        >>> subscription = monitor.on_exit(lambda process: print(process.name, "exited with", process.exit_status))
        >>> monitor.start()
        >>> gate.exit(gate.start("a.exe"), 3)
        >>> gate.end()
        >>> monitor.wait(5)
        a.exe exited with 3
        True

        Raises: as `subscribe`.
        """
        self._check_calls()
        if callback is ...:
            return lambda function: self._engine.subscribe(function, match, to_exits=True)
        return self._engine.subscribe(callback, match, to_exits=True)

    def _check_calls(self) -> None:
        if self._engine.state in (State.STOPPING, State.STOPPED):
            raise ProcmonError("the monitor has stopped and calls no callback any more: make a new gate and Monitor")

    def starts(self, timeout: float | None = None, *, match: Match = None) -> Starts:
        """The processes that start from now on, to iterate over with ``for`` or ``async for``.

        Each is held until `allow` or `block`. The iteration ends when no process started for `timeout` seconds, or when
        the monitor stops.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> with procmon.Monitor(gate) as monitor:
        ...     starts = monitor.starts(timeout=0.1)
        ...     a, b = gate.start("a.exe"), gate.start("b.exe")
        ...     for process in starts:
        ...         decision = monitor.block(process) if process.name == "a.exe" else monitor.allow(process)
        >>> monitor
        <Monitor stopped on simulated: 1 allowed, 1 blocked, 0 pending>

        Raises: ProcmonError, when iterated, if the monitor was never started.
        """
        return Starts._of(self._engine, check_seconds("timeout", timeout), match)

    # --------------------------------------------------------------------------------------------------- verdicts

    @property
    def pending(self) -> list[ProcessHelper]:
        """The processes held at this moment without a verdict, oldest first; a deferred process is one of them."""
        return [case.process for case in list(self._engine.holds.held.values()) if case.ruling is None]

    def parent(self, process: ProcessHelper) -> ProcessHelper | None:
        """The process that started this one; None where it is not known. A later process that reuses `parent_pid` is
        not returned.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> with procmon.Monitor(gate) as monitor:
        ...     make, _ = gate.play([("start", "make.exe"), ("start", "cc.exe", "make.exe")])
        ...     monitor.parent(_) == make
        True
        """
        return next(iter(self.ancestors(process)), None)

    def ancestors(self, process: ProcessHelper) -> list[ProcessHelper]:
        """The parent, the parent's parent and so on, as far as known: from `history`, otherwise from the process list
        of Windows. In a callback they are exact; later a parent may have gone."""
        check_process("process", process)
        return list(Ancestry(self._seen).note(process).ancestors)

    def _seen(self, pid: int) -> ProcessHelper | None:
        holds = self._engine.holds
        known = [case.process for case in (*holds.recorded(), *list(holds.held.values()))]
        found = next((process for process in reversed(known) if process.pid == pid), None)
        return lookup(pid) if found is None and sys.platform == "win32" else found

    def allow(self, process: ProcessHelper | int) -> Decision:
        """Let a held process run, given by its record or pid. Ctrl+C ends the wait; the verdict is sent all the same.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> with procmon.Monitor(gate, default=procmon.DEFER) as monitor:
        ...     process = gate.start("a.exe")
        ...     monitor.allow(process)
        <Decision allow 1000 'a.exe' by user>

        Raises: StaleProcess when it has gone, AlreadyAnswered, NotHeld, GateClosed; ProcessTampered when the gate
        blocked it, because the code in its memory differs from its file.
        """
        check_process_or_pid("process", process)
        return run_in_thread(self._engine.holds.answer_for_user, process, Verdict.ALLOW)

    def block(self, process: ProcessHelper | int) -> Decision:
        """End a held process before its first instruction, given by its record or pid. Ctrl+C: as for `allow`.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> with procmon.Monitor(gate, default=procmon.DEFER) as monitor:
        ...     process = gate.start("a.exe")
        ...     monitor.block(process.pid)
        <Decision block 1000 'a.exe' by user>

        Raises: StaleProcess when it has gone, AlreadyAnswered, NotHeld, GateClosed.
        """
        check_process_or_pid("process", process)
        return run_in_thread(self._engine.holds.answer_for_user, process, Verdict.BLOCK)

    async def allow_async(self, process: ProcessHelper | int) -> Decision:
        """`allow` for coroutines; does not block the loop. A cancellation ends the wait, not the verdict."""
        check_process_or_pid("process", process)
        return await run_in_thread_async(self._engine.holds.answer_for_user, process, Verdict.ALLOW)

    async def block_async(self, process: ProcessHelper | int) -> Decision:
        """`block` for coroutines; see `allow_async`."""
        check_process_or_pid("process", process)
        return await run_in_thread_async(self._engine.holds.answer_for_user, process, Verdict.BLOCK)

    @property
    def history(self) -> DecisionList:
        """The latest decisions, oldest first; the option ``history`` of `Monitor` limits their number."""
        return DecisionList(case.decision for case in self._engine.holds.recorded())

    @property
    def statistics(self) -> Statistics:
        """Counts since the monitor was made."""
        return run_in_thread(self._engine.statistics)

    def sweep(
        self,
        policy: Decider | Callable[[ProcessHelper], Decision | Verdict | None] | Subscription,
        *,
        terminate: bool = False,
    ) -> list[Decision]:
        """Ask `policy` about the running processes that were never held, and return its decisions.

        Ends no process unless `terminate`: then it ends those that `policy` blocks (and does not merely audit), except
        this program and processes that the gate never holds. The decision about an ended process has the
        `Decision.result` DONE, and is also in `history` and the audit. If a process could not be ended, the log has
        the reason. A `Subscription` is asked about the processes of its `match` alone.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> processes = gate.running_before("c:/tools/a.exe")
        >>> procmon.Monitor(gate).sweep(lambda process: procmon.BLOCK)
        [<Decision block 1000 'c:\\\\tools\\\\a.exe' by callback <lambda>>]

        Raises: GateClosed.
        """
        # A subscription is asked with its `match`: without it the callback may block what it was never meant for.
        subscription = policy if isinstance(policy, Subscription) else Subscription(policy, None, lambda _: None)
        return sweep(self.gate, subscription, terminate=terminate, note=self._engine.holds.note_swept)
