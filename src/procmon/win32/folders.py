"""Folders as Windows reports them, independent of environment variables."""

import ctypes
import uuid
from ctypes import POINTER, byref, c_void_p

from ._bind import DWORD, HANDLE, Library, bind, never_fails, windows_error

__all__ = ["program_data"]

_shell32 = Library("shell32.dll")
_ole32 = Library("ole32.dll")

_PROGRAM_DATA = uuid.UUID("62ab5d82-fdc1-4dc3-a9dd-070d1d495d97")  # FOLDERID_ProgramData, KnownFolders.h
_NOTHING_SPECIAL = 0

# https://learn.microsoft.com/windows/win32/api/shlobj_core/nf-shlobj_core-shgetknownfolderpath
# HRESULT SHGetKnownFolderPath(REFKNOWNFOLDERID id, DWORD flags, HANDLE token, PWSTR *path);   freed by CoTaskMemFree
_SHGetKnownFolderPath = bind(
    _shell32, "SHGetKnownFolderPath", ctypes.c_int32, (ctypes.c_char_p, DWORD, HANDLE, POINTER(c_void_p)), never_fails
)
_CoTaskMemFree = bind(_ole32, "CoTaskMemFree", None, (c_void_p,), never_fails)


def program_data() -> str:
    r"""``C:\ProgramData``. Raises: OSError."""
    path = c_void_p()
    result = _SHGetKnownFolderPath(_PROGRAM_DATA.bytes_le, _NOTHING_SPECIAL, None, byref(path))
    try:
        if result < 0:
            raise windows_error("SHGetKnownFolderPath", result & 0xFFFF)
        return ctypes.wstring_at(path.value or 0)
    finally:
        _CoTaskMemFree(path)
