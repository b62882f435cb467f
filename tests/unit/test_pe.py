"""Facts read from portable executables that the tests make, and the cost of broken ones."""

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authenticode import image_hash
from executables import executable
from procmon.system import pe
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
