"""Which files have their facts cached: those whose numbers show every change."""

import ctypes
import os
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import pytest

from procmon.system import file_facts
from procmon.win32 import files
from procmon.win32.files import on_fixed_disk, open_shared
from procmon.win32.kernel import is_wine

NTDLL = Path(os.environ["SYSTEMROOT"], "System32", "ntdll.dll")


def give_everyone_all_rights(path: Path) -> None:
    advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
    holder = ctypes.c_void_p()
    convert = advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    assert convert("D:(A;;FA;;;WD)", 1, ctypes.byref(holder), None)
    dacl = 4
    assert advapi32.SetFileSecurityW(str(path), dacl, holder)  # the few bytes of the descriptor are left to the process


def times_read(path: Path, looks: int) -> int:
    """How often the file is read for the same fact."""
    read: list[str] = []

    def find(file: BufferedReader) -> str:
        read.append("")
        return "found"

    for _ in range(looks):
        assert file_facts._of_file(str(path), f"test of {path}", find) == "found"
    return len(read)


@pytest.fixture
def fixed_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder may be on a disk in memory, which Wine does not take for a disk."""
    monkeypatch.setattr(files, "on_fixed_disk", lambda file: True)


@pytest.mark.usefixtures("fixed_disk")
def test_a_file_for_administrators_alone_is_read_once() -> None:
    assert times_read(NTDLL, 3) == 1


@pytest.mark.usefixtures("fixed_disk")
def test_a_file_that_users_can_change_is_read_each_time(tmp_path: Path) -> None:
    """Who can write to a file can set all its times, and so keep the hash and the signature of what it was before."""
    path = tmp_path / "a.exe"
    path.write_bytes(b"abc")
    give_everyone_all_rights(path)
    assert times_read(path, 3) == 3


def test_a_file_on_another_medium_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "on_fixed_disk", lambda file: False)
    assert times_read(NTDLL, 3) == 3


def test_a_file_system_without_access_lists_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> list[str]:
        raise OSError(50, "not supported")

    monkeypatch.setattr(file_facts, "changers_of", refuse)
    assert times_read(NTDLL, 2) == 2


@pytest.mark.parametrize(
    ("device", "characteristics", "fixed"),
    [
        (7, 0x20020, True),  # as NTFS answers
        (8, 0, True),  # as Wine answers
        (2, 0x20, False),  # a CD, or a file that Windows shows as one
        (7, 0x21, False),  # a memory card
        (7, 0x10, False),  # a server
        (0x14, 0x10, False),
        (0x24, 0, False),
    ],
)
def test_a_disk_is_fixed(device: int, characteristics: int, fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handle: int, status: object, info: "ctypes.Array[ctypes.c_uint32]", *others: Sequence[int]) -> None:
        info[0], info[1] = device, characteristics

    monkeypatch.setattr(files, "_NtQueryVolumeInformationFile", answer)
    with open_shared(str(NTDLL)) as file:
        assert on_fixed_disk(file) is fixed


def test_the_system_answers() -> None:
    with open_shared(str(NTDLL)) as file:
        assert on_fixed_disk(file) or is_wine()  # it may be installed in memory
    if is_wine():
        with open_shared("Z:\\proc\\version") as file:
            assert not on_fixed_disk(file)
