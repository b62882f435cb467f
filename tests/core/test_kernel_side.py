"""The unchanged driver/wdm on a made-up kernel (driver/host/kernel), under sanitizers: load, hold, block, unload.

The made-up kernel punishes what a real one would: waits with a lock held, a process terminated from within a callback,
leaked references and handles, code that is unloaded while a thread is in it.
"""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from core.harness import build

SCENARIOS = re.findall(
    r"^    SCENARIO\((\w+)\)",
    (Path(__file__).resolve().parents[2] / "driver" / "host" / "kernel" / "scenarios.h").read_text("utf-8"),
    re.MULTILINE,
)


@cache
def program(kernel: str) -> Path:
    """The program of the scenarios, built first if it is out of date."""
    path: Path = build().build([kernel])[kernel]
    return path


def test_there_are_scenarios() -> None:
    listed = subprocess.run([program("kernel-thread")], capture_output=True, text=True).stdout.split()
    assert listed == SCENARIOS and len(SCENARIOS) > 20


@pytest.mark.parametrize("kernel", ["kernel-address-undefined", "kernel-thread"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_driver_on_a_made_up_kernel(scenario: str, kernel: str) -> None:
    result = subprocess.run([program(kernel), scenario], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
