"""Properties of this machine: its kernel, an elevated token, test signing."""

import ctypes
from ctypes import byref, c_void_p, sizeof
from dataclasses import dataclass

from . import nt, token
from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32, never_fails
from .kernel import is_wine

__all__ = ["MACHINES", "CodeIntegrity", "code_integrity", "driver_architecture", "is_elevated", "native_machine"]

# -------------------------------------------------------------------------------------------------------- the kernel

MACHINES = {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64"}
"""By IMAGE_FILE_MACHINE_...: the architecture of a file or a kernel."""

# https://learn.microsoft.com/windows/win32/api/wow64apiset/nf-wow64apiset-iswow64process2
# BOOL IsWow64Process2(HANDLE hProcess, USHORT *pProcessMachine, USHORT *pNativeMachine);   Windows 10 1511 and later
_IsWow64Process2 = bind(
    kernel32, "IsWow64Process2", BOOL, (HANDLE, c_void_p, ctypes.POINTER(ctypes.c_uint16)), fail_on_zero
)

# https://learn.microsoft.com/windows/win32/api/sysinfoapi/nf-sysinfoapi-getnativesysteminfo
# void GetNativeSystemInfo(LPSYSTEM_INFO lpSystemInfo);
_GetNativeSystemInfo = bind(kernel32, "GetNativeSystemInfo", None, (c_void_p,), never_fails)
_SYSTEM_INFO_BYTES = 48
_PROCESSORS = {9: 0x8664, 0: 0x14C, 12: 0xAA64}  # PROCESSOR_ARCHITECTURE_AMD64, _INTEL, _ARM64


def native_machine() -> int:
    """The kernel's IMAGE_FILE_MACHINE_..., whatever Python is built for. Raises: UnsupportedPlatform off Windows."""
    process, native = ctypes.c_uint16(), ctypes.c_uint16()
    try:
        _IsWow64Process2(_GetCurrentProcess(), byref(process), byref(native))
    except AttributeError:  # an older Windows; none of those runs x64 programs on arm64
        info = ctypes.create_string_buffer(_SYSTEM_INFO_BYTES)
        _GetNativeSystemInfo(info)
        return _PROCESSORS.get(int.from_bytes(info.raw[:2], "little"), 0)
    return int(native.value)


def driver_architecture() -> str:
    """The build of the driver that this kernel can load: ``x64``, ``x86``, ``arm64`` or, for tests, ``wine``.

    It depends on the kernel, not on Python: a 32-bit Python on a 64-bit Windows needs the x64 driver. Environment
    variables do not matter. Raises: UnsupportedPlatform off Windows.
    """
    machine = native_machine()
    return "wine" if is_wine() else MACHINES.get(machine, f"machine 0x{machine:X}")


# --------------------------------------------------------------------------------------------------------- the token

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getcurrentprocess
# HANDLE GetCurrentProcess(void);
_GetCurrentProcess = bind(kernel32, "GetCurrentProcess", HANDLE, (), never_fails)


def is_elevated() -> bool:
    """This program runs with an administrator's full token. Raises: OSError."""
    with token.open_token(_GetCurrentProcess()) as own:
        return token.is_elevated(own)


# ---------------------------------------------------------------------------------------------------- code integrity


class _CodeIntegrityInformation(ctypes.Structure):  # SYSTEM_CODEINTEGRITY_INFORMATION
    _fields_ = [("length", DWORD), ("options", DWORD)]


@dataclass(frozen=True, slots=True)
class CodeIntegrity:
    """Windows' requirements for a driver's signature."""

    enforced: bool
    """Windows checks signatures at all."""
    test_signing: bool
    """Windows accepts test certificates: ``bcdedit /set testsigning on``."""
    memory_integrity: bool
    """The hypervisor guards kernel memory (HVCI): drivers must be built for it."""


def code_integrity() -> CodeIntegrity:
    """Windows' requirements since its last start. Raises: OSError if Windows does not report them."""
    information = _CodeIntegrityInformation(sizeof(_CodeIntegrityInformation))
    nt.query_system(nt.SYSTEM_CODE_INTEGRITY_INFORMATION, byref(information), sizeof(information))
    options = int(information.options)
    return CodeIntegrity(bool(options & 0x1), bool(options & 0x2), bool(options & 0x400))
