"""Monitor: what a gate decided by itself is noted once, with the exit or before it."""

import threading
from dataclasses import replace

import pytest

import procmon
from made_up_device import Device, record
from monitoring import decided, until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, DecidedBy, Decision, ProcessFlags, ProcessHelper, SimulatedGate, Verdict
from procmon.driver import protocol
from procmon.monitor import holds

HELD = record(4, image_name="a.exe")


def answered(by: int, verdict: int, flags: int = 0, of: protocol.Record = HELD) -> protocol.Record:
    """The record of a process that the driver has answered."""
    return replace(of, state=protocol.STATE_RELEASED, verdict=verdict, decided_by=by, flags=of.flags | flags)


def exited(of: protocol.Record, flags: int = 0) -> protocol.Record:
    """The record of the same process when it has exited."""
    return replace(of, state=protocol.STATE_EXITING, exit_status=0xC0000364, flags=of.flags | flags)


class Driven:
    """A monitor over a made-up driver, with one sink, and the exits that it reports."""

    def __init__(self, default: Verdict = DEFER) -> None:
        self.device = Device()
        self.written: list[Decision] = []
        self.exits: list[ProcessHelper] = []
        self.monitor = procmon.Monitor(procmon.DriverGate(self.device), default=default, audit=self)
        self.monitor.on_exit(self.exits.append)

    def write(self, decision: Decision) -> None:
        """A sink."""
        self.written.append(decision)

    def fetches(self, *records: protocol.Record) -> None:
        """The driver has these records; the monitor has taken them in when this returns."""
        fetched = self.monitor.statistics.fetched + len(records)
        self.device.records = list(records)
        self.device.wake()
        until(lambda: self.monitor.statistics.fetched == fetched, "the fetch")

    def counts(self) -> dict[str, object]:
        """The counts that are not 0, without those of records and of callbacks."""
        counts = self.monitor.statistics.as_dict()
        others = ("fetched", "deferred", "longest_hold")
        return {name: count for name, count in counts.items() if count and name not in others}


RULE, TIMEOUT = DecidedBy.GATE_RULE, DecidedBy.GATE_TIMEOUT
REFUSED = answered(protocol.BY_RULE, protocol.VERDICT_BLOCK, protocol.FLAG_NEVER_STARTED)
RULED = answered(protocol.BY_RULE, protocol.VERDICT_ALLOW)
EXEMPT = answered(protocol.BY_EXEMPT, protocol.VERDICT_ALLOW)
DIRECT = answered(protocol.BY_CONTROLLER, protocol.VERDICT_ALLOW)


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    ("given", "verdict", "by"),
    [
        (REFUSED, BLOCK, RULE),
        (RULED, ALLOW, RULE),
        (EXEMPT, ALLOW, DecidedBy.EXEMPT),
        (DIRECT, ALLOW, DecidedBy.CONTROLLER),
    ],
)
def test_a_process_that_exits_before_it_was_fetched_is_noted_as_one_that_exits_later(
    given: protocol.Record, verdict: Verdict, by: DecidedBy, merged: bool
) -> None:
    driven = Driven()
    with driven.monitor:
        if not merged:
            driven.fetches(given)
        driven.fetches(exited(given, 0 if merged else protocol.FLAG_SEEN))
        until(lambda: driven.exits, "the exit")
    [decision] = driven.monitor.history
    assert driven.written == [decision]
    assert (decision.verdict, decision.by, decision.process.exited) == (verdict, by, False)
    assert (driven.exits[0].verdict, driven.exits[0].decided_by) == (verdict, by)
    assert driven.counts() == {"gate_decided": 1, "exited": 1}


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    ("by", "given_verdict", "count"),
    [(protocol.BY_TIMEOUT, protocol.VERDICT_BLOCK, "blocked"), (protocol.BY_TAMPER, protocol.VERDICT_BLOCK, "blocked"),
     (protocol.BY_TIMEOUT, protocol.VERDICT_ALLOW, "allowed")],
)  # fmt: skip
def test_a_held_process_that_the_gate_answers_is_noted_with_its_exit(
    by: int, given_verdict: int, count: str, merged: bool
) -> None:
    given = answered(by, given_verdict, protocol.FLAG_SEEN)
    driven = Driven()
    with driven.monitor:
        driven.fetches(HELD)
        if not merged:
            driven.fetches(given)
        driven.fetches(exited(given))
        until(lambda: driven.exits, "the exit")
        assert driven.monitor.pending == []
    [decision] = driven.monitor.history
    assert driven.written == [decision]
    assert (decision.verdict, decision.by) == (driven.exits[0].verdict, driven.exits[0].decided_by)
    assert decision.held_for > 0
    assert driven.counts() == {"held": 1, count: 1, "gate_decided": 1, "exited": 1}


