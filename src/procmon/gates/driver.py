r"""The gate of the whole machine: every new process, held by the driver behind ``\\.\ProcMonGate``."""

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from ..driver import protocol
from ..driver.drive_letters import with_drive_letter
from ..driver.info import DEVICE, INFO_BYTES, DriverInfo, foreign_driver, open_device
from ..errors import DriverNotRunning, GateClosed, ProcmonError, UnsupportedPlatform, VersionMismatch
from ..records import DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..system.terminate import terminate
from ..util.arguments import check_process, check_seconds
from ..util.log import DEBUG, WARNING, log_soon
from ..util.threads import run_in_thread
from ..win32 import kernel
from ..win32.device import Connection
from ..win32.translate import REGISTER, REQUEST, translate, translated
from .base import AnswersHeard, describe_failures, resolve_failures
from .release_check import ReleaseCheck

__all__ = ["DriverConnection", "DriverGate"]


_SLICE = 0.25  # seconds within which a wait notices Ctrl+C or a stopped driver
_FIRST_BUFFER = 64 * 1024
_EXACT_PATH = re.compile(r"([a-z]:[\\/]|[\\/])(?!.*[\\/]\.{1,2}[\\/])[^*?\"<>|\0]+", re.IGNORECASE | re.DOTALL)


class DriverConnection(Protocol):
    """The part of an open device that the gate uses; `procmon.win32.device.Connection` is the real one.

    A failed request raises `OSError` with a Windows error code; a request after `close` raises ValueError.
    """

    path: str

    @property
    def event(self) -> int: ...
    def request(self, code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes: ...
    def wait(self, timeout: float) -> bool: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class DriverGate(AnswersHeard):
    r"""Holds every new process of the machine, until `allow` or `block`. One program at a time can have it.

    `hold_timeout`: seconds after which the driver itself answers a held process with `on_timeout`; time in which the
    machine sleeps does not count; None = never.
    `on_disconnect`: the verdict for held processes when this gate is closed or its program ends in any way.
    `on_limit`: the verdict for a process that the driver cannot record or name, because memory has run out or the
    driver's table is full.
    `on_tamper`: the verdict for a process into which another process put a thread before it ran, where the driver
    cannot hold that thread (before Windows 10). ALLOW only marks the process: it is held and asked about like any
    other. It is also the verdict for tampering that `check_before_release` finds.
    `on_pico`: the verdict for the creation of WSL 1 processes, which cannot be held.
    `fail`: the verdict for each of these options that is not given. Without `fail` they are ALLOW, but `on_tamper` is
    BLOCK.
    `exempt_descendants`: processes that this program starts, at any depth, are never held, so that the program cannot
    wait for itself.
    `report_exits`: `fetch` returns each process once more when it has exited.
    `check_before_release`: `allow` first examines the memory of each process. A process whose memory differs from its
    file, or that cannot be examined, gets `on_tamper` instead, and `fetch` returns it once more with the flag TAMPERED.
    `device`: the device's path, or a `DriverConnection`.

    Raises: DriverNotInstalled, DriverNotRunning, AccessDenied when not elevated, ControllerBusy (with the pid of the
    controller), VersionMismatch, UnsupportedPlatform off Windows; TypeError or ValueError for an invalid argument.

    Pass it to a monitor, ``procmon.Monitor(procmon.DriverGate())``, or answer the processes yourself::

        with procmon.DriverService(), procmon.DriverGate(hold_timeout=10) as gate:
            if gate.wait(60):
                gate.allow(*gate.fetch())

    >>> import procmon
    >>> procmon.DriverGate(on_timeout=procmon.DEFER)
    Traceback (most recent call last):
        ...
    ValueError: on_timeout is ALLOW or BLOCK; not <Verdict.DEFER>
    """

    def __init__(
        self,
        device: str | DriverConnection = DEVICE,
        *,
        hold_timeout: float | None = 60.0,
        fail: Verdict | None = None,
        on_timeout: Verdict | None = None,
        on_disconnect: Verdict | None = None,
        on_limit: Verdict | None = None,
        on_tamper: Verdict | None = None,
        on_pico: Verdict | None = None,
        exempt_descendants: bool = True,
        report_exits: bool = True,
        check_before_release: bool = False,
    ) -> None:
        _check_device(device)
        if check_before_release and sys.platform == "win32" and kernel.is_wow64():
            raise UnsupportedPlatform("a 32-bit Python cannot look into 64-bit processes: use a 64-bit Python")
        self._failures = failures = resolve_failures(
            fail,
            on_timeout=on_timeout,
            on_disconnect=on_disconnect,
            on_limit=on_limit,
            on_tamper=on_tamper,
            on_pico=on_pico,
        )
        self._registration = partial(
            protocol.encode_register,
            hold_timeout_ms=_milliseconds(hold_timeout),
            on_timeout=failures["on_timeout"],
            on_disconnect=failures["on_disconnect"],
            on_limit=failures["on_limit"],
            on_tamper=failures["on_tamper"],
            on_pico=failures["on_pico"],
            flags=protocol.EXEMPT_DESCENDANTS * exempt_descendants | protocol.REPORT_EXITS * report_exits,
        )
        self._connection: DriverConnection = open_device(Connection, device) if isinstance(device, str) else device
        self._check = ReleaseCheck(failures["on_tamper"]) if check_before_release else None
        self._tampered: deque[ProcessHelper] = deque()  # for the next fetch
        self._closed = False
        self._lost: ProcmonError | None = None
        self._buffer_bytes = _FIRST_BUFFER
        self._next_check = 0.0
        try:
            self._check_version()
            try:
                self._connection.request(protocol.REGISTER, self._registration(self._connection.event))
            except OSError as error:
                raise translate(error, REGISTER, path=self.name, controller=self._controller()) from error
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        state = " whose driver was stopped" if self._lost else " closed" if self._closed else ""
        return f"<DriverGate {self.name}{state}{describe_failures(self._failures)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The device's path."""
        return self._connection.path

    @property
    def failures(self) -> Mapping[str, Verdict]:
        """By option: the driver's verdicts when it gets no answer, ``on_timeout``, ``on_disconnect`` and the others."""
        return MappingProxyType(self._failures)

    @property
    def closed(self) -> bool:
        """`close` has been called, or the driver was stopped, which closes the gate."""
        return self._closed

    @property
    def ended(self) -> bool:
        """The same as `closed`: a driver never runs out of processes."""
        return self._closed

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `fetch` may have records, `wake` was called or the gate ended; False after `timeout` seconds.

        Ctrl+C ends the wait within a quarter of a second, and so does the end of the driver.
        """
        check_seconds("timeout", timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not self.ended:
            left = _SLICE if end is None else min(_SLICE, max(0.0, end - time.monotonic()))
            if self._connection.wait(left):
                return True
            self._check_driver()
            if end is not None and time.monotonic() >= end:
                return self.ended
        return True

    def wake(self) -> None:
        """Make a `wait` in another thread (or the next one) return True at once."""
        self._connection.wake()

    def fetch(self) -> list[ProcessHelper]:
        """Return the new records, oldest first, and mark their processes as seen. Never blocks.

        Raises: GateClosed, also when the driver was stopped.
        """
        processes: list[ProcessHelper] = []
        while True:
            try:
                reply = self._records(protocol.FETCH)
            except ProcmonError:
                if processes or self._tampered:
                    break  # the driver will not return these records again; the next call raises, or goes on
                raise
            processes.extend(map(self._finished, reply.processes))
            if not reply.needed_bytes:
                break
        return [*self._take_tampered(processes), *processes] if self._tampered else processes

    def snapshot(self) -> list[ProcessHelper]:
        """Return all processes that the driver knows, including those that started before it; marks none as seen.

        Raises: GateClosed.
        """
        processes: list[ProcessHelper] = []
        after_key = 0
        while True:
            reply = self._records(protocol.LIST, protocol.encode_list(after_key))
            processes.extend(map(self._finished, reply.processes))
            after_key = reply.next_key
            if not after_key:
                return processes

    def allow(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """Release the processes. Returns one result for each, in order; a late or wrong verdict reaches no other
        process.

        With `check_before_release` a process in which tampering is found is blocked, and its result is TAMPERED, unless
        `on_tamper` is ALLOW. The check takes some seconds at most, whatever the process does.

        Raises: GateClosed.
        """
        check = self._check
        if check is None or self.ended:
            return self._notify(processes, Verdict.ALLOW, self._answer(protocol.ALLOW, processes))
        for process in processes:
            check_process("process", process)
        results, noted = check.release(processes, self._answer_checked)
        if noted:
            self._tampered.extend(noted)
            self.wake()
        return self._notify(processes, Verdict.ALLOW, results)

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End the processes before their first instruction, with exit status 0xC0000364. Otherwise like `allow`."""
        return self._notify(processes, Verdict.BLOCK, self._answer(protocol.BLOCK, processes))

    def terminate(self, process: ProcessHelper) -> None:
        """End a process, held or running, with exit status 0xC0000364.

        Raises: StaleProcess when it has gone; AccessDenied when Windows refuses; GateClosed.
        """
        check_process("process", process)
        if process.paused and self.block(process) == [VerdictResult.DONE]:
            return
        terminate(process)

    def set_rules(self, rules: Iterable[tuple[str, Verdict]]) -> list[int]:
        r"""Give the driver verdicts for exact paths (``c:\tools\a.exe`` or native); they replace all old rules.

        The driver itself answers a process that matches, and never holds it. Of two rules for one path the first wins.
        Returns the indices of the rules that can never act: rules for programs that Windows cannot run without, and
        second rules for a path.

        Raises: TypeError or ValueError for an invalid rule, such as one with wildcards or without a folder; GateClosed;
        ProcmonError when the kernel has no memory. In each case the old rules stay in force.
        """
        data = protocol.encode_rules(_exact(rules))
        count = protocol.RULES_HEADER.unpack(data)["count"]
        return protocol.decode_rules(self._request(protocol.SET_RULES, data, protocol.RULES_REPLY.size + 4 * count))

    def info(self) -> DriverInfo:
        """The driver's state and counters. Raises: GateClosed."""
        return DriverInfo.unpack(self._request(protocol.INFO, reply_bytes=INFO_BYTES))

    def close(self) -> None:
        """Give `on_disconnect` to all held processes, and hold no more. Idempotent."""
        run_in_thread(self._close)

    def _close(self) -> None:
        if not self._closed:
            if self._check is not None and self._lost is None:
                self._check.finish()
            self._closed = True
            self._connection.close()  # waits for a request that another thread has sent
            self._connection.wake()

    # ------------------------------------------------------------------------------------------------------ inside

    def _take_tampered(self, fetched: list[ProcessHelper]) -> list[ProcessHelper]:
        """Return the records that the check has noted since the last fetch. Those of `fetched` that have the decision
        of the check already are left out: they were answered before their first fetch."""
        given = {record.identity for record in fetched if record.decided_by is DecidedBy.TAMPER and not record.exited}
        again = []
        while self._tampered:
            if (record := self._tampered.popleft()).identity not in given:
                again.append(record)
        return again

    def _request(self, code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        if self._lost is not None:
            raise GateClosed(str(self._lost)) from self._lost
        if self._closed:
            raise GateClosed(f"this gate on {self.name} was closed: open a new one")
        try:
            return self._connection.request(code, data, reply_bytes)
        except ValueError as error:  # closed by another thread just now
            raise GateClosed(f"this gate on {self.name} was closed: open a new one") from error
        except OSError as error:
            problem = translate(error, REQUEST, path=self.name)
            problem.__cause__ = error
            if isinstance(problem, DriverNotRunning):
                self._lose_driver(problem)
                raise GateClosed(str(problem)) from problem
            raise problem from error

    def _lose_driver(self, problem: ProcmonError) -> None:
        log_soon(WARNING, "%s: %s", self.name, problem)
        self._lost = problem
        self.close()  # an NT kernel keeps the driver loaded until its last handle is closed

    def _records(self, code: int, data: bytes = b"") -> protocol.Processes:
        """Return one reply, with at least one record if the driver has one."""
        while True:
            reply = protocol.decode_processes(self._request(code, data, self._buffer_bytes))
            if reply.processes or not reply.needed_bytes:
                return reply
            self._buffer_bytes = max(2 * self._buffer_bytes, protocol.RECORDS_HEADER.size + reply.needed_bytes)

    def _finished(self, process: ProcessHelper) -> ProcessHelper:
        """Return the record as the gate returns it. A path on a volume that was mounted after REGISTER gets its drive
        letter here; another REGISTER gives the driver the letter, too."""
        if self._check is not None:
            process = self._check.mark(process)
        if ProcessFlags.NAME_NATIVE not in process.flags or not process.native_name:
            return process
        named = with_drive_letter(process)
        if named is not process:
            with suppress(ProcmonError):  # a gate that has ended raises at its next call
                self._request(protocol.REGISTER, self._registration(self._connection.event))
        return named

    def _answer(self, code: int, processes: tuple[ProcessHelper, ...]) -> list[VerdictResult]:
        identities = [check_process("process", process).identity for process in processes]
        # An identity that no driver can have given (a pid of more than 32 bits) must not cost the others their verdict.
        possible = [identity for identity in identities if protocol.is_target(identity)]
        results: list[VerdictResult] = []
        for first in range(0, len(possible), protocol.MAX_TARGETS):
            batch = possible[first : first + protocol.MAX_TARGETS]
            reply = self._request(code, protocol.encode_targets(batch), 4 * len(batch))
            results += protocol.decode_answers(reply, len(batch))
        given = iter(results)
        answers = [next(given) if protocol.is_target(one) else VerdictResult.UNKNOWN for one in identities]
        if not processes and self.ended:
            self._request(code)  # raises, as it does with processes
        return answers

    def _answer_checked(self, processes: list[ProcessHelper], verdict: Verdict, tampered: bool) -> list[VerdictResult]:
        return self._answer(protocol.BLOCK if verdict is Verdict.BLOCK else protocol.ALLOW, tuple(processes))

    def _check_driver(self) -> None:
        """Detect a driver that was stopped without a notification; not at each of many short waits."""
        if (now := time.monotonic()) < self._next_check:
            return
        self._next_check = now + _SLICE
        try:
            self._request(protocol.INFO, reply_bytes=INFO_BYTES)
        except ProcmonError as problem:  # if the driver has gone, `ended` is true now; other failures are harmless
            log_soon(DEBUG, "%s: %s", self.name, problem)

    def _check_version(self) -> None:
        try:
            with translated(REQUEST, path=self.name):
                version = protocol.decode_version(self._connection.request(protocol.INFO, b"", INFO_BYTES))
        except ValueError as error:
            raise foreign_driver(self.name, error) from error
        if version >> 16 != protocol.VERSION_MAJOR:
            raise VersionMismatch(
                f"the driver behind {self.name} speaks protocol {protocol.version_text(version)}, this package"
                f" {protocol.version_text(protocol.VERSION)}: stop and delete it, then install the driver of this"
                " package"
            )

    def _controller(self) -> str:
        try:
            pid = DriverInfo.unpack(self._connection.request(protocol.INFO, b"", INFO_BYTES)).controller_pid
        except (OSError, ValueError):  # the pid is only for the message of an error that is raised anyway
            pid = 0
        return f"process {pid}" if pid else "another program"


def _check_device(device: str | DriverConnection) -> None:
    if isinstance(device, str) and device.startswith("\\"):
        return
    if isinstance(device, str) or not hasattr(device, "request"):
        raise TypeError(
            f"{device!r} is no device: DriverGate() holds every new process of the machine;"
            " DebugGate.run(command) holds those of one command, DebugGate.attach(pid) those of one process"
        )


def _exact(rules: Iterable[tuple[str, Verdict]]) -> Iterator[tuple[str, Verdict]]:
    """The rules. A path that no process can have is refused: a rule for it would never act, and seem to be in force."""
    for number, rule in enumerate(rules, 1):
        if not isinstance(rule, tuple | list) or len(rule) != 2 or not isinstance(rule[0], str):
            raise TypeError(f"rule {number} is a tuple of a path, as text, and a verdict; not {rule!r}")
        path, verdict = rule
        if not _EXACT_PATH.fullmatch(path):
            raise ValueError(
                f"rule {number}: {path[:80]!r} is no exact path, such as 'c:/tools/a.exe'; a procmon.Policy takes"
                " patterns"
            )
        yield path, verdict


def _milliseconds(hold_timeout: float | None) -> int:
    if check_seconds("hold_timeout", hold_timeout) is None or hold_timeout is None:
        return protocol.NO_TIMEOUT
    if not 0 < hold_timeout * 1000 < protocol.UNLIMITED:
        most = protocol.UNLIMITED // 1000
        text = f"hold_timeout is a number of seconds above 0, or None to hold for ever, and {most:,} at most"
        raise ValueError(f"{text}; not {hold_timeout!r}")
    return max(1, round(hold_timeout * 1000))
