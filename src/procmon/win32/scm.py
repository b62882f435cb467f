"""The part of the service control manager that a driver service needs. Each function opens and closes its handles.

A failure raises `OSError` with the Windows error code; `translate` makes the exceptions that users see.
"""

import ctypes
from ctypes import POINTER, byref, c_void_p, c_wchar_p
from dataclasses import dataclass

from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, handle_or_none
from .codes import ERROR_INVALID_LEVEL, code_of
from .handles import ServiceHandle
from .kernel import is_wine

__all__ = [
    "RUNNING",
    "START_PENDING",
    "STOPPED",
    "STOP_PENDING",
    "ServiceState",
    "ServiceStatus",
    "create",
    "create_program",
    "delete",
    "image_path",
    "query",
    "start",
    "stop",
]

STOPPED, START_PENDING, STOP_PENDING, RUNNING = 1, 2, 3, 4

_SC_MANAGER_CONNECT = 0x0001
_SC_MANAGER_CREATE_SERVICE = 0x0002
_SERVICE_QUERY_CONFIG = 0x0001
_SERVICE_QUERY_STATUS = 0x0004
_SERVICE_START = 0x0010
_SERVICE_STOP = 0x0020
_DELETE = 0x00010000
_SERVICE_CHANGE_CONFIG = 0x0002
_SERVICE_KERNEL_DRIVER = 1
_SERVICE_WIN32_OWN_PROCESS = 0x10
_SERVICE_AUTO_START = 2
_SERVICE_DEMAND_START = 3
_SERVICE_ERROR_NORMAL = 1
_SERVICE_CONTROL_STOP = 1


class ServiceStatus(ctypes.Structure):  # SERVICE_STATUS
    _fields_ = (
        ("service_type", DWORD),
        ("current_state", DWORD),
        ("controls_accepted", DWORD),
        ("win32_exit_code", DWORD),
        ("service_specific_exit_code", DWORD),
        ("check_point", DWORD),
        ("wait_hint", DWORD),
    )


class _ServiceConfig(ctypes.Structure):  # QUERY_SERVICE_CONFIGW
    _fields_ = (
        ("service_type", DWORD),
        ("start_type", DWORD),
        ("error_control", DWORD),
        ("binary_path", c_wchar_p),
        ("load_order_group", c_wchar_p),
        ("tag", DWORD),
        ("dependencies", c_wchar_p),
        ("start_name", c_wchar_p),
        ("display_name", c_wchar_p),
    )


# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-openscmanagerw
# SC_HANDLE OpenSCManagerW(LPCWSTR machine, LPCWSTR database, DWORD access);
_OpenSCManagerW = bind(advapi32, "OpenSCManagerW", HANDLE, (c_wchar_p, c_wchar_p, DWORD), handle_or_none)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-openservicew
# SC_HANDLE OpenServiceW(SC_HANDLE manager, LPCWSTR name, DWORD access);
_OpenServiceW = bind(advapi32, "OpenServiceW", HANDLE, (HANDLE, c_wchar_p, DWORD), handle_or_none)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-createservicew
# SC_HANDLE CreateServiceW(SC_HANDLE manager, LPCWSTR name, LPCWSTR display_name, DWORD access, DWORD type,
#                          DWORD start_type, DWORD error_control, LPCWSTR path, LPCWSTR group, LPDWORD tag,
#                          LPCWSTR dependencies, LPCWSTR account, LPCWSTR password);
_CreateServiceW = bind(
    advapi32,
    "CreateServiceW",
    HANDLE,
    (HANDLE, c_wchar_p, c_wchar_p, DWORD, DWORD, DWORD, DWORD, c_wchar_p, c_wchar_p, c_void_p, c_wchar_p, c_wchar_p,
     c_wchar_p),
    handle_or_none,
)  # fmt: skip

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-startservicew
# BOOL StartServiceW(SC_HANDLE service, DWORD argument_count, LPCWSTR *arguments);
_StartServiceW = bind(advapi32, "StartServiceW", BOOL, (HANDLE, DWORD, c_void_p), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-controlservice
# BOOL ControlService(SC_HANDLE service, DWORD control, LPSERVICE_STATUS status);
_ControlService = bind(advapi32, "ControlService", BOOL, (HANDLE, DWORD, POINTER(ServiceStatus)), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-deleteservice
# BOOL DeleteService(SC_HANDLE service);
_DeleteService = bind(advapi32, "DeleteService", BOOL, (HANDLE,), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-queryservicestatus
# BOOL QueryServiceStatus(SC_HANDLE service, LPSERVICE_STATUS status);
_QueryServiceStatus = bind(advapi32, "QueryServiceStatus", BOOL, (HANDLE, POINTER(ServiceStatus)), fail_on_zero)

# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-queryserviceconfigw
# BOOL QueryServiceConfigW(SC_HANDLE service, LPQUERY_SERVICE_CONFIGW config, DWORD bytes, LPDWORD needed);
_QueryServiceConfigW = bind(
    advapi32, "QueryServiceConfigW", BOOL, (HANDLE, c_void_p, DWORD, POINTER(DWORD)), fail_on_zero
)
# https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-changeserviceconfig2w
# BOOL ChangeServiceConfig2W(SC_HANDLE service, DWORD level, LPVOID information);
_ChangeServiceConfig2W = bind(advapi32, "ChangeServiceConfig2W", BOOL, (HANDLE, DWORD, c_void_p), fail_on_zero)
_DESCRIPTION, _FAILURE_ACTIONS, _FAILURE_ACTIONS_FLAG = 1, 2, 4
_RESTART = 1


class _Description(ctypes.Structure):  # SERVICE_DESCRIPTIONW
    _fields_ = (("text", c_wchar_p),)


class _Action(ctypes.Structure):  # SC_ACTION
    _fields_ = (("type", DWORD), ("delay_ms", DWORD))


class _FailureActions(ctypes.Structure):  # SERVICE_FAILURE_ACTIONSW
    _fields_ = (
        ("reset_period_s", DWORD),
        ("reboot_message", c_wchar_p),
        ("command", c_wchar_p),
        ("count", DWORD),
        ("actions", POINTER(_Action)),
    )


_CONFIG_BYTES = 8192  # "the maximum size of this array is 8K bytes"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of a service."""

    state: int
    """`STOPPED`, `RUNNING` ..."""
    exit_code: int = 0
    """The Windows error with which it last stopped, or failed to start."""


def _manager(access: int = _SC_MANAGER_CONNECT) -> ServiceHandle:
    return ServiceHandle(_OpenSCManagerW(None, None, access))


def _service(name: str, access: int) -> ServiceHandle:
    with _manager() as manager:
        return ServiceHandle(_OpenServiceW(int(manager), name, access))


def create(name: str, display_name: str, path: str) -> None:
    r"""Make a kernel driver service that starts on demand from `path`, ``C:\...\x.sys``. Raises: OSError."""
    with _manager(_SC_MANAGER_CONNECT | _SC_MANAGER_CREATE_SERVICE) as manager:
        service = _CreateServiceW(
            int(manager), name, display_name, _SERVICE_QUERY_STATUS, _SERVICE_KERNEL_DRIVER, _SERVICE_DEMAND_START,
            _SERVICE_ERROR_NORMAL, path, None, None, None, None, None,
        )  # fmt: skip
        ServiceHandle(service).close()


def create_program(name: str, display_name: str, command_line: str, *, after: str, description: str) -> None:
    """Make a service that Windows starts at boot, as LocalSystem, once the service `after` runs.

    When it ends without a report, or reports that it stopped with an error, the manager starts it again: after one
    second, after ten, then after a minute each time. A day without a failure resets the count. By Microsoft's
    documentation restarts after a reported error begin with the next start of the machine. Raises: OSError.
    """
    with _manager(_SC_MANAGER_CONNECT | _SC_MANAGER_CREATE_SERVICE) as manager:
        service = _CreateServiceW(
            int(manager), name, display_name, _SERVICE_CHANGE_CONFIG | _SERVICE_START, _SERVICE_WIN32_OWN_PROCESS,
            _SERVICE_AUTO_START, _SERVICE_ERROR_NORMAL, command_line, None, None,
            ctypes.create_unicode_buffer(after + "\0"), None, None,
        )  # fmt: skip
    with ServiceHandle(service) as made:
        text = _Description(description)
        _ChangeServiceConfig2W(int(made), _DESCRIPTION, byref(text))
        restarts = (_Action * 3)(*(_Action(_RESTART, delay_ms) for delay_ms in (1_000, 10_000, 60_000)))
        actions = _FailureActions(reset_period_s=86_400, count=len(restarts), actions=restarts)
        _ChangeServiceConfig2W(int(made), _FAILURE_ACTIONS, byref(actions))
        try:  # SERVICE_FAILURE_ACTIONS_FLAG: also after a report of SERVICE_STOPPED with an error
            _ChangeServiceConfig2W(int(made), _FAILURE_ACTIONS_FLAG, byref(BOOL(1)))
        except OSError as error:
            if not (is_wine() and code_of(error) == ERROR_INVALID_LEVEL):  # Wine restarts no service
                raise


def start(name: str) -> None:
    """Load the driver; its DriverEntry has succeeded when this returns. Raises: OSError."""
    with _service(name, _SERVICE_START) as service:
        _StartServiceW(int(service), 0, None)


def stop(name: str) -> ServiceState:
    """Request a stop; return the state right after it, which can still be running. Raises: OSError."""
    status = ServiceStatus()
    with _service(name, _SERVICE_STOP) as service:
        _ControlService(int(service), _SERVICE_CONTROL_STOP, byref(status))
    return ServiceState(status.current_state, status.win32_exit_code)


def query(name: str) -> ServiceState:
    """Return its state. Needs no administrator. Raises: OSError 1060 when there is no such service."""
    status = ServiceStatus()
    with _service(name, _SERVICE_QUERY_STATUS) as service:
        _QueryServiceStatus(int(service), byref(status))
    return ServiceState(status.current_state, status.win32_exit_code)


def image_path(name: str) -> str:
    r"""The path of its .sys as the manager stores it (``\??\C:\x.sys`` for a given ``C:\x.sys``). Raises: OSError."""
    buffer, needed = ctypes.create_string_buffer(_CONFIG_BYTES), DWORD()
    with _service(name, _SERVICE_QUERY_CONFIG) as service:
        _QueryServiceConfigW(int(service), buffer, _CONFIG_BYTES, byref(needed))
    return _ServiceConfig.from_buffer(buffer).binary_path or ""


def delete(name: str) -> None:
    """Remove the service; a running one is removed once it has stopped and no handle to it is open. Raises: OSError."""
    with _service(name, _DELETE) as service:
        _DeleteService(int(service))
