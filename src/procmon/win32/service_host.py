"""The process' side of a Windows service: it connects to the service control manager and reports its state.

Threads: the caller's thread becomes the dispatcher and stays in StartServiceCtrlDispatcherW until the service has
stopped. Windows calls the handler on that thread, and ``ServiceMain``, which runs the body, on another thread. The
handler only sets an event and a state, so the dispatcher is always free for the next control.
https://learn.microsoft.com/windows/win32/services/service-control-handler-function
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from ctypes import POINTER, byref, c_void_p, c_wchar_p

from ..errors import UnsupportedPlatform
from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, handle_or_none
from .scm import RUNNING, START_PENDING, STOP_PENDING, STOPPED, ServiceStatus

__all__ = ["Body", "serve"]

Body = Callable[[Callable[[], None], threading.Event], int]
"""``body(ready, stop)`` runs until the event ``stop`` is set. It calls ``ready()`` once the service is ready, and
returns the exit code of the service, 0 for success."""

_WIN32_OWN_PROCESS = 0x10
_ACCEPT_STOP, _ACCEPT_SHUTDOWN = 0x1, 0x4
_CONTROL_STOP, _CONTROL_INTERROGATE, _CONTROL_SHUTDOWN = 1, 4, 5
_NO_ERROR, _CALL_NOT_IMPLEMENTED, _SERVICE_SPECIFIC_ERROR = 0, 120, 1066

_WAIT_HINT_MS = 30_000
"""How long the manager waits for the next report while the service starts or stops."""

if sys.platform == "win32":
    _FUNCTION = ctypes.WINFUNCTYPE
else:
    _FUNCTION = ctypes.CFUNCTYPE  # so that the module imports; no service ever runs there

# VOID ServiceMain(DWORD argument_count, LPWSTR *arguments);
_ServiceMain = _FUNCTION(None, DWORD, c_void_p)

# DWORD HandlerEx(DWORD control, DWORD event_type, LPVOID event_data, LPVOID context);
_HandlerEx = _FUNCTION(DWORD, DWORD, DWORD, c_void_p, c_void_p)


class _Entry(ctypes.Structure):  # SERVICE_TABLE_ENTRYW
    _fields_ = (("name", c_wchar_p), ("main", _ServiceMain))


# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-startservicectrldispatcherw
# BOOL StartServiceCtrlDispatcherW(const SERVICE_TABLE_ENTRYW *table);   1063 when the manager did not start us
_StartServiceCtrlDispatcherW = bind(advapi32, "StartServiceCtrlDispatcherW", BOOL, (POINTER(_Entry),), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-registerservicectrlhandlerexw
# SERVICE_STATUS_HANDLE RegisterServiceCtrlHandlerExW(LPCWSTR name, LPHANDLER_FUNCTION_EX handler, LPVOID context);
_RegisterServiceCtrlHandlerExW = bind(
    advapi32, "RegisterServiceCtrlHandlerExW", HANDLE, (c_wchar_p, _HandlerEx, c_void_p), handle_or_none
)  # the handle needs no closing

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-setservicestatus
# BOOL SetServiceStatus(SERVICE_STATUS_HANDLE status, LPSERVICE_STATUS values);
_SetServiceStatus = bind(advapi32, "SetServiceStatus", BOOL, (HANDLE, POINTER(ServiceStatus)), fail_on_zero)


def serve(name: str, body: Body) -> None:
    """Run this process as the service `name`, for which the manager has started it; returns when it has stopped.

    An exception of the body is raised here, after the report to the manager that the service stopped with an error,
    or just that it stopped when the manager had asked for it.

    Raises: OSError: 1063 when the manager did not start the process; UnsupportedPlatform off Windows.
    """
    if sys.platform != "win32":
        raise UnsupportedPlatform(f"a service needs Windows, this is {sys.platform}")
    host = _Host(name, body)
    table = (_Entry * 2)(_Entry(name, host.main), _Entry(None, _ServiceMain()))
    _StartServiceCtrlDispatcherW(table)
    if host.error is not None:
        raise host.error


class _Host:
    """One service. A lock guards the state and its reports: handler and body are two threads."""

    def __init__(self, name: str, body: Body) -> None:
        self.error: BaseException | None = None
        self.main = _ServiceMain(self._main)  # kept: Windows calls both callbacks as long as the service lives
        self._handler = _HandlerEx(self._control)
        self._name = name
        self._body = body
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._state = START_PENDING
        self._check_point = 0
        self._handle = 0

    def _main(self, count: int, arguments: int) -> None:
        code = 1
        try:
            self._handle = _RegisterServiceCtrlHandlerExW(self._name, self._handler, None)
            self._report(START_PENDING)
            code = self._body(self._ready, self._stop)
        except BaseException as error:  # an exception cannot leave a callback of ctypes: `serve` raises it
            self.error = error
        finally:
            if self._handle:  # a service that was told to stop is not to be restarted, even if its end failed
                self._report(STOPPED, 0 if self._stop.is_set() else code)

    def _ready(self) -> None:
        self._report(RUNNING)

    def _control(self, control: int, kind: int, data: int, context: int) -> int:
        if control in (_CONTROL_STOP, _CONTROL_SHUTDOWN):
            try:
                self._report(STOP_PENDING)
            finally:
                self._stop.set()  # a report that fails must not keep the service from stopping
        return (
            _NO_ERROR if control in (_CONTROL_STOP, _CONTROL_SHUTDOWN, _CONTROL_INTERROGATE) else _CALL_NOT_IMPLEMENTED
        )

    def _report(self, state: int, code: int = 0) -> None:
        """Report a state. A service that is stopping, or has stopped, never goes back to an earlier one."""
        order = (START_PENDING, RUNNING, STOP_PENDING, STOPPED)
        with self._lock:
            if order.index(state) < order.index(self._state):
                return
            self._state = state
            pending = state in (START_PENDING, STOP_PENDING)
            self._check_point = self._check_point + 1 if pending else 0
            values = ServiceStatus(
                service_type=_WIN32_OWN_PROCESS,
                current_state=state,
                controls_accepted=_ACCEPT_STOP | _ACCEPT_SHUTDOWN if state in (RUNNING, START_PENDING) else 0,
                win32_exit_code=_SERVICE_SPECIFIC_ERROR if code else _NO_ERROR,
                service_specific_exit_code=code,
                check_point=self._check_point,
                wait_hint=_WAIT_HINT_MS if pending else 0,
            )
            _SetServiceStatus(self._handle, byref(values))
