"""The console: escape sequences, single keys, and the end of a program with its console."""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_void_p
from typing import TextIO

from ._bind import BOOL, DWORD, HANDLE, bind, fail_on_zero, handle_or_none, kernel32
from .kernel import is_wine

__all__ = ["before_console_ends_us", "enable_escape_sequences", "is_console", "read_key"]

_ENABLE_VIRTUAL_TERMINAL_PROCESSING = 0x4
_KEY_EVENT = 0x1
_CTRL_C_EVENT = 0
_STANDARD_INPUT = 0xFFFFFFF6
_STANDARD = {0: _STANDARD_INPUT, 1: 0xFFFFFFF5, 2: 0xFFFFFFF4}
_POLL_S = 0.02  # seconds between two polls for a key


class _InputRecord(ctypes.Structure):  # INPUT_RECORD of a key; the largest event has these 20 bytes, too
    _fields_ = [
        ("event_type", ctypes.c_uint16),
        ("padding", ctypes.c_uint16),
        ("key_down", ctypes.c_uint32),
        ("repeat_count", ctypes.c_uint16),
        ("virtual_key", ctypes.c_uint16),
        ("scan_code", ctypes.c_uint16),
        ("character", ctypes.c_uint16),
        ("control_keys", ctypes.c_uint32),
    ]


# https://learn.microsoft.com/windows/console/getstdhandle
# HANDLE WINAPI GetStdHandle(DWORD nStdHandle);
_GetStdHandle = bind(kernel32, "GetStdHandle", HANDLE, (DWORD,), handle_or_none)

# https://learn.microsoft.com/windows/console/getconsolemode
# BOOL WINAPI GetConsoleMode(HANDLE hConsoleHandle, LPDWORD lpMode);
_GetConsoleMode = bind(kernel32, "GetConsoleMode", BOOL, (HANDLE, c_void_p), fail_on_zero)

# https://learn.microsoft.com/windows/console/setconsolemode
# BOOL WINAPI SetConsoleMode(HANDLE hConsoleHandle, DWORD dwMode);
_SetConsoleMode = bind(kernel32, "SetConsoleMode", BOOL, (HANDLE, DWORD), fail_on_zero)

# https://learn.microsoft.com/windows/console/peekconsoleinput
# BOOL WINAPI PeekConsoleInputW(HANDLE, PINPUT_RECORD lpBuffer, DWORD nLength, LPDWORD lpNumberOfEventsRead);
_PeekConsoleInputW = bind(kernel32, "PeekConsoleInputW", BOOL, (HANDLE, c_void_p, DWORD, c_void_p), fail_on_zero)

# https://learn.microsoft.com/windows/console/readconsoleinput
# BOOL WINAPI ReadConsoleInputW(HANDLE, PINPUT_RECORD lpBuffer, DWORD nLength, LPDWORD lpNumberOfEventsRead);
_ReadConsoleInputW = bind(kernel32, "ReadConsoleInputW", BOOL, (HANDLE, c_void_p, DWORD, c_void_p), fail_on_zero)

# https://learn.microsoft.com/windows/console/handlerroutine
# BOOL WINAPI HandlerRoutine(DWORD dwCtrlType);
if sys.platform == "win32":
    _Handler = ctypes.WINFUNCTYPE(BOOL, DWORD)
else:
    _Handler = ctypes.CFUNCTYPE(BOOL, DWORD)  # so that the module imports

# https://learn.microsoft.com/windows/console/setconsolectrlhandler
# BOOL WINAPI SetConsoleCtrlHandler(PHANDLER_ROUTINE HandlerRoutine, BOOL Add);
_SetConsoleCtrlHandler = bind(kernel32, "SetConsoleCtrlHandler", BOOL, (_Handler, BOOL), fail_on_zero)


@contextmanager
def before_console_ends_us(step: Callable[[], object]) -> Iterator[None]:
    """Call `step` before Windows ends this program, by Ctrl+Break, a closed console window, a log-off or a shutdown.

    Windows calls it in a thread of its own, and ends the program when it has returned, or after some seconds. No other
    code of Python runs then: no ``finally``, and no exit function. Ctrl+C is no such end.
    """
    if sys.platform != "win32":
        yield
        return

    def handle(event: int) -> bool:
        if event != _CTRL_C_EVENT:
            step()
        return False  # the next handler: at last that of Windows, which ends the program

    handler = _Handler(handle)  # kept: Windows calls it until it is removed
    _SetConsoleCtrlHandler(handler, True)
    try:
        yield
    finally:
        _SetConsoleCtrlHandler(handler, False)


def is_console(stream: TextIO | None) -> bool:
    """Whether a person is behind the stream: `isatty`, and on Windows, where NUL has it too, also a console.

    A program without a console, such as one under pythonw.exe, has None for its streams.
    """
    if stream is None:
        return False
    try:
        if not stream.isatty():
            return False
        if sys.platform == "win32":
            _GetConsoleMode(_GetStdHandle(_STANDARD[stream.fileno()]), byref(DWORD()))
    except (OSError, ValueError, KeyError):
        return False
    return True


def enable_escape_sequences(descriptor: int) -> bool:
    """Make the console behind standard output (1) or error (2) interpret escape sequences; True if it does.

    Wine's console passes them to its terminal, but counts them as columns, and so breaks lines too early.
    """
    if sys.platform != "win32" or is_wine():
        return sys.platform != "win32"
    mode = DWORD()
    try:
        console = _GetStdHandle(_STANDARD[descriptor])
        _GetConsoleMode(console, byref(mode))
        _SetConsoleMode(console, mode.value | _ENABLE_VIRTUAL_TERMINAL_PROCESSING)
    except OSError:
        return False  # no console, or one before Windows 10
    return True


def read_key(timeout: float) -> str:
    """Wait up to `timeout` seconds for the next key of the console on standard input; "" if there is none.

    It takes input only during the call. `msvcrt.kbhit` does not work on Wine, whose console reads its terminal only
    after a peek. Raises: OSError if standard input is no console.
    """
    console, record, count = _GetStdHandle(_STANDARD_INPUT), _InputRecord(), DWORD()
    end = time.monotonic() + timeout
    while True:
        _PeekConsoleInputW(console, byref(record), 1, byref(count))
        if count.value:
            _ReadConsoleInputW(console, byref(record), 1, byref(count))
            if record.event_type == _KEY_EVENT and record.key_down and record.character:
                return chr(record.character)
        elif time.monotonic() >= end:
            return ""
        else:
            time.sleep(_POLL_S)
