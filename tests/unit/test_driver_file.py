"""The driver's file: where procmon searches for it, what it checks, and its copy in System32."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import procmon
from procmon import DriverService, DriverState
from procmon.driver.driver_file import plain_path
from procmon.util.version import VERSION
from procmon.win32._bind import windows_error
from service_manager import ARM64, X64, X86, Computer, Manager, executable, version_information


def test_a_missing_file_is_reported_and_nothing_is_installed(
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


def test_a_driver_for_another_machine_is_reported_before_windows_does(service: DriverService, tmp_path: Path) -> None:
    with pytest.raises(procmon.DriverNotSigned, match="built for x86: this Windows needs the driver for x64"):
        service.install(executable(tmp_path / "x86.sys", X86))
    service.install(executable(tmp_path / "x64.sys"))


@pytest.mark.parametrize(("kernel", "folder"), [(X64, "x64"), (X86, "x86"), (ARM64, "arm64")])
def test_the_packaged_driver_for_this_kernel_is_taken(
    service: DriverService, computer: Computer, kernel: int, folder: str
) -> None:
    """The kernel's architecture counts, not Python's: a 32-bit Python on 64-bit Windows needs the x64 driver."""
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
    computer: Computer,
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
    assert list(computer.copy.parent.iterdir()) == []
    monkeypatch.undo()


def test_a_copy_that_is_not_what_was_written_is_reported(
    service: DriverService, manager: Manager, computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An antivirus may replace or remove the copy."""
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
    assert service.status().state is DriverState.NOT_INSTALLED


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
    service.install()  # a copy: the bytes that were checked are those that run, even if others can change the file


def test_what_reads_access_rights_is_loaded_while_windows_finds_32_bit_dlls(
    service: DriverService, computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advapi32 loads a DLL at the first call; without the redirection of System32 that fails once and for all."""
    redirected, calls = [True], []

    @contextmanager
    def whole_system() -> Iterator[None]:
        redirected.append(False)
        yield
        redirected.pop()

    def descriptor(path: str) -> str:
        calls.append(redirected[-1])
        return computer.descriptor(path)

    monkeypatch.setattr("procmon.win32.files.whole_system", whole_system)
    monkeypatch.setattr("procmon.win32.file_access.descriptor", descriptor)
    service.install(copy=False)
    assert calls[0] and not calls[-1]


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


def test_the_device_form_of_a_share_is_a_share() -> None:
    share = r"\\server\drivers\procmon.sys"
    assert plain_path(r"\\?\UNC\server\drivers\procmon.sys").endswith(share)
    assert plain_path(r"\??\UNC\server\drivers\procmon.sys").endswith(share)


def test_a_volume_without_a_letter_keeps_its_name() -> None:
    path = r"\\?\Volume{7603f260-142a-11d4-ac67-806d6172696f}\procmon.sys"
    assert plain_path(path).endswith(path)
