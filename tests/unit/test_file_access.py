"""The accounts that can change a file, by its security descriptor."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from procmon.win32.file_access import (
    CHANGE,
    READ,
    RENAME,
    how_to_protect,
    icacls_line,
    is_link,
    make_private_folder,
    others_in,
    readers,
    writers,
)

# As `icacls /save` and Get-Acl show them on a Windows 10: a file of System32, C:\\, C:\\ProgramData, a file of a user.
SYSTEM32 = (
    "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
    "D:PAI(A;;FA;;;S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464)(A;;0x1200a9;;;BA)"
    "(A;;0x1200a9;;;SY)(A;;0x1200a9;;;BU)(A;;0x1200a9;;;AC)"
)
ROOT = "O:SYD:PAI(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)(A;OICIIO;SDGXGWGR;;;AU)(A;;LC;;;AU)"
PROGRAM_DATA = "O:SYD:PAI(A;OICIIO;GA;;;CO)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;CI;DCLCRPCR;;;BU)"
OF_A_USER = "O:S-1-5-21-1-2-3-1001D:(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;S-1-5-21-1-2-3-1001)"


def test_a_file_of_the_system_is_for_administrators_alone() -> None:
    assert others_in(SYSTEM32) == []


def test_an_owner_can_change_his_file_whatever_the_list_says() -> None:
    assert others_in("O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;BA)") == ["S-1-5-21-1-2-3-1001"]
    assert others_in(OF_A_USER) == ["S-1-5-21-1-2-3-1001"]


def test_users_can_add_files_to_the_root_and_to_programdata_but_not_rename_what_is_there() -> None:
    assert others_in(ROOT, CHANGE) == ["Authenticated Users"] and others_in(ROOT, RENAME) == []
    assert others_in(PROGRAM_DATA, CHANGE) == ["Users"] and others_in(PROGRAM_DATA, RENAME) == []


@pytest.mark.parametrize(
    ("granted", "counts"),
    [
        ("FA", True), ("GA", True), ("GW", True), ("FW", True), ("SD", True), ("WD", True), ("WO", True),
        ("0x1301bf", True), ("0x2", True), ("4", True), ("CCDC", True), ("DT", True), ("ZZ", True),
        ("FR", False), ("FX", False), ("0x1200a9", False), ("FRFX", False), ("GRGX", False), ("", False),
    ],
)  # fmt: skip
def test_each_right_that_changes_a_file_counts_and_no_other(granted: str, counts: bool) -> None:
    assert others_in(f"O:BAD:(A;;{granted};;;BU)") == (["Users"] if counts else [])


@pytest.mark.parametrize("kind", ["D", "AU", "AL"])
def test_entries_that_allow_nothing_do_not_count(kind: str) -> None:
    assert others_in(f"O:BAD:({kind};;FA;;;BU)") == []


def test_what_only_children_inherit_does_not_count() -> None:
    assert others_in("O:BAD:(A;OICIIO;FA;;;BU)") == []


@pytest.mark.parametrize("sddl", ["O:BA", "O:BAD:NO_ACCESS_CONTROL"])
def test_no_list_at_all_grants_everything_to_everyone(sddl: str) -> None:
    assert others_in(sddl) == ["Everyone"]


def test_an_empty_list_grants_nothing() -> None:
    assert others_in("O:BAD:P") == []


def test_a_descriptor_without_an_owner_is_not_trusted() -> None:
    assert others_in("D:P(A;;FA;;;BA)") == ["an unknown owner"]


def test_the_line_that_mends_it_leaves_it_to_administrators() -> None:
    assert icacls_line(r"C:\a b.sys", folder=False) == (
        r'icacls "C:\a b.sys" /setowner *S-1-5-32-544 && icacls "C:\a b.sys" /reset'
        r' && icacls "C:\a b.sys" /inheritance:r'
        " /grant:r *S-1-5-18:F *S-1-5-32-544:F *S-1-5-32-545:RX"
    )
    assert "*S-1-5-18:(OI)(CI)F" in icacls_line("C:\\a", folder=True)


def test_the_line_for_a_private_folder_leaves_reading_to_administrators_too() -> None:
    assert icacls_line("C:\\a", folder=True, private=True).endswith(
        "/inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F"
    )


def test_users_cannot_read_what_is_in_the_folder_that_guard_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("procmon.win32.file_access._ConvertFromText", lambda text, *_: made.append(text))
    monkeypatch.setattr("procmon.win32.file_access._CreateDirectoryW", lambda *_: 1)
    monkeypatch.setattr("procmon.win32.file_access.local_free", lambda _: None)
    make_private_folder("C:\\ProgramData\\procmon-gate")
    assert others_in(made[0], CHANGE | READ) == []


@pytest.mark.parametrize(
    ("granted", "counts"),
    [("FR", True), ("FX", True), ("GR", True), ("GX", True), ("GA", True), ("0x1", True), ("FW", False), ("RC", False)],
)
def test_each_right_by_which_a_file_can_be_held_open_for_reading_counts(
    monkeypatch: pytest.MonkeyPatch, granted: str, counts: bool
) -> None:
    monkeypatch.setattr("procmon.win32.file_access.descriptor", lambda path: f"O:BAD:(A;;{granted};;;BU)")
    assert readers("C:\\Policies\\office.toml") == (["Users"] if counts else [])


@pytest.mark.parametrize(
    "condition", ['(@User.Title == "chief")', '((@User.a == 1) && (@User.b == "x(y"))', "(WIN://SYSAPPID)"]
)
def test_an_entry_with_a_condition_hides_no_entry_behind_it(condition: str) -> None:
    assert others_in(f"O:BAD:(XA;;FX;;;BU;{condition})(A;;FA;;;WD)") == ["Everyone"]
    assert others_in(f"O:BAD:(XA;;FA;;;BU;{condition})") == ["Users"]


PRIVATE = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)"


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drive, whose root and ProgramData have the rights that Windows gives them; all else is for administrators."""
    rights = {str(tmp_path): ROOT, str(tmp_path / "ProgramData"): PROGRAM_DATA}
    monkeypatch.setattr("procmon.win32.file_access.descriptor", lambda path: rights.get(path, PRIVATE))
    monkeypatch.setattr("procmon.win32.file_access.PureWindowsPath", Path)
    (tmp_path / "ProgramData" / "procmon-gate").mkdir(parents=True)
    (tmp_path / "Policies").mkdir()
    return tmp_path


