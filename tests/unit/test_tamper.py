"""Differences between a held process' memory and its file, in made-up memory, and the code that a file contains.

tests/windows/test_tamper.py has real processes.
"""

import io
import struct
from collections.abc import Callable, Collection
from typing import BinaryIO

import pytest

from executables import CODE, TEXT, executable
from procmon import ProcessHelper
from procmon.system import tamper
from procmon.system.pe import PortableExecutable
from procmon.system.tamper import describe_difference, find_tampering
from procmon.win32 import kernel, process
from procmon.win32._bind import windows_error
from procmon.win32.handles import Handle
from procmon.win32.memory import PAGE_BYTES, Region

BASE = 0x140000000
NAME = "\\Device\\HarddiskVolume1\\Tools\\A.exe"
OTHER = "\\Device\\HarddiskVolume1\\Temp\\B.exe"


class Held:
    """A made-up process: one executable, mapped as by Windows, for tests to change."""

    def __init__(self, file: bytes | None = None, base: int = BASE) -> None:
        self.file = executable() if file is None else file
        self.names: Collection[str] = {NAME.lower()}
        self.bases = [base]
        self.start = base + PortableExecutable(io.BytesIO(self.file)).entry
        self.memory: dict[int, bytearray] = {}
        self.regions: dict[int, Region] = {}
        self.mapped: dict[int, str] = {}
        self.private: list[int] = []
        self.asked: list[int] = []
        self.file_error: OSError | None = None
        self.map(base, NAME, self.file)

    def map(self, base: int, name: str, file: bytes) -> None:
        """Map the headers and the code of an executable."""
        parts = ((0, file[:0x400], False), (TEXT, file[0x400:0x600], True))
        for address, data, executes in parts:
            self.put(base + address, bytearray(data), base, is_image=True, is_executable=executes)
            self.mapped[base + address] = name

    def put(self, at: int, data: bytearray, base: int, *, is_image: bool, is_executable: bool) -> None:
        self.memory[at] = data.ljust(PAGE_BYTES, b"\0")
        self.regions[at] = Region(at, PAGE_BYTES, base, False, is_image, is_executable)
        self.mapped.pop(at, None)

    def image_bases(self) -> list[int]:
        return self.bases

    def start_address(self) -> int:
        return self.start

    def region_at(self, address: int) -> Region:
        page = address & -PAGE_BYTES
        return self.regions.get(page) or Region(page, PAGE_BYTES, 0, True, False, False)

    def mapped_file(self, address: int) -> str:
        return self.mapped[address & -PAGE_BYTES]

    def read(self, address: int, size: int) -> bytes:
        page = address & -PAGE_BYTES
        return bytes(self.memory[page][address - page :][:size])

    def private_pages(self, pages: list[int]) -> list[int]:
        self.asked += pages
        return [page for page in pages if page in self.private]

    def open_file(self) -> BinaryIO:
        if self.file_error is not None:
            raise self.file_error
        return io.BytesIO(self.file)


@pytest.mark.parametrize("wide", [True, False])
def test_nothing_is_found_in_what_windows_has_mapped(wide: bool) -> None:
    held = Held(executable(wide=wide), 0x400000)
    assert describe_difference(held) == ""
    assert held.asked == [0x400000 + TEXT], "the pages of its code, and no others"


def test_the_image_replaced_by_private_memory_is_found() -> None:
    held = Held()
    held.put(BASE, bytearray(held.file[:0x400]), BASE, is_image=False, is_executable=True)
    assert describe_difference(held) == f"its PEB has the image at {BASE:#x}, and no executable is mapped there"


def test_a_peb_that_names_private_memory_is_found() -> None:
    held = Held()
    held.put(0x500000, bytearray(held.file[:0x400]), 0x500000, is_image=False, is_executable=True)
    held.bases = [0x500000]
    assert describe_difference(held) == "its PEB has the image at 0x500000, and no executable is mapped there"


def test_a_peb_that_names_nothing_is_found() -> None:
    held = Held()
    held.bases = [0x700000]
    assert "at 0x700000, and no executable is mapped" in describe_difference(held)


def test_a_peb_that_names_the_middle_of_an_image_is_found() -> None:
    held = Held()
    held.bases = [BASE + TEXT]
    assert f"within one that is mapped at {BASE:#x}" in describe_difference(held)


