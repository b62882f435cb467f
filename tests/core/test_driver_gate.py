"""DriverGate over the driver's real core, in one process: the conformance suite, and both ends of the protocol at once.

Only Windows' part between the two ends (the I/O manager, the notifications) is missing here; tests/windows has it. So
every misunderstanding between the two ends is found on any system.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import procmon
from conformance import Adapter, GateConformance
from core import harness
from core.harness import TOOL, Core
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DriverGate, ProcessHelper, VerdictResult
from procmon.driver import protocol
from procmon.win32._bind import windows_error

BLOCKED = 0xC0000364

# As RtlNtStatusToDosError maps them.
WINDOWS_ERRORS = {
    harness.INVALID_DEVICE_REQUEST: 1,
    harness.INVALID_HANDLE: 6,
    harness.DEVICE_NOT_READY: 21,
    harness.INVALID_DEVICE_STATE: 22,
    harness.INFO_LENGTH_MISMATCH: 24,
    harness.SHARING_VIOLATION: 32,
    harness.INVALID_PARAMETER: 87,
    harness.BUFFER_TOO_SMALL: 122,
    harness.REVISION_MISMATCH: 1306,
    harness.INSUFFICIENT_RESOURCES: 1450,
}


class Connection:
    """An open device for the gate: requests go straight into the core."""

    path = "the core"

    def __init__(self, core: Core, pid: int = 1000) -> None:
        self.core, self.pid = core, pid
        self._caller = core.opened(pid)
        self.event = core.event()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._closed = False

    def request(self, code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        with self._lock:
            if self._closed:
                raise ValueError("the handle is closed")
            status, reply = self._caller.request(code, data, reply_bytes)
        if status != harness.SUCCESS:
            raise windows_error(f"request 0x{code:08X}", WINDOWS_ERRORS[status])
        return reply

    def wait(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not self.core.dll.host_event_wait(self.core.host, self.event, 5):  # ms; a slice, for the sake of wake()
            if self._woken.is_set() or time.monotonic() >= end:
                break
        else:
            return True
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._caller.close()


class Machine:
    """A core with its worker, and processes whose first threads wait in the core."""

    def __init__(self) -> None:
        self.core = Core()
        self.statuses: dict[int, int] = {}  # of exited processes
        self.running: set[int] = set()
        self._killed: dict[int, int] = {}
        self._threads: list[threading.Thread] = []
        self._last_pid = 2000
        self._over = threading.Event()
        self._worker = threading.Thread(target=self._work)
        self._worker.start()

    def _work(self) -> None:
        while not self._over.wait(0.002):
            self.core.work()

    def start(self, native_name: str = TOOL, parent_pid: int = 4) -> int:
        pid = self._last_pid = self._last_pid + 4
        self.core.create(pid, parent_pid=parent_pid, command_line="a --fast")
        self._threads.append(threading.Thread(target=self._first_thread, args=(pid, native_name)))
        self._threads[-1].start()
        return pid

    def _first_thread(self, pid: int, native_name: str) -> None:
        """The first thread of a new process: waits in the image notification, and then runs or dies."""
        name, units = harness._utf16(native_name)
        verdict = self.core.dll.hold_through(self.core.host, pid, name, units, 50)
        if verdict == protocol.VERDICT_BLOCK or pid in self._killed:
            self.exit(pid, self._killed.get(pid, BLOCKED))
        else:
            self.running.add(pid)

    def exit(self, pid: int, status: int) -> None:
        self.statuses[pid] = status
        self.core.exit(pid, status)

    def kill(self, pid: int, status: int) -> None:
        """A held process dies only when its thread is released."""
        if pid in self.running:
            self.exit(pid, status)
        else:
            self._killed[pid] = status

    def close(self) -> None:
        self.core.stop()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a process is held by a driver that was stopped"
        self._over.set()
        self._worker.join()
        self.core.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


class CoreAdapter(Adapter):
    """Processes of the machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.gate = DriverGate(Connection(machine.core), hold_timeout=None)

    def start(self) -> int:
        return self._machine.start()

    def ran(self, pid: int) -> bool:
        return pid in self._machine.running

    def end(self, pid: int, status: int) -> None:
        self._machine.kill(pid, status)

    def exit_status(self, pid: int, timeout: float) -> int | None:
        end = time.monotonic() + timeout
        while pid not in self._machine.statuses and time.monotonic() < end:
            time.sleep(0.002)
        return self._machine.statuses.get(pid)


class TestDriverGateOverTheCore(GateConformance):
    settle = 0.02

    @pytest.fixture
    def adapter(self, machine: Machine) -> Iterator[CoreAdapter]:
        with CoreAdapter(machine) as adapter:
            yield adapter


def fetched(
    gate: DriverGate, count: int, wanted: Callable[[ProcessHelper], object] = lambda process: process.paused
) -> list[ProcessHelper]:
    """The next `count` wanted records."""
    found: list[ProcessHelper] = []
    end = time.monotonic() + PATIENCE
    while len(found) < count and time.monotonic() < end:
        gate.wait(0.1)
        found += filter(wanted, gate.fetch())
    assert len(found) == count
    return found


