"""Monitor: concurrent actions of callbacks, users and the gate, under any schedule of the threads.

A hypothesis state machine over a `Monitor` and a `SimulatedGate` with real threads. In half of its runs Python switches
threads after every microsecond instead of every 5 ms. Its invariants are those of docs/guarantees.md: each process is
asked about once and decided once; history, statistics and sinks agree; nothing stays held, and no thread is left.
"""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy, VerdictResult

LONG = bool(os.environ.get("PROCMON_LONG"))
BEHAVIOURS = [
    "allow", "block", "defer", "none", "raise", "nonsense", "hang", "by hand", "child",
    "await allow", "await block", "await none", "await raise", "await hang",
]  # fmt: skip


class Schedules(RuleBasedStateMachine):
    """The name of a process tells what its callback does."""

    @initialize(
        fast=st.booleans(),
        workers=st.integers(1, 3),
        default=st.sampled_from([ALLOW, BLOCK, DEFER]),
        fail=st.sampled_from([ALLOW, BLOCK]),
    )
    def begin(self, fast: bool, workers: int, default: procmon.Verdict, fail: procmon.Verdict) -> None:
        self.interval = sys.getswitchinterval()
        if fast:
            sys.setswitchinterval(1e-6)
        self.release = threading.Event()
        self.asked: Counter[tuple[int, int]] = Counter()
        self.exits: Counter[tuple[int, int]] = Counter()
        self.written: list[procmon.Decision] = []
        self.processes: list[procmon.ProcessHelper] = []
        self.threads: list[threading.Thread] = []
        self.gate = procmon.SimulatedGate()
        self.monitor = procmon.Monitor(
            self.gate,
            default=default,
            fail=fail,
            workers=workers,
            deadline=0.02,
            history=100_000,
            audit=[self],
        )
        self.subscription = self.monitor.subscribe(self.decide)
        self.monitor.on_exit(lambda process: self.exits.update([process.identity]))
        self.monitor.start()

    def write(self, decision: procmon.Decision) -> None:
        """The sink."""
        self.written.append(decision)

    def decide(self, process: procmon.ProcessHelper) -> Any:
        """The callback."""
        self.asked[process.identity] += 1
        match process.name.split():
            case ["await", *what]:
                return self.decide_later(what[0])
            case ["hang"]:
                self.release.wait(PATIENCE)
            case ["raise"]:
                raise ValueError
            case ["nonsense"]:
                return 3
            case ["by", "hand"]:
                with suppress(procmon.VerdictError, procmon.GateClosed):
                    self.monitor.block(process)
            case ["child"]:
                with suppress(procmon.GateClosed):
                    thread = threading.get_native_id()
                    child = self.gate.start("allow", creator_pid=os.getpid(), creator_tid=thread)
                    self.processes.append(child)
                    self.gate.verdict_of(child, timeout=PATIENCE)
        return {"allow": ALLOW, "block": BLOCK, "defer": DEFER}.get(process.name)

    async def decide_later(self, what: str) -> procmon.Verdict | None:
        """The callback, as a coroutine."""
        await asyncio.sleep(60 if what == "hang" else 0)
        if what == "raise":
            raise ValueError
        return {"allow": ALLOW, "block": BLOCK}.get(what)

    @rule(names=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=12))
    def start_some(self, names: list[str]) -> None:
        """Processes start, one after the other."""
        for name in names:
            with suppress(procmon.GateClosed):
                self.processes.append(self.gate.start(name))

    @rule(names=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=12))
    def start_from_another_thread(self, names: list[str]) -> None:
        """Processes start during other actions."""
        self._spawn(self.start_some, names)

    @rule(
        index=st.integers(0, 50),
        does=st.sampled_from(["allow", "block", "allow beside", "block beside", "exit", "time out"]),
        elsewhere=st.booleans(),
    )
    def answer(self, index: int, does: str, elsewhere: bool) -> None:
        """The user or the gate answers a process, or it exits, in any state."""
        if processes := list(self.processes):
            process = processes[index % len(processes)]
            if elsewhere:
                self._spawn(self._answer, process, does)
            else:
                self._answer(process, does)

    def _answer(self, process: procmon.ProcessHelper, does: str) -> None:
        actions: dict[str, Callable[[procmon.ProcessHelper], object]] = {
            "allow": self.monitor.allow,
            "block": self.monitor.block,
            "allow beside": self.gate.allow,
            "block beside": self.gate.block,
            "exit": self.gate.exit,
            "time out": self.gate.time_out,
        }
        with suppress(procmon.VerdictError, procmon.GateClosed, ValueError):
            actions[does](process)

    @rule()
    def subscribe_anew(self) -> None:
        """The callback is cancelled, and subscribed again."""
        self.subscription.cancel()
        with suppress(procmon.ProcmonError):  # the monitor has stopped, or is stopping
            self.subscription = self.monitor.subscribe(self.decide)

    @rule(count=st.integers(0, 3), name=st.sampled_from(BEHAVIOURS))
    def iterate(self, count: int, name: str) -> None:
        """An iteration takes some starts, answers every other one, and ends."""
        self._spawn(self._iterate, count)
        self.start_some([name])

    def _iterate(self, count: int) -> None:
        with self.monitor.starts(timeout=0.005) as starts:
            for number, process in enumerate(starts):
                if number % 2:
                    with suppress(procmon.VerdictError, procmon.GateClosed):
                        self.monitor.allow(process)
                if number >= count:
                    break

    @rule(how=st.sampled_from(["monitor", "gate", "end"]))
    def end_it(self, how: str) -> None:
        """The monitor is stopped, or its gate closed or ended, during the other actions."""
        self._spawn({"monitor": self.monitor.stop, "gate": self.gate.close, "end": self.gate.end}[how])

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        thread.start()
        self.threads.append(thread)

    def teardown(self) -> None:
        """Stop, and check the results."""
        try:
            if hasattr(self, "monitor"):
                self._end()
        finally:
            if hasattr(self, "interval"):
                sys.setswitchinterval(self.interval)

    def _end(self) -> None:
        self.monitor.stop()
        history, written, statistics = self.monitor.history, list(self.written), self.monitor.statistics
        assert written == history, "stop returns after all is written"
        self.release.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        ours = ("procmon worker", "procmon loop", "procmon shutdown")
        until(lambda: not any(one.name.startswith(ours) for one in threading.enumerate()), "the end of all threads")
        assert self.monitor.error is None
        assert self.monitor.pending == [] and statistics.pending == 0
        assert [one for one in self.gate._processes.values() if one.paused] == []
        assert set(self.asked.values()) <= {1}
        assert set(self.exits.values()) <= {1}
        assert statistics.held == statistics.allowed + statistics.blocked + statistics.stale
        assert self.monitor.statistics.stale == statistics.stale, "nothing is noted after the stop"
        effective: Counter[tuple[int, int]] = Counter()
        for one in history:
            if one.result is VerdictResult.DONE or one.by in (DecidedBy.GATE_TIMEOUT, DecidedBy.CONTROLLER):
                effective[one.process.identity] += 1
                verdict = BLOCK if one.verdict is BLOCK else ALLOW
                assert self.gate.verdict_of(one.process, timeout=0) is verdict, one
        assert set(effective.values()) <= {1}
        decided = {one.process for one in history}
        answered = {one for one in self.gate._processes.values() if one.decided_by is not DecidedBy.DISCONNECT}
        assert {one for one in answered if one.decided_by is not None} <= decided, "none is missing"


@pytest.mark.promise(
    "Whatever callbacks, users and the gate do concurrently: callbacks are asked about each process at most once, and"
    " it is decided once; history, statistics and sinks agree; nothing stays held, and no thread is left",
    gate="Monitor, SimulatedGate",
)
def test_however_the_threads_take_turns_each_process_is_decided_once_and_nothing_is_left() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Schedules,
        settings=settings(
            max_examples=400 if LONG else 25,
            stateful_step_count=25 if LONG else 12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
