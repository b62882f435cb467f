#!/usr/bin/env python3
"""One script for everything a person does with this project; the same commands on Debian and on Windows.

    python3 dev.py demo                       the main job, on real processes
    python3 dev.py test [--long] [ARGS]       everything that can be tested here; ARGS go to pytest
    python3 dev.py check                      ruff, mypy for both systems, layers, layout
    python3 dev.py driver [--debug]           build/driver/{x64,x86,arm64,wine}/procmon.sys and the host library
    python3 dev.py wine [--fresh] -- ARGS     the Windows Python on ARGS, with the package on its path
    python3 dev.py bench                      how long things take, measured
    python3 dev.py wheel                      dist/procmon_gate-*.whl

Each command sets up what it needs (on Debian as root or by sudo), tells so in a line, and is quick when nothing is
missing. docs/CONTRIBUTING.md tells more.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

if sys.version_info < (3, 11):
    sys.exit("dev.py: this needs Python 3.11 or newer")

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests"))

import layout  # noqa: E402 - it lies in tests, which is on the path only now
from setup import debian, distribution, programs, project  # noqa: E402
from setup.locks import locked  # noqa: E402
from setup.project import Stop, report  # noqa: E402
from setup.venv import fleet_venv, sigma_venv, venv  # noqa: E402
from setup.windows_python import private_windows, run_windows  # noqa: E402
from setup.windows_python32 import windows_python32  # noqa: E402

WINDOWS = sys.platform == "win32"


# ------------------------------------------------------------------------------------------------------ driver


DRIVERS = ["x64", "x86", "arm64", "wine", "host"]
FOR_TESTS = ["wine-release", "client-x64", "client-x86"]  # the last two: a program, which Wine runs in both bitnesses


def build_drivers(variants: Sequence[str], debug: bool = False) -> None:
    """Build these of DRIVERS and FOR_TESTS; what is up to date is left as it is."""
    debian.install(debian.DRIVER)
    builder = _module(ROOT / "driver" / "build.py")
    with locked("build", "it builds the driver"):
        try:
            builder.build(variants, debug=debug)
        except builder.BuildError as error:
            raise Stop(f"the driver was not built\n{error}") from error


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise Stop(f"{path.relative_to(ROOT)} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def driver(options: argparse.Namespace) -> int:
    """Build the drivers of all architectures, the one for Wine, and the core as a library of this machine."""
    build_drivers(DRIVERS, options.debug)
    return 0


# ----------------------------------------------------------------------------------------------- the Windows Python


def wine(options: argparse.Namespace) -> int:
    """Run the Windows Python, under Wine on Debian, and return its exit status."""
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if options.fresh:
        with private_windows() as prefix:
            return run_windows(arguments, prefix)
    return run_windows(arguments)


def demo(options: argparse.Namespace) -> int:
    """Do the main job on real processes: hold, ask Python, let go or block, without and with the driver."""
    if not WINDOWS:
        build_drivers(["wine"])
    with private_windows() as prefix:
        return run_windows(["examples/main_job.py"], prefix)


# -------------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True)
class Ring:
    """A folder of tests and what runs them."""

    name: str
    is_about: str
    drivers: tuple[str, ...] = ()  # what of the driver it needs
    in_windows: bool = False
    python: Callable[[], Path] = venv  # of this machine, where it does not run in Windows

    @property
    def folder(self) -> str:
        """Its path from the project's root."""
        return f"tests/{self.name}"


RINGS = [
    Ring("unit", "Python alone"),
    Ring("core", "the driver's core, as a library of this machine", tuple(DRIVERS)),
    Ring("windows", "real Windows calls, real processes, the driver", ("wine", *FOR_TESTS), in_windows=True),
    Ring("examples", "each example, as a person runs it"),
    Ring("fleet", "a policy replayed over many logs, on a cluster of Dask", python=fleet_venv),
    Ring("sigma_backend", "Sigma rules as a policy, with pySigma and sigma-cli", python=sigma_venv),
]


