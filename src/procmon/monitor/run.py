"""The one-liners: `run` for one command, `guard` for the whole machine."""

from __future__ import annotations  # so that help() shows `Callback`, not its expansion

import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

from ..driver.service import DriverService
from ..errors import ProcmonError
from ..gates.base import Gate
from ..gates.debug import DebugGate
from ..gates.driver import DriverGate
from ..gates.simulated import SimulatedGate
from ..records import Decision, ProcessHelper, Verdict, VerdictResult, status_text
from ..system.tree import ProcessTree
from ..util.arguments import check_seconds
from ..util.threads import run_in_thread_async, submit
from .monitor import Monitor
from .sinks import Sink, read_sinks
from .subscriptions import Callback, Decider

__all__ = ["RunResult", "guard", "run"]

INTERRUPT_GRACE_S = 0.25
"""How long Ctrl+C waits for the command, which gets the same Ctrl+C, to end by itself; as `subprocess` does."""

END_TIMEOUT_S = 5.0
"""How long the end of a tree may take once its processes have been terminated."""

Arguments = str | PathLike[str] | Sequence[str | PathLike[str]]
"""A command, as `subprocess` takes it."""

OutputT = TypeVar("OutputT", bound=str | bytes | None, covariant=True)
"""Type of the captured output: text, bytes, None (not captured), or not known to a type checker."""


class MonitorOptions(TypedDict, total=False):
    """The keywords of `Monitor`, with their types: `run` and `guard` pass them on."""

    default: Verdict
    fail: Verdict
    on_error: Verdict | None
    deadline: float | None
    on_deadline: Verdict | None
    workers: int
    own: Verdict | None
    history: int
    audit: Sink | Iterable[Sink] | None


@dataclass(frozen=True, slots=True, repr=False)
class RunResult(Generic[OutputT]):
    r"""The result of a command that `procmon.run` ran.

    >>> import procmon
    >>> procmon.run(["cmd", "/c", "exit 3"])  # doctest: +WINDOWS
    <RunResult status 3: 1 allowed, 0 blocked>
    """

    args: str | PathLike[str] | Sequence[str | PathLike[str]]
    """The command, as it was given."""
    returncode: int
    """The exit status of the command itself; 0xC0000364 when it was blocked."""
    stdout: OutputT
    """Standard output of the command and its descendants, text or bytes; None without ``capture_output``."""
    stderr: OutputT
    """Their standard error, in the same way."""
    decisions: tuple[Decision, ...]
    """Every decision, oldest first; with ``history=`` only the latest ones."""
    tree: ProcessTree
    """The processes with their exit status and lifetime, each below its parent."""

    @property
    def blocked(self) -> list[Decision]:
        """The decisions that kept a process from running."""
        return [each for each in self.decisions if _took_effect(each) and each.verdict is Verdict.BLOCK]

    def check_returncode(self) -> None:
        """Raise `subprocess.CalledProcessError` unless the exit status is 0."""
        if self.returncode:
            import subprocess

            raise subprocess.CalledProcessError(self.returncode, cast(Any, self.args), self.stdout, self.stderr)

    def _repr_html_(self) -> str:
        """For notebooks: the line of `repr`, and the tree as a table."""
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.tree._repr_html_()}"

    def __repr__(self) -> str:
        allowed = sum(_took_effect(each) and each.verdict is Verdict.ALLOW for each in self.decisions)
        status = status_text(self.returncode)
        return f"<RunResult status {status}: {allowed} allowed, {len(self.blocked)} blocked>"


@overload
def run(
    argv: Arguments,
    decide: Callback | Decider | None = None,
    *,
    capture_output: Literal[True],
    text: Literal[True],
    timeout: float | None = None,
    check: bool = False,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    **monitor_options: Unpack[MonitorOptions],
) -> RunResult[str]: ...


@overload
def run(
    argv: Arguments,
    decide: Callback | Decider | None = None,
    *,
    capture_output: Literal[True],
    text: Literal[False] = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    **monitor_options: Unpack[MonitorOptions],
) -> RunResult[bytes]: ...


@overload
def run(
    argv: Arguments,
    decide: Callback | Decider | None = None,
    *,
    capture_output: Literal[False] = False,
    text: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    **monitor_options: Unpack[MonitorOptions],
) -> RunResult[None]: ...


