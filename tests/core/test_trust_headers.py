"""trust.py and codes.py of win32 and mingw-w64's headers agree: structures, constants, functions, on x64 and x86.

Nothing is run: procmon's assumptions become static assertions, which a compiler for Windows checks.
"""

import ctypes
import inspect
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.harness import build
from procmon.system import signature
from procmon.win32 import codes, trust

COMPILERS = {8: "x86_64-w64-mingw32-g++", 4: "i686-w64-mingw32-g++"}

STRUCTURES = {
    trust._Guid: "GUID: Data1 Data2 Data3 Data4",
    trust._FileInfo: "WINTRUST_FILE_INFO: cbStruct pcwszFilePath hFile pgKnownSubject",
    trust._CatalogMember: "WINTRUST_CATALOG_INFO: cbStruct dwCatalogVersion pcwszCatalogFilePath pcwszMemberTag"
    " pcwszMemberFilePath hMemberFile pbCalculatedFileHash cbCalculatedFileHash pcCatalogContext hCatAdmin",
    trust._TrustData: "WINTRUST_DATA: cbStruct pPolicyCallbackData pSIPClientData dwUIChoice fdwRevocationChecks"
    " dwUnionChoice pFile dwStateAction hWVTStateData pwszURLReference dwProvFlags dwUIContext",
    trust._ProviderCert: "CRYPT_PROVIDER_CERT: cbStruct pCert",
    trust._CatalogInfo: "CATALOG_INFO: cbStruct wszCatalogFile",
}
# Windows 8 added pSignatureSettings; mingw-w64 10 does not have it.
NEWER: dict[type[ctypes.Structure], int] = {trust._TrustData: 1}
# Codes that mingw-w64 10 does not have: the numbers are those of the page that codes.py names.
NEWER_CODES = {
    "ERROR_VIRUS_INFECTED": 225,
    "ERROR_NO_SUCH_DEVICE": 433,
    "ERROR_INVALID_IMAGE_HASH": 577,
    "ERROR_DRIVER_FAILED_PRIOR_UNLOAD": 654,
    "ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION": 4551,
}
HEAD_ONLY = {trust._ProviderCert}

SOURCE = """\
#define _WIN32_WINNT 0x0602
#define NTDDI_VERSION 0x06020000
#include <windows.h>
#include <wintrust.h>
#include <softpub.h>
#include <mscat.h>
#include <bcrypt.h>
#include <cstddef>
#include <initializer_list>
#include <string_view>

template <typename Result, typename... Parameters>
constexpr bool has_sizes(Result(WINAPI*)(Parameters...), std::initializer_list<size_t> wanted) {
    const size_t sizes[] = {sizeof(Result), sizeof(Parameters)...};
    if (wanted.size() != sizeof sizes / sizeof *sizes) {
        return false;
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
        if (sizes[i] != wanted.begin()[i]) {
            return false;
        }
    }
    return true;
}
constexpr GUID kAction = WINTRUST_ACTION_GENERIC_VERIFY_V2;

"""


def layout(kind: Any, pointer: int) -> tuple[int, int, list[int]]:
    """Size, alignment and offsets of a ctypes type on a Windows with pointers of that size."""
    if issubclass(kind, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p, ctypes._Pointer)):
        return pointer, pointer, []
    if issubclass(kind, ctypes.Array):
        size, alignment, _ = (2, 2, []) if kind._type_ is ctypes.c_wchar else layout(kind._type_, pointer)
        return size * kind._length_, alignment, []
    if not issubclass(kind, ctypes.Structure):
        return ctypes.sizeof(kind), ctypes.sizeof(kind), []
    end, alignments, offsets = 0, [1], list[int]()
    for _, field in kind._fields_:
        size, alignment, _ = layout(field, pointer)
        offsets.append(end + -end % alignment)
        end = offsets[-1] + size
        alignments.append(alignment)
    return end + -end % max(alignments), max(alignments), offsets


