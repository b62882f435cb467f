"""Processes, each below its parent: the running ones, or those of any records."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ..errors import StaleProcess
from ..records import Decision, ProcessHelper, Verdict, VerdictResult, status_text
from ..util.after_verdict import after_verdict
from ..util.arguments import check_process_or_pid
from ..util.html_table import html_table
from ..util.printable import printable
from .identity import can_be_parent, same_process
from .listing import processes

__all__ = ["ProcessTree", "tree"]


class ProcessTree:
    r"""Processes, each below its parent. Prints as a drawing; iterates from the top, each parent before its children.

    It takes records and decisions, such as ``monitor.history``. Of several about one process the last counts. A child
    that is older than the process with its parent's pid is a root: its parent has exited, and Windows has reused the
    pid. `label` returns the text of a process in the drawing.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> make = gate.start(r"c:\tools\make.exe")
    >>> compilers = [gate.start(r"c:\tools\cc.exe", parent_pid=make.pid) for _ in range(2)]
    >>> tree = procmon.ProcessTree(gate.snapshot())
    >>> tree
    make.exe 1000 (paused)
    ├─ cc.exe 1004 (paused)
    └─ cc.exe 1008 (paused)
    >>> tree.parent(compilers[0])
    <ProcessHelper 1000 'c:\\tools\\make.exe' parent 4, paused>
    """

    def __init__(
        self, processes: Iterable[ProcessHelper | Decision], *, label: Callable[[ProcessHelper], str] | None = None
    ) -> None:
        self._label = label or _label
        records: dict[tuple[int, int], ProcessHelper] = {}
        for given in processes:
            record = _record(given)
            if record.identity not in records or not _came_too_late(given):
                records[record.identity] = record
        self._by_pid: dict[int, list[ProcessHelper]] = {}
        for record in records.values():
            self._by_pid.setdefault(record.pid, []).append(record)
        self._parents = self._find_parents(records.values())
        self._children: dict[tuple[int, int], list[ProcessHelper]] = {}
        self._roots: list[ProcessHelper] = []
        for record in records.values():
            parent = self._parents.get(record.identity)
            (self._roots if parent is None else self._children.setdefault(parent.identity, [])).append(record)

    def _find_parents(self, records: Iterable[ProcessHelper]) -> dict[tuple[int, int], ProcessHelper]:
        """By identity of the child. A circle of reused pids needs a parent whose key is not smaller than the child's:
        such links are added after all others, and only if they close no circle."""
        parents: dict[tuple[int, int], ProcessHelper] = {}
        doubtful: list[tuple[ProcessHelper, ProcessHelper]] = []
        for child in records:
            found = (one for one in self._by_pid.get(child.parent_pid, ()) if can_be_parent(one, child))
            parent = max(found, key=lambda one: one.start_key, default=None)
            if parent is None:
                continue
            if parent.start_key < child.start_key:
                parents[child.identity] = parent
            else:
                doubtful.append((child, parent))
        for child, parent in doubtful:
            above: ProcessHelper | None = parent
            while above is not None and above != child:
                above = parents.get(above.identity)
            if above is None:
                parents[child.identity] = parent
        return parents

    @property
    def roots(self) -> list[ProcessHelper]:
        """The processes whose parent is not in the tree (any more)."""
        return list(self._roots)

    def parent(self, process: ProcessHelper | int) -> ProcessHelper | None:
        """Return the process that started it; None if the parent has gone or is not in the tree.

        Raises: StaleProcess when `process` itself is not in the tree.
        """
        return self._parents.get(self._known(process).identity)

    def children(self, process: ProcessHelper | int) -> list[ProcessHelper]:
        """Return its children in the tree. Raises: StaleProcess when `process` is not in the tree."""
        return list(self._children.get(self._known(process).identity, ()))

    def below(self, root: ProcessHelper | int) -> "ProcessTree":
        """Return the part of the tree from `root` down. Raises: StaleProcess when `root` is not in the tree."""
        top = self._known(root)
        return ProcessTree((process for process, _ in self._walk([top])), label=self._label)

    def __iter__(self) -> Iterator[ProcessHelper]:
        return (process for process, _ in self._walk(self._roots))

    def __len__(self) -> int:
        return sum(map(len, self._by_pid.values()))

    def __contains__(self, process: object) -> bool:
        return isinstance(process, ProcessHelper) and process in self._by_pid.get(process.pid, ())

    def __repr__(self) -> str:
        if not self._roots:
            return "<ProcessTree of 0 processes>"
        return "\n".join(stem + self._label(process) for process, stem in self._walk(self._roots))

    def _repr_html_(self) -> str:
        walk = self._walk(self._roots)
        rows = ((stem + self._label(process), printable(process.image_name)) for process, stem in walk)
        return html_table(("PROCESS", "IMAGE"), rows)

    def _known(self, process: ProcessHelper | int) -> ProcessHelper:
        """The record of `process`; of several processes that had a pid, the youngest."""
        check_process_or_pid("process", process)
        pid = process if isinstance(process, int) else process.pid
        same_pid = self._by_pid.get(pid, ())
        found = (one for one in same_pid if isinstance(process, int) or one == process or same_process(one, process))
        known = max(found, key=lambda one: one.start_key, default=None)
        if known is not None:
            return known
        raise StaleProcess(
            f"{process!r} is not in this tree: it has gone; procmon.tree() gives the tree of today", process
        )

    def _walk(self, tops: list[ProcessHelper]) -> Iterator[tuple[ProcessHelper, str]]:
        """Each process with the lines that lead to it. Not recursive: a tree can be deeper than Python's stack."""
        ahead = [(top, "", "") for top in reversed(tops)]  # process, its own stem, that of its children
        while ahead:
            process, stem, under = ahead.pop()
            yield process, stem
            children = self._children.get(process.identity, [])
            for child in reversed(children):
                last = child is children[-1]
                ahead.append((child, under + ("└─ " if last else "├─ "), under + ("   " if last else "│  ")))


