"""DriverService against the real service control manager, with the real driver.

Not here: a driver that Windows refuses for its signature (error 577). Wine loads any driver, and a Windows where these
tests run must load this one. The manager below returns the error where Windows would; tests/unit/test_service.py does
the same for every other code.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

import procmon
from patience import PATIENCE
from procmon import DriverService, DriverState
from procmon.driver.info import driver_info
from procmon.win32 import files, kernel, machine, scm
from procmon.win32._bind import windows_error

NOTHING, STOPPED, RUNNING = DriverState.NOT_INSTALLED, DriverState.STOPPED, DriverState.RUNNING


COPY = Path(files.system_folder(), "drivers", "ProcMonGate.sys")
Result = TypeVar("Result")


def in_system32(call: Callable[[], Result]) -> Result:
    """Use a file of the real System32: these tests also run on a 32-bit Python (test_python32.py)."""
    with files.whole_system():
        return call()


@pytest.fixture
def service() -> Iterator[DriverService]:
    """The machine's driver service; every test must leave it as it found it: not installed."""
    service = DriverService()
    assert service.status().state is NOTHING, f"{service.status()}: stop and delete it, the tests need it"
    yield service
    left = service.status()
    if left.state is RUNNING:
        service.stop()
    if left.state is not NOTHING:
        service.delete()
    assert left.state is NOTHING, f"left behind: {left}"


def test_install_start_stop_delete_and_once_more(service: DriverService) -> None:
    for _ in range(2):
        service.install()
        assert service.status() == procmon.DriverStatus("ProcMonGate", STOPPED, str(COPY))
        assert in_system32(COPY.read_bytes) == procmon.find_driver().read_bytes()
        service.start()
        assert service.status().state is RUNNING
        assert driver_info().version_text == "2.0"
        service.stop()
        assert service.status().state is STOPPED
        with pytest.raises(procmon.DriverNotRunning, match="start"):
            driver_info()
        service.delete()
        assert service.status() == procmon.DriverStatus("ProcMonGate", NOTHING)
        assert not in_system32(COPY.exists)


def test_every_step_before_install_says_so(service: DriverService) -> None:
    for step, advice in (
        (service.start, "install it first"),
        (service.stop, "nothing to stop"),
        (service.delete, "nothing to delete"),
    ):
        with pytest.raises(procmon.DriverNotInstalled, match=advice) as caught:
            step()
        assert service.status().state is NOTHING
        if step is not service.delete:
            assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(procmon.DriverNotInstalled, match=r"DriverService\(\).ensure\(\)"):
        procmon.DriverGate()
    service.install()
    service.delete()


def test_installing_twice_says_so_and_starting_works_then(service: DriverService) -> None:
    service.install()
    with pytest.raises(procmon.DriverAlreadyInstalled, match="is there already"):
        service.install()
    service.start()
    with pytest.raises(procmon.DriverAlreadyInstalled, match="is there already"):
        service.install()
    service.stop()
    service.delete()


def test_stopping_what_does_not_run_and_starting_what_runs_say_so(service: DriverService) -> None:
    service.install()
    with pytest.raises(procmon.DriverNotRunning, match="not running"):
        service.stop()
    service.start()
    with pytest.raises(procmon.DriverRunning, match="running already"):
        service.start()
    assert service.status().state is RUNNING
    service.stop()
    with pytest.raises(procmon.DriverNotRunning):
        service.stop()
    service.delete()


def test_deleting_while_it_runs_says_so_and_it_goes_on_running(service: DriverService) -> None:
    service.install()
    service.start()
    with pytest.raises(procmon.DriverRunning, match=r"stop\(\) it first"):
        service.delete()
    assert driver_info().held_count == 0
    service.stop()
    service.delete()


def test_a_missing_file_and_one_that_is_no_driver_install_nothing(service: DriverService, tmp_path: Path) -> None:
    (tmp_path / "text.sys").write_text("not a driver")
    for name in ("nowhere.sys", "text.sys"):
        with pytest.raises(procmon.DriverFileMissing, match=name):
            service.install(tmp_path / name)
        assert service.status().state is NOTHING


def test_a_file_that_goes_after_the_install_is_reported_at_the_start_and_can_be_mended(
    service: DriverService, tmp_path: Path
) -> None:
    file = tmp_path / "a folder with spaces" / "überwacht.sys"
    file.parent.mkdir()
    shutil.copy(procmon.find_driver(), file)
    service.install(file)
    assert service.status().path == str(COPY)
    moved = in_system32(lambda: COPY.rename(COPY.with_name("moved.sys")))
    with pytest.raises(procmon.DriverFileMissing, match="ProcMonGate.sys any more"):
        service.start()
    assert service.status().state is STOPPED
    in_system32(lambda: moved.rename(COPY))
    service.start()
    service.stop()
    service.delete()


