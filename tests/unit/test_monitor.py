"""Monitor: who decides, what callbacks may do wrong, verdicts by hand, its life. Threads: test_monitor_threads.py."""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import procmon
import pytest
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import Answer, DecidedBy

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
SOURCE = Path(__file__).resolve().parents[2] / "src"


def until(condition, what, patience=5.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        time.sleep(0.001)


@pytest.fixture
def gate():
    """A gate on which nothing is left held, and of which no thread is left waiting."""
    gate = procmon.SimulatedGate()
    yield gate
    assert gate.closed, "every test here ends with its monitor stopped"
    assert [one for one in gate._processes.values() if one.paused] == []


def decided(monitor):
    return [(one.process.name, one.verdict, one.by, one.who) for one in monitor.history]


# -------------------------------------------------------------------------------------------------------- who decides


def test_the_first_callback_with_an_opinion_decides(gate):
    asked = []

    def first(process):
        asked.append("first")

    def second(process):
        asked.append("second")
        return BLOCK

    def third(process):
        asked.append("third")
        return ALLOW

    with procmon.Monitor(gate) as monitor:
        for callback in (first, second, third):
            monitor.subscribe(callback)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert asked == ["first", "second"]
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.CALLBACK, "second")]


@pytest.mark.parametrize("default", [ALLOW, BLOCK])
def test_no_opinion_at_all_is_the_default(gate, default):
    with procmon.Monitor(gate, default=default) as monitor:
        monitor.subscribe(lambda process: None)
        assert gate.verdict_of(gate.start("a.exe")) is default
    assert decided(monitor) == [("a.exe", default, DecidedBy.DEFAULT, "")]


@pytest.mark.parametrize("match", ["notepad.exe", "**/windows/*", lambda process: process.parent_pid == 8])
def test_match_says_who_is_asked_about(gate, match):
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: BLOCK, match=match)
        yes = gate.start("c:/windows/notepad.exe", parent_pid=8)
        no = gate.start("c:/tools/a.exe")
        assert (gate.verdict_of(yes), gate.verdict_of(no)) == (BLOCK, ALLOW)


def test_a_cancelled_subscription_is_asked_no_more(gate):
    with procmon.Monitor(gate) as monitor:
        subscription = monitor.subscribe(lambda process: BLOCK)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        subscription.cancel()
        subscription.cancel()
        assert gate.verdict_of(gate.start("b.exe")) is ALLOW


def test_a_callback_may_be_subscribed_while_it_runs_and_decorated_functions_stay_callable(gate):
    with procmon.Monitor(gate) as monitor:

        @monitor.subscribe
        def decide(process):
            """Blocks."""
            return BLOCK

        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert decide(gate.running_before("b.exe")[0]) is BLOCK
        assert decide.__doc__ == "Blocks."


def test_a_decision_brings_its_rule_and_its_audit_flag(gate):
    class Rules:
        def decide(self, process):
            audited = process.name == "audited.exe"
            return procmon.Decision(process=process, verdict=BLOCK, by=DecidedBy.RULE, who="rule 7", audited=audited)

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(Rules())
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert gate.verdict_of(gate.start("audited.exe")) is ALLOW
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.RULE, "rule 7"), ("audited.exe", BLOCK, DecidedBy.RULE, "rule 7")]
    assert [one.audited for one in monitor.history] == [False, True]
    assert (monitor.statistics.allowed, monitor.statistics.blocked) == (1, 1)


def test_an_audited_ask_lets_it_pass(gate):
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: procmon.Decision(process=process, verdict=DEFER, by=DecidedBy.RULE, audited=True))
        assert gate.verdict_of(gate.start("a.exe")) is ALLOW


def test_a_policy_is_a_callback(gate):
    policy = procmon.Policy.parse('[[rule]]\nname = "no a"\nimage = "a.exe"\nverdict = "block"')
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(policy)
        monitor.subscribe(lambda process: BLOCK, match="c.exe")
        images = ("a.exe", "b.exe", "c.exe")
        assert [gate.verdict_of(gate.start(image)) for image in images] == [BLOCK, ALLOW, BLOCK]
    assert decided(monitor)[0] == ("a.exe", BLOCK, DecidedBy.RULE, "no a")