def test_a_held_process_that_is_killed_has_no_decision() -> None:
    driven = Driven()
    with driven.monitor:
        driven.fetches(HELD)
        driven.fetches(exited(HELD, protocol.FLAG_SEEN))
    assert driven.counts() == {"held": 1, "stale": 1, "exited": 1}
    assert list(driven.monitor.history) == []


@pytest.mark.parametrize("merged", [True, False])
def test_the_timeout_of_a_process_whose_verdict_came_too_late_is_noted(merged: bool) -> None:
    given = answered(protocol.BY_TIMEOUT, protocol.VERDICT_ALLOW, protocol.FLAG_SEEN)
    driven = Driven(default=BLOCK)
    driven.device.replies[protocol.BLOCK] = protocol.RESULT_ANSWERED.to_bytes(4, "little")
    with driven.monitor:
        driven.fetches(HELD)
        until(lambda: driven.monitor.statistics.stale, "the verdict, too late")
        if not merged:
            driven.fetches(given)
        driven.fetches(exited(given))
    assert [(one.verdict, one.by) for one in driven.monitor.history] == [(BLOCK, DecidedBy.DEFAULT), (ALLOW, TIMEOUT)]
    assert driven.counts() == {"held": 1, "stale": 1, "gate_decided": 1, "exited": 1}


def test_the_timeout_of_a_process_that_would_not_die_is_noted() -> None:
    given = answered(protocol.BY_TIMEOUT, protocol.VERDICT_BLOCK, protocol.FLAG_SEEN | protocol.FLAG_TERMINATE_FAILED)
    driven = Driven()
    with driven.monitor:
        driven.fetches(HELD)
        driven.fetches(given)
        assert driven.monitor.pending == []
        driven.fetches(given)
        driven.fetches(exited(given))
    assert decided(driven.monitor) == [("a.exe", BLOCK, TIMEOUT, "")]
    expected = {"held": 1, "blocked": 1, "gate_decided": 1, "exited": 1, "terminate_failed": 2}
    assert driven.counts() == expected


def test_a_program_that_outlives_the_memory_of_the_monitor_is_not_noted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "DECIDERS", 1)
    others = [replace(RULED, pid=pid, start_key=pid) for pid in (8, 12, 16)]
    driven = Driven()
    with driven.monitor:
        driven.fetches(RULED, *others)
        driven.fetches(*(exited(one, protocol.FLAG_SEEN) for one in (RULED, *others)))
    assert driven.counts() == {"gate_decided": 4, "exited": 4}
    assert len(driven.monitor.history) == 4


# -------------------------------------------------------------------------- gates that return both, perhaps at once


@pytest.mark.parametrize("flags", [ProcessFlags(0), ProcessFlags.EXEMPT])
def test_both_records_of_a_process_in_one_fetch_are_one_decision(flags: ProcessFlags) -> None:
    gate = SimulatedGate()
    process = gate.start("a.exe", flags=flags)
    if process.paused:
        gate.time_out(process, BLOCK)
    else:
        gate.exit(process)
    gate.end()
    with procmon.Monitor(gate) as monitor:
        assert monitor.wait(PATIENCE)
    [decision] = monitor.history
    assert decision.by is (DecidedBy.EXEMPT if flags else TIMEOUT)
    assert (monitor.statistics.gate_decided, monitor.statistics.exited) == (1, 1)


def test_a_tampered_process_that_exits_is_noted_as_before() -> None:
    gate = SimulatedGate()
    exits = threading.Event()
    with procmon.Monitor(gate) as monitor:
        monitor.on_exit(lambda process: exits.set())
        monitor.subscribe(lambda process: gate.tamper(process))
        gate.start("a.exe")
        assert exits.wait(PATIENCE)
    assert [one.by for one in monitor.history if one.result is None] == [DecidedBy.TAMPER]
    counts = monitor.statistics
    assert (counts.held, counts.blocked, counts.gate_decided, counts.tampered) == (1, 1, 1, 1)
