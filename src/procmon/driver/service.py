"""The driver as a Windows service: install, start, stop, delete, status."""

import enum
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from ..errors import (
    DriverAlreadyInstalled,
    DriverNotInstalled,
    DriverNotRunning,
    DriverRunning,
    ProcmonError,
    UnsupportedPlatform,
)
from ..util.arguments import check_seconds
from ..win32 import scm
from ..win32.translate import DELETE, INSTALL, QUERY, START, STOP, translate, translated
from .driver_file import (
    copy_of,
    file_exists,
    find_driver,
    plain_path,
    read_driver,
    remove_copy,
    safe_path,
    write_copy,
)
from .info import driver_info, quiesce

__all__ = ["DriverService", "DriverState", "DriverStatus"]

_FILE_NOT_FOUND = 2
_NEVER_STARTED = 1077  # ERROR_SERVICE_NEVER_STARTED
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\xb9\xb2\xb3])(\.|$)", re.IGNORECASE)
_COMES_UP_S = 5.0  # longest wait for a start by another program

Step = Callable[[], None]


class DriverState(enum.Enum):
    """The state of a driver service.

    >>> DriverStatus("ProcMonGate", DriverState.STOPPED, r"C:\\Tools\\procmon.sys").state is DriverState.STOPPED
    True
    """

    NOT_INSTALLED = "not installed"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """A stop was requested, and a program still has its device open."""


_STATES = {
    scm.STOPPED: DriverState.STOPPED,
    scm.START_PENDING: DriverState.STARTING,
    scm.RUNNING: DriverState.RUNNING,
    scm.STOP_PENDING: DriverState.STOPPING,
}


@dataclass(frozen=True, slots=True)
class DriverStatus:
    r"""The state of the service at one moment.

    >>> DriverStatus("ProcMonGate", DriverState.RUNNING, r"C:\Tools\procmon.sys")
    <DriverStatus ProcMonGate running, C:\Tools\procmon.sys>
    """

    name: str
    """Of the service."""
    state: DriverState
    """Its state."""
    path: str | None = None
    """Of the .sys file; None if no service is installed."""
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
    """The part of Windows that `DriverService` uses: `procmon.win32.scm`, or a test's own. Failures raise OSError."""

    def create(self, name: str, display_name: str, path: str) -> None: ...
    def start(self, name: str) -> None: ...
    def stop(self, name: str) -> scm.ServiceState: ...
    def query(self, name: str) -> scm.ServiceState: ...
    def image_path(self, name: str) -> str: ...
    def delete(self, name: str) -> None: ...


