"""Monitor: callbacks that raise, return nonsense, or outlast the deadline."""

import threading
import time
from typing import Any

import pytest

import procmon
from monitoring import decided, until, waits_for
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize("on_error", [ALLOW, BLOCK])
@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_is_logged_counted_and_answered_by_on_error(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, on_error: procmon.Verdict, error: BaseException
) -> None:
    def decide(process: procmon.ProcessHelper) -> None:
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
def test_a_callback_that_returns_nonsense_is_an_error_that_says_what_to_return(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, nonsense: Any
) -> None:
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(lambda process: nonsense)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert "return ALLOW, BLOCK, DEFER" in caplog.text
    assert monitor.history[0].by is DecidedBy.ERROR


@pytest.mark.parametrize(
    "field, value",
    [
        ("verdict", "block"),
        ("verdict", None),
        ("by", "rule"),
        ("who", None),
        ("audited", 1),
        ("note", "no games"),
        ("policy", None),
        ("facts", []),
    ],
)
def test_a_decision_that_is_not_whole_is_an_error(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, field: str, value: object
) -> None:
    def decide(process: procmon.ProcessHelper) -> procmon.Decision:
        whole: dict[str, Any] = {"process": process, "verdict": ALLOW, "by": DecidedBy.RULE}
        return procmon.Decision(**whole | {field: value})

    with procmon.Monitor(gate, default=BLOCK, fail=BLOCK) as monitor:
        monitor.subscribe(decide)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    assert monitor.statistics.callback_errors == 1
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.ERROR, "decide")]
    assert f"a Decision whose {field} is {value!r}" in caplog.text
    assert repr(monitor.history[0]) == "<Decision block 1000 'a.exe' by error decide>"


def test_a_match_that_raises_is_an_error_too(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(lambda process: ALLOW, match=lambda process: bool(1 / 0))
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK


def test_a_callback_that_hangs_is_answered_by_on_deadline_and_delays_no_other_process(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=0.05, on_deadline=BLOCK) as monitor:

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            if process.name.startswith("hang"):
                release.wait(PATIENCE)
            return ALLOW

        hung, also, fine = (gate.start(image) for image in ("hang1.exe", "hang2.exe", "fine.exe"))
        assert [gate.verdict_of(one, timeout=PATIENCE) for one in (hung, also, fine)] == [BLOCK, BLOCK, ALLOW]
        assert decided(monitor)[0] == ("hang1.exe", BLOCK, DecidedBy.DEADLINE, "decide")
        until(lambda: "decide has not returned" in caplog.text, "a line in the log")
        release.set()
        assert gate.verdict_of(gate.start("after.exe")) is ALLOW
    assert monitor.statistics.deadlines == 2
    assert monitor.statistics.stale == 0


def test_an_exit_callback_that_hangs_or_raises_delays_no_process(gate: procmon.SimulatedGate) -> None:
    release, exits = threading.Event(), []

    def on_exit(process: procmon.ProcessHelper) -> None:
        if process.name == "hang.exe":
            release.wait(PATIENCE)
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


@pytest.mark.parametrize("deadline", [2 * PATIENCE, None])
def test_the_deadline_comes_before_the_gates_own(gate: procmon.SimulatedGate, deadline: float | None) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=deadline, on_deadline=BLOCK) as monitor:
        monitor.subscribe(waits_for(release))
        assert gate.verdict_of(gate.start("a.exe", hold_left=0.05), timeout=PATIENCE) is BLOCK
        release.set()


def test_each_callback_has_its_own_deadline(gate: procmon.SimulatedGate) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=2 * PATIENCE, on_deadline=BLOCK, workers=3) as monitor:
        monitor.subscribe(waits_for(release))
        in_time, early, later = (gate.start("a.exe", hold_left=left) for left in (None, 0.05, 0.3))
        assert [gate.verdict_of(one, timeout=PATIENCE) for one in (early, later)] == [BLOCK, BLOCK]
        release.set()
        assert gate.verdict_of(in_time, timeout=PATIENCE) is ALLOW
    assert monitor.statistics.deadlines == 2


def test_a_thread_that_was_given_up_asks_no_further_callback_and_its_opinion_does_not_count(
    gate: procmon.SimulatedGate,
) -> None:
    names, late, release = [], threading.Event(), threading.Event()

    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        names.append(process.name)
        (late if process.name == "late.exe" else release).wait(PATIENCE)
        return BLOCK

    with procmon.Monitor(gate, deadline=2 * PATIENCE, on_deadline=DEFER) as monitor:
        monitor.subscribe(decide)
        held = gate.start("late.exe", hold_left=0.05)
        until(lambda: monitor.statistics.deferred, "it, held")
        others = [gate.start("b.exe"), gate.start("c.exe")]
        until(lambda: names == ["late.exe", "b.exe"], "the next")
        late.set()
        time.sleep(0.1)
        assert names == ["late.exe", "b.exe"]  # one worker: the other thread asks about c.exe
        release.set()
        assert [gate.verdict_of(process, timeout=PATIENCE) for process in others] == [BLOCK, BLOCK]
        assert monitor.pending == [held]


def test_a_deferred_process_has_no_deadline_while_its_thread_sends_other_verdicts(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    hanging = threading.Event()
    with procmon.Monitor(gate, deadline=2 * PATIENCE, on_deadline=ALLOW) as monitor:
        holds, flush = monitor._engine.holds, monitor._engine.holds.flush_unless_more

        def hangs(more: bool) -> None:
            monkeypatch.setattr(holds, "flush_unless_more", flush)
            hanging.set()
            release.wait(PATIENCE)
            flush(more)

        monkeypatch.setattr(holds, "flush_unless_more", hangs)
        monitor.subscribe(lambda process: DEFER if process.name == "defer.exe" else BLOCK)
        deferred = gate.start("defer.exe")
        assert hanging.wait(PATIENCE)
        workers = monitor._engine.workers
        with workers._lock:
            [case] = [asker.case for asker in workers._askers if asker.case is not None]
            case.due = workers._deadlines._next_due = 0.0
        assert gate.verdict_of(gate.start("b.exe"), timeout=PATIENCE) is BLOCK, (
            "another thread has the place of the one that hangs"
        )
        assert monitor.pending == [deferred]
        counts = monitor.statistics
        assert (counts.deferred, counts.deadlines, counts.allowed) == (1, 0, 0)
        release.set()


def test_waiting_for_a_worker_counts_towards_the_gates_own_limit(gate: procmon.SimulatedGate) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=60, on_deadline=BLOCK) as monitor:

        @monitor.subscribe
        def hang(process: procmon.ProcessHelper) -> None:
            if process.name == "a.exe":
                time.sleep(0.6)
            else:
                release.wait(PATIENCE)

        gate.start("a.exe")
        assert gate.verdict_of(gate.start("b.exe", hold_left=0.9), timeout=PATIENCE) is BLOCK
        assert 0.7 < monitor.history[-1].held_for < 1.2
        release.set()
