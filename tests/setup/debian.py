"""Debian packages: which ones the commands need, and their installation."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import programs
from .locks import set_up
from .project import Stop, report

VENV = ["python3-venv"]
WINE = ["wine64"]
DRIVER = [
    "gcc-mingw-w64-x86-64", "g++-mingw-w64-x86-64", "gcc-mingw-w64-i686", "g++-mingw-w64-i686",
    "clang", "lld", "llvm", "g++", "openssl", "osslsigncode",
]  # fmt: skip
TESTS = ["libclang-rt-dev", "spin", "python3-tk", "xvfb", "xauth", "chromium-driver"]


def install(names: Sequence[str]) -> None:
    """Install those of `names` that are missing. On Windows this does nothing.

    Raises: Stop where apt-get is missing, not permitted, or fails.
    """
    if sys.platform == "win32":
        return
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        raise Stop(f"this needs Debian or a system based on it, with these packages: {' '.join(names)}")
    query = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Package}\n", *names]
    answer = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    installed = {line.split()[1] for line in answer.splitlines() if line.startswith("installed ")}
    missing = [name for name in names if name not in installed]
    if not missing:
        return
    by_hand = f"apt-get install --no-install-recommends {' '.join(missing)}"
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            raise Stop(f"Debian packages are missing, and there is no sudo; as root:\n    {by_hand}")
        prefix = ["sudo", "DEBIAN_FRONTEND=noninteractive"]
    report(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with set_up():
        update = [*prefix, "apt-get", "-q", "update"]
        programs.run_quietly(update, "the package lists were not updated", environment)
        command = [*prefix, "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install"]
        programs.run_quietly([*command, "--no-install-recommends", *missing], f"try by hand: {by_hand}", environment)


def version(package: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    query = ["dpkg-query", "-W", "-f=${Version}", package]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True).stdout


def installed_file(package: str, name: str) -> Path:
    """The path of a file of an installed package, found by the end of its path.

    Raises: Stop when the package has no such file.
    """
    listed = subprocess.run(["dpkg", "-L", package], stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for path in map(Path, listed):
        if path.match(name) and path.is_file():
            return path
    raise Stop(f"the package {package} is installed, but it has no {name}")
