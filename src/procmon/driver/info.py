"""The driver's own report: its version, its options, its limits and its counters."""

import enum
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..errors import UnsupportedPlatform, VersionMismatch
from ..records import Verdict
from ..win32 import scm
from ..win32.codes import ERROR_FILE_NOT_FOUND, ERROR_SERVICE_DOES_NOT_EXIST, code_of
from ..win32.device import Device
from ..win32.translate import NOT_INSTALLED, OPEN, REQUEST, translate, translated
from . import protocol

__all__ = [
    "DEVICE",
    "INFO_BYTES",
    "DriverCounters",
    "DriverFeatures",
    "DriverInfo",
    "driver_info",
    "foreign_driver",
    "open_device",
    "quiesce",
]

DEVICE = r"\\.\ProcMonGate"
SERVICE = "ProcMonGate"
INFO_BYTES = 1024
"""More than Info has today: a newer minor version can add to it."""


Opened = TypeVar("Opened", bound=Device)


class DriverFeatures(enum.IntFlag):
    """What the loaded driver can do; unknown bits are kept.

    >>> import procmon
    >>> info = procmon.DriverInfo(features=procmon.DriverFeatures.CREATE_EX)
    >>> procmon.DriverFeatures.CREATE_EX in info.features
    True
    """

    CREATE_EX = protocol.FEATURE_CREATE_EX
    """A rule refuses the creation itself: the process never exists."""
    NOTE_REQUESTS = protocol.FEATURE_NOTE_REQUESTS
    """The Wine test build: notifications arrive as requests."""
    DEBUG_BUILD = protocol.FEATURE_DEBUG_BUILD
    THREAD_HOLD = protocol.FEATURE_THREAD_HOLD
    """An extra thread of a held process is held, too (Windows 10 and later)."""
    THREAD_NOTIFY = protocol.FEATURE_THREAD_NOTIFY
    """An extra thread of a held process is noticed, and ``on_tamper`` decides (older Windows)."""
    SUBSYSTEMS = protocol.FEATURE_SUBSYSTEMS
    """Processes of WSL 1 are listed, and ``on_pico`` decides (Windows 10 1703 and later)."""
    SIGNATURE_LEVEL = protocol.FEATURE_SIGNATURE_LEVEL
    """Records have a `ProcessHelper.signature_level`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCounters:
    """The driver's counters since it was loaded, or since RESET.

    >>> import procmon
    >>> procmon.DriverCounters(held=41, allowed=40, blocked=1).as_dict()["blocked"]
    1
    """

    created: int = 0
    exited: int = 0
    held: int = 0
    allowed: int = 0
    """By the controller."""
    blocked: int = 0
    """By the controller."""
    timeouts: int = 0
    disconnects: int = 0
    """Held processes that were answered because the controller had gone."""
    rule_allowed: int = 0
    rule_blocked: int = 0
    exempt: int = 0
    missing_name: int = 0
    image_without_create: int = 0
    exit_without_create: int = 0
    pid_reused: int = 0
    """Pids that were created again without an exit in between."""
    allocation_failures: int = 0
    table_full: int = 0
    unknown_verdicts: int = 0
    stale_verdicts: int = 0
    late_verdicts: int = 0
    """For processes that were already answered, or not held."""
    terminate_failures: int = 0
    """Attempts to terminate a blocked process that failed."""
    exits_lost: int = 0
    """Exit records dropped, unfetched, to make room."""
    died_held: int = 0
    """Terminated by other programs while they were held, or just before."""
    limit_allowed: int = 0
    """Allowed without a decision, because memory or a free record was missing."""
    limit_blocked: int = 0
    """Refused or terminated for the same reason."""
    reserve_used: int = 0
    """Records that came from the reserve, because memory had run out."""
    foreign_threads: int = 0
    """Threads that others put into a process before it ran."""
    critical_refused: int = 0
    """Terminations not attempted, because Windows would crash without the process."""
    pico_blocked: int = 0
    """Creations of WSL 1 processes that were refused."""

    def as_dict(self) -> dict[str, int]:
        """The counters by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverInfo:
    """The driver's state at one moment, as `DriverGate.info` returns it.

    >>> DriverInfo(controller_pid=44, held_count=2)
    <DriverInfo 2.0: controller 44, 2 held, 0 processes known, 0 rules>
    """

    version: int = protocol.VERSION
    """Of the protocol: major << 16 | minor."""
    features: DriverFeatures = DriverFeatures(0)
    """What this build of the driver can do."""
    controller_pid: int = 0
    """The process that controls the driver; 0 = none."""
    record_count: int = 0
    record_limit: int = protocol.MAX_RECORDS
    """Processes that it can record at a time."""
    held_count: int = 0
    rule_count: int = 0
    memory_bytes: int = 0
    """Held by the driver's core at this moment."""
    hold_timeout_ms: int = protocol.NO_TIMEOUT
    """In force; 0 = held for ever, or no controller."""
    on_timeout: Verdict | None = None
    """In force, when the hold timeout passes; None without a controller."""
    on_disconnect: Verdict | None = None
    """The same, when the controller disconnects."""
    on_limit: Verdict | None = None
    """The same, when memory or room for a process has run out."""
    on_tamper: Verdict | None = None
    """The same, when another process has put a thread that cannot be held into a new process."""
    on_pico: Verdict | None = None
    """The same, for processes of WSL 1."""
    exempt_descendants: bool = False
    """Processes that the controller starts are not held."""
    report_exits: bool = False
    """The controller gets each process once more when it has exited."""
    quiesced: bool = False
    """The driver is being stopped: it holds nothing until it is started again."""
    text_bytes: int = 0
    """Of names and command lines; `memory_bytes` includes them."""
    text_limit: int = protocol.MAX_TEXT_BYTES
    """Bytes that all names and command lines may have."""
    counters: DriverCounters = DriverCounters()
    """Its counters."""

    @property
    def version_text(self) -> str:
        """``2.0``"""
        return protocol.version_text(self.version)

    def __repr__(self) -> str:
        controller = f"controller {self.controller_pid}" if self.controller_pid else "no controller"
        if self.quiesced:
            controller = "being stopped"
        return (
            f"<DriverInfo {self.version_text}: {controller}, {self.held_count} held, "
            f"{self.record_count} processes known, {self.rule_count} rules>"
        )

    @classmethod
    def unpack(cls, data: bytes) -> "DriverInfo":
        """Read the reply of INFO; a newer minor version may have added to its end. Raises: ValueError if too short."""
        values: dict[str, Any] = protocol.INFO_REPLY.unpack(data)
        size, features = values.pop("size"), DriverFeatures(values.pop("features"))
        if not protocol.INFO_REPLY.size <= size <= len(data):
            raise ValueError(
                f"Info says {size} bytes; {protocol.INFO_REPLY.size} are needed, and {len(data)} are there"
            )
        counters = DriverCounters(**protocol.COUNTERS.unpack(data, protocol.INFO_REPLY.offsets["counters"]))
        flags = values.pop("register_flags")
        verdicts: dict[str, Any] = {
            f"on_{name}": protocol.VERDICTS.get(values.pop(f"{name}_verdict"))
            for name in ("timeout", "disconnect", "limit", "tamper", "pico")
        }
        return cls(
            features=features,
            counters=counters,
            exempt_descendants=bool(flags & protocol.EXEMPT_DESCENDANTS),
            report_exits=bool(flags & protocol.REPORT_EXITS),
            quiesced=bool(values.pop("quiesced")),
            **verdicts,
            **values,
        )


