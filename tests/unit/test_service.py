"""DriverService against a service manager of the test's own: every Windows error becomes the exception that helps."""

import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import procmon
from procmon import DriverService, DriverState
from procmon.util.version import VERSION
from procmon.win32 import scm, translate
from procmon.win32._bind import windows_error
from procmon.win32.codes import code_of

X64, X86, ARM64 = 0x8664, 0x14C, 0xAA64


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


def version_information(version: str = VERSION) -> bytes:
    """The head of VS_FIXEDFILEINFO."""
    major, minor, patch = map(int, version.split("."))
    return struct.pack("<IIHHHH", 0xFEEF04BD, 0x10000, minor, major, 0, patch)


def executable(path: Path, machine: int = X64, information: bytes = version_information()) -> Path:
    """A file that begins as a Windows program for that machine does, and says its version."""
    head = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + machine.to_bytes(2, "little")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + information)
    return path


@dataclass
class Computer:
    """A Windows in a folder: its kernel, its System32, and who may change what."""

    folder: Path
    kernel: int = X64
    writers: dict[str, str] = field(
        default_factory=dict
    )  # descriptors by the end of a path; else administrators' alone

    @property
    def system32(self) -> Path:
        return self.folder / "system32"

    @property
    def copy(self) -> Path:
        return self.system32 / "drivers" / "ProcMonGate.sys"

    @property
    def packaged(self) -> Path:
        return self.folder / "package" / "driver" / "x64" / "procmon.sys"

    def descriptor(self, path: str) -> str:
        return next(
            (text for end, text in self.writers.items() if path.endswith(end)), "O:BAD:(A;;FA;;;BA)(A;;FR;;;BU)"
        )


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Computer:
    """One with the x64 driver in the package."""
    computer = Computer(tmp_path)
    (computer.system32 / "drivers").mkdir(parents=True)
    executable(computer.packaged)
    monkeypatch.setattr("procmon.win32.machine.is_wine", lambda: False)
    monkeypatch.setattr("procmon.win32.machine.native_machine", lambda: computer.kernel)
    monkeypatch.setattr("procmon.win32.files.system_folder", lambda: str(computer.system32))
    monkeypatch.setattr("procmon.win32.access.descriptor", computer.descriptor)
    monkeypatch.setattr("procmon.win32.access.PureWindowsPath", Path)
    monkeypatch.setattr("procmon.driver.driver_file._package", lambda: tmp_path / "package")
    return computer


@pytest.fixture
def service(manager: Manager, computer: Computer) -> DriverService:
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


