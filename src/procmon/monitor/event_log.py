"""A sink that writes decisions to Windows' event log, from which Event Forwarding and SIEMs collect them."""

from collections.abc import Callable
from typing import Protocol

from ..errors import ProcmonError
from ..records import DecidedBy, Decision, Verdict, VerdictResult
from ..util.printable import printable
from ..win32 import event_log
from ..win32.event_log import ERROR, INFORMATION, WARNING

__all__ = ["EventLogSink"]

SOURCE = "procmon-gate"

ALLOWED, BLOCKED, WOULD_BLOCK, FAILED = 1, 2, 3, 4
"""Event ids: an allowed start, a blocked one, one that a policy in audit mode would have blocked, and a decision that a
failure made (a callback that raised or hung, or a verdict that came too late)."""

_PAST = {Verdict.ALLOW: "allowed", Verdict.BLOCK: "blocked", Verdict.DEFER: "deferred"}

_FAILURES = {DecidedBy.ERROR, DecidedBy.DEADLINE, DecidedBy.GATE_TIMEOUT, DecidedBy.DISCONNECT, DecidedBy.LIMIT}


class _Source(Protocol):
    def report(self, kind: int, event: int, text: str) -> None: ...
    def close(self) -> None: ...


class EventLogSink:
    r"""Writes decisions to the Application log of Windows; a sink for `Monitor`.

    A block is a warning with event id 2, a block that audit mode did not carry out a warning with id 3, and a decision
    that a failure made an error with id 4. Allowed starts, information with id 1, are left out unless ``allows``: they
    are many, and the audit log has them all. ``source`` is the name that readers show; `install` registers it.

    Readers replace ``%1`` in a command line by the whole event. So a ``%`` before a digit, ``%`` or ``{`` is written as
    ``\x25``.

    Untried: Wine 8 keeps no events, so only the arguments of the calls are tested.

    >>> import procmon
    >>> with procmon.EventLogSink() as sink:  # doctest: +WINDOWS
    ...     with procmon.Monitor(procmon.SimulatedGate(), default=procmon.BLOCK, audit=sink) as monitor:
    ...         process = monitor.gate.start("c:/games/chess.exe")

    Raises: UnsupportedPlatform off Windows; OSError where Windows refuses.
    """

    def __init__(
        self,
        source: str = SOURCE,
        *,
        allows: bool = False,
        open_source: Callable[[str], _Source] = event_log.EventSource,
    ) -> None:
        if not source or "\\" in source:
            raise ValueError(f"source is {source!r}; it is the name of a program, without a backslash")
        self.source = source
        self.allows = allows
        self._source = open_source(source)

    def write(self, decision: Decision, /) -> None:
        """Report one decision. Raises: OSError where Windows refuses; ValueError after `close`."""
        kind, event = _classify(decision)
        if event != ALLOWED or self.allows:
            self._source.report(kind, event, _message(decision))

    def close(self) -> None:
        """Close the source. Calling it twice is no error."""
        self._source.close()

    def __enter__(self) -> "EventLogSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventLogSink {self.source!r}{', with allowed starts' if self.allows else ''}>"

    @staticmethod
    def install(source: str = SOURCE) -> None:
        """Register the source, so that readers show the events as text. Needs an administrator, once on a machine.

        Raises: UnsupportedPlatform off Windows; ProcmonError where Windows refuses.
        """
        _registered(event_log.add_source, source)

    @staticmethod
    def uninstall(source: str = SOURCE) -> None:
        """Remove what `install` made; events that are there stay. Raises: as `install`."""
        _registered(event_log.remove_source, source)


def _registered(change: Callable[[str], None], source: str) -> None:
    try:
        change(source)
    except OSError as error:
        raise ProcmonError(
            f"the source {source} of the event log was not changed: {error}; run this as an administrator"
        ) from error


def _classify(decision: Decision) -> tuple[int, int]:
    """The type and the id of the event."""
    if decision.by in _FAILURES or decision.result not in (None, VerdictResult.DONE):
        return ERROR, FAILED
    if decision.verdict is Verdict.ALLOW:
        return INFORMATION, ALLOWED
    return WARNING, WOULD_BLOCK if decision.audited else BLOCKED


def _message(decision: Decision) -> str:
    """One line for people, then the fields; no name of a process can begin a new line."""
    process = decision.process
    result = decision.result.value if decision.result is not None else "not known"
    fields = {
        "image": process.image_name,
        "command line": process.command_line or "",
        "pid": process.pid,
        "parent pid": process.parent_pid,
        "start key": process.start_key,
        "verdict": decision.verdict.value,
        "audited": "yes" if decision.audited else "no",
        "decided by": decision.by.value,
        "rule or callback": decision.who,
        "reason": decision.reason,
        "result": result,
        "decided at": decision.at.isoformat(),
        "held for (seconds)": f"{decision.held_for:.6f}",
    }
    done = _PAST[decision.verdict] if not decision.audited else f"would be {_PAST[decision.verdict]}:"
    lines = [f"{process.image_name} (pid {process.pid}) {done} by {decision.by.value} {decision.who}".rstrip(), ""]
    lines += [f"{name}: {value}" for name, value in fields.items() if value != ""]
    return "\r\n".join(printable(line) for line in lines)