@pytest.mark.parametrize("callback", [3, "a.exe", object()])
def test_what_is_no_callback_is_refused(gate, callback):
    monitor = procmon.Monitor(gate)
    with pytest.raises(TypeError, match="a callback is a function"):
        monitor.subscribe(callback)
    with pytest.raises(TypeError, match="a callback is a function"):
        monitor.on_exit(callback)
    with pytest.raises(TypeError, match="match is a glob"):
        monitor.subscribe(print, match=3)
    with pytest.raises(ValueError, match="empty pattern"):
        monitor.on_exit(print, match="")
    monitor.stop()


# --------------------------------------------------------------------------------------------- what goes wrong in them


@pytest.mark.parametrize("on_error", [ALLOW, BLOCK])
@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_is_logged_counted_and_answered_by_on_error(gate, caplog, on_error, error):
    def decide(process):
        raise error

    with procmon.Monitor(gate, on_error=on_error) as monitor:
        monitor.subscribe(decide)
        assert gate.verdict_of(gate.start("a.exe")) is on_error
        assert gate.verdict_of(gate.start("b.exe")) is on_error, "its worker lives on"
    assert decided(monitor)[0] == ("a.exe", on_error, DecidedBy.ERROR, "decide")
    assert monitor.statistics.callback_errors == 2
    assert "callback decide failed" in caplog.text
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("nonsense", [True, 0, "block", [BLOCK], object()])
def test_a_callback_that_returns_nonsense_is_an_error_that_says_what_to_return(gate, caplog, nonsense):
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(lambda process: nonsense)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert "return ALLOW, BLOCK, DEFER" in caplog.text
    assert monitor.history[0].by is DecidedBy.ERROR


def test_a_match_that_raises_is_an_error_too(gate):
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(lambda process: ALLOW, match=lambda process: 1 / 0)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK


def test_a_callback_that_hangs_is_answered_by_on_deadline_and_delays_nobody(gate, caplog):
    release = threading.Event()
    with procmon.Monitor(gate, deadline=0.05, on_deadline=BLOCK) as monitor:

        @monitor.subscribe
        def decide(process):
            if process.name.startswith("hang"):
                release.wait(10)
            return ALLOW

        hung, also, fine = (gate.start(image) for image in ("hang1.exe", "hang2.exe", "fine.exe"))
        assert [gate.verdict_of(one, timeout=5) for one in (hung, also, fine)] == [BLOCK, BLOCK, ALLOW]
        assert decided(monitor)[0] == ("hang1.exe", BLOCK, DecidedBy.DEADLINE, "decide")
        assert "has not answered" in caplog.text
        release.set()
        assert gate.verdict_of(gate.start("after.exe")) is ALLOW
    assert monitor.statistics.deadlines == 2
    assert monitor.statistics.stale == 0


def test_an_exit_callback_that_hangs_or_raises_delays_nobody_either(gate):
    release, exits = threading.Event(), []

    def on_exit(process):
        if process.name == "hang.exe":
            release.wait(10)
        if process.name == "raise.exe":
            raise ValueError("oops")
        exits.append(process.name)

    with procmon.Monitor(gate, deadline=0.05) as monitor:
        monitor.on_exit(on_exit)
        for image in ("hang.exe", "raise.exe", "fine.exe"):
            gate.exit(gate.start(image))
        until(lambda: exits == ["fine.exe"], "the exit of the last")
        release.set()
    assert monitor.statistics.callback_errors == 1
    assert monitor.statistics.exited == 3


def test_the_deadline_comes_before_the_gates_own(gate):
    release = threading.Event()
    with procmon.Monitor(gate, deadline=60, on_deadline=BLOCK) as monitor:
        monitor.subscribe(lambda process: release.wait(10) and None)
        assert gate.verdict_of(gate.start("a.exe", hold_left=0.05), timeout=5) is BLOCK
        release.set()


# ------------------------------------------------------------------------------------------------------ deferred ones


