"""The virtual environment in ``.dev/venv``, and pip with the hashes of tests/pins."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import debian, parts, programs, project
from .locks import set_up


def base_python() -> str:
    """The Python that the virtual environment is made from: on Debian its own, which python3-tk belongs to."""
    system_python = "/usr/bin/python3"
    if sys.platform != "win32" and os.access(system_python, os.X_OK):
        probe = [system_python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe).returncode == 0:
            return system_python
    return sys.executable


def venv() -> Path:
    """The Python of ``.dev/venv``, which has pytest, hypothesis, mypy and ruff."""
    debian.install(debian.VENV)
    folder = project.DEV / "venv"
    python = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    lists = [project.PINS / "pytest.txt", project.PINS / "tools.txt"]
    wanted = parts.recipe("1", base_python(), *(path.read_text() for path in lists))
    with set_up():
        if not parts.is_made(folder, wanted, python):
            project.report("making .dev/venv with pytest, hypothesis, mypy and ruff")
            parts.start_over(folder)
            programs.run_quietly([base_python(), "-m", "venv", folder], "no virtual environment")
            pip(folder / python, "install", "--only-binary=:all:", *requirements(lists))
            parts.stamp(folder, wanted)
    return folder / python


def requirements(lists: Sequence[Path]) -> list[str]:
    """The options by which pip takes what these lists pin, and nothing else."""
    return ["--require-hashes", *(f"--requirement={path}" for path in lists)]


def pip(python: Path, command: str, *arguments: str) -> None:
    """Run a command of pip in the environment of `python`."""
    run: list[str | Path] = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-input"]
    programs.run_quietly([*run, *arguments], "pip did not get a package that tests/pins pins")
