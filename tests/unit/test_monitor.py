"""Monitor: deciders, deferred processes, reports. Faults, life and threads have their own files."""

import logging
import os
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

import procmon
from monitoring import decided, until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy, VerdictResult

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


# --------------------------------------------------------------------------------------------------------- who decides


def test_the_first_callback_with_an_opinion_decides(gate: procmon.SimulatedGate) -> None:
    asked = []

    def first(process: procmon.ProcessHelper) -> None:
        asked.append("first")

    def second(process: procmon.ProcessHelper) -> procmon.Verdict:
        asked.append("second")
        return BLOCK

    def third(process: procmon.ProcessHelper) -> procmon.Verdict:
        asked.append("third")
        return ALLOW

    with procmon.Monitor(gate) as monitor:
        for callback in (first, second, third):
            monitor.subscribe(callback)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert asked == ["first", "second"]
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.CALLBACK, "second")]


@pytest.mark.parametrize("default", [ALLOW, BLOCK])
def test_no_opinion_at_all_is_the_default(gate: procmon.SimulatedGate, default: procmon.Verdict) -> None:
    with procmon.Monitor(gate, default=default) as monitor:
        monitor.subscribe(lambda process: None)
        assert gate.verdict_of(gate.start("a.exe")) is default
    assert decided(monitor) == [("a.exe", default, DecidedBy.DEFAULT, "")]


@pytest.mark.parametrize("match", ["notepad.exe", "**/windows/*", lambda process: process.parent_pid == 8])
def test_match_says_who_is_asked_about(gate: procmon.SimulatedGate, match: str) -> None:
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: BLOCK, match=match)
        yes = gate.start("c:/windows/notepad.exe", parent_pid=8)
        no = gate.start("c:/tools/a.exe")
        assert (gate.verdict_of(yes), gate.verdict_of(no)) == (BLOCK, ALLOW)


@pytest.mark.parametrize("match", [None, "*.exe"])
def test_a_cancelled_subscription_is_asked_no_more(gate: procmon.SimulatedGate, match: str | None) -> None:
    with procmon.Monitor(gate) as monitor:
        subscription = monitor.subscribe(lambda process: BLOCK, match=match)
        process = gate.start("a.exe")
        assert gate.verdict_of(process) is BLOCK
        subscription.cancel()
        subscription.cancel()
        assert gate.verdict_of(gate.start("b.exe")) is ALLOW
        assert not subscription.concerns(process)  # nor by a thread that had begun to ask


def test_a_callback_may_be_subscribed_while_it_runs_and_decorated_functions_stay_callable(
    gate: procmon.SimulatedGate,
) -> None:
    with procmon.Monitor(gate) as monitor:

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            """Blocks."""
            return BLOCK

        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert decide(gate.running_before("b.exe")[0]) is BLOCK
        assert decide.__doc__ == "Blocks."


def test_a_decision_brings_its_rule_and_its_audit_flag(gate: procmon.SimulatedGate) -> None:
    class Rules:
        def decide(self, process: procmon.ProcessHelper) -> procmon.Decision:
            audited = process.name == "audited.exe"
            return procmon.Decision(process=process, verdict=BLOCK, by=DecidedBy.RULE, who="rule 7", audited=audited)

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(Rules())
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert gate.verdict_of(gate.start("audited.exe")) is ALLOW
    assert decided(monitor) == [
        ("a.exe", BLOCK, DecidedBy.RULE, "rule 7"),
        ("audited.exe", BLOCK, DecidedBy.RULE, "rule 7"),
    ]
    assert [one.audited for one in monitor.history] == [False, True]
    assert (monitor.statistics.allowed, monitor.statistics.blocked) == (1, 1)


