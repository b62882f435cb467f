"""The memory of another process: its mappings, their files, and whether a page is still the file's.

Every function takes an open process handle; the docstring names the access it needs. For an address without memory the
functions raise OSError; `region_at` returns a free region.
"""

import ctypes
from collections.abc import Sequence
from typing import Final, NamedTuple, SupportsInt

from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32

__all__ = ["PAGE_BYTES", "Region", "mapped_file", "private_pages", "read", "region_at", "write"]

PAGE_BYTES: Final = 4096
"""The size of a page on x86, x64 and arm64."""

_MEM_FREE: Final = 0x10000
_MEM_IMAGE: Final = 0x1000000
_EXECUTABLE: Final = 0xF0  # PAGE_EXECUTE, _READ, _READWRITE, _WRITECOPY
_LONGEST_NAME: Final = 32_768
_VALID, _SHARED = 1, 1 << 15

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


class _BasicInformation(ctypes.Structure):
    """MEMORY_BASIC_INFORMATION, whose layout follows the bitness of the caller."""

    _fields_ = [
        ("base", ctypes.c_size_t),
        ("allocation_base", ctypes.c_size_t),
        ("allocation_protection", DWORD),
        *([("partition", ctypes.c_uint16)] if ctypes.sizeof(ctypes.c_void_p) == 8 else []),
        ("size", ctypes.c_size_t),
        ("state", DWORD),
        ("protection", DWORD),
        ("kind", DWORD),
    ]


# https://learn.microsoft.com/windows/win32/api/memoryapi/nf-memoryapi-virtualqueryex
# SIZE_T VirtualQueryEx(HANDLE hProcess, LPCVOID address, PMEMORY_BASIC_INFORMATION buffer, SIZE_T bytes);
_VirtualQueryEx = bind(
    kernel32,
    "VirtualQueryEx",
    ctypes.c_size_t,
    (HANDLE, ctypes.c_void_p, ctypes.POINTER(_BasicInformation), ctypes.c_size_t),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/psapi/nf-psapi-getmappedfilenamew
# DWORD K32GetMappedFileNameW(HANDLE hProcess, LPVOID address, LPWSTR name, DWORD characters);
_GetMappedFileNameW = bind(
    kernel32, "K32GetMappedFileNameW", DWORD, (HANDLE, ctypes.c_void_p, ctypes.c_wchar_p, DWORD), fail_on_zero
)


class _WorkingSetEntry(ctypes.Structure):
    """PSAPI_WORKING_SET_EX_INFORMATION."""

    _fields_ = [("address", ctypes.c_size_t), ("attributes", ctypes.c_size_t)]


# https://learn.microsoft.com/windows/win32/api/psapi/nf-psapi-queryworkingsetex
# BOOL K32QueryWorkingSetEx(HANDLE hProcess, PVOID entries, DWORD bytes);
_QueryWorkingSetEx = bind(
    kernel32, "K32QueryWorkingSetEx", BOOL, (HANDLE, ctypes.POINTER(_WorkingSetEntry), DWORD), fail_on_zero
)


class Region(NamedTuple):
    """Adjacent pages that were mapped in one step and have one protection."""

    base: int
    size: int
    """In bytes."""
    allocation_base: int
    """The start of the whole mapping: for an image, its base. 0 if nothing is mapped."""
    is_free: bool
    """Nothing is mapped here."""
    is_image: bool
    """It is mapped from an executable (MEM_IMAGE), and is not private memory or another file."""
    is_executable: bool


def read(process: SupportsInt, address: int, size: int) -> bytes:
    """Read `size` bytes of memory. Needs PROCESS_VM_READ. Raises: OSError, also if only a part of them exists."""
    buffer = ctypes.create_string_buffer(size)
    _ReadProcessMemory(int(process), address, buffer, size, None)
    return buffer.raw


def write(process: SupportsInt, address: int, data: bytes) -> None:
    """Write memory. Needs PROCESS_VM_WRITE and PROCESS_VM_OPERATION. Raises: OSError."""
    _WriteProcessMemory(int(process), address, data, len(data), None)


def region_at(process: SupportsInt, address: int) -> Region:
    """The region at an address. Needs PROCESS_QUERY_INFORMATION. Raises: OSError beyond the last address."""
    found = _BasicInformation()
    _VirtualQueryEx(int(process), address, found, ctypes.sizeof(found))
    free = found.state == _MEM_FREE
    return Region(
        base=found.base,
        size=found.size,
        allocation_base=0 if free else found.allocation_base,
        is_free=free,
        is_image=found.kind == _MEM_IMAGE and not free,
        is_executable=bool(found.protection & _EXECUTABLE) and not free,
    )


def mapped_file(process: SupportsInt, address: int) -> str:
    r"""Native path of the file that is mapped at an address, ``\Device\...``. Needs PROCESS_QUERY_INFORMATION.

    Raises: OSError if no file is mapped there.
    """
    name = ctypes.create_unicode_buffer(_LONGEST_NAME)
    length: int = _GetMappedFileNameW(int(process), address, name, len(name))
    return ctypes.wstring_at(name, length)


def private_pages(process: SupportsInt, pages: Sequence[int]) -> list[int]:
    """Return the addresses of those pages that are in memory and cannot be shared: copies that were written to.

    An unchanged page of a file can be shared. Pages that are not in memory are not reported; reading a page brings it
    into memory. Needs PROCESS_QUERY_INFORMATION. Raises: OSError (87 on Wine for any other process).
    """
    entries = (_WorkingSetEntry * len(pages))(*(_WorkingSetEntry(page, 0) for page in pages))
    _QueryWorkingSetEx(int(process), entries, ctypes.sizeof(entries))
    return [entry.address for entry in entries if entry.attributes & (_VALID | _SHARED) == _VALID]
