"""Translates a failed Windows call to the procmon exception that says what to do next. The only place that does so.

Each operation has a table: Windows error code -> (exception, what is wrong and what to do). The caller gives the
values for the names in braces, except for ``{steps}``, the page on the set-up. A code that is not in the table becomes
a plain `ProcmonError` with Windows' text.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import (
    AccessDenied,
    ControllerBusy,
    DriverAlreadyInstalled,
    DriverFileMissing,
    DriverNotInstalled,
    DriverNotRunning,
    DriverNotSigned,
    DriverRunning,
    GateClosed,
    ProcmonError,
    StaleProcess,
    UnsupportedPlatform,
    VersionMismatch,
)
from ..util.pages import page
from . import codes

__all__ = [
    "ATTACH", "COPY", "DELETE", "INSTALL", "NOT_INSTALLED", "OPEN", "QUERY", "REGISTER", "REQUEST", "START", "STOP",
    "translate", "translated",
]  # fmt: skip

Advice = dict[int, tuple[type[ProcmonError], str]]

_INSTALL_FIRST = (
    "there is no driver service {name}: install it first, DriverService.install() or `procmon-gate driver install`"
)
_ELEVATE = "run this as administrator (right click the terminal, Run as administrator)"
_BEING_DELETED = (
    "the service {name} is marked for deletion, and exists until no program has it open: stop the driver, close "
    "services.msc and other programs that have it open, then try again; a restart of Windows removes it, too"
)
_INSTALL_ANEW = "delete() the service {name}, then install(path) the right file"
_WRONG_MACHINE = (
    "{path} is not built for this Windows, which needs the x64 or arm64 file if it is a 64-bit one, the x86 file if "
    f"not: {_INSTALL_ANEW}"
)
_NOT_SIGNED = (
    "Windows does not accept the signature of {{path}} ({}): sign it with a certificate that this machine trusts, and "
    "turn test signing on with `bcdedit /set testsigning on` and a restart; {{steps}} has the steps"
)
_LOADED = "a driver is loaded from {path}, or a program has it open: stop that one, then install() again"
_BUSY = "the driver of {name} is being started or stopped at this moment: try again in a second"

_SERVICE: Advice = {
    codes.ERROR_ACCESS_DENIED: (
        AccessDenied,
        f"Windows does not let this program change the service {{name}}: {_ELEVATE}",
    ),
    codes.ERROR_SERVICE_DOES_NOT_EXIST: (DriverNotInstalled, _INSTALL_FIRST),
    codes.ERROR_SERVICE_MARKED_FOR_DELETE: (DriverNotInstalled, _BEING_DELETED),
    codes.ERROR_SHUTDOWN_IN_PROGRESS: (ProcmonError, "Windows is shutting down: try again after it"),
}
QUERY = _SERVICE
DELETE = _SERVICE | {
    codes.ERROR_SERVICE_DOES_NOT_EXIST: (
        DriverNotInstalled,
        "there is no driver service {name}: there is nothing to delete",
    )
}
INSTALL: Advice = _SERVICE | {
    codes.ERROR_INVALID_NAME: (ProcmonError, "{name!r} is no name for a service: use letters, digits, dots and dashes"),
    codes.ERROR_SERVICE_MARKED_FOR_DELETE: (DriverAlreadyInstalled, _BEING_DELETED),
    codes.ERROR_SERVICE_EXISTS: (
        DriverAlreadyInstalled,
        "the service {name} is there already: start() it, or delete() it to install {path}",
    ),
    codes.ERROR_DUPLICATE_SERVICE_NAME: (
        DriverAlreadyInstalled,
        "another service shows itself as {name}: delete it first, or take another name",
    ),
}
COPY: Advice = {
    codes.ERROR_ACCESS_DENIED: (AccessDenied, f"Windows does not let this program write {{path}}: {_ELEVATE}"),
    codes.ERROR_SHARING_VIOLATION: (DriverRunning, _LOADED),
    codes.ERROR_LOCK_VIOLATION: (DriverRunning, _LOADED),
    codes.ERROR_DISK_FULL: (ProcmonError, "the disk is full: make room for {path}, then install() again"),
    codes.ERROR_USER_MAPPED_FILE: (DriverRunning, _LOADED),
}
START: Advice = _SERVICE | {
    codes.ERROR_FILE_NOT_FOUND: (DriverFileMissing, f"the driver is not at {{path}} any more: {_INSTALL_ANEW}"),
    codes.ERROR_PATH_NOT_FOUND: (
        DriverFileMissing,
        f"the driver is not at {{path}} any more, there is no such folder: {_INSTALL_ANEW}",
    ),
    codes.ERROR_NOT_READY: (
        DriverRunning,
        "the driver of {name} is still stopping: close the program that uses it, then start() again",
    ),
    codes.ERROR_GEN_FAILURE: (
        ProcmonError,
        "the driver at {path} was loaded and gave up as it started: the System event log says why",
    ),
    codes.ERROR_SHARING_VIOLATION: (
        DriverFileMissing,
        "a program has {path} open exclusively (an antivirus?): close it, then start() again",
    ),
    codes.ERROR_INVALID_NAME: (DriverFileMissing, f"Windows cannot read the path {{path}}: {_INSTALL_ANEW}"),
    codes.ERROR_PROC_NOT_FOUND: (
        UnsupportedPlatform,
        "this Windows lacks a kernel function that {path} needs: update it to 7 or later",
    ),
    codes.ERROR_BUSY: (DriverRunning, _BUSY),
    codes.ERROR_ALREADY_EXISTS: (
        DriverRunning,
        "a service of another name has this driver loaded: stop that one, then start() again",
    ),
    codes.ERROR_BAD_EXE_FORMAT: (DriverNotSigned, _WRONG_MACHINE),
    codes.ERROR_EXE_MACHINE_TYPE_MISMATCH: (DriverNotSigned, _WRONG_MACHINE),
    codes.ERROR_VIRUS_INFECTED: (
        ProcmonError,
        "an antivirus blocks {path}: configure it to trust this file, then start() again",
    ),
    codes.ERROR_INVALID_IMAGE_HASH: (DriverNotSigned, _NOT_SIGNED.format("error 577")),
    codes.ERROR_DRIVER_FAILED_PRIOR_UNLOAD: (
        DriverRunning,
        "an earlier driver is still in memory: close the program that uses it, or restart Windows",
    ),
    codes.ERROR_SERVICE_REQUEST_TIMEOUT: (
        ProcmonError,
        "the driver at {path} did not come up in time: the System event log says why",
    ),
    codes.ERROR_SERVICE_ALREADY_RUNNING: (
        DriverRunning,
        "the driver service {name} is running already: stop() it first to start it anew",
    ),
    codes.ERROR_SERVICE_DISABLED: (
        DriverNotRunning,
        "the service {name} is disabled: `sc config {name} start= demand`, then start() again",
    ),
    codes.ERROR_DLL_INIT_FAILED: (
        ProcmonError,
        "{path} was not loaded: it is damaged, or needs another Windows; build it anew",
    ),
    codes.ERROR_DRIVER_BLOCKED: (DriverNotSigned, _NOT_SIGNED.format("error 1275: it is blocked from loading")),
    codes.ERROR_NO_SYSTEM_RESOURCES: (
        ProcmonError,
        "Windows has no memory left to load {path}, or its table of image notifications is full (8 drivers on older "
        "Windows, 64 on newer ones): free memory, or stop another driver that watches processes (an antivirus, Process "
        "Monitor), then start() again",
    ),
    codes.ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION: (
        DriverNotSigned,
        _NOT_SIGNED.format("error 4551: an application control policy refuses it"),
    ),
}
STOP: Advice = _SERVICE | {
    codes.ERROR_SERVICE_DOES_NOT_EXIST: (
        DriverNotInstalled,
        "there is no driver service {name}: there is nothing to stop",
    ),
    codes.ERROR_BUSY: (DriverRunning, _BUSY),
    codes.ERROR_DEPENDENT_SERVICES_RUNNING: (
        DriverRunning,
        "another running service depends on {name}: stop that one first",
    ),
    codes.ERROR_INVALID_SERVICE_CONTROL: (
        DriverRunning,
        "the driver of {name} cannot be stopped in its present state: restart Windows",
    ),
    codes.ERROR_SERVICE_CANNOT_ACCEPT_CTRL: (DriverRunning, "{still_open}"),
    codes.ERROR_SERVICE_NOT_ACTIVE: (
        DriverNotRunning,
        "the driver service {name} is not running: there is nothing to stop",
    ),
}

_STOPPED = (
    "the driver behind {path} was stopped: start it (DriverService().start() or `procmon-gate driver start`), then "
    "open a new gate"
)
_OTHER_DRIVER = (
    "the driver at {path} is another one, or has another version: stop and delete it, then install the one that came "
    "with this package"
)
_NO_DEVICE_NAME = (DriverNotRunning, r"{path} is no device's name: it should look like \\.\ProcMonGate")

OPEN: Advice = {
    codes.ERROR_FILE_NOT_FOUND: (
        DriverNotRunning,
        "nothing answers at {path}: DriverService().start() or `procmon-gate driver start` first",
    ),
    codes.ERROR_PATH_NOT_FOUND: _NO_DEVICE_NAME,
    codes.ERROR_ACCESS_DENIED: (AccessDenied, f"only administrators may open {{path}}: {_ELEVATE}"),
    codes.ERROR_NOT_READY: (DriverNotRunning, _STOPPED),
    codes.ERROR_SHARING_VIOLATION: (
        ControllerBusy,
        "another program has {path} open exclusively: close it, then try again",
    ),
    codes.ERROR_BAD_NETPATH: _NO_DEVICE_NAME,
    codes.ERROR_INVALID_NAME: _NO_DEVICE_NAME,
    codes.ERROR_NO_SUCH_DEVICE: (DriverNotRunning, _STOPPED),
    codes.ERROR_DEVICE_NOT_CONNECTED: (DriverNotRunning, _STOPPED),
}
NOT_INSTALLED: Advice = {
    codes.ERROR_FILE_NOT_FOUND: (
        DriverNotInstalled,
        "nothing answers at {path}, and no driver is installed: DriverService().ensure() first, or"
        " `procmon-gate driver install` and `procmon-gate driver start`",
    ),
}
REQUEST: Advice = {
    codes.ERROR_INVALID_FUNCTION: (VersionMismatch, _OTHER_DRIVER),
    codes.ERROR_FILE_NOT_FOUND: (DriverNotRunning, _STOPPED),
    codes.ERROR_ACCESS_DENIED: (
        DriverNotRunning,
        _STOPPED,
    ),  # from Wine; our handles have the access that the requests need
    codes.ERROR_INVALID_HANDLE: (DriverNotRunning, _STOPPED),
    codes.ERROR_NOT_READY: (DriverNotRunning, _STOPPED),
    codes.ERROR_BAD_COMMAND: (GateClosed, "this gate is not the controller of {path} any more: open a new one"),
    codes.ERROR_BAD_LENGTH: (VersionMismatch, _OTHER_DRIVER),
    codes.ERROR_NOT_SUPPORTED: (VersionMismatch, _OTHER_DRIVER),
    codes.ERROR_INVALID_PARAMETER: (
        ProcmonError,
        "the driver behind {path} calls this request malformed: report it, with both versions",
    ),
    codes.ERROR_INSUFFICIENT_BUFFER: (VersionMismatch, _OTHER_DRIVER),
    codes.ERROR_NO_SUCH_DEVICE: (DriverNotRunning, _STOPPED),
    codes.ERROR_DEVICE_NOT_CONNECTED: (DriverNotRunning, _STOPPED),
    codes.ERROR_NO_SYSTEM_RESOURCES: (
        ProcmonError,
        "the kernel has no memory left for this request: the driver's state is unchanged",
    ),
    codes.ERROR_DEVICE_REMOVED: (DriverNotRunning, _STOPPED),
}
_BUSY_CONTROLLER = (ControllerBusy, "{controller} controls {path}, and there can be one: close that gate first")
REGISTER: Advice = REQUEST | {
    codes.ERROR_SHARING_VIOLATION: _BUSY_CONTROLLER,
    codes.ERROR_BUSY: _BUSY_CONTROLLER,
    codes.ERROR_REVISION_MISMATCH: (VersionMismatch, _OTHER_DRIVER),
}

ATTACH: Advice = {
    codes.ERROR_ACCESS_DENIED: (
        AccessDenied,
        "Windows does not let this user debug process {pid}: it belongs to another user, is protected, or has a "
        "debugger already; for an elevated one run elevated, for another user's switch SeDebugPrivilege on, too",
    ),
    codes.ERROR_NOT_SUPPORTED: (
        AccessDenied,
        "process {pid} is a 64-bit one, and a 32-bit Python cannot debug it: use a 64-bit Python",
    ),
    codes.ERROR_INVALID_PARAMETER: (
        StaleProcess,
        "there is no process {pid} to attach to (any more); procmon.processes() lists them",
    ),
}


def translate(error: OSError, advice: Advice, **words: object) -> ProcmonError:
    """Return the exception for `error` from the table `advice`, its braces filled with `words`.

    >>> translate(OSError(1062, "ControlService: Windows error 1062"), STOP, name="ProcMonGate")
    DriverNotRunning('the driver service ProcMonGate is not running: there is nothing to stop')
    """
    kind, text = advice.get(codes.code_of(error), (ProcmonError, ""))
    if not text:
        return kind(f"{error.strerror or error}; `procmon-gate doctor` looks for the usual causes")
    return kind(text.format_map({"steps": page("windows-setup.md"), **words}))


@contextmanager
def translated(advice: Advice, **words: object) -> Iterator[None]:
    """Translate an `OSError` of the body to our exception, with the `OSError` as its cause."""
    try:
        yield
    except OSError as error:
        raise translate(error, advice, **words) from error
