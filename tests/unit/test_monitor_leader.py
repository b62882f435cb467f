"""Monitor: which thread waits at the gate, and how soon another takes its place. The tests control the clock."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW
from procmon.monitor.holds import BATCH_S
from procmon.monitor.workers import Workers


class Hanging:
    """A monitor whose callback does not return from `hang.exe` until `go_on` is set."""

    def __init__(self, gate: procmon.SimulatedGate) -> None:
        self.gate = gate
        self.go_on = threading.Event()
        self.hangs = threading.Event()
        self.monitor = procmon.Monitor(gate, deadline=None)
        self.monitor.subscribe(self.decide)
        self.monitor.start()

    def decide(self, process: procmon.ProcessHelper) -> procmon.Verdict:
        """The callback."""
        if process.name == "hang.exe":
            self.hangs.set()
            self.go_on.wait(PATIENCE)
        return ALLOW

    def fetched(self, count: int) -> None:
        """Wait until `count` processes were fetched."""
        until(lambda: self.monitor.statistics.fetched == count, f"{count} processes, fetched")


@pytest.fixture
def hanging(gate: procmon.SimulatedGate) -> Iterator[Hanging]:
    """One on `gate`, stopped at the end."""
    hanging = Hanging(gate)
    yield hanging
    hanging.go_on.set()
    hanging.monitor.stop()


@pytest.mark.promise(
    "A callback that does not return delays other processes by at most one poll (2 ms) of the standby thread",
    gate="Monitor",
)
def test_another_thread_takes_the_place_at_the_gate_after_one_look(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, looks = SimpleQueue[float](), threading.Semaphore(0)

    def look(workers: Workers, seconds: float) -> bool:
        waits.put(seconds)
        assert looks.acquire(timeout=PATIENCE)
        return False

    monkeypatch.setattr(Workers, "has_role_within", look)
    hanging.gate.start("hang.exe")
    assert hanging.hangs.wait(PATIENCE)
    assert waits.get(timeout=PATIENCE) == BATCH_S
    hanging.gate.start("other.exe")
    assert hanging.monitor.statistics.fetched == 1, "the thread that asks has left the gate"
    looks.release()
    hanging.fetched(2)
    assert waits.empty(), "one poll was enough"


def test_a_leader_that_leaves_as_the_other_thread_goes_to_sleep_is_replaced(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still believes that a thread stands by."""
    sleepy, go_to_sleep = threading.Event(), threading.Event()

    class Lock:
        lock = threading.Lock()

        def acquire(self, blocking: bool) -> bool:
            return self.lock.acquire(blocking=blocking)

        def release(self) -> None:
            sleepy.set()
            assert go_to_sleep.wait(PATIENCE)
            self.lock.release()

    monkeypatch.setattr("procmon.monitor.engine.STAND_BY_LOOKS", 1)
    hanging.monitor._engine._stands_by = Lock()  # type: ignore[assignment]
    assert hanging.gate.verdict_of(hanging.gate.start("a.exe"), timeout=PATIENCE) is ALLOW
    assert sleepy.wait(PATIENCE)
    hanging.gate.start("hang.exe")
    assert hanging.hangs.wait(PATIENCE)
    hanging.gate.start("other.exe")
    go_to_sleep.set()
    hanging.fetched(3)


def test_a_leader_that_leaves_after_the_other_thread_went_to_sleep_wakes_it(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other thread stands by until the leader is about to leave the gate, and sleeps when it has left."""
    asleep, leaves_last = threading.Event(), threading.Event()

    class Lock:
        lock = threading.Lock()

        def acquire(self, blocking: bool) -> bool:
            if not (acquired := self.lock.acquire(blocking=blocking)):
                asleep.set()
            return acquired

        def release(self) -> None:
            if leaves_last.is_set():
                monkeypatch.setattr("procmon.monitor.engine.STAND_BY_LOOKS", 0)
                assert asleep.wait(PATIENCE)
            self.lock.release()

        def locked(self) -> bool:
            return self.lock.locked()

    monkeypatch.setattr("procmon.monitor.engine.STAND_BY_LOOKS", sys.maxsize)
    engine = hanging.monitor._engine
    until(engine._at_gate.locked, "the leader, at the gate")
    lock = Lock()
    lock.acquire(blocking=False)
    engine._at_gate = lock  # type: ignore[assignment]
    assert hanging.gate.verdict_of(hanging.gate.start("a.exe"), timeout=PATIENCE) is ALLOW
    until(lock.locked, "the leader, back at the gate")
    assert engine._stands_by.locked()
    asleep.clear()
    leaves_last.set()
    hanging.gate.start("hang.exe")
    assert hanging.hangs.wait(PATIENCE)
    leaves_last.clear()
    hanging.gate.start("other.exe")
    hanging.fetched(3)


def test_a_thread_that_stands_by_asks_when_a_coroutine_has_returned(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the only thread left: the other one waits at the gate. It does not wait for its next poll."""
    monkeypatch.setattr("procmon.monitor.engine.BATCH_S", 3600.0)

    async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        await asyncio.sleep(0)
        return ALLOW

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        for _ in range(3):
            assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is ALLOW
