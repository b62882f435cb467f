"""procmon holds every new process on Windows until a Python callback returns ALLOW or BLOCK."""

import logging
from importlib import import_module
from types import FunctionType

from .records import Verdict
from .util import at_exit as _at_exit  # noqa: F401 - it registers the exit hook
from .util import version as _version
from .util.field_help import FieldHelp as _FieldHelp

TYPE_CHECKING = False  # as in `records`
if TYPE_CHECKING:
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
        ProcessTampered,
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
    from .monitor.statistics import Statistics
    from .monitor.subscriptions import Callback, Decider, ExitCallback, Match, Subscription
    from .policy.policy import Policy
    from .records import DecidedBy, Decision, ProcessFlags, ProcessHelper, RuleNote, Verdict, VerdictResult
    from .system.decision_list import DecisionList
    from .system.details import Integrity, ProcessDetails, inspect
    from .system.listing import ProcessList, processes
    from .system.signature import Signature, SignatureKind, SignatureStatus
    from .system.tree import ProcessTree, tree

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
    "ProcessTampered",
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


_HOMES = {
    "audit": "AuditLog",
    "driver.driver_file": "find_driver",
    "driver.info": "DriverCounters DriverFeatures DriverInfo",
    "driver.service": "DriverService DriverState DriverStatus",
    "errors": """
        AccessDenied AlreadyAnswered AuditError ControllerBusy DriverAlreadyInstalled DriverError DriverFileMissing
        DriverFileUnsafe DriverNotInstalled DriverNotRunning DriverNotSigned DriverRunning GateClosed NotHeld
        PolicyError PolicyWarning Problem ProcessTampered ProcmonError StaleProcess UnsupportedPlatform VerdictError
        VersionMismatch
    """,
    "gates.base": "Gate",
    "gates.debug": "DebugGate",
    "gates.driver": "DriverGate",
    "gates.simulated": "SimulatedGate",
    "monitor.event_log": "EventLogSink",
    "monitor.monitor": "Monitor",
    "monitor.run": "RunResult guard run",
    "monitor.sinks": "Sink",
    "monitor.starts": "Starts",
    "monitor.statistics": "Statistics",
    "monitor.subscriptions": "Callback Decider ExitCallback Match Subscription",
    "policy.policy": "Policy",
    "records": "DecidedBy Decision ProcessFlags ProcessHelper RuleNote Verdict VerdictResult",
    "system.details": "Integrity ProcessDetails inspect",
    "system.listing": "ProcessList processes",
    "system.signature": "Signature SignatureKind SignatureStatus",
    "system.decision_list": "DecisionList",
    "system.tree": "ProcessTree tree",
}
"""The module of each public name. The first access to a name imports its module, so `import procmon` stays light."""


if not TYPE_CHECKING:  # a type checker sees the imports above

    def __getattr__(name: str) -> object:
        if name == "audit":
            return import_module(".audit", __name__)
        for home, names in _HOMES.items():
            if name in names.split():
                _load(home)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def _load(home: str) -> None:
        """Import the public names of a module; `help`, reprs and pickles show this module as their home."""
        module = import_module(f".{home}", __name__)
        for name in _HOMES[home].split():
            globals()[name] = thing = getattr(module, name)
            if hasattr(thing, "__dataclass_fields__"):
                thing.__slots__ = _FieldHelp(thing)  # so that `help` shows what each field is
            if isinstance(thing, type | FunctionType):
                _move(thing, module.__name__)

    def _move(thing: type | FunctionType, home: str) -> None:
        """Make this module the home of a class and of its methods: since Python 3.13 `help` shows the home of both."""
        thing.__module__ = __name__
        for member in vars(thing).values() if isinstance(thing, type) else ():
            parts = (member, *(getattr(member, part, None) for part in ("__func__", "fget", "fset")))
            for part in parts:
                if isinstance(part, FunctionType) and part.__module__ == home:
                    part.__module__ = __name__

    for _home in ("records", "errors"):
        _load(_home)


def __dir__() -> list[str]:
    return __all__
