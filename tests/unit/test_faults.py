"""The rows of the table of faults that need no Windows: Monitor and AuditLog over SimulatedGate."""

import errno
import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, AuditLog, DecidedBy, Policy, SimulatedGate, VerdictResult, audit
from procmon.gates import simulated
from procmon.gates.base import Gate
from procmon.monitor import holds, subscriptions


class Broken(SimulatedGate):
    """A gate whose allow fails."""

    def allow(self, *processes: procmon.ProcessHelper) -> list[VerdictResult]:
        raise OSError(errno.EIO, "the device is gone")


@pytest.mark.fault(
    "2,000 processes are held at once",
    gate="Monitor, SimulatedGate",
    held="each gets its own verdict",
    told="`pending` has all of them",
    counted="held, allowed, blocked",
    written="one line each",
)
def test_two_thousand_are_held_at_once(tmp_path: Path) -> None:
    gate = SimulatedGate()
    with AuditLog(tmp_path / "audit.jsonl", max_bytes=None) as log:
        with procmon.Monitor(gate, default=DEFER, audit=log, history=4000) as monitor:
            started = [gate.start(f"c:/tools/{number}.exe") for number in range(2000)]
            until(lambda: len(monitor.pending) == 2000, "all are pending")
            for number, process in enumerate(started):
                (monitor.allow if number % 2 else monitor.block)(process)
        counts = monitor.statistics
    assert (counts.held, counts.allowed, counts.blocked, counts.pending) == (2000, 1000, 1000, 0)
    assert [gate.verdict_of(process) for process in started] == [BLOCK, ALLOW] * 1000
    assert len({decision.process for decision in audit.read(log.path)}) == 2000


@pytest.mark.fault(
    "another process ends the held process",
    gate="Monitor, SimulatedGate",
    held="ends",
    told="StaleProcess for a verdict",
    counted="stale",
    written="a line with its result",
)
def test_a_held_process_that_is_ended_from_outside_takes_no_verdict() -> None:
    gate = SimulatedGate()
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        gate.exit(process, 7)
        with pytest.raises(procmon.StaleProcess):
            monitor.allow(process)
        other = gate.start("b.exe")
        monitor.allow(other)
    assert gate.verdict_of(other) is ALLOW


@pytest.mark.fault(
    "the parent of a held process is ended",
    gate="Monitor, SimulatedGate",
    held="stays held, and gets its verdict",
    told="-",
    counted="-",
    written="its line",
)
def test_the_end_of_a_parent_changes_nothing_for_a_held_child() -> None:
    gate = SimulatedGate()
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: DEFER, match="child.exe")
        parent = gate.start("parent.exe")
        child = gate.start("child.exe", parent_pid=parent.pid)
        gate.exit(parent)
        until(lambda: monitor.pending == [child], "the child is pending")
        monitor.block(child)
    assert gate.verdict_of(child) is BLOCK


