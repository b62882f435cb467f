"""A gate without real processes: a test or a script starts simulated ones. It works on every operating system.

It is for tests of your own callbacks and policies, for documentation, and for a REPL on a machine without Windows. A
callback cannot distinguish it from the other gates.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Self

from ..errors import GateClosed, StaleProcess
from ..records import STATUS_BLOCKED, DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.after_verdict import after_verdict
from ..util.arguments import allow_or_block, check_pid, check_process, check_process_or_pid, check_seconds
from ..util.paths import lowercase
from ..util.threads import wait_for
from .base import AnswersHeard, describe_failures, resolve_failures
from .script import Script, Step

__all__ = ["SimulatedGate"]


class SimulatedGate(AnswersHeard):
    r"""A gate for tests: its methods start and end simulated processes, and cause faults.

    Pids count from 1000 up in steps of 4. After `hold_timeout` seconds a held process gets `on_timeout`; None: never.
    `on_disconnect` is the verdict for processes still held when the gate is closed, `on_tamper` the verdict for
    processes given to `tamper`. `fail` is the verdict for each of these options that is not given; without `fail` they
    are ALLOW, but `on_tamper` is BLOCK.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> with procmon.Monitor(gate) as monitor:
    ...     subscription = monitor.subscribe(lambda process: procmon.BLOCK, match="notepad.exe")
    ...     notepad = gate.start("C:/Windows/notepad.exe", parent_pid=4)
    ...     gate.verdict_of(notepad)
    <Verdict.BLOCK>
    """

    def __init__(
        self,
        name: str = "simulated",
        *,
        hold_timeout: float | None = None,
        fail: Verdict | None = None,
        on_timeout: Verdict | None = None,
        on_disconnect: Verdict | None = None,
        on_tamper: Verdict | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a SimulatedGate takes a name to show, a text; not {name!r}; start() puts processes in")
        failures = {"on_timeout": on_timeout, "on_disconnect": on_disconnect, "on_tamper": on_tamper}
        self._failures = resolve_failures(fail, **failures)
        self._hold_timeout = check_seconds("hold_timeout", hold_timeout)
        self._name = name
        # Of held processes, on the monotonic clock, the next first; an OrderedDict finds its first key at once.
        self._deadlines: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._state = threading.Condition()
        self._processes: dict[int, ProcessHelper] = {}  # by pid: its latest process, exited or not
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._tampered: set[tuple[int, int]] = set()
        self._records: deque[ProcessHelper] = deque()  # not yet fetched
        self._faults: deque[Exception] = deque()
        self._next_pid = 1000
        self._last_key = 0
        self._started: dict[int, int] = {}  # the pid of each start key
        self._woken = False
        self._watched = False
        self._no_more = False
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self._no_more else "open"
        held = sum(process.paused for process in tuple(self._processes.values()))
        fails = describe_failures(self._failures)
        return f"<SimulatedGate {self._name!r} {state}: {len(self._processes)} processes, {held} held{fails}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- called by tests

    def start(
        self,
        image: str,
        *,
        parent_pid: int = 4,
        command_line: str | None = None,
        pid: int | None = None,
        created: datetime | None = None,
        creator_pid: int | None = None,
        creator_tid: int | None = None,
        native_name: str | None = None,
        flags: ProcessFlags = ProcessFlags(0),
        hold_left: float | None = None,
    ) -> ProcessHelper:
        r"""Start a process and hold it; `image` is converted to lowercase, with backslashes.

        `pid` can be the pid of a process that has exited. With the flag EXEMPT the process is not held; with
        RUNNING_BEFORE it was running before, and is not held either. By default a thread of the parent has created it.

        >>> import procmon
        >>> procmon.SimulatedGate().start("C:/Tools/A.exe", command_line="a --fast")
        <ProcessHelper 1000 'c:\\tools\\a.exe' parent 4, paused>

        Raises: GateClosed; TypeError or ValueError for an invalid argument, ValueError also when `pid` belongs to a
        process that has not exited.
        """
        if not isinstance(image, str):
            raise TypeError(f"image is the path of a program, as text; not {image!r}")
        check_pid("parent_pid", parent_pid)
        check_seconds("hold_left", hold_left)
        for name, number in (("pid", pid), ("creator_pid", creator_pid)):
            if number is not None:
                check_pid(name, number)
        if isinstance(creator_tid, bool) or not isinstance(creator_tid, int | None):
            raise TypeError(f"creator_tid is a thread identifier, or None; not {creator_tid!r}")
        for name, text in (("command_line", command_line), ("native_name", native_name)):
            if not isinstance(text, str | None):
                raise TypeError(f"{name} is a text, or None; not {text!r}")
        if not isinstance(flags, ProcessFlags):
            raise TypeError(f"flags are ProcessFlags, joined by |; not {flags!r}")
        if created is not None and (not isinstance(created, datetime) or created.tzinfo is None):
            raise TypeError(f"created is a datetime with a time zone, as in all records; not {created!r}")
        with self._state:
            self._check_open()
            if self._no_more:
                raise GateClosed("the gate has ended: nothing can start in it; make a new SimulatedGate()")
            if pid is None:
                while self._next_pid in self._processes:
                    self._next_pid += 4
                pid = self._next_pid
            elif pid in self._processes and not self._processes[pid].exited:
                raise ValueError(f"pid {pid} is in use by {self._processes[pid].name}: let it exit first")
            self._last_key += 1
            self._started[self._last_key] = pid
            exempt = ProcessFlags.EXEMPT in flags
            before = ProcessFlags.RUNNING_BEFORE in flags
            process = ProcessHelper(
                pid=pid,
                parent_pid=parent_pid,
                image_name=lowercase(image),
                paused=not exempt and not before,
                start_key=self._last_key,
                created=created or datetime.now(UTC),
                creator_pid=parent_pid if creator_pid is None else creator_pid,
                creator_tid=parent_pid + 4 if creator_pid is None and creator_tid is None else creator_tid,
                command_line=command_line,
                native_name=native_name,
                flags=flags,
                hold_left=self._hold_timeout if hold_left is None and not exempt and not before else hold_left,
                verdict=Verdict.ALLOW if exempt else None,
                decided_by=DecidedBy.EXEMPT if exempt else None,
            )
            if process.verdict is not None:
                self._verdicts[process.identity] = process.verdict
            if process.paused and self._hold_timeout is not None:
                self._deadlines[process.identity] = time.monotonic() + self._hold_timeout
            self._report(process)
            return process

    def exit(self, process: ProcessHelper | int, status: int = 0) -> None:
        """Let a process exit, held or not.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> gate.exit(gate.start("a.exe"), 1)
        >>> [record.exited for record in gate.fetch()]
        [False, True]

        `status` has 32 bits; a negative one becomes positive, as on Windows: -1 is 0xFFFFFFFF.

        Raises: StaleProcess when it has gone; TypeError or ValueError for an invalid status.
        """
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"status is a whole number; not {status!r}")
        if not -(2**31) <= status < 2**32:
            raise ValueError(f"status is a number of 32 bits; not {status!r}")
        with self._state:
            self._exit(self._living(process), status % 2**32)

    def verdict_of(self, process: ProcessHelper | int, timeout: float = 1.0) -> Verdict | None:
        """Return the verdict of a process. Waits up to `timeout` seconds; None: the process has none, because it is
        still held, was never held, or was killed while it was held. In a coroutine use
        ``await asyncio.to_thread(gate.verdict_of, process)``: callbacks may need the event loop that this would block.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> process = gate.start("a.exe")
        >>> gate.allow(process)
        [<VerdictResult.DONE>]
        >>> gate.verdict_of(process)
        <Verdict.ALLOW>

        Raises: StaleProcess when the process was never started in this gate.
        """
        check_process_or_pid("process", process)
        check_seconds("timeout", timeout, optional=False)
        with self._state:
            known = self._processes.get(process) if isinstance(process, int) else process
            if known is None or self._started.get(known.start_key) != known.pid:
                raise StaleProcess(f"{process!r} was never started in this gate: give what start() returned", process)
            wait_for(self._state, lambda: not self._holds(known), timeout)
            return self._verdicts.get(known.identity)

    def running_before(self, *images: str) -> list[ProcessHelper]:
        """Add processes that were running before the gate existed: they are reported, and never held.

        >>> import procmon
        >>> procmon.SimulatedGate().running_before("c:/windows/explorer.exe")
        [<ProcessHelper 1000 'c:\\\\windows\\\\explorer.exe' parent 4, running before>]
        """
        return [self.start(image, flags=ProcessFlags.RUNNING_BEFORE) for image in images]

    def time_out(self, process: ProcessHelper | int, verdict: Verdict | None = None) -> None:
        """Let the gate's own hold timeout pass for one process, which gets `verdict`, by default ``on_timeout``.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> process = gate.start("a.exe")
        >>> gate.time_out(process)
        >>> gate.snapshot()
        [<ProcessHelper 1000 'a.exe' parent 4, allow by gate timeout>]

        Raises: StaleProcess when it has gone, ValueError when it is not held, TypeError or ValueError when
        the verdict is neither ALLOW nor BLOCK.
        """
        if verdict is not None:
            allow_or_block("verdict", verdict)
        with self._state:
            held = self._living(process)
            if not held.paused:
                raise ValueError(f"{held!r} is not held, so no timeout can pass for it")
            self._decide(held, self._failures["on_timeout"] if verdict is None else verdict, DecidedBy.GATE_TIMEOUT)

    def tamper(self, process: ProcessHelper | int) -> None:
        """Make `allow` find foreign code in a held process, as a gate with a check before release does.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> gate.tamper(process := gate.start("a.exe"))
        >>> gate.allow(process)
        [<VerdictResult.TAMPERED>]
        >>> gate.verdict_of(process)
        <Verdict.BLOCK>

        Raises: StaleProcess when it has gone.
        """
        with self._state:
            self._tampered.add(self._living(process).identity)

    def fail(self, error: Exception) -> None:
        """Make the next `fetch` raise `error`, as a gate does when its driver is stopped while a monitor runs.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> gate.fail(OSError(6, "DeviceIoControl: the handle is invalid"))
        >>> gate.fetch()
        Traceback (most recent call last):
            ...
        OSError: [Errno 6] DeviceIoControl: the handle is invalid
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"the next fetch can raise an exception, not {error!r}")
        with self._state:
            self._faults.append(error)
            self._wake()

    def end(self) -> None:
        """Allow no further start; `ended` is true once every record was fetched.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> gate.end()
        >>> gate.ended
        True
        """
        with self._state:
            self._no_more = True
            self._wake()

    def play(self, steps: Iterable[Step], patience: float = 1.0) -> list[ProcessHelper]:
        """Play a script and return the processes that it started. Each step is a tuple:

            ("start", image)   ("start", image, parent image)   ("start", image, parent image, command line)
            ("exit", image)    ("exit", image, status)          ("kill", image, status)
            ("sleep", seconds) ("time out", image)              ("end",)

        A step names a process by its image, spelled as in its "start" step: the last process of that name is meant.
        Only a running process can start others and exit. So these steps wait up to `patience` seconds for the release
        of the process, and are skipped without a release; while no monitor watches the gate, they do not wait.
        "time out" is skipped for a process that is not held any more.
        "kill" ends a process at once, even while it is held.

        >>> import procmon
        >>> procmon.SimulatedGate().play([("start", "make.exe"), ("start", "cc.exe", "make.exe", "cc -c main.c")])
        [<ProcessHelper 1000 'make.exe' parent 4, paused>, <ProcessHelper 1004 'cc.exe' parent 1000, paused>]

        Raises: ValueError with the number of an invalid step.
        """
        check_seconds("patience", patience, optional=False)
        script = Script(self, patience)
        script.play(steps)
        return script.started

    @property
    def watched(self) -> bool:
        """A caller has called `wait` or `fetch`, so verdicts can be expected."""
        return self._watched

    # --------------------------------------------------------------------------------------------- the protocol

    @property
    def name(self) -> str:
        """A name for people.

        >>> import procmon
        >>> procmon.SimulatedGate().name
        'simulated'
        """
        return self._name

    @property
    def failures(self) -> Mapping[str, Verdict]:
        """By option: its verdicts when it gets no answer (``on_timeout``, ``on_disconnect``), and ``on_tamper``."""
        return MappingProxyType(self._failures)

    @property
    def closed(self) -> bool:
        """`close` has been called."""
        return self._closed

    @property
    def ended(self) -> bool:
        """No further process can start, and every record was fetched."""
        with self._state:
            return self._closed or (self._no_more and not self._records and not self._faults)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `fetch` has records, `wake` was called or the gate ended; False when `timeout` seconds passed.

        >>> import procmon
        >>> procmon.SimulatedGate().wait(0.01)
        False
        """
        check_seconds("timeout", timeout)
        with self._state:
            self._watched = True
            ready = wait_for(self._state, self._is_ready, timeout)
            self._woken = False
            return ready

    def wake(self) -> None:
        """Make a `wait` in another thread, or the next one, return True at once."""
        with self._state:
            self._wake()

    def fetch(self) -> list[ProcessHelper]:
        """Return the new records, oldest first.

        >>> import procmon
        >>> gate = procmon.SimulatedGate()
        >>> process = gate.start("a.exe")
        >>> gate.fetch()
        [<ProcessHelper 1000 'a.exe' parent 4, paused>]
        >>> gate.fetch()
        []

        Raises: GateClosed; the exception that was given to `fail`.
        """
        with self._state:
            self._check_open()
            self._watched = True
            self._time_out()
            if self._faults:
                raise self._faults.popleft()
            fetched = list(self._records)
            self._records.clear()
            for process in fetched:
                current = self._processes[process.pid]
                if current == process:
                    self._processes[process.pid] = _seen(current)
            return self._with_time_left(fetched)

    def snapshot(self) -> list[ProcessHelper]:
        """Return all processes that have not exited; marks none as seen.

        Raises: GateClosed.
        """
        with self._state:
            self._check_open()
            self._time_out()
            return self._with_time_left(process for process in self._processes.values() if not process.exited)

    def allow(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """Release the processes. Returns one result for each, in order.

        Raises: GateClosed.
        """
        return self._answer(processes, Verdict.ALLOW)

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End the processes before they begin, with status 0xC0000364. Returns one result for each, in order.

        Raises: GateClosed.
        """
        return self._answer(processes, Verdict.BLOCK)

    def terminate(self, process: ProcessHelper) -> None:
        """End a process, held or running; its status is 0xC0000364.

        Raises: StaleProcess when it has gone.
        """
        if self.block(process) != [VerdictResult.DONE]:
            self.exit(process, STATUS_BLOCKED)

    def close(self) -> None:
        """Give the disconnect verdict to all held processes, and hold no more. Idempotent."""
        with self._state:
            for process in tuple(self._processes.values()):
                if process.paused:
                    self._decide(process, self._failures["on_disconnect"], DecidedBy.DISCONNECT)
            self._closed = True
            self._wake()

    # ------------------------------------------------------------------------------------ below: the lock is held

    def _check_open(self) -> None:
        if self._closed:
            raise GateClosed("the gate is closed: make a new SimulatedGate()")

    def _time_out(self) -> None:
        """Answer processes whose deadline has passed. Every call that could notice does this first, not a thread."""
        now = time.monotonic()
        while self._deadlines:
            identity, due = next(iter(self._deadlines.items()))
            if due > now:
                return
            del self._deadlines[identity]
            self._decide(self._processes[identity[0]], self._failures["on_timeout"], DecidedBy.GATE_TIMEOUT)

    def _with_time_left(self, records: Iterable[ProcessHelper]) -> list[ProcessHelper]:
        """The records, with the time that is left at this moment, unless `start` was given another."""
        if self._hold_timeout is None:
            return list(records)
        now, due, full = time.monotonic(), self._deadlines, self._hold_timeout
        return [
            replace(one, hold_left=max(0.0, due[one.identity] - now))
            if one.hold_left == full and one.identity in due
            else one
            for one in records
        ]

    def _is_ready(self) -> bool:
        self._time_out()
        return self._woken or self._closed or self._no_more or bool(self._records) or bool(self._faults)

    def _wake(self) -> None:
        self._woken = True
        self._state.notify_all()

    def _report(self, process: ProcessHelper) -> None:
        self._processes[process.pid] = process
        self._records.append(process)
        self._state.notify_all()

    def _holds(self, process: ProcessHelper) -> bool:
        self._time_out()
        current = self._processes.get(process.pid)
        return current == process and current.paused

    def _living(self, process: ProcessHelper | int) -> ProcessHelper:
        check_process_or_pid("process", process)
        pid = process if isinstance(process, int) else process.pid
        current = self._processes.get(pid)
        if current is None or current.exited or (isinstance(process, ProcessHelper) and current != process):
            raise StaleProcess(f"{process!r} is not running in this gate: it has exited, or was never started", process)
        return current

    def _answer(self, processes: Sequence[ProcessHelper], verdict: Verdict) -> list[VerdictResult]:
        for process in processes:
            check_process("process", process)
        with self._state:
            self._check_open()
            results = [self._answer_one(process, verdict) for process in processes]
        return self._notify(processes, verdict, results)

    def _answer_one(self, process: ProcessHelper, verdict: Verdict) -> VerdictResult:
        self._time_out()
        current = self._processes.get(process.pid)
        if current is None:
            return VerdictResult.UNKNOWN
        if current != process:
            return VerdictResult.STALE
        if current.verdict is not None:
            return VerdictResult.ANSWERED if current.decided_by is not DecidedBy.EXEMPT else VerdictResult.NOT_HELD
        if not current.paused:
            return VerdictResult.UNKNOWN if current.exited else VerdictResult.NOT_HELD
        if verdict is Verdict.ALLOW and current.identity in self._tampered:
            verdict, flags = self._failures["on_tamper"], current.flags | ProcessFlags.TAMPERED
            self._decide(replace(current, flags=flags), verdict, DecidedBy.TAMPER)
            return VerdictResult.TAMPERED if verdict is Verdict.BLOCK else VerdictResult.DONE
        self._decide(current, verdict, DecidedBy.CONTROLLER)
        return VerdictResult.DONE

    def _decide(self, process: ProcessHelper, verdict: Verdict, by: DecidedBy) -> None:
        self._verdicts[process.identity] = verdict
        self._deadlines.pop(process.identity, None)
        decided = after_verdict(process, verdict, by)
        self._processes[process.pid] = decided
        unfetched = () if process.seen else self._records
        for index, record in enumerate(unfetched):  # it is returned once, with its verdict
            if record == process:
                self._records[index] = replace(decided, seen=False)
                break
        else:
            if by is not DecidedBy.CONTROLLER:
                self._records.append(decided)
        if verdict is Verdict.BLOCK:
            self._exit(decided, STATUS_BLOCKED)
        self._state.notify_all()

    def _exit(self, process: ProcessHelper, status: int) -> None:
        self._deadlines.pop(process.identity, None)
        now = datetime.now(UTC)
        self._report(replace(process, paused=False, exited=True, exit_status=status, exited_at=now, hold_left=None))


def _seen(process: ProcessHelper) -> ProcessHelper:
    return replace(process, seen=True, flags=process.flags | ProcessFlags.SEEN)
