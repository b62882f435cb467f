"""The Windows debug API: one thread's debug object, its events, and one wait for events and wake-ups.

Only the thread that made a `DebugPort` may use it, except for `DebugPort.wake`: Windows ties the object to a thread.
"""

import ctypes
from functools import cache
from typing import Final

from ..errors import UnsupportedPlatform
from . import nt
from ._bind import BOOL, DWORD, HANDLE, bind, check_ntstatus, fail_on_zero, kernel32, never_fails, ntdll, windows_error
from .codes import ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, ERROR_SEM_TIMEOUT
from .handles import Handle
from .kernel import INFINITE, PROCESS_QUERY_INFORMATION, WaitSet, create_event, open_process, set_event

__all__ = [
    "CREATE_PROCESS",
    "DEBUG_PROCESS",
    "DISPATCHER",
    "EXCEPTION",
    "EXIT_PROCESS",
    "LOAD_DLL",
    "OUTPUT_STRING",
    "DebugEvent",
    "DebugPort",
    "is_break_in",
    "is_raised_by_kernel",
]

DEBUG_PROCESS: Final = 0x1
"""Creation flag: debug the new process and its descendants, at any depth."""

EXCEPTION: Final = 1
CREATE_PROCESS: Final = 3
EXIT_PROCESS: Final = 5
LOAD_DLL: Final = 6
OUTPUT_STRING: Final = 8

_DBG_CONTINUE = 0x00010002
_DBG_EXCEPTION_NOT_HANDLED = 0x80010001
_POLL_MS = 10

# ---------------------------------------------------------------------------------------------------------- structures
# https://learn.microsoft.com/windows/win32/api/minwinbase/ns-minwinbase-debug_event


class ExceptionInfo(ctypes.Structure):
    """EXCEPTION_DEBUG_INFO, with the fields of its EXCEPTION_RECORD."""

    _fields_ = [
        ("code", DWORD),
        ("flags", DWORD),
        ("inner", ctypes.c_void_p),
        ("address", ctypes.c_void_p),
        ("parameter_count", DWORD),
        ("parameters", ctypes.c_size_t * 15),
        ("first_chance", DWORD),
    ]
    code: int
    address: int | None
    first_chance: int


class CreateProcessInfo(ctypes.Structure):
    """CREATE_PROCESS_DEBUG_INFO. The receiver closes the file handle; the system closes process and thread."""

    _fields_ = [
        ("file", HANDLE),
        ("process", HANDLE),
        ("thread", HANDLE),
        ("image_base", ctypes.c_void_p),
        ("debug_info_offset", DWORD),
        ("debug_info_size", DWORD),
        ("thread_local_base", ctypes.c_void_p),
        ("start_address", ctypes.c_void_p),
        ("image_name", ctypes.c_void_p),
        ("unicode", ctypes.c_uint16),
    ]
    file: int | None
    process: int
    image_base: int | None


class LoadDllInfo(ctypes.Structure):
    """LOAD_DLL_DEBUG_INFO. The receiver closes the file handle."""

    _fields_ = [
        ("file", HANDLE),
        ("base", ctypes.c_void_p),
        ("debug_info_offset", DWORD),
        ("debug_info_size", DWORD),
        ("image_name", ctypes.c_void_p),
        ("unicode", ctypes.c_uint16),
    ]
    file: int | None
    base: int | None


class _Details(ctypes.Union):
    _fields_ = [
        ("exception", ExceptionInfo),
        ("create_process", CreateProcessInfo),
        ("exit_status", DWORD),
        ("load_dll", LoadDllInfo),
    ]


class DebugEvent(ctypes.Structure):
    """DEBUG_EVENT: an event, its process and its thread. Only the member that `code` names is valid."""

    _anonymous_ = ("details",)
    _fields_ = [("code", DWORD), ("pid", DWORD), ("tid", DWORD), ("details", _Details)]
    code: int
    pid: int
    tid: int
    exception: ExceptionInfo
    create_process: CreateProcessInfo
    exit_status: int
    load_dll: LoadDllInfo


# ---------------------------------------------------------------------------------------------------------- prototypes


