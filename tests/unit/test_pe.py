"""Facts read from portable executables that the tests make, and the cost of broken ones."""

import hashlib
import io
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authenticode import image_hash
from executables import HEADERS, IMPORTS, TEXT, executable
from procmon.system import import_ordinals, pe
from procmon.system.pe import PortableExecutable, VersionInfo

TEXTS = {
    "CompanyName": "Example Ltd",
    "FileDescription": "A tool\u2122",
    "FileVersion": "10.0.1 (rel)",
    "OriginalFilename": "certutil.exe",
    "ProductName": "Tools",
}


def read(data: bytes) -> PortableExecutable:
    return PortableExecutable(io.BytesIO(data))


@pytest.mark.parametrize("wide", [True, False])
def test_the_version_resource_is_read(wide: bool) -> None:
    assert read(executable(version=TEXTS, wide=wide)).version() == VersionInfo(
        original_file_name="certutil.exe",
        product="Tools",
        company="Example Ltd",
        description="A tool\u2122",
        file_version="10.0.1 (rel)",
    )


def test_without_its_text_the_version_is_that_of_the_fixed_part() -> None:
    assert read(executable(version={}, numbers=(10, 0, 19041, 1))).version() == VersionInfo(file_version="10.0.19041.1")


def test_half_a_surrogate_pair_is_kept() -> None:
    assert read(executable(version={"OriginalFilename": "a\ud800.exe"})).version().original_file_name == "a\ud800.exe"


def test_nothing_is_kept_for_the_library_names_that_a_file_makes_up() -> None:
    for number in range(100):
        assert import_ordinals.name_of(f"made-up-{number}.dll", 5) == "ord5"
    assert import_ordinals._names.cache_info().currsize <= len(import_ordinals._TABLES)


def test_an_executable_without_resources_has_no_version_and_no_imphash() -> None:
    program = read(executable())
    assert program.version() == VersionInfo()
    assert program.imphash() is None


@pytest.mark.parametrize("wide", [True, False])
def test_the_imphash_is_the_md5_of_the_imported_names(wide: bool) -> None:
    """By name and by number; the library without its usual suffix, all lowercase."""
    imports: dict[str, list[str | int]] = {
        "KERNEL32.dll": ["CreateFileW", 7],
        "WS2_32.DLL": [115, 999],
        "comctl.ocx": ["A"],
        "odd.drv": ["b"],
    }
    names = "kernel32.createfilew,kernel32.ord7,ws2_32.wsastartup,ws2_32.ord999,comctl.a,odd.drv.b"
    assert read(executable(imports=imports, wide=wide)).imphash() == hashlib.md5(names.encode()).hexdigest()


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("tail", [b"", b"x", b"overlay"])
def test_a_signature_does_not_change_the_authenticode_hash(wide: bool, tail: bytes) -> None:
    unsigned = executable(wide=wide, tail=tail)
    padded = tail + bytes(-len(unsigned) % 8)
    signed = executable(wide=wide, tail=padded, signature=b"signature" * 8)
    digest = read(unsigned).authenticode_hash()
    assert digest == image_hash(unsigned, "sha256").hex() == read(signed).authenticode_hash()
    assert read(unsigned).authenticode_hash("sha1") == image_hash(unsigned, "sha1").hex()
    checksum = bytearray(unsigned)
    checksum[0x40 + 24 + 64] ^= 0xFF
    assert read(bytes(checksum)).authenticode_hash() == digest
    changed = bytearray(unsigned)
    changed[0x400] ^= 0xFF
    assert read(bytes(changed)).authenticode_hash() != digest


@pytest.mark.parametrize("data", [b"", b"MZ", b"#!/bin/sh\n", b"MZ".ljust(0x3C, b"\0") + b"\xff\xff\xff\x7f"])
def test_what_is_no_executable_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no portable executable|the file ends at byte"):
        read(data)


def test_a_signature_beyond_the_end_of_the_file_is_refused() -> None:
    cut = executable(signature=bytes(64))[:-8]
    with pytest.raises(ValueError, match="its signature is said to be at byte"):
        read(cut).authenticode_hash()


WHOLE = executable(imports={"a.dll": ["f", 3]}, version=TEXTS, signature=bytes(16))


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8)), max_size=8), st.data())
def test_a_damaged_file_costs_a_value_error_at_most(damage: list[tuple[int, bytes]], data: st.DataObject) -> None:
    file = bytearray(WHOLE)
    for at, noise in damage:
        file[at : at + len(noise)] = noise
    del file[data.draw(st.integers(0, len(file))) :]
    for ask in ("version", "imphash", "authenticode_hash"):
        try:
            getattr(read(bytes(file)), ask)()
        except ValueError:
            pass


