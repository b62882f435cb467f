"""procmon-gate as a user runs it: real commands, the real driver, real exit statuses."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from kernel import WineKernel

import procmon
from patience import PATIENCE
from procmon import ALLOW, BLOCK, Verdict
from procmon.cli import main, statuses
from procmon.driver.info import driver_info
from procmon.records import DecidedBy
from procmon.win32 import machine
from procmon.win32.kernel import is_wine
from trees import BLOCKED, eventually

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
        timeout=PATIENCE,
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
    ended = gate("run", "--policy", policy, "--log", log, "--", "cmd", "/c", "hostname")
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
    decision, summary = map(json.loads, ended.stderr.splitlines())
    assert (decision["who"], summary["event"], summary["blocked"]) == ("1", "summary", 1)


def test_run_says_what_is_wrong() -> None:
    ended = gate("run", "--", "there-is-no-such-command")
    assert ended.returncode == statuses.NOT_FOUND
    assert (
        ended.stderr == "procmon-gate: there is no command there-is-no-such-command; give its path, or look at PATH\n"
    )


ENDED_BY_CONSOLE = """
import ctypes, sys, threading
from procmon.cli import main, session

held = threading.Event()

def hang(session, process):
    held.set()
    threading.Event().wait()  # for ever

def end():
    held.wait()
    ctypes.WinDLL("kernelbase").CtrlRoutine(ctypes.c_void_p({event}))  # Windows starts a thread in this function

session.Session.rules = hang
threading.Thread(target=end, daemon=True).start()
sys.exit(main.main(["run", "--fail", "{fail}", "--", sys.executable, "-c", "open({ran!r}, 'w')"]))
"""


@pytest.mark.parametrize("fail", [ALLOW, BLOCK])
@pytest.mark.parametrize("event", [1, 2, 5, 6])
def test_ctrl_break_and_the_end_of_the_console_give_held_processes_the_verdict_of_fail(
    event: int, fail: Verdict, tmp_path: Path
) -> None:
    """CTRL_BREAK_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT and CTRL_SHUTDOWN_EVENT: Windows ends the program."""
    ran = tmp_path / "ran"
    code = ENDED_BY_CONSOLE.format(event=event, fail=fail.value, ran=ran.as_posix())
    subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        creationflags=subprocess.CREATE_NEW_CONSOLE,
        timeout=PATIENCE,
        check=False,
    )
    if fail is ALLOW:
        assert eventually(ran.exists)
    else:
        time.sleep(1)
        assert not ran.exists()


def test_ps_and_tree_show_this_very_process(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["ps"], ["tree"], ["ps", "--json"]):
        assert main.main(arguments) == 0
        shown = capsys.readouterr().out
        assert "python.exe" in shown and str(os.getpid()) in shown
    assert os.getpid() in [json.loads(line)["pid"] for line in shown.splitlines()]


def test_the_machine_tells_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.is_elevated() in (True, False)
    if not is_wine():
        assert machine.code_integrity().enforced in (True, False)
    assert main.main(["doctor"]) == statuses.FOUND
    shown = capsys.readouterr().out
    assert "debug gate" in shown and "not installed" in shown


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
def test_the_drivers_life_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for step, status, said in (
        ("start", statuses.FAILED, ""),
        ("install", 0, "ProcMonGate: stopped, "),
        ("install", statuses.FAILED, ""),
        ("start", 0, "ProcMonGate: running, "),
        ("delete", statuses.FAILED, ""),
        ("status", 0, "ProcMonGate: running, "),
        ("stop", 0, "ProcMonGate: stopped, "),
        ("delete", 0, "ProcMonGate: not installed\n"),
    ):
        assert main.main(["driver", step]) == status, step
        out, err = capsys.readouterr()
        assert out.startswith(said)
        assert err.count("\n") == (status != 0)


def run_under_the_driver(command: str) -> tuple[bytes, int]:
    """A command's output and exit status; under Wine the tests report it to the driver."""
    with WineKernel() if is_wine() else nullcontext() as kernel:
        started = (subprocess.Popen if kernel is None else kernel.run)(command, stdout=subprocess.PIPE)
        output, _ = started.communicate(timeout=PATIENCE)
    return output, started.returncode & 0xFFFFFFFF


