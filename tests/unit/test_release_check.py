"""The check before a release: what gates and monitors do with the findings.

test_tamper.py tests the check itself; tests/windows/test_tamper.py has real processes.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import procmon
from made_up_device import Device, record, target
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DecidedBy, DriverGate, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from procmon.driver import protocol
from procmon.gates import release_check
from procmon.gates.release_check import ReleaseCheck
from procmon.monitor import engine
from procmon.monitor.event_log import FAILED, _classify
from procmon.util.ecs import decision_document

GONE = protocol.STATE_EXITING
DONE, TAMPERED = VerdictResult.DONE, VerdictResult.TAMPERED

Look = Callable[[ProcessHelper], str]


def finds(*pids: int) -> Look:
    """A check that finds a difference in these processes."""
    return lambda process: "it has other code" if process.pid in pids else ""


def notes(looked: list[int]) -> Look:
    """A check that records its processes, and finds nothing."""

    def look(process: ProcessHelper) -> str:
        looked.append(process.pid)
        return ""

    return look


def gate_that(look: Look, device: Device, on_tamper: Verdict | None = None) -> DriverGate:
    gate = DriverGate(device, on_tamper=on_tamper, check_before_release=True)
    gate._check = ReleaseCheck(gate.failures["on_tamper"], look)
    return gate


def targets_of(device: Device, code: int) -> list[int]:
    """The pids of all requests of this kind."""
    size = protocol.TARGET.size
    data = [data for sent, data, _ in device.requests if sent == code]
    return [int(protocol.TARGET.unpack(one[at : at + size])["pid"]) for one in data for at in range(0, len(one), size)]


# ---------------------------------------------------------------------------------------------------------- DriverGate


@pytest.mark.promise(
    "A process is not released when the check of its memory finds code that differs from its file", gate="DriverGate"
)
def test_what_differs_is_blocked_and_the_others_are_allowed(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gate = gate_that(finds(8), device)
    assert gate.allow(target(4), target(8), target(12)) == [DONE, TAMPERED, DONE]
    assert (targets_of(device, protocol.BLOCK), targets_of(device, protocol.ALLOW)) == ([8], [4, 12])
    until(lambda: "process 8 (a.exe) was blocked (on_tamper): it has other code" in caplog.text, "the log line")


def test_it_comes_once_more_with_the_flag_and_the_gates_verdict() -> None:
    device = Device()
    gate = gate_that(finds(8), device)
    gate.allow(target(4), target(8))
    assert gate.wait(0)
    [again] = gate.fetch()
    assert (again.pid, again.paused, again.seen, again.verdict) == (8, False, True, BLOCK)
    assert again.decided_by is DecidedBy.TAMPER and ProcessFlags.TAMPERED in again.flags
    assert gate.fetch() == []


def test_later_records_of_it_have_the_flag_too() -> None:
    device = Device()
    gate = gate_that(finds(8), device)
    gate.allow(target(8))
    gate.fetch()
    blocked = {"verdict": protocol.VERDICT_BLOCK, "decided_by": protocol.BY_CONTROLLER}
    device.records = [replace(record(8, **blocked), state=GONE), replace(record(8, **blocked), start_key=9, state=GONE)]
    for records in (gate.snapshot(), gate.fetch()):
        tampered, other = records
        assert (ProcessFlags.TAMPERED in tampered.flags, tampered.decided_by) == (True, DecidedBy.TAMPER)
        assert (ProcessFlags.TAMPERED in other.flags, other.decided_by) == (False, DecidedBy.CONTROLLER)


def test_one_that_was_answered_before_it_was_fetched_comes_once() -> None:
    device = Device()
    gate = gate_that(finds(8), device)
    gate.allow(target(8))
    blocked = {"verdict": protocol.VERDICT_BLOCK, "decided_by": protocol.BY_CONTROLLER}
    device.records = [replace(record(8, **blocked), state=protocol.STATE_ANSWERED)]
    assert [(one.pid, one.decided_by) for one in gate.fetch()] == [(8, DecidedBy.TAMPER)]
    assert gate.fetch() == []


def test_with_on_tamper_allow_it_runs_and_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gate = gate_that(finds(8), device, ALLOW)
    assert gate.allow(target(4), target(8)) == [DONE, DONE]
    assert (targets_of(device, protocol.BLOCK), sorted(targets_of(device, protocol.ALLOW))) == ([], [4, 8])
    [again] = gate.fetch()
    assert (again.pid, again.verdict, again.decided_by) == (8, ALLOW, DecidedBy.TAMPER)
    until(lambda: "process 8 (a.exe) runs all the same (on_tamper): it has other code" in caplog.text, "the log line")


def test_a_block_is_not_checked() -> None:
    device, looked = Device(), list[int]()
    gate = gate_that(notes(looked), device)
    assert gate.block(target(8)) == [DONE]
    assert looked == []


def test_without_the_option_nothing_is_looked_into() -> None:
    assert DriverGate(Device())._check is None


def test_a_verdict_that_comes_too_late_is_not_the_checks() -> None:
    device = Device()
    device.replies[protocol.BLOCK] = protocol.RESULT_STALE.to_bytes(4, "little")
    gate = gate_that(finds(8), device)
    assert gate.allow(target(8)) == [VerdictResult.STALE]
    assert gate.fetch() == []


def test_what_is_fetched_while_the_verdict_is_sent_has_the_decision_already() -> None:
    fetched: list[ProcessHelper] = []

    def answer(processes: list[ProcessHelper], verdict: Verdict, tampered: bool) -> list[VerdictResult]:
        for process in processes:
            ended = replace(process, paused=False, exited=True, verdict=verdict, decided_by=DecidedBy.CONTROLLER)
            fetched.append(check.mark(ended))
        return [DONE] * len(processes)

    check = ReleaseCheck(BLOCK, finds(8))
    check.release([target(8)], answer)
    [ended] = fetched
    assert ended.decided_by is DecidedBy.TAMPER and ProcessFlags.TAMPERED in ended.flags


@pytest.mark.parametrize(("verdict", "by"), [(BLOCK, DecidedBy.GATE_TIMEOUT), (ALLOW, DecidedBy.CONTROLLER)])
def test_a_verdict_that_is_not_the_checks_keeps_its_decider(verdict: Verdict, by: DecidedBy) -> None:
    check = ReleaseCheck(BLOCK, finds(8))
    check.release([target(8)], lambda processes, *_: [DONE] * len(processes))
    marked = check.mark(replace(target(8), paused=False, verdict=verdict, decided_by=by))
    assert (marked.verdict, marked.decided_by) == (verdict, by)
    assert ProcessFlags.TAMPERED in marked.flags


@pytest.mark.parametrize("verdict", [ALLOW, BLOCK])
def test_what_was_decided_before_is_not_marked(verdict: Verdict) -> None:
    check = ReleaseCheck(BLOCK, finds(8))
    [result], noted = check.release([target(8)], lambda processes, *_: [VerdictResult.ANSWERED] * len(processes))
    assert (result, noted) == (VerdictResult.ANSWERED, [])
    timed_out = replace(target(8), paused=False, verdict=verdict, decided_by=DecidedBy.GATE_TIMEOUT)
    assert check.mark(timed_out).decided_by is DecidedBy.GATE_TIMEOUT
    assert ProcessFlags.TAMPERED not in check.mark(timed_out).flags


def test_one_process_twice_and_one_that_no_driver_can_have_given() -> None:
    gate = gate_that(finds(8), Device())
    foreign = target(2**40)
    assert gate.allow(target(8), foreign, target(8)) == [TAMPERED, VerdictResult.UNKNOWN, TAMPERED]


def test_a_closed_gate_says_so_and_looks_into_nothing() -> None:
    looked: list[int] = []
    gate = gate_that(notes(looked), Device())
    gate.close()
    with pytest.raises(procmon.GateClosed):
        gate.allow(target(8))
    with pytest.raises(procmon.GateClosed):
        gate.allow()
    assert looked == []


def test_what_was_found_is_given_although_the_driver_fails_then() -> None:
    device = Device()
    gate = gate_that(finds(8), device)
    gate.allow(target(8))
    device.errors[protocol.FETCH] = 1450
    assert [one.pid for one in gate.fetch()] == [8]
    with pytest.raises(procmon.ProcmonError):
        gate.fetch()


# ------------------------------------------------------------------------------------------------------- the look


@pytest.mark.fault(
    "the check of a process before its release fails",
    gate="DriverGate",
    held="gets on_tamper",
    told="TAMPERED, and its record again",
    counted="tampered",
    written="a line by tamper",
)
def test_what_cannot_be_looked_into_is_taken_for_tampered(caplog: pytest.LogCaptureFixture) -> None:
    def look(process: ProcessHelper) -> str:
        raise PermissionError(13, "OpenProcess: access is denied")

    gate = gate_that(look, Device())
    assert gate.allow(target(8)) == [TAMPERED]
    until(lambda: "it could not be looked into: " in caplog.text and "access is denied" in caplog.text, "the log line")


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.fault(
    "the check of a process before its release hangs",
    gate="DriverGate",
    held="gets on_tamper after some seconds; no other process is delayed longer than that",
    told="TAMPERED, and its record again",
    counted="tampered",
    written="a line by tamper",
)
def test_a_look_that_hangs_holds_the_gate_up_for_a_while_and_no_other_process(
    hang: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A program's page can be on a share whose server does not answer."""
    began = threading.Event()

    def look(process: ProcessHelper) -> str:
        if process.pid == 8:
            began.set()
            hang.wait()
        return ""

    monkeypatch.setattr(release_check, "TIMEOUT_S", 2.0)
    gate = gate_that(look, Device())
    assert gate.allow(target(8), target(4), target(12), target(16)) == [TAMPERED, DONE, DONE, DONE]
    assert began.is_set()
    until(lambda: "it could not be looked into within 2.4 seconds" in caplog.text, "the log line")


