"""The driver's service against a service manager in memory: every Windows error becomes the exception that helps."""

from pathlib import Path

import pytest

import procmon
from procmon import DriverService, DriverState
from procmon.win32 import scm, translate
from procmon.win32._bind import windows_error
from procmon.win32.codes import code_of
from service_manager import Computer, Manager


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
    service: DriverService, manager: Manager, computer: Computer
) -> None:
    assert repr(service.status()) == "<DriverStatus ProcMonGate not installed>"
    service.install()
    manager.exit_code = 1077  # it has never been started, which is no failure
    assert service.status().exit_code == 0
    assert repr(service.status()) == f"<DriverStatus ProcMonGate stopped, {computer.copy}>"
    manager.exit_code = 577
    assert repr(service.status()).endswith("ProcMonGate.sys, last error 577>")
    assert repr(service) == "<DriverService ProcMonGate>"


def test_each_wrong_order_says_so_and_the_right_step_follows(service: DriverService) -> None:
    for early, advice in (
        (service.start, r"install it first, DriverService.install\(\)"),
        (service.stop, "nothing to stop"),
        (service.delete, "nothing to delete"),
    ):
        with pytest.raises(procmon.DriverNotInstalled, match=advice):
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
        ("start", 1450, procmon.ProcmonError, "no memory left .* or its table of image notifications is full"),
        ("start", 2, procmon.DriverFileMissing, r"delete\(\) the service ProcMonGate, then install"),
        ("start", 5, procmon.AccessDenied, "run this as administrator"),
        ("start", 32, procmon.DriverFileMissing, "antivirus"),
        ("start", 127, procmon.UnsupportedPlatform, "update it"),
        ("start", 170, procmon.DriverRunning, "again in a second"),
        ("start", 183, procmon.DriverRunning, "another name"),
        ("start", 193, procmon.DriverNotSigned, "x64 or arm64"),
        ("start", 216, procmon.DriverNotSigned, "the x86 file if not"),
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
    """Wine never returns 577 and most of these; this is their only test."""
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
    "table", ["COPY", "DELETE", "INSTALL", "NOT_INSTALLED", "OPEN", "REGISTER", "REQUEST", "START", "STOP"]
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
    """As on an NT kernel: the stop succeeds, and the service goes on running."""
    service.install()
    service.start()
    manager.held_open = True
    with pytest.raises(procmon.DriverRunning, match=r"has its device open: close that program, then stop\(\) again"):
        service.stop(timeout=0.05)
    with pytest.raises(procmon.DriverRunning, match="stop"):
        service.delete()
    manager.held_open = False
    service.stop()
    service.delete()


def test_a_stop_first_has_the_driver_release_what_it_holds(
    service: DriverService, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NT unloads no driver whose device is open: the controller must learn of the stop and close the device."""
    service.install()
    service.start()
    manager.held_open = True

    def quiesce() -> None:
        assert "stop" not in manager.calls
        manager.calls.append("quiesce")

    query = manager.query

    def closes_late(name: str) -> scm.ServiceState:
        manager.held_open = manager.calls.count("stop") < 2  # the controller closes the device after the first stop
        return query(name)

    monkeypatch.setattr("procmon.driver.service.quiesce", quiesce)
    monkeypatch.setattr(manager, "query", closes_late)
    manager.calls.clear()
    service.stop()
    assert [call for call in manager.calls if call in ("quiesce", "stop")] == ["quiesce", "stop", "stop", "stop"]
    assert state(service) is DriverState.STOPPED


def test_the_stop_of_a_service_that_does_not_run_leaves_the_driver_of_another_alone(
    service: DriverService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("procmon.driver.service.quiesce", lambda: asked.append("quiesce"))
    service.install()
    with pytest.raises(procmon.DriverNotRunning):
        service.stop()
    assert asked == []


@pytest.mark.parametrize("error", [procmon.AccessDenied, procmon.VersionMismatch, procmon.DriverNotRunning])
def test_a_driver_that_cannot_be_asked_to_release_is_stopped_all_the_same(
    service: DriverService, monkeypatch: pytest.MonkeyPatch, error: type[procmon.ProcmonError]
) -> None:
    def quiesce() -> None:
        raise error("no")

    monkeypatch.setattr("procmon.driver.service.quiesce", quiesce)
    service.install()
    service.start()
    service.stop()
    assert state(service) is DriverState.STOPPED


def test_a_file_that_has_gone_since_is_reported_whatever_code_windows_gives(
    service: DriverService, manager: Manager
) -> None:
    service.install()
    file = Path(service.status().path or "")
    file.unlink()
    manager.errors["start"] = 1114  # as Wine returns
    with pytest.raises(procmon.DriverFileMissing, match="not at .*ProcMonGate.sys any more"):
        service.start()


def test_a_name_that_no_file_can_have_is_no_name_for_a_service(manager: Manager) -> None:
    for name in ("..\\x", "a/b", "", "a" * 81, "two words", ".", "..", "con", "Nul.x", "LPT1"):
        with pytest.raises(ValueError, match="no name for a service"):
            DriverService(name, manager=manager)


def test_a_name_or_a_timeout_of_the_wrong_type_says_what_is_wanted(service: DriverService, manager: Manager) -> None:
    with pytest.raises(TypeError, match="the name of a service is a text; not 5"):
        DriverService(5, manager=manager)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout is a number of seconds"):
        service.stop(None)  # type: ignore[arg-type]
    assert manager.calls == []


def test_with_uses_a_driver_that_another_program_has_just_installed_and_started(
    service: DriverService, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, query = manager.create, manager.query

    def create_second(name: str, display_name: str, path: str) -> None:
        create(name, display_name, path)  # by the other program
        create(name, display_name, path)

    def start_second(name: str) -> None:
        manager.state = scm.START_PENDING
        raise windows_error("StartServiceW", 1056)

    def query_and_go_on(name: str) -> scm.ServiceState:
        found = query(name)
        if found.state == scm.START_PENDING:
            manager.state = scm.RUNNING
        return found

    monkeypatch.setattr(manager, "create", create_second)
    monkeypatch.setattr(manager, "start", start_second)
    monkeypatch.setattr(manager, "query", query_and_go_on)
    with service:
        assert state(service) is DriverState.RUNNING
    assert state(service) is DriverState.RUNNING  # it is the other program's


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


def test_with_accepts_that_its_steps_were_undone_already(service: DriverService) -> None:
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


def test_a_roll_back_that_fails_hides_no_error(
    service: DriverService, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise windows_error("MoveFileExW", 5)

    monkeypatch.setattr("os.replace", fail)
    manager.errors["delete"] = 1072
    with pytest.raises(procmon.AccessDenied, match="does not let this program write") as caught:
        service.install()
    assert "ProcMonGate that was made for it could not be deleted" in caught.value.__notes__[0]
