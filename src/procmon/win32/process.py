"""Processes as Windows knows them: their names, times, parents and inner structures; the list of all that run.

Every function takes an open process handle (`Handle` or a plain value) with the access named in its docstring, so that
one open handle serves many questions and all are sure to be about the same process.
"""

import ctypes
from functools import cache
from typing import NamedTuple, SupportsInt

from . import kernel
from ._bind import BOOL, DWORD, HANDLE, bind, check_ntstatus, fail_on_zero, kernel32, never_fails, ntdll
from .codes import (
    ERROR_BAD_LENGTH,
    ERROR_INSUFFICIENT_BUFFER,
    ERROR_INVALID_PARAMETER,
    ERROR_MORE_DATA,
    ERROR_NOT_SUPPORTED,
    code_of,
)

__all__ = [
    "PROCESS_QUERY_INFORMATION",
    "PROCESS_VM_READ",
    "Listed",
    "ProcessBasics",
    "basics",
    "clear_debugged_mark",
    "command_line",
    "command_line_in_memory",
    "created_at",
    "current_directory",
    "has_exited",
    "has_strict_handle_checks",
    "image_path",
    "native_image_path",
    "running",
]

PROCESS_VM_READ = 0x0010
PROCESS_QUERY_INFORMATION = 0x0400

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_PATH_SIZES = (512, 32768)
"""Characters for which room is made, one after the other: to clear 64 KiB for each path costs more than the call."""
_TOO_SMALL = (ERROR_BAD_LENGTH, ERROR_INSUFFICIENT_BUFFER, ERROR_MORE_DATA)
"""What becomes of STATUS_INFO_LENGTH_MISMATCH, STATUS_BUFFER_TOO_SMALL and STATUS_BUFFER_OVERFLOW."""
_PARAMETERS, _CURRENT_DIRECTORY, _COMMAND_LINE = (0x20, 0x38, 0x70) if _POINTER == 8 else (0x10, 0x24, 0x40)
"""Where the PEB has the address of the parameters, and these have the two texts."""

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getprocesstimes
# BOOL GetProcessTimes(HANDLE hProcess, LPFILETIME created, LPFILETIME exited, LPFILETIME kernel, LPFILETIME user);
_TIME = ctypes.POINTER(ctypes.c_uint64)
_GetProcessTimes = bind(kernel32, "GetProcessTimes", BOOL, (HANDLE, _TIME, _TIME, _TIME, _TIME), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-queryfullprocessimagenamew
# BOOL QueryFullProcessImageNameW(HANDLE hProcess, DWORD dwFlags, LPWSTR lpExeName, PDWORD lpdwSize);
_QueryFullProcessImageNameW = bind(
    kernel32,
    "QueryFullProcessImageNameW",
    BOOL,
    (HANDLE, DWORD, ctypes.c_wchar_p, ctypes.POINTER(DWORD)),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntqueryinformationprocess
# NTSTATUS NtQueryInformationProcess(HANDLE, PROCESSINFOCLASS, PVOID info, ULONG bytes, PULONG needed);
_NtQueryInformationProcess = bind(
    ntdll,
    "NtQueryInformationProcess",
    ctypes.c_int32,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD)),
    check_ntstatus,
)
_PROCESS_BASIC_INFORMATION = 0
_PROCESS_WOW64_INFORMATION = 26
_PROCESS_IMAGE_FILE_NAME = 27
_PROCESS_COMMAND_LINE_INFORMATION = 60

# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntquerysysteminformation
# NTSTATUS NtQuerySystemInformation(SYSTEM_INFORMATION_CLASS, PVOID information, ULONG bytes, PULONG needed);
_NtQuerySystemInformation = bind(
    ntdll,
    "NtQuerySystemInformation",
    ctypes.c_int32,
    (ctypes.c_int32, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD)),
    never_fails,
)
_SYSTEM_PROCESS_INFORMATION = 5
_STATUS_INFO_LENGTH_MISMATCH = 0xC0000004

