"""Monitor: its start and its end, and that nothing stays held however it ends."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ctrl_c
import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.monitor.cases import Case
from procmon.records import DecidedBy

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
SOURCE = Path(__file__).resolve().parents[2] / "src"


def test_stop_gives_the_default_to_what_is_held_even_if_it_was_not_fetched(gate: procmon.SimulatedGate) -> None:
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


def test_stop_lets_a_verdict_arrive_that_is_just_being_sent(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, block = threading.Event(), gate.block

    def slow(*processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        sending.set()
        time.sleep(0.05)
        return block(*processes)

    monkeypatch.setattr(gate, "block", slow)
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: BLOCK)
        process = gate.start("a.exe")
        assert sending.wait(PATIENCE)
    assert gate.verdict_of(process) is BLOCK
    assert monitor.statistics.blocked == 1


def test_stop_does_not_wait_for_a_callback_that_hangs(gate: procmon.SimulatedGate) -> None:
    release, asked = threading.Event(), threading.Event()

    def decide(process: procmon.ProcessHelper) -> None:
        asked.set()
        release.wait(PATIENCE)

    with procmon.Monitor(gate, deadline=None) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        assert asked.wait(PATIENCE)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 2
    assert gate.verdict_of(process) is ALLOW
    release.set()


@pytest.mark.parametrize("where", ["callback", "sink", "exit"])
def test_stop_may_be_called_from_anything_the_monitor_calls(gate: procmon.SimulatedGate, where: str) -> None:
    class Sink:
        def write(self, decision: procmon.Decision) -> None:
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
    assert monitor.wait(PATIENCE)
    assert gate.verdict_of(process) is ALLOW


@pytest.mark.parametrize("result", [BLOCK, None])
def test_the_result_of_a_callback_that_stops_the_monitor_counts(
    gate: procmon.SimulatedGate, result: procmon.Verdict | None
) -> None:
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict | None:
        monitor.stop()
        time.sleep(0.1)
        return result

    monitor = procmon.Monitor(gate)
    monitor.subscribe(decide)
    monitor.start()
    process = gate.start("a.exe")
    assert monitor.wait(PATIENCE)
    assert gate.verdict_of(process) is (result or ALLOW)
    assert monitor.history[0].by is (DecidedBy.CALLBACK if result else DecidedBy.STOP)


def test_a_monitor_starts_once(gate: procmon.SimulatedGate) -> None:
    monitor = procmon.Monitor(gate)
    with pytest.raises(procmon.ProcmonError, match="start"):
        monitor.wait(0)
    assert repr(monitor) == "<Monitor ready on simulated: 0 allowed, 0 blocked, 0 pending>"
    with monitor:
        assert monitor.running
        assert not monitor.wait(0)
        with pytest.raises(procmon.ProcmonError, match="runs already"):
            monitor.start()
    with pytest.raises(procmon.ProcmonError, match="starts once; make a new gate and Monitor"):
        monitor.start()


def test_what_the_gate_held_before_is_pending_at_once(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    with procmon.Monitor(gate, default=DEFER) as monitor:
        assert monitor.pending == [process]


def test_a_gate_that_fails_at_once_fails_the_start_and_releases_what_is_held(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.fail(OSError(6, "the handle is invalid"))
    monitor = procmon.Monitor(gate, default=DEFER)
    with pytest.raises(OSError, match="handle"):
        monitor.start()
    assert not monitor.running
    assert monitor.wait(0)
    assert isinstance(monitor.error, OSError)
    assert gate.verdict_of(process) is ALLOW


def test_a_monitor_that_never_ran_decides_nothing(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    monitor = procmon.Monitor(gate, default=BLOCK)
    monitor.stop()
    assert gate.verdict_of(process) is ALLOW  # the gate's `on_disconnect`
    assert list[procmon.Decision](monitor.history) == []


@pytest.mark.parametrize("end", ["stop", "stop_async"])
def test_a_monitor_that_was_refused_leaves_the_gate_to_the_monitor_that_runs(
    gate: procmon.SimulatedGate, end: str
) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        second = procmon.Monitor(gate)
        with pytest.raises(procmon.ProcmonError, match="another monitor has this gate"):
            second.start()
        if end == "stop":
            second.stop()
        else:
            asyncio.run(second._engine.stop_async())
        assert not second.running and monitor.running
        assert monitor.pending == [process] and not gate.closed
        assert monitor.block(process).verdict is BLOCK
    assert gate.closed


def test_a_gate_that_a_callback_closes_ends_the_monitor_whatever_is_held(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture
) -> None:
    with procmon.Monitor(gate, default=DEFER) as monitor:
        monitor.subscribe(lambda process: gate.close(), match="b.exe")
        gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        gate.start("b.exe")
        assert monitor.wait(PATIENCE)
    assert caplog.text == ""


def test_a_closed_gate_cannot_be_monitored(gate: procmon.SimulatedGate) -> None:
    gate.close()
    with pytest.raises(procmon.GateClosed, match="make a new gate"):
        procmon.Monitor(gate).start()


@pytest.mark.parametrize("options, error", [
    ({"default": "allow"}, TypeError), ({"on_error": "block"}, TypeError), ({"on_deadline": 1}, TypeError),
    ({"own": DEFER}, TypeError), ({"own": "allow"}, TypeError), ({"deadline": 0}, ValueError),
    ({"deadline": -1}, ValueError), ({"deadline": float("nan")}, ValueError), ({"workers": 0}, ValueError),
    ({"fail": DEFER}, ValueError), ({"fail": None}, TypeError), ({"history": -1}, ValueError),
    ({"audit": [3]}, TypeError),
])  # fmt: skip
def test_an_option_that_is_none_is_refused_by_name(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        procmon.Monitor(procmon.SimulatedGate(), **options)


def test_what_is_no_gate_is_refused() -> None:
    with pytest.raises(TypeError, match="SimulatedGate"):
        procmon.Monitor("notepad.exe")  # type: ignore[arg-type]


def test_a_monitor_that_is_dropped_releases_what_is_held_and_says_so(
    gate: procmon.SimulatedGate, caplog: pytest.LogCaptureFixture
) -> None:
    def arrange() -> procmon.ProcessHelper:
        monitor = procmon.Monitor(gate, default=DEFER)
        monitor.start()
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        return process

    assert gate.verdict_of(arrange(), timeout=PATIENCE) is ALLOW
    until(lambda: gate.closed, "the gate, closed")
    until(lambda: "keep a reference" in caplog.text, "a line in the log")


def test_a_monitor_that_is_dropped_releases_whatever_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c.shorten(monkeypatch)
    gate, asked = ctrl_c.HangingGate(), threading.Event()

    def decide(process: procmon.ProcessHelper) -> None:
        asked.set()
        gate.go_on.wait(PATIENCE)

    def arrange() -> list[procmon.ProcessHelper]:
        monitor = procmon.Monitor(gate, deadline=None)
        monitor.subscribe(decide)
        monitor.start()
        processes = [gate.start("a.exe"), gate.start("b.exe")]
        until(lambda: monitor.pending == processes, "both, held")
        assert asked.wait(PATIENCE), "the worker hangs"
        gate.hanging = "fetch"
        processes.append(gate.start("c.exe"))
        assert gate.inside.wait(PATIENCE), "the dispatcher hangs"
        return processes

    assert [gate.verdict_of(process, timeout=PATIENCE) for process in arrange()] == 3 * [ALLOW]
    gate.go_on.set()


def test_a_stop_during_a_collection_inside_a_lock_of_the_monitors_does_not_wait(gate: procmon.SimulatedGate) -> None:
    """A finalizer of the user may run in any of the monitor's threads, at any instruction."""
    release = threading.Event()
    with procmon.Monitor(gate, default=DEFER) as monitor:

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> None:
            with ctrl_c.locks_of(monitor):
                monitor.stop()
                release.set()

        process = gate.start("a.exe")
        assert release.wait(PATIENCE)
        assert monitor.wait(PATIENCE)
    assert gate.verdict_of(process) is ALLOW