def driver_info(device: str = DEVICE) -> DriverInfo:
    """Return the state of the driver behind `device`, without becoming its controller.

    Raises: DriverNotInstalled, DriverNotRunning, AccessDenied, VersionMismatch; UnsupportedPlatform off Windows.
    """
    opened = open_device(Device, device)
    try:
        with translated(REQUEST, path=device):
            return DriverInfo.unpack(opened.request(protocol.INFO, b"", INFO_BYTES))
    except ValueError as error:
        raise foreign_driver(device, error) from error
    finally:
        opened.close()


def quiesce(device: str = DEVICE) -> None:
    """Make the driver release all held processes, drop its controller and hold no more until it is started again.

    This is the first half of a stop. Windows unloads a driver only when no program has its device open, and the
    controller has. The controller's gate raises GateClosed and closes the device; closing that gate again is no error.

    Raises: DriverNotInstalled, DriverNotRunning, AccessDenied, VersionMismatch; UnsupportedPlatform off Windows.
    """
    opened = open_device(Device, device)
    try:
        with translated(REQUEST, path=device):
            opened.request(protocol.QUIESCE)
    finally:
        opened.close()


def open_device(kind: Callable[[str], Opened], path: str) -> Opened:
    if sys.platform != "win32":
        raise UnsupportedPlatform(
            f"DriverGate needs Windows, this is {sys.platform}; procmon.SimulatedGate works on every system"
        )
    try:
        return kind(path)
    except OSError as error:
        if code_of(error) == ERROR_FILE_NOT_FOUND and path == DEVICE and not _installed():
            raise translate(error, NOT_INSTALLED, path=path) from error
        raise translate(error, OPEN, path=path) from error


def _installed() -> bool:
    try:
        scm.query(SERVICE)
    except OSError as error:
        return code_of(error) != ERROR_SERVICE_DOES_NOT_EXIST
    return True


def foreign_driver(path: str, error: ValueError) -> VersionMismatch:
    return VersionMismatch(
        f"the driver at {path} is not this package's ({error}): stop and delete it, then install the right one"
    )
