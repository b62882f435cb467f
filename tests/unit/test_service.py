"""DriverService against a service manager of the test's own: every Windows error becomes the exception that helps."""

from pathlib import Path

import pytest

import procmon
from procmon import DriverService, DriverState
from procmon.win32 import scm, translate
from procmon.win32._bind import windows_error
from procmon.win32.codes import code_of


class Manager:
    """One service in memory, with the rules of the real manager; `errors` names calls that fail, with their codes."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.state = scm.STOPPED
        self.exit_code = 0
        self.held_open = False
        self.errors: dict[str, int] = {}
        self.calls: list[str] = []

    def _check(self, call: str, **codes: bool) -> None:
        self.calls.append(call)
        code = self.errors.get(call) or next((int(code[1:]) for code, fails in codes.items() if fails), 0)
        if code:
            raise windows_error(call, code)

    def create(self, name: str, display_name: str, path: str) -> None:
        self._check("create", _1073=self.path is not None)
        self.path = "\\??\\" + path

    def start(self, name: str) -> None:
        self._check("start", _1060=self.path is None, _1056=self.state == scm.RUNNING)
        self.state = scm.RUNNING

    def stop(self, name: str) -> scm.ServiceState:
        self._check("stop", _1060=self.path is None, _1062=self.state == scm.STOPPED)
        if not self.held_open:
            self.state = scm.STOPPED
        return scm.ServiceState(self.state)

    def query(self, name: str) -> scm.ServiceState:
        self._check("query", _1060=self.path is None)
        return scm.ServiceState(self.state, self.exit_code)

    def image_path(self, name: str) -> str:
        self._check("image_path", _1060=self.path is None)
        return self.path or ""

    def delete(self, name: str) -> None:
        self._check("delete", _1060=self.path is None)
        self.path = None


def executable(path: Path, machine: int = 0x8664) -> Path:
    """A file that begins as a Windows program for that machine does."""
    path.write_bytes(b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + machine.to_bytes(2, "little"))
    return path


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def service(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DriverService:
    """One whose driver lies where PROCMON_DRIVER says."""
    monkeypatch.setattr("procmon.win32.kernel.is_wine", lambda: False)
    monkeypatch.setenv("PROCESSOR_ARCHITECTURE", "AMD64")
    monkeypatch.delenv("PROCESSOR_ARCHITEW6432", raising=False)
    monkeypatch.setenv("PROCMON_DRIVER", str(executable(tmp_path / "procmon.sys")))
    return DriverService(manager=manager)


def state(service: DriverService) -> DriverState:
    return service.status().state


def test_the_right_order_works_twice(service: DriverService) -> None:
    for _ in range(2):
        service.install()
        service.start()
        assert service.status().running
        service.stop()
        service.delete()
        assert state(service) is DriverState.NOT_INSTALLED


def test_status_shows_name_state_path_and_the_last_error(
    service: DriverService, manager: Manager, tmp_path: Path
) -> None:
    assert repr(service.status()) == "<DriverStatus ProcMonGate not installed>"
    service.install()
    manager.exit_code = 1077  # it has never been started, which is no failure
    assert service.status().exit_code == 0
    assert repr(service.status()) == f"<DriverStatus ProcMonGate stopped, {tmp_path / 'procmon.sys'}>"
    manager.exit_code = 577
    assert repr(service.status()).endswith("procmon.sys, last error 577>")
    assert repr(service) == "<DriverService ProcMonGate>"


def test_each_wrong_order_says_so_and_the_right_step_follows(service: DriverService) -> None:
    for early in (service.start, service.stop, service.delete):
        with pytest.raises(procmon.DriverNotInstalled, match=r"install it first, DriverService.install\(\)"):
            early()
    service.install()
    with pytest.raises(procmon.DriverAlreadyInstalled, match=r"start\(\) it, or delete\(\) it"):
        service.install()
    with pytest.raises(procmon.DriverNotRunning, match="nothing to stop"):
        service.stop()
    service.start()
    with pytest.raises(procmon.DriverRunning, match=r"stop\(\) it first"):
        service.start()
    with pytest.raises(procmon.DriverRunning, match=r"stop\(\) it first, then delete\(\)"):
        service.delete()
    assert state(service) is DriverState.RUNNING
    service.stop()
    service.delete()


def test_an_error_has_the_failed_call_as_its_cause(service: DriverService) -> None:
    with pytest.raises(procmon.DriverNotInstalled) as caught:
        service.start()
    assert isinstance(caught.value.__cause__, OSError)
    assert "start" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("call", "code", "kind", "advice"),
    [
        ("create", 5, procmon.AccessDenied, "run this as administrator"),
        ("create", 1072, procmon.DriverAlreadyInstalled, "marked for deletion"),
        ("create", 123, procmon.ProcmonError, "no name for a service"),
        ("start", 2, procmon.DriverFileMissing, r"delete\(\) the service ProcMonGate, then install"),
        ("start", 5, procmon.AccessDenied, "run this as administrator"),
        ("start", 32, procmon.DriverFileMissing, "antivirus"),
        ("start", 127, procmon.UnsupportedPlatform, "update it"),
        ("start", 170, procmon.DriverRunning, "again in a second"),
        ("start", 183, procmon.DriverRunning, "another name"),
        ("start", 193, procmon.DriverNotSigned, "build/driver/x64"),
        ("start", 216, procmon.DriverNotSigned, "build/driver/x86"),
        ("start", 577, procmon.DriverNotSigned, "bcdedit /set testsigning on"),
        ("start", 654, procmon.DriverRunning, "restart Windows"),
        ("start", 1053, procmon.ProcmonError, "event log"),
        ("start", 1058, procmon.DriverNotRunning, "sc config ProcMonGate start= demand"),
        ("start", 1072, procmon.DriverNotInstalled, "marked for deletion"),
        ("start", 1275, procmon.DriverNotSigned, "blocked from loading"),
        ("stop", 1052, procmon.DriverRunning, "restart Windows"),
        ("stop", 1061, procmon.DriverRunning, "has its device open"),
        ("delete", 1072, procmon.DriverNotInstalled, "marked for deletion"),
        ("start", 4242, procmon.ProcmonError, "procmon-gate doctor"),
    ],
)
def test_each_windows_error_says_what_to_do_and_the_same_call_works_once_it_is_mended(
    service: DriverService, manager: Manager, call: str, code: int, kind: type[Exception], advice: str
) -> None:
    """577 and most of these cannot be had from Wine; this is their test."""
    steps = {"create": service.install, "start": service.start, "stop": service.stop, "delete": service.delete}
    for before in list(steps)[: list(steps).index(call)]:
        if (before, call) != ("start", "delete"):
            steps[before]() if before != "stop" or manager.state == scm.RUNNING else None
    manager.errors[call] = code
    status = service.status()
    with pytest.raises(kind, match=advice) as caught:
        steps[call]()
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, OSError)
    assert code_of(caught.value.__cause__) == code
    assert service.status() == status
    manager.errors.clear()
    steps[call]()


@pytest.mark.parametrize(
    "table", ["DELETE", "INSTALL", "NOT_INSTALLED", "OPEN", "REGISTER", "REQUEST", "START", "STOP"]
)
def test_every_advice_can_be_written_out_and_says_what_to_do(table: str) -> None:
    words = {"name": "N", "path": "P", "still_open": "it is open: close that", "controller": "process 4"}
    for code in getattr(translate, table):
        problem = translate.translate(OSError(code, "Call"), getattr(translate, table), **words)
        assert "{" not in str(problem)
        assert any(mark in str(problem) for mark in (":", " and ")), problem


def test_a_driver_whose_device_is_open_stays_until_it_is_closed_and_stop_is_called_again(
    service: DriverService, manager: Manager
) -> None:
    """As seen on an NT kernel: the stop succeeds, and the service goes on running."""
    service.install()
    service.start()
    manager.held_open = True
    with pytest.raises(procmon.DriverRunning, match=r"has its device open: close that, then stop\(\) again"):
        service.stop(timeout=0.05)
    with pytest.raises(procmon.DriverRunning, match="stop"):
        service.delete()
    manager.held_open = False
    service.stop()
    service.delete()


def test_a_missing_file_is_told_and_nothing_is_installed(
    service: DriverService, manager: Manager, tmp_path: Path
) -> None:
    with pytest.raises(procmon.DriverFileMissing, match="there is no file .*nowhere.sys"):
        service.install(tmp_path / "nowhere.sys")
    with pytest.raises(procmon.DriverFileMissing, match="there is no file"):
        service.install(tmp_path)
    (tmp_path / "text.sys").write_text("not a driver")
    with pytest.raises(procmon.DriverFileMissing, match="text.sys is no driver"):
        service.install(tmp_path / "text.sys")
    assert manager.path is None
    service.install()


def test_a_driver_for_another_machine_is_told_before_windows_does(service: DriverService, tmp_path: Path) -> None:
    with pytest.raises(procmon.DriverNotSigned, match="built for x86: this Windows needs build/driver/x64"):
        service.install(executable(tmp_path / "x86.sys", 0x14C))
    service.install(executable(tmp_path / "x64.sys"))


def test_a_32_bit_python_on_a_64_bit_windows_takes_the_64_bit_driver(
    service: DriverService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSOR_ARCHITECTURE", "x86")
    with pytest.raises(procmon.DriverNotSigned, match="built for x64: this Windows needs build/driver/x86"):
        service.install()
    monkeypatch.setenv("PROCESSOR_ARCHITEW6432", "AMD64")
    service.install()


def test_a_file_that_has_gone_since_is_told_whatever_code_windows_gives(
    service: DriverService, manager: Manager
) -> None:
    service.install()
    file = Path(service.status().path or "")
    file.unlink()
    manager.errors["start"] = 1114  # as Wine says
    with pytest.raises(procmon.DriverFileMissing, match="not at .*procmon.sys any more"):
        service.start()


def test_install_takes_the_kernels_spelling_of_a_path_and_gives_windows_the_plain_one(
    service: DriverService, manager: Manager, tmp_path: Path
) -> None:
    service.install("\\??\\" + str(tmp_path / "procmon.sys"))
    assert manager.path == "\\??\\" + str(tmp_path / "procmon.sys")  # the manager's own prefix, once


def test_the_driver_is_looked_for_and_the_error_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCMON_DRIVER", str(tmp_path / "gone.sys"))
    with pytest.raises(procmon.DriverFileMissing, match="PROCMON_DRIVER names .*gone.sys"):
        procmon.find_driver()
    monkeypatch.delenv("PROCMON_DRIVER")
    monkeypatch.setenv("PROCESSOR_ARCHITECTURE", "MIPS")
    monkeypatch.setattr("sys.frozen", True, raising=False)
    monkeypatch.setattr("sys._MEIPASS", str(tmp_path), raising=False)
    monkeypatch.setattr("procmon.win32.kernel.is_wine", lambda: False)
    with pytest.raises(procmon.DriverFileMissing, match="build it .* set PROCMON_DRIVER") as caught:
        procmon.find_driver()
    assert str(tmp_path / "procmon.sys") in str(caught.value)
    package = Path(procmon.__file__).parent
    assert str(package / "driver" / "mips" / "procmon.sys") in str(caught.value)
    assert str(package.parents[1] / "build" / "driver" / "mips" / "procmon.sys") in str(caught.value)
    executable(tmp_path / "procmon.sys")
    assert procmon.find_driver() == tmp_path / "procmon.sys"


def test_with_undoes_just_what_it_did(service: DriverService, manager: Manager) -> None:
    with service as same:
        assert same is service
        assert service.status().running
    assert state(service) is DriverState.NOT_INSTALLED
    service.install()
    with service:
        pass
    assert state(service) is DriverState.STOPPED
    service.start()
    with service, service:
        pass
    assert state(service) is DriverState.RUNNING


def test_with_is_content_if_somebody_else_has_undone_it(service: DriverService) -> None:
    with service:
        service.stop()
        service.delete()
    with service:
        service.stop()
    assert state(service) is DriverState.NOT_INSTALLED


def test_with_leaves_nothing_behind_when_the_start_fails(service: DriverService, manager: Manager) -> None:
    manager.errors["start"] = 577
    with pytest.raises(procmon.DriverNotSigned), service:
        pytest.fail("not reached")
    assert state(service) is DriverState.NOT_INSTALLED
    with pytest.raises(procmon.DriverNotSigned):
        service.ensure()
    assert state(service) is DriverState.NOT_INSTALLED
    manager.errors.clear()
    service.ensure()
    service.ensure()
    assert state(service) is DriverState.RUNNING


def test_an_error_of_the_body_is_not_lost_to_one_of_the_clean_up(service: DriverService, manager: Manager) -> None:
    with pytest.raises(KeyError) as caught, service:
        manager.errors["stop"] = 1052
        raise KeyError("mine")
    assert "could not be put back" in caught.value.__notes__[0]
    manager.errors.clear()
    service.stop()
    with pytest.raises(procmon.DriverRunning, match="restart Windows"), service:
        manager.errors["stop"] = 1052