def test_a_stop_first_has_the_driver_release_what_it_holds(
    service: DriverService, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NT unloads no driver whose device is open: the controller has to learn of the stop, and to close it."""
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
    with pytest.raises(procmon.DriverNotSigned, match="built for x86: this Windows needs the driver for x64"):
        service.install(executable(tmp_path / "x86.sys", X86))
    service.install(executable(tmp_path / "x64.sys"))


@pytest.mark.parametrize(("kernel", "folder"), [(X64, "x64"), (X86, "x86"), (ARM64, "arm64")])
def test_the_packaged_driver_for_this_kernel_is_taken(
    service: DriverService, computer: Computer, kernel: int, folder: str
) -> None:
    """The kernel's, not Python's: what a 32-bit Python on a 64-bit Windows needs is the x64 one."""
    computer.kernel = kernel
    for name, machine in (("x64", X64), ("x86", X86), ("arm64", ARM64)):
        executable(computer.packaged.parents[1] / name / "procmon.sys", machine)
    assert procmon.find_driver().parent.name == folder
    service.install()
    assert computer.copy.read_bytes() == procmon.find_driver().read_bytes()


@pytest.mark.parametrize(
    ("information", "said"),
    [
        (version_information("0.2.0"), "is of version 0.2.0"),
        (b"", "does not say which driver"),
        (b"\xbd\x04", "not say"),
    ],
)
def test_a_driver_of_another_version_is_refused(
    service: DriverService, manager: Manager, computer: Computer, information: bytes, said: str
) -> None:
    executable(computer.packaged, information=information)
    with pytest.raises(procmon.VersionMismatch, match=f"{said}.* this package needs {VERSION}"):
        service.install()
    assert manager.path is None and not computer.copy.exists()


def test_a_file_that_has_gone_since_is_told_whatever_code_windows_gives(
    service: DriverService, manager: Manager
) -> None:
    service.install()
    file = Path(service.status().path or "")
    file.unlink()
    manager.errors["start"] = 1114  # as Wine says
    with pytest.raises(procmon.DriverFileMissing, match="not at .*ProcMonGate.sys any more"):
        service.start()


def test_install_takes_the_kernels_spelling_of_a_path_and_gives_windows_the_plain_one(
    service: DriverService, manager: Manager, computer: Computer
) -> None:
    service.install("\\??\\" + str(computer.packaged), copy=False)
    assert manager.path == "\\??\\" + str(computer.packaged)  # the manager's own prefix, once


# ---------------------------------------------------------------------------------------------------------- the copy


def test_the_service_runs_a_copy_in_the_systems_folder_which_goes_with_the_service(
    service: DriverService, computer: Computer
) -> None:
    service.install()
    assert service.status().path == str(computer.copy)
    assert computer.copy.read_bytes() == computer.packaged.read_bytes()
    executable(computer.packaged, information=version_information() + b"changed afterwards")
    service.start()
    service.stop()
    service.delete()
    assert list(computer.copy.parent.iterdir()) == []
    assert computer.packaged.exists()


def test_an_older_copy_is_replaced_and_one_with_the_same_bytes_is_left_alone(
    service: DriverService, computer: Computer
) -> None:
    executable(computer.copy, information=version_information("0.0.9"))
    service.install()
    assert computer.copy.read_bytes() == computer.packaged.read_bytes()
    service._manager.delete(service.name)
    before = computer.copy.stat()
    service.install()
    assert (computer.copy.stat().st_ino, computer.copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_service_that_is_there_keeps_its_file(service: DriverService, computer: Computer) -> None:
    service.install()
    was = computer.copy.read_bytes()
    with pytest.raises(procmon.DriverAlreadyInstalled):
        service.install(executable(computer.folder / "other.sys", information=version_information() + b"other"))
    assert computer.copy.read_bytes() == was


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (5, procmon.AccessDenied, "write .*ProcMonGate.sys: run this as administrator"),
        (32, procmon.DriverRunning, "a driver is loaded from .*ProcMonGate.sys"),
        (112, procmon.ProcmonError, "the disk is full"),
        (1224, procmon.DriverRunning, "a driver is loaded from"),
    ],
)
def test_a_copy_that_cannot_be_written_installs_nothing(
    service: DriverService,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[Exception],
    advice: str,
) -> None:
    def fail(*_: object) -> None:
        raise windows_error("MoveFileExW", code)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(kind, match=advice):
        service.install()
    assert manager.path is None
    monkeypatch.undo()


def test_a_copy_that_is_not_what_was_written_is_told(
    service: DriverService, manager: Manager, computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An antivirus may put something else there, or nothing."""
    replace = os.replace

    def meddle(source: str, target: str) -> None:
        replace(source, target)
        Path(target).write_bytes(b"harmless")

    monkeypatch.setattr("os.replace", meddle)
    with pytest.raises(procmon.DriverFileMissing, match="not what was written to it"):
        service.install()
    assert manager.path is None


def test_a_copy_that_cannot_be_deleted_is_logged(
    service: DriverService, computer: Computer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.install()

    def fail(*_: object) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr("os.unlink", fail)
    service.delete()
    assert f"{computer.copy} is not needed any more, and could not be deleted" in caplog.text
    assert state(service) is DriverState.NOT_INSTALLED


def test_a_name_that_no_file_can_have_is_no_name_for_a_service(manager: Manager) -> None:
    for name in ("..\\x", "a/b", "", "a" * 81, "two words"):
        with pytest.raises(ValueError, match="no name for a service"):
            DriverService(name, manager=manager)


# ------------------------------------------------------------------------------------------ the file where it lies


def test_without_a_copy_the_service_runs_the_file_where_it_lies_and_delete_leaves_it(
    service: DriverService, computer: Computer
) -> None:
    service.install(copy=False)
    assert service.status().path == str(computer.packaged)
    assert not computer.copy.exists()
    service.delete()
    assert computer.packaged.exists()


@pytest.mark.parametrize(
    ("place", "sddl", "said"),
    [
        ("procmon.sys", "O:BAD:(A;;FA;;;BA)(A;;FW;;;WD)", "Everyone can change .*procmon.sys"),
        ("procmon.sys", "O:S-1-5-21-7-1000D:(A;;FA;;;BA)", "S-1-5-21-7-1000 can change .*procmon.sys"),
        ("x64", "O:BAD:(A;;FA;;;BA)(A;;0x6;;;BU)", "Users can change .*x64"),
        ("package", "O:BAD:(A;;FA;;;BA)(A;;SD;;;AU)", "Authenticated Users can change .*package"),
    ],
    ids=["the file", "its owner", "its folder", "a folder above"],
)
def test_without_a_copy_a_file_that_others_can_change_is_refused_with_what_mends_it(
    service: DriverService, manager: Manager, computer: Computer, place: str, sddl: str, said: str
) -> None:
    computer.writers[place] = sddl
    with pytest.raises(procmon.DriverFileUnsafe, match=said) as caught:
        service.install(copy=False)
    assert manager.path is None
    (line,) = str(caught.value).splitlines()[1:]
    assert re.match(rf' +icacls ".*{place}" /setowner \*S-1-5-32-544 && icacls .* /grant:r \*S-1-5-18:\S*F ', line)
    assert ("(OI)(CI)" in line) == (place != "procmon.sys")
    service.install()  # a copy: whoever can change the file, what was read is what runs


def test_without_a_copy_a_driver_on_the_network_is_refused(
    service: DriverService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.realpath", lambda path: "\\\\server\\share\\procmon.sys")
    with pytest.raises(ValueError, match="no driver from the network"):
        service.install(copy=False)


# ----------------------------------------------------------------------------------------------------- where it is


def test_the_driver_is_looked_for_and_the_error_says_where(computer: Computer) -> None:
    computer.packaged.unlink()
    with pytest.raises(procmon.DriverFileMissing, match="the wheel of procmon-gate has it; .* builds it") as caught:
        procmon.find_driver()
    assert str(computer.packaged) in str(caught.value)
    assert str(Path("build", "driver")) not in str(caught.value), "the package is in no checkout"


def test_on_wine_the_error_says_that_no_wheel_has_the_driver(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procmon.win32.machine.is_wine", lambda: True)
    with pytest.raises(procmon.DriverFileMissing, match="Wine runs a test build, which is in no wheel"):
        procmon.find_driver()


def test_in_a_checkout_the_driver_is_the_one_that_it_built(
    computer: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procmon.driver.driver_file._package", lambda: tmp_path / "src" / "procmon")
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "protocol.h").touch()
    built = executable(tmp_path / "build" / "driver" / "x64" / "procmon.sys")
    assert procmon.find_driver() == built
    built.unlink()
    with pytest.raises(procmon.DriverFileMissing, match=re.escape(str(built))):
        procmon.find_driver()


@pytest.mark.parametrize("name", ["PROCMON_DRIVER", "PROCESSOR_ARCHITECTURE", "PROCESSOR_ARCHITEW6432", "SystemRoot"])
def test_no_environment_variable_decides_what_is_loaded_into_the_kernel(
    service: DriverService, computer: Computer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = executable(computer.folder / "other.sys", information=version_information() + b"other")
    monkeypatch.setenv(name, str(other))
    assert procmon.find_driver() == computer.packaged
    service.install()
    assert computer.copy.read_bytes() == computer.packaged.read_bytes()


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