@overload
def run(
    argv: Arguments,
    decide: Callback | Decider | None = None,
    *,
    capture_output: bool,
    text: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    **monitor_options: Unpack[MonitorOptions],
) -> RunResult[str | bytes | None]: ...


def run(
    argv: str | PathLike[str] | Sequence[str | PathLike[str]],
    decide: Callback | Decider | None = None,
    *,
    capture_output: bool = False,
    text: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    **monitor_options: Unpack[MonitorOptions],
) -> RunResult[str | bytes | None]:
    r"""Run a command as `subprocess.run` does, and decide about each process of its tree before it runs.

    `decide` is a callback, a `Policy` or None, which allows everything. The call returns when the whole tree has ended,
    so that no process escapes the decision; `timeout` limits the wait. Output of any length is read while the command
    runs. When `timeout` seconds have passed, or with Ctrl+C, every process of the tree is terminated.

    capture_output, text, timeout, check, cwd, env: as in `subprocess.run`
    monitor_options: those of `Monitor`: `default`, `fail` (for the gate, too), `on_error`, `deadline`, `on_deadline`,
                     `workers`, `own`, `history`, `audit`

    >>> import procmon
    >>> def decide(process):
    ...     if process.name == "whoami.exe":
    ...         return procmon.BLOCK
    >>> result = procmon.run(["cmd", "/c", "hostname & whoami"], decide, capture_output=True)  # doctest: +WINDOWS
    >>> [decision.process.name for decision in result.blocked]  # doctest: +WINDOWS
    ['whoami.exe']

    Raises: subprocess.TimeoutExpired after `timeout` seconds, subprocess.CalledProcessError with `check` for an exit
    status other than 0, both with the output so far; UnsupportedPlatform off Windows; what `subprocess.Popen` raises
    (FileNotFoundError...); TypeError or ValueError when an option is invalid, and then nothing is started.
    """
    import subprocess

    check_seconds("timeout", timeout)
    options = _checked(decide, {"history": sys.maxsize, **monitor_options})  # raises before the command is started
    deadline = None if timeout is None else time.monotonic() + timeout
    pipe = subprocess.PIPE if capture_output else None
    gate = DebugGate.run(argv, fail=options.get("fail"), stdout=pipe, stderr=pipe, text=text, cwd=cwd, env=env)
    command = gate.popen
    assert command is not None
    gone: list[ProcessHelper] = []
    monitor: Monitor | None = None
    try:
        monitor = _monitor(gate, decide, options)
        monitor.on_exit(gone.append)
        monitor.start()
        stdout, stderr = gate.communicate(timeout)
        if not monitor.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            assert timeout is not None
            raise subprocess.TimeoutExpired(cast(Any, argv), timeout, cast(Any, stdout), cast(Any, stderr))
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):
            command.wait(INTERRUPT_GRACE_S)
        _end(gate, monitor)
        raise
    except subprocess.TimeoutExpired as expired:
        _end(gate, monitor)
        if capture_output and expired.stdout is None:
            with suppress(subprocess.TimeoutExpired):
                stdout, stderr = command.communicate(timeout=1)
                expired.stdout, expired.stderr = cast(Any, stdout), cast(Any, stderr)
        raise
    except BaseException:
        _end(gate, monitor)
        raise
    if monitor.error is not None:
        raise ProcmonError(f"{gate.name} ended ungated: its gate failed") from monitor.error
    decisions = tuple(monitor.history)
    tree = ProcessTree([*decisions, *gone])  # the last record of a process counts
    result: RunResult[str | bytes | None] = RunResult(argv, command.returncode, stdout, stderr, decisions, tree)
    if check:
        result.check_returncode()
    return result


