"""A case: one process that callbacks are asked about, and its decision."""

from dataclasses import dataclass
from datetime import datetime

from ..records import DecidedBy, Decision, ProcessHelper, Verdict, VerdictResult
from ..util.after_verdict import after_verdict
from .event_loop import Awaiting
from .subscriptions import Ruling, Subscription

__all__ = ["Case"]


@dataclass(slots=True, eq=False)
class Case:
    """A start, which is held until it is decided, or an exit, which is reported to callbacks.

    `HoldTable` decides it, under its lock: it sets `ruling` once, and the fields below it when the verdict is sent.
    From then on these fields do not change. `decision` is made at the first read, because most are never read.
    `Workers` sets the other fields, which record the progress of asking.
    """

    process: ProcessHelper
    identity: tuple[int, int]
    since: float = 0.0
    """When it was fetched, on the monotonic clock."""

    subscriptions: tuple[Subscription, ...] = ()
    """The callbacks to ask, in order."""
    next: int = 0
    """Index of the callback to ask next."""
    name: str = ""
    """Name of the callback that is being asked."""
    due: float | None = None
    """When the deadline passes, on the monotonic clock; infinite: there is no deadline; None: asking has not begun."""
    awaiting: Awaiting | None = None
    given_up: bool = False
    """The deadline has passed: the result of the callback does not count."""
    deferred: bool = False
    """It has been deferred, so it has no deadline any more. `HoldTable` sets this, under its lock."""

    ruling: Ruling | None = None
    """None: undecided."""
    at: datetime | None = None
    """When the verdict was sent; None: it was not sent."""
    held_for: float = 0.0
    result: VerdictResult | None = None
    written_ahead: bool = False
    """The sinks that write ahead have written the decision, without `result`."""
    made: Decision | None = None
    """See `decision`."""

    @classmethod
    def of(cls, decision: Decision) -> "Case":
        """The case of a decision that was made, and carried out, elsewhere."""
        process = decision.process
        return cls(process, process.identity, result=decision.result, made=decision)

    @property
    def decision(self) -> Decision:
        """The decision with its result; valid once the case is over."""
        if self.made is None:
            self.made = self.make_decision(self.result)
        return self.made

    def make_decision(self, result: VerdictResult | None) -> Decision:
        """The decision, with this result."""
        ruling, process = self.ruling, self.process
        assert ruling is not None, "it is decided"
        if result is VerdictResult.DONE and process.paused:
            process = after_verdict(process, Verdict.BLOCK if ruling.blocks else Verdict.ALLOW, ruling.by)
        elif result is VerdictResult.TAMPERED:
            process = after_verdict(process, Verdict.BLOCK, DecidedBy.TAMPER)
        return ruling.decision(process, self.held_for, result, self.at)

    @property
    def has_returned(self) -> bool:
        """Its coroutine has ended with an error or an opinion, so no further callback is asked. For an exit: it has
        ended."""
        awaited = self.awaiting
        if awaited is None or not awaited.done:
            return False
        return self.process.exited or awaited.error is not None or awaited.result is not None

    @property
    def blocks(self) -> bool:
        """The case is decided, and the process must end."""
        return self.ruling is not None and self.ruling.blocks

    @property
    def is_for_sinks(self) -> bool:
        """A rule with ``log = false`` keeps its decisions from all sinks."""
        source = self.ruling.source if self.ruling is not None else self.made
        return source is None or source.note is None or source.note.log
