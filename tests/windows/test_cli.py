"""procmon-gate as a user runs it: real commands, the real driver, real exit statuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK, cli
from procmon.gates.driver import driver_info
from procmon.win32 import machine
from procmon.win32.kernel import is_wine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "driver" / "wine"))
from kernel import WineKernel  # noqa: E402

BLOCKED = 0xC0000364
COMMAND = [sys.executable, "-m", "procmon"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(
        "[[rule]]\nname = 'no names'\nimage = 'hostname.exe'\nparent = ['cmd.exe', 'python.exe']\nuser = '*'\n"
        "verdict = 'block'\n",
        encoding="utf-8",
    )
    return path


def gate(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def test_run_shows_the_tree_and_returns_the_commands_status() -> None:
    ended = gate("run", "--", "cmd", "/c", "hostname & exit 7")
    assert ended.returncode == 7
    assert len(ended.stdout.split()) == 1
    shown = [line.split()[1:4] for line in ended.stderr.splitlines()[:-1]]
    assert [(verdict, Path(image).name) for verdict, _, image in shown] == [
        ("allow", "cmd.exe"),
        ("allow", "hostname.exe"),
    ]
    assert ended.stderr.splitlines()[-1] == "2 held: 2 allowed, 0 blocked"


def test_run_blocks_by_a_policy_whose_facts_are_looked_up(policy: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    ended = gate("run", "--policy", policy, "--audit", log, "--", "cmd", "/c", "hostname")
    assert ended.stdout == ""
    assert ended.returncode == BLOCKED  # cmd gives the status of its last command
    assert [(each.process.name, each.verdict) for each in procmon.audit.read(log)] == [
        ("cmd.exe", ALLOW),
        ("hostname.exe", BLOCK),
    ]


def test_a_blocked_command_gives_its_own_status(policy: Path) -> None:
    policy.write_text("[[rule]]\nimage = 'hostname.exe'\nverdict = 'block'\n", encoding="utf-8")
    ended = gate("run", "--json", "--policy", policy, "--", "hostname")
    assert (ended.returncode, ended.stdout) == (BLOCKED, "")
    assert json.loads(ended.stderr)["who"] == "1"


def test_run_says_what_is_wrong() -> None:
    ended = gate("run", "--", "there-is-no-such-command")
    assert ended.returncode == cli.NOT_FOUND
    assert (
        ended.stderr == "procmon-gate: there is no command there-is-no-such-command; give its path, or look at PATH\n"
    )


def test_ps_and_tree_show_this_very_process() -> None:
    assert "python.exe" in gate("ps").stdout
    assert "python.exe" in gate("tree").stdout
    assert any(
        json.loads(line)["image_name"].endswith("python.exe") for line in gate("ps", "--json").stdout.splitlines()
    )


def test_the_machine_tells_the_doctor() -> None:
    assert machine.is_elevated() in (True, False)
    if not is_wine():
        assert machine.code_integrity().enforced in (True, False)
    ended = gate("doctor")
    assert ended.returncode == cli.FOUND
    assert "debug gate" in ended.stdout and "not installed" in ended.stdout


@pytest.fixture
def service() -> Iterator[procmon.DriverService]:
    service = procmon.DriverService()
    assert service.status().state is procmon.DriverState.NOT_INSTALLED
    yield service
    if service.status().running:
        service.stop()
    if service.status().state is not procmon.DriverState.NOT_INSTALLED:
        service.delete()


@pytest.mark.usefixtures("service")
def test_the_drivers_life_on_the_command_line() -> None:
    for step, status, said in (
        ("start", cli.FAILED, ""),
        ("install", 0, "ProcMonGate: stopped, "),
        ("install", cli.FAILED, ""),
        ("start", 0, "ProcMonGate: running, "),
        ("delete", cli.FAILED, ""),
        ("status", 0, "ProcMonGate: running, "),
        ("stop", 0, "ProcMonGate: stopped, "),
        ("delete", 0, "ProcMonGate: not installed\n"),
    ):
        ended = gate("driver", step)
        assert ended.returncode == status, (step, ended)
        assert ended.stdout.startswith(said)
        assert ended.stderr.count("\n") == (status != 0)


def test_guard_decides_for_the_machine(service: procmon.DriverService, policy: Path) -> None:
    service.install()
    service.start()
    command = [*COMMAND, "guard", "--json", "--policy", str(policy)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as guard:
        while not driver_info().controller_pid:
            assert guard.poll() is None, guard.communicate()
        doctor = gate("doctor")
        assert f"process {driver_info().controller_pid}, " in doctor.stdout
        assert "python.exe" in doctor.stdout.rpartition("controller")[2]
        second = gate("watch")
        assert (second.returncode, "there can be one" in second.stderr) == (cli.FAILED, True)
        if is_wine():
            with WineKernel() as kernel:
                started = kernel.run("hostname", stdout=subprocess.PIPE)
                output, _ = started.communicate(timeout=20)
        else:
            started = subprocess.Popen("hostname", stdout=subprocess.PIPE)
            output, _ = started.communicate(timeout=20)
        assert (output, started.returncode & 0xFFFFFFFF) == (b"", BLOCKED)
        guard.terminate()  # as a crash would end it
        lines = [json.loads(line) for line in guard.communicate()[0].splitlines()]
    ours = [line for line in lines if line["process"]["pid"] == started.pid]
    assert [(line["verdict"], line["who"]) for line in ours] == [("block", "no names")]
