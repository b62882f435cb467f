"""The demo, as `dev.py demo` runs it; and that it can fail."""

import subprocess
import sys
from pathlib import Path

import pytest

import main_job
import procmon

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / "main_job.py"), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)


def test_the_main_job_goes_as_it_says() -> None:
    done = demo()
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1:]) == (0, ["demo: 10 held, 8 allowed, 2 blocked, 0 missed"]), done.stdout
    assert "NOT SO" not in done.stdout
    for wanted, count in (("  block  whoami.exe", 2), ("  defer  python.exe", 2), ("saw the status 0xC0000364", 2)):
        assert sum(wanted in line for line in lines) == count, done.stdout
    assert procmon.DriverService().status().state is procmon.DriverState.NOT_INSTALLED


def test_it_says_what_is_in_the_way_and_fails() -> None:
    service = procmon.DriverService()
    service.install()
    try:
        done = demo()
    finally:
        service.delete()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("demo: stopped: DriverAlreadyInstalled: ")


def test_a_gate_that_holds_nothing_is_detected(capsys: pytest.CaptureFixture[str]) -> None:
    part = main_job.Part("a gate that allows everything")
    build = main_job.start(main_job.BUILD)
    assert build.stdout is not None
    for line in build.stdout:
        part.take(line)
    part.compare(build.wait(), released=0.0)
    assert part.missed == 5, "cmd, the builder, hostname, whoami and the one that should have been deferred"
    assert not part.as_expected
    assert "NOT SO:   whoami.exe printed" in capsys.readouterr().out


def test_a_blocked_program_that_printed_all_the_same_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    part = main_job.Part("a gate that blocks too late")
    for line in ("ran 1", "ran 2", "ran 3", "ran 4", "child whoami.exe 3221226340 somebody", "nonsense"):
        part.take(line)
    part.verdicts = dict.fromkeys((1, 2, 3), procmon.ALLOW)
    part.compare(0, released=1.0)
    assert part.missed == 1 and not part.as_expected
    assert "whoami.exe printed 'somebody'" in capsys.readouterr().out
