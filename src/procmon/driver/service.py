"""The driver as a Windows service: install, start, stop, delete, status.

The service runs the .sys file from where it lies: nothing is copied. Keep it in a folder that only administrators can
write to, such as one below ``C:\\Program Files``; whoever can change the file can change the kernel.
"""

import enum
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..errors import (
    DriverFileMissing,
    DriverNotInstalled,
    DriverNotRunning,
    DriverNotSigned,
    DriverRunning,
    ProcmonError,
    UnsupportedPlatform,
)
from ..win32 import kernel, scm
from ..win32.translate import DELETE, INSTALL, QUERY, START, STOP, translate, translated
from .info import driver_info

__all__ = ["DriverService", "DriverState", "DriverStatus", "find_driver"]

FILE_NAME = "procmon.sys"

_FILE_NOT_FOUND = 2
_NEVER_STARTED = 1077  # ERROR_SERVICE_NEVER_STARTED

Step = Callable[[], None]


class DriverState(enum.Enum):
    """What a driver service is doing.

    >>> DriverStatus("ProcMonGate", DriverState.STOPPED, r"C:\\Tools\\procmon.sys").state is DriverState.STOPPED
    True
    """

    NOT_INSTALLED = "not installed"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """It was told to stop, and a program still has its device open."""


_STATES = {
    scm.STOPPED: DriverState.STOPPED,
    scm.START_PENDING: DriverState.STARTING,
    scm.RUNNING: DriverState.RUNNING,
    scm.STOP_PENDING: DriverState.STOPPING,
}


@dataclass(frozen=True, slots=True)
class DriverStatus:
    r"""What Windows says of the service at one moment.

    >>> DriverStatus("ProcMonGate", DriverState.RUNNING, r"C:\Tools\procmon.sys")
    <DriverStatus ProcMonGate running, C:\Tools\procmon.sys>
    """

    name: str
    """Of the service."""
    state: DriverState
    """What it is doing."""
    path: str | None = None
    """Of the .sys file; None where nothing is installed."""
    exit_code: int = 0
    """The Windows error with which it last stopped, or failed to start; 0 = none."""

    @property
    def running(self) -> bool:
        """It is loaded and ready."""
        return self.state is DriverState.RUNNING

    def __repr__(self) -> str:
        path = f", {self.path}" if self.path else ""
        failed = f", last error {self.exit_code}" if self.exit_code else ""
        return f"<DriverStatus {self.name} {self.state.value}{path}{failed}>"


class ServiceManager(Protocol):
    """What `DriverService` needs of Windows: `procmon.win32.scm`, or a test's own. Failures are OSErrors."""

    def create(self, name: str, display_name: str, path: str) -> None: ...
    def start(self, name: str) -> None: ...
    def stop(self, name: str) -> scm.ServiceState: ...
    def query(self, name: str) -> scm.ServiceState: ...
    def image_path(self, name: str) -> str: ...
    def delete(self, name: str) -> None: ...


