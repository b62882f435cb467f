"""doctor: its findings on a healthy machine, and on machines with one fault each."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK
from procmon.cli import doctor
from procmon.cli.live_policy import GuardState, read_guard_state, write_guard_state
from procmon.driver.info import DriverInfo
from procmon.driver.service import DriverState, DriverStatus
from procmon.win32.machine import CodeIntegrity


class Computer:
    """A healthy machine; tests add faults."""

    windows: str | None = "Windows-10"
    wine = False
    pointer_bits = 64

    def driver_architecture(self) -> str:
        return "x64"

    def elevated(self) -> bool:
        return True

    def integrity(self) -> CodeIntegrity:
        return CodeIntegrity(enforced=True, test_signing=True, memory_integrity=False)

    def driver_file(self) -> Path:
        return Path("c:/procmon.sys")

    def service(self) -> DriverStatus:
        return DriverStatus("ProcMonGate", DriverState.RUNNING, "c:\\procmon.sys")

    def driver(self) -> DriverInfo:
        return DriverInfo()

    def image_of(self, pid: int) -> str:
        return "c:\\other.exe"

    def guard(self) -> GuardState | None:
        return GuardState(44, "24e4748882d4", "office.toml: 3 rules, version 24e4748882d4", "2026-01-31T10:22:06+00:00")


def raising(error: Exception) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise error

    return call


class TestDoctor:
    def test_all_is_well(self) -> None:
        assert all(finding.good for finding in doctor.examine(Computer()))

    @pytest.mark.parametrize(
        ("name", "value", "good", "said"),
        [
            ("elevated", lambda: False, False, "Run as administrator"),
            ("elevated", raising(OSError("no token")), None, "administrator   not known: no token"),
            ("integrity", lambda: CodeIntegrity(True, False, True), None, "is off; memory integrity is on"),
            ("integrity", lambda: CodeIntegrity(False, False, False), True, "enforces none"),
            ("driver_file", raising(procmon.DriverFileMissing("build it")), False, "missing\n" + " " * 21 + "build it"),
            ("service", lambda: DriverStatus("P", DriverState.NOT_INSTALLED), False, "driver install"),
            ("service", lambda: DriverStatus("P", DriverState.STOPPED, __file__), False, "`procmon-gate driver start`"),
            ("service", lambda: DriverStatus("P", DriverState.STOPPED, __file__, 577), False, "refused its signature"),
            ("service", lambda: DriverStatus("P", DriverState.STOPPED, "c:\\gone"), False, "its file is gone"),
            ("service", lambda: DriverStatus("P", DriverState.STOPPING, "x"), False, "close the program that"),
            ("driver", raising(procmon.VersionMismatch("it speaks 2.0; delete it")), False, "it speaks 2.0; delete it"),
            ("driver", lambda: DriverInfo(controller_pid=44), None, "process 44, c:\\other.exe"),
            ("driver", lambda: DriverInfo(controller_pid=44), True, "office.toml: 3 rules, version 24e4748882d4"),
            ("driver", lambda: DriverInfo(controller_pid=44, on_timeout=BLOCK, on_limit=ALLOW), True,
             "failures        block on timeout, allow at the limit"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_and_what_to_do(self, name: str, value: object, good: bool | None, said: str) -> None:
        computer = Computer()
        setattr(computer, name, value)
        findings = [finding for finding in doctor.examine(computer) if said in str(finding)]
        assert [finding.good for finding in findings] == [good]

    def test_a_32_bit_python_is_reported_which_driver(self) -> None:
        computer = Computer()
        computer.pointer_bits = 32
        assert "must be the x64 one" in str(doctor.examine(computer)[0])

    def test_elsewhere_it_says_what_works(self) -> None:
        computer = Computer()
        computer.windows = None
        [finding] = doctor.examine(computer)
        assert (finding.good, "SimulatedGate" in finding.advice) == (False, True)

    def test_the_policy_of_another_controller_is_not_shown(self) -> None:
        computer = Computer()
        computer.driver = lambda: DriverInfo(controller_pid=48)  # type: ignore[method-assign]
        assert [finding for finding in doctor.examine(computer) if finding.topic == "policy"] == []

    def test_guard_writes_which_policy_decides(self, tmp_path: Path) -> None:
        path, policy = tmp_path / "guard.json", procmon.Policy.parse('default = "ask"', "ask.toml")
        assert read_guard_state(path) is None
        write_guard_state(policy, path)
        state = read_guard_state(path)
        assert state is not None
        assert (state.pid, state.version) == (os.getpid(), policy.version)
        assert "ask.toml" in state.policy
        path.write_text("{}", encoding="utf-8")
        with pytest.raises(ValueError, match="is damaged"):
            read_guard_state(path)