def test_both_ends_mean_the_same_by_a_record(machine: Machine) -> None:
    with DriverGate(Connection(machine.core), hold_timeout=60) as gate:
        pid = machine.start(parent_pid=8)
        (process,) = fetched(gate, 1)
        assert (process.pid, process.parent_pid, process.image_name) == (pid, 8, "c:\\tools\\a.exe")
        assert (process.native_name, process.command_line) == (TOOL, "a --fast")
        assert process.hold_left == 60.0 and process.created is not None and process.created.year == 2022
        machine.core.advance(59_000)
        (later,) = gate.snapshot()
        assert (later, later.hold_left, later.seen) == (process, 1.0, True)
        machine.core.advance(1_000)
        machine.core.advance(1_000)
        (answered,) = fetched(gate, 1, lambda one: one.verdict)
        assert (answered.verdict, answered.decided_by) == (ALLOW, procmon.DecidedBy.GATE_TIMEOUT)


def test_a_thousand_at_once_come_whole_through_small_buffers(machine: Machine) -> None:
    with DriverGate(Connection(machine.core), hold_timeout=None, report_exits=False) as gate:
        gate._buffer_bytes = 300
        lengths = {pid: pid % 700 for pid in range(100_000, 101_000)}
        for pid, length in lengths.items():
            machine.core.create(pid, native_name=TOOL, command_line="x" * length, running=True)
        assert [process.pid for process in gate.snapshot()] == list(lengths)
        assert {process.pid: len(process.command_line or "") for process in gate.fetch()} == lengths


def test_a_second_gate_is_told_who_has_the_first(machine: Machine) -> None:
    with DriverGate(Connection(machine.core, pid=1234)):
        with pytest.raises(procmon.ControllerBusy, match="process 1234 controls the core"):
            DriverGate(Connection(machine.core))
    DriverGate(Connection(machine.core)).close()


def test_rules_answer_alone_and_go_with_the_gate(machine: Machine) -> None:
    with DriverGate(Connection(machine.core)) as gate:
        gate.set_rules([("C:/TOOLS/a.exe", BLOCK), (TOOL, ALLOW)])
        pid = machine.start()
        (process,) = fetched(gate, 1, lambda one: one.exited)  # if it exits before a fetch, this is its only record
        assert (process.pid, process.paused, process.verdict) == (pid, False, BLOCK)
        assert process.decided_by is procmon.DecidedBy.GATE_RULE
        assert gate.info().rule_count == 2
    with DriverGate(Connection(machine.core)) as gate:
        assert gate.info().rule_count == 0


def test_stopping_the_driver_ends_the_gate_and_lets_all_go(machine: Machine) -> None:
    gate = DriverGate(Connection(machine.core), hold_timeout=None)
    pids = {machine.start() for _ in range(3)}
    fetched(gate, 3)
    machine.core.stop()
    while not gate.ended:
        assert gate.wait(PATIENCE)
    with pytest.raises(procmon.GateClosed, match="was stopped"):
        gate.fetch()
    end = time.monotonic() + PATIENCE
    while machine.running != pids and time.monotonic() < end:
        time.sleep(0.002)
    assert machine.running == pids


def test_a_monitor_decides_a_process_that_was_suspended_before_the_load(machine: Machine) -> None:
    machine.core.create(44, native_name=TOOL, running=True)
    asked: list[int] = []

    def block(process: ProcessHelper) -> procmon.Verdict:
        asked.append(process.pid)
        return BLOCK

    monitor = procmon.Monitor(DriverGate(Connection(machine.core), hold_timeout=None))
    monitor.subscribe(block)
    with monitor:
        until(lambda: monitor.statistics.fetched == 1, "the running process")
        held = machine.core.image(44, TOOL, own=True)
        assert held is not None
        until(lambda: not held.waits(), "the verdict")
        assert held.end() == protocol.VERDICT_BLOCK
        until(lambda: monitor.history, "its decision")
        [decision] = monitor.history
    assert asked == [44] and (decision.process.pid, decision.by) == (44, procmon.DecidedBy.CALLBACK)


def test_no_memory_in_the_kernel_is_told_and_changes_nothing(machine: Machine) -> None:
    with DriverGate(Connection(machine.core)) as gate:
        gate.set_rules([("c:\\a.exe", BLOCK)])
        machine.core.fail_allocation(1)
        with pytest.raises(procmon.ProcmonError, match="no memory left"):
            gate.set_rules([("c:\\b.exe", BLOCK)])
        assert gate.info().rule_count == 1
        assert gate.info().counters.allocation_failures == 1


def test_many_threads_answer_while_processes_come_and_go(machine: Machine) -> None:
    with DriverGate(Connection(machine.core), hold_timeout=None) as gate:
        done: list[VerdictResult] = []

        def answer(seed: int) -> None:
            choose = random.Random(seed)
            while len(done) < 200 and not gate.ended:
                if gate.wait(0.05):
                    for process in gate.fetch():
                        if process.paused:
                            done.extend((gate.allow if choose.random() < 0.5 else gate.block)(process))

        threads = [threading.Thread(target=answer, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        pids = {machine.start() for _ in range(200)}
        for thread in threads:
            thread.join(PATIENCE)
        assert done == [VerdictResult.DONE] * 200
        end = time.monotonic() + PATIENCE
        while machine.running | set(machine.statuses) != pids and time.monotonic() < end:
            time.sleep(0.01)
        assert machine.running | set(machine.statuses) == pids
        assert set(machine.statuses.values()) == {BLOCKED}
        counters = gate.info().counters
        assert (counters.held, counters.allowed + counters.blocked) == (200, 200)
        assert gate.info().held_count == 0
