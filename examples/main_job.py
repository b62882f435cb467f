r"""The main job on real processes: each is held before its first instruction, and runs or ends as Python decides.

Needs: Windows; or Debian, where `python3 dev.py demo` runs it under Wine. Part two needs the driver, built and, on
Windows, test-signed, and an administrator. It exits with status 0 only if all results are as expected.

    part one: DebugGate, no driver
       0.02 s  allow  cmd.exe         704 from main_job
       0.19 s  allow  python.exe      724 from cmd.exe
       0.61 s  defer  python.exe      740 from python.exe
       0.63 s  allow  hostname.exe    756 from python.exe
       0.66 s  block  whoami.exe      772 from python.exe
       1.17 s  allow  python.exe      740 after 0.56 s
               hostname.exe printed 'VM'
               whoami.exe printed nothing, and its parent saw the status 0xC0000364
               the deferred python.exe ran after its release, and not before
               4 programs say that they ran; the build ended with 0
               nothing is left held
    part two: DriverGate, <DriverStatus ProcMonGate running, C:\procmon\procmon.sys>
       ...
    demo: 10 held, 8 allowed, 2 blocked, 0 missed
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import cast

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _source  # noqa: F401 - comes before procmon
import procmon
from procmon.win32.codes import code_of
from procmon.win32.kernel import is_wine

HERE = Path(__file__).resolve()
PYTHON = getattr(sys, "_base_executable", sys.executable)  # not a virtual environment's, which starts a second one
BUILD = f'cmd /c ""{PYTHON}" "{HERE}" builder"'  # the tree that is held; cmd removes the outermost quotes
BLOCKED = 0xC0000364
CREATION_FAILED = 1359  # ERROR_INTERNAL_ERROR: Wine on a busy machine, before there is a process to hold
LATER = 0.5  # seconds from the last other verdict to the deferred one's
PATIENCE = 60.0  # seconds for a whole part; after that it counts as hanging


def builder() -> None:
    """Play a build: start three programs, and report the result of each. A program that printed has run."""
    print("ran", os.getppid())  # the cmd that started this one has run, too
    print("ran", os.getpid(), flush=True)
    late = start([PYTHON, "-c", "import time; print(time.time())"])
    for name in ("hostname.exe", "whoami.exe", "late"):
        child = late if name == "late" else start([name])
        said = child.communicate()[0].strip()
        if said:
            print("ran", child.pid)
        print("child", name, child.returncode & 0xFFFFFFFF, said, flush=True)


def start(argv: str | list[str], tries: int = 3) -> "subprocess.Popen[str]":
    """Start a program with a pipe to its output."""
    try:
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        if not is_wine() or code_of(error) != CREATION_FAILED or tries == 1:
            raise
        return start(argv, tries - 1)


class Part:
    """One run of the build on one gate: the processes held, the verdicts, and the reports of the programs."""

    def __init__(self, title: str) -> None:
        print(title)
        self.began = time.monotonic()
        self.names = {os.getpid(): "main_job"}  # by pid, of this program and its descendants
        self.verdicts: dict[int, procmon.Verdict] = {}  # the last of each process
        self.deferred: procmon.ProcessHelper | None = None
        self.gone: set[int] = set()
        self.ran: set[int] = set()
        self.children: dict[str, tuple[int, str]] = {}  # name -> exit status, output
        self.as_expected = True

    def decide(self, process: procmon.ProcessHelper) -> procmon.Verdict:
        """Block whoami, defer a Python that a Python started, and allow the rest."""
        if process.parent_pid not in self.names:
            return procmon.ALLOW  # the driver holds all processes of the machine; the demo shows its own
        parent = self.names[process.parent_pid]
        self.names[process.pid] = process.name
        verdict = procmon.ALLOW
        if process.name == "whoami.exe":
            verdict = procmon.BLOCK
        elif process.name == parent == Path(PYTHON).name.lower():
            verdict, self.deferred = procmon.DEFER, process
        self.verdicts[process.pid] = verdict
        self.line(verdict, process, f"from {parent}")
        return verdict

    def line(self, verdict: procmon.Verdict, process: procmon.ProcessHelper, why: str) -> None:
        """Print one process, as a line."""
        passed = time.monotonic() - self.began
        print(f"  {passed:6.2f} s  {verdict.value}  {process.name:13} {process.pid:5} {why}", flush=True)

    def expect(self, holds: bool, text: str) -> None:
        """Print an expected result, and whether it holds."""
        print(f"{'            ' if holds else '  NOT SO:   '}{text}")
        self.as_expected &= holds

    def run(self, gate: procmon.Gate, build: "subprocess.Popen[str]") -> None:
        """Decide on each process of the build, and compare the results with the expected ones."""
        monitor = procmon.Monitor(gate)
        monitor.subscribe(self.decide)
        monitor.on_exit(lambda process: self.gone.add(process.pid))
        released = 0.0
        with monitor:
            watchdog = threading.Timer(PATIENCE, build.kill)
            watchdog.start()
            assert build.stdout is not None
            for line in build.stdout:
                self.take(line)
                if line.startswith("child whoami.exe") and self.deferred is not None:
                    time.sleep(LATER)
                    released = time.time()
                    decision = monitor.allow(self.deferred)
                    self.verdicts[self.deferred.pid] = procmon.ALLOW
                    self.line(procmon.ALLOW, self.deferred, f"after {decision.held_for:.2f} s")
            watchdog.cancel()
            while not self.gone.issuperset(self.verdicts) and time.monotonic() < self.began + PATIENCE:
                time.sleep(0.01)
            self.compare(build.wait(), released)
            self.expect(monitor.error is None and not monitor.pending, "nothing is left held")
            if isinstance(gate, procmon.DriverGate):  # the driver counts all processes of the machine
                held, blocked = gate.info().counters.held, gate.info().counters.blocked
                self.expect(held >= len(self.verdicts) and blocked >= 1, f"the driver held {held}, blocked {blocked}")

    def take(self, line: str) -> None:
        """Read one line of the build's report."""
        kind, _, rest = line.strip().partition(" ")
        if kind == "ran":
            self.ran.add(int(rest))
        elif kind == "child":
            name, status, said = [*rest.split(" ", 2), ""][:3]
            self.children[name] = int(status), said
        else:
            self.expect(False, f"the build should not have printed {line!r}")

    def compare(self, status: int, released: float) -> None:
        """Compare the reports of the programs with the verdicts."""
        hostname, whoami, late = (self.children.get(name, (-1, "")) for name in ("hostname.exe", "whoami.exe", "late"))
        self.expect(hostname[0] == 0 and hostname[1] != "", f"hostname.exe printed {hostname[1]!r}")
        printed = f"whoami.exe printed {repr(whoami[1]) if whoami[1] else 'nothing'}"
        self.expect(whoami == (BLOCKED, ""), f"{printed}, and its parent saw the status 0x{whoami[0]:X}")
        on_time = late[0] == 0 and released > 0 and float(late[1] or 0) > released - 0.1
        self.expect(on_time, "the deferred python.exe ran after its release, and not before")
        ran = len(self.ran)
        self.expect(ran == 4 and status == 0, f"{ran} programs say that they ran; the build ended with {status}")

    @property
    def missed(self) -> int:
        """The number of processes that ran, by their own or their parents' reports, without being held."""
        return len(self.ran - set(self.verdicts))


