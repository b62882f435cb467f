"""The tests that every gate must pass. A gate's test module provides an `Adapter` and gets all of these tests:

        from conformance import Adapter, GateConformance

    class TestMyGate(GateConformance):
        @pytest.fixture
        def adapter(self):
            with MyAdapter() as adapter:
                yield adapter

No test depends on the kind of gate. A wait ends with its event. `patience` is the time after which a test reports an
event as missing; `settle` is the time that a released process may take to show that it runs.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import pytest

import procmon
from patience import PATIENCE
from procmon.gates.base import Gate
from procmon.records import VerdictResult

STATUS_BLOCKED = 0xC0000364


class Adapter(ABC):
    """The outside of a gate: starts processes that it covers, and observes them."""

    gate: Gate

    @abstractmethod
    def start(self) -> int:
        """Start one process that the gate covers and return its pid at once, although the process is held.

        The adapter first allows other processes that the gate holds because of it (the root of a tree, a console host).
        """

    @abstractmethod
    def ran(self, pid: int) -> bool:
        """Has the program run an instruction? It runs until `end`."""

    @abstractmethod
    def end(self, pid: int, status: int) -> None:
        """Let a running process exit with `status`, or kill a held process with `status`."""

    @abstractmethod
    def exit_status(self, pid: int, timeout: float) -> int | None:
        """The exit status as its parent sees it; None when it still lives after `timeout` seconds."""

    def close(self) -> None:
        """Close the gate and end all started processes."""
        self.gate.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class GateConformance:
    """The tests; see the module."""

    patience = PATIENCE
    settle = 0.2

    # --------------------------------------------------------------------------------------------------- helpers

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {self.patience} s"
            time.sleep(0.002)

    def record(
        self, gate: Gate, pid: int, wanted: Callable[[procmon.ProcessHelper], bool] = lambda record: record.paused
    ) -> procmon.ProcessHelper:
        """The record of `pid` that is `wanted`; earlier records of others are skipped."""
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            gate.wait(0.2)
            for record in gate.fetch():
                if record.pid == pid and wanted(record):
                    return record
        pytest.fail(f"no such record of pid {pid} within {self.patience} s")

    @contextmanager
    def monitored(self, adapter: Adapter, *callbacks: Any) -> Iterator[procmon.Monitor]:
        with procmon.Monitor(adapter.gate) as monitor:
            for callback in callbacks:
                monitor.subscribe(callback)
            yield monitor
        assert monitor.pending == []
        assert monitor.error is None

    # ----------------------------------------------------------------------------------------------------- tests

    def test_it_satisfies_the_protocol_and_says_what_it_is_on_one_line(self, adapter: Adapter) -> None:
        assert isinstance(adapter.gate, Gate)
        assert adapter.gate.name and "\n" not in adapter.gate.name
        assert "\n" not in repr(adapter.gate)
        assert not adapter.gate.closed
        assert not adapter.gate.ended

    def test_a_start_is_held_before_its_first_instruction(self, adapter: Adapter) -> None:
        pid = adapter.start()
        record = self.record(adapter.gate, pid)
        assert not record.seen
        assert not record.exited
        assert record.verdict is None
        time.sleep(self.settle)
        assert not adapter.ran(pid)

    def test_the_record_tells_who_it_is(self, adapter: Adapter) -> None:
        first = self.record(adapter.gate, adapter.start())
        second = self.record(adapter.gate, adapter.start())
        assert 0 < first.start_key < second.start_key
        assert first.image_name == first.image_name.lower() == first.image_name.replace("/", "\\") != ""
        assert first.parent_pid > 0
        assert first.created is None or first.created.tzinfo is not None
        assert first.exit_status is None
        adapter.gate.allow(first, second)

    def test_allow_lets_it_run(self, adapter: Adapter) -> None:
        pid = adapter.start()
        assert adapter.gate.allow(self.record(adapter.gate, pid)) == [VerdictResult.DONE]
        self.until(lambda: adapter.ran(pid), "the first instruction")

    def test_block_ends_it_before_its_first_instruction(self, adapter: Adapter) -> None:
        pid = adapter.start()
        assert adapter.gate.block(self.record(adapter.gate, pid)) == [VerdictResult.DONE]
        assert adapter.exit_status(pid, self.patience) == STATUS_BLOCKED
        assert not adapter.ran(pid)

    def test_one_held_process_never_delays_another(self, adapter: Adapter) -> None:
        first = adapter.start()
        held = self.record(adapter.gate, first)
        second = adapter.start()
        adapter.gate.allow(self.record(adapter.gate, second))
        self.until(lambda: adapter.ran(second), "the second one's first instruction")
        assert not adapter.ran(first)
        adapter.gate.allow(held)
        self.until(lambda: adapter.ran(first), "the first one's first instruction")

    def test_fetch_gives_a_start_once_and_snapshot_marks_nothing(self, adapter: Adapter) -> None:
        pid = adapter.start()
        self.until(lambda: any(one.pid == pid and one.paused for one in adapter.gate.snapshot()), "it in a snapshot")
        assert [one.seen for one in adapter.gate.snapshot() if one.pid == pid] == [False]
        record = self.record(adapter.gate, pid)
        assert not record.seen
        assert [one for one in adapter.gate.fetch() if one.pid == pid] == []
        assert [(one.seen, one.paused) for one in adapter.gate.snapshot() if one.pid == pid] == [(True, True)]
        adapter.gate.allow(record)

    def test_a_second_verdict_changes_nothing(self, adapter: Adapter) -> None:
        pid = adapter.start()
        record = self.record(adapter.gate, pid)
        assert adapter.gate.allow(record) == [VerdictResult.DONE]
        self.until(lambda: adapter.ran(pid), "the first instruction")
        assert adapter.gate.block(record) == [VerdictResult.ANSWERED]
        time.sleep(self.settle)
        assert adapter.exit_status(pid, 0) is None

    def test_a_verdict_for_another_process_of_that_pid_or_for_none_changes_nothing(self, adapter: Adapter) -> None:
        pid = adapter.start()
        record = self.record(adapter.gate, pid)
        stale = replace(record, start_key=record.start_key + 1_000_000)
        unknown = replace(record, pid=0x7FFFFFF0)
        assert adapter.gate.block(stale, unknown) == [VerdictResult.STALE, VerdictResult.UNKNOWN]
        time.sleep(self.settle)
        assert not adapter.ran(pid)
        assert adapter.gate.allow(unknown, record, stale) == [
            VerdictResult.UNKNOWN,
            VerdictResult.DONE,
            VerdictResult.STALE,
        ]
        self.until(lambda: adapter.ran(pid), "the first instruction")

    def test_no_process_at_all_gives_no_answer(self, adapter: Adapter) -> None:
        assert adapter.gate.allow() == []
        assert adapter.gate.block() == []

    def test_an_exit_is_reported_once_with_its_status(self, adapter: Adapter) -> None:
        pid = adapter.start()
        record = self.record(adapter.gate, pid)
        adapter.gate.allow(record)
        self.until(lambda: adapter.ran(pid), "the first instruction")
        adapter.end(pid, 7)
        exited = self.record(adapter.gate, pid, lambda one: one.exited)
        assert exited == record
        assert exited.exit_status == 7
        assert (exited.verdict, exited.decided_by) == (procmon.ALLOW, procmon.DecidedBy.CONTROLLER)
        assert not exited.paused
        assert adapter.gate.fetch() == []

    def test_the_exit_of_a_blocked_process_is_reported_too(self, adapter: Adapter) -> None:
        pid = adapter.start()
        adapter.gate.block(self.record(adapter.gate, pid))
        exited = self.record(adapter.gate, pid, lambda one: one.exited)
        assert exited.exit_status == STATUS_BLOCKED

    def test_a_process_may_be_killed_while_it_is_held_and_a_verdict_then_comes_too_late(self, adapter: Adapter) -> None:
        pid = adapter.start()
        record = self.record(adapter.gate, pid)
        adapter.end(pid, 9)
        adapter.gate.allow(record)  # Windows ends a held process only when it is released: either result is right here
        self.record(adapter.gate, pid, lambda one: one.exited)
        assert adapter.gate.block(record)[0] in (VerdictResult.UNKNOWN, VerdictResult.STALE, VerdictResult.ANSWERED)
        assert not adapter.ran(pid)

    def test_wait_ends_with_its_timeout_with_wake_and_with_a_start(self, adapter: Adapter) -> None:
        gate = adapter.gate
        while gate.wait(0.05):
            gate.fetch()  # records left over from the adapter's own start
        began = time.monotonic()
        assert not gate.wait(0.05)
        assert time.monotonic() - began < self.patience
        gate.wake()
        assert gate.wait(self.patience), "a wake before the wait is kept"
        threading.Timer(0.05, gate.wake).start()
        assert gate.wait(self.patience)
        pid = adapter.start()
        began = time.monotonic()
        gate.allow(self.record(gate, pid))
        assert time.monotonic() - began < self.patience

    def test_every_call_but_wait_returns_promptly_though_a_process_is_held_and_a_thread_waits(
        self, adapter: Adapter
    ) -> None:
        gate = adapter.gate
        record = self.record(gate, adapter.start())
        other = replace(record, pid=0x7FFFFFF0)
        waiting = threading.Thread(target=lambda: gate.wait(self.patience), daemon=True)
        waiting.start()
        calls: list[Callable[[], object]] = [
            gate.fetch, gate.snapshot, lambda: gate.allow(other), lambda: gate.block(other), gate.wake,
            lambda: gate.allow(record), lambda: gate.block(record), gate.close,
        ]  # fmt: skip
        for number, call in enumerate(calls):
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            thread.join(self.patience)
            assert not thread.is_alive(), f"call {number} has not returned"
        waiting.join(self.patience)
        assert not waiting.is_alive()

    def test_close_releases_what_is_held_and_says_so_afterwards(self, adapter: Adapter) -> None:
        pids = [adapter.start(), adapter.start()]
        records = [self.record(adapter.gate, pids[0])]
        adapter.gate.close()
        adapter.gate.close()
        for pid in pids:
            self.until(partial(adapter.ran, pid), "what was held, running")
        assert adapter.gate.closed
        assert adapter.gate.ended
        for late in (adapter.gate.fetch, adapter.gate.snapshot, lambda: adapter.gate.allow(*records)):
            with pytest.raises(procmon.GateClosed):
                late()
        assert "\n" not in repr(adapter.gate)

    def test_close_ends_a_wait_in_another_thread(self, adapter: Adapter) -> None:
        gate = adapter.gate

        def drain() -> None:
            try:
                while not gate.ended:
                    gate.wait(None)
                    gate.fetch()
            except procmon.GateClosed:
                pass

        waiting = threading.Thread(target=drain, daemon=True)
        waiting.start()
        time.sleep(0.05)
        gate.close()
        waiting.join(self.patience)
        assert not waiting.is_alive()

    def test_verdicts_may_come_from_any_thread(self, adapter: Adapter) -> None:
        pids = [adapter.start() for _ in range(4)]
        records: dict[int, procmon.ProcessHelper] = {}
        end = time.monotonic() + self.patience
        while set(pids) - set(records) and time.monotonic() < end:
            adapter.gate.wait(0.2)
            records |= {record.pid: record for record in adapter.gate.fetch() if record.paused}
        answers: list[VerdictResult] = []
        threads = [
            threading.Thread(target=lambda pid=pid: answers.extend(adapter.gate.allow(records[pid])))
            for pid in pids * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        assert sorted(answer.value for answer in answers) == ["answered"] * 4 + ["done"] * 4
        for pid in pids:
            self.until(partial(adapter.ran, pid), "all of them, running")

    def test_a_monitor_allows_blocks_and_defers_on_it(self, adapter: Adapter) -> None:
        script = [procmon.ALLOW, procmon.BLOCK, procmon.DEFER]
        decided: dict[int, procmon.Verdict] = {}

        def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            verdict = script[len(decided)] if len(decided) < len(script) else procmon.ALLOW
            decided[process.pid] = verdict
            return verdict

        with self.monitored(adapter, decide) as monitor:
            pids = []
            for count in (1, 2, 3):
                pids.append(adapter.start())
                self.until(
                    lambda count=count: len(decided) >= count,  # type: ignore[misc]
                    "the callback, asked",
                )
            allowed, blocked, deferred = pids
            self.until(lambda: adapter.ran(allowed), "the allowed one, running")
            assert adapter.exit_status(blocked, self.patience) == STATUS_BLOCKED
            assert not adapter.ran(blocked)
            assert not adapter.ran(deferred)
            assert [process.pid for process in monitor.pending] == [deferred]
            monitor.allow(deferred)
            self.until(lambda: adapter.ran(deferred), "the deferred one, running")
            with pytest.raises(procmon.AlreadyAnswered):
                monitor.block(deferred)

    def test_a_process_that_is_answered_beside_a_monitor_is_decided_for_it_too(self, adapter: Adapter) -> None:
        with self.monitored(adapter, lambda process: procmon.DEFER) as monitor:
            pid = adapter.start()
            self.until(lambda: any(one.pid == pid for one in monitor.pending), "it, pending")
            [process] = [one for one in monitor.pending if one.pid == pid]
            assert adapter.gate.allow(process) == [VerdictResult.DONE]
            assert pid not in [one.pid for one in monitor.pending]
            [decision] = [one for one in monitor.history if one.process == process]
            assert (decision.verdict, decision.by) == (procmon.ALLOW, procmon.DecidedBy.CONTROLLER)
            with pytest.raises(procmon.AlreadyAnswered, match="allow by controller"):
                monitor.block(process)
            self.until(lambda: adapter.ran(pid), "it, running")

    def test_a_monitor_that_stops_releases_what_it_had_deferred(self, adapter: Adapter) -> None:
        with self.monitored(adapter, lambda process: procmon.DEFER) as monitor:
            pid = adapter.start()
            self.until(lambda: monitor.statistics.deferred >= 1, "the callback, asked")
            assert not adapter.ran(pid)
        self.until(lambda: adapter.ran(pid), "the deferred one, running")

    def test_a_monitor_reports_exits_on_it(self, adapter: Adapter) -> None:
        exits: list[procmon.ProcessHelper] = []
        with self.monitored(adapter) as monitor:
            monitor.on_exit(exits.append)
            pid = adapter.start()
            self.until(lambda: adapter.ran(pid), "it, running")
            adapter.end(pid, 5)
            self.until(lambda: any(one.pid == pid for one in exits), "the exit")
        [exited] = [one for one in exits if one.pid == pid]
        [decision] = [one for one in monitor.history if one.process == exited]
        assert (exited.exit_status, exited.decided_by) == (5, decision.by)
