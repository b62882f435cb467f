"""DriverGate on the real driver with real processes. Under Wine driver/wine/kernel.py plays the kernel's part.

On Windows the gate holds every new process of the machine, so the tests release processes of others after a second.
"""

import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kernel import native_name

import procmon
from conformance import Adapter, GateConformance
from ctrl_c import assert_heard_soon, seconds_until_heard
from driven import BLOCKED, SOON, Programs, controller, held, opened, records_of, telling_kernel
from procmon import ALLOW, BLOCK, DecidedBy, DriverGate, ProcessHelper, VerdictResult
from procmon.driver import protocol
from procmon.driver.drive_letters import with_drive_letter
from procmon.driver.info import DEVICE, driver_info, quiesce
from procmon.win32.device import Connection
from procmon.win32.kernel import is_wine, native_drive, native_drives
from trees import eventually

# --------------------------------------------------------------------------------------------------- what all gates do


class DriverAdapter(Adapter):
    """Programs that the driver holds; they end after the gate."""

    def __init__(self, programs: Programs) -> None:
        self.gate = opened()
        self._programs = programs

    def start(self) -> int:
        return self._programs.start()

    def ran(self, pid: int) -> bool:
        return self._programs.ran(pid)

    def end(self, pid: int, status: int) -> None:
        self._programs.end(pid, status)

    def exit_status(self, pid: int, timeout: float) -> int | None:
        return self._programs.exit_status(pid, timeout)


class TestDriverGate(GateConformance):
    @pytest.fixture
    def adapter(self, programs: Programs) -> Iterator[DriverAdapter]:
        with DriverAdapter(programs) as adapter:
            yield adapter


# ----------------------------------------------------------------------------------------------- who may have the gate


@pytest.mark.fault(
    "the controller is killed",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="-",
    counted="disconnects",
    written="-",
)
def test_killing_the_controller_lets_all_that_it_holds_go_at_once(programs: Programs) -> None:
    before = driver_info().counters.disconnects
    with controller(3) as process:
        assert driver_info().controller_pid == process.pid
        pids = [programs.start() for _ in range(3)]
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert not any(map(programs.ran, pids))
        assert driver_info().held_count == 3
        process.kill()
        process.wait()
        assert eventually(lambda: driver_info().held_count == 0)  # the hold itself would last for ever
        assert eventually(programs.all_ran)
    assert driver_info().controller_pid == 0
    assert driver_info().counters.disconnects == before + 3


def test_a_second_controller_learns_who_is_the_first(service: procmon.DriverService) -> None:
    with controller(1) as process:
        with pytest.raises(procmon.ControllerBusy, match=f"process {process.pid} controls .*close that gate first"):
            DriverGate()
        assert driver_info().controller_pid == process.pid
    assert eventually(lambda: driver_info().controller_pid == 0)
    DriverGate().close()
    with opened(), pytest.raises(procmon.ControllerBusy):
        DriverGate()
    DriverGate().close()


@pytest.mark.fault(
    "the gate is dropped without a close",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="-",
    counted="disconnects",
    written="-",
)
def test_a_gate_that_is_dropped_releases_what_it_holds(programs: Programs) -> None:
    gate = opened()
    held(gate, programs.start())
    del gate
    gc.collect()
    assert eventually(programs.all_ran)


# --------------------------------------------------------------------------------------------------------- its options


@pytest.mark.promise("A hold ends at its timeout, for that process alone, and the record shows it", gate="DriverGate")
def test_the_drivers_own_timeout_answers_and_the_gate_says_so(programs: Programs) -> None:
    with opened(hold_timeout=0.3, on_timeout=BLOCK) as gate:
        pid = programs.start()
        (process,) = held(gate, pid)
        assert process.hold_left is not None and 0 < process.hold_left <= 0.3
        assert programs.exit_status(pid, SOON) == BLOCKED
        answered = records_of(gate, {pid}, lambda record: record.verdict is not None)[pid]
        assert (answered.verdict, answered.decided_by) == (BLOCK, DecidedBy.GATE_TIMEOUT)
        assert gate.allow(process)[0] in (VerdictResult.ANSWERED, VerdictResult.UNKNOWN)
        assert gate.info().hold_timeout_ms == 300
        assert not programs.ran(pid)