def test_a_deferred_process_stays_held_beyond_the_deadline_until_it_is_answered(gate):
    with procmon.Monitor(gate, deadline=0.02) as monitor:
        monitor.subscribe(lambda process: DEFER, match="a.exe")
        held, free = gate.start("a.exe"), gate.start("b.exe")
        assert gate.verdict_of(free) is ALLOW
        time.sleep(0.1)
        assert gate.verdict_of(held, timeout=0) is None
        assert monitor.pending == [held]
        assert repr(monitor) == "<Monitor running on simulated: 1 allowed, 0 blocked, 1 pending>"
        decision = monitor.block(held)
        assert (decision.by, decision.answer) == (DecidedBy.USER, Answer.DONE)
        assert decision.held >= 0.1
        assert gate.verdict_of(held) is BLOCK
        assert monitor.pending == []
    assert monitor.statistics.deferred == 1


def test_the_default_may_be_to_hold(gate):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        held = gate.start("a.exe")
        until(lambda: monitor.statistics.deferred, "it, deferred")
        monitor.allow(held.pid)
    assert decided(monitor) == [("a.exe", ALLOW, DecidedBy.USER, "")]


def test_a_verdict_by_hand_overtakes_a_callback_that_still_thinks(gate):
    thinks, go_on = threading.Event(), threading.Event()

    def decide(process):
        thinks.set()
        go_on.wait(5)
        return BLOCK

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        assert thinks.wait(5)
        monitor.allow(process)
        go_on.set()
        assert gate.verdict_of(gate.start("b.exe")) is BLOCK
        assert gate.verdict_of(process) is ALLOW


def test_a_callback_may_answer_by_hand(gate):
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: monitor.block(process) and None)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.USER, "")]


# -------------------------------------------------------------------------------------------- verdicts that go nowhere


@pytest.fixture
def deferring(gate):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        yield monitor


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_second_verdict_says_what_the_first_was(gate, deferring, by_pid):
    process = gate.start("a.exe")
    until(lambda: deferring.pending, "it, held")
    deferring.allow(process)
    with pytest.raises(procmon.AlreadyAnswered, match="allow by user"):
        deferring.block(process.pid if by_pid else process)
    assert gate.verdict_of(process) is ALLOW


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_verdict_for_a_process_that_is_gone(gate, deferring, by_pid):
    process = gate.start("a.exe")
    until(lambda: deferring.pending, "it, held")
    gate.exit(process)
    until(lambda: not deferring.pending, "it, gone")
    with pytest.raises(procmon.StaleProcess, match="gone"):
        deferring.allow(process.pid if by_pid else process)
    assert deferring.statistics.stale == 1


def test_a_verdict_for_a_pid_that_another_process_has_now(gate, deferring):
    old = gate.start("a.exe")
    until(lambda: deferring.pending == [old], "it, held")
    gate.exit(old)
    new = gate.start("b.exe", pid=old.pid)
    until(lambda: deferring.pending == [new], "the new one, held")
    with pytest.raises(procmon.StaleProcess, match="another process now"):
        deferring.block(old)
    assert gate.verdict_of(new, timeout=0) is None
    assert deferring.block(old.pid).process == new


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_verdict_for_a_process_that_was_never_held(gate, deferring, by_pid):
    [process] = gate.running_before("explorer.exe")
    with pytest.raises(procmon.NotHeld, match="not held"):
        deferring.block(process.pid if by_pid else process)


def test_a_verdict_for_a_pid_that_never_was(gate, deferring):
    with pytest.raises(procmon.StaleProcess, match="no process with pid 4444"):
        deferring.allow(4444)
    with pytest.raises(procmon.StaleProcess):
        deferring.allow(procmon.ProcessHelper(pid=4444, parent_pid=4, image_name="x.exe", start_key=9))


def test_a_verdict_before_the_monitor_has_fetched_it_counts_as_any_other(gate):
    monitor = procmon.Monitor(gate)
    process = gate.start("a.exe")
    monitor.block(process)
    monitor.start()
    monitor.stop()
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.USER, "")]
    assert (monitor.statistics.held, monitor.statistics.blocked) == (1, 1)


def test_a_verdict_after_the_stop_says_how_it_was_answered(gate):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
    with pytest.raises(procmon.AlreadyAnswered, match="allow by stop"):
        monitor.block(process)


# ------------------------------------------------------------------------------------------- what the gate itself does


