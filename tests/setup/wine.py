"""Wine prefixes: a pristine one, the shared copy of `dev.py wine`, and private copies for single runs."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from . import debian, parts, programs, project
from .locks import Lock, set_up
from .wine32 import wine32

_NEEDED = "system.reg", "drive_c/windows/system32/ntdll.dll"
_SERVICE_TIMEOUT_S = 120
"""Wine's time limit for the start of a service. The default of 10 s is too short for a Python on a busy machine. Wine
reads a REG_SZ, Windows a REG_DWORD."""


def program(name: str) -> Path:
    """The path of ``wine64`` or ``wineserver64``. Debian keeps both off the PATH."""
    return debian.installed_file("wine64", name)


def environment(prefix: Path) -> dict[str, str]:
    """The environment variables of a program that runs in `prefix`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    # No offers to install Mono and Gecko, no entries in a desktop's menu.
    overrides = "mscoree,mshtml=;winemenubuilder.exe=d"
    return kept | {
        "WINEPREFIX": str(prefix),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": overrides,
        "WINEDLLPATH": str(project.DEV / "wine32"),
    }


def server(prefix: Path, *arguments: str) -> None:
    """Run ``wineserver64`` on `prefix`. No error when no server runs there."""
    null = subprocess.DEVNULL
    command = [str(program("wineserver64")), *arguments]
    subprocess.run(command, env=environment(prefix), stdin=null, stdout=null, stderr=null)


def shared_prefix() -> Path:
    """The prefix of `dev.py wine`; it keeps its changes between runs."""
    debian.install(debian.WINE)
    pristine, prefix = project.DEV / "wine-pristine", project.DEV / "wine"
    wanted = parts.recipe("3", str(program("wine64")), wine32())
    with set_up():
        if not parts.is_made(pristine, wanted, *_NEEDED):
            project.report("making .dev/wine-pristine, a Wine prefix")
            server(pristine, "-k")
            parts.start_over(pristine)
            programs.run_quietly([program("wine64"), "wineboot", "-i"], "Wine makes no prefix", environment(pristine))
            timeout = ["/v", "ServicesPipeTimeout", "/t", "REG_SZ", "/d", str(1000 * _SERVICE_TIMEOUT_S), "/f"]
            key = r"HKLM\System\CurrentControlSet\Control"
            add: list[str | Path] = [program("wine64"), "reg", "add", key, *timeout]
            programs.run_quietly(add, "Wine sets no time limit for services", environment(pristine))
            server(pristine, "-w")  # the server writes the registry after its last process has ended
            parts.stamp(pristine, wanted)
        if not parts.is_made(prefix, wanted, *_NEEDED):
            server(prefix, "-k")
            _copy(pristine, prefix)
            parts.stamp(prefix, wanted)
    return prefix


@contextlib.contextmanager
def private_prefix() -> Iterator[Path]:
    """A prefix for one run: new, deleted afterwards, and not used by any other run.

    First deletes the prefixes of killed runs, and ends the processes in them.
    """
    shared_prefix()
    runs = project.DEV / "runs"
    prefix = runs / f"{time.time_ns():x}"
    with set_up():
        for lock_path in runs.glob("*.lock"):
            stale = Lock(lock_path)
            if stale.take():
                left = lock_path.with_suffix("")
                project.report(f"deleting {left.relative_to(project.ROOT)}, which a killed run left behind")
                _remove(left)
            stale.close()
        lock = Lock(prefix.with_suffix(".lock"))
        lock.take()
        _copy(project.DEV / "wine-pristine", prefix)
    try:
        yield prefix
    finally:
        _remove(prefix)
        lock.close()


def _copy(source: Path, target: Path) -> None:
    """Copy a Wine prefix quickly: programs, nearly all of its bytes, are hard links, because nothing writes to them."""

    def copy(old: str, new: str) -> None:
        if old.lower().endswith((".dll", ".exe")):
            os.link(old, new)
        else:
            shutil.copy2(old, new)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True, copy_function=copy, ignore=shutil.ignore_patterns(".stamp"))


def _remove(prefix: Path) -> None:
    if prefix.exists():
        server(prefix, "-k")
        server(prefix, "-w")
    shutil.rmtree(prefix, ignore_errors=True)
    prefix.with_suffix(".lock").unlink(missing_ok=True)