@pytest.mark.fault(
    "the gate is closed",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="-",
    counted="disconnects",
    written="-",
)
def test_what_is_held_when_the_gate_closes_gets_the_disconnect_verdict(programs: Programs) -> None:
    with opened(on_disconnect=BLOCK) as gate:
        pid = programs.start()
        held(gate, pid)
    assert programs.exit_status(pid, SOON) == BLOCKED
    assert not programs.ran(pid)


def test_what_the_controller_starts_is_not_held_unless_it_asks_for_it(programs: Programs) -> None:
    with opened(exempt_descendants=True) as gate:
        pid = programs.start()
        assert eventually(lambda: programs.ran(pid))
        found = records_of(gate, {pid}, lambda record: True)[pid]
        assert procmon.ProcessFlags.CONTROLLER_DESCENDANT in found.flags
        assert (found.paused, found.decided_by) == (False, DecidedBy.EXEMPT)


def test_exits_are_reported_only_where_they_are_asked_for(programs: Programs) -> None:
    with opened(report_exits=False) as gate:
        first, second = programs.start(), programs.start()
        processes = held(gate, first, second)
        gate.block(processes[0])
        assert programs.exit_status(first, SOON) == BLOCKED
        assert eventually(lambda: all(one.pid != first for one in gate.snapshot()))
        gate.allow(processes[1])
        assert [one for one in gate.fetch() if one.exited] == []


@pytest.mark.parametrize("timeout", [0, -1, 5_000_000, float("nan"), float("inf")])
def test_a_hold_timeout_that_cannot_be_is_refused(service: procmon.DriverService, timeout: float) -> None:
    with pytest.raises(ValueError, match="hold_timeout is a number of seconds (above|from) 0, or None"):
        DriverGate(hold_timeout=timeout)
    with pytest.raises(ValueError, match="on_timeout is ALLOW or BLOCK"):
        DriverGate(on_timeout=procmon.DEFER)
    assert driver_info().controller_pid == 0


# --------------------------------------------------------------------------------------------------- rules and numbers


def test_rules_are_answered_by_the_driver_alone(service: procmon.DriverService) -> None:
    system = r"C:\Windows\System32"
    with telling_kernel() as run, opened() as gate:
        gate.set_rules([(rf"{system}\WhoAmI.exe", BLOCK), (native_name(rf"{system}\hostname.exe".lower()), ALLOW)])
        assert gate.info().rule_count == 2
        allowed = run(["hostname"], stdout=subprocess.PIPE)
        assert allowed.communicate(timeout=SOON)[0].strip()
        found = records_of(gate, {allowed.pid}, lambda record: True)[allowed.pid]
        assert (found.paused, found.verdict, found.decided_by) == (False, ALLOW, DecidedBy.GATE_RULE)
        if is_wine():
            refused = run(["whoami"], stdout=subprocess.PIPE)
            assert refused.communicate(timeout=SOON)[0] == b""
            found = records_of(gate, {refused.pid}, lambda record: True)[refused.pid]
            assert (found.verdict, found.decided_by) == (BLOCK, DecidedBy.GATE_RULE)
        else:
            with pytest.raises(OSError):
                run(["whoami"])
        with pytest.raises(ValueError, match="rule 1"):
            gate.set_rules([("", BLOCK)])
        assert gate.info().rule_count == 2
        gate.set_rules([])
        assert gate.info().rule_count == 0


def test_many_are_held_at_once_and_answered_at_once(programs: Programs) -> None:
    with opened() as gate:
        pids = [programs.start() for _ in range(12)]
        processes = held(gate, *pids)
        assert gate.info().held_count == 12
        assert set(processes) <= set(gate.snapshot())
        assert gate.allow(*processes) == [VerdictResult.DONE] * 12
        assert eventually(programs.all_ran)


