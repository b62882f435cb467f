"""Files, opened so that other programs can still rename and delete them."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader

from . import kernel
from ._bind import BOOL, DWORD, HANDLE, bind, check_ntstatus, fail_on_zero, kernel32, ntdll
from .handles import Handle

__all__ = ["changed_at", "handle_of", "on_fixed_disk", "open_shared", "system_folder", "whole_system"]

_FILE_SHARE_ALL = 7
_FILE_FLAG_SEQUENTIAL_SCAN = 0x08000000

_FILE_BASIC_INFO = 0


_FILE_FS_DEVICE_INFORMATION = 4
_DISKS = (7, 8)  # FILE_DEVICE_DISK, FILE_DEVICE_DISK_FILE_SYSTEM
_FILE_REMOVABLE_MEDIA, _FILE_REMOTE_DEVICE = 0x1, 0x10


class _BasicInfo(ctypes.Structure):
    """FILE_BASIC_INFO."""

    _fields_ = [
        ("created", ctypes.c_uint64),
        ("read", ctypes.c_uint64),
        ("written", ctypes.c_uint64),
        ("changed", ctypes.c_uint64),
        ("attributes", DWORD),
    ]


# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-getfileinformationbyhandleex
# BOOL GetFileInformationByHandleEx(HANDLE file, FILE_INFO_BY_HANDLE_CLASS kind, LPVOID information, DWORD bytes);
_GetFileInformationByHandleEx = bind(
    kernel32, "GetFileInformationByHandleEx", BOOL, (HANDLE, ctypes.c_int32, ctypes.c_void_p, DWORD), fail_on_zero
)


# https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-ntqueryvolumeinformationfile
# NTSTATUS NtQueryVolumeInformationFile(HANDLE, PIO_STATUS_BLOCK, PVOID info, ULONG bytes, FS_INFORMATION_CLASS);
_NtQueryVolumeInformationFile = bind(
    ntdll,
    "NtQueryVolumeInformationFile",
    ctypes.c_int32,
    (HANDLE, ctypes.c_void_p, ctypes.c_void_p, DWORD, ctypes.c_int32),
    check_ntstatus,
)

# https://learn.microsoft.com/windows/win32/api/wow64apiset/nf-wow64apiset-wow64disablewow64fsredirection
# BOOL Wow64DisableWow64FsRedirection(PVOID *OldValue); BOOL Wow64RevertWow64FsRedirection(PVOID OlValue);
_Wow64DisableWow64FsRedirection = bind(
    kernel32, "Wow64DisableWow64FsRedirection", BOOL, (ctypes.POINTER(ctypes.c_void_p),), fail_on_zero
)
_Wow64RevertWow64FsRedirection = bind(kernel32, "Wow64RevertWow64FsRedirection", BOOL, (ctypes.c_void_p,), fail_on_zero)


@contextmanager
def whole_system() -> Iterator[None]:
    """Turn off the redirection of System32 for this thread. With it, a 32-bit Python on a 64-bit Windows gets the file
    of the same name in SysWOW64, which is another program.

    Call only functions in it whose DLLs are loaded: Windows finds no 32-bit DLL in System32, and a function that failed
    to load its DLL late fails from then on.
    """
    if sys.platform != "win32" or not kernel.is_wow64():
        yield
        return
    before = ctypes.c_void_p()
    _Wow64DisableWow64FsRedirection(before)
    try:
        yield
    finally:
        _Wow64RevertWow64FsRedirection(before)


# https://learn.microsoft.com/windows/win32/api/sysinfoapi/nf-sysinfoapi-getsystemdirectoryw
# UINT GetSystemDirectoryW(LPWSTR lpBuffer, UINT uSize);
_GetSystemDirectoryW = bind(kernel32, "GetSystemDirectoryW", DWORD, (ctypes.c_wchar_p, DWORD), fail_on_zero)


def system_folder() -> str:
    r"""``C:\Windows\system32``, also for a 32-bit Python on a 64-bit Windows. Raises: OSError."""
    path = ctypes.create_unicode_buffer(260)
    _GetSystemDirectoryW(path, len(path))
    return path.value


def open_shared(path: str) -> BufferedReader:
    r"""Open a file to read, by its DOS path of any length or its native path, ``\Device\...``. Raises: OSError."""
    with whole_system():
        handle = kernel.open_existing(_full(path), kernel.GENERIC_READ, _FILE_SHARE_ALL, _FILE_FLAG_SEQUENTIAL_SCAN)
    if sys.platform == "win32":
        import msvcrt

        owner = Handle(handle)
        descriptor = msvcrt.open_osfhandle(handle, os.O_RDONLY)  # fails when a program has too many files open
        owner.release()
        return open(descriptor, "rb")
    raise AssertionError("CreateFileW does not return anywhere else")


def handle_of(file: BufferedReader) -> int:
    """The handle behind an open file; the file still owns it."""
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.get_osfhandle(file.fileno())
    raise AssertionError("open_shared returns no file anywhere else")


def changed_at(file: BufferedReader) -> int:
    """The time of the file's last change of any kind, in the system's ticks. Raises: OSError.

    SetFileTime, with which a writer of the file can set back the time of writing, does not change it.
    """
    if sys.platform != "win32":
        return os.fstat(file.fileno()).st_ctime_ns  # as good for a comparison
    info = _BasicInfo()
    _GetFileInformationByHandleEx(handle_of(file), _FILE_BASIC_INFO, ctypes.byref(info), ctypes.sizeof(info))
    return int(info.changed)


def on_fixed_disk(file: BufferedReader) -> bool:
    """Whether the file is on a disk of this machine whose medium cannot be removed. Raises: OSError.

    Most external disks count, because Windows does not say that they can be unplugged.
    """
    status = (ctypes.c_void_p * 2)()  # IO_STATUS_BLOCK
    info = (DWORD * 2)()  # FILE_FS_DEVICE_INFORMATION: the device's type, its characteristics
    size = ctypes.sizeof(info)
    _NtQueryVolumeInformationFile(handle_of(file), status, info, size, _FILE_FS_DEVICE_INFORMATION)
    device, characteristics = info
    return device in _DISKS and not characteristics & (_FILE_REMOVABLE_MEDIA | _FILE_REMOTE_DEVICE)


def _full(path: str) -> str:
    r"""
    >>> print(_full(r"c:\a.exe"), _full(r"\\server\b.exe"), _full(r"\Device\c.exe"))
    \\?\c:\a.exe \\?\UNC\server\b.exe \\?\GLOBALROOT\Device\c.exe
    """
    if path.startswith("\\\\"):
        return "\\\\?\\UNC" + path[1:]
    return "\\\\?\\GLOBALROOT" + path if path.startswith("\\") else "\\\\?\\" + path
