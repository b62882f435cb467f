"""Monitor: undeliverable verdicts, gates that act by themselves or fail, and what is refused."""

import asyncio
import gc
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import procmon
from monitoring import decided, until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


# -------------------------------------------------------------------------------------------- verdicts that go nowhere


@pytest.fixture
def deferring(gate: procmon.SimulatedGate) -> Iterator[procmon.Monitor]:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        yield monitor


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_second_verdict_says_what_the_first_was(
    gate: procmon.SimulatedGate, deferring: procmon.Monitor, by_pid: bool
) -> None:
    process = gate.start("a.exe")
    until(lambda: deferring.pending, "it, held")
    deferring.allow(process)
    with pytest.raises(procmon.AlreadyAnswered, match="allow by user"):
        deferring.block(process.pid if by_pid else process)
    assert gate.verdict_of(process) is ALLOW


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_verdict_for_a_process_that_is_gone(
    gate: procmon.SimulatedGate, deferring: procmon.Monitor, by_pid: bool
) -> None:
    process = gate.start("a.exe")
    until(lambda: deferring.pending, "it, held")
    gate.exit(process)
    until(lambda: not deferring.pending, "it, gone")
    with pytest.raises(procmon.StaleProcess, match="gone"):
        deferring.allow(process.pid if by_pid else process)
    assert deferring.statistics.stale == 1


def test_a_verdict_for_a_pid_that_another_process_has_now(
    gate: procmon.SimulatedGate, deferring: procmon.Monitor
) -> None:
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
def test_a_verdict_for_a_process_that_was_never_held(
    gate: procmon.SimulatedGate, deferring: procmon.Monitor, by_pid: bool
) -> None:
    [process] = gate.running_before("explorer.exe")
    with pytest.raises(procmon.NotHeld, match="not held"):
        deferring.block(process.pid if by_pid else process)


def test_a_verdict_for_a_pid_that_never_was(gate: procmon.SimulatedGate, deferring: procmon.Monitor) -> None:
    with pytest.raises(procmon.StaleProcess, match="no process with pid 4444"):
        deferring.allow(4444)
    with pytest.raises(procmon.StaleProcess):
        deferring.allow(procmon.ProcessHelper(pid=4444, parent_pid=4, image_name="x.exe", start_key=9))


def test_a_verdict_before_the_monitor_has_fetched_it_counts_as_any_other(gate: procmon.SimulatedGate) -> None:
    monitor = procmon.Monitor(gate)
    process = gate.start("a.exe")
    monitor.block(process)
    monitor.start()
    monitor.stop()
    assert decided(monitor) == [("a.exe", BLOCK, DecidedBy.USER, "")]
    assert (monitor.statistics.held, monitor.statistics.blocked) == (1, 1)


