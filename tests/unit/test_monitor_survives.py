"""Monitor: faults that could end or block one of its threads, or prevent a new one, and must not."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import pytest

import procmon
from monitoring import until, waits_for
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.monitor import engine
from procmon.monitor.cases import Case
from procmon.records import DecidedBy, VerdictResult
from procmon.util import threads

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_coroutine_that_raises_what_ends_a_thread_does_not_end_the_loop(
    gate: procmon.SimulatedGate, error: BaseException
) -> None:
    async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        await asyncio.sleep(0)
        if process.name == "a.exe":
            raise error
        return ALLOW

    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(decide)
        assert [gate.verdict_of(gate.start(image)) for image in ("a.exe", "b.exe")] == [BLOCK, ALLOW]


def test_a_coroutine_for_which_no_loop_can_be_made_is_an_error(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise OSError(24, "too many open files")

    async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        return ALLOW

    monkeypatch.setattr(asyncio.Runner, "__enter__", refuse)
    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(decide)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK


def test_a_loop_of_the_users_that_is_closed_under_the_callbacks_leaves_nothing_held(
    gate: procmon.SimulatedGate,
) -> None:
    async def decide(process: procmon.ProcessHelper) -> None:
        await asyncio.sleep(60)

    async def enter() -> None:
        await monitor.__aenter__()

    monitor = procmon.Monitor(gate, deadline=0.3, on_deadline=BLOCK, on_error=BLOCK)
    monitor.subscribe(decide)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    before = gate.start("a.exe")
    while not monitor._engine.callback_threads:
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    after = gate.start("b.exe")
    assert [gate.verdict_of(process, timeout=PATIENCE) for process in (before, after)] == [BLOCK, BLOCK]
    assert {one.by for one in monitor.history} == {DecidedBy.DEADLINE, DecidedBy.ERROR}
    monitor.stop()


def test_what_has_no_words_for_itself_is_an_error_like_any_other(gate: procmon.SimulatedGate) -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

        __repr__ = __str__

    def decide(process: procmon.ProcessHelper) -> Any:
        if process.name == "raise.exe":
            raise Wordless
        return Wordless()

    with procmon.Monitor(gate, on_error=BLOCK) as monitor:
        monitor.subscribe(decide)
        assert [gate.verdict_of(gate.start(image)) for image in ("raise.exe", "return.exe")] == [BLOCK, BLOCK]
    assert [decision.reason for decision in monitor.history] == ["Wordless", "ValueError: no words"]


def test_a_monitor_that_gets_no_threads_does_not_start_and_releases_what_is_held(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        if "worker" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threads.OwnThread.start
    monkeypatch.setattr(threads.OwnThread, "start", refuse)
    process = gate.start("a.exe")
    monitor = procmon.Monitor(gate, default=DEFER)
    with pytest.raises(RuntimeError, match="new thread"):
        monitor.start()
    assert monitor.wait(0)
    assert gate.verdict_of(process, timeout=0) is ALLOW


def test_a_gate_that_does_not_say_what_it_did_with_each_verdict_stops_the_monitor(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "allow", lambda *_: [])
    with procmon.Monitor(gate) as monitor:
        process = gate.start("a.exe")
        assert monitor.wait(PATIENCE)
    assert isinstance(monitor.error, ValueError)
    assert [(one.process, one.result) for one in monitor.history] == [(process, None)]


def test_a_verdict_that_is_being_sent_stands_and_a_stop_waits_for_it_and_no_longer(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 2 * PATIENCE)
    sends, go_on, allow = threading.Event(), threading.Event(), gate.allow

    def hang(*processes: procmon.ProcessHelper) -> list[VerdictResult]:
        sends.set()
        go_on.wait(PATIENCE)
        return allow(*processes)

    monkeypatch.setattr(gate, "allow", hang)
    with procmon.Monitor(gate) as monitor:
        process = gate.start("a.exe")
        assert sends.wait(PATIENCE)
        with pytest.raises(procmon.AlreadyAnswered, match="has had its verdict: allow by default"):
            monitor.block(process)
        monitor._engine.begin_stop()
        assert not monitor.wait(0.1)
        go_on.set()
        assert monitor.wait(PATIENCE)
    assert [(one.process, one.result) for one in monitor.history] == [(process, VerdictResult.DONE)]


def test_an_answer_of_a_gate_that_returns_after_the_stop_gave_it_up_is_no_second_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 0.3)
    go_on, returned = threading.Event(), threading.Event()

    class Hanging(procmon.SimulatedGate):
        def _notify(
            self, processes: Sequence[procmon.ProcessHelper], verdict: procmon.Verdict, results: list[VerdictResult]
        ) -> list[VerdictResult]:
            go_on.wait(PATIENCE)
            super()._notify(processes, verdict, results)
            returned.set()
            return results

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            go_on.set()
            returned.wait(PATIENCE)

    gate = Hanging()
    with procmon.Monitor(gate, audit=Sink()) as monitor:
        process = gate.start("a.exe")
        assert gate.verdict_of(process) is ALLOW
    assert returned.wait(PATIENCE)
    assert [(one.process, one.result) for one in monitor.history] == [(process, None)]


def test_a_worker_that_cannot_be_replaced_stops_the_monitor_which_releases_what_is_held(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the main thread has ended and others go on: Python then starts no thread."""
    release = threading.Event()
    monitor = procmon.Monitor(gate, deadline=0.05, on_deadline=BLOCK)
    monitor.subscribe(waits_for(release))
    monitor.start()
    on_failure = monitor._engine.workers._on_failure

    def stop_at_once(error: BaseException, doing: str) -> None:
        on_failure(error, doing)
        monitor.wait(PATIENCE)

    monkeypatch.setattr(monitor._engine.workers, "_on_failure", stop_at_once)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.OwnThread, "start", refuse)
    late, waiting = gate.start("a.exe"), gate.start("b.exe")
    assert [gate.verdict_of(process, timeout=PATIENCE) for process in (late, waiting)] == [BLOCK, ALLOW]
    assert monitor.wait(PATIENCE)
    assert isinstance(monitor.error, RuntimeError)
    release.set()