def test_guard_decides_for_the_machine(
    service: procmon.DriverService, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.install()
    service.start()
    command = [*COMMAND, "guard", "--json", "--policy", str(policy)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as guard:
        while not driver_info().controller_pid:
            assert guard.poll() is None, guard.communicate()
        main.main(["doctor"])
        assert f"process {driver_info().controller_pid}, {sys.executable}" in capsys.readouterr().out
        assert main.main(["watch"]) == statuses.FAILED
        assert "there can be one" in capsys.readouterr().err
        assert run_under_the_driver("hostname") == (b"", BLOCKED)
        assert guard.stdout is not None
        decisions = (line for line in map(json.loads, guard.stdout) if line["event"] == "decision")
        shown = next(line for line in decisions if line["process"]["image_name"].endswith("\\hostname.exe"))
        guard.terminate()  # as a crash would end it
        guard.communicate()
    assert (shown["verdict"], shown["who"]) == ("block", "no names")


TYPING = """
import sys, threading, time
from ctypes import byref, c_void_p
from procmon.cli import main
from procmon.win32 import console
from procmon.win32._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32

write = bind(kernel32, "WriteConsoleInputW", BOOL, (HANDLE, c_void_p, DWORD, c_void_p), fail_on_zero)
keyboard = console._GetStdHandle(console._STANDARD_INPUT)

def press(character, down=1):
    key = console._InputRecord(event_type=1, key_down=down, repeat_count=1, character=ord(character or "\\0"))
    write(keyboard, byref(key), 1, byref(DWORD()))
"""

READING = """
for character, down in (("", 1), ("y", 1), ("y", 0), ("N", 1), ("N", 0)):
    press(character, down)
read = [console.read_key(5), console.read_key(5), console.read_key(0)]
open(sys.argv[1], "w").write(repr(read))
"""

ANSWERING = """
def keep_pressing():
    while True:
        time.sleep(0.2)
        press(sys.argv[1])

threading.Thread(target=keep_pressing, daemon=True).start()
sys.exit(main.main(sys.argv[2:]))
"""


def on_a_console(code: str, *arguments: object) -> list[str]:
    """The command of a Python program with a hidden console of its own."""
    return [sys.executable, "-c", TYPING + code, *map(str, arguments)]


def test_single_keys_are_read_from_a_console(tmp_path: Path) -> None:
    read = tmp_path / "read"
    subprocess.run(on_a_console(READING, read), creationflags=subprocess.CREATE_NO_WINDOW, timeout=PATIENCE, check=True)
    assert read.read_text() == "['y', 'N', '']"


@pytest.mark.parametrize(("key", "status", "verdict"), [("y", 0, ALLOW), ("n", BLOCKED, BLOCK)])
def test_a_key_on_the_console_answers(key: str, status: int, verdict: Verdict, policy: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    policy.write_text("[[rule]]\nimage = 'hostname.exe'\nverdict = 'ask'\n", encoding="utf-8")
    command = on_a_console(ANSWERING, key, "run", "--policy", policy, "--log", log, "--", "hostname")
    ended = subprocess.run(command, creationflags=subprocess.CREATE_NO_WINDOW, timeout=PATIENCE, check=False)
    assert ended.returncode & 0xFFFFFFFF == status
    assert [(each.verdict, each.by) for each in procmon.audit.read(log)] == [(verdict, DecidedBy.USER)]


def test_guard_without_rules_asks_about_what_starts(service: procmon.DriverService, tmp_path: Path) -> None:
    service.install()
    service.start()
    log = tmp_path / "audit.jsonl"
    command = on_a_console(ANSWERING, "n", "guard", "--log", log)
    with subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW) as guard:
        while not driver_info().controller_pid:
            assert guard.poll() is None
        assert run_under_the_driver("hostname") == (b"", BLOCKED)
        guard.terminate()
    [decision] = [each for each in procmon.audit.read(log) if each.process.name == "hostname.exe"]
    assert (decision.verdict, decision.by) == (BLOCK, DecidedBy.USER)


def test_without_a_console_guard_has_no_place_for_questions() -> None:
    """NUL claims to be a terminal, and is none."""
    code = "import sys; from procmon.cli import main; sys.exit(main.main(['guard']))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == statuses.FAILED
    assert "there is no terminal to ask on: give --policy FILE" in ended.stderr