def test_a_file_that_users_can_change_is_not_run_where_it_lies_and_a_copy_of_it_is(
    service: DriverService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Wine the one user owns all files and counts as an administrator; here the user does not count as one."""
    file = tmp_path / "procmon.sys"
    shutil.copy(procmon.find_driver(), file)
    if kernel.is_wine():
        monkeypatch.setattr("procmon.win32.file_access._own_account", frozenset)
    else:
        subprocess.run(["icacls", file, "/grant", "*S-1-5-32-545:M"], check=True)
    with pytest.raises(procmon.DriverFileUnsafe, match=r"can change .*procmon.sys.*\n    icacls"):
        service.install(file, copy=False)
    assert service.status().state is NOTHING
    service.install(file)
    service.delete()


def test_a_file_that_only_administrators_can_change_runs_where_it_lies(service: DriverService) -> None:
    """In the folder of drivers, under a name that no copy has."""
    file = COPY.with_name("elsewhere.sys")
    in_system32(lambda: shutil.copy(procmon.find_driver(), file))
    try:
        service.install(file, copy=False)
        assert service.status().path == str(file)
        service.start()
        service.stop()
        service.delete()
        assert in_system32(file.exists) and not in_system32(COPY.exists)
    finally:
        in_system32(file.unlink)


def test_a_second_service_for_the_loaded_driver_says_so(service: DriverService) -> None:
    other = DriverService("ProcMonGateOther")
    service.install()
    service.start()
    other.install()
    try:
        with pytest.raises(procmon.DriverRunning, match="another name"):
            other.start()
        assert driver_info().held_count == 0
        service.stop()
        other.start()
        other.stop()
    finally:
        other.delete()
    service.delete()


class Unsigned:
    """The real manager, on a Windows that does not accept the driver's signature."""

    create = staticmethod(scm.create)
    stop = staticmethod(scm.stop)
    query = staticmethod(scm.query)
    image_path = staticmethod(scm.image_path)
    delete = staticmethod(scm.delete)

    def start(self, name: str) -> None:
        raise windows_error("StartServiceW", 577)


def test_an_unsigned_driver_says_so_and_can_be_replaced(service: DriverService) -> None:
    refused = DriverService(manager=Unsigned())
    refused.install()
    with pytest.raises(procmon.DriverNotSigned, match="bcdedit /set testsigning on") as caught:
        refused.start()
    assert "577" in str(caught.value.__cause__)
    assert refused.status().state is STOPPED
    service.start()
    service.stop()
    service.delete()
    with pytest.raises(procmon.DriverNotSigned), refused:
        pytest.fail("not reached")
    assert service.status().state is NOTHING


def test_with_installs_and_starts_and_leaves_nothing(service: DriverService) -> None:
    with service, procmon.DriverGate() as gate:
        assert gate.info().controller_pid != 0
    assert service.status().state is NOTHING


def test_a_stop_with_a_gate_open_is_done_or_reported(service: DriverService) -> None:
    """Wine unloads a driver that is open; an NT kernel keeps it, and stop() must report that."""
    service.install()
    service.start()
    gate = procmon.DriverGate()
    if kernel.is_wine():
        service.stop()
    else:
        with pytest.raises(procmon.DriverRunning, match="has its device open"):
            service.stop(timeout=1)
        gate.close()
        service.stop()
    assert service.status().state is STOPPED
    gate.close()
    service.delete()


def test_a_stop_ends_the_gate_of_a_monitor_and_needs_no_second_one(service: DriverService) -> None:
    """The monitor learns of it through its event, and closes the device; otherwise NT would not unload the driver."""
    service.install()
    service.start()
    gate = procmon.DriverGate()
    monitor = procmon.Monitor(gate)
    monitor.start()
    service.stop()
    assert service.status().state is STOPPED
    with suppress(procmon.GateClosed):  # which says that the driver was stopped
        monitor.wait(PATIENCE)
    assert not monitor.running
    with pytest.raises(procmon.GateClosed):
        gate.info()
    monitor.stop()
    service.delete()


def test_the_driver_for_this_kernel_is_found() -> None:
    assert procmon.find_driver().name == "procmon.sys"
    assert procmon.find_driver().parent.name == machine.driver_architecture()


def test_the_kernels_architecture_is_reported_to_a_python_of_any() -> None:
    """tests/windows/test_bitness.py uses a 32-bit one."""
    assert machine.native_machine() in machine.MACHINES
