"""The part of kernel32 that the gates use: events, waits, processes, opening by name, and the names of drives."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from string import ascii_lowercase
from typing import SupportsInt

from ._bind import (
    BOOL,
    DWORD,
    HANDLE,
    INVALID_HANDLE_VALUE,
    bind,
    fail_on_invalid_handle,
    fail_on_zero,
    handle_or_none,
    kernel32,
    never_fails,
    ntdll,
    windows_error,
)
from .codes import ERROR_INVALID_PARAMETER
from .handles import Handle

__all__ = [
    "GENERIC_READ",
    "GENERIC_WRITE",
    "INFINITE",
    "PROCESS_QUERY_INFORMATION",
    "PROCESS_QUERY_LIMITED_INFORMATION",
    "PROCESS_TERMINATE",
    "PROCESS_VM_READ",
    "WaitSet",
    "create_event",
    "is_wine",
    "is_wow64",
    "local_free",
    "native_drive",
    "native_drives",
    "open_existing",
    "open_process",
    "set_event",
    "terminate_process",
    "wait_any",
]

GENERIC_READ = 0x80000000
GENERIC_WRITE = 0x40000000
INFINITE = 0xFFFFFFFF
PROCESS_TERMINATE = 0x0001
PROCESS_VM_READ = 0x0010
PROCESS_QUERY_INFORMATION = 0x0400
PROCESS_QUERY_LIMITED_INFORMATION = 0x1000

_WAIT_TIMEOUT = 0x102
_WAIT_FAILED = 0xFFFFFFFF
_OPEN_EXISTING = 3

# ------------------------------------------------------------------------------------------------------ open by name

# https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-createfilew
# HANDLE CreateFileW(LPCWSTR name, DWORD access, DWORD share, LPSECURITY_ATTRIBUTES security, DWORD disposition,
#                    DWORD flags, HANDLE template);
_CreateFileW = bind(
    kernel32,
    "CreateFileW",
    HANDLE,
    (ctypes.c_wchar_p, DWORD, DWORD, ctypes.c_void_p, DWORD, DWORD, HANDLE),
    fail_on_invalid_handle,
)


def open_existing(path: str, access: int, share: int, flags: int = 0) -> int:
    """Open an existing file or device. The caller owns the handle. Raises: OSError."""
    handle: int = _CreateFileW(path, access, share, None, _OPEN_EXISTING, flags, None)
    return handle


# -------------------------------------------------------------------------------------------------- events and waits

# https://learn.microsoft.com/windows/win32/api/synchapi/nf-synchapi-createeventw
# HANDLE CreateEventW(LPSECURITY_ATTRIBUTES attributes, BOOL manual_reset, BOOL initial_state, LPCWSTR name);
_CreateEventW = bind(kernel32, "CreateEventW", HANDLE, (ctypes.c_void_p, BOOL, BOOL, ctypes.c_wchar_p), handle_or_none)

# https://learn.microsoft.com/windows/win32/api/synchapi/nf-synchapi-setevent
# BOOL SetEvent(HANDLE hEvent);
_SetEvent = bind(kernel32, "SetEvent", BOOL, (HANDLE,), fail_on_zero)


def _wait_result(name: str, result: int, error: int) -> int:
    if result == _WAIT_FAILED:
        raise windows_error(name, error)
    return result


# https://learn.microsoft.com/windows/win32/api/synchapi/nf-synchapi-waitformultipleobjects
# DWORD WaitForMultipleObjects(DWORD count, const HANDLE *handles, BOOL wait_all, DWORD milliseconds);
_WaitForMultipleObjects = bind(
    kernel32, "WaitForMultipleObjects", DWORD, (DWORD, ctypes.POINTER(HANDLE), BOOL, DWORD), _wait_result
)


def create_event(*, manual_reset: bool = False) -> Handle:
    """Make an event, unnamed and not set; child processes do not inherit it. Raises: OSError."""
    return Handle(_CreateEventW(None, manual_reset, False, None))


def set_event(event: Handle) -> None:
    """Set an event. Raises: OSError; ValueError when it is closed."""
    _SetEvent(int(event))


class WaitSet:
    """At most 64 handles to wait for; they must stay open while it is used. Raises: ValueError when one is closed."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self._handles = handles  # keeps them from being collected
        self._values = (HANDLE * len(handles))(*map(int, handles))

    def wait(self, timeout_ms: int = INFINITE) -> int | None:
        """Wait for one handle that is set; return its index, or None when the time passed first.

        Ctrl+C does not end a wait: wait in slices. Raises: OSError.
        """
        result = _WaitForMultipleObjects(len(self._values), self._values, False, timeout_ms)
        return None if result == _WAIT_TIMEOUT else int(result)