def of_structures(pointer: int) -> list[str]:
    claims = []
    for structure, text in STRUCTURES.items():
        name, fields = text.split(": ")
        size, _, offsets = layout(structure, pointer)
        newer = NEWER.get(structure, 0)
        assert len(fields.split()) + newer == len(offsets)
        for field, offset, (_, kind, *_) in zip(fields.split(), offsets, structure._fields_, strict=False):
            claims.append(f"offsetof({name}, {field}) == {offset}")
            claims.append(f"sizeof({name}::{field}) == {layout(kind, pointer)[0]}")
        if structure not in HEAD_ONLY:
            claims.append(f"sizeof({name}) == {offsets[-newer] if newer else size}")
    return claims


def of_constants() -> list[str]:
    """By their names, or by what a comment calls them."""
    named = {name[1:]: value for name, value in vars(trust).items() if re.match("_(WTD|CERT)_", name)}
    named |= {name: value for name, value in vars(codes).items() if name.startswith("ERROR_")}
    statuses = re.findall(r"^    (0x[0-9A-F]{8}): SignatureStatus\.\w+,  # (\w+)", source_of(signature), re.MULTILINE)
    assert len(named) == 10 + len(codes.__all__) - 1 and len(statuses) == len(signature._STATUS) - 1  # 0 has no name
    assert named.items() >= NEWER_CODES.items()
    return [
        *(f"{name} == {value}" for name, value in named.items() if name not in NEWER_CODES),
        *(f"(unsigned){name} == {value}" for value, name in statuses),
        "ERROR_SUCCESS == 0 && ERROR_FILE_NOT_FOUND == 2 && ERROR_NO_MORE_FILES == 18 && ERROR_NOT_FOUND == 1168",
        f'std::wstring_view(BCRYPT_SHA256_ALGORITHM) == L"{trust._HASHES[0]}"',
        *(f"kAction.Data{n} == {getattr(trust._GENERIC_VERIFY_V2, f'data{n}')}" for n in (1, 2, 3)),
        *(f"kAction.Data4[{n}] == {byte}" for n, byte in enumerate(trust._GENERIC_VERIFY_V2.data4)),
    ]


def of_functions(pointer: int) -> list[str]:
    """The functions as procmon binds them: the size of the result and of each parameter."""
    claims = []
    for function in vars(trust).values():
        bound = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
        if "library" in bound:
            sizes = [layout(kind, pointer)[0] for kind in (bound["result"], *bound["arguments"])]
            claims.append(f"has_sizes({bound['name']}, {{{', '.join(map(str, sizes))}}})")
    assert len(claims) == 13
    return claims


def source_of(module: Any) -> str:
    return Path(module.__file__).read_text("utf-8")


def refused(claims: list[str], pointer: int, folder: Path) -> list[str]:
    """The claims that the compiler rejects."""
    source = folder / "claims.cpp"
    source.write_text(SOURCE + "".join(f'static_assert({claim}, R"({claim})");\n' for claim in claims))
    build()._version(COMPILERS[pointer])  # its error says what to install
    command = [COMPILERS[pointer], "-std=c++17", "-fsyntax-only", str(source)]
    said = subprocess.run(command, capture_output=True, text=True)
    wrong = re.findall(r"error: static assertion failed: (.*)", said.stderr)
    assert said.returncode == 0 or wrong, said.stderr
    return wrong


@pytest.mark.parametrize("pointer", COMPILERS)
def test_structures_constants_and_functions_are_those_of_the_headers(pointer: int, tmp_path: Path) -> None:
    claims = of_structures(pointer) + of_constants() + of_functions(pointer)
    assert refused(claims, pointer, tmp_path) == []


def test_a_claim_that_does_not_hold_is_found(tmp_path: Path) -> None:
    wrong = [claim for claim in of_structures(4) if claim not in of_structures(8)]
    assert len(wrong) > 20 and "sizeof(WINTRUST_CATALOG_INFO) == 40" in wrong
    assert refused(wrong, 8, tmp_path) == wrong


@pytest.mark.parametrize("structure", [one for one in STRUCTURES if one is not trust._CatalogInfo])
def test_ctypes_lays_them_out_in_the_same_way(structure: Any) -> None:
    """Except CATALOG_INFO, whose characters are wider off Windows; tests/windows/wintrust.py checks it."""
    size, _, offsets = layout(structure, ctypes.sizeof(ctypes.c_void_p))
    assert ctypes.sizeof(structure) == size
    assert [getattr(structure, name).offset for name, *_ in structure._fields_] == offsets
