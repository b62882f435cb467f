"""Monitor: its sinks. No sink delays a verdict or another sink, and a stop leaves no decision unwritten."""

import gc
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import partial

import pytest

import procmon
from ctrl_c import shorten
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, DecidedBy
from procmon.monitor import engine, sinks


class Recorder:
    """A sink that keeps what it gets, once `go_on` is set."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.written: list[procmon.Decision] = []
        self.go_on = threading.Event()
        if not hangs:
            self.go_on.set()

    def write(self, decision: procmon.Decision) -> None:
        self.go_on.wait(PATIENCE)
        self.written.append(decision)


@pytest.mark.promise(
    "A sink that hangs delays no verdict and no other sink",
    gate="Monitor",
)
def test_a_sink_that_hangs_keeps_no_other_sink_from_its_decisions(gate: procmon.SimulatedGate) -> None:
    hanging, other = Recorder(hangs=True), Recorder()
    with procmon.Monitor(gate, audit=[hanging, other]) as monitor:
        processes = [gate.start("a.exe") for _ in range(5)]
        until(lambda: len(other.written) == 5, "the decisions, in the other sink")
        assert hanging.written == []
        hanging.go_on.set()
    assert hanging.written == other.written == monitor.history
    assert [one.process for one in other.written] == processes


def test_what_a_sink_has_no_room_for_is_dropped_counted_and_logged_and_delays_nothing(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "QUEUE_LIMIT", 3)
    hanging = Recorder(hangs=True)
    with procmon.Monitor(gate, deadline=0.05, audit=hanging) as monitor:  # the leader checks the sinks often
        processes = [gate.start("a.exe") for _ in range(3)]
        time.sleep(0.05)
        assert caplog.text == ""
        processes += [gate.start("a.exe") for _ in range(7)]
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
        until(lambda: monitor.statistics.audit_dropped == 7, "the count")
        assert repr(monitor).endswith("7 audit dropped>")
        until(lambda: "too slow: decisions are dropped" in caplog.text, "a line in the log")
        time.sleep(0.05)
        assert caplog.text.count("too slow: decisions are dropped") == 1
        hanging.go_on.set()
    assert hanging.written == monitor.history[:3]
    assert monitor.statistics.audit_errors == 0


@pytest.mark.promise(
    "When `stop` returns, every decision is written to every sink that does not hang",
    gate="Monitor",
)
def test_when_stop_returns_all_is_written_also_what_was_noted_just_before(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has recorded a decision, but not queued it for writing, when the stop checks that all is written."""
    sink, noted, go_on = Recorder(), threading.Event(), threading.Event()
    monitor = procmon.Monitor(gate, audit=sink)
    start = monitor._engine.sinks.start

    def slowly() -> None:
        if "worker" in threading.current_thread().name and monitor.history:
            noted.set()
            go_on.wait(PATIENCE)
        start()

    monkeypatch.setattr(monitor._engine.sinks, "start", slowly)
    monitor.start()
    gate.start("a.exe")
    assert noted.wait(PATIENCE)
    monitor.stop()
    assert sink.written == monitor.history != []
    go_on.set()


