"""Binds Windows functions: prototype, error rule, System32 only.

A module of this package binds each function once, at its top, with the C prototype and the documentation's address
above it::

    # https://learn.microsoft.com/windows/win32/api/handleapi/nf-handleapi-closehandle
    # BOOL CloseHandle(HANDLE hObject);
    _CloseHandle = bind(kernel32, "CloseHandle", BOOL, (HANDLE,), fail_on_zero)

The error rule checks the result and raises an `OSError` whose text begins with the function's name. Binding is lazy:
nothing is loaded until the first call, so this package imports on every operating system.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UnsupportedPlatform

__all__ = [
    "INVALID_HANDLE_VALUE",
    "Library",
    "advapi32",
    "bind",
    "check_ntstatus",
    "fail_on_invalid_handle",
    "fail_on_zero",
    "handle_or_none",
    "kernel32",
    "never_fails",
    "ntdll",
    "windows_error",
]

BOOL = ctypes.c_int32
DWORD = ctypes.c_uint32
HANDLE = ctypes.c_void_p
INVALID_HANDLE_VALUE: int = ctypes.c_void_p(-1).value or 0

_LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800

ErrorRule = Callable[[str, Any, int], Any]
"""(function name, raw result, last error) -> result; raises OSError."""


class Library:
    """A system DLL, loaded from System32 at the first use of one of its functions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._dll: ctypes.CDLL | None = None

    def __repr__(self) -> str:
        return f"<Library {self.name}{'' if self._dll else ' (not loaded)'}>"

    def function(self, name: str) -> Any:
        """The foreign function `name`. Raises: UnsupportedPlatform off Windows; AttributeError if it is missing."""
        if sys.platform != "win32":
            raise UnsupportedPlatform(
                f"this needs Windows, for its {name}; on {sys.platform} use procmon.SimulatedGate"
            )
        if self._dll is None:
            self._dll = ctypes.WinDLL(self.name, use_last_error=True, winmode=_LOAD_LIBRARY_SEARCH_SYSTEM32)
        return self._dll[name]


kernel32 = Library("kernel32.dll")
advapi32 = Library("advapi32.dll")
ntdll = Library("ntdll.dll")


def bind(library: Library, name: str, result: Any, arguments: Sequence[Any], rule: ErrorRule) -> Callable[..., Any]:
    """Return a callable for one function. Each call checks the result with `rule`.

    Raises (when called): UnsupportedPlatform off Windows; OSError by the rule.
    """
    function: Any = None

    def call(*values: Any) -> Any:
        nonlocal function
        if function is None:
            foreign = library.function(name)
            foreign.restype, foreign.argtypes = result, list(arguments)
            function = foreign
        raw = function(*values)
        return rule(name, raw, last_error())

    call.__name__ = call.__qualname__ = name
    return call


def last_error() -> int:
    """The thread's last error as ctypes saved it after the call."""
    if sys.platform == "win32":
        return ctypes.get_last_error()
    return 0


def windows_error(name: str, code: int) -> OSError:
    """An `OSError` of the right subclass for a Windows error code; its text begins with the function's name."""
    if sys.platform == "win32":
        return ctypes.WinError(code, f"{name}: {ctypes.FormatError(code).strip() or 'error'} ({code})")
    return OSError(code, f"{name}: Windows error {code}")


# ------------------------------------------------------------------------------------------------------- error rules


def fail_on_zero(name: str, result: Any, error: int) -> Any:
    """For BOOL and for counts: zero is a failure."""
    if not result:
        raise windows_error(name, error)
    return result


def fail_on_invalid_handle(name: str, result: Any, error: int) -> int:
    """For functions that return INVALID_HANDLE_VALUE on failure (such as CreateFileW)."""
    if result is None or result == INVALID_HANDLE_VALUE:
        raise windows_error(name, error)
    return int(result)


def handle_or_none(name: str, result: Any, error: int) -> int:
    """For functions that return NULL on failure (OpenProcess, CreateEventW, OpenSCManagerW)."""
    if not result:
        raise windows_error(name, error)
    return int(result)


def check_ntstatus(name: str, result: Any, error: int) -> int:
    """For ntdll: a negative NTSTATUS is a failure; the `OSError` has the status in hex as a note."""
    status = int(result) & 0xFFFFFFFF
    if status >= 0x80000000:
        code = int(_RtlNtStatusToDosError(status))
        problem = windows_error(name, code)
        problem.add_note(f"NTSTATUS 0x{status:08X}")
        raise problem
    return status


def never_fails(name: str, result: Any, error: int) -> Any:
    """The raw result; for functions that cannot fail, and for callers that check the result themselves."""
    return result


# https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-rtlntstatustodoserror
# ULONG RtlNtStatusToDosError(NTSTATUS Status);
_RtlNtStatusToDosError = bind(ntdll, "RtlNtStatusToDosError", DWORD, (DWORD,), never_fails)
