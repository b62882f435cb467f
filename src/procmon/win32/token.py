"""Access tokens: on whose behalf a process runs, in which session, at which integrity level."""

import ctypes
from functools import lru_cache
from typing import Final, SupportsInt

from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, kernel32, never_fails, windows_error
from .codes import ERROR_INSUFFICIENT_BUFFER
from .handles import Handle

__all__ = ["account_name", "integrity_rid", "is_elevated", "open_token", "session_of", "sid_text", "user_sid"]

_TOKEN_QUERY: Final = 0x0008
_TOKEN_USER: Final = 1
_TOKEN_ELEVATION: Final = 20
_TOKEN_INTEGRITY_LEVEL: Final = 25

_POINTER = ctypes.sizeof(ctypes.c_void_p)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-openprocesstoken
# BOOL OpenProcessToken(HANDLE ProcessHandle, DWORD DesiredAccess, PHANDLE TokenHandle);
_OpenProcessToken = bind(advapi32, "OpenProcessToken", BOOL, (HANDLE, DWORD, ctypes.POINTER(HANDLE)), fail_on_zero)


def _fail_but_for_size(name: str, result: int, error: int) -> None:
    if not result and error != ERROR_INSUFFICIENT_BUFFER:
        raise windows_error(name, error)


# https://learn.microsoft.com/windows/win32/api/securitybaseapi/nf-securitybaseapi-gettokeninformation
# BOOL GetTokenInformation(HANDLE token, TOKEN_INFORMATION_CLASS, LPVOID information, DWORD bytes, PDWORD needed);
_GetTokenInformation = bind(
    advapi32,
    "GetTokenInformation",
    BOOL,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD)),
    _fail_but_for_size,
)

# https://learn.microsoft.com/windows/win32/api/sddl/nf-sddl-convertsidtostringsidw
# BOOL ConvertSidToStringSidW(PSID Sid, LPWSTR *StringSid);   the text is freed by LocalFree
_ConvertSidToStringSidW = bind(
    advapi32, "ConvertSidToStringSidW", BOOL, (ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)), fail_on_zero
)
_LocalFree = bind(kernel32, "LocalFree", HANDLE, (HANDLE,), never_fails)

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-lookupaccountsidw
# BOOL LookupAccountSidW(LPCWSTR system, PSID sid, LPWSTR name, LPDWORD name_size, LPWSTR domain, LPDWORD domain_size,
#                        PSID_NAME_USE use);
_LookupAccountSidW = bind(
    advapi32,
    "LookupAccountSidW",
    BOOL,
    (
        ctypes.c_wchar_p,
        ctypes.c_char_p,
        ctypes.c_wchar_p,
        ctypes.POINTER(DWORD),
        ctypes.c_wchar_p,
        ctypes.POINTER(DWORD),
        ctypes.POINTER(ctypes.c_int32),
    ),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-processidtosessionid
# BOOL ProcessIdToSessionId(DWORD dwProcessId, DWORD *pSessionId);
_ProcessIdToSessionId = bind(kernel32, "ProcessIdToSessionId", BOOL, (DWORD, ctypes.POINTER(DWORD)), fail_on_zero)


def open_token(process: SupportsInt) -> Handle:
    """The token of a process. Needs PROCESS_QUERY_LIMITED_INFORMATION, and the right to query the token itself."""
    token = HANDLE()
    _OpenProcessToken(int(process), _TOKEN_QUERY, token)
    return Handle(token.value or 0)


def user_sid(token: SupportsInt) -> bytes:
    """The user's security identifier, in its binary form."""
    return _sid_of(token, _TOKEN_USER)


def sid_text(sid: bytes) -> str:
    """``S-1-5-18`` and the like."""
    text = ctypes.c_void_p()
    _ConvertSidToStringSidW(sid, text)
    try:
        return ctypes.wstring_at(text.value or 0)
    finally:
        _LocalFree(text)


@lru_cache(maxsize=256)  # a domain's controller may be far away
def account_name(sid: bytes) -> str:
    r"""``DOMAIN\name`` of a security identifier. Raises: OSError (1332: no account has it)."""
    name, name_size = ctypes.create_unicode_buffer(1024), DWORD(1024)
    domain, domain_size = ctypes.create_unicode_buffer(1024), DWORD(1024)
    _LookupAccountSidW(None, sid, name, name_size, domain, domain_size, ctypes.c_int32())
    return f"{domain.value}\\{name.value}" if domain.value else name.value


def integrity_rid(token: SupportsInt) -> int:
    """The integrity level: 0x1000 is low, 0x2000 medium, 0x3000 high, 0x4000 system."""
    return int.from_bytes(_sid_of(token, _TOKEN_INTEGRITY_LEVEL)[-4:], "little")


def is_elevated(token: SupportsInt) -> bool:
    """The token has been elevated: an administrator's full token."""
    elevated = DWORD()  # its size is fixed, and Windows may refuse to be asked for it (ERROR_BAD_LENGTH)
    _GetTokenInformation(int(token), _TOKEN_ELEVATION, ctypes.byref(elevated), ctypes.sizeof(elevated), DWORD())
    return bool(elevated.value)


def session_of(pid: int) -> int:
    """The terminal services session of a process; 0 is that of the services."""
    session = DWORD()
    _ProcessIdToSessionId(pid, session)
    return session.value


def _information(token: SupportsInt, kind: int) -> "ctypes.Array[ctypes.c_char]":
    needed = DWORD()
    _GetTokenInformation(int(token), kind, None, 0, needed)
    buffer = ctypes.create_string_buffer(needed.value)
    _GetTokenInformation(int(token), kind, buffer, len(buffer), needed)
    return buffer


def _sid_of(token: SupportsInt, kind: int) -> bytes:
    """The SID that a SID_AND_ATTRIBUTES heads: a pointer into the same buffer."""
    buffer = _information(token, kind)
    at = int.from_bytes(buffer.raw[:_POINTER], "little") - ctypes.addressof(buffer)
    return buffer.raw[at : at + 8 + 4 * buffer.raw[at + 1]]  # revision, count of subauthorities, authority[6], they
