"""Monitor: decisions and exits name the same decider, also when another caller answers the gate directly."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import procmon
from monitoring import until, waits_for
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, DecidedBy, Decision, ProcessHelper, SimulatedGate, VerdictResult
from procmon.monitor import holds

RULES = """
mode = "{mode}"
[[rule]]
image = "rule.exe"
verdict = "block"
"""


@pytest.fixture
def gate() -> SimulatedGate:
    """The gate of one test."""
    return SimulatedGate()


class Exits:
    """Keeps the exits that a monitor reports."""

    def __init__(self, monitor: procmon.Monitor) -> None:
        self.records: dict[ProcessHelper, ProcessHelper] = {}
        monitor.on_exit(lambda process: self.records.update({process: process}))

    def of(self, process: ProcessHelper) -> ProcessHelper:
        """The exit of a process, waited for."""
        until(lambda: process in self.records, "the exit")
        return self.records[process]


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_the_exit_names_the_authority_that_the_decision_names(gate: SimulatedGate, mode: str) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=0.05, on_error=BLOCK) as monitor:
        exits = Exits(monitor)
        monitor.subscribe(procmon.Policy.parse(RULES.format(mode=mode)))
        monitor.subscribe(lambda process: BLOCK, match="callback.exe")
        monitor.subscribe(lambda process: 1 / 0, match="error.exe")  # type: ignore[arg-type, return-value]
        monitor.subscribe(waits_for(release), match="deadline.exe")
        monitor.subscribe(lambda process: DEFER, match="user.exe")
        for name in ("rule", "callback", "error", "deadline", "default", "user"):
            process = gate.start(f"{name}.exe")
            if name == "user":
                until(lambda: monitor.statistics.deferred, "it, deferred")
                monitor.block(process)
            if gate.verdict_of(process, timeout=PATIENCE) is ALLOW:
                gate.exit(process)
            exit = exits.of(process)
            [decision] = [one for one in monitor.history if one.process == process]
            assert exit.decided_by is decision.by is DecidedBy(name)
            assert exit.verdict is (ALLOW if decision.audited else decision.verdict)
        release.set()


def test_an_exit_that_comes_before_the_call_of_the_gate_has_returned_names_it_too(
    gate: SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    exited = threading.Event()
    block = gate.block

    def slowly(*processes: ProcessHelper) -> list[VerdictResult]:
        results = block(*processes)
        assert exited.wait(PATIENCE)
        return results

    monkeypatch.setattr(gate, "block", slowly)
    with procmon.Monitor(gate, workers=2) as monitor:
        monitor.subscribe(lambda process: BLOCK)
        exits = Exits(monitor)
        monitor.on_exit(lambda process: exited.set())
        assert exits.of(gate.start("a.exe")).decided_by is DecidedBy.CALLBACK


def test_who_decided_is_kept_for_the_latest_processes_alone(
    gate: SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "DECIDERS", 1)  # and at most twice as many
    with procmon.Monitor(gate) as monitor:
        exits = Exits(monitor)
        started = [gate.start(f"{name}.exe") for name in "abc"]
        assert [gate.verdict_of(one) for one in started] == [ALLOW] * 3
        until(lambda: len(monitor.history) == 3, "the decisions")
        for process in started:
            gate.exit(process)
        expected = [DecidedBy.CONTROLLER, DecidedBy.DEFAULT, DecidedBy.DEFAULT]
        assert [exits.of(process).decided_by for process in started] == expected


def test_the_audit_log_has_one_answer(gate: SimulatedGate, tmp_path: Path) -> None:
    with procmon.AuditLog(tmp_path / "audit.jsonl") as log:
        with procmon.Monitor(gate, audit=log) as monitor:
            written = threading.Event()
            monitor.subscribe(procmon.Policy.parse(RULES.format(mode="enforce")))
            monitor.on_exit(log.write_exit)
            monitor.on_exit(lambda process: written.set())
            gate.start("c:/tools/rule.exe")
            assert written.wait(PATIENCE)
    lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    by = {line["process"]["decided_by"] if line.get("event") == "exit" else line["by"] for line in lines}
    assert by == {"rule"}


# ------------------------------------------------------------------------------------- answered beside the monitor


def test_a_verdict_beside_the_monitor_is_its_decision_at_once(gate: SimulatedGate) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        exits = Exits(monitor)
        allowed, blocked = gate.start("a.exe"), gate.start("b.exe")
        until(lambda: monitor.statistics.deferred == 2, "both, deferred")
        time.sleep(0.05)
        assert gate.allow(allowed) == gate.block(blocked) == [VerdictResult.DONE]
        assert monitor.pending == []
        assert all(0.02 < one.held_for < 10 for one in monitor.history)
        assert gate.block(*gate.running_before("c.exe")) == [VerdictResult.NOT_HELD]  # no decision, then
        assert {(one.process, one.verdict, one.by, one.result) for one in monitor.history} == {
            (allowed, ALLOW, DecidedBy.CONTROLLER, VerdictResult.DONE),
            (blocked, BLOCK, DecidedBy.CONTROLLER, VerdictResult.DONE),
        }
        with pytest.raises(procmon.AlreadyAnswered, match="has had its verdict: allow by controller; a second"):
            monitor.block(allowed)
        assert exits.of(blocked).decided_by is DecidedBy.CONTROLLER
        counts = monitor.statistics
        assert (counts.held, counts.allowed, counts.blocked, counts.stale) == (2, 1, 1, 0)


def test_the_callback_that_thinks_meanwhile_decides_nothing_any_more(gate: SimulatedGate) -> None:
    thinks, go_on = threading.Event(), threading.Event()

    def decide(process: ProcessHelper) -> procmon.Verdict:
        thinks.set()
        go_on.wait(PATIENCE)
        return BLOCK

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        assert thinks.wait(PATIENCE)
        gate.allow(process)
        go_on.set()
        gate.end()
        assert monitor.wait(PATIENCE)
    assert [(one.verdict, one.by) for one in monitor.history] == [(ALLOW, DecidedBy.CONTROLLER)]


def test_a_verdict_before_the_monitor_has_the_record_is_its_decision_too(gate: SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.allow(process)
    with procmon.Monitor(gate, default=BLOCK) as monitor:
        until(lambda: monitor.history, "the decision")
        with pytest.raises(procmon.AlreadyAnswered, match="allow by controller"):
            monitor.block(process)
    assert [(one.verdict, one.by) for one in monitor.history] == [(ALLOW, DecidedBy.CONTROLLER)]
    assert monitor.statistics.gate_decided == 1


class BesideTheFetch(SimulatedGate):
    """Answered directly while its monitor has the record, and has not processed it yet."""

    def fetch(self) -> list[ProcessHelper]:
        """The new records; held processes among them are allowed before the caller gets them."""
        records = super().fetch()
        for record in records:
            if record.paused:
                self.allow(record)
        return records


def test_a_verdict_while_the_record_is_on_its_way_to_the_monitor_leaves_nothing_pending() -> None:
    gate = BesideTheFetch()
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.history, "the decision")
        assert monitor.pending == []
    assert [(one.process, one.verdict, one.by) for one in monitor.history] == [(process, ALLOW, DecidedBy.CONTROLLER)]
    counts = monitor.statistics
    assert (counts.held, counts.allowed, counts.stale) == (1, 1, 0)


class UnheardGate(SimulatedGate):
    """A gate that reports its verdicts to no monitor."""

    def _notify(
        self, processes: Sequence[ProcessHelper], verdict: procmon.Verdict, results: list[VerdictResult]
    ) -> list[VerdictResult]:
        return results


@pytest.mark.parametrize(("beside", "stale"), [(BLOCK, 0), (ALLOW, 1)])
def test_where_the_gate_does_not_tell_an_exit_or_a_late_verdict_does(beside: procmon.Verdict, stale: int) -> None:
    gate = UnheardGate()
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.statistics.deferred, "it, deferred")
        (gate.block if beside is BLOCK else gate.allow)(process)
        if beside is ALLOW:
            with pytest.raises(procmon.AlreadyAnswered, match="or at the gate itself"):
                monitor.block(process)
        until(lambda: not monitor.pending, "nothing pending")
    assert monitor.statistics.stale == stale
    if beside is BLOCK:
        assert [(one.verdict, one.by) for one in monitor.history] == [(BLOCK, DecidedBy.CONTROLLER)]


def test_what_an_earlier_controller_answered_is_no_decision_of_this_session(gate: SimulatedGate) -> None:
    before = gate.start("a.exe", flags=procmon.ProcessFlags.RUNNING_BEFORE)
    gate._records[0] = replace(before, verdict=ALLOW, decided_by=DecidedBy.CONTROLLER)  # as the driver shows it
    with procmon.Monitor(gate) as monitor:
        until(lambda: monitor.statistics.fetched, "the record")
        gate.end()
        assert monitor.wait(PATIENCE)
    assert list[Decision](monitor.history) == []


def test_a_monitor_that_has_stopped_ignores_its_gate(gate: SimulatedGate) -> None:
    with procmon.Monitor(gate):
        assert gate._on_answer is not None
    assert gate._on_answer is None


# ------------------------------------------------------------------------------------------------ a stopped monitor


@pytest.mark.parametrize("method", ["subscribe", "on_exit"])
def test_a_stopped_monitor_takes_no_callback_and_says_what_to_do(gate: SimulatedGate, method: str) -> None:
    with procmon.Monitor(gate) as monitor:
        getattr(monitor, method)(print)
    says = pytest.raises(procmon.ProcmonError, match="has stopped .*: make a new gate and Monitor")
    with says:
        getattr(monitor, method)(print)
    with says:
        getattr(monitor, method)(match="a.exe")