def test_a_leader_that_is_lost_stops_the_monitor_which_releases_what_is_held(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other thread would wait at the gate."""
    with procmon.Monitor(gate) as monitor:
        play = monitor._engine.workers.play

        def no_memory(role: Any) -> None:
            monkeypatch.setattr(monitor._engine.workers, "play", play)
            raise MemoryError

        monkeypatch.setattr(monitor._engine.workers, "play", no_memory)
        processes = [gate.start("a.exe"), gate.start("b.exe")]
        assert monitor.wait(PATIENCE)
        assert isinstance(monitor.error, MemoryError)
        assert [gate.verdict_of(process, timeout=0) for process in processes] == [ALLOW, ALLOW]


def test_memory_that_runs_out_in_a_stop_does_not_keep_the_gate_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*arguments: object) -> None:
        raise MemoryError

    gate = procmon.SimulatedGate(fail=BLOCK)
    with procmon.Monitor(gate, default=DEFER, fail=BLOCK) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        monkeypatch.setattr(engine, "submit", no_memory)
    assert gate.closed and gate.verdict_of(process, timeout=0) is BLOCK
    assert isinstance(monitor.error, MemoryError)


def test_memory_that_runs_out_before_a_sink_writes_ahead_costs_no_process_its_verdict(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead:
        write_ahead = True

        def write(self, decision: procmon.Decision) -> None: ...

    def no_memory(case: Case, result: procmon.VerdictResult | None) -> procmon.Decision:
        raise MemoryError

    with procmon.Monitor(gate, audit=Ahead()) as monitor:
        monitor.subscribe(lambda process: BLOCK)
        with monkeypatch.context() as patch:
            patch.setattr(Case, "make_decision", no_memory)
            process = gate.start("a.exe")
            assert gate.verdict_of(process) is BLOCK
        assert monitor.wait(PATIENCE)
    assert isinstance(monitor.error, MemoryError)


def test_memory_that_runs_out_before_a_sink_has_a_decision_costs_that_decision_alone(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[str] = []

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            written.append(decision.process.name)

    make = Case.make_decision

    def no_memory(case: Case, result: procmon.VerdictResult | None) -> procmon.Decision:
        if case.process.name == "b.exe":
            raise MemoryError
        return make(case, result)

    monkeypatch.setattr(Case, "make_decision", no_memory)
    processes = [gate.start(image) for image in ("a.exe", "b.exe", "c.exe")]
    with procmon.Monitor(gate, audit=Sink()) as monitor:
        assert [gate.verdict_of(process, timeout=PATIENCE) for process in processes] == 3 * [ALLOW]
        until(lambda: written == ["a.exe", "c.exe"], "the other decisions")
    assert monitor.statistics.audit_errors == 1
    assert "could not write the decision about <ProcessHelper 1004 'b.exe'" in caplog.text


def test_where_no_thread_can_be_started_any_more_everything_is_done_all_the_same(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of a program: the work is then done in the calling thread."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written = []

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            written.append(decision.process)

    monitor = procmon.Monitor(gate, default=DEFER, audit=Sink())
    monitor.start()
    processes = [gate.start("a.exe"), gate.start("b.exe")]
    until(lambda: len(monitor.pending) == 2, "both, held")
    monkeypatch.setattr(threads.OwnThread, "start", refuse)
    monkeypatch.setattr(threads, "_idle", type(threads._idle)())
    monitor.block(processes[0])
    assert monitor.statistics.blocked == 1
    monitor.stop()
    assert [gate.verdict_of(process) for process in processes] == [BLOCK, ALLOW]
    assert written == processes


@pytest.mark.parametrize("where", ["fetch", "allow"])
def test_a_gate_that_raises_what_ends_a_thread_stops_the_monitor_and_releases_what_is_held(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def leave(*processes: procmon.ProcessHelper) -> None:
        raise SystemExit(3)

    with procmon.Monitor(gate) as monitor:
        monkeypatch.setattr(gate, where, leave)
        process = gate.start("a.exe")
        assert monitor.wait(PATIENCE)
        assert "SystemExit(3)" in str(monitor.error)
        assert gate.verdict_of(process, timeout=0) is ALLOW


@pytest.mark.parametrize("meets", ["before", "on the way", "awaiting"])
def test_a_coroutine_that_a_stop_meets_is_closed(gate: procmon.SimulatedGate, meets: str) -> None:
    """Python would warn about a coroutine that was never awaited."""
    release, asked = threading.Event(), threading.Event()

    async def opinion(process: procmon.ProcessHelper) -> None:
        if meets == "on the way":  # later work cannot begin
            asked.set()
            release.wait(PATIENCE)
        await asyncio.sleep(60)

    def decide(process: procmon.ProcessHelper) -> object:
        if meets == "before":
            monitor.stop()
            until(lambda: monitor._engine.workers.is_over, "the stop")
        return opinion(process)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with procmon.Monitor(gate) as monitor:
            monitor.subscribe(decide)  # type: ignore[arg-type]
            processes = [gate.start("a.exe"), gate.start("b.exe")]
            if meets == "on the way":
                assert asked.wait(PATIENCE)
                until(lambda: len(monitor._engine.workers._awaiting) == 2, "the second, on its way")
            if meets == "awaiting":
                until(lambda: monitor._engine.callback_threads, "a loop that awaits")
        release.set()
        names = {"procmon loop", "procmon worker 1", "procmon worker 2"}
        until(lambda: not names & {thread.name for thread in threading.enumerate()}, "the threads, ended")
        gc.collect()
    assert [gate.verdict_of(process) for process in processes] == [ALLOW, ALLOW]
    assert [str(one.message) for one in caught] == []