def part_one() -> Part:
    """One tree, through the debug API."""
    part = Part("part one: DebugGate, no driver")
    with procmon.DebugGate.run(BUILD, stdout=subprocess.PIPE, text=True) as gate:
        part.run(gate, cast("subprocess.Popen[str]", gate.popen))
    return part


def part_two() -> Part:
    """The whole machine, through the driver: installed, started, used, stopped, deleted."""
    service = procmon.DriverService()
    with ExitStack() as undo:
        service.install()
        undo.callback(service.delete)
        service.start()
        undo.callback(service.stop)
        part = Part(f"part two: DriverGate, {service.status()}")
        gate = undo.enter_context(procmon.DriverGate(hold_timeout=PATIENCE, exempt_descendants=False))
        if is_wine():  # Wine's kernel notifies no driver of a new process, so a helper does
            sys.path.insert(0, str(HERE.parents[1] / "driver" / "wine"))
            from kernel import WineKernel

            part.run(gate, undo.enter_context(WineKernel()).run(BUILD, stdout=subprocess.PIPE, text=True))
        else:
            part.run(gate, start(BUILD))
    part.expect(service.status().state is procmon.DriverState.NOT_INSTALLED, "the driver is stopped and deleted")
    return part


def main() -> int:
    """Run both parts; return the exit status."""
    try:
        parts = [part_one(), part_two()]
    except procmon.ProcmonError as error:
        print(f"demo: stopped: {type(error).__name__}: {error}")
        return 1
    verdicts = [verdict for part in parts for verdict in part.verdicts.values()]
    allowed, blocked = verdicts.count(procmon.ALLOW), verdicts.count(procmon.BLOCK)
    missed = sum(part.missed for part in parts)
    print(f"demo: {len(verdicts)} held, {allowed} allowed, {blocked} blocked, {missed} missed")
    return 0 if missed == 0 and len(verdicts) == allowed + blocked and all(part.as_expected for part in parts) else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["builder"]:
        builder()
    else:
        sys.exit(main())
