"""The Windows error codes that procmon tells apart, and the code of a failed call."""

from typing import Final

__all__ = [
    "ERROR_ACCESS_DENIED",
    "ERROR_CALL_NOT_IMPLEMENTED",
    "ERROR_FAILED_SERVICE_CONTROLLER_CONNECT",
    "ERROR_FILE_NOT_FOUND",
    "ERROR_INSUFFICIENT_BUFFER",
    "ERROR_INVALID_PARAMETER",
    "ERROR_NOT_SUPPORTED",
    "ERROR_SEM_TIMEOUT",
    "ERROR_SERVICE_ALREADY_RUNNING",
    "ERROR_SERVICE_DOES_NOT_EXIST",
    "ERROR_SERVICE_EXISTS",
    "ERROR_SERVICE_MARKED_FOR_DELETE",
    "ERROR_SERVICE_NOT_ACTIVE",
    "ERROR_SERVICE_REQUEST_TIMEOUT",
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
ERROR_SERVICE_REQUEST_TIMEOUT: Final = 1053
ERROR_SERVICE_ALREADY_RUNNING: Final = 1056
ERROR_SERVICE_DOES_NOT_EXIST: Final = 1060
ERROR_SERVICE_NOT_ACTIVE: Final = 1062
ERROR_FAILED_SERVICE_CONTROLLER_CONNECT: Final = 1063
ERROR_SERVICE_MARKED_FOR_DELETE: Final = 1072
ERROR_SERVICE_EXISTS: Final = 1073


def code_of(error: OSError) -> int:
    """The Windows error code of a failed call."""
    return int(getattr(error, "winerror", None) or error.errno or 0)
