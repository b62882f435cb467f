"""DriverGate over a made-up device: short buffers, many processes, failures, and foreign devices.

tests/core tests the driver itself, and tests/windows both together.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import procmon
from ctrl_c import assert_heard_soon, seconds_until_heard
from made_up_device import Device, info, record, target
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DriverGate, ProcessFlags, VerdictResult
from procmon.driver import protocol
from procmon.driver.drive_letters import with_drive_letter
from procmon.gates.base import Gate


def test_it_registers_with_the_given_options() -> None:
    device = Device()
    gate = DriverGate(device, hold_timeout=None, on_timeout=BLOCK, on_disconnect=BLOCK, exempt_descendants=False)
    assert isinstance(gate, Gate)
    assert device.codes() == [protocol.INFO, protocol.REGISTER]
    request = protocol.REGISTER_REQUEST.unpack(device.requests[1][1])
    assert request["event"] == 0x44 and request["hold_timeout_ms"] == protocol.NO_TIMEOUT
    assert request["timeout_verdict"] == request["disconnect_verdict"] == protocol.VERDICT_BLOCK
    assert request["flags"] == protocol.REPORT_EXITS
    verdicts = [request[f"{name}_verdict"] for name in ("limit", "tamper", "pico")]
    assert verdicts == [protocol.VERDICT_ALLOW, protocol.VERDICT_BLOCK, protocol.VERDICT_ALLOW]
    DriverGate(device, on_limit=BLOCK, on_tamper=ALLOW, on_pico=BLOCK)
    request = protocol.REGISTER_REQUEST.unpack(device.requests[-1][1])
    verdicts = [request[f"{name}_verdict"] for name in ("limit", "tamper", "pico")]
    assert verdicts == [protocol.VERDICT_BLOCK, protocol.VERDICT_ALLOW, protocol.VERDICT_BLOCK]
    DriverGate(device, hold_timeout=0.0001)
    assert protocol.REGISTER_REQUEST.unpack(device.requests[-1][1])["hold_timeout_ms"] == 1
    DriverGate(device)
    request = protocol.REGISTER_REQUEST.unpack(device.requests[-1][1])
    assert (request["hold_timeout_ms"], request["flags"]) == (60_000, protocol.REGISTER_FLAGS)


def test_a_hold_timeout_that_the_driver_cannot_have_names_the_limit() -> None:
    with pytest.raises(ValueError, match="4,294,967 at most; not 5000000"):
        DriverGate(Device(), hold_timeout=5e6)
    DriverGate(Device(), hold_timeout=4_294_967)


def test_fetch_takes_all_however_small_its_buffer_is_at_first() -> None:
    big = record(3, command_line="x" * 40_000)
    device = Device(record(1), record(2), big, record(4), *(record(pid) for pid in range(5, 2000)))
    gate = DriverGate(device)
    assert [process.pid for process in gate.fetch()] == list(range(1, 2000))
    assert gate.fetch() == []
    assert max(size for _, _, size in device.requests) >= len(big.pack())


def test_a_snapshot_has_all_pages() -> None:
    small = (record(pid, command_line="y" * 20_000) for pid in range(1, 9))
    device = Device(*small, record(9, command_line="z" * 60_000))
    gate = DriverGate(device)
    assert [process.pid for process in gate.snapshot()] == list(range(1, 10))
    assert device.codes().count(protocol.LIST) > 5
    assert len(device.records) == 9


def test_verdicts_go_in_batches_that_the_driver_takes() -> None:
    device = Device()
    gate = DriverGate(device)
    count = protocol.MAX_TARGETS * 2 + 1
    assert gate.block(*map(target, range(1, count + 1))) == [VerdictResult.DONE] * count
    sizes = [len(data) // protocol.TARGET.size for code, data, _ in device.requests if code == protocol.BLOCK]
    assert sizes == [protocol.MAX_TARGETS, protocol.MAX_TARGETS, 1]
    assert gate.allow() == []
    assert protocol.ALLOW not in device.codes()


def test_rules_that_can_never_act_are_returned() -> None:
    device = Device()
    gate = DriverGate(device)
    device.replies[protocol.SET_RULES] = protocol.RULES_REPLY.pack(count=1, listed=1) + (1).to_bytes(4, "little")
    assert gate.set_rules([("c:\\a.exe", ALLOW), ("c:\\windows\\system32\\csrss.exe", BLOCK)]) == [1]
    assert device.requests[-1][2] == 8 + 2 * 4


@pytest.mark.parametrize(
    "path",
    ["", "a.exe", "*.exe", "c:\\*\\a.exe", "c:a.exe", "%temp%\\a.exe", "\\\\?\\c:\\a.exe", "c:/b/../a.exe", "c:\\a\0"],
)
def test_a_rule_whose_path_no_process_can_have_is_refused(path: str) -> None:
    device = Device()
    with pytest.raises(ValueError, match="rule 2: .* is no exact path"):
        DriverGate(device).set_rules([("\\Device\\Mup\\s\\a.exe", BLOCK), (path, BLOCK)])
    assert protocol.SET_RULES not in device.codes()


@pytest.mark.parametrize("rules", [{"c:\\a.exe": BLOCK}, ["c:\\a.exe"], [(5, BLOCK)], [("c:\\a.exe", BLOCK, 1)]])
def test_what_is_no_rule_is_named(rules: Any) -> None:
    with pytest.raises(TypeError, match="rule 1 is a tuple"):
        DriverGate(Device()).set_rules(rules)


def test_a_driver_that_is_being_stopped_ends_the_gate_at_once() -> None:
    """QUIESCE sets the event; the next FETCH fails with DEVICE_NOT_READY."""
    device = Device()
    gate = DriverGate(device)
    device.errors[protocol.FETCH] = 21
    device.wake()
    assert gate.wait(PATIENCE)
    with pytest.raises(procmon.GateClosed, match="was stopped"):
        gate.fetch()
    assert gate.ended and device.closed


@pytest.mark.parametrize("reply", [b"", b"hello", bytes(7)])
def test_a_stranger_behind_the_device_is_a_version_mismatch(reply: bytes) -> None:
    device = Device()
    device.replies[protocol.INFO] = reply
    with pytest.raises(procmon.VersionMismatch, match="is not this package's"):
        DriverGate(device)
    assert device.closed


def test_another_major_version_is_refused_and_a_newer_minor_one_is_not() -> None:
    device = Device()
    device.replies[protocol.INFO] = info(version=9 << 16 | 3)
    with pytest.raises(procmon.VersionMismatch, match="speaks protocol 9.3, this package 2.0"):
        DriverGate(device)
    assert device.closed and protocol.REGISTER not in device.codes()
    newer = Device()
    newer.replies[protocol.INFO] = info(version=protocol.VERSION + 5)
    assert DriverGate(newer).info().version_text == "2.5"


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (32, procmon.ControllerBusy, "process 77 controls"),
        (1306, procmon.VersionMismatch, "another one, or has another version"),
        (21, procmon.DriverNotRunning, "was stopped"),
        (1, procmon.VersionMismatch, "install the one"),
        (4242, procmon.ProcmonError, "doctor"),
    ],
)
def test_a_refused_registration_says_why_and_closes_the_device(code: int, kind: type[Exception], text: str) -> None:
    device = Device()
    device.replies[protocol.INFO] = info(controller_pid=77)
    device.errors[protocol.REGISTER] = code
    with pytest.raises(kind, match=text) as caught:
        DriverGate(device)
    assert type(caught.value) is kind and isinstance(caught.value.__cause__, OSError)
    assert device.closed


@pytest.mark.parametrize("code", [5, 6, 21, 433, 1167])
def test_a_driver_that_goes_ends_the_gate(code: int, caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gate = DriverGate(device)
    assert not gate.wait(0)
    device.errors[protocol.INFO] = code
    assert gate.wait(PATIENCE), "it checks for its driver while it waits"
    assert gate.ended and gate.closed and device.closed
    for call in (gate.fetch, gate.snapshot, gate.info, gate.allow, lambda: gate.block(target(1))):
        with pytest.raises(procmon.GateClosed, match="was stopped: start it") as caught:
            call()
        assert isinstance(caught.value.__cause__, procmon.DriverNotRunning)
    until(lambda: caplog.text.count("was stopped") == 1, "the log line")
    assert repr(gate) == r"<DriverGate \\.\Test whose driver was stopped>"


def test_what_was_fetched_before_the_driver_went_is_not_lost() -> None:
    device = Device(record(1), record(2, command_line="x" * 40_000))
    gate = DriverGate(device)
    ask: Callable[[int, bytes, int], bytes] = device.request

    def once(code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        reply = ask(code, data, reply_bytes)
        device.errors[protocol.FETCH] = 21
        return reply

    device.request = once  # type: ignore[method-assign]
    assert [process.pid for process in gate.fetch()] == [1]
    with pytest.raises(procmon.GateClosed):
        gate.fetch()


def test_what_was_fetched_before_a_request_failed_is_not_lost_and_the_rest_comes_later() -> None:
    device = Device(record(1), record(2, command_line="x" * 40_000))
    gate = DriverGate(device)
    ask: Callable[[int, bytes, int], bytes] = device.request

    def with_no_memory_after_the_first(code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        reply = ask(code, data, reply_bytes)
        device.errors[protocol.FETCH] = 1450
        return reply

    device.request = with_no_memory_after_the_first  # type: ignore[method-assign]
    assert [process.pid for process in gate.fetch()] == [1]
    with pytest.raises(procmon.ProcmonError, match="no memory left"):
        gate.fetch()
    device.request = ask  # type: ignore[method-assign, assignment]
    device.errors.clear()
    assert [process.pid for process in gate.fetch()] == [2]


def test_a_look_for_the_driver_that_fails_otherwise_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gate = DriverGate(device)
    device.errors[protocol.INFO] = 1450
    with caplog.at_level("DEBUG", "procmon"):
        assert not gate.wait(0)
        until(lambda: "no memory left" in caplog.text, "the log line")
    assert not gate.ended


def test_a_closed_gate_says_so_and_close_twice_is_no_error() -> None:
    device = Device()
    with DriverGate(device) as gate:
        assert repr(gate) == r"<DriverGate \\.\Test>"
    gate.close()
    assert device.closed and gate.closed and gate.ended and gate.wait(PATIENCE)
    with pytest.raises(procmon.GateClosed, match="open a new one"):
        gate.fetch()
    with pytest.raises(procmon.GateClosed):
        gate.allow()
    assert repr(gate) == r"<DriverGate \\.\Test closed>"


def test_an_error_that_is_not_the_end_leaves_the_gate_as_it_is() -> None:
    device = Device(record(1))
    gate = DriverGate(device)
    device.errors[protocol.SET_RULES] = 1450
    with pytest.raises(procmon.ProcmonError, match="no memory left"):
        gate.set_rules([("c:\\a.exe", ALLOW)])
    assert not gate.ended
    assert len(gate.fetch()) == 1


def test_a_verdict_that_the_driver_cannot_have_is_refused_before_anything_is_opened() -> None:
    device = Device()
    with pytest.raises(ValueError, match="on_disconnect is ALLOW or BLOCK"):
        DriverGate(device, on_disconnect=procmon.DEFER)
    assert device.requests == []


def test_ctrl_c_ends_a_wait_while_the_device_does_not_close_and_the_device_closes_later() -> None:
    go_on = threading.Event()

    class Hanging(Device):
        def close(self) -> None:
            go_on.wait(PATIENCE)
            super().close()

    devices: list[Hanging] = []

    def attempt() -> float:
        devices.append(Hanging())
        return seconds_until_heard(DriverGate(devices[-1]).close, "close")

    assert_heard_soon(attempt)
    go_on.set()
    until(lambda: all(device.closed for device in devices), "the device, closed")


def test_a_monitor_counts_and_logs_a_blocked_process_that_would_not_die(caplog: pytest.LogCaptureFixture) -> None:
    """The driver returns the record again; it is decided, so nothing is asked or recorded twice."""
    device = Device()
    monitor = procmon.Monitor(DriverGate(device), default=BLOCK)
    failed = protocol.FLAG_TERMINATE_FAILED | protocol.FLAG_SEEN
    by_rule = protocol.Record(
        pid=8, start_key=8, state=protocol.STATE_ANSWERED, verdict=protocol.VERDICT_BLOCK, decided_by=protocol.BY_RULE
    )
    by_user = replace(by_rule, pid=4, start_key=4, decided_by=protocol.BY_CONTROLLER)
    with monitor:
        device.records = [record(4), by_rule]
        device.wake()
        until(lambda: len(monitor.history) == 2, "both decisions")
        device.records = [replace(by_user, flags=failed), replace(by_rule, flags=failed)]
        device.wake()
        until(lambda: caplog.text.count("cannot be terminated yet: it stays held") == 2, "both log lines")
        device.records = [replace(by_user, flags=failed, state=protocol.STATE_EXITING)]
        device.wake()
        until(lambda: monitor.statistics.exited == 1, "the exit")
    assert caplog.text.count("cannot be terminated yet") == 2  # it has died
    assert monitor.statistics.terminate_failed == 2
    assert [decision.process.pid for decision in monitor.history] in ([4, 8], [8, 4])


def test_a_verdict_for_a_reason_that_this_version_does_not_know_is_recorded() -> None:
    device = Device(replace(record(4), state=protocol.STATE_ANSWERED, verdict=protocol.VERDICT_BLOCK, decided_by=99))
    monitor = procmon.Monitor(DriverGate(device))
    with monitor:
        until(lambda: monitor.history, "the decision")
    [decision] = monitor.history
    assert (decision.verdict, decision.by) == (BLOCK, procmon.DecidedBy.NO_CONTROLLER)


def test_a_held_process_that_is_shown_again_is_not_asked_about_twice() -> None:
    """Another process created a thread in it. Its verdict may be on its way by then."""
    device = Device(record(4))
    asked = []
    monitor = procmon.Monitor(DriverGate(device))
    monitor.subscribe(lambda process: asked.append(process.pid))
    with monitor:
        until(lambda: len(monitor.history) == 1, "the decision")
        device.records = [
            replace(record(4), flags=protocol.FLAG_FOREIGN_THREAD | protocol.FLAG_SEEN),
            replace(record(12), flags=protocol.FLAG_SEEN),  # fetched before the monitor started, by its user
            record(8),
        ]
        device.wake()
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert asked == [4, 8]


@pytest.mark.parametrize("bad", [2**32 + 8, -4])
def test_one_process_that_cannot_be_does_not_cost_the_others_their_verdict(bad: int) -> None:
    device = Device()
    gate = DriverGate(device)
    results = gate.allow(target(4), target(bad), replace(target(8), start_key=2**64), target(12))
    assert results == [VerdictResult.DONE, VerdictResult.UNKNOWN, VerdictResult.UNKNOWN, VerdictResult.DONE]
    [data] = [data for code, data, _ in device.requests if code == protocol.ALLOW]
    assert data == protocol.encode_targets([(4, 4), (12, 12)])


def test_fail_says_what_is_not_given() -> None:
    gate = DriverGate(Device(), fail=BLOCK, on_limit=ALLOW)
    assert gate.failures == {
        "on_timeout": BLOCK,
        "on_disconnect": BLOCK,
        "on_limit": ALLOW,
        "on_tamper": BLOCK,
        "on_pico": BLOCK,
    }
    assert "on_timeout=block" in repr(gate)
    assert DriverGate(Device()).failures["on_tamper"] is BLOCK
    assert DriverGate(Device(), fail=ALLOW).failures["on_tamper"] is ALLOW
    assert "fail=block" in repr(DriverGate(Device(), fail=BLOCK))


@pytest.mark.parametrize("command", ["notepad.exe", ["cmd"], 4, None])
def test_a_command_in_place_of_a_device_is_answered_with_the_gate_for_commands(command: str) -> None:
    with pytest.raises(TypeError, match=r"DebugGate\.run\(command\) holds those of one command"):
        DriverGate(command)


def test_terminate_ends_what_is_held_by_a_verdict() -> None:
    device = Device()
    DriverGate(device).terminate(replace(target(4), paused=True))
    assert device.codes()[-1] == protocol.BLOCK


def test_a_volume_that_came_later_has_its_drive_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library resolves the name that the driver could not, and makes the driver read the drive letters again."""
    drives = {"\\device\\cdrom0": "e:"}
    monkeypatch.setattr("procmon.gates.driver.with_drive_letter", partial(with_drive_letter, drives=lambda: drives))
    native = protocol.FLAG_NAME_NATIVE
    device = Device(
        record(4, image_name="\\device\\cdrom0\\a.exe", native_name="\\Device\\CdRom0\\A.exe", flags=native),
        record(8, image_name="\\device\\cdrom01\\a.exe", native_name="\\Device\\CdRom01\\A.exe", flags=native),
        record(12, image_name="c:\\a.exe", native_name="\\Device\\X\\A.exe"),
    )
    gate = DriverGate(device)
    processes = gate.fetch()
    assert [process.image_name for process in processes] == ["e:\\a.exe", "\\device\\cdrom01\\a.exe", "c:\\a.exe"]
    assert [ProcessFlags.NAME_NATIVE in process.flags for process in processes] == [False, True, False]
    assert device.codes().count(protocol.REGISTER) == 2
    assert len({data for code, data, _ in device.requests if code == protocol.REGISTER}) == 1, "the same options"