class guard:
    """Decide about each new process of the machine: `DriverService`, `DriverGate` and `Monitor` in one ``with``.

    The driver is installed and started if necessary; the end of the block undoes that. `decide` is a callback or a
    `Policy`; more callbacks can be subscribed to the monitor. `monitor_options` are those of `Monitor`, as for `run`::

        with procmon.guard(decide) as monitor:
            monitor.wait()

    In a coroutine, ``async with`` does the same without blocking the event loop, and coroutines of callbacks run on
    that loop; there use ``await monitor.wait_async()``. A cancellation undoes the installation, too.

    >>> import procmon
    >>> procmon.guard(deadline=-1)
    Traceback (most recent call last):
        ...
    ValueError: deadline is a number of seconds from 0, or None for no limit; not -1

    Raises: TypeError or ValueError when an option is invalid; at the entry of the ``with`` what `DriverService.ensure`
    and `DriverGate` raise.
    """

    def __init__(self, decide: Callback | Decider | None = None, **monitor_options: Unpack[MonitorOptions]) -> None:
        self._decide = decide
        self._options = _checked(decide, monitor_options)
        self._entered: list[AbstractContextManager[Monitor]] = []
        self._entered_async: list[AbstractAsyncContextManager[Monitor]] = []

    def __repr__(self) -> str:
        entered = self._entered or self._entered_async
        return f"<guard, {'entered' if entered else 'not entered: use it in a `with`'}>"

    if not TYPE_CHECKING:  # a type checker would take any attribute for one that is there

        def __getattr__(self, name: str) -> object:
            advice = "; the monitor has it: `with procmon.guard(...) as monitor:`" if hasattr(Monitor, name) else ""
            raise AttributeError(f"a guard has no attribute {name!r}{advice}")

    def __enter__(self) -> Monitor:
        running = self._run()
        monitor = running.__enter__()
        self._entered.append(running)
        return monitor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, traceback)

    async def __aenter__(self) -> Monitor:
        running = self._run_async()
        monitor = await running.__aenter__()
        self._entered_async.append(running)
        return monitor

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered_async.pop().__aexit__(kind, error, traceback)

    @contextmanager
    def _open(self) -> Iterator[Monitor]:
        """The monitor, not started, while driver and gate are there."""
        with DriverService(), DriverGate(fail=self._options.get("fail")) as gate:
            yield _monitor(gate, self._decide, self._options)

    @contextmanager
    def _run(self) -> Iterator[Monitor]:
        with self._open() as monitor, monitor:
            yield monitor

    @asynccontextmanager
    async def _run_async(self) -> AsyncIterator[Monitor]:
        """`_run` for a coroutine. A cancellation ends no call of a helper thread. So `undo` waits until the driver is
        open, or has failed to open; otherwise a driver that opens after a cancellation would stay."""
        opened = ExitStack()
        opening = submit(opened.enter_context, self._open())

        def undo(*error: Any) -> bool | None:
            opening.done.wait()
            return opened.__exit__(*error)  # does nothing if it has failed to open

        async with AsyncExitStack() as running:
            running.push_async_exit(partial(run_in_thread_async, undo))
            await run_in_thread_async(opening.done.wait)
            yield await running.enter_async_context(opening.result())


def _checked(decide: Callback | Decider | None, options: MonitorOptions) -> MonitorOptions:
    """The options of the monitor, which a monitor that never runs has accepted. An iterator of sinks is read here: the
    monitor that runs could not read it again.

    Raises: TypeError or ValueError when an option is invalid.
    """
    options = {**options, "audit": read_sinks(options.get("audit"))}
    _monitor(SimulatedGate(fail=options.get("fail")), decide, options)  # with the fail of the gate that follows
    return options


def _monitor(gate: Gate, decide: Callback | Decider | None, options: MonitorOptions) -> Monitor:
    monitor = Monitor(gate, **options)
    if decide is not None:
        monitor.subscribe(decide)
    return monitor


def _took_effect(decision: Decision) -> bool:
    return not decision.audited and decision.result in (None, VerdictResult.DONE)


def _end(gate: DebugGate, monitor: Monitor | None) -> None:
    """Terminate every process of the tree, and close the gate.

    An empty snapshot does not mean that the tree has gone: Windows reports a process, the first one too, only when its
    first thread runs. The gate has ended only after that, and when every record was fetched.
    """
    until = time.monotonic() + END_TIMEOUT_S
    try:
        while not gate.ended and time.monotonic() < until:
            for process in gate.snapshot():
                with suppress(ProcmonError, OSError):  # it has just gone
                    gate.terminate(process)
            if monitor is None or not monitor.running:
                gate.fetch()
            time.sleep(0.01)
    except ProcmonError:  # the gate has failed, or the monitor has closed it
        pass
    finally:
        gate.close()
        if gate.popen is not None:
            gate.popen.kill()  # in case the gate was closed while the command was alive; does nothing if it has ended
