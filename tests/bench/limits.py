"""What must not grow: the memory of a monitor with its decisions, and the time of a start with those beside it."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import procmon

from .measure import Row, resident_bytes, row, row_of
from .monitor import FreeGate, processes

DECISIONS = 1_000_000
WARM = 200_000
BATCH = 1000
FEW, MANY = 2_000, 20_000
GOAL_KIB = 1024


def rows() -> Iterator[Row]:
    """Measure."""
    yield row(
        f"a start left when the gate has ended, of {MANY:,}",
        lambda: _ended(MANY) / MANY,
        lambda: _ended(FEW) / FEW,
        f"one of {FEW:,}",
        turns=5,
        goal="linear, so 1x; quadratic would be 10x",
        at_most_ratio=2,
    )
    command = [sys.executable, "-c", f"from bench.limits import growth; print(*growth({WARM}, {DECISIONS}))"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    before, grown, first, later = map(float, answer)
    yield row_of(
        f"memory over {DECISIONS:,} decisions",
        [grown / 1024],
        [before / 1024],
        "what it had before",
        unit="KiB",
        at_most=GOAL_KIB,
    )
    each, compared = [later / DECISIONS * 1e6], [first / WARM * 1e6]
    yield row_of("CPU of each of these decisions", each, compared, f"the {WARM:,} before them", at_most_ratio=1.3)


class _EndingGate(FreeGate):
    """A gate whose tree has gone as soon as all was fetched, as `procmon.DebugGate` on a tree that was killed."""

    @property
    def ended(self) -> bool:
        return self._given or self.closed


def _ended(count: int) -> float:
    """Seconds of CPU from the start of a monitor until all is answered that its gate left behind."""
    gate = _EndingGate(processes(count))
    monitor = procmon.Monitor(gate)
    monitor.subscribe(lambda process: procmon.ALLOW)
    begin = time.process_time()
    monitor.start()
    gate.done.wait()
    seconds = time.process_time() - begin
    monitor.stop()
    return seconds


class _EndlessGate(FreeGate):
    """A gate that gives the same processes again, under new start keys, as soon as all were answered."""

    def __init__(self, count: int) -> None:
        super().__init__([])
        self.count = count
        self.answered = 0
        self.marks: list[tuple[int, float]] = []
        """Memory and CPU of this process at each fetch."""
        self._answered_all = threading.Event()
        self._answered_all.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._answered_all.wait(timeout)

    def fetch(self) -> list[procmon.ProcessHelper]:
        if not self._answered_all.is_set() or self.done.is_set():
            return []
        self._answered_all.clear()
        self.marks.append((resident_bytes(), time.process_time()))
        key = self.answered
        return [
            procmon.ProcessHelper(
                pid=4 * n + 8, parent_pid=4, start_key=key + n + 1, image_name=r"c:\tools\a.exe", paused=True
            )
            for n in range(BATCH)
        ]

    def allow(self, *processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
        self.answered += len(processes)
        if self.answered >= self.count:
            self.done.set()
        if self.answered % BATCH == 0:
            self._answered_all.set()
        return [procmon.VerdictResult.DONE] * len(processes)


def growth(warm: int, count: int) -> tuple[int, int, float, float]:
    """The most memory that this process has in `warm` decisions of one monitor, and what it has more in as many at the
    end of `count` others; the seconds of CPU of both. What is kept comes and goes in steps, hence the most.
    """
    gate = _EndlessGate(warm + count)
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: procmon.ALLOW)
        gate.done.wait()
    batches = warm // BATCH
    memory, cpu = zip(*gate.marks, strict=True)
    before = max(memory[:batches])
    return before, max(memory[-batches:]) - before, cpu[batches] - cpu[0], cpu[-1] - cpu[batches]