def test_what_was_not_begun_in_time_is_not_looked_into_later(
    hang: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(process: ProcessHelper) -> str:
        looked.append(process.pid)
        hang.wait()
        return ""

    monkeypatch.setattr(release_check, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(release_check, "MORE_S", 0.0)
    check = ReleaseCheck(BLOCK, look)
    processes = [target(4 * number) for number in range(1, 11)]
    assert list(check.find(processes)) == [process.identity for process in processes]
    hang.set()
    assert len(looked) <= 4


def test_it_remembers_the_latest_thousand(caplog: pytest.LogCaptureFixture) -> None:
    check = ReleaseCheck(BLOCK, lambda process: "other")
    processes = [target(4 * number) for number in range(1, 1031)]
    check.release(processes, lambda some, verdict, tampered: [DONE] * len(some))
    assert ProcessFlags.TAMPERED not in check.mark(processes[0]).flags
    assert ProcessFlags.TAMPERED in check.mark(processes[-1]).flags
    until(lambda: len(caplog.records) == len(processes), "the log lines, which other tests would find")


# -------------------------------------------------------------------------------------------------------- the monitor


def test_a_monitor_counts_it_as_blocked_and_the_history_has_both_decisions() -> None:
    gate = procmon.SimulatedGate()
    monitor = procmon.Monitor(gate)
    monitor.subscribe(lambda process: ALLOW)
    with monitor:
        gate.tamper(process := gate.start("c:/tools/a.exe"))
        until(lambda: monitor.statistics.tampered == 1, "the gate's own decision")
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert gate.verdict_of(process) is BLOCK
    counts = monitor.statistics
    assert (counts.held, counts.allowed, counts.blocked, counts.stale, counts.gate_decided) == (1, 0, 1, 0, 1)
    found = {(one.verdict, one.by, one.result) for one in monitor.history}
    assert found == {(ALLOW, DecidedBy.CALLBACK, TAMPERED), (BLOCK, DecidedBy.TAMPER, None)}
    assert "1 tampered" in repr(monitor)
    [refused] = [one for one in monitor.history if one.by is DecidedBy.CALLBACK]
    assert "(not done: tampered)" in repr(refused)
    [blocked] = [one for one in monitor.history if one.by is DecidedBy.TAMPER]
    assert "tampered" in blocked.as_dict()["process"]["flags"]  # type: ignore[index]


def test_with_on_tamper_allow_a_monitor_counts_it_as_allowed() -> None:
    gate = procmon.SimulatedGate(on_tamper=ALLOW)
    with procmon.Monitor(gate) as monitor:
        gate.tamper(process := gate.start("c:/tools/a.exe"))
        until(lambda: monitor.statistics.tampered == 1, "the gate's own decision")
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert gate.verdict_of(process) is ALLOW
    assert (monitor.statistics.allowed, monitor.statistics.blocked) == (1, 0)


def test_by_hand_it_is_an_error_that_says_so() -> None:
    gate = procmon.SimulatedGate()
    with procmon.Monitor(gate, default=procmon.DEFER) as monitor:
        gate.tamper(process := gate.start("c:/tools/a.exe"))
        until(lambda: monitor.pending == [process], "it, deferred")
        with pytest.raises(procmon.ProcessTampered, match="was blocked, not allowed") as caught:
            monitor.allow(process)
        assert caught.value.process == process
        until(lambda: monitor.statistics.tampered == 1, "the gate's own decision")
        with pytest.raises(procmon.AlreadyAnswered, match="block by tamper"):
            monitor.allow(process)


@pytest.mark.parametrize("write_ahead", [True, False])
def test_an_audit_log_has_both_lines(tmp_path: Path, write_ahead: bool) -> None:
    gate, path = procmon.SimulatedGate(), tmp_path / "audit.jsonl"
    with procmon.AuditLog(path, write_ahead=write_ahead) as log, procmon.Monitor(gate, audit=log) as monitor:
        gate.tamper(gate.start("c:/tools/a.exe"))
        until(lambda: len(monitor.history) == 2, "both decisions")
        monitor.stop()
        lines = [(one.verdict, one.by, one.result) for one in procmon.audit.read(path)]
    ahead = [(ALLOW, DecidedBy.DEFAULT, None)] if write_ahead else []
    assert sorted(lines, key=str) == sorted(
        [*ahead, (ALLOW, DecidedBy.DEFAULT, TAMPERED), (BLOCK, DecidedBy.TAMPER, None)], key=str
    )


def test_a_tampered_process_is_a_failure_in_the_logs_of_others() -> None:
    decision = procmon.Decision(process=target(8), verdict=ALLOW, by=DecidedBy.DEFAULT, result=TAMPERED)
    assert decision_document(decision)["event"]["outcome"] == "failure"  # type: ignore[index]
    assert _classify(decision)[1] == FAILED


def test_the_log_is_that_of_procmon(caplog: pytest.LogCaptureFixture) -> None:
    gate_that(finds(8), Device()).allow(target(8))
    until(lambda: caplog.records, "the log line")
    assert [(one.name, one.levelno) for one in caplog.records] == [("procmon", logging.WARNING)]


def test_the_records_of_a_simulated_gate_are_like_those_of_the_others() -> None:
    gate = procmon.SimulatedGate()
    gate.tamper(process := gate.start("a.exe"))
    [held] = gate.fetch()
    assert ProcessFlags.TAMPERED not in held.flags, "nothing is known before the check"
    assert gate.allow(process) == [TAMPERED]
    again, exited = gate.fetch()
    assert (again.verdict, again.decided_by, again.exited) == (BLOCK, DecidedBy.TAMPER, False)
    assert exited.exited and ProcessFlags.TAMPERED in again.flags & exited.flags
    assert record(8).process().flags == ProcessFlags(0)


def test_a_process_that_is_examined_when_the_gate_is_closed_gets_on_tamper(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The monitor's stop waits for a shorter time than the check takes at most. An attacker can make it hang."""
    hangs, looked = threading.Event(), list[int]()

    def look(process: ProcessHelper) -> str:
        looked.append(process.pid)
        if process.pid == 8:
            hangs.wait(PATIENCE)
        return ""

    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 0.3)
    device = Device()
    monitor = procmon.Monitor(gate_that(look, device))
    holds = monitor._engine.holds
    wait_until_sent = holds.wait_until_sent
    monkeypatch.setattr(holds, "wait_until_sent", lambda timeout: wait_until_sent(PATIENCE))  # for a busy machine
    monitor.start()
    device.records = [record(4), record(8)]
    device.wake()
    until(lambda: 8 in looked, "the check")
    monitor.stop()
    assert (targets_of(device, protocol.BLOCK), device.closed) == ([8], True)
    assert [(one.process.pid, one.result) for one in monitor.history] == [(4, DONE), (8, TAMPERED)]
    assert monitor.statistics.blocked == 1
    until(lambda: "it could not be looked into before the gate was closed" in caplog.text, "a line in the log")
    hangs.set()
