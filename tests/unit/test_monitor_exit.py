"""Monitor: the end of the program also stops a monitor that an exit function starts."""

import os
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE

SOURCE = Path(__file__).resolve().parents[2] / "src"

PROGRAM = """
import atexit

@atexit.register  # before the import of procmon, so it is called last
def report():
    print("closed" if gate.closed else "open", gate.verdict_of(process, 0).value, flush=True)

import procmon
gate = procmon.SimulatedGate()
process = gate.start("a.exe")

@atexit.register
def late():
    global monitor
    monitor = procmon.Monitor(gate, default=procmon.DEFER)
    try:
        monitor.start()
    except RuntimeError as error:  # Python 3.12 and newer start no thread any more
        print(error, flush=True)
"""


def test_a_monitor_that_an_exit_function_starts_is_stopped_by_the_end_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == ["closed allow"], done.stdout + done.stderr