@pytest.mark.parametrize("verdict", [ALLOW, BLOCK])
def test_a_hold_that_the_gate_times_out_is_recorded_as_such(gate, verdict):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.time_out(process, verdict)
        until(lambda: not monitor.pending, "it, answered")
        with pytest.raises(procmon.AlreadyAnswered, match="gate timeout"):
            monitor.allow(process)
    assert decided(monitor) == [("a.exe", verdict, DecidedBy.GATE_TIMEOUT, "")]
    statistics = monitor.statistics
    assert (statistics.gate_decided, statistics.allowed + statistics.blocked, statistics.stale) == (1, 1, 0)


def test_what_the_gate_never_holds_is_noted_but_not_counted_as_held(gate):
    with procmon.Monitor(gate) as monitor:
        gate.running_before("explorer.exe")
        gate.start("csrss.exe", flags=procmon.ProcessFlags.EXEMPT)
        until(lambda: monitor.statistics.fetched == 2, "both")
    assert decided(monitor) == [("csrss.exe", ALLOW, DecidedBy.EXEMPT, "")]
    assert (monitor.statistics.held, monitor.statistics.gate_decided) == (0, 1)


@pytest.mark.parametrize("error", [OSError(6, "the handle is invalid"), ValueError("torn record")])
def test_a_gate_that_fails_stops_the_monitor_and_lets_go(gate, caplog, error):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.fail(error)
        assert monitor.wait(5)
        assert monitor.error is error
        assert gate.verdict_of(process, timeout=0) is ALLOW
        assert repr(monitor).startswith("<Monitor failed on simulated")
        assert "failed" in caplog.text


def test_a_gate_that_fails_in_answering_stops_the_monitor(gate, monkeypatch):
    with procmon.Monitor(gate) as monitor:
        monkeypatch.setattr(gate, "allow", lambda *processes: 1 / 0)
        process = gate.start("a.exe")
        assert monitor.wait(5)
        assert isinstance(monitor.error, ZeroDivisionError)
        assert gate.verdict_of(process) is ALLOW, "by the gate, as it was closed"


def test_the_monitor_stops_when_its_gate_has_ended_and_everything_was_answered(gate):
    exits = []
    monitor = procmon.Monitor(gate, default=DEFER)
    monitor.on_exit(lambda process: (time.sleep(0.02), exits.append(process.name)))
    monitor.start()
    process = gate.start("a.exe")
    gate.end()
    assert not monitor.wait(0.05)
    monitor.allow(process)
    gate.exit(process)
    assert monitor.wait(5)
    assert exits == ["a.exe"]
    assert monitor.error is None
    assert repr(monitor) == "<Monitor stopped on simulated: 1 allowed, 0 blocked, 0 pending>"


def test_the_monitor_stops_when_its_gate_is_closed_by_others(gate):
    with procmon.Monitor(gate, default=DEFER) as monitor:
        gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.close()
        assert monitor.wait(5)
        assert monitor.error is None
        assert monitor.pending == []


# -------------------------------------------------------------------------------------------------- its beginning and end


def test_stop_gives_the_default_to_what_is_held_even_if_nobody_fetched_it(gate):
    monitor = procmon.Monitor(gate, default=BLOCK)
    monitor.subscribe(lambda process: DEFER)
    monitor.start()
    held = gate.start("a.exe")
    until(lambda: monitor.pending, "it, held")
    unseen = gate.start("b.exe")
    monitor.stop()
    monitor.stop()
    assert (gate.verdict_of(held), gate.verdict_of(unseen)) == (BLOCK, BLOCK)
    assert monitor.history[0].by is DecidedBy.STOP
    assert not monitor.running


def test_stop_does_not_wait_for_a_callback_that_hangs(gate):
    release, asked = threading.Event(), threading.Event()

    def decide(process):
        asked.set()
        release.wait(10)

    with procmon.Monitor(gate, deadline=None) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        assert asked.wait(5)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert gate.verdict_of(process) is ALLOW
    release.set()


