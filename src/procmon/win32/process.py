"""Names, times, parents and inner structures of processes; the list of all running processes.

Every function takes an open process handle (`Handle` or a plain value) with the access named in its docstring, so that
one open handle serves many calls and all are certainly about the same process.
"""

import ctypes
from functools import cache
from typing import NamedTuple, SupportsInt

from . import kernel, memory, nt
from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32, windows_error
from .codes import (
    ERROR_BAD_LENGTH,
    ERROR_INSUFFICIENT_BUFFER,
    ERROR_INVALID_PARAMETER,
    ERROR_MORE_DATA,
    ERROR_NOT_SUPPORTED,
    ERROR_PATH_NOT_FOUND,
    code_of,
)

__all__ = [
    "NARROW_END",
    "Listed",
    "Peb",
    "ProcessBasics",
    "basics",
    "command_line",
    "command_line_in_memory",
    "created_at",
    "current_directory",
    "dos_or_native_path",
    "has_exited",
    "image_base",
    "image_path",
    "native_image_path",
    "pebs",
    "running",
    "start_address",
]

NARROW_END = 1 << 32
"""The end of the addresses of a 32-bit process."""

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_PATH_SIZES = (512, 32768)
"""Buffer sizes in characters, tried in order: to clear 64 KiB for each path costs more than the call."""
_TOO_SMALL = (ERROR_BAD_LENGTH, ERROR_INSUFFICIENT_BUFFER, ERROR_MORE_DATA)
"""The error codes for STATUS_INFO_LENGTH_MISMATCH, STATUS_BUFFER_TOO_SMALL and STATUS_BUFFER_OVERFLOW."""
_PARAMETERS, _CURRENT_DIRECTORY, _COMMAND_LINE = (0x20, 0x38, 0x70) if _POINTER == 8 else (0x10, 0x24, 0x40)
"""Offsets: of the parameters' address in the PEB, and of two texts in the parameters."""

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

_NO_DATE = 2_650_467_744_000_000_000
"""The FILETIME of the year 10000."""


def created_at(process: SupportsInt) -> int:
    """The creation time as a FILETIME, 100 ns since 1601-01-01 UTC. Needs PROCESS_QUERY_LIMITED_INFORMATION.

    0 if the system has none yet: Wine returns an invalid time for a process that is just starting.
    """
    created, other = ctypes.c_uint64(), ctypes.c_uint64()
    _GetProcessTimes(int(process), created, other, other, other)
    return created.value if created.value < _NO_DATE else 0


def has_exited(process: SupportsInt) -> bool:
    """Whether it has ended, and only open handles keep its object. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    created, exited, other = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
    _GetProcessTimes(int(process), created, exited, other, other)
    return exited.value != 0


# ------------------------------------------------------------------------------------------------------- all that run


class Listed(NamedTuple):
    """One entry of the system's list of processes; the process need not be opened."""

    pid: int
    parent_pid: int
    created: int
    """A FILETIME; 0 for the idle process, and if there is none yet; see `created_at`."""
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
    """All processes at one moment, in the system's order."""
    size = 1 << 18
    buffer = ctypes.create_string_buffer(size)
    while needed := nt.query_system(nt.SYSTEM_PROCESS_INFORMATION, buffer, size):
        size = max(needed, size) + (1 << 16)  # other processes can start meanwhile
        buffer = ctypes.create_string_buffer(size)
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
    """DOS path of its executable, as spelled by the system. Needs PROCESS_QUERY_LIMITED_INFORMATION.

    Raises: OSError, also for a file on a volume without a drive letter: it has only a native path.
    """
    for characters in _PATH_SIZES:
        text, length = ctypes.create_unicode_buffer(characters), DWORD(characters)
        try:
            _QueryFullProcessImageNameW(int(process), 0, text, length)
            break
        except OSError as error:
            if code_of(error) != ERROR_INSUFFICIENT_BUFFER or characters == _PATH_SIZES[-1]:
                raise
    # By its length: a NUL in the path, which a file system may allow, does not end it.
    path = ctypes.wstring_at(text, length.value)
    if path.startswith(_VOLUME_WITHOUT_LETTER):
        raise windows_error("QueryFullProcessImageNameW", ERROR_PATH_NOT_FOUND)
    return _without_prefix(path)


