"""Many starts through the core, from 16 threads, by driver/host/many_starts.cpp.

100,000 in every run, 10 million with `dev.py test --long`.
"""

import os
import re
import subprocess

import pytest

from core.harness import build

STARTS = 10_000_000 if os.environ.get("PROCMON_LONG") == "1" else 100_000
THREADS = 16


@pytest.mark.promise(
    "Each of many starts by 16 threads is decided exactly once, by its own verdict, and nothing is left",
    gate="driver, core",
    figure="30 November 2026: 10,000,000 starts, 10,000,000 decided, 0 missed, 128 held at most, 0 bytes of growth",
)
def test_each_of_many_starts_is_decided_once_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    program = build().host_program("many_starts")
    result = subprocess.run([program, str(STARTS), str(THREADS)], capture_output=True, text=True)
    with capsys.disabled():
        print("\n" + result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.fullmatch(
        r"load: (\d+) starts, (\d+) decided, (\d+) missed, (\d+) held at most, 0 bytes of growth\n", result.stdout
    )
    assert found, result.stdout
    started, decided, missed, most_held = map(int, found.groups())
    assert (started, decided, missed) == (STARTS, STARTS, 0) and most_held > THREADS
