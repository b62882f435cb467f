"""Monitor.sweep over simulated processes. tests/windows/test_sweep.py has real ones."""

import os
from dataclasses import replace

import pytest

import procmon
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy, VerdictResult


def test_a_sweep_reports_what_runs_and_ends_it_only_on_request(gate: procmon.SimulatedGate) -> None:
    earlier = gate.running_before("a.exe", "b.exe")
    exempt = gate.start("a.exe", flags=procmon.ProcessFlags.EXEMPT | procmon.ProcessFlags.RUNNING_BEFORE)
    monitor = procmon.Monitor(gate)
    policy = procmon.Policy.parse('[[rule]]\nname = "no a"\nimage = "a.exe"\nverdict = "block"')
    report = monitor.sweep(policy)
    assert [(one.process, one.who, one.result) for one in report] == [
        (earlier[0], "no a", None),
        (exempt, "no a", None),
    ]
    assert len(gate.snapshot()) == 3
    assert [one.result for one in monitor.sweep(policy, terminate=True)] == [VerdictResult.DONE, None]
    assert gate.snapshot() == [earlier[1], exempt]
    monitor.stop()


def test_a_sweep_asks_about_no_process_that_was_held(gate: procmon.SimulatedGate) -> None:
    before = gate.start("before.exe", flags=procmon.ProcessFlags.RUNNING_BEFORE)
    gate._processes[before.pid] = replace(before, verdict=ALLOW, decided_by=DecidedBy.CONTROLLER)  # of an earlier one
    with procmon.Monitor(gate, default=DEFER) as monitor:
        by_user, by_gate, held = (gate.start(f"{name}.exe") for name in ("user", "gate", "held"))
        exempt = gate.start("exempt.exe", flags=procmon.ProcessFlags.EXEMPT)
        monitor.allow(by_user)
        gate.time_out(by_gate, ALLOW)
        assert [one.process for one in monitor.sweep(lambda process: BLOCK, terminate=True)] == [before, exempt]
        assert gate.snapshot() == [by_user, by_gate, held, exempt]


def test_a_sweep_ends_neither_this_program_nor_what_it_may_not(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = gate.start("python.exe", pid=os.getpid(), flags=procmon.ProcessFlags.RUNNING_BEFORE)
    [other] = gate.running_before("other.exe")

    def refuse(process: procmon.ProcessHelper) -> None:
        raise procmon.AccessDenied("not yours")

    monkeypatch.setattr(gate, "terminate", refuse)
    with procmon.Monitor(gate) as monitor:
        report = monitor.sweep(lambda process: BLOCK, terminate=True)
    assert [(one.process, one.result) for one in report] == [(ours, None), (other, None)]
    assert "this program" in caplog.text and "not yours" in caplog.text


def test_a_sweep_ends_only_what_is_blocked_and_reports_nothing_that_is_held_or_ending(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = gate.running_before("allow.exe", "defer.exe", "block.exe")
    ending, gone = replace(running[2], pid=8, verdict=BLOCK), replace(running[2], pid=12)
    windows = [gate.start("block.exe", pid=pid, flags=procmon.ProcessFlags.RUNNING_BEFORE) for pid in (0, 4)]
    known = [gate.start("block.exe"), ending, gone, *running, *windows]
    monkeypatch.setattr(gate, "snapshot", lambda: known)
    monitor = procmon.Monitor(gate)
    report = monitor.sweep(lambda process: procmon.Verdict(process.name.removesuffix(".exe")), terminate=True)
    ended = [None, None, VerdictResult.DONE]
    expected = [(gone, VerdictResult.STALE), *zip(running, ended, strict=True), *((one, None) for one in windows)]
    assert [(one.process, one.result) for one in report] == expected
    monitor.stop()
