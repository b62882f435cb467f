"""The files that driver/build.py makes: what they import, how they are linked, and that the same sources give them."""

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import procmon

PROJECT = Path(__file__).resolve().parents[2]
DRIVERS = ("x64", "x86", "wine")

EXECUTABLE, IS_DLL, RELOCS_STRIPPED = 0x2, 0x2000, 0x1  # IMAGE_FILE_HEADER.Characteristics
DYNAMIC_BASE, FORCE_INTEGRITY, NX_COMPATIBLE = 0x40, 0x80, 0x100  # DllCharacteristics
NATIVE = 1  # IMAGE_SUBSYSTEM_NATIVE
SECTION_EXECUTES, SECTION_WRITES = 0x20000000, 0x80000000


def load_builder(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("procmon_driver_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


builder = load_builder(PROJECT / "driver" / "build.py")


@dataclass(frozen=True)
class Section:
    name: str
    address: int
    size: int
    offset: int
    flags: int


class PortableExecutable:
    """As much of a PE file as these tests ask about."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        header = self._int(0x3C)
        assert self.data[header : header + 4] == b"PE\0\0"
        self.machine, count = struct.unpack_from("<HH", self.data, header + 4)
        self.timestamp = self._int(header + 8)
        optional_size, self.characteristics = struct.unpack_from("<HH", self.data, header + 20)
        optional = header + 24
        self.is_64_bit = struct.unpack_from("<H", self.data, optional)[0] == 0x20B
        self.entry = self._int(optional + 16)
        self.section_alignment = self._int(optional + 32)
        self.subsystem_version = struct.unpack_from("<HH", self.data, optional + 48)
        self.checksum = self._int(optional + 64)
        self.subsystem, self.dll_characteristics = struct.unpack_from("<HH", self.data, optional + 68)
        directories = optional + (112 if self.is_64_bit else 96)
        self.directories = [struct.unpack_from("<II", self.data, directories + 8 * i) for i in range(16)]
        self.sections = [self._section(optional + optional_size + 40 * i) for i in range(count)]

    def _int(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self.data, offset)[0])

    def _section(self, offset: int) -> Section:
        name, size, address, _, raw, flags = struct.unpack_from("<8sIIII12xI", self.data, offset)
        return Section(name.rstrip(b"\0").decode(), address, size, raw, flags)

    def _offset(self, address: int) -> int:
        for section in self.sections:
            if section.address <= address < section.address + section.size:
                return address - section.address + section.offset
        raise AssertionError(f"no section holds {address:#x}")

    def _string(self, address: int) -> str:
        start = self._offset(address)
        return self.data[start : self.data.index(b"\0", start)].decode()

    def imports(self) -> Iterator[tuple[str, str]]:
        """Each import as (file in lowercase, name)."""
        at = self._offset(self.directories[1][0])
        width, ordinal = (8, 1 << 63) if self.is_64_bit else (4, 1 << 31)
        while self._int(at + 12):
            file, names = self._string(self._int(at + 12)).lower(), self._offset(self._int(at))
            while thunk := int.from_bytes(self.data[names : names + width], "little"):
                assert not thunk & ordinal, f"{file} is asked for a number, not a name"
                yield file, self._string(thunk + 2)
                names += width
            at += 20

    def computed_checksum(self) -> int:
        """The sum that the kernel's loader compares with the header."""
        words = bytearray(self.data + b"\0" * (len(self.data) % 2))
        field = self._int(0x3C) + 24 + 64
        words[field : field + 4] = b"\0\0\0\0"
        total: int = sum(struct.unpack(f"<{len(words) // 2}H", words))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total + len(self.data)


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """Every variant. A warning is an error, so this passing says that there is none."""
    return {variant: builder.build([variant])[variant] for variant in builder.VARIANTS}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, built: dict[str, Path]) -> tuple[str, PortableExecutable]:
    return request.param, PortableExecutable(built[request.param])


def allowed_imports(variant: str) -> set[tuple[str, str]]:
    """What driver/imports.txt grants a variant."""
    names: set[tuple[str, str]] = set()
    file, variants = "", list[str]()
    for line in (PROJECT / "driver" / "imports.txt").read_text("utf-8").splitlines():
        if section := re.fullmatch(r"\[(\S+): (.+)\]", line):
            file, variants = section[1], section[2].split()
            assert set(variants) <= set(DRIVERS), line
        elif line and not line.startswith("#") and variant in variants:
            names.add((file, line))
    return names


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------------- imports


def test_a_driver_imports_what_the_list_says_and_nothing_else(driver: tuple[str, PortableExecutable]) -> None:
    variant, image = driver
    assert set(image.imports()) == allowed_imports(variant)


@pytest.mark.parametrize(
    "newer",
    ["PsSetCreateProcessNotifyRoutineEx", "SeLocateProcessImageName", "ExAllocatePool2", "PsIsProtectedProcess",
     "RtlDowncaseUnicodeChar", "IoCreateDeviceSecure", "KeQueryUnbiasedInterruptTime", "memcmp"],
)  # fmt: skip
def test_what_the_oldest_kernels_lack_is_on_no_list(newer: str) -> None:
    assert not [variant for variant in DRIVERS if newer in {name for _, name in allowed_imports(variant)}]


# ---------------------------------------------------------------------------------------------------------- link


def test_a_driver_is_a_native_executable_that_can_be_moved_and_whose_data_never_executes(
    driver: tuple[str, PortableExecutable],
) -> None:
    variant, image = driver
    assert image.machine == (0x14C if variant == "x86" else 0x8664)
    assert image.subsystem == NATIVE
    assert image.subsystem_version == ((5, 2) if variant == "x86" else (6, 1))
    assert image.characteristics & EXECUTABLE and not image.characteristics & (IS_DLL | RELOCS_STRIPPED)
    assert image.dll_characteristics & (DYNAMIC_BASE | NX_COMPATIBLE) == DYNAMIC_BASE | NX_COMPATIBLE
    assert image.directories[5][1] > 0, "no relocations"
    assert image.section_alignment == 0x1000
    assert image.entry > 0


def test_forced_integrity_is_asked_for_where_drivers_are_signed_anyhow(built: dict[str, Path]) -> None:
    """PsSetCreateProcessNotifyRoutineEx wants it; on 32-bit Windows it would keep an unsigned driver from loading."""
    assert PortableExecutable(built["x64"]).dll_characteristics & FORCE_INTEGRITY
    assert not PortableExecutable(built["x86"]).dll_characteristics & FORCE_INTEGRITY


def test_no_section_is_both_writable_and_executable(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    both = SECTION_WRITES | SECTION_EXECUTES
    assert not [section.name for section in image.sections if section.flags & both == both]
    assert [section.name for section in image.sections if section.flags & SECTION_EXECUTES] == [".text"]


def test_the_checksum_is_the_one_that_the_kernel_computes(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    assert image.checksum == image.computed_checksum()


def test_a_driver_exports_nothing_and_carries_no_time(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    assert image.directories[0] == (0, 0)
    assert image.timestamp == 0


def test_the_x86_driver_leaves_the_floating_point_state_alone(built: dict[str, Path]) -> None:
    """A callback runs on somebody else's thread, and x86 kernels do not save that state for it."""
    code = run("i686-w64-mingw32-objdump", "-d", built["x86"]).stdout
    assert code.count("\tcall ") > 100
    assert not re.findall(r"%xmm\d|%mm\d|%st\b", code)


def test_a_driver_says_its_version_which_is_the_packages(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    fixed = image.data.index(struct.pack("<II", 0xFEEF04BD, 0x10000))  # VS_FIXEDFILEINFO
    high, low = struct.unpack_from("<II", image.data, fixed + 8)
    wanted = procmon.__version__
    assert f"{high >> 16}.{high & 0xFFFF}.{low >> 16}" == wanted
    key = "FileVersion".encode("utf-16-le") + b"\0\0"
    assert wanted.encode("utf-16-le") in image.data[image.data.index(key) :][:60]


@pytest.mark.parametrize("variant", DRIVERS)
def test_nothing_has_to_run_before_driver_entry(variant: str, built: dict[str, Path]) -> None:
    """There is no start-up code to call a constructor of a global."""
    objects = sorted((builder.OUTPUT / "objects" / variant).rglob("*.o"))
    assert len(objects) >= len(builder.sources(variant))
    tool = "i686-w64-mingw32-objdump" if variant == "x86" else "x86_64-w64-mingw32-objdump"
    assert not re.findall(r"\.(?:ctors|init_array)\S*", run(tool, "-h", *objects).stdout)


# ------------------------------------------------------------------------------------------------------- sources


def test_every_variant_compiles_the_same_core() -> None:
    core = set((PROJECT / "driver" / "core").glob("*.cpp"))
    assert core
    for variant in builder.VARIANTS:
        assert core <= set(builder.sources(variant)), variant


def test_the_kernel_side_is_one_but_for_native_and_wine() -> None:
    x64, x86, wine = (set(builder.sources(variant)) for variant in DRIVERS)
    assert x64 == x86
    assert {path.name for path in x64 - wine} == {"native.cpp"}
    assert {path.parent.name for path in wine - x64} == {"wine"}


def test_two_builds_in_different_places_give_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    shutil.copytree(PROJECT / "driver", elsewhere / "driver", ignore=shutil.ignore_patterns("__pycache__"))
    other = load_builder(elsewhere / "driver" / "build.py")
    assert elsewhere / "build" / "driver" == other.OUTPUT
    again = other.build()
    assert [name for name, path in again.items() if path.read_bytes() != built[name].read_bytes()] == []


def test_what_is_up_to_date_is_not_built_again_and_what_changed_is(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "driver", tmp_path / "driver", ignore=shutil.ignore_patterns("__pycache__"))
    other = load_builder(tmp_path / "driver" / "build.py")
    library = other.build(["host"])["host"]
    objects = sorted((tmp_path / "build" / "driver" / "objects" / "host").rglob("*.o"))
    before = {path: path.stat().st_mtime_ns for path in [library, *objects]}
    header = tmp_path / "driver" / "core" / "volumes.h"
    header.touch()  # a new time, but the same bytes
    other.build(["host"])
    assert {path: path.stat().st_mtime_ns for path in before} == before

    header.write_text(header.read_text("utf-8") + "// changed\n", "utf-8")
    other.build(["host"])
    changed = {path.name for path in objects if path.stat().st_mtime_ns != before[path]}
    assert "volumes.o" in changed and "exempt.o" not in changed


def test_a_warning_ends_the_build_with_what_the_compiler_said(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "driver", tmp_path / "driver", ignore=shutil.ignore_patterns("__pycache__"))
    other = load_builder(tmp_path / "driver" / "build.py")
    (tmp_path / "driver" / "core" / "warning.cpp").write_text("static int unused;\n", "utf-8")
    with pytest.raises(other.BuildError, match="unused"):
        other.build(["x86"])
    assert not (tmp_path / "build" / "driver" / "x86" / "procmon.sys").exists()


def test_a_variant_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="'arm64'; there are x64, x86, wine, host"):
        builder.build(["arm64"])


LAYOUTS = """
#include "driver/wdm/kernel.h"
constexpr bool k64 = sizeof(void*) == 8;
static_assert(offsetof(PS_CREATE_NOTIFY_INFO, ParentProcessId) == (k64 ? 0x10 : 0x08));
static_assert(offsetof(PS_CREATE_NOTIFY_INFO, CreatingThreadId) == (k64 ? 0x18 : 0x0C));
static_assert(offsetof(PS_CREATE_NOTIFY_INFO, ImageFileName) == (k64 ? 0x30 : 0x18));
static_assert(offsetof(PS_CREATE_NOTIFY_INFO, CommandLine) == (k64 ? 0x38 : 0x1C));
static_assert(offsetof(PS_CREATE_NOTIFY_INFO, CreationStatus) == (k64 ? 0x40 : 0x20));
static_assert(offsetof(IMAGE_INFO, ImageBase) == (k64 ? 0x08 : 0x04));
static_assert(offsetof(KUSER_SHARED_DATA, NtSystemRoot) == 0x30);
static_assert(offsetof(FILE_OBJECT, FileName) == (k64 ? 0x58 : 0x30));
static_assert(offsetof(IO_STACK_LOCATION, FileObject) == (k64 ? 0x30 : 0x18));
static_assert(sizeof(FAST_MUTEX) == (k64 ? 0x38 : 0x20) && sizeof(KEVENT) == (k64 ? 0x18 : 0x10));
"""


@pytest.mark.parametrize("variant", ["x64", "x86"])
def test_what_a_real_kernel_fills_in_lies_where_windows_has_it(variant: str, tmp_path: Path) -> None:
    """The offsets of Windows' public symbols; the DDK headers at hand are not Microsoft's."""
    recipe = builder._driver(variant, debug=False)
    source = tmp_path / "layouts.cpp"
    source.write_text(LAYOUTS, "utf-8")
    result = run(recipe.compiler, *recipe.compile_flags, f"-I{PROJECT}", "-fsyntax-only", source)
    assert result.returncode == 0, result.stderr


# ----------------------------------------------------------------------------------------- another compiler's eyes


@pytest.mark.parametrize(
    "source",
    sorted({*builder.sources("x64"), *builder.sources("wine")}),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_sources_parse_as_msvc_reads_them(source: Path) -> None:
    """clang in MSVC mode. The core needs no more; the kernel side reads mingw's DDK headers for want of the WDK's,
    and those want to be told that they are at home."""
    ddk = builder._ddk("x86_64-w64-mingw32-g++")
    headers = ["-isystem", ddk.parent] if source.parent.name == "core" else [
        "-isystem", ddk, "-isystem", ddk.parent, "-fgnuc-version=12", "-D__MINGW32__", "-D_WIN32_WINNT=0x0600"
    ]  # fmt: skip
    result = run(
        "clang++", "--target=x86_64-pc-windows-msvc", "-fsyntax-only", "-std=c++17", "-fno-exceptions", "-fno-rtti",
        "-fms-extensions", "-fms-compatibility-version=19.30", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
        *headers, source,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
