"""Access tokens: the account, the session and the integrity level of a process."""

import ctypes
from functools import lru_cache
from typing import Final, SupportsInt

from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, kernel32, windows_error
from .codes import ERROR_INSUFFICIENT_BUFFER
from .handles import Handle
from .kernel import local_free

__all__ = [
    "account_name",
    "group_sids",
    "integrity_rid",
    "is_elevated",
    "logon_id",
    "open_token",
    "session_of",
    "sid_text",
    "user_sid",
]

_TOKEN_QUERY: Final = 0x0008
_TOKEN_USER: Final = 1
_TOKEN_GROUPS: Final = 2
_TOKEN_STATISTICS: Final = 10
_TOKEN_ELEVATION: Final = 20
_TOKEN_INTEGRITY_LEVEL: Final = 25
_SE_GROUP_ENABLED: Final = 0x04
_SE_GROUP_USE_FOR_DENY_ONLY: Final = 0x10
_SE_GROUP_INTEGRITY: Final = 0x20
_TRIES: Final = 8

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
        local_free(text)


@lru_cache(maxsize=256)  # the domain controller can be far away
def account_name(sid: bytes) -> str:
    r"""``DOMAIN\name`` of a security identifier. Raises: OSError (1332: no account has it)."""
    name, name_size = ctypes.create_unicode_buffer(1024), DWORD(1024)
    domain, domain_size = ctypes.create_unicode_buffer(1024), DWORD(1024)
    _LookupAccountSidW(None, sid, name, name_size, domain, domain_size, ctypes.c_int32())
    return f"{domain.value}\\{name.value}" if domain.value else name.value


def group_sids(token: SupportsInt) -> list[bytes]:
    """The security identifiers of the enabled groups.

    Deny-only groups are left out, such as the administrators in a token that is not elevated.
    """
    buffer = _information(token, _TOKEN_GROUPS)
    count = int.from_bytes(buffer.raw[:4], "little")
    groups = []
    for index in range(count):  # TOKEN_GROUPS: the count, padded to a pointer's size, then SID_AND_ATTRIBUTES
        at = _POINTER + 2 * _POINTER * index
        attributes = int.from_bytes(buffer.raw[at + _POINTER : at + _POINTER + 4], "little")
        if attributes & _SE_GROUP_ENABLED and not attributes & (_SE_GROUP_USE_FOR_DENY_ONLY | _SE_GROUP_INTEGRITY):
            groups.append(_sid_at(buffer, at))
    return groups


def logon_id(token: SupportsInt) -> int:
    """The logon session, a LUID: 0x3e7 is the system's."""
    statistics = _information(token, _TOKEN_STATISTICS).raw  # TokenId, AuthenticationId, ...
    return int.from_bytes(statistics[8:16], "little")


def integrity_rid(token: SupportsInt) -> int:
    """The integrity level: 0x1000 is low, 0x2000 medium, 0x3000 high, 0x4000 system."""
    return int.from_bytes(_sid_of(token, _TOKEN_INTEGRITY_LEVEL)[-4:], "little")


def is_elevated(token: SupportsInt) -> bool:
    """The token has been elevated: an administrator's full token."""
    elevated = DWORD()  # its size is fixed, and Windows may refuse to report it (ERROR_BAD_LENGTH)
    _GetTokenInformation(int(token), _TOKEN_ELEVATION, ctypes.byref(elevated), ctypes.sizeof(elevated), DWORD())
    return bool(elevated.value)


def session_of(pid: int) -> int:
    """The terminal services session of a process; 0 is the session of the services."""
    session = DWORD()
    _ProcessIdToSessionId(pid, session)
    return session.value


def _information(token: SupportsInt, kind: int) -> "ctypes.Array[ctypes.c_char]":
    needed, size = DWORD(), 0
    for _ in range(_TRIES):  # the token can grow between two calls: a group is added
        buffer = ctypes.create_string_buffer(size)
        _GetTokenInformation(int(token), kind, buffer, size, needed)
        if 0 < needed.value <= size:
            return buffer
        size = needed.value
    raise OSError(ERROR_INSUFFICIENT_BUFFER, f"GetTokenInformation: information {kind} grew with each question")


def _sid_of(token: SupportsInt, kind: int) -> bytes:
    """The SID to which the first field of the information points."""
    return _sid_at(_information(token, kind), 0)


def _sid_at(buffer: "ctypes.Array[ctypes.c_char]", offset: int) -> bytes:
    """The SID to which the pointer at `offset` points; it is in the same buffer."""
    raw = buffer.raw
    at = int.from_bytes(raw[offset : offset + _POINTER], "little") - ctypes.addressof(buffer)
    return raw[at : at + 8 + 4 * raw[at + 1]]  # revision, count of subauthorities, authority[6], subauthorities