def test_two_pebs_that_differ_are_found() -> None:
    held = Held()
    held.bases = [BASE, 0x500000]
    assert describe_difference(held) == f"its two PEBs have their images at {BASE:#x} and 0x500000"
    held.bases = [BASE, BASE]
    assert describe_difference(held) == ""


def test_another_executable_mapped_in_its_place_is_found() -> None:
    held = Held()
    held.map(BASE, OTHER, held.file)
    assert describe_difference(held) == f"its PEB has the image at {BASE:#x}, and that is {OTHER}"


def test_a_decoy_does_not_hide_where_it_begins() -> None:
    """The PEB names a second, complete view of the file, and the first one has other code."""
    held = Held()
    held.map(0x500000, NAME, held.file)
    held.bases = [0x500000]
    assert "begins at 0x140001000, which is not in the image at 0x500000" in describe_difference(held)


def test_an_image_that_windows_has_moved_is_none() -> None:
    """Windows reports the entry point at its address before the move, where nothing is mapped."""
    held = Held()
    held.start = 0x400000 + TEXT
    assert describe_difference(held) == ""


def test_where_windows_does_not_tell_where_it_begins_the_rest_is_compared() -> None:
    held = Held()
    held.start = 0
    assert describe_difference(held) == ""
    held.memory[BASE + TEXT][0] ^= 0xFF
    assert "near its entry point" in describe_difference(held)


def test_a_header_with_another_entry_point_is_found() -> None:
    held = Held()
    struct.pack_into("<I", held.memory[BASE], 0x40 + 24 + 16, TEXT + 0x10)
    assert describe_difference(held) == f"it begins at {BASE + TEXT:#x}, and the header in its memory says 0x140001010"


def test_a_header_that_is_none_is_found() -> None:
    held = Held()
    held.memory[BASE][:2] = b"ZM"
    assert describe_difference(held).startswith(f"the header at its image base {BASE:#x} was changed: ")


@pytest.mark.parametrize("at", [0, len(CODE) - 1, 0x1FF])
def test_code_that_is_not_the_files_is_found(at: int) -> None:
    held = Held()
    held.memory[BASE + TEXT][at] ^= 0x01
    assert describe_difference(held) == (
        f"the code at {BASE + TEXT + at:#x}, near its entry point, is not that of its file"
    )


def test_a_file_that_was_changed_since_is_found() -> None:
    held = Held()
    held.file = b"MZ, and nothing more"
    assert describe_difference(held).startswith("its file is no longer the file that it was made from: ")
    held.file = executable(entry=TEXT + 1)
    assert describe_difference(held) == f"it begins at {BASE + TEXT:#x}, and its file says {BASE + TEXT + 1:#x}"


def test_a_program_without_an_entry_point_begins_elsewhere() -> None:
    held = Held(executable(entry=0))
    held.start = BASE + TEXT
    assert describe_difference(held) == ""


def test_a_file_that_cannot_be_read_is_not_compared_but_the_pages_are() -> None:
    held = Held()
    held.file_error = PermissionError(13, "CreateFileW")
    assert describe_difference(held) == ""
    held.private = [BASE + TEXT]
    assert describe_difference(held) == f"1 page of its code were changed, the first at {BASE + TEXT:#x}"


def test_pages_of_code_that_were_written_to_are_found() -> None:
    held = Held()
    held.put(BASE + TEXT + PAGE_BYTES, bytearray(), BASE, is_image=True, is_executable=True)
    held.private = [BASE + TEXT + PAGE_BYTES]
    assert describe_difference(held) == f"1 page of its code were changed, the first at {BASE + TEXT + PAGE_BYTES:#x}"


def test_a_memory_that_cannot_be_read_is_an_error() -> None:
    held = Held()
    held.memory.clear()
    with pytest.raises(KeyError):
        describe_difference(held)


