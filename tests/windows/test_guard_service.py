"""guard as a real Windows service: it blocks by its policy, and stops on request."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import WineKernel

import procmon
from monitoring import until
from patience import PATIENCE
from procmon.cli.allow_all import safe_folder
from procmon.cli.live_policy import read_guard_state, write_guard_state
from procmon.cli.main import main
from procmon.cli.service_commands import NAME, GuardService
from procmon.driver.info import driver_info
from procmon.win32.file_access import writers
from procmon.win32.kernel import is_wine

SOON = PATIENCE  # seconds; only a hang reaches it
BLOCKED = 0xC0000364


@pytest.fixture
def driver() -> Iterator[procmon.DriverService]:
    with procmon.DriverService() as service:
        yield service


@pytest.fixture
def guard(driver: procmon.DriverService, tmp_path: Path) -> Iterator[tuple[GuardService, Path]]:
    """The service, installed with a policy that blocks whoami. Users can write the files of the tests."""
    policy, log = tmp_path / "office.toml", tmp_path / "guard.jsonl"
    policy.write_text('[[rule]]\nname = "no questions"\nimage = "whoami.exe"\nverdict = "block"\n')
    service = GuardService(others=lambda _: {})
    service.install([policy], ["--log", str(log)], fail=None)
    yield service, log
    service.delete()


def test_the_service_blocks_by_its_policy_and_stops_when_it_is_asked_to(guard: tuple[GuardService, Path]) -> None:
    service, log = guard
    service.start()
    until(lambda: service.status()["state"] == "running", "the service runs", SOON)
    assert driver_info().controller_pid
    if is_wine():
        with WineKernel() as kernel:
            statuses = [kernel.run(name, stdout=subprocess.DEVNULL).wait(SOON) for name in ("whoami", "hostname")]
    else:
        statuses = [subprocess.run(name, stdout=subprocess.DEVNULL).returncode for name in ("whoami", "hostname")]
    assert [status & 0xFFFFFFFF for status in statuses] == [BLOCKED, 0]
    service.stop()
    until(lambda: service.status()["state"] == "stopped", "the service ends", SOON)
    assert service.status()["exit_code"] == 0
    assert driver_info().controller_pid == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rules = {line["process"]["image_name"].rpartition("\\")[2]: line["who"] for line in lines if "verdict" in line}
    assert rules["whoami.exe"] == "no questions" and "hostname.exe" in rules


def test_a_policy_that_is_gone_makes_it_stop_with_an_error(driver: procmon.DriverService, tmp_path: Path) -> None:
    policy = tmp_path / "office.toml"
    policy.write_text("")
    service = GuardService(others=lambda _: {})
    service.install([policy], ["--log", str(tmp_path / "guard.jsonl")], fail=None)
    try:
        policy.unlink()
        try:
            service.start()
        except procmon.ProcmonError:
            pass  # Windows may see it stop before it has started
        until(lambda: service.status()["state"] == "stopped", "the service ends", SOON)
        assert service.status()["exit_code"] == 1066  # of the service itself
    finally:
        service.delete()


def test_a_user_cannot_be_given_the_run_of_the_system(tmp_path: Path, driver: procmon.DriverService) -> None:
    """A real case: users can write to the folder of temporary files."""
    policy = Path("Z:\\tmp" if is_wine() else tmp_path) / f"procmon-{tmp_path.name}.toml"
    policy.write_text("")
    try:
        with pytest.raises(procmon.ProcmonError, match="can change .*icacls"):
            GuardService().install([policy], [], fail=None)
    finally:
        policy.unlink()


def test_the_folder_that_guard_makes_is_for_administrators_alone() -> None:
    write_guard_state(procmon.Policy.parse('default = "ask"'))
    assert writers(str(safe_folder())) == {}
    state = read_guard_state()
    assert state is not None and state.pid == os.getpid()


def test_run_by_a_person_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "run", "--policy", str(tmp_path)]) == 125
    assert "only Windows starts this: procmon-gate service start" in capsys.readouterr().err


def test_the_command_shows_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "status"]) == 0
    assert capsys.readouterr().out == f"{NAME}: not installed\n"
    assert sys.platform == "win32"