@pytest.mark.parametrize("where", ["callback", "sink", "exit"])
def test_stop_may_be_called_from_anything_the_monitor_calls(gate, where):
    class Sink:
        def write(self, decision):
            if where == "sink":
                monitor.stop()

    monitor = procmon.Monitor(gate, audit=Sink())
    monitor.subscribe(lambda process: monitor.stop() if where == "callback" else None)
    monitor.on_exit(lambda process: monitor.stop())
    monitor.start()
    process = gate.start("a.exe")
    if where == "exit":
        gate.verdict_of(process)
        gate.exit(process)
    assert monitor.wait(5)
    assert gate.verdict_of(process) is ALLOW


def test_a_monitor_starts_once(gate):
    monitor = procmon.Monitor(gate)
    with pytest.raises(procmon.ProcmonError, match="start"):
        monitor.wait(0)
    assert repr(monitor) == "<Monitor ready on simulated: 0 allowed, 0 blocked, 0 pending>"
    with monitor:
        assert monitor.running
        assert not monitor.wait(0)
        with pytest.raises(procmon.ProcmonError, match="running already"):
            monitor.start()
    with pytest.raises(procmon.ProcmonError, match="new gate"):
        monitor.start()


def test_a_closed_gate_cannot_be_monitored(gate):
    gate.close()
    with pytest.raises(procmon.GateClosed, match="make a new gate"):
        procmon.Monitor(gate).start()


@pytest.mark.parametrize("options, error", [
    ({"default": "allow"}, TypeError), ({"on_error": None}, TypeError), ({"on_deadline": 1}, TypeError),
    ({"own": DEFER}, TypeError), ({"own": "allow"}, TypeError), ({"deadline": 0}, ValueError),
    ({"deadline": -1}, ValueError), ({"deadline": float("nan")}, ValueError), ({"workers": 0}, ValueError),
    ({"history": -1}, ValueError), ({"audit": [3]}, TypeError),
])  # fmt: skip
def test_an_option_that_is_none_is_refused_by_name(options, error):
    with pytest.raises(error, match=next(iter(options))):
        procmon.Monitor(procmon.SimulatedGate(), **options)


def test_what_is_no_gate_is_refused():
    with pytest.raises(TypeError, match="SimulatedGate"):
        procmon.Monitor("notepad.exe")


def test_a_monitor_that_is_dropped_lets_go_and_says_so(gate, caplog):
    monitor = procmon.Monitor(gate, default=DEFER)
    monitor.start()
    process = gate.start("a.exe")
    until(lambda: monitor.pending, "it, held")
    del monitor
    assert gate.verdict_of(process, timeout=5) is ALLOW
    until(lambda: gate.closed, "the gate, closed")
    assert "keep a reference" in caplog.text


PROGRAM = """
import procmon, time, sys
gate = procmon.SimulatedGate()
close = gate.close
def closing():
    print([decision.verdict.value for decision in monitor.history], flush=True)
    close()
gate.close = closing
monitor = procmon.Monitor(gate, default=procmon.DEFER)
monitor.start()
process = gate.start("a.exe")
while not monitor.pending:
    time.sleep(0.001)
"""


@pytest.mark.parametrize("last", ["", "sys.exit(3)", "raise ValueError", "raise KeyboardInterrupt"])
def test_the_end_of_the_program_lets_go(last):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + last], env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=20
    )
    assert done.stdout.strip() == "['allow']", done.stderr


def test_history_is_bounded_and_statistics_are_not(gate):
    with procmon.Monitor(gate, history=3) as monitor:
        for number in range(5):
            gate.verdict_of(gate.start(f"{number}.exe"))
    assert [one.process.name for one in monitor.history] == ["2.exe", "3.exe", "4.exe"]
    assert monitor.statistics.allowed == 5
    assert monitor.statistics.longest_hold.total_seconds() > 0


# ---------------------------------------------------------------------------------------------------------- and around


def test_sinks_get_each_decision_after_its_verdict_and_their_errors_are_counted(gate, caplog):
    written = []

    class Sink:
        def write(self, decision):
            written.append((decision, gate.verdict_of(decision.process, timeout=0)))

    class Full:
        def write(self, decision):
            raise OSError(28, "no space left")

    with procmon.Monitor(gate, audit=[Full(), Sink()]) as monitor:
        process = gate.start("a.exe")
        until(lambda: written, "the decision, written")
    [(decision, verdict)] = written
    assert (decision.process, verdict) == (process, ALLOW)
    assert monitor.statistics.audit_errors == 1
    assert "no space left" in caplog.text