def wait_any(handles: Sequence[Handle], timeout_ms: int = INFINITE) -> int | None:
    """Wait once for one of at most 64 handles, as `WaitSet.wait` does."""
    return WaitSet(handles).wait(timeout_ms)


# --------------------------------------------------------------------------------------------------------- processes

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-openprocess
# HANDLE OpenProcess(DWORD dwDesiredAccess, BOOL bInheritHandle, DWORD dwProcessId);
_OpenProcess = bind(kernel32, "OpenProcess", HANDLE, (DWORD, BOOL, DWORD), handle_or_none)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-terminateprocess
# BOOL TerminateProcess(HANDLE hProcess, UINT uExitCode);
_TerminateProcess = bind(kernel32, "TerminateProcess", BOOL, (HANDLE, DWORD), fail_on_zero)


def open_process(pid: int, access: int = PROCESS_QUERY_LIMITED_INFORMATION) -> Handle:
    """Open the process `pid`. Raises: OSError: 87 when there is none, 5 when Windows refuses.

    ctypes would silently truncate a pid of more than 32 bits and open another process.
    """
    if not 0 <= pid <= 0xFFFFFFFF:
        raise windows_error("OpenProcess", ERROR_INVALID_PARAMETER)
    return Handle(_OpenProcess(access, False, pid))


def terminate_process(process: SupportsInt, status: int) -> None:
    """End a process with that exit status (unsigned 32 bits). Needs PROCESS_TERMINATE. Raises: OSError."""
    _TerminateProcess(int(process), status)


# https://learn.microsoft.com/windows/win32/api/wow64apiset/nf-wow64apiset-iswow64process
# BOOL IsWow64Process(HANDLE hProcess, PBOOL Wow64Process);
_IsWow64Process = bind(kernel32, "IsWow64Process", BOOL, (HANDLE, ctypes.POINTER(BOOL)), fail_on_zero)
_THIS_PROCESS = INVALID_HANDLE_VALUE  # the constant result of GetCurrentProcess


def is_wow64(process: SupportsInt = _THIS_PROCESS) -> bool:
    """Whether a process, by default this one, is a 32-bit process on a 64-bit Windows. Needs
    PROCESS_QUERY_LIMITED_INFORMATION. Raises: OSError.
    """
    answer = BOOL()
    _IsWow64Process(int(process), ctypes.byref(answer))
    return bool(answer.value)


# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-localfree
# HLOCAL LocalFree(HLOCAL hMem);
local_free = bind(kernel32, "LocalFree", HANDLE, (HANDLE,), never_fails)
"""Free memory that a Windows function has allocated for its caller, where its documentation says so."""

# -------------------------------------------------------------------------------------------- this machine's kernel

# https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-querydosdevicew
# DWORD QueryDosDeviceW(LPCWSTR lpDeviceName, LPWSTR lpTargetPath, DWORD ucchMax);
_QueryDosDeviceW = bind(kernel32, "QueryDosDeviceW", DWORD, (ctypes.c_wchar_p, ctypes.c_wchar_p, DWORD), fail_on_zero)


def native_drive(drive: str) -> str:
    r"""The device behind a drive: ``C:`` -> ``\Device\HarddiskVolume3``. Raises: OSError when there is none."""
    target = ctypes.create_unicode_buffer(1024)
    _QueryDosDeviceW(drive, target, len(target))
    return target.value


def native_drives() -> dict[str, str]:
    r"""The drives by their native names, lowercase: ``{"\device\harddiskvolume1": "c:"}``."""
    drives: dict[str, str] = {}
    if sys.platform != "win32":
        return drives
    for letter in ascii_lowercase:
        with suppress(OSError):  # there is no such drive
            drives.setdefault(native_drive(f"{letter}:").lower(), f"{letter}:")
    return drives


def is_wine() -> bool:
    """Whether this is Wine. Wine reports no processes to drivers, so it gets the driver's test build."""
    if sys.platform != "win32":
        return False
    try:
        ntdll.function("wine_get_version")
    except AttributeError:
        return False
    return True
