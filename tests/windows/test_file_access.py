"""Security descriptors of real files. Wine derives them from Unix file modes, and its one account owns all files."""

import os
import subprocess
from pathlib import Path

import pytest

from procmon.win32.file_access import descriptor, is_link, writers
from procmon.win32.kernel import is_wine


def test_a_file_of_the_system_directory_is_for_administrators_alone() -> None:
    ntdll = Path(os.environ["SYSTEMROOT"], "System32", "ntdll.dll")
    assert writers(str(ntdll)) == {}


def test_a_folder_that_everyone_may_write_is_found(tmp_path: Path) -> None:
    folder = Path("Z:\\tmp")  # of the mode 1777
    if not is_wine():
        folder = tmp_path
        subprocess.run(["icacls", str(folder), "/grant", "*S-1-1-0:M"], check=True, stdout=subprocess.DEVNULL)
    assert "Everyone" in writers(str(folder))[str(folder)]


def test_a_file_in_such_a_folder_is_found_by_its_folder(tmp_path: Path) -> None:
    folder = Path("Z:\\tmp") if is_wine() else tmp_path
    if not is_wine():
        subprocess.run(["icacls", str(folder), "/grant", "*S-1-1-0:M"], check=True, stdout=subprocess.DEVNULL)
    file = folder / f"procmon-{os.getpid()}.sys"
    file.write_bytes(b"")
    try:
        assert "Everyone" in writers(str(file))[str(folder)]
    finally:
        file.unlink()


def test_a_file_that_is_not_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        writers(str(tmp_path / "none.sys"))


def test_a_descriptor_has_an_owner_and_a_list(tmp_path: Path) -> None:
    text = descriptor(str(tmp_path))
    assert text.startswith("O:") and "D:" in text


def test_a_junction_is_a_link_and_a_folder_is_none(tmp_path: Path) -> None:
    assert not is_link(str(tmp_path)) and not is_link(os.environ["SYSTEMROOT"])
    if not is_wine():  # which cannot make one
        junction = tmp_path / "junction"
        subprocess.run(["cmd", "/c", "mklink", "/J", str(junction), str(tmp_path)], check=True)
        assert is_link(str(junction))
