"""Many real starts, many held at once, with random verdicts and delays: each is decided once, and nothing is left.

200 starts in every run, 2,000 with `dev.py test --long`.
"""

import ctypes
import gc
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from kernel import WineKernel

import procmon
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, ProcessHelper, Verdict
from procmon.win32.kernel import is_wine
from trees import BLOCKED

STARTS = 2000 if os.environ.get("PROCMON_LONG") else 200
AT_ONCE = 32
Opened = Callable[[int], AbstractContextManager[tuple[procmon.Gate, Callable[[], str]]]]

LONG = 600.0  # seconds; only a hang reaches it

TREE = f"""
import subprocess, sys
from collections import deque
def start(number):
    global failed
    while True:
        try:
            return subprocess.Popen(["cmd", "/c", "exit", str(number % 100)])
        except OSError:
            failed += 1
running, statuses, failed = deque(), [], 0
for number in range(STARTS):
    if len(running) == {AT_ONCE}:
        statuses.append(running.popleft().wait())
    running.append(start(number))
statuses += [process.wait() for process in running]
print(failed, *(status & 0xFFFFFFFF for status in statuses))
"""
"""Prints how many creations failed, and the exit statuses of the others. Wine's CreateProcess sometimes fails on a busy
machine: before the process exists, or while it waits for the first steps of a process that was blocked."""


class Decider:
    """Decides at random: at once, or later from another thread; remembers its verdicts."""

    def __init__(self, starts: int) -> None:
        self.first = min(AT_ONCE, starts)  # this many are held before the first is answered
        self.monitor: procmon.Monitor | None = None
        self.said: dict[int, Verdict] = {}
        self.most_held = 0
        self.came = 0
        self.threads: list[threading.Thread] = []
        self._enough = self.first
        self._chance = random.Random(2026)
        self._later: list[tuple[ProcessHelper, Verdict]] = []
        self._lock = threading.Lock()

    def __call__(self, process: ProcessHelper) -> Verdict:
        words = (process.command_line or "").split()
        if process.name != "cmd.exe" or words[1:3] != ["/c", "exit"]:
            return ALLOW
        with self._lock:
            verdict = self._chance.choice([ALLOW, ALLOW, BLOCK])
            assert process.start_key not in self.said, "asked about twice"
            self.said[process.start_key] = verdict
            self._later.append((process, verdict))
            self.came += 1
            due = len(self._later) >= self._enough
            if due:
                self._enough = self._chance.randrange(1, AT_ONCE + 1)
        assert self.monitor is not None
        self.most_held = max(self.most_held, len(self.monitor.pending))
        if due:
            thread = threading.Thread(target=self.answer_some)
            self.threads.append(thread)
            thread.start()
        return DEFER

    def answer_some(self) -> None:
        """Answer all waiting processes, in random order."""
        with self._lock:
            some, self._later = self._later, []
            self._chance.shuffle(some)
        assert self.monitor is not None
        for process, verdict in some:
            try:
                (self.monitor.allow if verdict is ALLOW else self.monitor.block)(process)
            except procmon.NotHeld:  # its DEFER has not arrived yet
                with self._lock:
                    self._later.append((process, verdict))


@contextmanager
def debug_gate(starts: int) -> Iterator[tuple[procmon.Gate, Callable[[], str]]]:
    gate = procmon.DebugGate.run(
        [sys.executable, "-c", f"STARTS = {starts}\n{TREE}"], stdout=subprocess.PIPE, text=True
    )
    yield gate, lambda: str(gate.communicate(LONG)[0])


@contextmanager
def driver_gate(starts: int) -> Iterator[tuple[procmon.Gate, Callable[[], str]]]:
    with procmon.DriverService():
        gate = procmon.DriverGate(hold_timeout=None if is_wine() else 30.0, exempt_descendants=False)
        with WineKernel() as kernel:
            start = kernel.run if is_wine() else subprocess.Popen
            command = [sys.executable, "-c", f"STARTS = {starts}\n{TREE}"]
            program = start(subprocess.list2cmdline(command), stdout=subprocess.PIPE, text=True)
            yield gate, lambda: str(program.communicate(timeout=LONG)[0])