def test_a_finalizer_that_answers_one_process_while_a_stop_decides_leaves_the_others_their_verdict(
    gate: procmon.SimulatedGate,
) -> None:
    """The garbage collector may run it in the thread that stops the monitor, under the lock."""
    monitor = procmon.Monitor(gate, default=BLOCK)
    monitor.subscribe(lambda process: DEFER)
    monitor.start()
    processes = [gate.start("a.exe") for _ in range(3)]
    until(lambda: monitor.pending == processes, "all, held")

    class Collecting(list[Case]):
        def append(self, case: Case) -> None:
            super().append(case)
            if case.process == processes[0]:
                monitor.allow(processes[2])

    monitor._engine.holds._batch = Collecting()
    monitor.stop()
    assert [gate.verdict_of(process, timeout=0) for process in processes] == [BLOCK, BLOCK, ALLOW]
    assert {one.process: one.by for one in monitor.history} == {
        processes[0]: DecidedBy.STOP, processes[1]: DecidedBy.STOP, processes[2]: DecidedBy.USER,
    }  # fmt: skip


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
def test_the_end_of_the_program_releases_what_is_held(last: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + last],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip() == "['allow']", done.stderr


ENDS = """
import os, sys, threading, time, procmon
gate = procmon.SimulatedGate()
monitor = procmon.Monitor(gate, default=procmon.DEFER, deadline=0.2)
"""