def test_an_audited_ask_lets_it_pass(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(
            lambda process: procmon.Decision(process=process, verdict=DEFER, by=DecidedBy.RULE, audited=True)
        )
        assert gate.verdict_of(gate.start("a.exe")) is ALLOW


def test_a_policy_is_a_callback(gate: procmon.SimulatedGate) -> None:
    policy = procmon.Policy.parse('[[rule]]\nname = "no a"\nimage = "a.exe"\nverdict = "block"')
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(policy)
        monitor.subscribe(lambda process: BLOCK, match="c.exe")
        images = ("a.exe", "b.exe", "c.exe")
        assert [gate.verdict_of(gate.start(image)) for image in images] == [BLOCK, ALLOW, BLOCK]
    assert decided(monitor)[0] == ("a.exe", BLOCK, DecidedBy.RULE, "no a")


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("notepad", '"notepad" would have to be the whole name; write "notepad.exe"'),
        ("a.exe;b.exe", '"a.exe;b.exe" is one pattern; pass a function of the process, or subscribe for each'),
        ("%TEMP%/*", "variables .* are not replaced"),
    ],
)
def test_a_doubtful_match_is_warned_of(
    gate: procmon.SimulatedGate, match: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with procmon.Monitor(gate) as monitor, pytest.warns(procmon.PolicyWarning, match=said) as caught:
        monitor.subscribe(lambda process: None, match=match)
    assert caught[0].filename == __file__
    assert match in caplog.text


@pytest.mark.parametrize("callback", [3, "a.exe", object()])
def test_what_is_no_callback_is_refused(gate: procmon.SimulatedGate, callback: Any) -> None:
    monitor = procmon.Monitor(gate)
    with pytest.raises(TypeError, match="a callback is a function"):
        monitor.subscribe(callback)
    with pytest.raises(TypeError, match="a callback is a function"):
        monitor.on_exit(callback)
    with pytest.raises(TypeError, match="match is a glob"):
        monitor.subscribe(print, match=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="empty pattern"):
        monitor.on_exit(print, match="")
    monitor.stop()


# ------------------------------------------------------------------------------------------------------- deferred ones


def test_a_deferred_process_stays_held_beyond_the_deadline_until_it_is_answered(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, deadline=0.02) as monitor:
        monitor.subscribe(lambda process: DEFER, match="a.exe")
        held, free = gate.start("a.exe"), gate.start("b.exe")
        assert gate.verdict_of(free) is ALLOW
        time.sleep(0.1)
        assert gate.verdict_of(held, timeout=0) is None
        assert monitor.pending == [held]
        assert repr(monitor) == "<Monitor running on simulated: 1 allowed, 0 blocked, 1 pending>"
        decision = monitor.block(held)
        assert (decision.by, decision.result) == (DecidedBy.USER, VerdictResult.DONE)
        assert decision.held_for >= 0.1
        assert gate.verdict_of(held) is BLOCK
        assert monitor.pending == []
    assert monitor.statistics.deferred == 1


def test_the_default_may_be_to_hold_and_a_pid_stands_for_its_process(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        first, second, third = (gate.start(image) for image in ("a.exe", "b.exe", "c.exe"))
        until(lambda: monitor.statistics.deferred == 3, "all, deferred")
        monitor.block(second.pid)
        assert monitor.pending == [first, third]
        with pytest.raises(procmon.AlreadyAnswered, match="'b.exe'.* has had its verdict: block by user"):
            monitor.block(second.pid)  # known from the history: it has ended
        monitor.block(third.pid)
    assert decided(monitor)[:2] == [(name, BLOCK, DecidedBy.USER, "") for name in ("b.exe", "c.exe")]


def test_a_verdict_by_hand_overtakes_a_callback_that_still_thinks(gate: procmon.SimulatedGate) -> None:
    thinks, go_on = threading.Event(), threading.Event()

    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        thinks.set()
        go_on.wait(PATIENCE)
        return BLOCK

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        assert thinks.wait(PATIENCE)
        monitor.allow(process)
        go_on.set()
        assert gate.verdict_of(gate.start("b.exe")) is BLOCK
        assert gate.verdict_of(process) is ALLOW


def test_a_callback_may_answer_by_hand(gate: procmon.SimulatedGate) -> None:
    asked: list[procmon.ProcessHelper] = []
    with procmon.Monitor(gate) as monitor:

        @monitor.subscribe
        def block(process: procmon.ProcessHelper) -> None:
            monitor.block(process)

        monitor.subscribe(asked.append, match="a.exe")
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert gate.verdict_of(gate.start("b.exe")) is BLOCK
    assert decided(monitor) == [(name, BLOCK, DecidedBy.USER, "") for name in ("a.exe", "b.exe")]
    assert asked == [], "it was answered: no other callback is asked"


# ---------------------------------------------------------------------------------------------------------- and around


@pytest.mark.parametrize(
    ("given", "then"),
    [
        (ALLOW, (False, ALLOW, DecidedBy.CALLBACK)),
        (BLOCK, (False, BLOCK, DecidedBy.CALLBACK)),
        ("audited", (False, ALLOW, DecidedBy.RULE)),
        ("tamper", (False, BLOCK, DecidedBy.TAMPER)),
        ("late", (True, None, None)),
    ],
)
def test_the_record_of_a_decision_shows_the_verdict_that_its_gate_carried_out(
    gate: procmon.SimulatedGate, given: Any, then: tuple[bool, procmon.Verdict | None, DecidedBy | None]
) -> None:
    """A sink that writes ahead is called before the verdict, with the record that the gate gave."""
    written: list[bool] = []

    class Ahead:
        write_ahead = True

        def write(self, decision: procmon.Decision) -> None:
            written.append(decision.process.paused)

    def decide(process: procmon.ProcessHelper) -> Any:
        if given == "tamper":
            gate.tamper(process)
        if given == "late":
            gate.exit(process)
        if given == "audited":
            return procmon.Decision(process=process, verdict=BLOCK, by=DecidedBy.RULE, audited=True)
        return given if isinstance(given, procmon.Verdict) else ALLOW

    with procmon.Monitor(gate, audit=Ahead()) as monitor:
        monitor.subscribe(decide)
        gate.start("a.exe")
        gate.end()
        monitor.wait(PATIENCE)
    assert written[0]
    record = monitor.history[-1].process
    assert (record.paused, record.verdict, record.decided_by) == then


def test_the_record_of_a_decision_about_an_unfetched_process_shows_the_verdict_too() -> None:
    class Late(procmon.SimulatedGate):
        def fetch(self) -> list[procmon.ProcessHelper]:
            return super().fetch() if answered.is_set() else []

    answered = threading.Event()
    gate = Late()
    with procmon.Monitor(gate, default=DEFER) as monitor:
        decision = monitor.block(gate.start("a.exe"))
        answered.set()
        assert (decision.process.paused, decision.process.verdict) == (False, BLOCK)
        assert decision.process.decided_by is DecidedBy.USER
    assert [(one.process.paused, one.by) for one in monitor.history] == [(False, DecidedBy.USER)]


def test_exits_are_reported_with_their_status_and_matched(gate: procmon.SimulatedGate) -> None:
    exits = []
    with procmon.Monitor(gate) as monitor:

        @monitor.on_exit(match="b.exe")
        def note(process: procmon.ProcessHelper) -> str:
            exits.append((process.name, process.exit_status))
            return "no opinion is read"

        for image in ("a.exe", "b.exe"):
            gate.exit(gate.start(image), 3)
        until(lambda: exits, "the exit")
        note.cancel()
        gate.exit(gate.start("b.exe"))
        until(lambda: monitor.statistics.exited == 3, "all exits")
    assert exits == [("b.exe", 3)]
    assert monitor.statistics.callback_errors == 0


@pytest.mark.parametrize("own, asked", [(ALLOW, 1), (BLOCK, 1), (None, 2)])
def test_what_a_callback_starts_and_waits_for_does_not_wait_for_the_callback(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, own: procmon.Verdict | None, asked: int
) -> None:
    verdicts, names = [], []
    with procmon.Monitor(gate, own=own, deadline=0.2, on_deadline=BLOCK) as monitor:

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> None:
            names.append(process.name)
            if process.name == "a.exe":
                child = gate.start("child.exe", creator_pid=os.getpid(), creator_tid=threading.get_native_id())
                verdicts.append(gate.verdict_of(child, timeout=0.1 if own is None else 5))

        process = gate.start("a.exe")
        assert gate.verdict_of(process) is ALLOW
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert verdicts == [own]
    assert len(names) == asked
    until(lambda: "a callback of this program has started child.exe" in caplog.text, "a line in the log")


@pytest.mark.parametrize(
    "creator, is_own",
    [
        ({"creator_pid": os.getpid()}, True),  # the gate does not know the thread: a release is better than a deadlock
        ({"parent_pid": os.getpid(), "creator_pid": 8}, True),
        ({"parent_pid": os.getpid(), "creator_pid": 8, "creator_tid": 12}, False),
        ({"creator_pid": 8}, False),
    ],
)
def test_where_the_creating_thread_is_unknown_a_child_of_this_program_counts_as_the_callbacks(
    gate: procmon.SimulatedGate, creator: dict[str, int], is_own: bool
) -> None:
    with procmon.Monitor(gate) as monitor:

        @monitor.subscribe(match="a.exe")
        def decide(process: procmon.ProcessHelper) -> None:
            child = gate.start("child.exe", **creator)  # type: ignore[arg-type]
            until(lambda: child in monitor.pending or monitor.history, "the child, fetched")
            if is_own:
                assert gate.verdict_of(child, timeout=PATIENCE) is ALLOW

        gate.start("a.exe")
        until(lambda: len(monitor.history) == 2, "both decisions")
    assert (DecidedBy.EXEMPT in [one.by for one in monitor.history]) == is_own
    assert monitor.statistics.callback_errors == 0


def test_what_other_threads_start_is_asked_about(gate: procmon.SimulatedGate) -> None:
    inside = threading.Event()
    with procmon.Monitor(gate, own=ALLOW) as monitor:

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            if process.name == "a.exe":
                # The thread of another program had this id, and has ended: ids come again.
                gate.start("reused.exe", creator_pid=8, creator_tid=threading.get_native_id())
                inside.set()
                until(lambda: len(monitor.pending) == 3, "the others, fetched")
                time.sleep(0.01)
            return BLOCK

        gate.start("a.exe")
        assert inside.wait(PATIENCE)
        other = gate.start("other.exe", creator_pid=os.getpid(), creator_tid=threading.get_native_id())
        assert gate.verdict_of(other, timeout=PATIENCE) is BLOCK
    assert monitor.statistics.blocked == 3


def test_what_this_program_starts_outside_callbacks_is_asked_about_and_the_rest_warned_of_once(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture
) -> None:
    with procmon.Monitor(gate, default=BLOCK) as monitor:
        assert gate.verdict_of(gate.start("outside.exe", creator_pid=os.getpid())) is BLOCK

        @monitor.subscribe(match="a.exe")
        def decide(process: procmon.ProcessHelper) -> None:
            children = [gate.start("inside.exe", creator_pid=os.getpid()) for _ in range(2)]
            assert [gate.verdict_of(child) for child in children] == [ALLOW, ALLOW]

        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    until(lambda: "a callback of this program has started" in caplog.text, "a line in the log")
    assert caplog.text.count("a callback of this program has started") == 1


def test_several_monitors_on_different_gates_do_not_know_of_each_other() -> None:
    first, second = procmon.SimulatedGate("first"), procmon.SimulatedGate("second")
    with procmon.Monitor(first) as one, procmon.Monitor(second, default=BLOCK) as two:
        assert first.verdict_of(first.start("a.exe")) is ALLOW
        assert second.verdict_of(second.start("a.exe")) is BLOCK
    assert (one.statistics.allowed, two.statistics.blocked) == (1, 1)


def test_logging_is_silent_until_it_is_asked_for() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("procmon").handlers)


def test_a_record_that_comes_again_is_asked_about_once(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[procmon.ProcessHelper] = []
    fetch = gate.fetch
    monkeypatch.setattr(gate, "fetch", lambda: [copy for record in fetch() for copy in (record, replace(record))])
    with procmon.Monitor(gate, default=DEFER) as monitor:
        monitor.subscribe(asked.append)
        gate.start("a.exe")
        until(lambda: monitor.statistics.fetched == 2, "both records")
    assert len(asked) <= 1
    assert monitor.statistics.held == 1


def test_what_a_gate_learns_of_a_held_process_is_in_pending_and_in_the_decision(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = gate.fetch
    foreign = procmon.ProcessFlags.FOREIGN_THREAD
    monkeypatch.setattr(
        gate, "fetch", lambda: [one for record in fetch() for one in (record, replace(record, flags=foreign))]
    )
    with procmon.Monitor(gate, default=DEFER) as monitor:
        started = gate.start("a.exe")
        until(lambda: monitor.statistics.fetched == 2, "both records")
        assert [process.flags for process in monitor.pending] == [foreign]
        assert monitor.block(started).process.flags == foreign
    assert monitor.history[0].process.flags == foreign


def test_a_callback_asks_for_the_parent_and_its_parents(gate: procmon.SimulatedGate) -> None:
    lines: list[list[str]] = []
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: lines.append([one.name for one in monitor.ancestors(process)]))
        gate.play(
            [("start", "shell.exe"), ("start", "make.exe", "shell.exe"), ("start", "cc.exe", "make.exe"), ("end",)]
        )
        monitor.wait(PATIENCE)
        compiler = monitor.history[-1].process
        assert monitor.parent(compiler) == monitor.history[-2].process
    assert lines == [[], ["shell.exe"], ["make.exe", "shell.exe"]]


def test_the_parent_is_not_a_later_process_with_its_pid(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        first = gate.start("first.exe")
        child = gate.start("child.exe", parent_pid=first.pid)
        assert gate.verdict_of(child)
        gate.exit(first)
        second = gate.start("second.exe", pid=first.pid)
        assert gate.verdict_of(second)
        assert monitor.parent(child) is None
