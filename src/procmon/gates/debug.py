"""The driver-less gate: holds every new process of one tree, through the Windows debug API.

Windows reports each new process to its debugger before the first instruction, and keeps the process frozen until the
debugger continues the event. `DebugGate` is such a debugger: it continues these events when there is a verdict, and all
others at once. A frozen process delays no other. docs/gates/debug.md lists the limits.
"""

import math
import ntpath
import os
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from ..errors import GateClosed, ProcmonError, UnsupportedPlatform
from ..records import ProcessHelper, Verdict, VerdictResult
from ..util.arguments import check_pid, check_process, check_seconds
from ..util.at_exit import last_steps
from ..util.threads import run_in_thread
from ..win32 import debug, kernel
from ..win32 import process as win32_process
from ..win32.codes import ERROR_NOT_SUPPORTED, code_of
from ..win32.translate import ATTACH, translated
from .base import AnswersHeard, describe_failures, resolve_failures
from .debug_loop import DebugLoop
from .release_check import ReleaseCheck

if TYPE_CHECKING:
    import subprocess

__all__ = ["DebugGate"]

_COMMUNICATE_SLICE_S = 0.1  # Ctrl+C does not interrupt the wait for a thread or a process on Windows
_STOP_TIMEOUT_S = 5.0  # garbage collection can run anywhere, even under a lock that the gate's thread waits for

Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DebugGate(AnswersHeard):
    r"""Holds every new process of one tree: of a command it runs, or of a process it attaches to.

    It needs no driver and no administrator. Make one with `DebugGate.run` or `DebugGate.attach`, and pass it to a
    `procmon.Monitor`, or answer the processes yourself:

    >>> import procmon
    >>> gate = procmon.DebugGate.run("hostname")  # doctest: +WINDOWS
    >>> gate.wait()  # doctest: +WINDOWS
    True
    >>> [process.name for process in gate.fetch()]  # doctest: +WINDOWS
    ['hostname.exe']
    >>> gate.block(*gate.snapshot())  # doctest: +WINDOWS
    [<VerdictResult.DONE>]
    >>> hex(gate.popen.wait() & 0xFFFFFFFF)  # doctest: +WINDOWS
    '0xc0000364'
    >>> gate.close()  # doctest: +WINDOWS
    """

    popen: "subprocess.Popen[bytes] | subprocess.Popen[str] | None"
    """The command that `run` started, with its standard streams; None after `attach`."""
    if TYPE_CHECKING:  # set by `_make`
        _loop: DebugLoop
        _failures: dict[str, Verdict]
        _check: ReleaseCheck | None
        _name: str
        _closed: bool
        _finalizer: "weakref.finalize[..., DebugGate]"

    def __init__(self, *arguments: object, **options: object) -> None:
        raise TypeError("make a DebugGate by DebugGate.run(command), or by DebugGate.attach(pid) of a running process")

    @classmethod
    def _make(
        cls, loop: DebugLoop, failures: dict[str, Verdict], name: str, popen: "subprocess.Popen[bytes] | None" = None
    ) -> Self:
        gate = cls.__new__(cls)
        gate._loop = loop
        gate._failures = failures
        gate._check = ReleaseCheck(failures["on_tamper"]) if "on_tamper" in failures else None
        gate._name = name
        gate._closed = False
        gate.popen = popen
        # A gate that is dropped, or open at the end of the program, leaves no process held.
        gate._finalizer = weakref.finalize(gate, DebugLoop.stop, loop, _STOP_TIMEOUT_S)
        _made.add(gate)
        return gate

    @classmethod
    def run(
        cls,
        argv: Command,
        *,
        include_first: bool = True,
        hold_timeout: float | None = None,
        fail: Verdict | None = None,
        on_timeout: Verdict | None = None,
        on_disconnect: Verdict | None = None,
        on_tamper: Verdict | None = None,
        check_before_release: bool = False,
        **popen_options: object,
    ) -> Self:
        """Start a command and hold each process of its tree, at any depth.

        `popen_options` are those of `subprocess.Popen` (stdin, stdout, cwd, env, text...). With `include_first` False
        the command itself is not held. After `hold_timeout` seconds a held process gets `on_timeout`; None: never.
        Processes held when the gate is closed get `on_disconnect`. Each of these verdicts is by default `fail`, and
        ALLOW without `fail`. If Python is killed, held processes run. With `check_before_release` the gate first
        examines the memory of an allowed process. If it differs from the file, the process gets `on_tamper` (BLOCK
        unless that, or `fail`, is given), and `fetch` returns it once more with the flag TAMPERED.

        With ``stdout=subprocess.PIPE`` read the pipe while the command runs, as `communicate` does: a command that has
        filled its pipe blocks, so to wait for the command first is a deadlock.

        >>> import procmon
        >>> gate = procmon.DebugGate.run(["cmd", "/c", "exit 3"], hold_timeout=0)  # doctest: +WINDOWS
        >>> gate.popen.wait()  # doctest: +WINDOWS
        3
        >>> gate.close()  # doctest: +WINDOWS

        Raises: UnsupportedPlatform off Windows; exceptions of `subprocess.Popen` (FileNotFoundError...); ValueError.
        """
        check_seconds("hold_timeout", hold_timeout)
        tamper = {"on_tamper": on_tamper} if check_before_release else {}
        failures = resolve_failures(fail, on_timeout=on_timeout, on_disconnect=on_disconnect, **tamper)
        _check_windows()
        ends = failures["on_timeout"], failures["on_disconnect"]
        loop = DebugLoop(hold_timeout, *ends, include_first=include_first)
        options = cast(dict[str, Any], popen_options)
        flags = int(options.pop("creationflags", 0)) | debug.DEBUG_PROCESS
        import subprocess  # here, since `import procmon` needs none of it

        first = argv if isinstance(argv, str | bytes | os.PathLike) else argv[0] if argv else ""
        name = _command_name(os.fsdecode(first))  # before the start: a failure here leaves no process behind

        def start(port: debug.DebugPort) -> "subprocess.Popen[bytes]":
            popen = subprocess.Popen(argv, creationflags=flags, **options)
            loop.first_pid = popen.pid
            return popen

        try:
            popen = loop.begin(start)
        except OSError as error:
            if code_of(error) == ERROR_NOT_SUPPORTED:
                error.add_note("a 32-bit Python cannot debug a 64-bit program: use a 64-bit Python")
            raise
        return cls._make(loop, failures, f"{name} (pid {popen.pid})", popen)

    @classmethod
    def attach(
        cls,
        pid: int,
        *,
        hold_timeout: float | None = None,
        fail: Verdict | None = None,
        on_timeout: Verdict | None = None,
        on_disconnect: Verdict | None = None,
        on_tamper: Verdict | None = None,
        check_before_release: bool = False,
    ) -> Self:
        """Hold each process that a running process starts from now on, and their descendants; not the process itself.

        The options are those of `run`.

        Raises: UnsupportedPlatform off Windows, and on Wine; StaleProcess when there is no such process; AccessDenied
        when it belongs to another user or has a debugger already; TypeError or ValueError for a bad pid or option.
        """
        _check_attachable(pid)
        check_seconds("hold_timeout", hold_timeout)
        tamper = {"on_tamper": on_tamper} if check_before_release else {}
        failures = resolve_failures(fail, on_timeout=on_timeout, on_disconnect=on_disconnect, **tamper)
        _check_windows()
        loop = DebugLoop(hold_timeout, failures["on_timeout"], failures["on_disconnect"], attached_pid=pid)
        with translated(ATTACH, pid=pid):
            with kernel.open_process(pid) as opened:
                image = win32_process.dos_or_native_path(opened)
            loop.begin(lambda port: port.attach(pid))
        return cls._make(loop, failures, f"{_command_name(image)} (pid {pid})")

    def __repr__(self) -> str:
        if self._closed:
            return f"<DebugGate {self._name} closed>"
        if self._loop.finished:
            return f"<DebugGate {self._name} ended>"
        alive, held = self._loop.counts()
        return f"<DebugGate {self._name}: {alive} alive, {held} held{describe_failures(self._failures)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------- the protocol

    @property
    def name(self) -> str:
        """A name for people: ``cmd (pid 44)``."""
        return self._name

    @property
    def failures(self) -> Mapping[str, Verdict]:
        """By option: its verdicts when it gets no answer (``on_timeout``, ``on_disconnect``); ``on_tamper`` if it
        checks before a release."""
        return MappingProxyType(self._failures)

    @property
    def closed(self) -> bool:
        """`close` has been called."""
        return self._closed

    @property
    def ended(self) -> bool:
        """The tree is gone and every record was fetched, or the gate is closed."""
        return self._closed or self._loop.drained()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `fetch` has records, `wake` was called or the gate ended; False when `timeout` seconds passed.
        Ctrl+C interrupts the wait."""
        check_seconds("timeout", timeout)
        return self._loop.wait_ready(timeout)

    def wake(self) -> None:
        """Make a `wait` in another thread, or the next one, return True at once."""
        self._loop.wake_waiters()

    def fetch(self) -> list[ProcessHelper]:
        """Return the new records, oldest first: starts, exits, and processes that the hold timeout has answered.

        Raises: GateClosed; ProcmonError, once, when the debug API failed, which ends the gate.
        """
        self._check_open()
        return self._loop.fetch()

    def snapshot(self) -> list[ProcessHelper]:
        """Return the living processes of the tree, oldest first; marks none as seen.

        Raises: GateClosed.
        """
        self._check_open()
        return self._loop.snapshot()

    def allow(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """Release the processes. Returns one result for each, in order: TAMPERED if `check_before_release` blocked it.

        Raises: GateClosed.
        """
        return self._answer(processes, Verdict.ALLOW)

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End the processes before their first instruction, with status 0xC0000364. Returns one result for each, in
        order.

        Raises: GateClosed.
        """
        return self._answer(processes, Verdict.BLOCK)

    def terminate(self, process: ProcessHelper) -> None:
        """End a process of the tree, held or not, with status 0xC0000364.

        Raises: StaleProcess when it has gone; GateClosed.
        """
        check_process("process", process)
        self._check_open()
        if self.block(process) != [VerdictResult.DONE]:
            self._loop.terminate(process)

    def communicate(self, timeout: float | None = None) -> tuple[str | bytes | None, str | bytes | None]:
        """Read the pipes of the command to their end, and wait for it to exit, as `subprocess.Popen.communicate` does.

        A started `Monitor` or another thread must answer the gate meanwhile: a held process prints nothing. Ctrl+C
        interrupts the wait.

        >>> import procmon, subprocess
        >>> gate = procmon.DebugGate.run("hostname", stdout=subprocess.PIPE)  # doctest: +WINDOWS
        >>> with procmon.Monitor(gate):  # doctest: +WINDOWS
        ...     stdout, stderr = gate.communicate(timeout=30)
        >>> len(stdout) > 0, stderr  # doctest: +WINDOWS
        (True, None)

        Raises: subprocess.TimeoutExpired after `timeout` seconds, and a second call loses no output; ProcmonError on a
        gate that was attached to a process.
        """
        if self.popen is None:
            raise ProcmonError(
                f"{self._name} was attached to, so it has no pipes here: communicate() is for DebugGate.run"
            )
        from subprocess import TimeoutExpired

        check_seconds("timeout", timeout)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self.popen.communicate(timeout=min(_COMMUNICATE_SLICE_S, left))
            except TimeoutExpired as expired:
                if timeout is not None and left <= _COMMUNICATE_SLICE_S:
                    output = expired.output, expired.stderr
                    raise TimeoutExpired(self.popen.args, timeout, *output) from None

    def close(self) -> None:
        """Give `on_disconnect` to all held processes and detach from the tree, which goes on undebugged. Idempotent."""
        run_in_thread(self._close)
        self._finalizer.detach()

    def _close(self) -> None:
        if self._check is not None:
            self._check.finish()
        self._closed = True
        self._loop.stop()

    def _answer(self, processes: Sequence[ProcessHelper], verdict: Verdict) -> list[VerdictResult]:
        for process in processes:
            check_process("process", process)
        self._check_open()
        if self._check is None or verdict is Verdict.BLOCK:
            results = self._loop.answer(processes, verdict)
        else:
            results, _ = self._check.release(processes, self._loop.answer)
        return self._notify(processes, verdict, results)

    def _check_open(self) -> None:
        if self._closed:
            raise GateClosed(f"the gate on {self._name} is closed: make a new one, with DebugGate.run or .attach")


# ------------------------------------------------------------------------------------------------------------- helpers


def _check_attachable(pid: int) -> None:
    check_pid("pid", pid)
    if pid % 4:
        raise ValueError(f"pid {pid} is no pid of Windows, which are multiples of 4; procmon.processes() lists them")
    if pid == os.getpid():
        raise ValueError("a program cannot debug itself: DebugGate.run starts a command whose processes are held")


def _check_windows() -> None:
    if sys.platform != "win32":
        raise UnsupportedPlatform(
            f"DebugGate needs the Windows debug API, and this is {sys.platform}; procmon.SimulatedGate works everywhere"
        )


def _command_name(first: str) -> str:
    """``cmd`` of ``C:\\Windows\\cmd.exe /c dir``."""
    program, _, _ = first.lstrip('"').partition('"')
    end = program.lower().find(".exe")
    return ntpath.basename(program[:end] if end > 0 else program.split(" ")[0])


_made: weakref.WeakSet[DebugGate] = weakref.WeakSet()


def _finish_all() -> None:
    for gate in list(_made):
        gate._finalizer()  # does nothing for a gate that is closed


last_steps.append(_finish_all)  # for gates that an exit function makes, whose finalizers Python calls no more
