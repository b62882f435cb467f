r"""The Windows event log: sources and their events.

A source names a message file in the registry, below
``HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application``. Without one, readers show "The description for Event
ID ... cannot be found". Every Windows has a suitable file: EventCreate.exe has the messages 1 to 1000, and each
message consists only of one insertion string.
https://learn.microsoft.com/windows/win32/eventlog/event-sources
https://learn.microsoft.com/windows-server/administration/windows-commands/eventcreate
"""

import re
import sys
from ctypes import POINTER, c_uint16, c_void_p, c_wchar_p

from ..errors import UnsupportedPlatform
from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, handle_or_none
from .handles import Handle

__all__ = ["ERROR", "INFORMATION", "MAX_CHARACTERS", "WARNING", "EventSource", "add_source", "remove_source"]

ERROR, WARNING, INFORMATION = 1, 2, 4

MAX_CHARACTERS = 31_839
"""Of one insertion string: the limit of ReportEventW, which counts UTF-16 units, two for a character above U+FFFF."""

# Readers replace %1, %%1, %{...} in an insertion string, too, again and again; there is no escape for them.
# https://learn.microsoft.com/openspecs/windows_protocols/ms-even/d76e867d-96dc-4c09-b747-b1dde1acc5a4
_INSERTION = re.compile(r"%(?=[\d%{])")

_SOURCES = r"SYSTEM\CurrentControlSet\Services\EventLog\Application"
_MESSAGE_FILE = r"%SystemRoot%\System32\EventCreate.exe"
_ALL_TYPES = ERROR | WARNING | INFORMATION

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-registereventsourcew
# HANDLE RegisterEventSourceW(LPCWSTR server, LPCWSTR source);
_RegisterEventSourceW = bind(advapi32, "RegisterEventSourceW", HANDLE, (c_wchar_p, c_wchar_p), handle_or_none)

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-deregistereventsource
# BOOL DeregisterEventSource(HANDLE source);
_DeregisterEventSource = bind(advapi32, "DeregisterEventSource", BOOL, (HANDLE,), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-reporteventw
# BOOL ReportEventW(HANDLE source, WORD type, WORD category, DWORD id, PSID user, WORD string_count, DWORD data_bytes,
#                   LPCWSTR *strings, LPVOID data);
_ReportEventW = bind(
    advapi32,
    "ReportEventW",
    BOOL,
    (HANDLE, c_uint16, c_uint16, DWORD, c_void_p, c_uint16, DWORD, POINTER(c_wchar_p), c_void_p),
    fail_on_zero,
)


class EventSource(Handle):
    """An open source; its name needs no entry in the registry. Raises: OSError."""

    _close = staticmethod(_DeregisterEventSource)
    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(_RegisterEventSourceW(None, name))

    def report(self, kind: int, event: int, text: str) -> None:
        r"""Write one event with one insertion string, which ends at its first NUL and at `MAX_CHARACTERS`.

        A ``%`` that a reader would expand is written as ``\x25``.

        Raises: OSError; ValueError after `close`.
        """
        text = _INSERTION.sub(r"\\x25", text)
        units = text.encode("utf-16-le", "surrogatepass")
        if len(units) > 2 * MAX_CHARACTERS:
            text = units[: 2 * MAX_CHARACTERS].decode("utf-16-le", "ignore")  # without half a character at the end
        strings = (c_wchar_p * 1)(text)
        _ReportEventW(int(self), kind, 0, event, None, 1, 0, strings, None)


def add_source(name: str) -> None:
    """Register a source of the Application log with its message file. Needs an administrator. Idempotent.

    Raises: OSError; UnsupportedPlatform off Windows.
    """
    if sys.platform != "win32":
        raise UnsupportedPlatform(f"sources of the event log need Windows, this is {sys.platform}")
    import winreg

    with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, rf"{_SOURCES}\{name}") as key:
        winreg.SetValueEx(key, "EventMessageFile", 0, winreg.REG_EXPAND_SZ, _MESSAGE_FILE)
        winreg.SetValueEx(key, "TypesSupported", 0, winreg.REG_DWORD, _ALL_TYPES)


def remove_source(name: str) -> None:
    """Remove the source that `add_source` registered; a missing one is no error.

    Raises: OSError; UnsupportedPlatform off Windows.
    """
    if sys.platform != "win32":
        raise UnsupportedPlatform(f"sources of the event log need Windows, this is {sys.platform}")
    import winreg

    try:
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, rf"{_SOURCES}\{name}")
    except FileNotFoundError:
        return
