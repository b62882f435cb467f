"""doctor: what it finds on machines that are well, and ill in one way each."""

from collections.abc import Callable
from pathlib import Path

import pytest

import procmon
from procmon.cli import doctor
from procmon.driver.info import DriverInfo
from procmon.driver.service import DriverState, DriverStatus
from procmon.win32.machine import CodeIntegrity


class Computer:
    """A machine on which all is well; tests make it ill."""

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
            ("elevated", raising(OSError("no token")), None, "administrator   cannot be told: no token"),
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
        ],
    )  # fmt: skip
    def test_what_is_wrong_and_what_to_do(self, name: str, value: object, good: bool | None, said: str) -> None:
        computer = Computer()
        setattr(computer, name, value)
        findings = [finding for finding in doctor.examine(computer) if said in str(finding)]
        assert [finding.good for finding in findings] == [good]

    def test_a_32_bit_python_is_told_which_driver(self) -> None:
        computer = Computer()
        computer.pointer_bits = 32
        assert "must be the x64 one" in str(doctor.examine(computer)[0])

    def test_elsewhere_it_says_what_works(self) -> None:
        computer = Computer()
        computer.windows = None
        [finding] = doctor.examine(computer)
        assert (finding.good, "SimulatedGate" in finding.advice) == (False, True)
