"""procmon holds every new process on Windows until a Python callback has said ALLOW or BLOCK."""

import logging

from .errors import (
    AccessDenied,
    AlreadyAnswered,
    ControllerBusy,
    DriverAlreadyInstalled,
    DriverFileMissing,
    DriverNotInstalled,
    DriverNotRunning,
    DriverNotSigned,
    DriverRunning,
    GateClosed,
    NotHeld,
    PolicyError,
    Problem,
    ProcmonError,
    StaleProcess,
    UnsupportedPlatform,
    VersionMismatch,
)
from .gates.debug import DebugGate
from .policy import Policy
from .records import Answer, DecidedBy, Decision, ProcessFlags, ProcessHelper, Statistics, Verdict

ALLOW = Verdict.ALLOW
BLOCK = Verdict.BLOCK
DEFER = Verdict.DEFER

__version__ = "0.1.0"

logging.getLogger("procmon").addHandler(logging.NullHandler())