class DriverService:
    """The driver's service. Every change needs an administrator; `status` does not.

    A call out of order raises an exception that explains it, and changes nothing. As a context manager the object
    installs and starts the driver where necessary, and undoes only its own steps at the end::

        with procmon.DriverService(), procmon.DriverGate() as gate:
            ...

    >>> import procmon
    >>> procmon.DriverService("ProcMonGateElsewhere").status()  # doctest: +WINDOWS
    <DriverStatus ProcMonGateElsewhere not installed>

    Raises: UnsupportedPlatform when made off Windows (without your own `manager`); ValueError for a name that no
    service can have.
    """

    def __init__(self, name: str = "ProcMonGate", *, manager: ServiceManager | None = None) -> None:
        if manager is None and sys.platform != "win32":
            raise UnsupportedPlatform(
                f"DriverService needs Windows, this is {sys.platform}; procmon.SimulatedGate works without a driver"
            )
        if not isinstance(name, str):
            raise TypeError(f"the name of a service is a text; not {name!r}")
        if not re.fullmatch(r"[\w.-]{1,80}", name) or not name.strip("."):
            raise ValueError(f"{name!r} is no name for a service: use letters, digits, dots and dashes")
        if _DEVICE_NAME.match(name):
            raise ValueError(f"{name!r} is no name for a service: Windows has a device of that name, and so no file")
        self.name = name
        """Of the service. The device is called ``ProcMonGate`` whatever the service's name."""
        self._manager: ServiceManager = manager or scm
        self._undo: list[list[Step]] = []  # one list for each open `with`

    def __repr__(self) -> str:
        return f"<DriverService {self.name}>"

    def install(self, path: str | os.PathLike[str] | None = None, *, copy: bool = True) -> None:
        r"""Make the service for the driver at `path`, or for the one that came with this package (`find_driver`).

        The file is copied to ``System32\drivers``, under the name of the service, compared byte by byte, and run from
        there. With ``copy=False`` the service runs the file from its own place; users other than administrators must
        not be able to change it there.

        Raises: DriverFileMissing, also for a file that is no driver; DriverNotSigned for another architecture;
        VersionMismatch for another version; DriverFileUnsafe for a file that users other than administrators can change
        (with ``copy=False``); DriverAlreadyInstalled, DriverRunning, AccessDenied.
        """
        source = plain_path(find_driver() if path is None else path)
        data = read_driver(source)
        target = copy_of(self.name) if copy else safe_path(source)
        with translated(INSTALL, name=self.name, path=target):
            self._manager.create(self.name, f"{self.name} process gate", target)
        if copy:  # only now: an existing service of that name may run from that file
            try:
                write_copy(data, target)
            except BaseException as error:
                try:
                    self._manager.delete(self.name)
                except OSError as problem:
                    error.add_note(f"and the service {self.name} that was made for it could not be deleted: {problem}")
                raise

    def start(self) -> None:
        """Load the driver.

        Raises: DriverNotInstalled, DriverRunning if it runs already, DriverFileMissing, DriverNotSigned, AccessDenied.
        """
        path = self._path() or "the path of its service"
        try:
            with translated(START, name=self.name, path=path):
                self._manager.start(self.name)
        except ProcmonError as problem:
            # Windows has many codes for a missing file, and some of them are misleading.
            if type(problem) is ProcmonError and os.path.isabs(path) and not file_exists(path):
                raise translate(OSError(_FILE_NOT_FOUND, ""), START, name=self.name, path=path) from problem.__cause__
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """Unload the driver. It releases all held processes at once, and its controller's gate raises GateClosed.

        Windows unloads a driver only when no program has its device open. So the first step is `QUIESCE`: the driver
        stops holding, and its controller closes the device. Then the service is stopped. Waits up to `timeout` seconds
        until the driver is unloaded.

        Raises: DriverNotInstalled, DriverNotRunning, AccessDenied; DriverRunning while a program has the device open:
        close that program, then call again. Until then the driver stays in memory, and holds nothing.
        """
        still_open = (
            f"the driver of {self.name} is stopping and holds nothing any more, but stays in memory while a "
            f"program has its device open{self._holder()}: close that program, then stop() again"
        )
        check_seconds("timeout", timeout, optional=False)
        end = time.monotonic() + timeout
        with translated(STOP, name=self.name, still_open=still_open):
            if self._manager.query(self.name).state == scm.RUNNING:  # if not, the device is another service's
                with suppress(ProcmonError):  # the stop below raises the same error, such as access denied
                    quiesce()
            state = self._manager.stop(self.name).state
            while state != scm.STOPPED and time.monotonic() < end:
                time.sleep(0.02)
                state = self._manager.query(self.name).state
                if state == scm.RUNNING:  # the device was open: NT needs a second stop once it is closed
                    with suppress(OSError):
                        state = self._manager.stop(self.name).state
        if state != scm.STOPPED:
            raise DriverRunning(still_open)

    def delete(self) -> None:
        """Remove the service, and the copy that `install` made. A file elsewhere stays.

        Raises: DriverNotInstalled; DriverRunning when the service is not stopped; AccessDenied.
        """
        status = self.status()
        if status.state not in (DriverState.STOPPED, DriverState.NOT_INSTALLED):
            raise DriverRunning(f"the driver of {self.name} is {status.state.value}: stop() it first, then delete()")
        with translated(DELETE, name=self.name):
            self._manager.delete(self.name)
        if status.path and os.path.normcase(status.path) == os.path.normcase(copy_of(self.name)):
            remove_copy(status.path)

    def status(self) -> DriverStatus:
        """Return the state of the service at this moment; a service that is not installed is no error."""
        try:
            with translated(QUERY, name=self.name):
                service = self._manager.query(self.name)
        except DriverNotInstalled:
            return DriverStatus(self.name, DriverState.NOT_INSTALLED)
        exit_code = 0 if service.exit_code == _NEVER_STARTED else service.exit_code
        return DriverStatus(self.name, _STATES.get(service.state, DriverState.RUNNING), self._path(), exit_code)

    def ensure(self) -> None:
        """Install and start the driver where necessary. If the start fails, undo the installation of this call.

        Raises: the exceptions of `install` and `start`.
        """
        self._ensured()  # the undo steps are dropped

    def __enter__(self) -> Self:
        self._undo.append(self._ensured())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _undo(self._undo.pop(), error)

    def _ensured(self) -> list[Step]:
        """Install and start the driver where necessary; return the steps that undo it.

        Another program may take a step first. Then that step is no longer necessary, and is not undone here.
        """
        undo: list[Step] = []
        state = self.status().state
        try:
            if state is DriverState.NOT_INSTALLED:
                try:
                    self.install()
                    undo.insert(0, self.delete)
                except DriverAlreadyInstalled:
                    if self.status().state is DriverState.NOT_INSTALLED:
                        raise
            if state is not DriverState.RUNNING:
                try:
                    self.start()
                    undo.insert(0, self.stop)
                except DriverRunning:
                    if not self._comes_up():
                        raise
        except BaseException as error:
            _undo(undo, error)
            raise
        return undo

    def _comes_up(self) -> bool:
        """Whether the driver runs, or does so soon because another program has started it."""
        end = time.monotonic() + _COMES_UP_S
        while (state := self.status().state) is DriverState.STARTING and time.monotonic() < end:
            time.sleep(0.02)
        return state is DriverState.RUNNING

    def _path(self) -> str | None:
        try:
            return self._manager.image_path(self.name).removeprefix("\\??\\")
        except OSError:
            return None  # only for messages and status: the caller's own call raises the error

    def _holder(self) -> str:
        try:
            pid = driver_info().controller_pid
        except ProcmonError:  # not running, say: the stop itself raises
            return ""
        return f" (its controller is process {pid})" if pid else ""


def _undo(steps: Sequence[Step], error: BaseException | None) -> None:
    try:
        for step in steps:
            with suppress(DriverNotRunning, DriverNotInstalled):  # already done meanwhile
                step()
    except ProcmonError as problem:
        if error is None:
            raise
        error.add_note(f"and the driver service could not be put back as it was: {problem}")
