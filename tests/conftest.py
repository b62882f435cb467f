"""Settings of every ring: the system that collects it, Hypothesis' profile, and Ctrl+C."""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

pytest.register_assert_rewrite("conformance", "monitoring", "commandline", "trees", "driven")

TESTS = Path(__file__).resolve().parent
WINDOWS_RING = TESTS / "windows"

# The needs of a ring besides Python and the packages of the group "dev": programs, by package, and modules.
NEEDED_PROGRAMS = {
    "core": {
        "g++": "g++",
        "clang++": "clang",
        "lld-link": "lld",
        "spin": "spin",
        "x86_64-w64-mingw32-g++": "g++-mingw-w64-x86-64",
        "i686-w64-mingw32-g++": "g++-mingw-w64-i686",
        "osslsigncode": "osslsigncode",
    },
    "examples": {"Xvfb": "xvfb"},
}
NEEDED_MODULES = {"examples": {"_tkinter": "python3-tk"}}
OWN_ENVIRONMENT = {"sigma_backend": "pysigma", "fleet": "distributed"}
"""Rings that dev.py runs in an environment of their own, each with a package that only this environment has."""

# No deadlines, because a busy machine is no fault of the code. The same examples in each run, except the long tests.
hypothesis.settings.register_profile(
    "procmon",
    deadline=None,
    derandomize=not os.environ.get("PROCMON_LONG"),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("procmon")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run tests/windows elsewhere: its files make Windows calls as soon as they are imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs like this
        signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if sys.platform != "win32" and any(path.is_relative_to(WINDOWS_RING) for path in paths):
        raise pytest.UsageError("tests/windows needs Windows, or Wine: python3 dev.py test tests/windows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Replace a ring whose programs are not installed by one failing test."""
    if sys.platform == "win32":
        return
    for ring in sorted({ring_of(item.path) for item in items}):
        if missing := missing_modules(ring) | missing_programs(ring):
            first = next(item for item in items if ring_of(item.path) == ring)
            items[:] = [item for item in items if ring_of(item.path) != ring]
            items.append(Missing.from_parent(first.session, name=f"tests/{ring}", packages=sorted(missing)))


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Replace a file that cannot be imported by one failing test."""
    ring = ring_of(module_path)
    return NotImported.from_parent(parent, path=module_path, ring=ring) if missing_modules(ring) else None


def ring_of(path: Path) -> str:
    """The name of a file's folder below tests; empty for other files."""
    return path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""


def missing_programs(ring: str) -> set[str]:
    """The packages with the programs of a ring that are not installed."""
    return {package for program, package in NEEDED_PROGRAMS.get(ring, {}).items() if not shutil.which(program)}


def missing_modules(ring: str) -> set[str]:
    """The packages with the modules of a ring that this Python does not have."""
    modules = NEEDED_MODULES.get(ring, {}).items() if sys.platform != "win32" else ()
    return {package for module, package in modules if not importlib.util.find_spec(module)}


class NotImported(pytest.File):
    """A file of a ring that cannot be imported here."""

    def __init__(self, *, ring: str, **options: Any) -> None:
        super().__init__(**options)
        self._ring = ring

    def collect(self) -> Iterable[pytest.Item]:
        """A failing test."""
        yield Missing.from_parent(self, name=f"tests/{self._ring}", packages=sorted(missing_modules(self._ring)))


class Missing(pytest.Item):
    """A ring that cannot run here. It fails, because a ring that did not run has shown nothing."""

    def __init__(self, *, packages: list[str], **options: Any) -> None:
        super().__init__(**options)
        self._packages = packages

    def runtest(self) -> None:
        """Fail with the command that installs what is missing."""
        command = f"python3 dev.py test {self.name}"
        pytest.fail(
            f"{self.name} needs {', '.join(self._packages)}: {command} installs that and runs it", pytrace=False
        )

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it is: in the ring's folder."""
        return self.path, None, self.name


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the rings that this Python cannot import, when all of tests is requested."""
    return True if collection_path.parent == TESTS and collection_path.name in left_out() else None


def pytest_report_header() -> str | None:
    """Report the rings that a bare `pytest` leaves out."""
    return f"not collected here, but run by python3 dev.py test: {', '.join(left_out())}"


def left_out() -> list[str]:
    """The rings that this Python cannot import."""
    elsewhere = ["windows"] if sys.platform != "win32" else ["core"]
    return elsewhere + [ring for ring, package in OWN_ENVIRONMENT.items() if not is_installed(package)]


def is_installed(package: str) -> bool:
    """Does this Python have a distribution with that name?"""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