def test_a_program_that_imports_more_than_the_limit_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    program = executable(imports={"a.dll": ["f", 3], "b.dll": ["g"]})
    monkeypatch.setattr(pe, "_MAX_IMPORTS", 3)
    assert read(program).imphash() is not None
    monkeypatch.setattr(pe, "_MAX_IMPORTS", 2)
    with pytest.raises(ValueError, match="it imports more than 2 functions"):
        read(program).imphash()


def test_a_table_of_imports_that_does_not_end_is_given_up() -> None:
    data = bytearray(executable(imports={"a.dll": [1] * 2000}))
    for at in range(0x600, len(data) - 8, 8):  # every descriptor and thunk: number 1
        if data[at + 7] == 0 and not any(data[at : at + 8]):
            data[at : at + 8] = (1 << 63 | 1).to_bytes(8, "little")
    with pytest.raises(ValueError, match=r"sections|imports more|does not end|ends at byte"):
        read(bytes(data)).imphash()


def test_a_function_that_is_not_exported_has_no_address() -> None:
    assert read(executable()).export("KiRaiseUserExceptionDispatcher") is None


def with_many_sections(data: bytes, count: int) -> bytes:
    """The file with a larger table of sections: `count` empty ones, then its own."""
    room = count * 40 + 0x1FF & ~0x1FF
    moved = bytearray(data[:HEADERS] + bytes(room) + data[HEADERS:])
    sections = int.from_bytes(moved[0x46:0x48], "little")
    table = 0x40 + 24 + int.from_bytes(moved[0x54:0x56], "little")
    for index in range(sections):
        at = table + 40 * index + 20
        moved[at : at + 4] = (int.from_bytes(moved[at : at + 4], "little") + room).to_bytes(4, "little")
    more = b"".join(struct.pack("<8s4I16x", b".more", 0x1000, 0x100000 + 0x1000 * n, 0, 0) for n in range(count))
    own = moved[table : table + 40 * sections]
    moved[table : table + len(more + own)] = more + own
    moved[0x46:0x48] = (sections + count).to_bytes(2, "little")
    return bytes(moved)


class Counted(list[pe._Section]):
    """Sections that count how often one is looked at."""

    looks = 0

    def __iter__(self) -> Iterator[pe._Section]:
        for each in super().__iter__():
            Counted.looks += 1
            yield each

    def __getitem__(self, index: Any) -> Any:
        Counted.looks += 1
        return super().__getitem__(index)


def test_many_sections_make_no_look_up_slow() -> None:
    """A look-up that outlasts the deadline of the monitor would let the process run."""
    data = executable(imports={"a.dll": ["f", 3] * 100})
    program = read(with_many_sections(data, 60_000))
    program._sections = Counted(program._sections)
    assert program.imphash() == read(data).imphash()
    assert 0 < Counted.looks < 1000


def test_the_names_of_imports_are_not_in_memory_all_at_once() -> None:
    name = "n" * 4000
    data = executable(imports={"a.dll": [name]})
    thunks = 2000
    patched = bytearray(data)
    first = int.from_bytes(data[0x600:0x604], "little")  # the descriptor's list of names
    entry = data[0x600 + first - IMPORTS : 0x600 + first - IMPORTS + 8]
    patched += bytes(-len(patched) % 0x200)
    section = 0x40 + 24 + int.from_bytes(data[0x54:0x56], "little") + 40  # the last one: .idata
    new = IMPORTS + len(patched) - 0x600
    patched += entry * thunks + bytes(8)
    size = len(patched) - 0x600
    patched[section + 8 : section + 12] = patched[section + 16 : section + 20] = size.to_bytes(4, "little")
    patched[0x600:0x604] = new.to_bytes(4, "little")
    program = read(bytes(patched))
    tracemalloc.start()
    try:
        digest = program.imphash()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert digest == hashlib.md5(",".join([f"a.{name}"] * thunks).encode()).hexdigest()
    assert peak < 1 << 20


def test_a_table_that_relocates_one_address_again_and_again_is_given_up() -> None:
    program = read(executable(code=bytes(0x2000), relocations={TEXT: [10 << 12 | 0xFFC] * 30_000}))
    with pytest.raises(ValueError, match="again and again"):
        program.code_at_entry(0x150000000)
