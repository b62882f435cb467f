"""Ends a process of this machine, after a check that its pid still belongs to it."""

from ..errors import AccessDenied, StaleProcess
from ..records import STATUS_BLOCKED, ProcessHelper
from ..util.filetime import from_filetime
from ..util.paths import lowercase
from ..win32 import kernel
from ..win32 import process as win32_process
from ..win32.codes import ERROR_INVALID_PARAMETER, code_of

__all__ = ["terminate"]


def terminate(process: ProcessHelper) -> None:
    """End any process of this machine, with the exit status of a blocked one.

    The open handle keeps Windows from reusing the pid between the check and the end.

    Raises: StaleProcess when it has gone; AccessDenied; OSError; UnsupportedPlatform off Windows.
    """
    access = kernel.PROCESS_TERMINATE | kernel.PROCESS_QUERY_LIMITED_INFORMATION
    try:
        with kernel.open_process(process.pid, access) as handle:
            if process.created is None:
                same = lowercase(win32_process.dos_or_native_path(handle)) == process.image_name
            else:
                same = from_filetime(win32_process.created_at(handle)) == process.created
            if not same or win32_process.has_exited(handle):
                raise StaleProcess(f"{process!r} has gone: there is nothing left to end", process)
            kernel.terminate_process(handle, STATUS_BLOCKED)
    except PermissionError as error:
        raise AccessDenied(f"Windows does not let this program end {process!r}: run it as an administrator") from error
    except OSError as error:
        if code_of(error) == ERROR_INVALID_PARAMETER:
            raise StaleProcess(f"{process!r} has gone: there is nothing left to end", process) from error
        raise
