"""Monitor: Ctrl+C at any moment ends the wait, and loses neither a process nor a decision."""

import _thread
import asyncio
import random
import signal
import threading
import time
import types
from contextlib import suppress
from typing import Any

import pytest

import ctrl_c
import procmon
from ctrl_c import Scene, assert_heard_soon, seconds_until_heard
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy


@pytest.mark.parametrize("action", ctrl_c.ACTIONS)
@pytest.mark.parametrize("hang", ctrl_c.HANGS)
def test_it_ends_a_call_whatever_hangs_and_nothing_stays_held(
    monkeypatch: pytest.MonkeyPatch, hang: str, action: str
) -> None:
    ctrl_c.check(hang, action, monkeypatch)


def test_a_start_that_is_interrupted_stops_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c.shorten(monkeypatch)

    def attempt() -> float:
        gate = ctrl_c.HangingGate()
        process = gate.start("a.exe")
        gate.hanging = "fetch"
        monitor = procmon.Monitor(gate, default=BLOCK)
        took = seconds_until_heard(monitor.start, "start")
        assert monitor.wait(PATIENCE)
        assert gate.verdict_of(process) is ALLOW, "by the gate, as it was closed"
        gate.go_on.set()
        return took

    assert_heard_soon(attempt)


@pytest.mark.parametrize("verdict", ["allow", "block"])
def test_a_verdict_that_is_interrupted_is_given_once_all_the_same(verdict: str) -> None:
    with Scene("verdict") as scene:
        process, monitor = scene.processes[0], scene.monitor
        seconds_until_heard(lambda: getattr(monitor, verdict)(process), verdict)
        assert process not in monitor.pending
        scene.gate.go_on.set()
        assert scene.gate.verdict_of(process) is procmon.Verdict(verdict)
        until(lambda: monitor.history, "its decision")
        with pytest.raises(procmon.AlreadyAnswered, match=f"{verdict} by user"):
            monitor.allow(process)
        assert [one.process for one in monitor.history] == [process]


def test_a_decision_whose_writing_is_interrupted_is_written_once() -> None:
    with Scene("sink ahead") as scene:
        process, monitor = scene.processes[0], scene.monitor
        seconds_until_heard(lambda: monitor.allow(process), "allow")
        assert scene.gate.verdict_of(process, timeout=0) is None, "the line comes first"
        scene.gate.go_on.set()
        assert scene.gate.verdict_of(process) is ALLOW
        monitor.stop()
        assert [one.process for one in scene.written].count(process) == 1


def test_a_stop_that_is_interrupted_goes_on() -> None:
    with Scene("verdict") as scene:
        seconds_until_heard(scene.monitor.stop, "stop")
        assert not scene.monitor.running
        scene.gate.go_on.set()
        assert scene.monitor.wait(PATIENCE)
        assert [(one.verdict, one.by) for one in scene.monitor.history] == 2 * [(ALLOW, DecidedBy.STOP)]
        scene.monitor.stop()


def test_a_gate_that_breaks_its_contract_and_hangs_is_closed_and_its_holds_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctrl_c.shorten(monkeypatch)
    gate, written = ctrl_c.HangingGate(), list[procmon.Decision]()
    monitor = procmon.Monitor(gate, default=BLOCK, audit=types.SimpleNamespace(write=written.append))
    monitor.subscribe(lambda process: DEFER)
    monitor.start()
    processes = [gate.start(image) for image in ("hang.exe", "a.exe", "b.exe")]
    until(lambda: len(monitor.pending) == 3, "all, held")
    gate.hanging = "verdict"
    monitor.stop()
    assert [gate.verdict_of(process) for process in processes] == 3 * [ALLOW], "by the gate, as it was closed"
    assert monitor.statistics.pending == 0
    assert monitor.history == written
    assert [(one.process, one.by, one.result) for one in written] == [
        (process, DecidedBy.STOP, None) for process in processes
    ]
    gate.go_on.set()
    until(lambda: not monitor._engine.holds._sending, "the call of the gate, returned")
    assert len(monitor.history) == 3, "noted once"


