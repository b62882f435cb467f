"""The processes that run at this moment."""

from collections.abc import Callable

from ..records import ProcessFlags, ProcessHelper
from ..util.arguments import check_pid
from ..util.filetime import from_filetime
from ..util.globs import compile_glob
from ..util.html_table import html_table
from ..util.paths import lowercase
from ..util.printable import printable
from ..win32 import kernel
from ..win32 import process as win32_process
from .describe import describe

__all__ = ["ProcessList", "lookup", "processes"]


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

    def named(self, pattern: str) -> "ProcessList":
        """Return the processes whose image matches: ``chrome``, ``*.exe``, ``c:/tools/**``; ``.exe`` is optional.

        >>> import procmon
        >>> running = procmon.ProcessList(procmon.SimulatedGate().running_before("c:/a/chrome.exe", "c:/a/b.exe"))
        >>> [process.name for process in running.named("chrome")]
        ['chrome.exe']
        """
        matches = compile_glob(pattern)
        return ProcessList(one for one in self if matches(one.image_name) or matches(_without_exe(one.image_name)))

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        rows = ((one.pid, one.parent_pid, _started(one), printable(one.image_name)) for one in self)
        return html_table(("PID", "PARENT", "STARTED", "IMAGE"), rows)

    def table(self, shorten: Callable[[str, int], str] | None = None) -> str:
        """Return the table. `shorten(image, columns)` can cut an image name; `columns` are used up before it."""
        lines = [f"{'PID':>6} {'PARENT':>6}  {'STARTED':<16}  IMAGE"]
        for process in self:
            line = f"{process.pid:>6} {process.parent_pid:>6}  {_started(process):<16}  "
            image = printable(process.image_name)
            lines.append(line + (shorten(image, len(line)) if shorten else image))
        return "\n".join(lines)


def _started(process: ProcessHelper) -> str:
    return process.created.astimezone().strftime("%Y-%m-%d %H:%M") if process.created else ""


def _without_exe(image: str) -> str:
    return image[:-4] if image.endswith(".exe") else image


def processes() -> ProcessList:
    """Return every running process that Windows lists, the oldest first; flagged RUNNING_BEFORE.

    A process that Windows does not let this user open has only its bare name and the flag NAME_MISSING. The idle
    process (pid 0) is no real process and is left out.

    >>> import os, procmon
    >>> [process.paused for process in procmon.processes() if process.pid == os.getpid()]  # doctest: +WINDOWS
    [False]

    Raises: UnsupportedPlatform off Windows.
    """
    found = ProcessList(_record(listed) for listed in win32_process.running() if listed.pid)
    found.sort(key=lambda process: (process.start_key, process.pid))
    return found


def lookup(pid: int) -> ProcessHelper | None:
    """Return the running process of that pid, or None. Costs far less than `processes`.

    Raises: UnsupportedPlatform off Windows; TypeError or ValueError for an invalid pid.
    """
    check_pid("pid", pid)
    try:
        with kernel.open_process(pid) as handle:
            if win32_process.has_exited(handle):
                return None
            return describe(handle, pid, flags=ProcessFlags.RUNNING_BEFORE)
    except PermissionError:  # it exists, but this user cannot open it
        return next((_record(listed) for listed in win32_process.running() if pid and listed.pid == pid), None)
    except OSError:
        return None


def _record(listed: win32_process.Listed) -> ProcessHelper:
    try:
        with kernel.open_process(listed.pid) as handle:
            record = describe(handle, listed.pid, flags=ProcessFlags.RUNNING_BEFORE, name=listed.name)
            if listed.created in (0, record.start_key):
                return record
    except OSError:  # gone, or this user cannot open it: the list must suffice
        pass
    return ProcessHelper(
        pid=listed.pid,
        parent_pid=listed.parent_pid,
        image_name=lowercase(listed.name),
        start_key=listed.created,
        created=from_filetime(listed.created),
        flags=ProcessFlags.RUNNING_BEFORE | ProcessFlags.NAME_MISSING,
    )
