"""NtQueryInformationProcess and NtQuerySystemInformation, and the kinds of information that procmon queries."""

import ctypes
from typing import Any, Final, SupportsInt

from ._bind import DWORD, HANDLE, bind, check_ntstatus, never_fails, ntdll

__all__ = [
    "PROCESS_BASIC_INFORMATION",
    "PROCESS_COMMAND_LINE_INFORMATION",
    "PROCESS_DEBUG_FLAGS",
    "PROCESS_IMAGE_FILE_NAME",
    "PROCESS_IMAGE_INFORMATION",
    "PROCESS_WOW64_INFORMATION",
    "SYSTEM_CODE_INTEGRITY_INFORMATION",
    "SYSTEM_PROCESS_INFORMATION",
    "query_process",
    "query_system",
]

# Documented, but for 31, 37 and 60.
PROCESS_BASIC_INFORMATION: Final = 0
PROCESS_WOW64_INFORMATION: Final = 26
PROCESS_IMAGE_FILE_NAME: Final = 27
PROCESS_DEBUG_FLAGS: Final = 31
PROCESS_IMAGE_INFORMATION: Final = 37
PROCESS_COMMAND_LINE_INFORMATION: Final = 60

SYSTEM_PROCESS_INFORMATION: Final = 5
SYSTEM_CODE_INTEGRITY_INFORMATION: Final = 103

_STATUS_INFO_LENGTH_MISMATCH = 0xC0000004

# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntqueryinformationprocess
# NTSTATUS NtQueryInformationProcess(HANDLE, PROCESSINFOCLASS, PVOID info, ULONG bytes, PULONG needed);
_NtQueryInformationProcess = bind(
    ntdll,
    "NtQueryInformationProcess",
    ctypes.c_int32,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD)),
    check_ntstatus,
)

# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntquerysysteminformation
# NTSTATUS NtQuerySystemInformation(SYSTEM_INFORMATION_CLASS, PVOID information, ULONG bytes, PULONG needed);
_NtQuerySystemInformation = bind(
    ntdll,
    "NtQuerySystemInformation",
    ctypes.c_int32,
    (ctypes.c_int32, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD)),
    never_fails,
)


def query_process(process: SupportsInt, kind: int, buffer: Any, size: int) -> None:
    """Fill the buffer of `size` bytes with information of this kind on an open process. Raises: OSError."""
    _NtQueryInformationProcess(int(process), kind, buffer, size, DWORD())


def query_system(kind: int, buffer: Any, size: int) -> int:
    """Fill the buffer of `size` bytes. Return 0, or, if it is too small, the bytes that were needed at that moment.

    Raises: OSError.
    """
    needed = DWORD()
    status = _NtQuerySystemInformation(kind, buffer, size, needed) & 0xFFFFFFFF
    if status == _STATUS_INFO_LENGTH_MISMATCH:
        return max(needed.value, 1)
    check_ntstatus("NtQuerySystemInformation", status, 0)
    return 0
