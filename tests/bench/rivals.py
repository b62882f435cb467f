"""The programs in C and C++ that benchmarks run, where they are built, and the packages that they are compared with."""

import sys
from pathlib import Path

__all__ = ["CONTROLLER", "DEBUG_LOOP", "HANDSHAKE", "PACKAGES", "commands"]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HOST = ROOT / "build" / "driver" / "host"
BUILT = ROOT / "build" / "bench"

HANDSHAKE = HOST / ("handshake.exe" if sys.platform == "win32" else "handshake")
"""Beside the library of the core that it needs."""
CONTROLLER = BUILT / "controller.exe"
DEBUG_LOOP = BUILT / "debug_loop.exe"

PACKAGES = ROOT / ".dev" / "bench"
"""psutil and PythonForWindows, for the Python for Windows."""

_MINGW = "x86_64-w64-mingw32-g++"
_FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]


def commands() -> list[list[str]]:
    """What builds them; the core's library is built by then."""
    host = ["g++", "-l:libprocmon_core.so", "-Wl,-rpath,$ORIGIN"]
    if sys.platform == "win32":
        host = [_MINGW, "-l:procmon_core.dll", "-static-libgcc", "-static-libstdc++"]
    return [
        [host[0], *_FLAGS, str(HERE / "handshake.cpp"), "-o", str(HANDSHAKE), f"-L{HOST}", *host[1:]],
        [_MINGW, *_FLAGS, "-static", str(HERE / "controller.cpp"), "-o", str(CONTROLLER)],
        [_MINGW, *_FLAGS, "-static", str(HERE / "debug_loop.cpp"), "-o", str(DEBUG_LOOP)],
    ]
