"""What a monitor costs beside a bare loop over the gate."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import procmon

from .measure import Row, cpu_of, row

COUNT = 1000


class FreeGate:
    """A gate that costs nothing: it gives all its processes in one fetch, and notes how many were answered."""

    name, closed = "free", False

    def __init__(self, processes: list[procmon.ProcessHelper]) -> None:
        self._processes = processes
        self._left = len(processes)
        self._given = False
        self.done = threading.Event()
        self._closing = threading.Event()

    @property
    def ended(self) -> bool:
        """Only when closed."""
        return self.closed

    def wait(self, timeout: float | None = None) -> bool:
        """There is something once."""
        return not self._given or self._closing.wait(timeout)

    def wake(self) -> None:
        """No thread waits for long."""

    def fetch(self) -> list[procmon.ProcessHelper]:
        """All of them, once."""
        fetched, self._given = [] if self._given else self._processes, True
        return fetched

    def snapshot(self) -> list[procmon.ProcessHelper]:
        """All of them."""
        return self._processes

    def allow(self, *processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        """Count them."""
        self._left -= len(processes)
        if self._left <= 0:
            self.done.set()
        return [procmon.VerdictResult.DONE] * len(processes)

    block = allow

    def terminate(self, process: procmon.ProcessHelper) -> None:
        """Nothing."""

    def close(self) -> None:
        """End the wait."""
        self.closed = True
        self._closing.set()


def processes(count: int) -> list[procmon.ProcessHelper]:
    """Records of invented processes that are held."""
    return [
        procmon.ProcessHelper(
            pid=1000 + 4 * n, parent_pid=4, start_key=n + 1, image_name=rf"c:\tools\bin\tool{n}.exe", paused=True
        )
        for n in range(count)
    ]


def _allow(process: procmon.ProcessHelper) -> procmon.Verdict:
    return procmon.ALLOW


def rows() -> Iterator[Row]:
    """Measure."""
    records = processes(COUNT)
    yield row(
        "monitor: CPU of a start, 1,000 fetched at once",
        lambda: _monitored(records),
        lambda: cpu_of(lambda: _loop(records)),
        "a bare loop that makes a Decision for each",
        count=COUNT,
        at_most=9,
    )
    yield from _audited(records)
    yield row(
        "monitor: one start at a time, to its verdict (p50)",
        lambda: _latency(_start_monitor),
        lambda: _latency(_start_loop),
        "a loop in one thread",
        turns=5,
        at_most_ratio=1.2,
    )


def _loop(records: list[procmon.ProcessHelper]) -> None:
    gate = FreeGate(records)
    for process in gate.fetch():
        [result] = gate.allow(process)
        procmon.Decision(
            process=process, verdict=procmon.ALLOW, by=procmon.DecidedBy.CALLBACK, who="allow", result=result
        )


def _monitored(records: list[procmon.ProcessHelper], audit: procmon.Sink | None = None) -> float:
    gate = FreeGate(records)
    monitor = procmon.Monitor(gate, audit=audit)
    monitor.subscribe(_allow)
    begin = time.process_time()
    monitor.start()
    gate.done.wait()
    if audit is not None:
        monitor._engine.sinks.wait(60)
    seconds = time.process_time() - begin
    monitor.stop()
    return seconds


def _audited(records: list[procmon.ProcessHelper]) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        for ahead, goal in ((False, 20), (True, 30)):
            with procmon.AuditLog(Path(folder, f"{ahead}.jsonl"), write_ahead=ahead, max_bytes=None) as log:
                yield row(
                    f"monitor: CPU of a start with an audit log{', written ahead' if ahead else ''}",
                    lambda log=log: _monitored(records, log),  # type: ignore[misc]
                    lambda: _monitored(records),
                    "the same without",
                    count=COUNT,
                    at_most=goal,
                )


def _start_loop(gate: procmon.SimulatedGate) -> Callable[[], None]:
    def run() -> None:
        try:
            while not gate.closed:
                gate.wait(0.2)
                for process in gate.fetch():
                    if process.paused:
                        gate.allow(process)
        except procmon.GateClosed:
            pass

    threading.Thread(target=run).start()
    return gate.close


def _start_monitor(gate: procmon.SimulatedGate) -> Callable[[], None]:
    monitor = procmon.Monitor(gate)
    monitor.subscribe(_allow)
    monitor.start()
    return monitor.stop


def _latency(start: Callable[[procmon.SimulatedGate], Callable[[], None]]) -> float:
    """Median seconds from a start to its verdict."""
    gate = procmon.SimulatedGate()
    stop = start(gate)
    delays = []
    for _ in range(300):
        begin = time.perf_counter()
        gate.verdict_of(gate.start("a.exe"))
        delays.append(time.perf_counter() - begin)
        time.sleep(0.0005)
    stop()
    return statistics.median(delays)