def test_a_sweep_that_is_interrupted_ends_no_further_process(gate: procmon.SimulatedGate) -> None:
    monitor = procmon.Monitor(gate)
    processes = gate.running_before(*(f"{number}.exe" for number in range(100)))
    asked, begun, go_on = [], threading.Event(), threading.Event()

    def hang(process: procmon.ProcessHelper) -> procmon.Verdict:
        asked.append(process)
        begun.set()
        go_on.wait(PATIENCE)
        return BLOCK

    seconds_until_heard(lambda: monitor.sweep(hang, terminate=True), "sweep", begun)
    go_on.set()
    time.sleep(0.1)
    assert len(asked) == 1
    assert len(processes) - len(gate.snapshot()) <= 1
    monitor.stop()


def test_an_iteration_that_is_interrupted_goes_on_with_what_it_has_not_given(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor, monitor.starts(timeout=PATIENCE) as starts:
        one, two = gate.start("a.exe"), gate.start("b.exe")
        until(lambda: monitor.statistics.deferred == 2, "both, deferred")
        take = starts._queue.take

        taken, go_on = threading.Event(), threading.Event()

        def slowly(ticket: Any) -> None:
            take(ticket)
            taken.set()
            go_on.wait(PATIENCE)

        starts._queue.take = slowly  # type: ignore[method-assign]
        seconds_until_heard(lambda: next(starts), "next", taken)
        go_on.set()
        starts._queue.take = take  # type: ignore[method-assign]
        until(lambda: not monitor._engine.callback_threads, "the first, put back")
        assert [next(starts), next(starts)] == [one, two]


def test_async_for_that_is_cancelled_goes_on_with_what_it_has_not_given(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        async with procmon.Monitor(gate) as monitor:
            starts = monitor.starts(timeout=PATIENCE)
            processes = [gate.start(f"{number}.exe") for number in range(50)]
            given: list[procmon.ProcessHelper] = []
            longest = 0.001
            while len(given) < len(processes):
                try:
                    async with asyncio.timeout(random.random() * longest):
                        given.append(await anext(starts))
                except TimeoutError:
                    longest *= 1.05  # so that the loop ends on a slow machine, too
                    await asyncio.sleep(0.001)
            assert sorted(given, key=lambda process: process.pid) == processes

    asyncio.run(main())


def test_at_any_instruction_it_leaves_the_monitor_at_work() -> None:
    """Another thread starts processes all the time; each is decided, whatever call of the main thread ends."""
    gate = procmon.SimulatedGate()
    monitor = procmon.Monitor(gate, history=10)
    monitor.subscribe(lambda process: ALLOW if process.start_key % 2 else DEFER)
    monitor.start()
    over, late, chance, armed, count = threading.Event(), [], random.Random(1), False, 0

    def feed() -> None:
        while not over.is_set():
            process = gate.start("a.exe")
            if process.start_key % 2 and gate.verdict_of(process, timeout=PATIENCE) is None:
                late.append(process)

    def press() -> None:
        while not over.is_set():
            time.sleep(chance.random() * 0.003)
            _thread.interrupt_main()

    def hear(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def use() -> None:
        for process in monitor.pending[:2]:
            with suppress(procmon.AlreadyAnswered):
                chance.choice([monitor.allow, monitor.block])(process)
        monitor.subscribe(lambda process: None).cancel()
        with monitor.starts(timeout=0.001) as starts:
            for process in starts:
                monitor.allow(process)
        assert monitor.statistics.held >= len(monitor.history)

    threads = [threading.Thread(target=target) for target in (feed, press)]
    before = signal.signal(signal.SIGINT, hear)
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + ctrl_c.STRESS_SECONDS
        while time.monotonic() < end:
            try:
                armed = True
                use()
                armed = False
            except KeyboardInterrupt:
                count += 1
    finally:
        armed = False
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        signal.signal(signal.SIGINT, before)
    assert count > 10
    assert late == []
    monitor.stop()
    assert [one for one in gate._processes.values() if one.paused] == []
    statistics = monitor.statistics
    assert statistics.held == statistics.allowed + statistics.blocked + statistics.stale


# ------------------------------------------------------------------------------------------ the end of a program


@pytest.mark.parametrize("hang", ["nothing", *ctrl_c.HANGS])
def test_the_end_of_a_program_releases_whatever_hangs(hang: str) -> None:
    ctrl_c.check_exit(hang)


@pytest.mark.parametrize("hang", ["verdict", "close", "sink", "lock"])
def test_a_real_one_ends_a_stop_that_hangs_and_then_the_program(hang: str) -> None:
    ctrl_c.check_real_ctrl_c(hang)