@dataclass
class Count:
    """How many tests of a ring, or of all, ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @classmethod
    def read(cls, junit: Path) -> "Count":
        """Count the cases of a JUnit report; an error in setting a test up or down is a failure."""
        count = cls()
        for case in ElementTree.parse(junit).getroot().iter("testcase"):
            outcomes = {child.tag for child in case}
            if outcomes & {"failure", "error"}:
                count.failed += 1
            elif "skipped" in outcomes:
                count.skipped += 1
            else:
                count.passed += 1
        return count


def test(options: argparse.Namespace) -> int:
    """Run the rings and say what came of each; the last line sums them up.

    It fails if a test failed, if one was skipped, or if a ring ran none. With arguments for pytest, only the rings
    whose files they name are run, or all if they name none, and it is enough that one test ran.
    """
    debian.install(debian.TESTS)
    chosen = [(ring, arguments) for ring in RINGS if (arguments := arguments_for(ring, options.pytest)) is not None]
    build_for([ring for ring, _ in chosen])
    total = Count()
    complaints = []
    for ring, arguments in chosen:
        report(f"ring {ring.name}: {ring.is_about}")
        began = time.monotonic()
        count, status = run_ring(ring, arguments, options.long)
        report(f"ring {ring.name}: {count.passed} passed, {count.failed} failed, {time.monotonic() - began:.0f} s")
        total = Count(*(getattr(total, name) + getattr(count, name) for name in ("passed", "failed", "skipped")))
        complaints += complaints_about(ring, count, status, bool(options.pytest))
    if options.pytest and not total.passed + total.failed:
        complaints.append("no test has these names")
    for complaint in complaints:
        report(complaint)
    print(f"{total.passed} passed, {total.failed or len(complaints)} failed", flush=True)
    return 1 if total.failed or complaints else 0


def build_for(rings: Sequence[Ring]) -> None:
    """Build what these rings need; on Windows that is the core alone, since drivers come from the WDK there."""
    wanted = [name for name in [*DRIVERS, *FOR_TESTS] if any(name in ring.drivers for ring in rings)]
    if WINDOWS:
        wanted = [name for name in wanted if name == "host"]
    if wanted:
        build_drivers(wanted)
    if debugged := [name for name in wanted if name in ("x64", "x86", "arm64")]:
        build_drivers(debugged, debug=True)


def arguments_for(ring: Ring, given: Sequence[str]) -> list[str] | None:
    """What pytest gets for this ring, or None if the arguments name files, and none of this ring's."""
    paths = [argument for argument in given if (ROOT / argument.partition("::")[0]).exists()]
    options = [argument for argument in given if argument not in paths]
    if not paths:
        return [*options, ring.folder]
    folder = ROOT / ring.folder
    mine = [path for path in paths if (ROOT / path.partition("::")[0]).resolve().is_relative_to(folder)]
    return [*options, *mine] if mine else None


def run_ring(ring: Ring, arguments: Sequence[str], long: bool) -> tuple[Count, int]:
    """Run pytest on one ring. Returns what its report says, and its exit status."""
    junit = project.DEV / "reports" / f"{ring.name}.xml"
    junit.parent.mkdir(parents=True, exist_ok=True)
    junit.unlink(missing_ok=True)
    # Paths from the project's root mean the same to a Windows program under Wine.
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={junit.relative_to(ROOT)}", *arguments]
    os.environ["PROCMON_LONG"] = "1" if long else ""
    timeout = 3600.0 if long else 1200.0
    if ring.in_windows and not WINDOWS:
        windows_python32()  # which some of its tests start
        with private_windows() as prefix:
            status = run_windows(command, prefix, timeout, silent_input=True)
    else:
        command.insert(0, str(ring.python()))
        status = programs.run_attached(command, programs.with_paths(), timeout, silent_input=True)
    return (Count.read(junit) if junit.exists() else Count()), status


def complaints_about(ring: Ring, count: Count, status: int, is_selection: bool) -> list[str]:
    """What is wrong with how a ring ran, besides the tests that failed."""
    no_tests = 5  # pytest's status when it found none
    complaints = []
    if count.skipped:
        complaints.append(f"ring {ring.name}: {count.skipped} skipped; a test runs or is not there")
    if not count.passed + count.failed and not (is_selection and status == no_tests):
        complaints.append(f"ring {ring.name} ran no test (pytest's status: {status})")
    elif status not in (0, 1, no_tests) or (status == 1 and not count.failed):
        complaints.append(f"ring {ring.name} did not end as it should (pytest's status: {status})")
    return complaints


# -------------------------------------------------------------------------------------------------------- check


@dataclass(frozen=True)
class Extra:
    """Folders whose modules import packages that procmon does not; mypy reads them with an environment of their own."""

    uses: str
    folders: tuple[str, ...]
    python: Callable[[], Path]
    base: str
    options: tuple[str, ...] = ()


EXTRAS = [
    Extra("pySigma", ("examples/sigma/", "tests/sigma_backend/"), sigma_venv, "examples/sigma"),
    Extra("Dask", ("examples/fleet/", "tests/fleet/"), fleet_venv, "examples", ("--allow-untyped-calls",)),
]


