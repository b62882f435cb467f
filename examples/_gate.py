"""Makes the gate that the command line names, so that each example runs unchanged on all three gates.

python examples/NAME.py                               simulated: cmd /c "hostname & whoami & hostname", invented
python examples/NAME.py --gate debug COMMAND ...      every process of that command (Windows, nothing else)
python examples/NAME.py --gate driver                 every new process of the machine (driver, administrator)
"""

import argparse
import sys
from collections.abc import Callable

import _source  # noqa: F401 - comes before procmon
import procmon

SYSTEM = r"C:\Windows\System32"
SCENE = [
    ("start", rf"{SYSTEM}\cmd.exe"),
    ("start", rf"{SYSTEM}\hostname.exe", rf"{SYSTEM}\cmd.exe", "hostname"),
    ("start", rf"{SYSTEM}\whoami.exe", rf"{SYSTEM}\cmd.exe", "whoami"),
    ("start", rf"{SYSTEM}\hostname.exe", rf"{SYSTEM}\cmd.exe", "hostname"),
    ("end",),
]


def run(main: Callable[[procmon.Gate], object], description: str | None) -> None:
    """Call `main` with the gate that the command line names. Ctrl+C ends it, and releases all held processes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", choices=["simulated", "debug", "driver"], default="simulated")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command to run, with --gate debug")
    options = parser.parse_args()
    if (options.gate == "debug") != bool(options.command):
        parser.error("--gate debug needs a command to run, and the other gates take none")
    try:
        main(make(options.gate, options.command))
    except procmon.ProcmonError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        pass


def make(which: str, command: list[str]) -> procmon.Gate:
    """The gate of that name."""
    if which == "driver":
        return procmon.DriverGate()
    if which == "debug":
        return procmon.DebugGate.run(command)
    gate = procmon.SimulatedGate()
    gate.play(SCENE)
    return gate