def test_a_protected_folder_is_safe_where_users_can_add_others_beside_it(drive: Path) -> None:
    assert writers(str(drive / "ProgramData" / "procmon-gate")) == {}
    assert writers(str(drive / "Policies")) == {}


def test_a_file_is_safe_in_a_protected_folder_and_not_beside_what_users_can_add(drive: Path) -> None:
    for folder, others in (
        ("Policies", {}),
        ("ProgramData/procmon-gate", {}),
        ("ProgramData", {str(drive / "ProgramData"): ["Users"]}),
        (".", {str(drive): ["Authenticated Users"]}),
    ):
        file = drive / folder / "office.toml"
        file.touch()
        assert writers(str(file)) == others


def test_a_folder_counts_when_users_can_replace_it_from_the_folder_above(
    drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = {str(drive): "O:BAD:(A;;DT;;;BU)"}  # FILE_DELETE_CHILD
    monkeypatch.setattr("procmon.win32.file_access.descriptor", lambda path: rights.get(path, PRIVATE))
    assert writers(str(drive / "Policies")) == {str(drive): ["Users"]}


@pytest.mark.parametrize("shared", ["C:\\", "C:\\ProgramData"])
def test_nobody_is_told_to_change_the_rights_of_a_folder_that_other_programs_use(shared: str) -> None:
    assert how_to_protect(shared, folder=True).startswith(f"move the file from {shared} to")
    assert how_to_protect("C:\\Policies", folder=True) == icacls_line("C:\\Policies", folder=True)


@pytest.mark.parametrize(
    ("tag", "link"),
    [(0xA000000C, True), (0xA0000003, True), (0x80000013, False), (0x9000001A, False), (0, False)],
    ids=["symlink", "junction", "deduplicated file", "file of OneDrive", "file"],
)
def test_a_link_is_what_stands_for_another_file_or_folder(
    monkeypatch: pytest.MonkeyPatch, tag: int, link: bool
) -> None:
    status = SimpleNamespace(st_mode=0o40000, st_reparse_tag=tag)
    monkeypatch.setattr("procmon.win32.file_access.os.lstat", lambda path: status)
    assert is_link("C:\\ProgramData\\procmon-gate") is link


def test_what_is_not_there_is_no_link(tmp_path: Path) -> None:
    assert not is_link(str(tmp_path / "none"))