def test_the_counters_tell_what_happened(programs: Programs) -> None:
    with opened() as gate:
        before = gate.info().counters
        allowed, blocked = held(gate, programs.start(), programs.start())
        gate.allow(allowed, blocked, ProcessHelper(pid=0x7FFFFFF0, parent_pid=0, image_name="", start_key=1))
        gate.block(blocked)
        counters = gate.info().counters
        grown = {name for name, value in counters.as_dict().items() if value > getattr(before, name)}
        assert {"created", "held", "allowed", "unknown_verdicts", "late_verdicts"} <= grown
        assert counters.allowed == before.allowed + 2


# ------------------------------------------------------------------------------------------------- waits and the end


def test_ctrl_c_ends_a_wait_at_once(service: procmon.DriverService) -> None:
    with opened() as gate:

        def wait() -> None:
            end = time.monotonic() + SOON
            while time.monotonic() < end:  # a wait may end for less
                gate.wait(SOON)

        assert_heard_soon(lambda: seconds_until_heard(wait, "wait"))


def test_stopping_the_driver_releases_what_is_held_and_ends_the_gate(
    programs: Programs, service: procmon.DriverService
) -> None:
    gate = opened()
    pid = programs.start()
    held(gate, pid)

    def watch() -> None:
        while not gate.ended:
            gate.wait()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    if not is_wine():  # an NT kernel keeps a driver whose device is open
        with pytest.raises(procmon.DriverRunning, match="has its device open"):
            service.stop(timeout=0.1)
        gate.close()
    service.stop()
    assert eventually(lambda: programs.ran(pid))  # under Wine the hold itself would last for ever
    watching.join(SOON)
    assert not watching.is_alive()
    with pytest.raises(procmon.GateClosed, match=r"DriverService\(\).start\(\)|closed") as caught:
        gate.fetch()
    if is_wine():
        assert isinstance(caught.value.__cause__, procmon.DriverNotRunning) and gate.closed
        assert repr(gate) == rf"<DriverGate {DEVICE} whose driver was stopped>"
    with pytest.raises(procmon.DriverNotRunning, match="nothing answers"):
        DriverGate()
    gate.close()
    service.start()
    opened().close()


def test_a_monitor_ends_with_its_driver_and_says_why(
    programs: Programs, service: procmon.DriverService, caplog: pytest.LogCaptureFixture
) -> None:
    with procmon.Monitor(opened()) as monitor:
        monitor.subscribe(lambda process: procmon.DEFER)
        programs.start()
        assert eventually(lambda: len(monitor.pending) == 1)
        if is_wine():
            service.stop()
            assert monitor.wait(SOON)
            assert eventually(lambda: "was stopped: start it" in caplog.text)
        else:  # an NT kernel keeps a driver whose device is open
            with pytest.raises(procmon.DriverRunning, match="has its device open"):
                service.stop(timeout=0.1)
            monitor.stop()
            service.stop()
        assert eventually(programs.all_ran)
        assert monitor.pending == []
    service.start()


# ---------------------------------------------------------------------------------------------------------- robustness


def handle_count() -> int:
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    count = ctypes.c_uint32()
    assert kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
    return count.value


@pytest.mark.promise("A gate that is opened and closed leaves no handle behind", gate="DriverGate")
def test_no_handle_is_lost(service: procmon.DriverService) -> None:
    def use() -> None:
        with opened() as gate:
            with pytest.raises(procmon.ControllerBusy):
                DriverGate()
            gate.wait(0)
        driver_info()
        service.status()
        with pytest.raises(procmon.DriverRunning):
            service.start()
        with pytest.raises(procmon.DriverNotRunning):
            DriverGate(DEVICE + "Other")

    use()
    gc.collect()
    before = handle_count()
    for _ in range(20):
        use()
    gc.collect()
    assert handle_count() <= before + 2