def test_a_verdict_after_the_stop_says_how_it_was_answered(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
    with pytest.raises(procmon.AlreadyAnswered, match="allow by stop"):
        monitor.block(process)


# ------------------------------------------------------------------------------------------- what the gate itself does


@pytest.mark.parametrize("verdict", [ALLOW, BLOCK])
def test_a_hold_that_the_gate_times_out_is_recorded_as_such(
    gate: procmon.SimulatedGate, verdict: procmon.Verdict
) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.time_out(process, verdict)
        until(lambda: not monitor.pending, "it, answered")
        with pytest.raises(procmon.AlreadyAnswered, match="gate timeout"):
            monitor.allow(process)
    assert decided(monitor) == [("a.exe", verdict, DecidedBy.GATE_TIMEOUT, "")]
    statistics = monitor.statistics
    assert (statistics.gate_decided, statistics.stale) == (1, 0)
    assert (statistics.allowed, statistics.blocked) == (verdict is ALLOW, verdict is BLOCK)


def test_what_the_gate_never_holds_is_noted_but_not_counted_as_held(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        gate.running_before("explorer.exe")
        gate.start("csrss.exe", flags=procmon.ProcessFlags.EXEMPT)
        until(lambda: monitor.statistics.fetched == 2, "both")
    assert decided(monitor) == [("csrss.exe", ALLOW, DecidedBy.EXEMPT, "")]
    assert (monitor.statistics.held, monitor.statistics.gate_decided) == (0, 1)


@pytest.mark.parametrize("error", [OSError(6, "the handle is invalid"), ValueError("torn record")])
def test_a_gate_that_fails_stops_the_monitor_and_releases_what_is_held(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.fail(error)
        assert monitor.wait(PATIENCE)
        assert monitor.error is error
        assert gate.verdict_of(process, timeout=0) is ALLOW
        assert repr(monitor).startswith("<Monitor failed on simulated")
        until(lambda: "failed" in caplog.text, "a line in the log")


def test_a_gate_that_fails_in_answering_stops_the_monitor(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with procmon.Monitor(gate) as monitor:
        monkeypatch.setattr(gate, "allow", lambda *processes: 1 / 0)
        process = gate.start("a.exe")
        assert monitor.wait(PATIENCE)
        assert isinstance(monitor.error, ZeroDivisionError)
        assert gate.verdict_of(process) is ALLOW, "by the gate, as it was closed"


def test_the_monitor_stops_when_its_gate_has_ended_and_everything_was_answered(gate: procmon.SimulatedGate) -> None:
    exits = []

    def note(process: procmon.ProcessHelper) -> None:
        time.sleep(0.02)
        exits.append(process.name)

    monitor = procmon.Monitor(gate, default=DEFER)
    monitor.on_exit(note)
    monitor.start()
    held, free = gate.start("a.exe"), gate.start("b.exe")
    monitor.allow(free)
    gate.end()
    assert not monitor.wait(0.05)
    gate.exit(free)
    monitor.allow(held)
    assert monitor.wait(PATIENCE)
    assert exits == ["b.exe"]
    assert monitor.error is None
    assert repr(monitor) == "<Monitor stopped on simulated: 2 allowed, 0 blocked, 0 pending>"


def test_the_monitor_stops_when_its_gate_is_closed_by_others(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.close()
        assert monitor.wait(PATIENCE)
        assert monitor.error is None
        assert monitor.pending == []


def test_what_every_call_would_fail_is_refused_when_it_is_subscribed() -> None:
    monitor = procmon.Monitor(procmon.SimulatedGate())

    async def matches(process: procmon.ProcessHelper) -> bool:
        return True

    wrong: list[tuple[Any, str]] = [
        (None, "neither"), (procmon.Policy, "class: instantiate it"), (lambda: BLOCK, "called with one ProcessHelper"),
        (lambda one, two: BLOCK, "called with one ProcessHelper"),
    ]  # fmt: skip
    for callback, said in wrong:
        with pytest.raises(TypeError, match=said):
            monitor.subscribe(callback)
        with pytest.raises(TypeError, match=said):
            monitor.on_exit(callback)
    with pytest.raises(TypeError, match="cannot be a coroutine function"):
        monitor.subscribe(print, match=matches)  # type: ignore[arg-type]


class _IsOurs:
    async def __call__(self, process: procmon.ProcessHelper) -> bool:
        return False


@pytest.mark.parametrize("match", [_IsOurs(), lambda process: _IsOurs()(process)], ids=["object", "function"])
def test_a_match_that_returns_a_coroutine_is_an_error_and_matches_no_process(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture, match: Any
) -> None:
    with procmon.Monitor(gate, on_error=DEFER) as monitor:
        monitor.subscribe(lambda process: BLOCK, match=match)
        process = gate.start("a.exe")
        until(lambda: monitor.statistics.callback_errors == 1, "the error")
        assert monitor.pending == [process]
    assert "TypeError: match is not awaited" in caplog.text


@pytest.mark.parametrize("option, value, said", [
    ("workers", 2.5, "whole number"), ("workers", None, "whole number"), ("deadline", "30", "number of seconds"),
    ("audit", sys.stdout, "text file"), ("audit", 5, "method write"), ("audit", [5], "method write"),
    ("audit", procmon.AuditLog, "method write"),
])  # fmt: skip
def test_options_of_the_wrong_type_are_refused(option: str, value: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        procmon.Monitor(procmon.SimulatedGate(), **{option: value})


def test_the_class_of_a_gate_is_no_gate() -> None:
    with pytest.raises(TypeError, match="needs a gate"):
        procmon.Monitor(procmon.SimulatedGate)  # type: ignore[arg-type]


def test_two_monitors_cannot_share_a_gate(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate), pytest.raises(procmon.ProcmonError, match="another monitor has this gate"):
        procmon.Monitor(gate).start()


def test_of_two_monitors_that_start_at_once_one_gets_the_gate() -> None:
    both = threading.Barrier(2)

    class Gate(procmon.SimulatedGate):
        @property
        def closed(self) -> bool:
            with suppress(threading.BrokenBarrierError):
                both.wait(0.2)
            return super().closed

    gate, refused = Gate(), list[procmon.ProcmonError]()
    monitors = [procmon.Monitor(gate), procmon.Monitor(gate)]
    both.reset()  # making a monitor reads the attribute, too

    def start(monitor: procmon.Monitor) -> None:
        try:
            monitor.start()
        except procmon.ProcmonError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(monitor,)) for monitor in monitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(monitor.running for monitor in monitors) == [False, True]
    assert "another monitor has this gate" in str(refused[0])
    for monitor in monitors:
        monitor.stop()


def test_a_callback_that_fails_is_seen_in_the_repr_and_the_decision(gate: procmon.SimulatedGate) -> None:
    monitor = procmon.Monitor(gate)
    monitor.subscribe(lambda process: dict[int, procmon.Verdict]()[process.pid])
    with monitor:
        process = gate.start("a.exe")
        gate.verdict_of(process)
    assert "1 callback errors>" in repr(monitor)
    [decision] = monitor.history
    assert decision.reason == f"KeyError: {process.pid}"
    assert procmon.Decision.from_dict(decision.as_dict()).reason == decision.reason


@pytest.mark.parametrize("other", [None, "a.exe", []])
def test_a_verdict_for_no_process_says_what_is_wanted(gate: procmon.SimulatedGate, other: Any) -> None:
    with procmon.Monitor(gate) as monitor, pytest.raises(TypeError, match="is a ProcessHelper or a pid"):
        monitor.allow(other)


def test_who_was_ended_by_a_sweep_is_in_the_history_and_the_audit() -> None:
    gate = procmon.SimulatedGate()
    [running] = gate.running_before("evil.exe")
    written: list[procmon.Decision] = []
    monitor = procmon.Monitor(gate, audit=types.SimpleNamespace(write=written.append))
    assert [one.result for one in monitor.sweep(lambda process: BLOCK)] == [None]
    assert monitor.history == []
    [decision] = monitor.sweep(lambda process: BLOCK, terminate=True)
    assert decision.result is procmon.VerdictResult.DONE and decision.process == running
    assert monitor.history == [decision]
    until(lambda: written == [decision], "the audit")


def test_a_sweep_does_not_take_coroutine_functions() -> None:
    async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        return BLOCK

    gate = procmon.SimulatedGate()
    gate.running_before("a.exe")
    with pytest.raises(TypeError, match="is a coroutine function"):
        procmon.Monitor(gate).sweep(decide)  # type: ignore[arg-type]


def test_ctrl_c_in_an_iteration_outside_a_with_ends_it_however_long_its_traceback_lives(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with procmon.Monitor(gate) as monitor:
        starts = monitor.starts()
        monkeypatch.setattr(starts._queue, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(starts)
        until(lambda: starts._queue.closed, "the end of the iteration")
        assert gate.verdict_of(gate.start("a.exe")) is ALLOW
        assert not monitor.pending


@pytest.mark.parametrize("how", ["dropped", "interrupted"])
def test_an_iteration_that_is_about_to_be_closed_takes_no_process_from_the_next_one(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with procmon.Monitor(gate) as monitor:
        later: list[Callable[[], object]] = []
        monkeypatch.setattr(monitor._engine, "do_later", later.append)
        starts = monitor.starts()
        if how == "dropped":
            del starts
            gc.collect()
        else:
            monkeypatch.setattr(starts._queue, "take", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(starts)
        with monitor.starts(timeout=PATIENCE) as others:
            process = gate.start("a.exe")
            assert next(others) == process
            monitor.allow(process)
        [close] = later
        close()


def interrupted(request: object) -> None:
    raise KeyboardInterrupt


def test_what_would_stop_the_loop_of_the_callbacks_is_refused_on_it(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        async with procmon.Monitor(gate) as monitor:
            with pytest.raises(procmon.ProcmonError, match=r"await monitor\.wait_async\(\)"):
                monitor.wait(1)
            with pytest.raises(procmon.ProcmonError, match="async for"):
                next(monitor.starts())
            assert not await monitor.wait_async(0.01)

    asyncio.run(main())
