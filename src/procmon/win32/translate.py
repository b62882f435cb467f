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
from .codes import code_of

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
    5: (AccessDenied, f"Windows does not let this program change the service {{name}}: {_ELEVATE}"),
    1060: (DriverNotInstalled, _INSTALL_FIRST),
    1072: (DriverNotInstalled, _BEING_DELETED),
    1115: (ProcmonError, "Windows is shutting down: try again after it"),
}
QUERY = _SERVICE
DELETE = _SERVICE | {1060: (DriverNotInstalled, "there is no driver service {name}: there is nothing to delete")}
INSTALL: Advice = _SERVICE | {
    123: (ProcmonError, "{name!r} is no name for a service: use letters, digits, dots and dashes"),
    1072: (DriverAlreadyInstalled, _BEING_DELETED),
    1073: (DriverAlreadyInstalled, "the service {name} is there already: start() it, or delete() it to install {path}"),
    1078: (DriverAlreadyInstalled, "another service shows itself as {name}: delete it first, or take another name"),
}
COPY: Advice = {
    5: (AccessDenied, f"Windows does not let this program write {{path}}: {_ELEVATE}"),
    32: (DriverRunning, _LOADED),
    33: (DriverRunning, _LOADED),
    112: (ProcmonError, "the disk is full: make room for {path}, then install() again"),
    1224: (DriverRunning, _LOADED),
}
START: Advice = _SERVICE | {
    2: (DriverFileMissing, f"the driver is not at {{path}} any more: {_INSTALL_ANEW}"),
    3: (DriverFileMissing, f"the driver is not at {{path}} any more, there is no such folder: {_INSTALL_ANEW}"),
    21: (DriverRunning, "the driver of {name} is still stopping: close the program that uses it, then start() again"),
    31: (ProcmonError, "the driver at {path} was loaded and gave up as it started: the System event log says why"),
    32: (DriverFileMissing, "a program has {path} open exclusively (an antivirus?): close it, then start() again"),
    123: (DriverFileMissing, f"Windows cannot read the path {{path}}: {_INSTALL_ANEW}"),
    127: (UnsupportedPlatform, "this Windows lacks a kernel function that {path} needs: update it to 7 or later"),
    170: (DriverRunning, _BUSY),
    183: (DriverRunning, "a service of another name has this driver loaded: stop that one, then start() again"),
    193: (DriverNotSigned, _WRONG_MACHINE),
    216: (DriverNotSigned, _WRONG_MACHINE),
    225: (ProcmonError, "an antivirus blocks {path}: configure it to trust this file, then start() again"),
    577: (DriverNotSigned, _NOT_SIGNED.format("error 577")),
    654: (DriverRunning, "an earlier driver is still in memory: close the program that uses it, or restart Windows"),
    1053: (ProcmonError, "the driver at {path} did not come up in time: the System event log says why"),
    1056: (DriverRunning, "the driver service {name} is running already: stop() it first to start it anew"),
    1058: (DriverNotRunning, "the service {name} is disabled: `sc config {name} start= demand`, then start() again"),
    1114: (ProcmonError, "{path} was not loaded: it is damaged, or needs another Windows; build it anew"),
    1275: (DriverNotSigned, _NOT_SIGNED.format("error 1275: it is blocked from loading")),
    1450: (
        ProcmonError,
        "Windows has no memory left to load {path}, or its table of image notifications is full (8 drivers on older "
        "Windows, 64 on newer ones): free memory, or stop another driver that watches processes (an antivirus, Process "
        "Monitor), then start() again",
    ),
    4551: (DriverNotSigned, _NOT_SIGNED.format("error 4551: an application control policy refuses it")),
}
STOP: Advice = _SERVICE | {
    1060: (DriverNotInstalled, "there is no driver service {name}: there is nothing to stop"),
    170: (DriverRunning, _BUSY),
    1051: (DriverRunning, "another running service depends on {name}: stop that one first"),
    1052: (DriverRunning, "the driver of {name} cannot be stopped in its present state: restart Windows"),
    1061: (DriverRunning, "{still_open}"),
    1062: (DriverNotRunning, "the driver service {name} is not running: there is nothing to stop"),
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
    2: (DriverNotRunning, "nothing answers at {path}: DriverService().start() or `procmon-gate driver start` first"),
    3: _NO_DEVICE_NAME,
    5: (AccessDenied, f"only administrators may open {{path}}: {_ELEVATE}"),
    21: (DriverNotRunning, _STOPPED),
    32: (ControllerBusy, "another program has {path} open exclusively: close it, then try again"),
    53: _NO_DEVICE_NAME,
    123: _NO_DEVICE_NAME,
    433: (DriverNotRunning, _STOPPED),
    1167: (DriverNotRunning, _STOPPED),
}
NOT_INSTALLED: Advice = {
    2: (
        DriverNotInstalled,
        "nothing answers at {path}, and no driver is installed: DriverService().ensure() first, or"
        " `procmon-gate driver install` and `procmon-gate driver start`",
    ),
}
REQUEST: Advice = {
    1: (VersionMismatch, _OTHER_DRIVER),
    2: (DriverNotRunning, _STOPPED),
    5: (DriverNotRunning, _STOPPED),  # from Wine; our handles have the access that the requests need
    6: (DriverNotRunning, _STOPPED),
    21: (DriverNotRunning, _STOPPED),
    22: (GateClosed, "this gate is not the controller of {path} any more: open a new one"),
    24: (VersionMismatch, _OTHER_DRIVER),
    50: (VersionMismatch, _OTHER_DRIVER),
    87: (ProcmonError, "the driver behind {path} calls this request malformed: report it, with both versions"),
    122: (VersionMismatch, _OTHER_DRIVER),
    433: (DriverNotRunning, _STOPPED),
    1167: (DriverNotRunning, _STOPPED),
    1450: (ProcmonError, "the kernel has no memory left for this request: the driver's state is unchanged"),
    1617: (DriverNotRunning, _STOPPED),
}
_BUSY_CONTROLLER = (ControllerBusy, "{controller} controls {path}, and there can be one: close that gate first")
REGISTER: Advice = REQUEST | {
    32: _BUSY_CONTROLLER,
    170: _BUSY_CONTROLLER,
    1306: (VersionMismatch, _OTHER_DRIVER),
}

ATTACH: Advice = {
    5: (
        AccessDenied,
        "Windows does not let this user debug process {pid}: it belongs to another user, is protected, or has a "
        "debugger already; for an elevated one run elevated, for another user's switch SeDebugPrivilege on, too",
    ),
    50: (AccessDenied, "process {pid} is a 64-bit one, and a 32-bit Python cannot debug it: use a 64-bit Python"),
    87: (StaleProcess, "there is no process {pid} to attach to (any more); procmon.processes() lists them"),
}


def translate(error: OSError, advice: Advice, **words: object) -> ProcmonError:
    """Return the exception for `error` from the table `advice`, its braces filled with `words`.

    >>> translate(OSError(1062, "ControlService: Windows error 1062"), STOP, name="ProcMonGate")
    DriverNotRunning('the driver service ProcMonGate is not running: there is nothing to stop')
    """
    kind, text = advice.get(code_of(error), (ProcmonError, ""))
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
