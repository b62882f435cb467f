"""The thread that debugs a tree for `DebugGate`, and what it reports: held starts, exits, timeouts.

Windows ties a debug object to the thread that made it, so one thread does all the debugging. It waits for the next
debug event or verdict. It continues the event of a new process when there is a verdict, and all other events at once.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar, cast

from ..errors import ProcmonError, StaleProcess
from ..records import STATUS_BLOCKED, DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..system.describe import asked, describe
from ..system.wow64 import narrow_dispatcher
from ..util.after_verdict import after_verdict
from ..util.arguments import check_seconds
from ..util.log import DEBUG, ERROR, WARNING, log_soon
from ..util.threads import Call, wait_for
from ..win32 import debug, debugged, kernel
from ..win32 import process as win32_process
from ..win32.handles import Handle
from .unreported import end_unreported, is_unreported

__all__ = ["DebugLoop"]

_STATUS_BREAKPOINT = 0x80000003
_LOADER_BREAKPOINTS = (_STATUS_BREAKPOINT, 0x4000001F)  # and STATUS_WX86_BREAKPOINT of a 32-bit process
_BAD_HANDLE_STATUSES = (0xC0000008, 0xC0000235)  # STATUS_INVALID_HANDLE, STATUS_HANDLE_NOT_CLOSABLE
_CHILD_POLL_MS = 20  # until the event of a child that exists already, or its end
_CONTROL_C_SLICE = 0.25  # seconds; on Windows Ctrl+C does not interrupt the wait for a Python lock


_T = TypeVar("_T")


class _Process:
    """A living process of the tree."""

    __slots__ = ("breakpoints", "deadline", "handle", "narrow_ntdll", "record", "tid")

    def __init__(
        self, record: ProcessHelper, handle: int, tid: int, deadline: float | None, breakpoints: Iterable[int]
    ) -> None:
        self.record = record
        self.handle = handle  # the debug API's: valid until its exit event is continued
        self.tid = tid  # of its first thread, whose event stays open while it is held
        self.deadline = deadline  # on the monotonic clock
        self.breakpoints = set(breakpoints)  # that its loader has not hit yet, each once
        self.narrow_ntdll = 0  # address of its 32-bit ntdll, the first library below 4 GiB that Windows loads

    def current(self) -> ProcessHelper:
        """The record as of now."""
        if self.deadline is None or not self.record.paused:
            return self.record
        return replace(self.record, hold_left=max(0.0, self.deadline - time.monotonic()))


def _end(process: _Process) -> None:
    try:
        kernel.terminate_process(process.handle, STATUS_BLOCKED)
    except PermissionError:  # Windows' answer when the process is exiting already; the handle lacks no right
        pass


def _blocked(process: _Process, else_it: str) -> bool:
    try:
        _end(process)
    except OSError as error:  # a process that cannot be ended must not cost the others their gate
        log_soon(ERROR, "%r could not be ended; it %s", process.record, else_it, error=error)
        return False
    return True


def _unmark(info: debug.CreateProcessInfo, peb: int) -> bool:
    try:
        debugged.clear_debugged_mark(info.process, peb, info.image_base or 0)
    except OSError as error:
        log_soon(DEBUG, "clear_debugged_mark: %s", error)
        return False
    return True


def _command_line(handle: int, peb: int) -> str:
    """Read the command line from memory (two reads if the address of the PEB is known); query Windows if that fails."""
    try:
        return win32_process.command_line_in_memory(handle, peb)
    except OSError:
        return win32_process.command_line(handle)


def _resume(port: debug.DebugPort, pid: int, tid: int, handled: bool = True) -> None:
    try:
        port.resume(pid, tid, handled)
    except OSError as error:  # one lost process must not cost the others their gate
        text = "process %d could not be continued: it has probably been ended by others"
        log_soon(WARNING, text, pid, error=error)


class DebugLoop:
    """The thread that debugs, and the state it shares with the gate's callers.

    `_state` guards all state. Only the thread uses the debug port, except for `DebugPort.wake`: Windows accepts
    ContinueDebugEvent from no other thread. The loop must not refer to the gate, which must stay collectable.
    """

    def __init__(
        self,
        hold_timeout: float | None = None,
        on_timeout: Verdict = Verdict.ALLOW,
        on_disconnect: Verdict = Verdict.ALLOW,
        *,
        include_first: bool = True,
        attached_pid: int | None = None,
    ) -> None:
        self._hold_timeout = check_seconds("hold_timeout", hold_timeout)
        self._on_timeout = on_timeout
        self._on_disconnect = on_disconnect
        self._include_first = include_first
        self._attached_pid = attached_pid
        self.first_pid = 0  # of the command that `begin` starts
        self._state = threading.Condition()
        self._living: dict[int, _Process] = {}
        self._gone: dict[int, ProcessHelper] = {}  # the last of each pid, to recognise late verdicts
        self._news: deque[ProcessHelper] = deque()  # not yet fetched
        self._answers: deque[_Process] = deque()  # decided, and not yet continued
        self._timed: deque[_Process] = deque()  # held, the next deadline first
        self._last_key = 0
        self._woken = False
        self._stopping = False
        self.finished = False
        self._failure: Exception | None = None
        self._port: debug.DebugPort | None = None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------ for the gate's callers

    def begin(self, first: Callable[[debug.DebugPort], _T]) -> _T:
        """Start the thread and call `first` in it, which puts the first process under the debugger; its result. If
        that process is new, `first` sets `first_pid`."""
        beginning = Call(lambda: self._begin(first))
        self._thread = threading.Thread(target=self._main, args=(beginning,), name="procmon DebugGate", daemon=True)
        self._thread.start()
        try:
            beginning.done.wait()
            return beginning.result()
        except BaseException:  # Ctrl+C: `first` has run or will run, and no gate will answer the processes it holds
            self.stop(_CONTROL_C_SLICE)
            raise

    def stop(self, patience: float = math.inf) -> None:
        """Give the disconnect verdict to all held processes, detach from the tree and end the thread; wait up to
        `patience` seconds for the end. Idempotent."""
        with self._state:
            self._stopping = True
            self._ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            deadline = time.monotonic() + patience
            while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                self._thread.join(min(left, _CONTROL_C_SLICE))

    def counts(self) -> tuple[int, int]:
        """The number of living processes, and of the held ones among them."""
        with self._state:
            return len(self._living), sum(process.record.paused for process in self._living.values())

    def drained(self) -> bool:
        """The thread has ended, and every record was fetched."""
        with self._state:
            return self.finished and not self._news and self._failure is None

    def wait_ready(self, timeout: float | None) -> bool:
        with self._state:
            ready = wait_for(self._state, lambda: bool(self._news) or self._woken or self.finished, timeout)
            self._woken = self._woken and not ready
            return ready

    def wake_waiters(self) -> None:
        with self._state:
            self._woken = True
            self._state.notify_all()

    def fetch(self) -> list[ProcessHelper]:
        with self._state:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise ProcmonError("the debug loop failed: held processes got on_disconnect") from failure
            fetched = []
            for record in self._news:
                process = self._living.get(record.pid)
                if process is not None and process.record == record:
                    fetched.append(process.current() if record.paused else record)
                    process.record = replace(process.record, seen=True, flags=process.record.flags | ProcessFlags.SEEN)
                else:
                    fetched.append(record)
            self._news.clear()
            return fetched

    def snapshot(self) -> list[ProcessHelper]:
        with self._state:
            return [process.current() for process in self._living.values()]

    def answer(
        self, processes: Iterable[ProcessHelper], verdict: Verdict, tampered: bool = False
    ) -> list[VerdictResult]:
        with self._state:
            answers = [self._answer_one(process, verdict, tampered) for process in processes]
            if self._answers:
                self._ring()
            return answers

    def _answer_one(self, asked: ProcessHelper, verdict: Verdict, tampered: bool) -> VerdictResult:
        process = self._living.get(asked.pid)
        known = process.record if process is not None else self._gone.get(asked.pid)
        if known is None:
            return VerdictResult.UNKNOWN
        if known != asked:
            return VerdictResult.STALE
        if known.verdict is not None:
            return VerdictResult.NOT_HELD if known.decided_by is DecidedBy.EXEMPT else VerdictResult.ANSWERED
        if process is None:
            return VerdictResult.UNKNOWN
        if not known.paused:
            return VerdictResult.NOT_HELD
        if tampered:
            self._decide(process, verdict, DecidedBy.TAMPER, ProcessFlags.TAMPERED)
        else:
            self._decide(process, verdict, DecidedBy.CONTROLLER)
        return VerdictResult.DONE

    def terminate(self, asked: ProcessHelper) -> None:
        with self._state:
            process = self._living.get(asked.pid)
            if process is None or process.record != asked:
                raise StaleProcess(f"{asked!r} has gone: there is nothing left to end", asked)
            _end(process)

    # ----------------------------------------------------- for the callers and the thread, with `_state` acquired

    def _ring(self) -> None:
        if self._port is not None and not self.finished:
            self._port.wake()

    def _decide(self, process: _Process, verdict: Verdict, by: DecidedBy, fact: ProcessFlags = ProcessFlags(0)) -> None:
        """Store the verdict for the thread to carry out, and in the record, even if that is not fetched yet."""
        waiting = process.record
        decided = after_verdict(waiting, verdict, by)
        if fact:
            decided = replace(decided, flags=decided.flags | fact)
        process.record = decided
        self._answers.append(process)
        for index, record in enumerate(self._news):
            if record == waiting:
                self._news[index] = decided
                return
        if by is not DecidedBy.CONTROLLER:
            self._report(decided)

    def _report(self, record: ProcessHelper) -> None:
        self._news.append(record)
        self._state.notify_all()

    # -------------------------------------------------------------------------------------------- the thread alone

    def _begin(self, first: Callable[[debug.DebugPort], _T]) -> _T:
        try:
            self._port = debug.DebugPort()
            begun = first(self._port)
            self._port.outlive_us()
        except BaseException:
            self._finish()
            raise
        return begun

    def _main(self, beginning: Call[_T]) -> None:
        beginning.run()
        del beginning  # its result, the popen, belongs to the gate alone
        if self.finished or self._port is None:
            return
        for step in (self._debug, self._leave):
            try:
                step(self._port)
            except Exception as failure:
                self._failure = failure
        self._finish()

    def _finish(self) -> None:
        with self._state:
            self.finished = True
            self._forget_the_living()
            self._state.notify_all()
            if self._port is not None:
                self._port.close()

    def _forget_the_living(self) -> list[_Process]:
        with self._state:
            living = list(self._living.values())
            self._gone |= {process.record.pid: process.record for process in living}
            self._living.clear()
            return living

    def _debug(self, port: debug.DebugPort) -> None:
        begun = False
        while not self._stopping:
            timeout_ms = self._time_left_ms()
            if begun and not self._living:
                if not any(self._unreported()):
                    return
                timeout_ms = _CHILD_POLL_MS
            event = port.wait(timeout_ms)
            if event is not None:
                begun = True
                self._handle(port, event)
            self._time_out()
            self._carry_out(port)

    def _unreported(self) -> Iterator[win32_process.Listed]:
        """The processes of the tree whose first thread has not run: Windows reports a process only then.

        Their parents have ended, or the gate has detached from them. The parent of the first process is this program.
        """
        first_pid = self.first_pid if self._include_first and not self._last_key else 0
        for listed in win32_process.running():
            if (parent := self._gone.get(listed.parent_pid)) is not None:
                is_ours = not listed.created or parent.start_key <= listed.created
            else:
                is_ours = listed.pid == first_pid and listed.parent_pid == os.getpid()
            known = self._gone.get(listed.pid)
            if is_ours and (known is None or known.start_key < listed.created) and is_unreported(listed):
                yield listed

    def _handle(self, port: debug.DebugPort, event: debug.DebugEvent) -> None:
        handled = True
        if event.code == debug.CREATE_PROCESS:
            if self._created(event):
                return  # not resumed: that is the hold
        elif event.code == debug.LOAD_DLL:
            self._loaded(event.pid, event.load_dll)
        elif event.code == debug.EXCEPTION:
            handled = self._is_ours(event.pid, event.exception)
        elif event.code == debug.OUTPUT_STRING:
            handled = False  # so that the text goes on to a listener, as it does without a debugger
        elif event.code == debug.EXIT_PROCESS:
            self._exited(event.pid, event.exit_status)
        _resume(port, event.pid, event.tid, handled)

    def _created(self, event: debug.DebugEvent) -> bool:
        """Add a new process; return True if it is held."""
        first = self._last_key == 0
        attached = first and event.pid == self._attached_pid
        info = event.create_process
        if info.file:
            Handle(info.file).close()
        exempt = first and not attached and not self._include_first
        flags = ProcessFlags.RUNNING_BEFORE if attached else ProcessFlags.EXEMPT if exempt else ProcessFlags(0)
        basics = asked(win32_process.basics, info.process)
        marked = basics is None or not _unmark(info, basics.peb)
        record = describe(
            info.process,
            event.pid,
            flags=flags,
            basics=basics,
            command_line=asked(_command_line, info.process, basics.peb if basics else 0),
            earliest_key=self._last_key + 1,
            paused=not attached and not exempt,
        )
        self._last_key = record.start_key
        if exempt:
            record = replace(record, verdict=Verdict.ALLOW, decided_by=DecidedBy.EXEMPT)
        deadline = None
        if record.paused and self._hold_timeout is not None:
            deadline = time.monotonic() + self._hold_timeout
        breakpoints = _LOADER_BREAKPOINTS if marked else ()
        process = _Process(record, info.process, event.tid, deadline, breakpoints)
        with self._state:
            self._living[event.pid] = process
            self._gone.pop(event.pid, None)
            if deadline is not None:
                self._timed.append(process)
            self._report(record)
        return record.paused

    def _exited(self, pid: int, status: int) -> None:
        with self._state:
            process = self._living.pop(pid, None)
            if process is not None:
                now = datetime.now(UTC)
                record = replace(process.record, paused=False, exited=True, exit_status=status, exited_at=now)
                self._gone[pid] = record
                self._report(record)

    def _loaded(self, pid: int, library: debug.LoadDllInfo) -> None:
        if library.file:
            Handle(library.file).close()
        process = self._living.get(pid)
        if process is not None and not process.narrow_ntdll and 0 < (library.base or 0) < win32_process.NARROW_END:
            process.narrow_ntdll = library.base or 0

    def _is_ours(self, pid: int, exception: debug.ExceptionInfo) -> bool:
        """Return True for an exception that occurs only because the process is debugged: the program must not see it.

        NtClose of a bad handle raises only in a debugged process, and in one that requested strict handle checks. The
        program itself raises the same exception at any other address.
        """
        process = self._living.get(pid)
        if process is None:
            return False
        if exception.code in process.breakpoints:
            process.breakpoints.remove(exception.code)
            return True
        if exception.code == _STATUS_BREAKPOINT and ProcessFlags.RUNNING_BEFORE in process.record.flags:
            # Without BeingDebugged ntdll breaks in only for a kernel debugger, so no breakpoint need come.
            return debug.is_break_in(exception.address)
        if exception.code not in _BAD_HANDLE_STATUSES or not exception.first_chance:
            return False
        is_kernels = debug.is_raised_by_kernel(exception.address, narrow_dispatcher(process.narrow_ntdll))
        return is_kernels and not debugged.has_strict_handle_checks(process.handle)

    def _carry_out(self, port: debug.DebugPort) -> None:
        while self._answers:
            with self._state:
                if not self._answers:
                    return
                process = self._answers.popleft()
            if self._living.get(process.record.pid) is not process:
                continue  # another program has ended it meanwhile
            if process.record.verdict is Verdict.BLOCK:
                if not _blocked(process, "stays frozen until the gate is closed"):
                    continue
            _resume(port, process.record.pid, process.tid)

    def _time_left_ms(self) -> int | None:
        with self._state:
            while self._timed and not self._timed[0].record.paused:
                self._timed.popleft()
            if not self._timed:
                return None
            return max(0, int((cast(float, self._timed[0].deadline) - time.monotonic()) * 1000) + 1)

    def _time_out(self) -> None:
        if self._hold_timeout is None:
            return
        now = time.monotonic()
        with self._state:
            while self._timed and (not self._timed[0].record.paused or cast(float, self._timed[0].deadline) <= now):
                process = self._timed.popleft()
                if process.record.paused:
                    self._decide(process, self._on_timeout, DecidedBy.GATE_TIMEOUT)

    def _leave(self, port: debug.DebugPort) -> None:
        """Give the disconnect verdict to the processes still held, carry out all verdicts, and detach from the tree."""
        try:
            self._release_all(port)
            while event := port.poll():  # events that arrived meanwhile, those of new processes too
                self._handle(port, event)
                self._release_all(port)
        finally:
            if self._on_disconnect is Verdict.BLOCK:
                for listed in self._unreported():  # also one whose event could not be handled
                    end_unreported(listed)

    def _release_all(self, port: debug.DebugPort) -> None:
        with self._state:
            for process in self._living.values():
                if process.record.paused:
                    self._decide(process, self._on_disconnect, DecidedBy.DISCONNECT)
        self._carry_out(port)
        for process in self._forget_the_living():  # before detaching closes their handles
            if process.record.verdict is Verdict.BLOCK:
                _blocked(process, "runs")  # again, in case the first attempt failed
            self._detach(port, process.record.pid)

    def _detach(self, port: debug.DebugPort, pid: int) -> None:
        try:
            port.detach(pid)
        except OSError as error:  # the process has just exited
            log_soon(DEBUG, "%s: %s", pid, error)