def _refused_if_debugged(name: str, result: int, error: int) -> None:
    """Error 87 means STATUS_PORT_ALREADY_SET here, not a missing process: the caller has the process open."""
    if not result:
        raise windows_error(name, ERROR_ACCESS_DENIED if error == ERROR_INVALID_PARAMETER else error)


def _false_on_timeout(name: str, result: int, error: int) -> bool:
    if not result and error != ERROR_SEM_TIMEOUT:
        raise windows_error(name, error)
    return bool(result)


_EVENT_POINTER = ctypes.POINTER(DebugEvent)
DISPATCHER = "KiRaiseUserExceptionDispatcher"
_DISPATCHER_BYTES = 0x100  # the function is some 70 bytes long
_BREAKPOINT_BYTES = 8  # DbgBreakPoint is a breakpoint and a return

# https://learn.microsoft.com/windows/win32/api/debugapi/nf-debugapi-waitfordebugevent
# BOOL WaitForDebugEvent(LPDEBUG_EVENT lpDebugEvent, DWORD dwMilliseconds);
# WaitForDebugEventEx, since Windows 10, differs only in the text of OutputDebugString, which is not read here.
_WaitForDebugEvent = bind(kernel32, "WaitForDebugEvent", BOOL, (_EVENT_POINTER, DWORD), _false_on_timeout)

