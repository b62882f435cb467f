"""The counts of a monitor."""

from dataclasses import asdict, dataclass
from datetime import timedelta

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A snapshot of the counts of a monitor since it was made.

    Each process that was held is counted once more when its hold ends: ``held == allowed + blocked + stale + pending``.

    >>> import procmon
    >>> with procmon.Monitor(procmon.SimulatedGate(), default=procmon.BLOCK) as monitor:
    ...     process = monitor.gate.start("a.exe")
    >>> monitor.statistics.held, monitor.statistics.blocked
    (1, 1)
    """

    fetched: int = 0
    """Records that came from the gate, of any kind."""
    held: int = 0
    """Processes that were held."""
    allowed: int = 0
    """Held, then allowed; includes processes that were only audited."""
    blocked: int = 0
    """Held, then ended before their first instruction."""
    deferred: int = 0
    """Processes that a callback deferred; each is answered (and counted) later."""
    pending: int = 0
    """Held at this moment."""
    exited: int = 0
    """Exits that the gate reported."""
    callback_errors: int = 0
    """Callbacks that raised or returned an invalid value."""
    deadlines: int = 0
    """Callbacks that outlasted the deadline."""
    gate_decided: int = 0
    """Processes that the gate itself had answered or never held (timeout, rules in the driver, exempt), and processes
    that got a direct answer of the gate before the monitor fetched them."""
    stale: int = 0
    """Held, but the verdict came too late: the process had gone or had been answered."""
    terminate_failed: int = 0
    """Blocked processes that could not be terminated within a second; the gate holds them and tries again."""
    tampered: int = 0
    """Processes in which the check before their release found code that differs from their file; `gate_decided`
    includes them."""
    audit_errors: int = 0
    """Decisions that a sink could not write; their verdicts stand."""
    audit_dropped: int = 0
    """Decisions that a sink never got, because too many were waiting for it; their verdicts stand."""
    longest_hold: timedelta = timedelta(0)
    """The longest time from fetching a process to its answer."""

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON types; `longest_hold` in seconds."""
        return {**asdict(self), "longest_hold": self.longest_hold.total_seconds()}
