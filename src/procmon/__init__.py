"""procmon holds every new process on Windows until a Python callback has said ALLOW or BLOCK."""

import logging

from . import audit
from ._ledger import Sink
from ._streams import Starts
from ._subscriptions import Callback, Decider, ExitCallback, Match, Subscription
from .audit import AuditLog
from .details import Integrity, ProcessDetails, Signature, SignatureKind, SignatureStatus, inspect
from .driverinfo import DriverCounters, DriverFeatures, DriverInfo
from .errors import (
    AccessDenied,
    AlreadyAnswered,
    AuditError,
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
from .gates.base import Gate
from .gates.debug import DebugGate
from .gates.driver import DriverGate
from .gates.simulated import SimulatedGate
from .monitor import Monitor
from .policy import Policy
from .processes import ProcessList, ProcessTree, processes, tree
from .records import Answer, DecidedBy, Decision, ProcessFlags, ProcessHelper, Statistics, Verdict
from .service import DriverService, DriverState, DriverStatus, find_driver

__all__ = [
    "ALLOW",
    "AccessDenied",
    "AlreadyAnswered",
    "Answer",
    "AuditError",
    "AuditLog",
    "BLOCK",
    "Callback",
    "ControllerBusy",
    "DEFER",
    "DebugGate",
    "DecidedBy",
    "Decider",
    "Decision",
    "DriverAlreadyInstalled",
    "DriverCounters",
    "DriverFeatures",
    "DriverFileMissing",
    "DriverGate",
    "DriverInfo",
    "DriverNotInstalled",
    "DriverNotRunning",
    "DriverNotSigned",
    "DriverRunning",
    "DriverService",
    "DriverState",
    "DriverStatus",
    "ExitCallback",
    "Gate",
    "GateClosed",
    "Integrity",
    "Match",
    "Monitor",
    "NotHeld",
    "Policy",
    "PolicyError",
    "Problem",
    "ProcessDetails",
    "ProcessFlags",
    "ProcessHelper",
    "ProcessList",
    "ProcessTree",
    "ProcmonError",
    "Signature",
    "SignatureKind",
    "SignatureStatus",
    "SimulatedGate",
    "Sink",
    "StaleProcess",
    "Starts",
    "Statistics",
    "Subscription",
    "UnsupportedPlatform",
    "Verdict",
    "VersionMismatch",
    "audit",
    "find_driver",
    "inspect",
    "processes",
    "tree",
]

ALLOW = Verdict.ALLOW
BLOCK = Verdict.BLOCK
DEFER = Verdict.DEFER

__version__ = "0.1.0"

logging.getLogger("procmon").addHandler(logging.NullHandler())


def __dir__() -> list[str]:
    return __all__
