"""``procmon-gate selftest``: it passes here, and it reports a broken promise."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import procmon
from procmon.cli import main, selftest, selftest_checks
from procmon.cli.selftest_checks import CHECKS, DriverGround
from procmon.gates.base import Gate
from procmon.win32.kernel import is_wine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "driver" / "wine"))
from kernel import WineKernel


def test_the_debug_gate_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "selftest.json"
    status = main.main(["selftest", "--output", str(path)])
    out = capsys.readouterr().out
    assert status == 0, out
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["procmon"], report["bits"]) == (procmon.__version__, 64)
    assert [each["result"] for each in report["checks"]] == ["ok"] * len(CHECKS)
    assert f"{len(CHECKS)} ok, 0 failed, 0 not tried, " in out.splitlines()[-1]


def test_the_driver_keeps_its_promises_and_is_left_as_it_was() -> None:
    with WineKernel() as kernel:
        checks = list(selftest.examine([DriverGround(kernel.run if is_wine() else None)]))
    assert {each.name: (each.result, each.detail) for each in checks if each.result == "FAILED"} == {}
    assert [each.name for each in checks if each.result == "not tried"] == ["output"]
    assert [checks[0].name, checks[-1].name] == ["install", "remove"]
    assert procmon.DriverService().status().state is procmon.DriverState.NOT_INSTALLED


def test_where_wine_tells_no_driver_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if is_wine():
        [check] = selftest.examine([DriverGround()])
        assert (check.result, check.detail) == ("not tried", "Wine tells no driver of new processes")


class Ungated:
    """Commands that run beside their gate."""

    name, kind = "none", "none"

    def start(self, command: Sequence[str], **_: Any) -> tuple[Gate, Callable[[], "subprocess.Popen[Any]"]]:
        gate = procmon.SimulatedGate()
        return gate, lambda: subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_promises_that_are_not_kept_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest_checks, "PATIENCE_S", 0.5)
    monkeypatch.setattr(selftest, "CHECKS", CHECKS[:9])  # the others need no gate, or one of another process
    checks = {each.name: each for each in selftest.examine([Ungated()])}
    assert list(checks) == ["hold", "allow", "block", "tree", "defer", "32-bit", "timeout", "error", "stop"]
    assert [each.name for each in checks.values() if each.result != "FAILED"] == []
    assert checks["hold"].detail == "no process was held"
    assert checks["block"].detail == "the exit status is 0x0"


def test_the_report_names_no_user_and_no_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERNAME", "ada")
    monkeypatch.setenv("COMPUTERNAME", "ENGINE")
    said = selftest._without_names(r"C:\Users\Ada\AppData\adapter.txt on engine")
    assert said == r"C:\Users\%USERNAME%\AppData\adapter.txt on %COMPUTERNAME%"
