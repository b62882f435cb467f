"""What this machine allows: an elevated token, test signing."""

import ctypes
from ctypes import byref, c_void_p, sizeof
from dataclasses import dataclass

from . import token
from ._bind import DWORD, HANDLE, bind, check_ntstatus, kernel32, never_fails, ntdll

__all__ = ["CodeIntegrity", "code_integrity", "is_elevated"]

# --------------------------------------------------------------------------------------------------------- the token

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getcurrentprocess
# HANDLE GetCurrentProcess(void);
_GetCurrentProcess = bind(kernel32, "GetCurrentProcess", HANDLE, (), never_fails)


def is_elevated() -> bool:
    """This program runs with an administrator's full token. Raises: OSError."""
    with token.open_token(_GetCurrentProcess()) as own:
        return token.is_elevated(own)


# ---------------------------------------------------------------------------------------------------- code integrity

_SYSTEM_CODE_INTEGRITY_INFORMATION = 103


class _CodeIntegrityInformation(ctypes.Structure):  # SYSTEM_CODEINTEGRITY_INFORMATION
    _fields_ = [("length", DWORD), ("options", DWORD)]


# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntquerysysteminformation
# NTSTATUS NtQuerySystemInformation(SYSTEM_INFORMATION_CLASS, PVOID, ULONG Length, PULONG ReturnLength);
_NtQuerySystemInformation = bind(
    ntdll, "NtQuerySystemInformation", ctypes.c_int32, (DWORD, c_void_p, DWORD, c_void_p), check_ntstatus
)


@dataclass(frozen=True, slots=True)
class CodeIntegrity:
    """What Windows demands of a driver's signature."""

    enforced: bool
    """It checks signatures at all."""
    test_signing: bool
    """It accepts test certificates: ``bcdedit /set testsigning on``."""
    memory_integrity: bool
    """The hypervisor guards kernel memory (HVCI): drivers must be built for it."""


def code_integrity() -> CodeIntegrity:
    """Windows' demands at this boot. Raises: OSError where it does not tell."""
    information, length = _CodeIntegrityInformation(sizeof(_CodeIntegrityInformation)), DWORD()
    _NtQuerySystemInformation(
        _SYSTEM_CODE_INTEGRITY_INFORMATION, byref(information), sizeof(information), byref(length)
    )
    options = int(information.options)
    return CodeIntegrity(bool(options & 0x1), bool(options & 0x2), bool(options & 0x400))
