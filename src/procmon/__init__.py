"""procmon holds every new process on Windows until a Python callback has said ALLOW or BLOCK."""

import logging

from . import audit
from .audit import AuditLog
from .driver.driver_file import find_driver
from .driver.info import DriverCounters, DriverFeatures, DriverInfo
from .driver.service import DriverService, DriverState, DriverStatus
from .errors import (
    AccessDenied,
    AlreadyAnswered,
    AuditError,
    ControllerBusy,
    DriverAlreadyInstalled,
    DriverError,
    DriverFileMissing,
    DriverFileUnsafe,
    DriverNotInstalled,
    DriverNotRunning,
    DriverNotSigned,
    DriverRunning,
    GateClosed,
    NotHeld,
    PolicyError,
    PolicyWarning,
    Problem,
    ProcmonError,
    StaleProcess,
    UnsupportedPlatform,
    VerdictError,
    VersionMismatch,
)
from .gates.base import Gate
from .gates.debug import DebugGate
from .gates.driver import DriverGate
from .gates.simulated import SimulatedGate
from .monitor.event_log import EventLogSink
from .monitor.monitor import Monitor
from .monitor.run import RunResult, guard, run
from .monitor.sinks import Sink
from .monitor.starts import Starts
from .monitor.subscriptions import Callback, Decider, ExitCallback, Match, Subscription
from .policy.policy import Policy
from .records import DecidedBy, Decision, ProcessFlags, ProcessHelper, RuleNote, Statistics, Verdict, VerdictResult
from .system.details import Integrity, ProcessDetails, inspect
from .system.listing import ProcessList, processes
from .system.signature import Signature, SignatureKind, SignatureStatus
from .system.tables import DecisionList
from .system.tree import ProcessTree, tree
from .util import version as _version

__all__ = [
    "ALLOW",
    "BLOCK",
    "DEFER",
    "AccessDenied",
    "AlreadyAnswered",
    "AuditError",
    "AuditLog",
    "Callback",
    "ControllerBusy",
    "DebugGate",
    "DecidedBy",
    "Decider",
    "Decision",
    "DecisionList",
    "DriverAlreadyInstalled",
    "DriverCounters",
    "DriverError",
    "DriverFeatures",
    "DriverFileMissing",
    "DriverFileUnsafe",
    "DriverGate",
    "DriverInfo",
    "DriverNotInstalled",
    "DriverNotRunning",
    "DriverNotSigned",
    "DriverRunning",
    "DriverService",
    "DriverState",
    "DriverStatus",
    "EventLogSink",
    "ExitCallback",
    "Gate",
    "GateClosed",
    "Integrity",
    "Match",
    "Monitor",
    "NotHeld",
    "Policy",
    "PolicyError",
    "PolicyWarning",
    "Problem",
    "ProcessDetails",
    "ProcessFlags",
    "ProcessHelper",
    "ProcessList",
    "ProcessTree",
    "ProcmonError",
    "RuleNote",
    "RunResult",
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
    "VerdictError",
    "VerdictResult",
    "VersionMismatch",
    "audit",
    "find_driver",
    "guard",
    "inspect",
    "processes",
    "run",
    "tree",
]

ALLOW = Verdict.ALLOW
BLOCK = Verdict.BLOCK
DEFER = Verdict.DEFER

__version__ = _version.VERSION

logging.getLogger("procmon").addHandler(logging.NullHandler())


def __dir__() -> list[str]:
    return __all__
