"""The exceptions of procmon: what went wrong, and what to do next.

Everything that procmon raises on purpose is a `ProcmonError`. Where a Windows call failed, the `OSError` that names
the call is its ``__cause__``. The text of each exception ends in advice; `win32.translate` is the one place that
turns Windows error codes into these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "AccessDenied",
    "AlreadyAnswered",
    "AuditError",
    "ControllerBusy",
    "DriverAlreadyInstalled",
    "DriverFileMissing",
    "DriverNotInstalled",
    "DriverNotRunning",
    "DriverNotSigned",
    "DriverRunning",
    "GateClosed",
    "NotHeld",
    "PolicyError",
    "Problem",
    "ProcmonError",
    "StaleProcess",
    "UnsupportedPlatform",
    "VersionMismatch",
]


class ProcmonError(Exception):
    """Base of every exception that procmon raises on purpose."""


class UnsupportedPlatform(ProcmonError):
    """The object needs Windows (or a newer Windows) and this is not it."""


class AccessDenied(ProcmonError):
    """Windows refused: most often the process is not elevated."""


class DriverNotInstalled(ProcmonError):
    """There is no such driver service, so it cannot be started, stopped, deleted or opened."""


class DriverAlreadyInstalled(ProcmonError):
    """A service of that name exists already."""


class DriverNotRunning(ProcmonError):
    """The driver is installed, but not started."""


class DriverRunning(ProcmonError):
    """The driver is running (or already started), and the request needs it stopped."""


class DriverFileMissing(ProcmonError):
    """The .sys file is not where the caller, or the service, says."""


class DriverNotSigned(ProcmonError):
    """Windows does not accept the driver's signature (error 577), or it is built for another architecture."""


class VersionMismatch(ProcmonError):
    """The driver that is loaded speaks another version of the protocol than this library."""


class ControllerBusy(ProcmonError):
    """Another program is the driver's controller at the moment; there can be one."""


class GateClosed(ProcmonError):
    """The gate was closed, so it neither holds nor answers any more."""


class StaleProcess(ProcmonError):
    """The process is gone, or its pid now belongs to another one; nothing was done to either."""


class AlreadyAnswered(ProcmonError):
    """The process has had its verdict; a second one changes nothing."""


class NotHeld(ProcmonError):
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
    """The policy cannot be used with it; False: it can, but does not say what was meant."""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}; {self.advice}"


class AuditError(ProcmonError):
    """An audit log that is not there, or cannot be written."""


class PolicyError(ProcmonError):
    """A policy that cannot be used; `problems` lists every mistake with its place."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
