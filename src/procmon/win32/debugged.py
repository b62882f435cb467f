"""What a debugger changes in a process (BeingDebugged in its PEB), and whether it has a debugger.

`debug` has the debug API itself.
"""

import ctypes
from typing import SupportsInt

from . import memory
from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32
from .process import basics, pebs

__all__ = ["clear_debugged_mark", "has_begun", "has_strict_handle_checks", "is_debugged"]

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_LDR = 0x18 if _POINTER == 8 else 0x0C
"""Offset in the PEB of the address of the loader's data."""

_PROCESS_STRICT_HANDLE_CHECK_POLICY = 3

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getprocessmitigationpolicy
# BOOL GetProcessMitigationPolicy(HANDLE process, PROCESS_MITIGATION_POLICY policy, PVOID buffer, SIZE_T bytes);
_GetProcessMitigationPolicy = bind(
    kernel32,
    "GetProcessMitigationPolicy",
    BOOL,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/debugapi/nf-debugapi-checkremotedebuggerpresent
# BOOL CheckRemoteDebuggerPresent(HANDLE hProcess, PBOOL pbDebuggerPresent);
_CheckRemoteDebuggerPresent = bind(
    kernel32, "CheckRemoteDebuggerPresent", BOOL, (HANDLE, ctypes.POINTER(BOOL)), fail_on_zero
)


def is_debugged(process: SupportsInt) -> bool:
    """Whether a debugger is attached to it. Needs PROCESS_QUERY_INFORMATION."""
    present = BOOL()
    _CheckRemoteDebuggerPresent(int(process), present)
    return bool(present.value)


def has_begun(process: SupportsInt) -> bool:
    """Whether its first thread has run: the loader's first step is to set Ldr in the PEB.

    Needs PROCESS_QUERY_INFORMATION and PROCESS_VM_READ.
    """
    return any(memory.read(process, basics(process).peb + _LDR, _POINTER))


def clear_debugged_mark(process: SupportsInt, peb: int, image: int = 0) -> None:
    """Clear BeingDebugged in its PEBs: its loader then neither stops for a debugger nor sets up the slow debug heap.

    `peb` and `image` are as in `pebs`. Needs PROCESS_VM_WRITE and PROCESS_VM_OPERATION.
    """
    for each in pebs(process, peb, image):
        memory.write(process, each.address + 2, b"\0")


def has_strict_handle_checks(process: SupportsInt) -> bool:
    """Whether the process requested strict handle checks: an exception for each bad handle, debugged or not.

    False if Windows has no such policy (before Windows 8) or does not report it. Needs PROCESS_QUERY_INFORMATION.
    """
    flags = DWORD()
    try:
        _GetProcessMitigationPolicy(int(process), _PROCESS_STRICT_HANDLE_CHECK_POLICY, ctypes.byref(flags), 4)
    except (OSError, AttributeError):
        return False
    return bool(flags.value & 1)  # RaiseExceptionOnInvalidHandleReference
