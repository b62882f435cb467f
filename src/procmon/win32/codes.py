"""The Windows error codes that procmon tells apart, and the code of a failed call."""

from typing import Final

__all__ = [
    "ERROR_ACCESS_DENIED",
    "ERROR_CALL_NOT_IMPLEMENTED",
    "ERROR_FILE_NOT_FOUND",
    "ERROR_INSUFFICIENT_BUFFER",
    "ERROR_INVALID_PARAMETER",
    "ERROR_NOT_SUPPORTED",
    "ERROR_SEM_TIMEOUT",
    "ERROR_SERVICE_DOES_NOT_EXIST",
    "code_of",
]

# https://learn.microsoft.com/windows/win32/debug/system-error-codes
ERROR_FILE_NOT_FOUND: Final = 2
ERROR_ACCESS_DENIED: Final = 5
ERROR_NOT_SUPPORTED: Final = 50
ERROR_INVALID_PARAMETER: Final = 87
ERROR_CALL_NOT_IMPLEMENTED: Final = 120
ERROR_SEM_TIMEOUT: Final = 121
ERROR_INSUFFICIENT_BUFFER: Final = 122
ERROR_SERVICE_DOES_NOT_EXIST: Final = 1060


def code_of(error: OSError) -> int:
    """The Windows error code of a failed call."""
    return int(getattr(error, "winerror", None) or error.errno or 0)
