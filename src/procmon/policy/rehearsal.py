"""What a policy would have decided about the process creations that other tools recorded."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ..records import DecidedBy, Decision, ProcessHelper, Verdict
from ..util.paths import lowercase
from ..util.printable import printable
from .policy import Policy
from .recordings import RecordedDetails, Recording, Unread

__all__ = ["Rehearsal", "rehearse"]


@dataclass(slots=True)
class Rehearsal:
    """What a policy would have decided about recorded process creations. Prints each kind of decision once.

    >>> print(Rehearsal(processes=2, allowed=2, missing={"signer": 1}))
    2 process creations: 0 would be blocked, 0 asked about, 0 only logged, 2 allowed
      not recorded: signer, which rules ask of 1 processes
    """

    processes: int = 0
    allowed: int = 0
    decisions: list[Decision] = field(default_factory=list)
    """Decisions that block, ask, or would do so without audit mode, in the order of the logs."""
    missing: dict[str, int] = field(default_factory=dict)
    """Facts that rules need and the logs do not have, with the number of processes; see `audit.Replay.missing`."""
    unread: tuple[Unread, ...] = ()
    backwards: int = 0
    """Processes more than a second older than the one before on their machine. A parent that follows its child in the
    log is not found, so ancestors are missing then."""

    @property
    def blocked(self) -> int:
        """The number of processes that would be blocked."""
        return sum(each.verdict is Verdict.BLOCK and not each.audited for each in self.decisions)

    @property
    def asked(self) -> int:
        """The number of processes about which a person would be asked."""
        return sum(each.verdict is Verdict.DEFER and not each.audited for each in self.decisions)

    @property
    def audited(self) -> int:
        """The number of processes that would run, with the rule's verdict only logged."""
        return sum(each.audited for each in self.decisions)

    def __str__(self) -> str:
        what = f"{self.blocked:,} would be blocked, {self.asked:,} asked about, {self.audited:,} only logged"
        lines = [f"{self.processes:,} process creations: {what}, {self.allowed:,} allowed"]
        for text, count in Counter(map(_outcome, self.decisions)).most_common():
            lines.append(f"  {count:>5,} x  {text}")
        for fact, count in sorted(self.missing.items()):
            lines.append(f"  not recorded: {fact.replace('_', ' ')}, which rules ask of {count:,} processes")
        if self.backwards:
            lines.append(
                f"  {self.backwards:,} processes are older than the one before, so ancestors can be unknown: give a log"
                " that begins with the oldest event (Get-WinEvent -Oldest)"
            )
        return "\n".join([*lines, *(f"  {each}" for each in self.unread)])


def _outcome(decision: Decision) -> str:
    verdict = "ask" if decision.verdict is Verdict.DEFER else decision.verdict.value
    audit = " (audit)" if decision.audited else ""
    by = f"rule {decision.who}" if decision.by is DecidedBy.RULE else decision.by.value
    return printable(f"{verdict}{audit}  {decision.process.image_name} by {by}")


def rehearse(recordings: Iterable[Recording], policy: Policy) -> Rehearsal:
    """Ask ``policy`` about each recorded process creation, in order. Nothing is looked up on this machine.

    >>> process = ProcessHelper(pid=8, parent_pid=4, image_name=r"c:\\games\\chess.exe")
    >>> policy = Policy.parse('[[rule]]\\nname = "games"\\nimage = "**/games/*"\\nverdict = "block"')
    >>> print(rehearse([Recording(process, RecordedDetails(), "PC")], policy))
    1 process creations: 1 would be blocked, 0 asked about, 0 only logged, 0 allowed
          1 x  block  c:\\games\\chess.exe by rule games
    """
    result = Rehearsal()
    missing = Counter[str]()
    now = RecordedDetails()
    judge = policy.for_the_past(details=lambda _: now)
    family = _Family()
    latest: dict[str, datetime] = {}
    for recording in recordings:
        if (created := recording.process.created) is not None:
            before = latest.get(recording.computer)
            result.backwards += before is not None and before - created > _SECOND
            latest[recording.computer] = created
        now = recording.details
        decision, unknown = judge(family.placed(recording))
        missing.update(unknown)
        result.processes += 1
        if decision.verdict is Verdict.ALLOW:
            result.allowed += 1
        else:
            result.decisions.append(replace(decision, process=recording.process))
    result.missing = dict(missing)
    return result


_SECOND = timedelta(seconds=1)
"""Events of one moment can be in any order."""


class _Family:
    """Links recorded processes to their parents by unique pids.

    The pids of a log repeat, and one log can have the pids of several machines. A parent is the process that last had
    the pid on that machine, if its image is the one that the recording names. If not, the name in the recording counts.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], tuple[int, str]] = {}
        self._count = 0

    def placed(self, recording: Recording) -> ProcessHelper:
        """The process with unique pids, by which a policy finds its parent and no other process."""
        process, computer = recording.process, recording.computer
        self._count += 1
        parent, image = self._last.get((computer, process.parent_pid), (0, ""))
        named = recording.details.parent
        if named is not None and lowercase(named) != image:
            parent = 0
        self._last[computer, process.pid] = 4 * self._count, process.image_name
        return replace(process, pid=4 * self._count, parent_pid=parent, start_key=self._count)