@pytest.mark.fault(
    "the audit log's disk is full",
    gate="Monitor",
    held="gets its verdict",
    told="an error in the log `procmon`",
    counted="audit_errors",
    written="nothing; the next line is tried again",
)
@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_full_disk_costs_no_process_its_verdict(
    write_ahead: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = SimulatedGate()
    log = AuditLog(tmp_path / "audit.jsonl", write_ahead=write_ahead)

    def full(line: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with procmon.Monitor(gate, default=BLOCK, audit=log) as monitor:
        with monkeypatch.context() as patch:
            patch.setattr(log, "_append", full)
            assert gate.verdict_of(gate.start("a.exe")) is BLOCK
            until(lambda: monitor.statistics.audit_errors > 0, "the sink has failed")
        assert gate.verdict_of(gate.start("b.exe")) is BLOCK
    assert monitor.statistics.audit_errors >= 1
    log.close()
    assert [decision.process.name for decision in audit.read(log.path)][-1] == "b.exe"


@pytest.mark.fault(
    "the audit log's folder cannot be written",
    gate="Monitor",
    held="none: the error comes before the first hold",
    told="AuditError, which names the path",
    counted="-",
    written="-",
)
@pytest.mark.parametrize("path", ["missing/audit.jsonl", "."])
def test_a_log_that_cannot_be_opened_is_an_error_before_anything_is_held(path: str, tmp_path: Path) -> None:
    with pytest.raises(procmon.AuditError, match="it cannot be written"):
        AuditLog(tmp_path / path)


@pytest.mark.fault(
    "the policy is replaced while processes are decided",
    gate="Monitor, Policy",
    held="each is decided by the old rules or by the new",
    told="-",
    counted="-",
    written="the version of the policy that decided",
)
def test_a_policy_that_is_replaced_meanwhile_decides_each_by_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('default = "allow"')
    policy, gate = Policy.load(path), SimulatedGate()
    before = policy.version
    with procmon.Monitor(gate, workers=4, history=1000) as monitor:
        monitor.subscribe(policy)
        started = []
        for number in range(400):
            started.append(gate.start(f"c:/tools/{number}.exe"))
            if number == 200:
                until(lambda: len(monitor.history) > 0, "the first is decided")
                path.write_text('default = "block"')
                policy.reload()
        until(lambda: len(monitor.history) == 400, "all are decided")
    verdicts = [gate.verdict_of(process) for process in started]
    assert set(verdicts) == {ALLOW, BLOCK} and verdicts[0] is ALLOW and verdicts[-1] is BLOCK
    by_version = {decision.policy: decision.verdict for decision in monitor.history}
    assert by_version == {before: ALLOW, policy.version: BLOCK}
    assert len({decision.process for decision in monitor.history}) == 400


@pytest.mark.fault(
    "a policy is replaced by a broken one",
    gate="Policy",
    held="is decided by the old rules",
    told="PolicyError, with each mistake and its place",
    counted="-",
    written="-",
)
def test_a_broken_policy_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('default = "block"')
    policy = Policy.load(path)
    path.write_text("default = ")
    with pytest.raises(procmon.PolicyError):
        policy.reload()
    assert policy.decide(SimulatedGate().start("a.exe")).verdict is BLOCK


@pytest.mark.fault(
    "a callback raises",
    gate="Monitor",
    held="gets on_error",
    told="an error with its traceback in the log `procmon`",
    counted="callback_errors",
    written="by error, with the reason",
)
def test_a_callback_that_raises_gives_on_error() -> None:
    gate = SimulatedGate()
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:

        @monitor.subscribe
        def careless(process: procmon.ProcessHelper) -> procmon.Verdict:
            raise ValueError(process.name)

        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert monitor.statistics.callback_errors == 1
    (decision,) = monitor.history
    assert (decision.by, decision.reason) == (DecidedBy.ERROR, "ValueError: a.exe")


@pytest.mark.fault(
    "the gate fails while a verdict is sent",
    gate="Monitor",
    held="is released when the gate ends",
    told="`monitor.error`, and an error in the log",
    counted="-",
    written="a line for each process that the stop found undecided",
)
def test_a_gate_that_fails_stops_its_monitor_and_says_why() -> None:
    gate: Gate = Broken()
    monitor = procmon.Monitor(gate)
    monitor.start()
    assert isinstance(gate, Broken)
    gate.start("a.exe")
    assert monitor.wait(PATIENCE)
    assert isinstance(monitor.error, OSError) and "the device is gone" in str(monitor.error)


@pytest.mark.fault(
    "a call has no verdict, or 10,000",
    gate="SimulatedGate",
    held="each gets its own",
    told="one result for each, in order",
    counted="-",
    written="-",
)
def test_a_call_takes_no_process_and_ten_thousand() -> None:
    gate = SimulatedGate()
    assert gate.allow() == [] and gate.block() == []
    started = [gate.start(f"{number}.exe") for number in range(10_000)]
    gate.fetch()
    assert gate.allow(*started) == [VerdictResult.DONE] * 10_000
    assert gate.block(*started[:3]) == [VerdictResult.ANSWERED] * 3


@pytest.mark.fault(
    "a verdict arrives before the fetch, after the exit, or for an earlier process with that pid",
    gate="SimulatedGate",
    held="only the intended process is affected",
    told="DONE before the fetch, ANSWERED after the exit, STALE when the pid belongs to another process",
    counted="-",
    written="-",
)
def test_a_verdict_reaches_the_process_it_was_meant_for_or_none() -> None:
    gate = SimulatedGate()
    first = gate.start("a.exe")
    assert gate.allow(first) == [VerdictResult.DONE]
    gate.exit(first)
    assert gate.block(first) == [VerdictResult.ANSWERED]
    again = gate.start("b.exe", pid=first.pid)
    assert gate.block(first) == [VerdictResult.STALE]
    assert gate.allow(again) == [VerdictResult.DONE]


@pytest.mark.fault(
    "the date is set forward or back",
    gate="Monitor, SimulatedGate",
    held="stays held; its timeout and the deadline are unchanged",
    told="-",
    counted="-",
    written="a line with the new date; `held_for` is unchanged",
)
def test_a_date_that_is_set_changes_no_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    year = timedelta(days=365)

    class Moved(datetime):
        ahead = timedelta(0)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Moved":
            return cls.fromtimestamp((datetime.now(tz) + cls.ahead).timestamp(), tz)

    for module in (holds, simulated, subscriptions):
        monkeypatch.setattr(module, "datetime", Moved)
    gate = SimulatedGate(hold_timeout=600)
    with AuditLog(tmp_path / "audit.jsonl") as log:
        with procmon.Monitor(gate, default=DEFER, deadline=500, audit=log) as monitor:
            for ahead in (year, -year):
                process = gate.start("a.exe")
                until(lambda: monitor.pending, "it is held")
                Moved.ahead = ahead
                assert gate.verdict_of(process, timeout=0.05) is None
                decision = monitor.allow(process)
                assert 0 <= decision.held_for < 100
                assert abs(decision.at - datetime.now(UTC)) > year / 2
        assert [decision.by for decision in audit.read(log.path)] == [DecidedBy.USER] * 2
