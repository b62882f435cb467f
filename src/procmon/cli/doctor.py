"""``procmon-gate doctor``: finds what keeps procmon from working on this machine, and gives advice."""

import platform
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..driver import protocol
from ..driver.driver_file import file_exists, find_driver
from ..driver.info import DriverInfo, driver_info
from ..driver.service import DriverService, DriverState, DriverStatus
from ..errors import DriverFileMissing, DriverNotInstalled, DriverNotRunning, ProcmonError, VersionMismatch
from ..util.pages import page
from ..util.printable import printable
from ..win32 import kernel, machine, process
from .live_policy import GuardState, read_guard_state

__all__ = ["Finding", "Machine", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined.

    >>> print(Finding("administrator", False, "no", "open the terminal with `Run as administrator`"))
    [!!] administrator   no
                         open the terminal with `Run as administrator`
    """

    topic: str
    good: bool | None
    """False: something does not work because of it. None: the state may be intended."""
    state: str
    advice: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        mark = {True: "ok", False: "!!", None: "--"}[self.good]
        return f"[{mark}] {self.topic:<15} {self.state}" + (f"\n{'':21}{self.advice}" if self.advice else "")

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON types."""
        return {"topic": self.topic, "good": self.good, "state": self.state, "advice": self.advice}


class Machine(Protocol):
    """The questions of `examine`. Failures are `ProcmonError` or `OSError`."""

    @property
    def windows(self) -> str | None:
        """The name of this Windows; None on another system."""

    @property
    def wine(self) -> bool: ...
    @property
    def pointer_bits(self) -> int: ...
    def driver_architecture(self) -> str: ...
    def elevated(self) -> bool: ...
    def integrity(self) -> machine.CodeIntegrity: ...
    def driver_file(self) -> Path: ...
    def service(self) -> DriverStatus: ...
    def driver(self) -> DriverInfo: ...
    def image_of(self, pid: int) -> str: ...
    def guard(self) -> GuardState | None: ...


class ThisMachine:
    """This machine."""

    windows = platform.platform(terse=True) if sys.platform == "win32" else None
    wine = kernel.is_wine()
    pointer_bits = struct.calcsize("P") * 8

    def driver_architecture(self) -> str:
        """The architecture of the drivers that this kernel can load."""
        return machine.driver_architecture()

    def elevated(self) -> bool:
        """Whether this process has an administrator's full token."""
        return machine.is_elevated()

    def integrity(self) -> machine.CodeIntegrity:
        """The rules of Windows for signatures."""
        return machine.code_integrity()

    def driver_file(self) -> Path:
        """The path of the driver."""
        return find_driver()

    def service(self) -> DriverStatus:
        """The state of the service."""
        return DriverService().status()

    def driver(self) -> DriverInfo:
        """The driver's own report."""
        return driver_info()

    def image_of(self, pid: int) -> str:
        """The image of a running process."""
        with kernel.open_process(pid) as opened:
            return process.dos_or_native_path(opened)

    def guard(self) -> GuardState | None:
        """The policy by which `guard` decides."""
        return read_guard_state()


def examine(computer: Machine | None = None) -> list[Finding]:
    """Examine everything that the gates need, in order of importance; changes nothing."""
    computer = computer or ThisMachine()
    if computer.windows is None:
        advice = "here you can try out callbacks and policies: procmon.SimulatedGate, `procmon-gate policy`"
        return [Finding("system", False, f"{sys.platform}; the gates need Windows", advice)]
    findings = [_system(computer), Finding("debug gate", True, "works: `procmon-gate run` needs nothing more")]
    for look in (_administrator, _driver_file, _signatures, _service):
        findings.append(_tried(look, computer))
    findings += _driver(computer)
    return findings


def _tried(look: Callable[[Machine], Finding], computer: Machine) -> Finding:
    try:
        return look(computer)
    except (ProcmonError, OSError) as error:
        return Finding(look.__name__.strip("_").replace("_", " "), None, f"not known: {error}")


def _system(computer: Machine) -> Finding:
    python = f"Python {platform.python_version()}, {computer.pointer_bits} bits"
    kind = f"{computer.windows}{' (Wine)' if computer.wine else ''}"
    advice = ""
    if computer.pointer_bits == 32 and computer.driver_architecture() == "x64":
        advice = "a 32-bit Python is fine; the driver must be the x64 one, because Windows loads it"
    return Finding("system", True, f"{kind}, {python}", advice)


def _administrator(computer: Machine) -> Finding:
    if computer.elevated():
        return Finding("administrator", True, "yes")
    return Finding("administrator", False, "no", "the driver needs one: open the terminal with `Run as administrator`")


def _driver_file(computer: Machine) -> Finding:
    try:
        return Finding("driver file", True, f"{computer.driver_file()} ({computer.driver_architecture()})")
    except DriverFileMissing as error:
        return Finding("driver file", False, "missing", str(error))


def _signatures(computer: Machine) -> Finding:
    if computer.wine:
        return Finding("signatures", True, "Wine checks none")
    integrity = computer.integrity()
    guard = "; memory integrity is on" if integrity.memory_integrity else ""
    if not integrity.enforced:
        return Finding("signatures", True, f"this Windows enforces none{guard}")
    if integrity.test_signing:
        return Finding("signatures", True, f"test signing is on{guard}")
    advice = (
        "a driver that Microsoft has signed loads; one that you signed yourself needs `bcdedit /set testsigning on`, "
        f"with Secure Boot off, and a restart: {page('windows-setup.md')}"
    )
    return Finding("signatures", None, f"test signing is off{guard}", advice)


def _service(computer: Machine) -> Finding:
    status = computer.service()
    if status.state is DriverState.NOT_INSTALLED:
        return Finding(
            "service", False, "not installed", "`procmon-gate driver install`, then `procmon-gate driver start`"
        )
    state = status.state.value + (f" from {status.path}" if status.path else "")
    if status.running:
        return Finding("service", True, state)
    if status.state is DriverState.STOPPING:
        advice = "close the program that has it open, then `procmon-gate driver stop` and `procmon-gate driver start`"
    elif status.path and not file_exists(status.path):
        advice = "its file is gone: `procmon-gate driver delete`, then `procmon-gate driver install`"
    elif status.exit_code == 577:
        advice = "Windows refused its signature at the last start: see signatures above"
    else:
        advice = "`procmon-gate driver start`" + (
            f"; last time that ended in error {status.exit_code}" * bool(status.exit_code)
        )
    return Finding("service", False, state, advice)


def _driver(computer: Machine) -> Iterator[Finding]:
    try:
        info = computer.driver()
    except (DriverNotInstalled, DriverNotRunning):
        return  # the finding of the service has this already
    except VersionMismatch as error:
        yield Finding(
            "version", False, f"not {protocol.version_text(protocol.VERSION)}, which this package speaks", str(error)
        )
        return
    except (ProcmonError, OSError) as error:
        yield Finding("version", None, f"not known: {error}")
        return
    yield Finding("version", True, f"{info.version_text}; {info.held_count} held, {info.record_count} processes known")
    if not info.controller_pid:
        yield Finding("controller", True, "none: the driver is free")
        return
    try:
        image = printable(computer.image_of(info.controller_pid))
    except (ProcmonError, OSError):
        image = "a program whose name is not known"
    advice = "there can be one; to use the driver here, close that program"
    yield Finding("controller", None, f"process {info.controller_pid}, {image}", advice)
    verdicts = {
        "on timeout": info.on_timeout, "on disconnect": info.on_disconnect, "at the limit": info.on_limit,
        "on tampering": info.on_tamper, "WSL 1": info.on_pico,
    }  # fmt: skip
    if known := [f"{verdict.value} {case}" for case, verdict in verdicts.items() if verdict is not None]:
        yield Finding("failures", True, ", ".join(known))
    with suppress(OSError, ValueError):  # then the policy is not known; the controller need not be `guard`
        guard = computer.guard()
        if guard is not None and guard.pid == info.controller_pid:
            yield Finding("policy", True, printable(f"{guard.policy}, since {guard.at}"))
