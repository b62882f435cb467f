"""The rings of tests, and how `dev.py test` runs them: in parallel processes, each with some of the files.

A ring is a folder below tests with the needs of its tests. A large ring is divided among several jobs; a job is one
pytest process. One more job runs in parallel than there are processors, because jobs often wait. Each run gives a job
the same files, and jobs share nothing: on Debian each job of the Windows ring has its own Wine prefix. A job's output
goes to ``.dev/reports`` and is shown if a test failed.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from setup import programs, wine
from setup.project import DEV, ROOT, report
from setup.venv import fleet_venv, sigma_venv, venv
from setup.windows_python import private_windows, run_windows, windows_python
from setup.windows_python32 import windows_python32

WINDOWS = sys.platform == "win32"
REPORTS = DEV / "reports"
OK, TESTS_FAILED, INTERRUPTED, NO_TESTS = 0, 1, 2, 5  # of pytest's statuses


@dataclass(frozen=True)
class Ring:
    """A folder of tests and how it is run."""

    name: str
    is_about: str
    drivers: tuple[str, ...] = ()
    """The variants of the driver that its tests need."""
    in_windows: bool = False
    jobs: int = 1
    """The number of processes that share its files."""
    python: Callable[[], Path] = venv
    """The Python of this machine that runs it, if it does not run in Windows."""

    @property
    def folder(self) -> str:
        """Its path from the project's root."""
        return f"tests/{self.name}"

    def files(self) -> list[Path]:
        """Its files of tests."""
        return sorted((ROOT / self.folder).glob("test_*.py"))


RINGS = [
    Ring(
        "windows",
        "real Windows calls, real processes, the driver",
        ("wine", "wine-release", "client-x64", "client-x86"),
        in_windows=True,
        jobs=6,
    ),
    Ring(
        "core",
        "the driver's core, as a library of this machine",
        ("x64", "x86", "arm64", "wine", "host", "kernel-address-undefined", "kernel-thread"),
    ),
    Ring("unit", "Python alone", jobs=3),
    Ring("examples", "each example, as a person runs it"),
    Ring("fleet", "a policy replayed over many logs, on a cluster of Dask", python=fleet_venv),
    Ring("sigma_backend", "Sigma rules as a policy, with pySigma and sigma-cli", python=sigma_venv),
]
"""The longest ones come first."""


@dataclass
class Count:
    """The numbers of tests by result, and the tests that did not pass."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    collected: int = 0
    ended: bool = False

    @classmethod
    def read(cls, record: Path) -> "Count":
        """Read a record of tests/ring_record.py; that of an interrupted run is shorter and has no end."""
        count = cls()
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        for what, _, of in (line.partition("\t") for line in lines):
            if what == "passed":
                count.passed += 1
            elif what == "failed":
                count.failed.append(of)
            elif what == "skipped":
                count.skipped.append(of)
            elif what == "collected":
                count.collected = int(of)
            elif what == "end":
                count.ended = True
        return count

    @property
    def ran(self) -> int:
        """How many tests ended."""
        return self.passed + len(self.failed) + len(self.skipped)


@dataclass(frozen=True)
class Job:
    """One pytest process: a ring, or a part of it."""

    ring: Ring
    name: str
    arguments: tuple[str, ...]
    """For pytest: the ring's folder, or its files, and the user's arguments."""
    is_selection: bool = False
    """The user named some tests; this ring may have none of them."""

    @property
    def record(self) -> Path:
        """Where ring_record.py writes: one file for each dev.py, several of which may run at once."""
        return REPORTS / f"{self.name}.{os.getpid()}.tests"

    @property
    def log(self) -> Path:
        """The job's output, if it does not go to the terminal."""
        return REPORTS / f"{self.name}.log"

    @property
    def wine_log(self) -> Path:
        """Wine's own standard error: tests of crashes have lines there that look like a crash."""
        return REPORTS / f"{self.name}.wine.log"


@dataclass(frozen=True)
class Result:
    """The result of a job."""

    job: Job
    count: Count
    status: int
    seconds: float

    @property
    def cut_off(self) -> bool:
        """Was the run interrupted, so that some of its tests never ran?"""
        return not self.count.ended or self.status not in (OK, TESTS_FAILED, NO_TESTS)

    @property
    def complaints(self) -> list[str]:
        """The problems, one per line; empty when there are none."""
        count, name = self.count, self.job.name
        lines = [f"ring {name}: failed: {test}" for test in count.failed]
        lines += [f"ring {name}: skipped: {test}; a test runs, or it is not there" for test in count.skipped]
        if self.cut_off:
            of = f" of {count.collected}" if count.collected else ""
            lines.append(f"ring {name}: CUT OFF after {count.ran}{of} tests (pytest's status: {self.status})")
        elif not count.ran and not (self.job.is_selection and self.status == NO_TESTS):
            lines.append(f"ring {name}: ran no test (pytest's status: {self.status})")
        elif self.status == TESTS_FAILED and not count.failed:
            lines.append(f"ring {name}: pytest failed, and no test did")
        return lines

    def __str__(self) -> str:
        count = self.count
        skipped = f", {len(count.skipped)} skipped" if count.skipped else ""
        end = ", CUT OFF" if self.cut_off else ""
        passed = f"{count.passed} passed, {len(count.failed)} failed{skipped}{end}"
        return f"ring {self.job.name}: {passed}, {self.seconds:.0f} s"