class DriverService:
    """The driver's service. Every change needs an administrator; `status` does not.

    A step out of order raises what says so, changes nothing, and the right step can follow at once. As a context
    manager it installs and starts what is missing, and afterwards undoes just that::

        with procmon.DriverService(), procmon.DriverGate() as gate:
            ...

    >>> import procmon
    >>> procmon.DriverService("ProcMonGateElsewhere").status()  # doctest: +WINDOWS
    <DriverStatus ProcMonGateElsewhere not installed>

    Raises: UnsupportedPlatform when made off Windows (without a `manager` of one's own).
    """

    def __init__(self, name: str = "ProcMonGate", *, manager: ServiceManager | None = None) -> None:
        if manager is None and sys.platform != "win32":
            raise UnsupportedPlatform(
                f"DriverService needs Windows, this is {sys.platform}; procmon.SimulatedGate works without a driver"
            )
        self.name = name
        """Of the service. The device is called ``ProcMonGate`` whatever the service's name."""
        self._manager: ServiceManager = manager or scm
        self._undo: list[list[Step]] = []  # one list for each `with` it is in

    def __repr__(self) -> str:
        return f"<DriverService {self.name}>"

    def install(self, path: str | os.PathLike[str] | None = None) -> None:
        """Make the service for the driver at `path`, or at the first place of `find_driver`.

        Raises: DriverFileMissing also for a file that is no driver, DriverNotSigned for one of another architecture,
        DriverAlreadyInstalled, AccessDenied; ValueError for a path on the network.
        """
        file = _plain_path(find_driver() if path is None else path)
        _check_file(file)
        with translated(INSTALL, name=self.name, path=file):
            self._manager.create(self.name, f"{self.name} process gate", file)

    def start(self) -> None:
        """Load the driver.

        Raises: DriverNotInstalled, DriverRunning if it runs already, DriverFileMissing, DriverNotSigned, AccessDenied.
        """
        path = self._path() or "the path of its service"
        try:
            with translated(START, name=self.name, path=path):
                self._manager.start(self.name)
        except ProcmonError as problem:
            # Windows has many codes for a file that has gone, and some of them say something else.
            if type(problem) is ProcmonError and os.path.isabs(path) and not os.path.isfile(path):
                raise translate(OSError(_FILE_NOT_FOUND, ""), START, name=self.name, path=path) from problem.__cause__
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """Unload the driver; what it holds goes on at once. Waits up to `timeout` seconds for the end.

        Raises: DriverNotInstalled, DriverNotRunning, AccessDenied; DriverRunning while a program has the device open:
        close that, then call again.
        """
        still_open = (
            f"the driver of {self.name} was told to stop, and stays in memory while a program has its device open"
            f"{self._holder()}: close that, then stop() again"
        )
        end = time.monotonic() + timeout
        with translated(STOP, name=self.name, still_open=still_open):
            state = self._manager.stop(self.name).state
            while state != scm.STOPPED and time.monotonic() < end:
                time.sleep(0.02)
                state = self._manager.query(self.name).state
        if state != scm.STOPPED:
            raise DriverRunning(still_open)

    def delete(self) -> None:
        """Remove the service. The file stays.

        Raises: DriverNotInstalled; DriverRunning when it has not been stopped; AccessDenied.
        """
        status = self.status()
        if status.state not in (DriverState.STOPPED, DriverState.NOT_INSTALLED):
            raise DriverRunning(f"the driver of {self.name} is {status.state.value}: stop() it first, then delete()")
        with translated(DELETE, name=self.name):
            self._manager.delete(self.name)

    def status(self) -> DriverStatus:
        """What it is doing at this moment; one that is not installed is no error."""
        try:
            with translated(QUERY, name=self.name):
                service = self._manager.query(self.name)
        except DriverNotInstalled:
            return DriverStatus(self.name, DriverState.NOT_INSTALLED)
        exit_code = 0 if service.exit_code == _NEVER_STARTED else service.exit_code
        return DriverStatus(self.name, _STATES.get(service.state, DriverState.RUNNING), self._path(), exit_code)

    def ensure(self) -> None:
        """Install and start whatever of it is not so yet. If the start fails, what was installed here goes again.

        Raises: what `install` and `start` raise.
        """
        self._ensured()  # what would undo it is dropped

    def __enter__(self) -> Self:
        self._undo.append(self._ensured())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _undo(self._undo.pop(), error)

    def _ensured(self) -> list[Step]:
        """Do what is missing; the steps undo it."""
        undo: list[Step] = []
        state = self.status().state
        try:
            if state is DriverState.NOT_INSTALLED:
                self.install()
                undo.insert(0, self.delete)
            if state is not DriverState.RUNNING:
                self.start()
                undo.insert(0, self.stop)
        except BaseException as error:
            _undo(undo, error)
            raise
        return undo

    def _path(self) -> str | None:
        try:
            return self._manager.image_path(self.name).removeprefix("\\??\\")
        except OSError:
            return None  # only for messages and status: the caller's own call says what is wrong

    def _holder(self) -> str:
        try:
            pid = driver_info().controller_pid
        except ProcmonError:  # not running, say: the stop itself will tell
            return ""
        return f" (its controller is process {pid})" if pid else ""


