"""A driver's device: opening it, requests, and the events that the driver sets."""

import ctypes
import threading

from . import kernel
from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, kernel32
from .handles import Handle

__all__ = ["Connection", "Device"]

_FILE_SHARE_READ_WRITE = 3

# https://learn.microsoft.com/windows/win32/api/ioapiset/nf-ioapiset-deviceiocontrol
# BOOL DeviceIoControl(HANDLE device, DWORD code, LPVOID input, DWORD input_bytes, LPVOID output, DWORD output_bytes,
#                      LPDWORD returned, LPOVERLAPPED overlapped);
_DeviceIoControl = bind(
    kernel32,
    "DeviceIoControl",
    BOOL,
    (HANDLE, DWORD, ctypes.c_char_p, DWORD, ctypes.c_void_p, DWORD, ctypes.POINTER(DWORD), ctypes.c_void_p),
    fail_on_zero,
)


class Device:
    r"""An open device. Thread-safe; requests of one Device run one after the other.

    Windows would serialise them anyway, since the handle is synchronous. The lock is for `close`: no request may use a
    handle value that Windows has given to another object. A request that stays pending blocks all others of its Device:
    use a separate Device for each such request.

    Raises: OSError when the device cannot be opened.
    """

    def __init__(self, path: str, *, write: bool = True) -> None:
        self.path = path
        access = kernel.GENERIC_READ | (kernel.GENERIC_WRITE if write else 0)
        self._lock = threading.Lock()
        self._handle = Handle(kernel.open_existing(path, access, _FILE_SHARE_READ_WRITE))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}{' (closed)' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """`close` has been called."""
        return self._handle.closed

    def request(self, code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        """Send one request and read its reply, of at most `reply_bytes`.

        Raises: OSError with the driver's error; ValueError when the device is closed.
        """
        reply, returned = ctypes.create_string_buffer(max(reply_bytes, 1)), DWORD()
        with self._lock:
            _DeviceIoControl(int(self._handle), code, data, len(data), reply, reply_bytes, ctypes.byref(returned), None)
        return ctypes.string_at(reply, min(returned.value, reply_bytes))

    def close(self) -> None:
        """Close it. Idempotent."""
        with self._lock:
            self._handle.close()


class Connection(Device):
    """A controller's device, with the event that the driver sets and a second event that ends a wait.

    `close` closes the device alone: another thread may still wait for the events. Each `Handle` of an event closes it
    when the last reference to it goes.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._events = [kernel.create_event(), kernel.create_event()]

    @property
    def event(self) -> int:
        """The handle value to register."""
        return int(self._events[0])

    def wait(self, timeout: float) -> bool:
        """Wait until the driver set the event, or `wake` was called; False after `timeout` seconds."""
        return kernel.wait_any(self._events, max(0, round(timeout * 1000))) is not None

    def wake(self) -> None:
        """End a `wait` in another thread, or the next one."""
        kernel.set_event(self._events[1])