# https://learn.microsoft.com/windows/win32/api/debugapi/nf-debugapi-continuedebugevent
# BOOL ContinueDebugEvent(DWORD dwProcessId, DWORD dwThreadId, DWORD dwContinueStatus);
_ContinueDebugEvent = bind(kernel32, "ContinueDebugEvent", BOOL, (DWORD, DWORD, DWORD), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/debugapi/nf-debugapi-debugactiveprocess
# BOOL DebugActiveProcess(DWORD dwProcessId);
_DebugActiveProcess = bind(kernel32, "DebugActiveProcess", BOOL, (DWORD,), _refused_if_debugged)

# https://learn.microsoft.com/windows/win32/api/debugapi/nf-debugapi-debugactiveprocessstop
# BOOL DebugActiveProcessStop(DWORD dwProcessId);
_DebugActiveProcessStop = bind(kernel32, "DebugActiveProcessStop", BOOL, (DWORD,), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-debugsetprocesskillonexit
# BOOL DebugSetProcessKillOnExit(BOOL KillOnExit);
_DebugSetProcessKillOnExit = bind(kernel32, "DebugSetProcessKillOnExit", BOOL, (BOOL,), fail_on_zero)

# NTSTATUS NtSetInformationProcess(HANDLE, PROCESSINFOCLASS, PVOID, ULONG) is undocumented; its ProcessDebugFlags are a
# ULONG; with bit 0 children inherit the debugger. Without it, a debugger that attaches does not get the children.
_NtSetInformationProcess = bind(
    ntdll,
    "NtSetInformationProcess",
    ctypes.c_int32,
    (HANDLE, ctypes.c_int32, ctypes.c_void_p, DWORD),
    check_ntstatus,
)
_PROCESS_SET_INFORMATION = 0x0200

# The next three are exported since Windows XP and undocumented: NTSTATUS DbgUiConnectToDbg(void) gives the calling
# thread its debug object, HANDLE DbgUiGetThreadDebugObject(void) and void DbgUiSetThreadDebugObject(HANDLE) are its
# accessors. The object is signalled while an event waits in it.
_DbgUiConnectToDbg = bind(ntdll, "DbgUiConnectToDbg", ctypes.c_int32, (), check_ntstatus)
_DbgUiGetThreadDebugObject = bind(ntdll, "DbgUiGetThreadDebugObject", HANDLE, (), never_fails)
_DbgUiSetThreadDebugObject = bind(ntdll, "DbgUiSetThreadDebugObject", None, (HANDLE,), never_fails)


@cache
def _our_address(name: str) -> int:
    """Address in this process of a function of ntdll; 0 if there is none.

    Until its next start, Windows loads ntdll at one address in all processes of the same bitness.
    """
    try:
        return ctypes.cast(ntdll.function(name), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


def is_break_in(address: int | None) -> bool:
    """Whether a breakpoint at this address is that of the thread with which a debugger breaks into a process.

    The thread calls ntdll's DbgBreakPoint: that of the debugger's bitness, because the debugger starts it.
    """
    begin = _our_address("DbgBreakPoint")
    return address is not None and begin != 0 and begin <= address < begin + _BREAKPOINT_BYTES


def is_raised_by_kernel(address: int | None, narrow_dispatcher: int = 0) -> bool:
    """Whether the kernel raised an exception at this address on a return from a call, and not the program.

    The exceptions of a program have the address of `RaiseException`. `narrow_dispatcher`: the address of the function
    in the 32-bit ntdll of a 32-bit process under a 64-bit debugger, if known.
    """
    begins = (_our_address(DISPATCHER), narrow_dispatcher)
    return address is not None and any(begin and begin <= address < begin + _DISPATCHER_BYTES for begin in begins)


def _let_children_inherit(process: Handle) -> None:
    flags = DWORD(1)
    cannot = UnsupportedPlatform(
        "the children of an attached process do not inherit the debugger here (on Wine, say);"
        " start the command with DebugGate.run instead"
    )
    try:
        _NtSetInformationProcess(int(process), nt.PROCESS_DEBUG_FLAGS, ctypes.byref(flags), 4)
        nt.query_process(process, nt.PROCESS_DEBUG_FLAGS, ctypes.byref(flags), 4)
    except OSError as error:
        raise cannot from error
    if not flags.value & 1:
        raise cannot


class DebugPort:
    """The calling thread's debug object, with a wake-up for other threads.

    With `polling` it polls for events every 10 ms instead of waiting for the debug object and the wake-up together.
    It also polls when ntdll does not export the debug object.
    """

    def __init__(self, polling: bool = False) -> None:
        self._wake = create_event()
        self._event = DebugEvent()
        self._object: Handle | None = None
        if not polling:
            try:
                _DbgUiConnectToDbg()
                self._object = Handle(_DbgUiGetThreadDebugObject())
            except AttributeError:  # an ntdll without these exports
                pass
        self._both = None if self._object is None else WaitSet((self._wake, self._object))

    @property
    def polling(self) -> bool:
        """It polls for events every 10 ms instead of waiting for them."""
        return self._both is None

    def outlive_us(self) -> None:
        """Let the debugged processes live on, undebugged, when this process or thread ends. Windows' default is to
        kill them. Call it after the first process was started or attached."""
        _DebugSetProcessKillOnExit(False)

    def wake(self) -> None:
        """Make `wait` return. Thread-safe."""
        set_event(self._wake)

    def wait(self, timeout_ms: int | None = None) -> DebugEvent | None:
        """Wait for the next event; None when `wake` was called or the time is over (or, rarely, for no reason).

        The next call overwrites the event. It stays open, and its process frozen, until `resume`.
        """
        limit = INFINITE if timeout_ms is None else min(timeout_ms, INFINITE - 1)
        if self._both is None:
            return self._event if _WaitForDebugEvent(self._event, min(limit, _POLL_MS)) else None
        if self._both.wait(limit) == 1 and _WaitForDebugEvent(self._event, 0):
            return self._event
        return None

    def poll(self) -> DebugEvent | None:
        """Return the next event if there is one already."""
        return self._event if _WaitForDebugEvent(self._event, 0) else None

    def resume(self, pid: int, tid: int, handled: bool = True) -> None:
        """Continue the event of this thread. `handled` False passes an exception on to the program."""
        _ContinueDebugEvent(pid, tid, _DBG_CONTINUE if handled else _DBG_EXCEPTION_NOT_HANDLED)

    def attach(self, pid: int) -> None:
        """Debug a running process, and its descendants that start from now on.

        Raises: OSError; UnsupportedPlatform where children cannot inherit the debugger (Wine).
        """
        with open_process(pid, _PROCESS_SET_INFORMATION | PROCESS_QUERY_INFORMATION) as process:
            _DebugActiveProcess(pid)
            try:
                _let_children_inherit(process)
            except BaseException:
                self.outlive_us()
                self.detach(pid)
                raise

    def detach(self, pid: int) -> None:
        """Stop debugging the process; it goes on."""
        _DebugActiveProcessStop(pid)

    def close(self) -> None:
        """Close the debug object. Processes still debugged go on if `outlive_us` was called."""
        if self._object is not None:
            _DbgUiSetThreadDebugObject(None)
            self._object.close()
        self._wake.close()