def test_exits_are_reported_with_their_status_and_matched(gate):
    exits = []
    with procmon.Monitor(gate) as monitor:

        @monitor.on_exit(match="b.exe")
        def note(process):
            exits.append((process.name, process.exit_status))

        for image in ("a.exe", "b.exe"):
            gate.exit(gate.start(image), 3)
        until(lambda: exits, "the exit")
        note.cancel()
        gate.exit(gate.start("b.exe"))
        until(lambda: monitor.statistics.exited == 3, "all exits")
    assert exits == [("b.exe", 3)]


@pytest.mark.parametrize("own, asked", [(ALLOW, 1), (BLOCK, 1), (None, 2)])
def test_what_a_callback_starts_and_waits_for_does_not_wait_for_the_callback(gate, caplog, own, asked):
    verdicts, names = [], []
    with procmon.Monitor(gate, own=own, deadline=0.2, on_deadline=BLOCK) as monitor:

        @monitor.subscribe
        def decide(process):
            names.append(process.name)
            if process.name == "a.exe":
                child = gate.start("child.exe", creator_pid=os.getpid(), creator_tid=threading.get_native_id())
                verdicts.append(gate.verdict_of(child, timeout=0.1 if own is None else 5))

        process = gate.start("a.exe")
        assert gate.verdict_of(process) is ALLOW
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert verdicts == [own]
    assert len(names) == asked
    assert caplog.text.count("a callback of this program has started child.exe") == 1


def test_what_other_threads_of_this_program_start_is_asked_about(gate):
    with procmon.Monitor(gate, own=ALLOW) as monitor:

        @monitor.subscribe
        def decide(process):
            if process.name == "a.exe":
                until(lambda: gate.snapshot()[-1].seen, "the other, fetched")
            return BLOCK

        gate.start("a.exe")
        other = gate.start("other.exe", creator_pid=os.getpid(), creator_tid=threading.get_native_id())
        assert gate.verdict_of(other) is BLOCK


def test_a_sweep_reports_what_runs_and_ends_it_only_when_told_to(gate):
    earlier = gate.running_before("a.exe", "b.exe")
    exempt = gate.start("a.exe", flags=procmon.ProcessFlags.EXEMPT | procmon.ProcessFlags.RUNNING_BEFORE)
    monitor = procmon.Monitor(gate)
    policy = procmon.Policy.parse('[[rule]]\nname = "no a"\nimage = "a.exe"\nverdict = "block"')
    report = monitor.sweep(policy)
    assert [(one.process, one.who, one.answer) for one in report] == [(earlier[0], "no a", None), (exempt, "no a", None)]
    assert len(gate.snapshot()) == 3
    assert [one.answer for one in monitor.sweep(policy, terminate=True)] == [Answer.DONE, None]
    assert gate.snapshot() == [earlier[1], exempt]
    monitor.stop()


def test_several_monitors_on_different_gates_do_not_know_of_each_other():
    first, second = procmon.SimulatedGate("first"), procmon.SimulatedGate("second")
    with procmon.Monitor(first) as one, procmon.Monitor(second, default=BLOCK) as two:
        assert first.verdict_of(first.start("a.exe")) is ALLOW
        assert second.verdict_of(second.start("a.exe")) is BLOCK
    assert (one.statistics.allowed, two.statistics.blocked) == (1, 1)


def test_logging_is_silent_until_it_is_asked_for():
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("procmon").handlers)


def test_a_record_that_comes_again_is_asked_about_once(gate, monkeypatch):
    asked = []
    fetch = gate.fetch
    monkeypatch.setattr(gate, "fetch", lambda: [copy for record in fetch() for copy in (record, replace(record))])
    with procmon.Monitor(gate, default=DEFER) as monitor:
        monitor.subscribe(asked.append)
        gate.start("a.exe")
        until(lambda: monitor.statistics.fetched == 2, "both records")
    assert len(asked) <= 1
    assert monitor.statistics.held == 1
