"""The results of a command's tree, for ``run --tree`` and ``run --summary``: printed at the end, in place of lines."""

from collections import defaultdict
from dataclasses import dataclass

from ..records import Decision, ProcessHelper, Verdict, VerdictResult, status_text
from ..system.tree import ProcessTree
from ..util.printable import printable
from .text import authority

__all__ = ["Results"]


@dataclass
class Group:
    """The counts of one program."""

    count: int = 0
    blocked: int = 0
    seconds: float = 0.0

    def add(self, process: ProcessHelper, decision: Decision) -> None:
        """Count a process."""
        self.count += 1
        self.blocked += _is_blocked(decision)
        self.seconds += process.lifetime or 0.0


class Results:
    """Keeps decisions, as a sink of `Monitor`, and exits, as its exit callback."""

    def __init__(self) -> None:
        self._decisions: dict[ProcessHelper, Decision] = {}
        self._records: dict[ProcessHelper, ProcessHelper] = {}  # the last record of each process

    def write(self, decision: Decision, /) -> None:
        """Keep a decision; one that was not carried out only until there is another about its process."""
        if _is_done(decision) or decision.process not in self._decisions:
            self._decisions[decision.process] = decision
        self._records.setdefault(decision.process, decision.process)

    def exited(self, process: ProcessHelper) -> None:
        """Keep the exit of a process."""
        self._records[process] = process

    def tree(self) -> str:
        """Draw the tree; siblings of one program that ended in the same way, and started nothing, share a line."""
        tree = ProcessTree(self._records[process] for process in self._decisions)
        shown: dict[ProcessHelper, str] = {}
        for siblings in [tree.roots, *(tree.children(process) for process in tree)]:
            groups: defaultdict[tuple[object, ...], list[ProcessHelper]] = defaultdict(list)
            for process in siblings:
                itself = process if tree.children(process) else None
                groups[process.image_name, self._end_of(process), itself].append(process)
            for alike in groups.values():
                shown[alike[0]] = _line(alike, self._end_of(alike[0]))
        return repr(ProcessTree((process for process in tree if process in shown), label=shown.__getitem__))

    def summary(self) -> str:
        """A table with a line for each program; the program with the most starts is first."""
        programs: defaultdict[str, Group] = defaultdict(Group)
        for process, decision in self._decisions.items():
            programs[process.image_name].add(self._records[process], decision)
        lines = [f"{'STARTS':>7} {'BLOCKED':>8} {'SECONDS':>9}  IMAGE"]
        for image, group in sorted(programs.items(), key=lambda item: (-item[1].count, item[0])):
            lines.append(f"{group.count:>7,} {group.blocked:>8,} {group.seconds:>9,.2f}  {printable(image)}")
        return "\n".join(lines)

    def _end_of(self, process: ProcessHelper) -> str:
        """``blocked by rule no games``, ``status 2``, or "" for a process that ran and exited with 0."""
        decision = self._decisions[process]
        if decision.verdict is not Verdict.ALLOW and _is_done(decision):
            would = "would be " if decision.audited else ""
            return f"{would}{_PAST[decision.verdict]} by {authority(decision)}"
        status = process.exit_status
        return f"status {status_text(status)}" if status else ""


_PAST = {Verdict.BLOCK: "blocked", Verdict.DEFER: "asked about"}


def _is_done(decision: Decision) -> bool:
    return decision.result in (None, VerdictResult.DONE)


def _is_blocked(decision: Decision) -> bool:
    return decision.verdict is Verdict.BLOCK and not decision.audited and _is_done(decision)


def _line(alike: list[ProcessHelper], end: str) -> str:
    first = alike[0]
    lifetimes = [process.lifetime for process in alike if process.lifetime is not None]
    time = f"{sum(lifetimes):,.2f} s" if lifetimes and not end.startswith("blocked") else ""
    many = f"x {len(alike):,}" if len(alike) > 1 else str(first.pid)
    facts = ", ".join(filter(None, [end, time]))
    return printable(f"{first.name or '?'} {many}" + (f" ({facts})" if facts else ""))
