"""Monitor on Windows: Ctrl+C, which no lock and no call into C hears there, and the end of a program."""

import subprocess
import sys
from pathlib import Path

import pytest

import ctrl_c
from patience import PATIENCE
from trees import eventually


@pytest.mark.parametrize("action", ctrl_c.ACTIONS)
@pytest.mark.parametrize("hang", ctrl_c.HANGS)
def test_ctrl_c_ends_a_call_whatever_hangs_and_nothing_stays_held(
    monkeypatch: pytest.MonkeyPatch, hang: str, action: str
) -> None:
    ctrl_c.check(hang, action, monkeypatch)


@pytest.mark.parametrize("hang", ["nothing", *ctrl_c.HANGS])
def test_the_end_of_a_program_releases_whatever_hangs(hang: str) -> None:
    ctrl_c.check_exit(hang)


@pytest.mark.parametrize("hang", ["verdict", "close", "sink", "lock"])
def test_ctrl_c_of_a_console_ends_a_stop_that_hangs_and_then_the_program(hang: str) -> None:
    ctrl_c.check_real_ctrl_c(hang)


PROGRAM = """
import sys, time, procmon
gate = procmon.DebugGate.run(["cmd", "/c", "echo x> " + sys.argv[2]])
monitor = procmon.Monitor(gate, default=procmon.Verdict(sys.argv[1]))
monitor.subscribe(lambda process: procmon.DEFER)
monitor.start()
while not monitor.pending:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("default", ["allow", "block"])
def test_the_end_of_a_program_gives_what_a_debug_gate_holds_the_default(tmp_path: Path, default: str) -> None:
    mark = tmp_path / "it-ran.txt"
    subprocess.run([sys.executable, "-c", PROGRAM, default, str(mark)], timeout=PATIENCE, check=True)
    assert eventually(mark.exists, PATIENCE if default == "allow" else 1) == (default == "allow")