@pytest.mark.promise(
    "A process that a stop cannot answer because the gate fails is in history, statistics and sinks alike",
    gate="Monitor",
)
@pytest.mark.parametrize("fails", ["raises", "hangs"])
def test_what_a_stop_abandons_is_in_history_statistics_and_sinks(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """The gate fails when it answers, and a callback hangs."""
    shorten(monkeypatch)
    sink, go_on = Recorder(), threading.Event()

    class Failing(procmon.SimulatedGate):
        def block(self, *processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
            if fails == "raises":
                raise OSError(6, "the handle is invalid")
            go_on.wait(PATIENCE)
            return super().block(*processes)

    gate = Failing()
    monitor = procmon.Monitor(gate, default=BLOCK, deadline=None, audit=sink, workers=2)

    @monitor.subscribe
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        if process.name == "hang.exe":
            go_on.wait(PATIENCE)
        return DEFER

    monitor.start()
    processes = [gate.start(image) for image in ("hang.exe", "a.exe", "b.exe")]
    until(lambda: len(monitor.pending) == 3 and monitor.statistics.deferred == 2, "all, held")
    monitor.stop()
    assert [one.process for one in monitor.history] == processes
    assert sink.written == monitor.history
    statistics = monitor.statistics
    assert (statistics.held, statistics.stale, statistics.pending, monitor.pending) == (3, 3, 0, [])
    go_on.set()
    until(lambda: not monitor._engine.holds._sending, "the call of the gate, returned")
    assert len(monitor.history) == len(sink.written) == 3, "each is noted once"


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_rule_that_is_not_to_be_logged_reaches_no_sink(gate: procmon.SimulatedGate, write_ahead: bool) -> None:
    sink = Recorder()
    sink.write_ahead = write_ahead  # type: ignore[attr-defined]
    policy = procmon.Policy.parse('[[rule]]\nimage = "a.exe"\nverdict = "allow"\nlog = false')
    with procmon.Monitor(gate, audit=sink) as monitor:
        monitor.subscribe(policy)
        for image in ("a.exe", "b.exe"):
            gate.verdict_of(gate.start(image))
    assert [one.process.name for one in monitor.history] == ["a.exe", "b.exe"]
    assert [one.process.name for one in sink.written] == ["b.exe"]


def test_what_a_callback_says_in_its_decision_reaches_history_and_sinks(gate: procmon.SimulatedGate) -> None:
    sink = Recorder()
    policy = procmon.Policy.parse('[[rule]]\nname = "no a"\nimage = "a.exe"\nverdict = "block"\nmessage = "Use b."')
    with procmon.Monitor(gate, audit=sink) as monitor:
        monitor.subscribe(policy)
        gate.verdict_of(gate.start("a.exe"))
    [decision] = monitor.history
    assert decision.note is not None and decision.note.message == "Use b."
    assert decision.policy == policy.version
    assert sink.written == [decision]


@pytest.mark.parametrize("count", [1, 100])
def test_the_verdicts_of_one_fetch_go_out_in_few_calls(gate: procmon.SimulatedGate, count: int) -> None:
    calls: list[int] = []
    allow: Callable[..., list[procmon.VerdictResult]] = gate.allow

    def counted(*processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        calls.append(len(processes))
        return allow(*processes)

    gate.allow = counted  # type: ignore[method-assign]
    processes = [gate.start("a.exe") for _ in range(count)]
    monitor = procmon.Monitor(gate)
    monitor.subscribe(lambda process: ALLOW)
    with monitor:
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
    assert sum(calls) == count
    assert len(calls) == 1 or len(calls) < count / 2


def test_a_verdict_does_not_wait_for_a_slow_callback_of_the_same_fetch(gate: procmon.SimulatedGate) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        if process.name == "slow.exe":
            asked.set()
            go_on.wait(PATIENCE)
        return ALLOW

    fast, slow, last = (gate.start(image) for image in ("fast.exe", "slow.exe", "last.exe"))
    monitor = procmon.Monitor(gate, deadline=None)
    monitor.subscribe(decide)
    with monitor:
        assert asked.wait(PATIENCE)
        assert gate.verdict_of(fast, timeout=PATIENCE) is ALLOW, "the leader sends it"
        assert gate.verdict_of(slow, timeout=0) is None
        go_on.set()
        assert gate.verdict_of(last, timeout=PATIENCE) is ALLOW


@pytest.mark.parametrize("write_ahead", [False, True])
@pytest.mark.parametrize("takes", [1, 3, 100])
def test_a_sink_that_takes_several_gets_each_decision_once_and_in_order(
    gate: procmon.SimulatedGate, takes: int, write_ahead: bool
) -> None:
    class Several(Recorder):
        def write_some(self, decisions: list[procmon.Decision]) -> int:
            if len(self.written) % 2:
                raise OSError(28, "no space left")
            self.written += decisions[:takes]
            return len(decisions[:takes])

    sink = Several()
    sink.write_ahead = write_ahead  # type: ignore[attr-defined]
    processes = [gate.start("a.exe") for _ in range(20)]
    with procmon.Monitor(gate, audit=sink):
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
    assert [one.process for one in sink.written] == processes


def test_a_sink_that_takes_several_gets_all_that_wait_at_once(gate: procmon.SimulatedGate) -> None:
    calls: list[int] = []

    class Several(Recorder):
        def write_some(self, decisions: list[procmon.Decision]) -> int:
            calls.append(len(decisions))
            return len(decisions)

    sink = Several(hangs=True)
    with procmon.Monitor(gate, audit=sink) as monitor:
        gate.start("a.exe")
        until(lambda: len(monitor.history) == 1, "the first decision")
        for _ in range(5):
            gate.start("b.exe")
        until(lambda: len(monitor.history) == 6, "the others")
        sink.go_on.set()
    assert calls == [5]


@pytest.mark.parametrize("write_ahead", [False, True])
@pytest.mark.parametrize("answer", [None, 0, -1, 1000, "all"])
def test_a_sink_that_does_not_say_how_many_it_wrote_gets_each_decision_by_itself_from_then_on(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, answer: object, write_ahead: bool
) -> None:
    calls: list[int] = []

    class Vague(Recorder):
        def write_some(self, decisions: list[procmon.Decision]) -> object:
            calls.append(len(decisions))
            return answer

    sink = Vague()
    sink.write_ahead = write_ahead  # type: ignore[attr-defined]
    processes = [gate.start("a.exe") for _ in range(20)]
    with procmon.Monitor(gate, audit=sink):
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
    assert [one.process for one in sink.written] == processes
    assert len(calls) <= 1
    assert caplog.text.count(f"write_some returned {answer!r}, not how many of") == len(calls)


@pytest.mark.parametrize("write_ahead", [False, True])
def test_whatever_a_sink_that_takes_several_raises_each_decision_is_written_by_itself(
    gate: procmon.SimulatedGate, write_ahead: bool
) -> None:
    class Exiting(Recorder):
        def write_some(self, decisions: list[procmon.Decision]) -> int:
            raise SystemExit

    sink = Exiting()
    sink.write_ahead = write_ahead  # type: ignore[attr-defined]
    processes = [gate.start("a.exe") for _ in range(20)]
    with procmon.Monitor(gate, audit=sink):
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
    assert [one.process for one in sink.written] == processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(procmon.Decision):
    """A decision that `dataclasses.replace` cannot copy: it does not know the value."""

    made: InitVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusing(procmon.Decision):
    """A decision whose copies raise."""

    def __post_init__(self) -> None:
        if self.held_for:
            raise KeyError(self.who)


@pytest.mark.parametrize("kind", [partial(Derived, made="by hand"), Refusing])
def test_a_decision_that_cannot_be_copied_reaches_history_and_sinks_without_its_own_fields(
    gate: procmon.SimulatedGate, kind: Callable[..., procmon.Decision]
) -> None:
    sink = Recorder()

    def decide(process: procmon.ProcessHelper) -> procmon.Decision:
        by = procmon.DecidedBy.CALLBACK
        return kind(process=process, verdict=BLOCK, by=by, who="hand", policy="1234", facts={"size": 3})

    with procmon.Monitor(gate, audit=sink) as monitor:
        monitor.subscribe(decide)
        assert [gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) for _ in range(2)] == [BLOCK, BLOCK]
    kept = [(one.verdict, one.who, one.policy, one.facts) for one in sink.written]
    assert kept == 2 * [(BLOCK, "hand", "1234", {"size": 3})]
    assert {type(one) for one in sink.written} == {procmon.Decision}
    assert sink.written == monitor.history


def test_sinks_get_each_decision_after_its_verdict_and_their_errors_are_counted(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture
) -> None:
    written = []

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            written.append((decision, gate.verdict_of(decision.process, timeout=0)))

    class Full:
        def write(self, decision: procmon.Decision) -> None:
            raise OSError(28, "no space left")

    with procmon.Monitor(gate, audit=[Full(), Sink()]) as monitor:
        process = gate.start("a.exe")
        until(lambda: written, "the decision, written")
    [(decision, verdict)] = written
    assert (decision.process, verdict) == (process, ALLOW)
    assert monitor.statistics.audit_errors == 1
    assert "no space left" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_sink_that_raises_what_ends_a_thread_does_not_end_the_monitor(
    gate: procmon.SimulatedGate, error: BaseException
) -> None:
    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            raise error

    with procmon.Monitor(gate, audit=Sink()) as monitor:
        assert [gate.verdict_of(gate.start(image)) for image in ("a.exe", "b.exe")] == [ALLOW, ALLOW]
    assert monitor.statistics.audit_errors == 2


@pytest.mark.parametrize("deadline", [0.05, None])
def test_a_sink_that_hangs_holds_nothing_up(gate: procmon.SimulatedGate, deadline: float | None) -> None:
    release, written = threading.Event(), []

    class Slow:
        def write(self, decision: procmon.Decision) -> None:
            written.append(decision.process.name)
            release.wait(PATIENCE)

    with procmon.Monitor(gate, deadline=deadline, audit=Slow()) as monitor:
        gate.start("exempt.exe", flags=procmon.ProcessFlags.EXEMPT)
        processes = [gate.start(f"{number}.exe") for number in range(5)]
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {ALLOW}
        until(lambda: len(monitor.history) == 6, "all decisions")
        release.set()
    assert written == [decision.process.name for decision in monitor.history]


def test_a_sink_that_hangs_is_reported(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "SLOW_S", 0.05)
    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 0.05)
    release = threading.Event()

    class Slow:
        def write(self, decision: procmon.Decision) -> None:
            release.wait(PATIENCE)

    with procmon.Monitor(gate, deadline=0.05, audit=Slow()):
        gate.start("a.exe"), gate.start("b.exe")
        until(lambda: "Slow object" in caplog.text and "has not returned for 0 s: 2 decisions" in caplog.text, "a line")
    until(lambda: "a sink hangs: 2 decisions are not written" in caplog.text, "the line of the stop")
    assert caplog.text.count("has not returned") == 1
    release.set()


def test_what_the_gate_decides_is_written_at_once(gate: procmon.SimulatedGate) -> None:
    written = []

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            written.append(decision.by)

    with procmon.Monitor(gate, audit=Sink()):
        gate.start("exempt.exe", flags=procmon.ProcessFlags.EXEMPT)
        until(lambda: written == [DecidedBy.EXEMPT], "its decision, written")


def test_stop_waits_for_the_sink_that_another_thread_is_writing_to(gate: procmon.SimulatedGate) -> None:
    writing, release, written = threading.Event(), threading.Event(), []

    class Slow:
        def write(self, decision: procmon.Decision) -> None:
            writing.set()
            release.wait(PATIENCE)
            written.append(decision.process)

    with procmon.Monitor(gate, audit=Slow()):
        process = gate.start("a.exe")
        assert writing.wait(PATIENCE)
        threading.Timer(0.05, release.set).start()
    assert written == [process]


def test_what_was_decided_is_written_when_stop_returns(gate: procmon.SimulatedGate) -> None:
    written = []

    class Slow:
        def write(self, decision: procmon.Decision) -> None:
            time.sleep(0.005)
            written.append(decision.process)

    with procmon.Monitor(gate, audit=Slow(), workers=3) as monitor:
        for _ in range(20):
            gate.start("a.exe")
    assert written == [decision.process for decision in monitor.history]
    assert len(written) == 20


class Coroutine:
    async def write(self, decision: procmon.Decision) -> None: ...


class Awaitables:
    """Each method returns a coroutine, and is no coroutine function."""

    def __init__(self, write_ahead: bool) -> None:
        self.write_ahead = write_ahead

    def write(self, decision: procmon.Decision) -> object:
        return Coroutine().write(decision)

    def write_some(self, decisions: list[procmon.Decision]) -> object:
        return Coroutine().write(decisions[0])


@pytest.mark.parametrize("many", [False, True])
def test_a_sink_that_is_a_coroutine_function_is_refused(many: bool) -> None:
    with pytest.raises(TypeError, match="write of a sink is not awaited"):
        procmon.Monitor(procmon.SimulatedGate(), audit=[Recorder(), Coroutine()] if many else Coroutine())


@pytest.mark.parametrize("write_ahead", [False, True])
def test_an_awaitable_that_a_sink_returns_is_an_error_and_no_warning(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, write_ahead: bool
) -> None:
    with warnings.catch_warnings(action="error"), procmon.Monitor(gate, audit=Awaitables(write_ahead)) as monitor:
        processes = [gate.start("a.exe") for _ in range(3)]
        assert {gate.verdict_of(process) for process in processes} == {ALLOW}
        monitor.stop()
        gc.collect()
    assert monitor.statistics.audit_errors == 3
    assert "write of a sink is not awaited" in caplog.text
