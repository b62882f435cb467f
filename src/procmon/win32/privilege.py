"""A privilege of the calling thread alone: other threads do not get it, and new processes do not inherit it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, kernel32, never_fails
from .handles import Handle

__all__ = ["debug_privilege"]

_SECURITY_IMPERSONATION = 2
_TOKEN_ADJUST_PRIVILEGES = 0x0020
_SE_PRIVILEGE_ENABLED = 2
_SE_DEBUG_NAME = "SeDebugPrivilege"

# https://learn.microsoft.com/windows/win32/api/securitybaseapi/nf-securitybaseapi-impersonateself
# BOOL ImpersonateSelf(SECURITY_IMPERSONATION_LEVEL ImpersonationLevel);
_ImpersonateSelf = bind(advapi32, "ImpersonateSelf", BOOL, (ctypes.c_int32,), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/securitybaseapi/nf-securitybaseapi-reverttoself
# BOOL RevertToSelf();
_RevertToSelf = bind(advapi32, "RevertToSelf", BOOL, (), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-openthreadtoken
# BOOL OpenThreadToken(HANDLE ThreadHandle, DWORD DesiredAccess, BOOL OpenAsSelf, PHANDLE TokenHandle);
_OpenThreadToken = bind(advapi32, "OpenThreadToken", BOOL, (HANDLE, DWORD, BOOL, ctypes.POINTER(HANDLE)), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getcurrentthread
# HANDLE GetCurrentThread();
_GetCurrentThread = bind(kernel32, "GetCurrentThread", HANDLE, (), never_fails)


class _Privilege(ctypes.Structure):
    """TOKEN_PRIVILEGES with one LUID_AND_ATTRIBUTES."""

    _fields_ = [("count", DWORD), ("luid", DWORD * 2), ("attributes", DWORD)]


# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-lookupprivilegevaluew
# BOOL LookupPrivilegeValueW(LPCWSTR lpSystemName, LPCWSTR lpName, PLUID lpLuid);
_LookupPrivilegeValueW = bind(
    advapi32, "LookupPrivilegeValueW", BOOL, (ctypes.c_wchar_p, ctypes.c_wchar_p, ctypes.c_void_p), fail_on_zero
)

# https://learn.microsoft.com/windows/win32/api/securitybaseapi/nf-securitybaseapi-adjusttokenprivileges
# BOOL AdjustTokenPrivileges(HANDLE TokenHandle, BOOL DisableAllPrivileges, PTOKEN_PRIVILEGES NewState,
#                            DWORD BufferLength, PTOKEN_PRIVILEGES PreviousState, PDWORD ReturnLength);
_AdjustTokenPrivileges = bind(
    advapi32,
    "AdjustTokenPrivileges",
    BOOL,
    (HANDLE, BOOL, ctypes.POINTER(_Privilege), DWORD, ctypes.c_void_p, ctypes.c_void_p),
    fail_on_zero,
)


@contextmanager
def debug_privilege() -> Iterator[None]:
    """Let this thread open every process that is not protected, if its user has SeDebugPrivilege.

    If the user does not have it, or Windows refuses, the thread keeps its own rights.
    """
    if sys.platform != "win32":
        yield
        return
    impersonates = False
    with suppress(OSError):
        _ImpersonateSelf(_SECURITY_IMPERSONATION)
        impersonates = True
        _enable(_SE_DEBUG_NAME)
    try:
        yield
    finally:
        if impersonates:
            _RevertToSelf()


def _enable(name: str) -> None:
    """Enable a privilege of the calling thread; a privilege that its user does not have is no error."""
    token = HANDLE()
    _OpenThreadToken(_GetCurrentThread(), _TOKEN_ADJUST_PRIVILEGES, True, token)
    with Handle(token.value or 0) as opened:
        privilege = _Privilege(1, (DWORD * 2)(), _SE_PRIVILEGE_ENABLED)
        _LookupPrivilegeValueW(None, name, ctypes.byref(privilege, _Privilege.luid.offset))
        _AdjustTokenPrivileges(int(opened), False, privilege, 0, None, None)