def _undo(steps: Sequence[Step], error: BaseException | None) -> None:
    try:
        for step in steps:
            with suppress(DriverNotRunning, DriverNotInstalled):  # somebody has done it already
                step()
    except ProcmonError as problem:
        if error is None:
            raise
        error.add_note(f"and the driver service could not be put back as it was: {problem}")


def _plain_path(path: str | os.PathLike[str]) -> str:
    r"""The form that every Windows takes for a driver: absolute, and without ``\??\`` or ``\\?\``."""
    text = os.fspath(path)
    for prefix in ("\\??\\", "\\\\?\\"):
        text = text.removeprefix(prefix)
    text = os.path.abspath(text)
    if text.startswith("\\\\"):
        raise ValueError(f"Windows loads no driver from the network ({text}): copy the file to a local disk first")
    return text


_HOW_TO_GET_IT = "build it with `python3 dev.py driver` in a checkout of the project"
_MACHINES = {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64"}


def _check_file(path: str) -> None:
    """Tell before Windows does, and more clearly, that a file cannot be this machine's driver."""
    if not os.path.isfile(path):
        raise DriverFileMissing(f"there is no file {path}: {_HOW_TO_GET_IT}, or give its path")
    with open(path, "rb") as file:
        head = file.read(4096)
    at = int.from_bytes(head[0x3C:0x40], "little")
    if head[:2] != b"MZ" or head[at : at + 4] != b"PE\0\0":
        raise DriverFileMissing(f"{path} is no driver, nor any Windows program: build it, or give the right path")
    machine, wanted = int.from_bytes(head[at + 4 : at + 6], "little"), kernel.driver_architecture()
    built_for = _MACHINES.get(machine, f"machine 0x{machine:X}")
    if built_for != {"wine": "x64"}.get(wanted, wanted):
        raise DriverNotSigned(f"{path} is built for {built_for}: this Windows needs build/driver/{wanted}/{FILE_NAME}")


def find_driver() -> Path:
    """The driver's file: PROCMON_DRIVER if it is set; else beside a frozen application's modules or its program, in the
    package, in the source tree's ``build/driver/<architecture>/``.

    >>> from unittest.mock import patch
    >>> with patch.dict("os.environ", PROCMON_DRIVER="nowhere.sys"):
    ...     find_driver()
    Traceback (most recent call last):
    ...
    procmon.errors.DriverFileMissing: PROCMON_DRIVER names nowhere.sys, and no file is there: correct it, or unset it

    Raises: DriverFileMissing, which says where it looked.
    """
    if chosen := os.environ.get("PROCMON_DRIVER"):
        if not os.path.isfile(chosen):
            raise DriverFileMissing(f"PROCMON_DRIVER names {chosen}, and no file is there: correct it, or unset it")
        return Path(chosen)
    package, architecture = Path(__file__).resolve().parents[1], kernel.driver_architecture()
    places = [package / "driver" / architecture / FILE_NAME]
    if getattr(sys, "frozen", False):
        bundle = Path(getattr(sys, "_MEIPASS", package))
        places = [bundle / FILE_NAME, bundle / "procmon" / FILE_NAME, Path(sys.executable).parent / FILE_NAME, *places]
    places.append(package.parents[1] / "build" / "driver" / architecture / FILE_NAME)
    for place in places:
        if place.is_file():
            return place
    raise DriverFileMissing(
        f"the driver is at none of {', '.join(map(str, places))}: {_HOW_TO_GET_IT}, give its path to install(), or set "
        "PROCMON_DRIVER"
    )
