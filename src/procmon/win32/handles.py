"""The owner of a Windows handle: closed once, by ``close()``, ``with`` or collection."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from ._bind import BOOL, HANDLE, advapi32, bind, fail_on_zero, kernel32

__all__ = ["Handle", "ServiceHandle"]

# https://learn.microsoft.com/windows/win32/api/handleapi/nf-handleapi-closehandle
# BOOL CloseHandle(HANDLE hObject);
_CloseHandle = bind(kernel32, "CloseHandle", BOOL, (HANDLE,), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-closeservicehandle
# BOOL CloseServiceHandle(SC_HANDLE hSCObject);
_CloseServiceHandle = bind(advapi32, "CloseServiceHandle", BOOL, (HANDLE,), fail_on_zero)


class Handle:
    """Owns one kernel handle.

    ``int(handle)`` is the value for a call. It raises ValueError once the handle is closed: a closed handle, whose
    value Windows may have given to another object, never reaches a call.
    """

    _close: Callable[..., object] = staticmethod(_CloseHandle)
    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: int) -> None:
        self._value: int | None = value

    def __int__(self) -> int:
        if self._value is None:
            raise ValueError("the handle is closed")
        return self._value

    @property
    def closed(self) -> bool:
        """`close` has been called."""
        return self._value is None

    def close(self) -> None:
        """Close it. Idempotent."""
        value, self._value = self._value, None  # marked first: it is closed once, even if CloseHandle fails
        if value is not None:
            type(self)._close(value)

    def release(self) -> int:
        """Give up ownership and return the value. Raises: ValueError when it is closed."""
        value, self._value = int(self), None
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError, TypeError):  # half made, or the interpreter is shutting down
            pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._value is None else hex(self._value)}>"


class ServiceHandle(Handle):
    """Owns one handle of the service control manager."""

    _close = staticmethod(_CloseServiceHandle)
    __slots__ = ()
