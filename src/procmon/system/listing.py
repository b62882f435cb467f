"""The processes that run at this moment, and their tree."""

from collections.abc import Callable, Iterable, Iterator

from ..errors import StaleProcess
from ..records import ProcessFlags, ProcessHelper, Verdict, printable, status_text
from ..util.paths import lowercase
from ..win32 import kernel
from ..win32 import process as win32_process
from .describe import describe

__all__ = ["ProcessList", "ProcessTree", "lookup", "processes", "tree"]


class ProcessList(list[ProcessHelper]):
    r"""A list of processes that shows itself as a table, one line each.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> explorer, notepad = gate.running_before(r"c:\windows\explorer.exe", r"c:\windows\notepad.exe")
    >>> procmon.ProcessList([explorer, notepad])  # doctest: +ELLIPSIS
       PID PARENT  STARTED           IMAGE
      1000      4  ...  c:\windows\explorer.exe
      1004      4  ...  c:\windows\notepad.exe
    """

    def __repr__(self) -> str:
        return self.table()

    def table(self, shorten: Callable[[str, int], str] | None = None) -> str:
        """The table. `shorten` may cut an image name to fit: it is given how many columns the rest has taken."""
        lines = [f"{'PID':>6} {'PARENT':>6}  {'STARTED':<16}  IMAGE"]
        for process in self:
            created = process.created.astimezone().strftime("%Y-%m-%d %H:%M") if process.created else ""
            line = f"{process.pid:>6} {process.parent_pid:>6}  {created:<16}  "
            image = printable(process.image_name)
            lines.append(line + (shorten(image, len(line)) if shorten else image))
        return "\n".join(lines)


def processes() -> ProcessList:
    """Every running process that Windows lists, the oldest first; flagged RUNNING_BEFORE.

    A process that Windows does not let this user open is there with its bare name and the flag NAME_MISSING; the idle
    process (pid 0) is not one and is left out.

    >>> import os, procmon
    >>> [process.paused for process in procmon.processes() if process.pid == os.getpid()]  # doctest: +WINDOWS
    [False]

    Raises: UnsupportedPlatform off Windows.
    """
    found = ProcessList(_record(listed) for listed in win32_process.running() if listed.pid)
    found.sort(key=lambda process: (process.start_key, process.pid))
    return found


def lookup(pid: int) -> ProcessHelper | None:
    """The running process of that pid; None where there is none. Costs far less than `processes`.

    Raises: UnsupportedPlatform off Windows.
    """
    try:
        with kernel.open_process(pid) as handle:
            if win32_process.has_exited(handle):
                return None
            return describe(handle, pid, flags=ProcessFlags.RUNNING_BEFORE)
    except PermissionError:  # it is there, but not ours to open
        return next((_record(listed) for listed in win32_process.running() if pid and listed.pid == pid), None)
    except OSError:
        return None


def tree(root: ProcessHelper | int | None = None) -> "ProcessTree":
    """The tree of the running processes: all of it, or what is below `root` and `root` itself. It shows itself drawn.

    >>> import os, procmon
    >>> procmon.tree(os.getpid()).roots[0].pid == os.getpid()  # doctest: +WINDOWS
    True

    Raises: UnsupportedPlatform off Windows; StaleProcess when `root` has gone.
    """
    whole = ProcessTree(processes())
    return whole if root is None else whole.below(root)


def _record(listed: win32_process.Listed) -> ProcessHelper:
    try:
        with kernel.open_process(listed.pid) as handle:
            record = describe(handle, listed.pid, flags=ProcessFlags.RUNNING_BEFORE, name=listed.name)
            if listed.created in (0, record.start_key):
                return record
    except OSError:  # gone, or not ours to open: what the list says must do
        pass
    return ProcessHelper(
        pid=listed.pid,
        parent_pid=listed.parent_pid,
        image_name=lowercase(listed.name),
        start_key=listed.created,
        created=win32_process.datetime_of(listed.created) if listed.created else None,
        flags=ProcessFlags.RUNNING_BEFORE | ProcessFlags.NAME_MISSING,
    )