def native_image_path(process: SupportsInt) -> str:
    r"""Native path of its executable, ``\Device\...``. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    return _text_information(process, nt.PROCESS_IMAGE_FILE_NAME)


def dos_or_native_path(process: SupportsInt) -> str:
    """DOS path of its executable, or the native one if it has no other. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    try:
        return image_path(process)
    except OSError:
        return native_image_path(process)


def _text_information(process: SupportsInt, kind: int) -> str:
    """Information that the system returns as a UNICODE_STRING. Most are short; the longest has 32,767 characters."""
    for characters in _PATH_SIZES:
        buffer = ctypes.create_string_buffer(2 * _POINTER + 2 * characters)
        try:
            nt.query_process(process, kind, buffer, len(buffer))
            break
        except OSError as error:
            if code_of(error) not in _TOO_SMALL or characters == _PATH_SIZES[-1]:
                raise
    return _unicode_string(buffer.raw)


def _unicode_string(raw: bytes) -> str:
    """The text of a UNICODE_STRING, which follows it in the same buffer."""
    length = int.from_bytes(raw[:2], "little")
    return _decode(raw[2 * _POINTER : 2 * _POINTER + length])


_VOLUME_WITHOUT_LETTER = ("\\\\?\\Volume{", "\\??\\Volume{")  # its name in the mount manager: ...GUID}\\dir\\a.exe


def _without_prefix(path: str) -> str:
    if path.startswith("\\\\?\\UNC\\"):
        return "\\\\" + path[8:]
    return path[4:] if path.startswith(("\\\\?\\", "\\??\\")) else path


# ------------------------------------------------------------------------------------------------- the inner structures


class ProcessBasics(NamedTuple):
    """PROCESS_BASIC_INFORMATION."""

    peb: int
    """Address of the process environment block, in the process."""
    pid: int
    parent_pid: int


def basics(process: SupportsInt) -> ProcessBasics:
    """Its PEB address and its parent. Needs PROCESS_QUERY_LIMITED_INFORMATION."""
    words = (ctypes.c_size_t * 6)()  # ExitStatus, PebBaseAddress, AffinityMask, BasePriority, UniqueProcessId, parent
    nt.query_process(process, nt.PROCESS_BASIC_INFORMATION, words, ctypes.sizeof(words))
    return ProcessBasics(peb=words[1], pid=words[4], parent_pid=words[5])


def command_line(process: SupportsInt) -> str:
    """Its command line, also before its first instruction and of a 32-bit process.

    Windows 8.1 and later return it for any process; elsewhere (Wine) it is read from the PEB. A 32-bit process on a
    64-bit Windows has two PEBs: a 64-bit Python reads the 64-bit PEB, which is complete from the start; a 32-bit Python
    can read only the other. Needs PROCESS_QUERY_LIMITED_INFORMATION, and for the PEB PROCESS_VM_READ.
    """
    try:
        return _text_information(process, nt.PROCESS_COMMAND_LINE_INFORMATION)
    except OSError as error:
        if code_of(error) != ERROR_INVALID_PARAMETER:  # of STATUS_INVALID_INFO_CLASS
            raise
        return command_line_in_memory(process)


def command_line_in_memory(process: SupportsInt, peb: int = 0) -> str:
    """The command line from the PEB, whose address the caller may know already. Needs PROCESS_VM_READ."""
    return _parameter(process, _COMMAND_LINE, peb)


def current_directory(process: SupportsInt) -> str:
    """Its current directory at this moment, with a backslash at its end; for a 32-bit process see `command_line`.
    Needs PROCESS_QUERY_LIMITED_INFORMATION and PROCESS_VM_READ.
    """
    folder = _parameter(process, _CURRENT_DIRECTORY)
    return folder if folder.endswith("\\") or not folder else folder + "\\"  # Wine omits the backslash


