"""procmon-gate driver sign: its plan, its commands and its report on the machine. PowerShell is a stand-in."""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import procmon
from procmon.cli import driver_commands, main
from procmon.win32.machine import CodeIntegrity

STATE = "Secure Boot: True\nBitLocker: On\nSmart App Control: Off\n"


class PowerShell:
    """Records its lines, and answers like Windows' PowerShell."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, lines: str) -> str:
        self.lines.append(lines)
        return STATE if lines == driver_commands.STATE else "signed with CN=procmon-gate test signing, 00AA\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver with an apostrophe in its path, on a machine whose administrator runs the command."""
    monkeypatch.setattr("procmon.cli.driver_commands.read_driver", lambda path: b"")
    monkeypatch.setattr("procmon.win32.machine.is_elevated", lambda: True)
    monkeypatch.setattr("procmon.win32.machine.code_integrity", lambda: CodeIntegrity(True, False, True))
    return tmp_path / "o'brien" / "procmon.sys"


def options(file: Path, **values: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"file": str(file), "yes": False, "json": False} | values)


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))


def test_the_lines_are_shown_before_they_run_and_run_once_it_is_agreed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, powershell = io.StringIO(), PowerShell()

    def run(lines: str) -> str:
        for line in lines.splitlines() if lines != driver_commands.STATE else ():
            assert line in out.getvalue()
        return powershell(lines)

    answering(monkeypatch, "y\n")
    assert driver_commands.sign(options(file), out, run) == 0
    assert len(powershell.lines) == 2
    assert str(file).replace("'", "''") in powershell.lines[0] and "{path}" not in powershell.lines[0]
    assert f"{file}: signed with CN=procmon-gate test signing, 00AA\n" in out.getvalue()


@pytest.mark.parametrize("answer", ["", "n\n", "\n", "yes please\n"])
def test_without_a_yes_nothing_runs(file: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    out, powershell = io.StringIO(), PowerShell()
    answering(monkeypatch, answer)
    assert driver_commands.sign(options(file), out, powershell) == 1
    assert powershell.lines == []
    assert out.getvalue().endswith("nothing was signed\n")


def test_it_says_what_the_machine_needs_before_the_driver_loads(file: Path) -> None:
    out = io.StringIO()
    assert driver_commands.sign(options(file, yes=True), out, PowerShell()) == 0
    for line in (
        "test signing:      off; `bcdedit /set testsigning on`, then restart",
        "memory integrity:  on; it may refuse a driver with a test signature",
        "Secure Boot:       True; bcdedit refuses test signing while it is on",
        "BitLocker:         On; suspend it before",
        "Smart App Control: Off\n",
        "next: `procmon-gate driver install`",
    ):
        assert line in out.getvalue()


def test_for_machines_it_prints_one_object(file: Path) -> None:
    out = io.StringIO()
    assert driver_commands.sign(options(file, yes=True, json=True), out, PowerShell()) == 0
    told = json.loads(out.getvalue())
    assert told["file"] == str(file) and told["signed"].startswith("signed with")
    assert told["machine"] == {
        "test signing": "off", "memory integrity": "on", "Secure Boot": "True", "BitLocker": "On",
        "Smart App Control": "Off",
    }  # fmt: skip


def test_without_an_administrator_nothing_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procmon.win32.machine.is_elevated", lambda: False)
    powershell = PowerShell()
    with pytest.raises(procmon.AccessDenied, match="Run as administrator"):
        driver_commands.sign(options(file, yes=True), io.StringIO(), powershell)
    assert powershell.lines == []


@pytest.mark.parametrize(
    "error", [procmon.DriverFileMissing("there is no file"), procmon.VersionMismatch("is of version 0.2.0")]
)
def test_a_file_that_is_not_this_packages_driver_is_not_signed(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(path: str) -> bytes:
        raise error

    monkeypatch.setattr("procmon.cli.driver_commands.read_driver", refuse)
    powershell = PowerShell()
    with pytest.raises(type(error)):
        driver_commands.sign(options(file, yes=True), io.StringIO(), powershell)
    assert powershell.lines == []


def test_no_line_needs_more_than_one_store_or_restarts_the_machine() -> None:
    """In test mode the kernel checks no certificate store; and the user chooses when to restart."""
    assert "Restart-Computer" not in driver_commands.SIGN
    assert "Cert:\\LocalMachine\\Root" not in driver_commands.SIGN
    assert driver_commands.SIGN.count("$cert") > 3, "the certificate that was made is the one that signs"


def test_the_command_line_reaches_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[argparse.Namespace] = []

    def note(given: argparse.Namespace) -> int:
        seen.append(given)
        return 0

    monkeypatch.setattr("procmon.cli.driver_commands.sign", note)
    assert main.main(["driver", "sign", "x.sys", "--yes"]) == 0
    assert (seen[0].file, seen[0].yes, seen[0].json) == ("x.sys", True, False)
    assert main.main(["driver", "sign", "--help"]) == 0
    assert "PowerShell lines that are shown first" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "copy"), [(["x.sys"], True), (["x.sys", "--no-copy"], False)])
def test_install_copies_unless_there_is_no_copy(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], copy: bool
) -> None:
    seen: list[object] = []

    class Service:
        def install(self, path: str, *, copy: bool) -> None:
            seen.append((path, copy))

        def status(self) -> procmon.DriverStatus:
            return procmon.DriverStatus("ProcMonGate", procmon.DriverState.STOPPED, "x")

    make: Callable[[], Service] = Service
    monkeypatch.setattr("procmon.cli.driver_commands.DriverService", make)
    assert main.main(["driver", "install", *arguments]) == 0
    assert seen == [("x.sys", copy)]


@pytest.mark.parametrize("quote", ["'", "\u2018", "\u2019", "\u201a", "\u201b"])
def test_no_quote_in_a_path_ends_the_text_of_the_lines(file: Path, quote: str) -> None:
    """PowerShell also treats typographic quotes as single quotes."""
    odd, powershell = file.parent / f"o{quote}; Remove-Item x" / "procmon.sys", PowerShell()
    driver_commands.sign(options(odd, yes=True), io.StringIO(), powershell)
    assert f"o{quote * 2}; Remove-Item x" in powershell.lines[0]
