"""The exceptions of procmon: what went wrong, and what to do next.

Everything that procmon raises on purpose is a `ProcmonError`. Where a Windows call failed, the `OSError` that names
the call is its ``__cause__``. The text of each exception ends in advice; `win32.translate` is the one place that
turns Windows error codes into these exceptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .records import ProcessHelper

__all__ = [
    "AccessDenied",
    "AlreadyAnswered",
    "AuditError",
    "ControllerBusy",
    "DriverAlreadyInstalled",
    "DriverError",
    "DriverFileMissing",
    "DriverFileUnsafe",
    "DriverNotInstalled",
    "DriverNotRunning",
    "DriverNotSigned",
    "DriverRunning",
    "GateClosed",
    "NotHeld",
    "PolicyError",
    "PolicyWarning",
    "Problem",
    "ProcessTampered",
    "ProcmonError",
    "StaleProcess",
    "UnsupportedPlatform",
    "VerdictError",
    "VersionMismatch",
]


class ProcmonError(Exception):
    """Base of every exception that procmon raises on purpose."""


class UnsupportedPlatform(ProcmonError):
    """The object needs Windows, or a newer Windows than this one."""


class AccessDenied(ProcmonError):
    """Windows denied access; usually the process is not elevated."""


class DriverError(ProcmonError):
    """Base of the errors about the driver: its file, its service, its version, its controller."""


class DriverNotInstalled(DriverError):
    """There is no such driver service, so it cannot be started, stopped, deleted or opened."""


class DriverAlreadyInstalled(DriverError):
    """A service of that name exists already."""


class DriverNotRunning(DriverError):
    """The driver is installed, but not started."""


class DriverRunning(DriverError):
    """The driver is running (or already started), and the request needs it stopped."""


class DriverFileMissing(DriverError):
    """The .sys file is not at the path that the caller, or the service, gives."""


class DriverFileUnsafe(DriverError):
    """Users other than administrators can change the .sys file, and so the code that runs in the kernel."""


class DriverNotSigned(DriverError):
    """Windows does not accept the driver's signature (error 577), or it is built for another architecture."""


class VersionMismatch(DriverError):
    """The loaded driver, or its file, has another version than this library."""


class ControllerBusy(DriverError):
    """Another program is the driver's controller; there can be only one at a time."""


class GateClosed(ProcmonError):
    """The gate was closed: it no longer holds or answers processes."""


class VerdictError(ProcmonError):
    """Base of the errors about one process: it has gone, has its verdict, or is not held.

    >>> import procmon
    >>> try:
    ...     procmon.SimulatedGate().exit(1000)
    ... except procmon.VerdictError as error:
    ...     print(error.pid, error.process)
    1000 None
    """

    def __init__(self, message: str, process: ProcessHelper | int | None = None) -> None:
        super().__init__(message)
        self.pid = process if isinstance(process, int) or process is None else process.pid
        """Its process identifier; None where not known."""
        self.process = None if isinstance(process, int) else process
        """Its record; None where not known."""


class StaleProcess(VerdictError):
    """The process is gone, or its pid now belongs to another one; nothing was done to either."""


class AlreadyAnswered(VerdictError):
    """The process has had its verdict; a second one changes nothing."""


class ProcessTampered(VerdictError):
    """The process was blocked, not allowed: the check before its release found code that differs from its file."""


class NotHeld(VerdictError):
    """The process is not held: it was running before the gate, or the gate never holds it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a policy: where, what, and what to write instead.

    >>> import procmon
    >>> for problem in procmon.Policy.check('[[rule]]\\nimage = "a.exe"\\nverdict = "deny"'):
    ...     print(problem)
    line 3, column 11: there is no verdict "deny"; write "block"
    """

    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    message: str
    """What is wrong."""
    advice: str
    """What to write instead."""
    fatal: bool = True
    """True: the policy cannot be used; False: it can be used, but probably does not do what was meant."""
    source: str = ""
    """The file, where a policy has several; "" where it has one."""

    def __str__(self) -> str:
        file = f"{self.source}, " if self.source else ""
        return f"{file}line {self.line}, column {self.column}: {self.message}; {self.advice}"


class AuditError(ProcmonError):
    """An audit log does not exist, or cannot be written."""


class PolicyError(ProcmonError):
    """The policy cannot be used; `problems` lists every mistake with its place."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PolicyWarning(UserWarning):
    """Something in a policy, or in ``match=``, that is valid but probably does not do what was meant."""