def _parameter(process: SupportsInt, text_at: int, peb: int = 0) -> str:
    """A UNICODE_STRING of its RTL_USER_PROCESS_PARAMETERS, to which its PEB points."""
    if _we_are_wow64() and not kernel.is_wow64(process):
        advice = "a 32-bit Python cannot read a 64-bit process: use a 64-bit Python"
        raise OSError(0, advice, None, ERROR_NOT_SUPPORTED)
    at = int.from_bytes(memory.read(process, (peb or basics(process).peb) + _PARAMETERS, _POINTER), "little")
    # The texts follow the structure: the rest of its page, which is certainly mapped, contains the short ones.
    page = memory.read(process, at, -at % memory.PAGE_BYTES or memory.PAGE_BYTES)
    head = page[text_at : text_at + 2 * _POINTER]
    if len(head) < 2 * _POINTER:
        head = memory.read(process, at + text_at, 2 * _POINTER)
    length, text = int.from_bytes(head[:2], "little"), int.from_bytes(head[_POINTER:], "little")
    if at <= text and text + length <= at + len(page):
        return _decode(page[text - at : text - at + length])
    return _decode(memory.read(process, text, length)) if length else ""


@cache
def _we_are_wow64() -> bool:
    return kernel.is_wow64()


class Peb(NamedTuple):
    """A process environment block: a 32-bit process on a 64-bit Windows has two."""

    address: int
    pointer_bytes: int
    """8 in the PEB of a 64-bit process, and in the first of a 32-bit process on a 64-bit Windows; else 4."""


def pebs(process: SupportsInt, peb: int = 0, image: int = 0) -> list[Peb]:
    """Its PEBs; a 32-bit Python gets only the 32-bit PEB. `peb`: the address of the first, if known.

    `image`: the address of its executable, if known. An executable above 4 GiB is no 32-bit one, so there is no second
    PEB. Needs PROCESS_QUERY_LIMITED_INFORMATION. Raises: OSError.
    """
    found = [Peb(peb or basics(process).peb, _POINTER)]
    if _POINTER == 8 and image < NARROW_END:
        wow64 = ctypes.c_uint64()
        nt.query_process(process, nt.PROCESS_WOW64_INFORMATION, ctypes.byref(wow64), 8)
        if wow64.value == 1:  # Wine returns no address, only that there is a second PEB: a page after the first
            found.append(Peb(found[0].address + memory.PAGE_BYTES, 4))
        elif wow64.value:
            found.append(Peb(wow64.value, 4))
    return found


def image_base(process: SupportsInt, peb: Peb) -> int:
    """The base of its image in its PEB, which the process and its creator can change. Needs PROCESS_VM_READ.

    PEB.ImageBaseAddress is the second of the pointers that the documentation calls Reserved3:
    https://learn.microsoft.com/windows/win32/api/winternl/ns-winternl-peb
    """
    return int.from_bytes(memory.read(process, peb.address + 2 * peb.pointer_bytes, peb.pointer_bytes), "little")


def start_address(process: SupportsInt) -> int:
    """The entry point of its image, where the kernel begins its first thread; 0 if Windows does not report it.

    The kernel itself keeps it (SECTION_IMAGE_INFORMATION.TransferAddress), and no change to the memory of the process
    affects it. Needs PROCESS_QUERY_LIMITED_INFORMATION.
    """
    information = ctypes.create_string_buffer(64 if _POINTER == 8 else 48)
    try:
        nt.query_process(process, nt.PROCESS_IMAGE_INFORMATION, information, len(information))
    except OSError as error:
        if code_of(error) not in (ERROR_INVALID_PARAMETER, ERROR_BAD_LENGTH):
            raise
        return 0
    return int.from_bytes(information.raw[:_POINTER], "little")


def _decode(text: bytes) -> str:
    """UTF-16 as Windows has it: half a surrogate pair is kept, so that a file is found by its name.

    A creator can give a command line an odd number of bytes; the last one is left out.
    """
    return text[: len(text) & ~1].decode("utf-16-le", "surrogatepass")
