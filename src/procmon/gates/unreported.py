"""Processes of a debugged tree whose first thread has not run: Windows reports a process to its debugger only then."""

from ..records import STATUS_BLOCKED
from ..util.log import ERROR, log_soon
from ..win32 import debugged, kernel
from ..win32 import process as win32_process
from ..win32.handles import Handle

__all__ = ["end_unreported", "is_unreported"]

_EXAMINE = kernel.PROCESS_QUERY_INFORMATION | kernel.PROCESS_VM_READ


def is_unreported(listed: win32_process.Listed) -> bool:
    """Whether a process is debugged and has run nothing, so that Windows has not reported it to its debugger."""
    try:
        with kernel.open_process(listed.pid, _EXAMINE) as process:
            return _is_frozen(process, listed)
    except OSError:  # it has exited
        return False


def _is_frozen(process: Handle, listed: win32_process.Listed) -> bool:
    """Whether the open process is the listed one, and not a later one with its pid, is debugged, and has run nothing.

    One that runs, and was not reported here, has another debugger.
    """
    created = win32_process.created_at(process)
    is_listed = not created or not listed.created or created == listed.created
    is_debugged = not win32_process.has_exited(process) and debugged.is_debugged(process)
    return is_listed and is_debugged and not debugged.has_begun(process)


def end_unreported(listed: win32_process.Listed) -> None:
    """End a process before its first thread runs, with the status of a block, if it is still unreported."""
    try:
        with kernel.open_process(listed.pid, _EXAMINE | kernel.PROCESS_TERMINATE) as process:
            if _is_frozen(process, listed):
                kernel.terminate_process(process, STATUS_BLOCKED)
    except OSError as error:
        text = "process %d could not be ended before its first thread ran; it runs"
        log_soon(ERROR, text, listed.pid, error=error)