def tree(root: ProcessHelper | int | None = None) -> ProcessTree:
    """Return the tree of the running processes: all of it, or `root` and its descendants. Its repr is a drawing.

    >>> import os, procmon
    >>> procmon.tree(os.getpid()).roots[0].pid == os.getpid()  # doctest: +WINDOWS
    True

    Raises: UnsupportedPlatform off Windows; StaleProcess when `root` has gone.
    """
    if root is not None:
        check_process_or_pid("root", root)
    whole = ProcessTree(processes())
    return whole if root is None else whole.below(root)


def _record(given: ProcessHelper | Decision) -> ProcessHelper:
    """The record; of a decision that its gate has not carried out, the record after the verdict."""
    if not isinstance(given, Decision):
        return given
    if not given.process.paused or given.verdict is Verdict.DEFER:
        return given.process
    if _came_too_late(given):
        return replace(given.process, paused=False, hold_left=None)
    return after_verdict(given.process, Verdict.ALLOW if given.audited else given.verdict, given.by)


def _came_too_late(given: ProcessHelper | Decision) -> bool:
    """It is a decision that had no effect on its process."""
    return isinstance(given, Decision) and given.result not in (None, VerdictResult.DONE, VerdictResult.TAMPERED)


def _label(process: ProcessHelper) -> str:
    """``cc.exe 1004 (status 1, 0.25 s)``: the name, the pid, and the outcome as far as the record has it."""
    facts = []
    if process.paused:
        facts.append("paused")
    elif process.verdict is Verdict.BLOCK:
        facts.append("blocked")
    elif process.exited:
        if process.exit_status:
            facts.append(f"status {status_text(process.exit_status)}")
        if process.lifetime is not None:
            facts.append(f"{process.lifetime:.2f} s")
    return f"{printable(process.name) or '?'} {process.pid}" + (f" ({', '.join(facts)})" if facts else "")