class Opens:
    """A stand-in for Windows when a process is opened: `error` is the failure of the open, and `look` the next call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.look: Callable[[], str] = lambda: "other code"
        self.has_exited = False
        self.closed: list[int] = []
        monkeypatch.setattr(kernel, "open_process", self.open)
        monkeypatch.setattr(process, "has_exited", lambda _: self.has_exited)
        monkeypatch.setattr(process, "native_image_path", lambda _: NAME)
        monkeypatch.setattr(tamper, "describe_difference", lambda _: self.look())

    def open(self, pid: int, access: int) -> Handle:
        if self.error is not None:
            raise self.error
        closed = self.closed

        class Watched(Handle):
            __slots__ = ()
            _close = staticmethod(closed.append)

        return Watched(pid)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    return Opens(monkeypatch)


RECORD = ProcessHelper(pid=44, parent_pid=4, image_name="c:\\tools\\a.exe", native_name=NAME)


def refuses() -> str:
    raise PermissionError(13, "ReadProcessMemory: access is denied")


def test_the_process_is_closed_after_the_look(opens: Opens) -> None:
    assert find_tampering(RECORD) == "other code"
    assert opens.closed == [44]


def test_one_that_has_gone_is_not_tampered_with(opens: Opens) -> None:
    opens.error = windows_error("OpenProcess", 87)
    assert find_tampering(RECORD) == ""


def test_one_that_goes_during_the_look_is_not_tampered_with(opens: Opens) -> None:
    opens.look, opens.has_exited = refuses, True
    assert find_tampering(RECORD) == ""
    assert opens.closed == [44]


def test_one_that_cannot_be_opened_or_read_is_an_error(opens: Opens) -> None:
    opens.look = refuses
    with pytest.raises(PermissionError):
        find_tampering(RECORD)
    opens.error = windows_error("OpenProcess", 5)
    with pytest.raises(OSError, match="OpenProcess"):
        find_tampering(RECORD)
    assert opens.closed == [44]


# -------------------------------------------------------------------------------------------------- what a file says


def code_of(file: bytes, base: int, pages: int = 2) -> bytes:
    expected = PortableExecutable(io.BytesIO(file)).code_at_entry(base, pages)
    assert expected is not None and expected.address == TEXT
    return expected.code


@pytest.mark.parametrize(("wide", "kind", "form"), [(True, 10, "<Q"), (False, 3, "<I")])
def test_addresses_in_the_code_move_with_the_image(wide: bool, kind: int, form: str) -> None:
    """Also a relocation across two pages, and one that begins before the page and extends into it."""
    preferred, base = (0x140000000, 0x7FF600000000) if wide else (0x400000, 0x660000)
    places = [0x10, 0xFFE, 0x1FFE]
    code = bytearray(b"\xcc" * 0x3000)
    for place in places:
        struct.pack_into(form, code, place, preferred + 0x1234)
    entries: dict[int, list[int]] = {}
    for place in places:
        entries.setdefault(TEXT + (place & -0x1000), []).append(kind << 12 | place % 0x1000)
    file = executable(code=bytes(code), wide=wide, relocations=entries)
    assert code_of(file, preferred, 3) == code
    for place in places:
        struct.pack_into(form, code, place, base + 0x1234)
    assert code_of(file, base, 3) == code
    assert code_of(file, base, 1) == code[:0x1000], "the first two bytes of the address at 0xFFE"
    second = executable(code=bytes(code_of(file, preferred, 3)), wide=wide, relocations=entries, entry=TEXT + 0x1000)
    expected = PortableExecutable(io.BytesIO(second)).code_at_entry(base, 1)
    assert expected is not None and (expected.address, expected.code) == (TEXT + 0x1000, bytes(code[0x1000:0x2000]))


def test_relocations_of_other_kinds_and_pages_are_left_out() -> None:
    code = b"\xcc" * 0x200
    entries = {TEXT: [0, 1 << 12 | 4, 9 << 12 | 8], 0x9000: [10 << 12]}
    assert code_of(executable(code=code, relocations=entries), 0x150000000) == code


def test_a_table_of_relocations_without_an_end_is_left() -> None:
    file = bytearray(executable(relocations={TEXT: [10 << 12, 0]}))
    at = file.rindex(struct.pack("<II", TEXT, 12))
    struct.pack_into("<I", file, at + 4, 0)
    assert code_of(bytes(file), 0x150000000) == CODE.ljust(0x200, b"\0")


@pytest.mark.parametrize(
    "file",
    [executable(entry=0), executable(machine=0xAA64), executable(entry=0x200), executable(entry=0x3000)],
    ids=["no entry point", "arm64", "in the header", "in no section"],
)
def test_what_a_file_cannot_tell_is_none(file: bytes) -> None:
    assert PortableExecutable(io.BytesIO(file)).code_at_entry(BASE) is None


def test_a_file_that_is_mapped_in_one_piece_is_not_compared() -> None:
    file = bytearray(executable())
    struct.pack_into("<I", file, 0x40 + 24 + 32, 0x200)
    assert PortableExecutable(io.BytesIO(file)).code_at_entry(BASE) is None