def handles() -> int:
    """The number of this process' handles, counted in the list of all: Wine's counts are sizes of its tables."""
    ntdll = ctypes.WinDLL("ntdll")
    extended_handle_information, width = 64, ctypes.sizeof(ctypes.c_void_p)
    buffer = ctypes.create_string_buffer(64 * 2**20)
    assert ntdll.NtQuerySystemInformation(extended_handle_information, buffer, len(buffer), None) == 0
    # SYSTEM_HANDLE_INFORMATION_EX: the number, reserved; for each: object, pid, handle, access, and 12 bytes more
    entry = 3 * width + 16
    count = int.from_bytes(buffer.raw[:width], "little")
    raw = buffer.raw[: 2 * width + count * entry]
    pids = (raw[at + width : at + 2 * width] for at in range(2 * width, len(raw), entry))
    return sum(int.from_bytes(pid, "little") == os.getpid() for pid in pids)


def memory_left() -> float:
    """MiB allocated since the tracing began and still in use."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / 2**20


@dataclass
class Outcome:
    """The result of a load; it keeps no reference to the objects of the run."""

    gate: str
    failed: int
    statuses: list[int]
    said: dict[int, Verdict]
    verdicts: dict[int, Verdict]
    decided: int
    records: int
    pending: int
    most_held: int


def load(opened: Opened, starts: int) -> Outcome:
    """Run the tree over a gate, and decide at random."""
    decider = Decider(starts)
    with opened(starts) as (gate, output):
        monitor = decider.monitor = procmon.Monitor(gate, workers=4, deadline=None, history=10 * STARTS)
        monitor.subscribe(decider)
        over = threading.Event()

        def answer_the_rest() -> None:
            """When no more start, the tree waits for the held ones."""
            came = -1
            while not over.wait(0.2):
                if came == decider.came >= decider.first:
                    decider.answer_some()
                came = decider.came

        answerer = threading.Thread(target=answer_the_rest)
        monitor.start()
        answerer.start()
        printed = output()
        over.set()
        for thread in (answerer, *decider.threads):
            thread.join()
        monitor.stop()
    failed, *statuses = map(int, printed.split())
    decided = [one for one in monitor.history if one.process.start_key in decider.said]
    return Outcome(
        gate=type(gate).__name__,
        failed=failed,
        statuses=statuses,
        said=decider.said,
        verdicts={one.process.start_key: one.verdict for one in decided},
        decided=len(decided),
        records=len({one.process for one in monitor.history}),
        pending=len(monitor.pending),
        most_held=decider.most_held,
    )


@pytest.mark.promise(
    "Each of many real starts, up to 32 held at once, is decided exactly once, and none stays held",
    gate="DebugGate, DriverGate",
    figure="30 November 2026, each gate: 2,000 starts, 2,000 decided, 0 missed, 32 held at most, 0.2 MiB left",
)
@pytest.mark.parametrize("opened", [debug_gate, driver_gate])
def test_each_of_many_real_starts_is_decided_once_and_nothing_is_left(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    load(opened, 8)  # imports and caches of the first use are no growth
    tracemalloc.start()
    before = handles()
    outcome = load(opened, STARTS)
    end = time.monotonic() + PATIENCE
    while (growth := memory_left()) >= 1 and time.monotonic() < end:
        time.sleep(0.1)  # threads of the monitor end after its stop, and have it until then
    tracemalloc.stop()
    unborn = len(outcome.said) - STARTS  # held and blocked, so that their creation failed
    with capsys.disabled():
        print(f"\n{outcome.gate}: {STARTS} starts, {outcome.decided} decided, {max(0, -unborn)} missed, ", end="")
        print(f"{outcome.most_held} held at most, {growth:.1f} MiB left")
    assert 0 <= unborn <= outcome.failed and (is_wine() or not outcome.failed)
    assert len(outcome.statuses) == STARTS and len(outcome.said) == outcome.decided == len(outcome.verdicts)
    assert outcome.verdicts == outcome.said
    blocked = sum(verdict is BLOCK for verdict in outcome.said.values())
    assert outcome.statuses.count(BLOCKED) == blocked - unborn
    assert outcome.pending == 0 and outcome.most_held >= AT_ONCE
    assert growth < 1
    # Windows closes the two handles of the debug API for each process when its exit is continued; Wine keeps them, also
    # those of a bare debug loop. Eight more are left to Python, for threads that have just ended.
    kept_by_wine = 2 * outcome.records if is_wine() else 0
    deadline = time.monotonic() + PATIENCE
    while (left := handles() - before - kept_by_wine) > 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left <= 8