def type_checked(platform: str) -> list[str]:
    """What mypy reads for a platform: everything, but tests that run on the other one only."""
    elsewhere = {"win32": ("tests/core/", "tests/setup/"), "linux": ("tests/windows/",)}[platform]
    folders = ("dev.py", "driver", "examples", "tests")
    scripts = [name for folder in folders for name in layout.listed(ROOT, folder, ".py")]
    extra = [folder for each in EXTRAS for folder in each.folders]
    return ["src/procmon", *(name for name in scripts if not name.startswith((*elsewhere, *extra)))]


def check(options: argparse.Namespace) -> int:
    """Run ruff, the rules of tests/layout.py, and mypy for Windows and for Linux."""
    findings = layout.findings(ROOT)
    for finding in findings:
        print(finding, flush=True)
    for line in layout.long_files(ROOT):
        report(line)
    failed = bool(findings)
    for arguments in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        report(f"ruff {arguments[0]}")
        command = [str(venv()), "-m", "ruff", *arguments, "."]
        failed |= programs.run_attached(command, os.environ) != 0
    bases = os.pathsep.join(["src", "tests", "examples", "driver", "driver/wine"])
    for platform in ("win32", "linux"):
        report(f"mypy --strict --platform {platform}")
        command = [str(venv()), "-m", "mypy", "--strict", f"--platform={platform}"]
        cache = f"--cache-dir={project.DEV / 'mypy' / platform}"
        command += ["--explicit-package-bases", "--no-error-summary", cache, *type_checked(platform)]
        failed |= programs.run_attached(command, {**os.environ, "MYPYPATH": bases}) != 0
    for extra in EXTRAS:
        report(f"mypy --strict of what uses {extra.uses}")
        command = [str(venv()), "-m", "mypy", "--strict", f"--python-executable={extra.python()}"]
        cache = f"--cache-dir={project.DEV / 'mypy' / extra.uses}"
        command += ["--explicit-package-bases", "--no-error-summary", cache, *extra.options]
        command += [name for folder in extra.folders for name in layout.listed(ROOT, folder, ".py")]
        bases = os.pathsep.join(["src", "tests", extra.base])
        failed |= programs.run_attached(command, {**os.environ, "MYPYPATH": bases}) != 0
    print("check: " + ("failed" if failed else "all is well"), flush=True)
    return int(failed)


# ------------------------------------------------------------------------------------------------ bench and wheel


def bench(options: argparse.Namespace) -> int:
    """Run the measurements of tests/bench.py, on this system's Python and on the Windows one."""
    build_drivers(["host"] if WINDOWS else ["wine", "host"])
    status = programs.run_attached([str(venv()), "tests/bench.py"], programs.with_paths())
    if WINDOWS or status:
        return status
    with private_windows() as prefix:
        return run_windows(["tests/bench.py"], prefix)


def wheel(options: argparse.Namespace) -> int:
    """Make the wheel, with the release drivers in it, and the source archive, in dist."""
    release = ["x64", "x86", "arm64"]
    build_drivers(release)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    drivers = {name: ROOT / "build" / "driver" / name / "procmon.sys" for name in release}
    for path in distribution.make(drivers, ROOT / "dist"):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")
    return 0


# --------------------------------------------------------------------------------------------------------- main


def parser() -> argparse.ArgumentParser:
    """The command line; what it leaves over belongs to pytest."""
    top = argparse.ArgumentParser(prog="dev.py", description=__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, test, check, driver, wine, bench, wheel):
        summary = (command.__doc__ or "").partition("\n")[0]
        added = commands.add_parser(command.__name__, description=summary, allow_abbrev=False)
        added.set_defaults(run=command)
        if command is test:
            added.add_argument("--long", action="store_true", help="minutes of fuzzing and stress instead of seconds")
        elif command is driver:
            added.add_argument("--debug", action="store_true", help="with assertions, and without optimisation")
        elif command is wine:
            added.add_argument("--fresh", action="store_true", help="in a Windows of its own that is gone afterwards")
            added.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    return top


def main() -> int:
    """Run one command and return its exit status."""
    top = parser()
    options, left_over = top.parse_known_args()
    if left_over and options.command != "test":
        hint = " (what is meant for the Windows Python comes after --)" if options.command == "wine" else ""
        top.error(f"unknown: {' '.join(left_over)}{hint}")
    options.pytest = left_over[1:] if left_over[:1] == ["--"] else left_over
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.command != "wine":  # whose arguments may be paths from where the caller is
        os.chdir(ROOT)
    try:
        status: int = options.run(options)
        return status
    except Stop as stop:
        print(f"dev.py: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