class ProcessTree:
    r"""Processes, each below its parent. Prints as a drawing; iterates from the top, each parent before its children.

    A parent has the smaller start key of the two: otherwise Windows has used the pid of a parent that is gone for
    another process, and the child is a root. The clock alone makes no child a root, for it may have been set back;
    nor does the order of pids. `label` gives the text of a process in the drawing.

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
        self, processes: Iterable[ProcessHelper], *, label: Callable[[ProcessHelper], str] | None = None
    ) -> None:
        self._label = label or _label
        self._by_pid: dict[int, list[ProcessHelper]] = {}  # more than one where a pid was used again
        for process in {process: process for process in processes}.values():
            self._by_pid.setdefault(process.pid, []).append(process)
        self._parents: dict[ProcessHelper, ProcessHelper | None] = {}
        for process in self._all():
            self._parents[process] = self._parent_of(process)
        self._children: dict[ProcessHelper, list[ProcessHelper]] = {}
        self._roots: list[ProcessHelper] = []
        for process, parent in self._parents.items():
            (self._roots if parent is None else self._children.setdefault(parent, [])).append(process)

    @property
    def roots(self) -> list[ProcessHelper]:
        """The processes whose parent is not (any more) among them."""
        return list(self._roots)

    def parent(self, process: ProcessHelper | int) -> ProcessHelper | None:
        """The process that started it; None where that one is gone or not among them.

        Raises: StaleProcess when `process` itself is not.
        """
        return self._parents[self._known(process)]

    def children(self, process: ProcessHelper | int) -> list[ProcessHelper]:
        """What it has started, and is still there. Raises: StaleProcess when `process` is not among them."""
        return list(self._children.get(self._known(process), ()))

    def below(self, root: ProcessHelper | int) -> "ProcessTree":
        """The part of the tree from `root` down. Raises: StaleProcess when it is not among them."""
        top = self._known(root)
        return ProcessTree((process for process, _ in self._walk([top])), label=self._label)

    def __iter__(self) -> Iterator[ProcessHelper]:
        return (process for process, _ in self._walk(self._roots))

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def __contains__(self, process: object) -> bool:
        return isinstance(process, ProcessHelper) and process in self._by_pid.get(process.pid, ())

    def __repr__(self) -> str:
        if not self._roots:
            return "<ProcessTree of 0 processes>"
        return "\n".join(stem + self._label(process) for process, stem in self._walk(self._roots))

    def _parent_of(self, child: ProcessHelper) -> ProcessHelper | None:
        """The youngest that may be the parent, unless it descends from the child by the links found so far."""
        parent = _youngest(each for each in self._by_pid.get(child.parent_pid, ()) if _may_be_parent(each, child))
        above = parent
        while above is not None and above.start_key >= child.start_key:  # a circle has no smaller key in it
            if above == child:
                return None
            above = self._parents.get(above)
        return parent

    def _all(self) -> Iterator[ProcessHelper]:
        return (process for same_pid in self._by_pid.values() for process in same_pid)

    def _known(self, process: ProcessHelper | int) -> ProcessHelper:
        pid = process if isinstance(process, int) else process.pid
        same_pid = self._by_pid.get(pid, ())
        known = _youngest(each for each in same_pid if isinstance(process, int) or _same(each, process))
        if known is None:
            raise StaleProcess(
                f"{process!r} is not in this tree: it has gone; procmon.tree() gives the tree of today", process
            )
        return known

    def _walk(self, tops: list[ProcessHelper]) -> Iterator[tuple[ProcessHelper, str]]:
        """Each process with the lines that lead to it. Not recursive: a tree may be deeper than Python's stack."""
        ahead = [(top, "", "") for top in reversed(tops)]  # process, its own stem, that of its children
        while ahead:
            process, stem, under = ahead.pop()
            yield process, stem
            children = self._children.get(process, [])
            for child in reversed(children):
                last = child is children[-1]
                ahead.append((child, under + ("└─ " if last else "├─ "), under + ("   " if last else "│  ")))


def _may_be_parent(parent: ProcessHelper, child: ProcessHelper) -> bool:
    """No start key says that `parent` came after `child`, and it had not exited by then."""
    if parent.pid == child.pid or 0 < child.start_key < parent.start_key:
        return False
    return parent.exited_at is None or child.created is None or parent.exited_at >= child.created


def _is_older(one: ProcessHelper, other: ProcessHelper) -> bool:
    """Compare by start key; where that does not decide, by creation time."""
    if one.start_key != other.start_key or one.created is None or other.created is None:
        return one.start_key < other.start_key
    return one.created < other.created


def _youngest(processes: Iterable[ProcessHelper]) -> ProcessHelper | None:
    found = None
    for process in processes:
        if found is None or _is_older(found, process):
            found = process
    return found


def _same(known: ProcessHelper, asked: ProcessHelper) -> bool:
    """Records of two sources: their start keys may be of different makes, their creation times are not."""
    if known == asked or known.created is None or asked.created is None:
        return known == asked
    return known.created == asked.created


def _label(process: ProcessHelper) -> str:
    """``cc.exe 1004 (status 1, 0.25 s)``: the name, the pid, and what became of it as far as the record says."""
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
