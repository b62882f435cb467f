"""The virtual environments in ``.dev``, and pip with the hashes of tests/pins."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import debian, parts, programs, project
from .locks import set_up


def base_python() -> str:
    """The Python for the virtual environment: on Debian the system's own, because python3-tk belongs to it."""
    system_python = "/usr/bin/python3"
    if sys.platform != "win32" and os.access(system_python, os.X_OK):
        probe = [system_python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe).returncode == 0:
            return system_python
    return sys.executable


def venv() -> Path:
    """The Python of ``.dev/venv``, which has pytest, hypothesis, mypy and ruff."""
    return _made("venv", ["pytest.txt", "tools.txt"], "pytest, hypothesis, mypy and ruff")


def sigma_venv() -> Path:
    """The Python of ``.dev/sigma``, which has pytest, hypothesis, pySigma and sigma-cli."""
    return _made("sigma", ["pytest.txt", "sigma.txt"], "pytest, hypothesis, pySigma and sigma-cli")


def fleet_venv() -> Path:
    """The Python of ``.dev/fleet``, which has pytest, hypothesis, and Dask with its scheduler."""
    return _made("fleet", ["pytest.txt", "fleet.txt"], "pytest, hypothesis and Dask")


def _made(name: str, pins: Sequence[str], contents: str) -> Path:
    """The Python of a virtual environment in ``.dev``; made first unless it exists with the packages in these lists."""
    debian.install(debian.VENV)
    folder = project.DEV / name
    python = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    lists = [project.PINS / pin for pin in pins]
    wanted = parts.recipe("1", base_python(), *(path.read_text() for path in lists))
    with set_up():
        if not parts.is_made(folder, wanted, python):
            project.report(f"making .dev/{name} with {contents}")
            parts.start_over(folder)
            programs.run_quietly([base_python(), "-m", "venv", folder], "no virtual environment")
            pip(folder / python, "install", "--only-binary=:all:", *requirements(lists))
            parts.stamp(folder, wanted)
    return folder / python


def requirements(lists: Sequence[Path]) -> list[str]:
    """The options that make pip accept only the packages that these lists pin."""
    return ["--require-hashes", *(f"--requirement={path}" for path in lists)]


def pip(python: Path, command: str, *arguments: str) -> None:
    """Run a command of pip in the environment of `python`."""
    run: list[str | Path] = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-input"]
    programs.run_quietly([*run, *arguments], "pip did not get a package that tests/pins pins")