# ---------------------------------------------------------------------------------------------------- which jobs


def jobs_for(given: Sequence[str]) -> list[Job]:
    """The jobs for these arguments of `dev.py test`: all rings, or those whose files or folders are named."""
    if not given:
        return [job for ring in RINGS for job in divided(ring)]
    chosen = [(ring, arguments_for(ring, given)) for ring in RINGS]
    return [Job(ring, ring.name, tuple(found), True) for ring, found in chosen if found is not None]


def divided(ring: Ring) -> list[Job]:
    """The jobs of a whole ring. The files, from the largest to the smallest, go to the job with the least so far."""
    if ring.jobs == 1:
        return [Job(ring, ring.name, (ring.folder,))]
    shares: list[list[Path]] = [[] for _ in range(ring.jobs)]
    sizes = {path: path.stat().st_size for path in ring.files()}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        min(shares, key=lambda share: sum(sizes[each] for each in share)).append(path)
    names = [tuple(sorted(path.relative_to(ROOT).as_posix() for path in share)) for share in shares if share]
    return [Job(ring, f"{ring.name}-{number}", files) for number, files in enumerate(names, 1)]


def arguments_for(ring: Ring, given: Sequence[str]) -> list[str] | None:
    """The arguments of pytest for this ring, or None if the user's arguments name only files of other rings."""
    paths = [argument for argument in given if (ROOT / argument.partition("::")[0]).exists()]
    options = [argument for argument in given if argument not in paths]
    if not paths:
        return [*options, ring.folder]
    folder = ROOT / ring.folder
    mine = [path for path in paths if (ROOT / path.partition("::")[0]).resolve().is_relative_to(folder)]
    return [*options, *mine] if mine else None


# ------------------------------------------------------------------------------------------------------- running


def run(jobs: Sequence[Job], long: bool = False) -> list[Result]:
    """Run jobs and report each as it ends. A single job, and the long tests, run alone and print to the terminal."""
    prepare({job.ring for job in jobs})
    os.environ["PROCMON_LONG"] = "1" if long else ""
    at_once = 1 if long else min((os.cpu_count() or 1) + 1, 4, len(jobs))
    stopped = threading.Event()
    if at_once == 1:
        return [reported(run_job(job, stopped, None)) for job in jobs]
    results = []
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(run_job, job, stopped, job.log) for job in jobs]
        try:
            for future in as_completed(futures):
                result = reported(future.result())
                results.append(result)
                if result.complaints:
                    sys.stdout.write(result.job.log.read_text(encoding="utf-8", errors="replace"))
                    sys.stdout.flush()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(results, key=lambda result: jobs.index(result.job))


def prepare(rings: set[Ring]) -> None:
    """Make the parts that the jobs share before the first job starts."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    for ring in rings:
        if WINDOWS or not ring.in_windows:
            ring.python()
    if any(ring.in_windows for ring in rings) and not WINDOWS:
        windows_python()
        windows_python32()  # some tests run it
        wine.shared_prefix()


def run_job(job: Job, stopped: threading.Event, output: Path | None) -> Result:
    """Run pytest on the files of one job; `output` None is our own standard output."""
    job.record.unlink(missing_ok=True)
    # Paths from the project's root mean the same to a Windows program under Wine.
    record = job.record.relative_to(ROOT).as_posix()
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ring_record", f"--ring-record={record}"]
    if os.environ["PROCMON_LONG"]:  # longer than the search through every order of the handshake on a busy machine
        command += ["-o", "faulthandler_timeout=1800"]
    began = time.monotonic()
    timeout = 3600.0 if os.environ["PROCMON_LONG"] else 1200.0
    attachment = programs.Attachment(timeout, stopped, silent_input=True, output=output)
    if job.ring.in_windows and not WINDOWS:
        attachment = replace(attachment, errors=job.wine_log)
        with private_windows() as prefix:
            status = run_windows([*command, *job.arguments], prefix, attachment)
    else:
        python = str(job.ring.python())
        status = programs.run_attached([python, *command, *job.arguments], programs.with_paths(), attachment)
    count = Count.read(job.record)
    job.record.unlink(missing_ok=True)
    return Result(job, count, status, time.monotonic() - began)


def reported(result: Result) -> Result:
    """Report a result in one line."""
    report(str(result))
    if result.cut_off and result.job.wine_log.exists():
        sys.stderr.write(result.job.wine_log.read_text(encoding="utf-8", errors="replace"))
    return result


def summary(results: Sequence[Result], given: Sequence[str], line: Callable[[str], None] = report) -> int:
    """Name the failures, print how many tests passed and failed, and return the exit status.

    The run fails if a test failed or was skipped, or if a job was interrupted or ran no test. With arguments of the
    user, one test that ran is enough.
    """
    complaints = [complaint for result in results for complaint in result.complaints]
    if given and not any(result.count.ran for result in results):
        complaints.append("no test has these names")
    for complaint in complaints:
        line(complaint)
    print(f"{sum(result.count.passed for result in results)} passed, {len(complaints)} failed", flush=True)
    return 1 if complaints else 0