GOES_ON = (
    ENDS
    + """
def go_on():
    threading.main_thread().join()
    processes = [gate.start("a.exe"), gate.start("b.exe"), gate.start("c.exe")]
    print(gate.verdict_of(processes[0], 5).value, flush=True)
    while processes[1] not in monitor.pending:
        time.sleep(0.001)
    print(monitor.block(processes[1]).verdict.value, monitor.statistics.pending, flush=True)
    print(gate.verdict_of(processes[2], 0), flush=True)

monitor.subscribe(lambda process: procmon.ALLOW, match="a.exe")
monitor.start()
threading.Thread(target=go_on).start()
"""
)


def run_program(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_as_long_as_threads_of_a_program_go_on_so_does_its_monitor() -> None:
    assert run_program(GOES_ON).split() == ["allow", "block", "1", "None"]


FORKS = (
    ENDS
    + """
monitor.start()
process = gate.start("a.exe")
pid = os.fork()
if pid == 0:
    monitor.stop()
    try:
        monitor.wait()
    except procmon.ProcmonError as error:
        print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), monitor.running, gate.verdict_of(process, 0))
monitor.allow(process)
print(gate.verdict_of(process).value)
"""
)

if hasattr(os, "fork"):

    def test_a_monitor_stays_with_the_process_that_made_it() -> None:
        said = run_program(FORKS).splitlines()
        assert "forked" in said[0]
        assert said[1:] == ["7 True None", "allow"]


def test_the_history_is_read_while_other_threads_add_to_it(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the GIL a deque that grows during a copy raises; here it raises for every copy outside of the lock."""

    class Growing(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            if not holds.lock._is_owned():  # type: ignore[attr-defined]
                raise RuntimeError("deque mutated during iteration")
            return super().__iter__()

    with procmon.Monitor(gate) as monitor:
        holds = monitor._engine.holds
        monkeypatch.setattr(holds, "history", Growing(maxlen=10))
        process = gate.start("a.exe")
        until(lambda: [decision.process for decision in monitor.history] == [process], "its decision")
        assert monitor.parent(gate.start("b.exe", parent_pid=process.pid)) == process


def test_history_is_bounded_and_statistics_are_not(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, history=3) as monitor:
        for number in range(5):
            gate.verdict_of(gate.start(f"{number}.exe"))
    assert [one.process.name for one in monitor.history] == ["2.exe", "3.exe", "4.exe"]
    assert monitor.statistics.allowed == 5
    assert monitor.statistics.longest_hold.total_seconds() > 0


def test_history_may_be_larger_than_any_memory() -> None:
    assert procmon.Monitor(procmon.SimulatedGate(), history=10**30).history == []


def test_the_history_keeps_no_callback_alive(gate: procmon.SimulatedGate) -> None:
    class Callback:
        def decide(self, process: procmon.ProcessHelper) -> procmon.Decision:
            return procmon.Decision(process=process, verdict=ALLOW, by=DecidedBy.CALLBACK)

    with procmon.Monitor(gate) as monitor:
        callback = Callback()
        monitor.subscribe(callback).cancel()
        subscription = monitor.subscribe(callback)
        assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is ALLOW
        until(lambda: monitor.statistics.allowed == 1, "the decision")
        subscription.cancel()
        gone = weakref.ref(callback)
        del callback, subscription
        until(lambda: gc.collect() >= 0 and gone() is None, "the callback, dropped")
        assert len(monitor.history) == 1


@pytest.mark.parametrize("runs", [True, False])
def test_a_monitor_that_its_callback_references_is_collected_with_all_that_it_decided(runs: bool) -> None:
    class Callback:
        monitor: procmon.Monitor | None = None
        starts: procmon.Starts | None = None

        def __call__(self, process: procmon.ProcessHelper) -> None: ...

    callback, gate = Callback(), procmon.SimulatedGate()
    callback.monitor = procmon.Monitor(gate)
    callback.monitor.subscribe(callback)
    callback.starts = callback.monitor.starts(match="b.exe")
    if runs:
        with callback.monitor:
            gate.verdict_of(gate.start("a.exe"))
    gone = weakref.ref(callback.monitor._engine)
    del callback, gate

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    until(is_gone, "the end of its threads, and the collection")
