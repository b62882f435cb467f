"""The base of every Windows call, without Windows: binding, error rules, handle owners."""

import ast
import ctypes
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import pytest

import procmon
from procmon import ProcessFlags
from procmon.system.describe import describe
from procmon.win32 import _bind, debug, device, kernel, process, scm, service_host, token
from procmon.win32.codes import code_of
from procmon.win32.console import is_console
from procmon.win32.handles import Handle, ServiceHandle

VOLUME = "\\\\?\\Volume{7603f260-142a-11d4-ac67-806d6172696f}"
SOURCE = Path(procmon.__file__).parents[1]


class Counted(Handle):
    """Closes nothing, and counts the calls."""

    closed_values: ClassVar[list[int]] = []
    _close = staticmethod(closed_values.append)
    __slots__ = ()


@pytest.fixture(autouse=True)
def nothing_closed_yet() -> None:
    Counted.closed_values.clear()


def test_a_handle_is_closed_once_however_often_it_is_closed() -> None:
    with Counted(0x44) as handle:
        assert (int(handle), handle.closed, repr(handle)) == (0x44, False, "<Counted 0x44>")
        handle.close()
        handle.close()
    assert Counted.closed_values == [0x44]
    assert (handle.closed, repr(handle)) == (True, "<Counted closed>")
    with pytest.raises(ValueError, match="the handle is closed"):
        int(handle)


def test_a_handle_that_is_dropped_is_closed() -> None:
    Counted(0x48)
    gc.collect()
    assert Counted.closed_values == [0x48]


def test_a_handle_whose_close_fails_counts_as_closed() -> None:
    class Failing(Handle):
        __slots__ = ()

        @staticmethod
        def _close(value: int) -> None:
            raise OSError(6, "CloseHandle: invalid handle")

    handle = Failing(0x4C)
    with pytest.raises(OSError, match="CloseHandle"):
        handle.close()
    handle.close()
    assert handle.closed


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (_bind.fail_on_zero, 0, 1),
        (_bind.fail_on_invalid_handle, _bind.INVALID_HANDLE_VALUE, 0x44),
        (_bind.fail_on_invalid_handle, None, 0x44),
        (_bind.handle_or_none, None, 0x44),
        (_bind.handle_or_none, 0, 0x44),
    ],
)
def test_each_error_rule_passes_success_on_and_names_the_function_that_failed(
    rule: _bind.ErrorRule, bad: object, good: object
) -> None:
    assert rule("CreateFileW", good, 0) == good
    with pytest.raises(OSError, match="CreateFileW") as caught:
        rule("CreateFileW", bad, 5)
    assert code_of(caught.value) == 5


def test_invalid_handle_value_is_all_ones() -> None:
    assert 2 ** (8 * ctypes.sizeof(ctypes.c_void_p)) - 1 == _bind.INVALID_HANDLE_VALUE


