"""Monitor: the cost of a start as counts. A time depends on the machine and its load; a count does not."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import procmon
from bench.monitor import FreeGate, processes
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW
from procmon.monitor.cases import Case
from procmon.monitor.deadlines import Deadlines
from procmon.monitor.workers import Workers

STARTS = 200


class CountingLock(threading.Condition):
    """A condition, and thereby a lock, that counts how often it is entered."""

    taken = 0

    def __enter__(self) -> bool:
        self.taken += 1
        return super().__enter__()


class Decided:
    """A monitor over a gate that returns all starts in one fetch, with everything counted."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self.roles: Counter[str] = Counter()
        self.gate = FreeGate(processes(count))
        self.monitor = procmon.Monitor(self.gate, deadline=None)
        self.monitor.subscribe(lambda process: ALLOW)
        engine = self.monitor._engine
        self.locks = [CountingLock(), CountingLock()]
        engine.holds.lock = engine.holds._changed = self.locks[0]  # type: ignore[assignment]
        engine.workers._lock = self.locks[1]  # type: ignore[assignment]
        allow = self.gate.allow

        def counted(*some: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
            self.calls.append(len(some))
            return allow(*some)

        self.gate.allow = counted  # type: ignore[method-assign]
        play: Callable[[Workers, Callable[[], object]], None] = Workers.play

        def noted(workers: Workers, role: Callable[[], object]) -> None:
            self.roles[role.__name__] += 1
            play(workers, role)

        monkeypatch.setattr(Workers, "play", noted)
        with self.monitor:
            assert self.gate.done.wait(PATIENCE)
            until(lambda: self.monitor.statistics.allowed == count, "all decisions")
        assert self.monitor.error is None


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decided]:
    """A monitor that has decided STARTS starts."""
    monkeypatch.setattr("procmon.monitor.holds.BATCH_S", 30.0)  # however slow the machine is
    yield Decided(STARTS, monkeypatch)


def test_the_starts_of_one_fetch_take_one_call_of_the_gate(decided: Decided) -> None:
    assert decided.calls == [STARTS]


def test_a_start_takes_at_most_two_locks(decided: Decided) -> None:
    """One lock entry to take it from the queue, one to decide it."""
    beyond = 60  # for the start, the stop, and the leader's polls
    assert sum(lock.taken for lock in decided.locks) <= 2 * STARTS + beyond


def test_no_decision_is_made_until_it_is_read(decided: Decided) -> None:
    cases = list(decided.monitor._engine.holds.history)
    assert [case.made for case in cases] == [None] * STARTS
    first = decided.monitor.history[0]
    assert cases[0].made is first is decided.monitor.history[0], "it is made once"


def test_the_starts_of_one_fetch_are_given_to_one_thread(decided: Decided) -> None:
    """One thread leads and one asks the callbacks: no thread is woken for each start."""
    assert decided.roles["ask"] + decided.roles["_lead"] + decided.roles["_stand_by"] <= 3


def test_one_start_alone_wakes_no_thread_where_one_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that fetched it asks; the first start wakes the standby thread, which has not gone to sleep yet."""
    monkeypatch.setattr("procmon.monitor.engine.STAND_BY_LOOKS", sys.maxsize)
    gate = procmon.SimulatedGate()
    woken: list[str] = []
    with procmon.Monitor(gate) as monitor:
        play = monitor._engine.workers.play

        def noted(role: Callable[[], object]) -> None:
            woken.append(role.__name__)
            play(role)

        monkeypatch.setattr("procmon.monitor.engine.BATCH_S", 3600.0)  # no callback is that slow on any machine
        monkeypatch.setattr(monitor._engine.workers, "play", noted)
        for _ in range(20):
            assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is ALLOW
            until(lambda: not monitor._engine.workers._askers, "the thread that asked, done")
        assert woken == ["_stand_by"]


def test_a_start_imports_no_module(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: ALLOW)
        before = set(sys.modules)
        assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is ALLOW
    assert set(sys.modules) - before == set()


def test_what_is_queued_is_not_looked_at_again_for_each_that_is_decided(
    gate: procmon.SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate has ended, so each decision may be the last; the monitor checks only cases that can be due."""
    looks = 0

    def counted(deadlines: Deadlines, begun: object, now: float) -> set[Case]:
        nonlocal looks
        looks += 1
        return set()

    monkeypatch.setattr(Deadlines, "late", counted)
    for _ in range(2000):
        gate.start("a.exe")
    gate.end()
    with procmon.Monitor(gate, deadline=3600) as monitor:
        assert monitor.wait(PATIENCE)
    assert monitor.statistics.allowed == 2000
    assert looks == 0
