#!/usr/bin/env python3
"""One script for all work on this project, with the same commands on Debian and on Windows.

    python3 dev.py demo                       the main job, on real processes
    python3 dev.py test [--long] [ARGS]       everything that can be tested here; ARGS go to pytest
    python3 dev.py check                      ruff, mypy for both systems, layers, layout, made pages
    python3 dev.py driver [--debug]           build/driver/{x64,x86,arm64,wine}/procmon.sys and the host library
    python3 dev.py wine [--fresh] -- ARGS     the Windows Python with ARGS, and the package on its path
    python3 dev.py bench [NAME ...]           the benchmarks
    python3 dev.py wheel                      dist/procmon_gate-*.whl

Each command installs what it needs (on Debian as root or by sudo), with one line of output for each installation, and
is quick when nothing is missing. Details: docs/CONTRIBUTING.md.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

if sys.version_info < (3, 11):
    sys.exit("dev.py: this needs Python 3.11 or newer")

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests"))

import bench as benchmarks  # noqa: E402 - it lies in tests, which is on the path only now
import layout  # noqa: E402
import rings  # noqa: E402
from bench import rivals  # noqa: E402
from setup import debian, distribution, programs, project  # noqa: E402
from setup.locks import locked  # noqa: E402
from setup.project import Stop, report  # noqa: E402
from setup.venv import fleet_venv, sigma_venv, venv  # noqa: E402
from setup.windows_python import bench_packages, private_windows, run_windows  # noqa: E402

WINDOWS = sys.platform == "win32"


# ------------------------------------------------------------------------------------------------------ driver


DRIVERS = ["x64", "x86", "arm64", "wine", "host"]
FOR_TESTS = ["wine-release", "client-x64", "client-x86", "kernel-address-undefined", "kernel-thread"]


def build_drivers(variants: Sequence[str], debug: bool = False) -> None:
    """Build variants of DRIVERS and FOR_TESTS; up-to-date files are not built again."""
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
    """Do the main job on real processes: hold, ask Python, allow or block, without and with the driver."""
    if not WINDOWS:
        build_drivers(["wine"])
    with private_windows() as prefix:
        return run_windows(["examples/main_job.py"], prefix)


# -------------------------------------------------------------------------------------------------------- tests


def test(options: argparse.Namespace) -> int:
    """Run the rings of tests, report each, name the failures; the last line sums them up."""
    debian.install(debian.TESTS)
    jobs = rings.jobs_for(options.pytest)
    build_for({job.ring for job in jobs})
    return rings.summary(rings.run(jobs, options.long), options.pytest)


def build_for(chosen: Set[rings.Ring]) -> None:
    """Build what these rings need; on Windows only the core, because the WDK builds drivers there."""
    wanted = [name for name in [*DRIVERS, *FOR_TESTS] if any(name in ring.drivers for ring in chosen)]
    if WINDOWS:
        wanted = [name for name in wanted if name == "host"]
    if wanted:
        build_drivers(wanted)
    if debugged := [name for name in wanted if name in ("x64", "x86", "arm64")]:
        build_drivers(debugged, debug=True)


# -------------------------------------------------------------------------------------------------------- check


@dataclass(frozen=True)
class Extra:
    """Folders whose modules import packages that procmon does not; mypy checks them in a separate environment."""

    uses: str
    folders: tuple[str, ...]
    python: Callable[[], Path]
    base: str
    options: tuple[str, ...] = ()


EXTRAS = [
    Extra("pySigma", ("examples/sigma/", "tests/sigma_backend/", "tests/bench/sigma.py"), sigma_venv, "examples/sigma"),
    Extra("Dask", ("examples/fleet/", "tests/fleet/"), fleet_venv, "examples", ("--allow-untyped-calls",)),
]


MADE_PAGES = ["tests/reference.py", "tests/guarantees.py"]
"""Scripts that make a page of docs from the sources; an outdated page is a finding."""


def type_checked(platform: str) -> list[str]:
    """The files that mypy checks for a platform: all but the tests that run only on the other platform."""
    elsewhere = {"win32": ("tests/core/", "tests/setup/"), "linux": ("tests/windows/",)}[platform]
    folders = ("dev.py", "driver", "examples", "tests")
    scripts = [name for folder in folders for name in layout.listed(ROOT, folder, ".py")]
    extra = [folder for each in EXTRAS for folder in each.folders]
    return ["src/procmon", *(name for name in scripts if not name.startswith((*elsewhere, *extra)))]


def check(options: argparse.Namespace) -> int:
    """Run the rules of tests/layout.py, ruff, mypy for Windows and for Linux; compare made pages with the sources."""
    findings = layout.findings(ROOT)
    for finding in findings:
        print(finding, flush=True)
    for line in layout.long_files(ROOT):
        report(line)
    failed = bool(findings)
    for page in MADE_PAGES:
        report(f"{page} --check")
        failed |= programs.run_attached([str(venv()), page, "--check"], os.environ) != 0
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
    """Run all benchmarks, or those named, with the programs they are compared with."""
    if unknown := sorted(set(options.arguments) - set(benchmarks.names())):
        raise Stop(f"{unknown[0]!r} is no benchmark; there are {', '.join(benchmarks.names())}")
    wanted = {place: benchmarks.groups(place, options.arguments) for place in benchmarks.PLACES}
    build_drivers(["host"] if WINDOWS else ["wine", "host"])
    rivals.BUILT.mkdir(parents=True, exist_ok=True)
    for command in rivals.commands():
        programs.run_quietly(command, "a program to compare with was not built")
    status = 0
    for place, python in (("here", venv), ("sigma", sigma_venv)):
        if wanted[place]:
            command = [str(python()), "-m", "bench", place, *wanted[place]]
            status = programs.run_attached(command, programs.with_paths()) or status
    if wanted["windows"]:
        bench_packages()
        with private_windows() as prefix:
            status = run_windows(["-m", "bench", "windows", *wanted["windows"]], prefix) or status
    return status


def wheel(options: argparse.Namespace) -> int:
    """Make the wheel, which contains the release drivers, and the source archive, in dist."""
    release = ["x64", "x86", "arm64"]
    build_drivers(release)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    drivers = {name: ROOT / "build" / "driver" / name / "procmon.sys" for name in release}
    for path in distribution.make(drivers, ROOT / "dist"):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")
    return 0


# --------------------------------------------------------------------------------------------------------- main


def parser() -> argparse.ArgumentParser:
    """The command line; arguments that it does not know belong to pytest."""
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
        elif command is bench:
            added.add_argument("arguments", nargs="*", metavar="NAME")
        elif command is wine:
            added.add_argument("--fresh", action="store_true", help="in a new Windows that is deleted afterwards")
            added.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    return top


def main() -> int:
    """Run one command and return its exit status."""
    top = parser()
    options, left_over = top.parse_known_args()
    if left_over and options.command != "test":
        hint = " (arguments for the Windows Python follow --)" if options.command == "wine" else ""
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