# https://learn.microsoft.com/windows/win32/api/memoryapi/nf-memoryapi-readprocessmemory
# BOOL ReadProcessMemory(HANDLE hProcess, LPCVOID address, LPVOID buffer, SIZE_T bytes, SIZE_T *read);
_ReadProcessMemory = bind(
    kernel32,
    "ReadProcessMemory",
    BOOL,
    (HANDLE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/memoryapi/nf-memoryapi-writeprocessmemory
# BOOL WriteProcessMemory(HANDLE hProcess, LPVOID address, LPCVOID buffer, SIZE_T bytes, SIZE_T *written);
_WriteProcessMemory = bind(
    kernel32,
    "WriteProcessMemory",
    BOOL,
    (HANDLE, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getprocessmitigationpolicy
# BOOL GetProcessMitigationPolicy(HANDLE process, PROCESS_MITIGATION_POLICY policy, PVOID buffer, SIZE_T bytes);
_GetProcessMitigationPolicy = bind(
    kernel32,
    "GetProcessMitigationPolicy",
    BOOL,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t),
    fail_on_zero,
)

_PAGE_BYTES = 4096
_NO_DATE = 2_650_467_744_000_000_000
"""The FILETIME of the year 10000."""


def created_at(process: SupportsInt) -> int:
    """When it was created: a FILETIME, 100 ns since 1601-01-01 UTC. Needs PROCESS_QUERY_LIMITED_INFORMATION.

    0 where the system has none yet: Wine has nonsense for a process that is just starting.
    """
    created, other = ctypes.c_uint64(), ctypes.c_uint64()
    _GetProcessTimes(int(process), created, other, other, other)
    return created.value if created.value < _NO_DATE else 0


def has_exited(process: SupportsInt) -> bool:
    """It has ended, and only open handles keep it known. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    created, exited, other = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
    _GetProcessTimes(int(process), created, exited, other, other)
    return exited.value != 0


# ------------------------------------------------------------------------------------------------------- all that run


class Listed(NamedTuple):
    """What the system's list tells of each process, without opening it."""

    pid: int
    parent_pid: int
    created: int
    """A FILETIME; 0 for the idle process, and where there is none yet; see `created_at`."""
    name: str
    """Bare: ``cmd.exe``, ``System``."""


class _ListEntry(ctypes.Structure):
    """The head of SYSTEM_PROCESS_INFORMATION."""

    _fields_ = [
        ("next_entry", DWORD),
        ("thread_count", DWORD),
        ("working_set", ctypes.c_int64),
        ("faults_and_threads", DWORD * 2),
        ("cycle_time", ctypes.c_uint64),
        ("created", ctypes.c_uint64),
        ("user_time", ctypes.c_uint64),
        ("kernel_time", ctypes.c_uint64),
        ("name_bytes", ctypes.c_uint16),
        ("name_capacity", ctypes.c_uint16),
        ("name", ctypes.c_void_p),
        ("base_priority", ctypes.c_int32),
        ("pid", ctypes.c_size_t),
        ("parent_pid", ctypes.c_size_t),
    ]


def running() -> list[Listed]:
    """Every process, at one moment, in the system's order."""
    size = 1 << 18
    while True:
        buffer, needed = ctypes.create_string_buffer(size), DWORD()
        status = _NtQuerySystemInformation(_SYSTEM_PROCESS_INFORMATION, buffer, size, needed) & 0xFFFFFFFF
        if status != _STATUS_INFO_LENGTH_MISMATCH:
            check_ntstatus("NtQuerySystemInformation", status, 0)
            break
        size = max(needed.value, size) + (1 << 16)  # some may start meanwhile
    found, at = [], 0
    while True:
        entry = _ListEntry.from_buffer(buffer, at)
        name = _decode(ctypes.string_at(entry.name, entry.name_bytes)) if entry.name else ""
        created = entry.created if entry.created < _NO_DATE else 0
        found.append(Listed(entry.pid, entry.parent_pid, created, name))
        if not entry.next_entry:
            return found
        at += entry.next_entry


# -------------------------------------------------------------------------------------------------------------- names


def image_path(process: SupportsInt) -> str:
    """DOS path of its executable, as spelled by the system. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    for characters in _PATH_SIZES:
        text = ctypes.create_unicode_buffer(characters)
        try:
            _QueryFullProcessImageNameW(int(process), 0, text, DWORD(characters))
            break
        except OSError as error:
            if code_of(error) != ERROR_INSUFFICIENT_BUFFER or characters == _PATH_SIZES[-1]:
                raise
    return _without_prefix(text.value)


def native_image_path(process: SupportsInt) -> str:
    r"""Native path of its executable, ``\Device\...``. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    return _text_information(process, _PROCESS_IMAGE_FILE_NAME)


def _text_information(process: SupportsInt, kind: int) -> str:
    """What the system tells as a UNICODE_STRING. Most are short; the longest has 32,767 characters."""
    for characters in _PATH_SIZES:
        buffer = ctypes.create_string_buffer(2 * _POINTER + 2 * characters)
        try:
            _NtQueryInformationProcess(int(process), kind, buffer, len(buffer), DWORD())
            break
        except OSError as error:
            if code_of(error) not in _TOO_SMALL or characters == _PATH_SIZES[-1]:
                raise
    return _unicode_string(buffer.raw)


def _unicode_string(raw: bytes) -> str:
    """A UNICODE_STRING that has its text behind it in the same buffer."""
    length = int.from_bytes(raw[:2], "little")
    return _decode(raw[2 * _POINTER : 2 * _POINTER + length])


def _without_prefix(path: str) -> str:
    if path.startswith("\\\\?\\UNC\\"):
        return "\\\\" + path[8:]
    return path[4:] if path.startswith(("\\\\?\\", "\\??\\")) else path


# ------------------------------------------------------------------------------------------------- the inner structures


class ProcessBasics(NamedTuple):
    """What PROCESS_BASIC_INFORMATION tells."""

    peb: int
    """Address of the process environment block, in the process."""
    pid: int
    parent_pid: int


def basics(process: SupportsInt) -> ProcessBasics:
    """Its PEB address and its parent. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    words = (ctypes.c_size_t * 6)()  # ExitStatus, PebBaseAddress, AffinityMask, BasePriority, UniqueProcessId, parent
    _NtQueryInformationProcess(int(process), _PROCESS_BASIC_INFORMATION, words, ctypes.sizeof(words), None)
    return ProcessBasics(peb=words[1], pid=words[4], parent_pid=words[5])


def command_line(process: SupportsInt) -> str:
    """Its command line, also before its first instruction and of a 32-bit process.

    Windows 8.1 and later tell it of any process; where they do not (Wine), it is read from the PEB. A 32-bit process on
    a 64-bit Windows has two PEBs: a 64-bit Python reads the 64-bit one, which is complete from the start, a 32-bit
    Python can read the other alone. Needs PROCESS_QUERY_LIMITED_INFORMATION, and for the PEB PROCESS_VM_READ.
    """
    try:
        return _text_information(process, _PROCESS_COMMAND_LINE_INFORMATION)
    except OSError as error:
        if code_of(error) != ERROR_INVALID_PARAMETER:  # of STATUS_INVALID_INFO_CLASS
            raise
        return command_line_in_memory(process)


def command_line_in_memory(process: SupportsInt, peb: int = 0) -> str:
    """The same from its PEB, whose address may be known already. Needs PROCESS_VM_READ."""
    return _parameter(process, _COMMAND_LINE, peb)


def current_directory(process: SupportsInt) -> str:
    """The folder in which it works at this moment, with a backslash at its end; a 32-bit process is as in
    `command_line`. Needs PROCESS_QUERY_LIMITED_INFORMATION and PROCESS_VM_READ.
    """
    folder = _parameter(process, _CURRENT_DIRECTORY)
    return folder if folder.endswith("\\") or not folder else folder + "\\"  # Wine leaves it out


def _parameter(process: SupportsInt, text_at: int, peb: int = 0) -> str:
    """A UNICODE_STRING of its RTL_USER_PROCESS_PARAMETERS, which its PEB names."""
    if _we_are_wow64() and not kernel.is_wow64(process):
        advice = "a 32-bit Python cannot read a 64-bit process: use a 64-bit Python"
        raise OSError(0, advice, None, ERROR_NOT_SUPPORTED)
    at = int.from_bytes(_read(process, (peb or basics(process).peb) + _PARAMETERS, _POINTER), "little")
    # The texts stand behind the structure: what is left of its page, which is there for sure, has the short ones.
    page = _read(process, at, -at % _PAGE_BYTES or _PAGE_BYTES)
    head = page[text_at : text_at + 2 * _POINTER]
    if len(head) < 2 * _POINTER:
        head = _read(process, at + text_at, 2 * _POINTER)
    length, text = int.from_bytes(head[:2], "little"), int.from_bytes(head[_POINTER:], "little")
    if at <= text and text + length <= at + len(page):
        return _decode(page[text - at : text - at + length])
    return _decode(_read(process, text, length)) if length else ""


@cache
def _we_are_wow64() -> bool:
    return kernel.is_wow64()


def clear_debugged_mark(process: SupportsInt, peb: int) -> None:
    """Take BeingDebugged out of its PEBs: its loader neither stops for a debugger nor sets up the slow debug heap.

    `peb` is the address of its PEB. Needs PROCESS_VM_WRITE and PROCESS_VM_OPERATION.
    """
    marks = [peb + 2]
    if _POINTER == 8:  # a 32-bit Python is given the address of the 32-bit one, and has no other
        wow64 = ctypes.c_uint64()
        _NtQueryInformationProcess(int(process), _PROCESS_WOW64_INFORMATION, ctypes.byref(wow64), _POINTER, None)
        if wow64.value == 1:  # Wine's answer is no address, only that there is one: a page behind the other
            marks.append(marks[0] + 0x1000)
        elif wow64.value:
            marks.append(wow64.value + 2)
    for mark in marks:
        _WriteProcessMemory(int(process), mark, b"\0", 1, None)


_PROCESS_STRICT_HANDLE_CHECK_POLICY = 3


def has_strict_handle_checks(process: SupportsInt) -> bool:
    """Windows raises an exception for each bad handle that it uses, debugger or not, because it asked for that.

    False where Windows has no such policy (before Windows 8) or does not tell. Needs PROCESS_QUERY_INFORMATION.
    """
    flags = DWORD()
    try:
        _GetProcessMitigationPolicy(int(process), _PROCESS_STRICT_HANDLE_CHECK_POLICY, ctypes.byref(flags), 4)
    except (OSError, AttributeError):
        return False
    return bool(flags.value & 1)  # RaiseExceptionOnInvalidHandleReference


def _read(process: SupportsInt, address: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _ReadProcessMemory(int(process), address, buffer, size, None)
    return buffer.raw


def _decode(text: bytes) -> str:
    """UTF-16 as Windows has it: half a surrogate pair stays what it is, so that a file is found by its name."""
    return text.decode("utf-16-le", "surrogatepass")