def test_importing_the_package_loads_no_dll() -> None:
    code = (
        "import ctypes, procmon, procmon.win32._bind as bind\n"
        "libraries = [thing for thing in vars(bind).values() if isinstance(thing, bind.Library)]\n"
        "assert len(libraries) >= 3\n"
        "print([repr(one) for one in libraries if 'not loaded' not in repr(one)])\n"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=SOURCE, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_windows_function_says_where_it_needs_windows() -> None:
    calls: list[Callable[[], object]] = [
        kernel.create_event, lambda: scm.query("ProcMonGate"), lambda: device.Device(r"\\.\ProcMonGate")
    ]  # fmt: skip
    for call in calls:
        if sys.platform == "win32":
            try:
                call()
            except OSError as error:
                assert code_of(error) in (2, 1060)
        else:
            with pytest.raises(
                procmon.UnsupportedPlatform, match="this needs Windows, for its .*; on .* use procmon.SimulatedGate"
            ):
                call()


def test_a_token_is_asked_for_its_elevation_in_the_size_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows may return ERROR_BAD_LENGTH for any other size of a fixed-size result, also for 0."""

    def answer(handle: int, kind: int, into: object, size: int, needed: object) -> None:
        assert (handle, kind, size) == (0x44, 20, 4)
        into._obj.value = 1  # type: ignore[attr-defined]

    monkeypatch.setattr(token, "_GetTokenInformation", answer)
    assert token.is_elevated(0x44) is True


def test_a_token_that_grows_between_two_questions_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([8, 12, 16, 16])

    def answer(handle: int, kind: int, into: ctypes.Array[ctypes.c_char], size: int, needed: ctypes.c_uint32) -> None:
        needed.value = next(sizes)
        if needed.value <= size:
            into.value = b"whole"

    monkeypatch.setattr(token, "_GetTokenInformation", answer)
    assert token._information(0x44, 1).value == b"whole"
    sizes = iter(range(1, 100))
    with pytest.raises(OSError, match="grew with each question"):
        token._information(0x44, 1)


def test_room_is_made_for_a_longer_path_when_windows_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path, room = "\\\\?\\C:\\" + "d" * 600, []

    def answer(handle: int, flags: int, text: ctypes.Array[ctypes.c_wchar], size: ctypes.c_uint32) -> None:
        room.append(size.value)
        if size.value <= len(path):
            raise OSError(122, "QueryFullProcessImageNameW")
        text.value, size.value = path, len(path)

    monkeypatch.setattr(process, "_QueryFullProcessImageNameW", answer)
    assert process.image_path(0x44) == path[4:]
    assert room == [512, 32768]


def test_a_nul_in_a_path_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "C:\\Tools\\A.exe\0.txt"

    def answer(handle: int, flags: int, text: ctypes.Array[ctypes.c_wchar], size: ctypes.c_uint32) -> None:
        text[: len(path)] = list(path)
        size.value = len(path)

    monkeypatch.setattr(process, "_QueryFullProcessImageNameW", answer)
    assert process.image_path(0x44) == path


@pytest.mark.parametrize(
    ("path", "dos"),
    [
        ("\\\\?\\D:\\a.exe", "D:\\a.exe"),
        ("\\\\?\\UNC\\server\\a.exe", "\\\\server\\a.exe"),
        (VOLUME + "\\dir\\a.exe", None),
    ],
)
def test_a_file_on_a_volume_without_a_letter_has_only_its_native_path(
    monkeypatch: pytest.MonkeyPatch, path: str, dos: str | None
) -> None:
    native = "\\Device\\HarddiskVolume7\\dir\\a.exe"

    def answer(handle: int, flags: int, text: ctypes.Array[ctypes.c_wchar], size: ctypes.c_uint32) -> None:
        text.value, size.value = path, len(path)

    monkeypatch.setattr(process, "_QueryFullProcessImageNameW", answer)
    monkeypatch.setattr(process, "native_image_path", lambda handle: native)
    monkeypatch.setattr(process, "created_at", lambda handle: 1)
    assert process.dos_or_native_path(0x44) == (dos or native)
    record = describe(0x44, 8, basics=process.ProcessBasics(0, 8, 4))
    assert record.image_name == (dos or native).lower() and record.native_name == native
    assert (ProcessFlags.NAME_NATIVE in record.flags) == (dos is None)


def test_every_function_of_windows_is_bound_once() -> None:
    """Two prototypes of one function can differ."""
    homes: dict[str, list[str]] = {}
    for path in (SOURCE / "procmon" / "win32").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("bind"), args=[_, ast.Constant(str(name)), *_]):
                    homes.setdefault(name, []).append(path.stem)
    assert len(homes) > 50
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_half_a_surrogate_pair_is_kept_as_in_the_records_of_the_driver() -> None:
    assert process._decode("a\ud800.exe".encode("utf-16-le", "surrogatepass")) == "a\ud800.exe"


@pytest.mark.parametrize("pid", [-1, 2**32, 2**32 + 4, 2**64])
def test_a_pid_of_more_than_32_bits_is_refused_before_windows_cuts_it(pid: int) -> None:
    with pytest.raises(OSError, match="OpenProcess") as caught:
        kernel.open_process(pid)
    assert code_of(caught.value) == 87


def test_attaching_to_a_process_that_has_a_debugger_is_refused_whatever_windows_calls_it() -> None:
    """NT has its own status for it, which Win32 maps to 87; Wine returns 5."""
    for code, told in ((87, 5), (5, 5), (50, 50)):
        with pytest.raises(OSError, match="DebugActiveProcess") as caught:
            debug._refused_if_debugged("DebugActiveProcess", 0, code)
        assert code_of(caught.value) == told
    debug._refused_if_debugged("DebugActiveProcess", 1, 87)


def test_a_service_stops_though_its_report_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(6, "SetServiceStatus: Windows error 6")

    host = service_host._Host("a service", lambda ready, stop: 0)
    monkeypatch.setattr(service_host, "_SetServiceStatus", fail)
    with pytest.raises(OSError, match="SetServiceStatus"):
        host._control(1, 0, 0, 0)  # SERVICE_CONTROL_STOP
    assert host._stop.is_set()


@pytest.mark.parametrize("told_to_stop", [False, True])
def test_a_service_reports_its_failure_unless_it_was_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, told_to_stop: bool
) -> None:
    """The manager restarts a service that reports a failure."""
    reports: list[tuple[int, int, int]] = []

    def report(_: int, values: ctypes.Array[ctypes.c_char]) -> None:
        status = ctypes.cast(values, ctypes.POINTER(scm.ServiceStatus))[0]
        reports.append((status.current_state, status.win32_exit_code, status.service_specific_exit_code))

    def body(ready: Callable[[], None], stop: threading.Event) -> int:
        if told_to_stop:
            host._control(1, 0, 0, 0)  # SERVICE_CONTROL_STOP
        raise procmon.GateClosed("the driver was stopped")

    monkeypatch.setattr(service_host, "_RegisterServiceCtrlHandlerExW", lambda *_: 8)
    monkeypatch.setattr(service_host, "_SetServiceStatus", report)
    host = service_host._Host("a service", body)
    host._main(0, 0)
    assert isinstance(host.error, procmon.GateClosed)
    assert reports[-1] == ((scm.STOPPED, 0, 0) if told_to_stop else (scm.STOPPED, 1066, 1))


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The first number of each configuration of a service that is made, by its level."""
    levels: dict[int, int] = {}

    def change(_: int, level: int, information: ctypes.Array[ctypes.c_char]) -> None:
        levels[level] = ctypes.cast(information, ctypes.POINTER(ctypes.c_uint32))[0]

    monkeypatch.setattr(scm, "_OpenSCManagerW", lambda *_: 4)
    monkeypatch.setattr(scm, "_CreateServiceW", lambda *_: 8)
    monkeypatch.setattr(scm, "_ChangeServiceConfig2W", change)
    monkeypatch.setattr(ServiceHandle, "_close", staticmethod(lambda handle: None))
    return levels


def test_the_manager_also_restarts_a_service_that_reports_its_failure(configured: dict[int, int]) -> None:
    scm.create_program("a", "A", "a.exe", after="b", description="c")
    assert configured[2] == 86_400 and configured[4] == 1  # SERVICE_CONFIG_FAILURE_ACTIONS, ..._FLAG


@pytest.mark.parametrize(("wine", "code", "refused"), [(True, 124, False), (False, 124, True), (True, 5, True)])
def test_only_wine_may_lack_the_restarts_after_reported_failures(
    configured: dict[int, int], monkeypatch: pytest.MonkeyPatch, wine: bool, code: int, refused: bool
) -> None:
    def change(service: int, level: int, information: object) -> None:
        if level == 4:
            raise _bind.windows_error("ChangeServiceConfig2W", code)

    monkeypatch.setattr(scm, "_ChangeServiceConfig2W", change)
    monkeypatch.setattr(scm, "is_wine", lambda: wine)
    with pytest.raises(OSError, match="ChangeServiceConfig2W") if refused else nullcontext():
        scm.create_program("a", "A", "a.exe", after="b", description="c")


def test_a_program_without_a_console_has_none() -> None:
    """pythonw.exe has None for sys.stdin, sys.stdout and sys.stderr."""
    assert not is_console(None)