@pytest.mark.promise("No request, whatever its bytes, stops the driver from answering", gate="DriverGate")
def test_the_device_refuses_noise_and_goes_on_answering(service: procmon.DriverService) -> None:
    """Through the real DeviceIoControl; the core's fuzzer is more thorough, without the I/O manager."""
    noise = random.Random(4)
    codes = [
        protocol.FETCH,
        protocol.LIST,
        protocol.ALLOW,
        protocol.BLOCK,
        protocol.SET_RULES,
        protocol.NOTE_CREATED,
        protocol.NOTE_EXITED,
    ]
    refused = 0
    with opened() as gate:
        connection = gate._connection
        for _ in range(500):
            code = noise.choice([*codes, protocol.request_code(noise.randrange(0x800, 0x1000), protocol.ACCESS_BOTH)])
            data = noise.randbytes(noise.choice([0, 1, 7, 8, 15, 16, 31, 32, 33, 100]))
            if code == protocol.NOTE_CREATED:
                data = data[: protocol.NOTE_CREATED_REQUEST.size - 1]  # a complete note would create a process record
            try:
                connection.request(code, data, noise.choice([0, 3, 4, 15, 16, 64, 4096]))
            except OSError:
                refused += 1
        assert refused > 100
        assert gate.info().held_count == 0
        with pytest.raises(OSError):
            Connection(DEVICE + r"\a name behind it")


def test_the_kernels_part_can_be_played_from_a_command_line(service: procmon.DriverService) -> None:
    player = str(Path(__file__).resolve().parents[2] / "driver" / "wine" / "kernel.py")
    command = [sys.executable, player, "--", "cmd", "/c", "hostname & exit 7"]
    with opened() as gate, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        names = []
        while process.poll() is None:
            gate.wait(0.1)
            starts = [record for record in gate.fetch() if record.paused]
            names += [record.name for record in starts]
            gate.allow(*starts)
        assert process.returncode == 7
        assert process.stdout is not None and process.stdout.read().strip()
    assert {"cmd.exe", "hostname.exe"} <= set(names)
    usage = subprocess.run([sys.executable, player], stderr=subprocess.PIPE, text=True)
    assert (usage.returncode, usage.stderr[:6]) == (2, "usage:")


@pytest.mark.fault(
    "QUIESCE is sent",
    gate="DriverGate",
    held="gets on_disconnect at once",
    told="GateClosed: the driver was stopped",
    counted="-",
    written="-",
)
def test_quiesce_releases_what_is_held_and_ends_the_gate_until_a_new_start(
    service: procmon.DriverService, programs: Programs
) -> None:
    with opened(on_disconnect=BLOCK) as gate:
        pid = programs.start()
        assert eventually(lambda: gate.info().held_count == 1)
        gate.fetch()
        quiesce()
        assert programs.exit_status(pid, SOON) == BLOCKED
        assert gate.wait(SOON), "its event is set"
        with pytest.raises(procmon.GateClosed, match="was stopped"):
            gate.fetch()
        assert gate.ended
    assert driver_info().quiesced
    with pytest.raises(procmon.DriverNotRunning):
        DriverGate()
    service.stop()
    service.start()
    DriverGate().close()


def test_the_drives_of_this_machine_have_native_names() -> None:
    drives = native_drives()
    assert drives[native_drive("C:").lower()] == "c:"
    name = native_drive("C:") + "\\A.exe"
    record = protocol.Record(
        pid=4, start_key=1, image_name=name.lower(), native_name=name, flags=protocol.FLAG_NAME_NATIVE
    )
    assert with_drive_letter(record.process()).image_name == "c:\\a.exe"


# ------------------------------------------------------------------------------------------------------------ versions


@pytest.mark.promise(
    "A driver with another major protocol version is refused, and the error says what to do", gate="DriverGate"
)
def test_a_driver_of_another_major_version_is_refused(
    service: procmon.DriverService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "VERSION_MAJOR", 3)
    monkeypatch.setattr(protocol, "VERSION", 3 << 16)
    with pytest.raises(procmon.VersionMismatch, match=r"speaks protocol 2.0, this package 3.0: stop and delete it"):
        DriverGate()
    monkeypatch.undo()
    DriverGate().close()


def test_the_driver_itself_refuses_a_controller_of_another_major_version(service: procmon.DriverService) -> None:
    with closing(Connection(DEVICE)) as connection:
        with pytest.raises(OSError) as caught:
            connection.request(protocol.REGISTER, protocol.encode_register(connection.event, version=3 << 16))
        assert caught.value.winerror == 1306
        assert driver_info().controller_pid == 0
        connection.request(protocol.REGISTER, protocol.encode_register(connection.event, version=protocol.VERSION + 7))
        assert driver_info().controller_pid != 0
