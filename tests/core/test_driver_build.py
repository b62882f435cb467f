"""The files that driver/build.py makes: their imports, their linkage, and that the same sources give the same bytes."""

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import procmon
from core.drivers import EXCEPTIONS, EXPORTS, LOAD_CONFIG, RELOCATIONS, PortableExecutable

PROJECT = Path(__file__).resolve().parents[2]
RELEASE = ("x64", "x86", "arm64")
DRIVERS = (*RELEASE, "wine")

MACHINES = {"x64": 0x8664, "x86": 0x14C, "arm64": 0xAA64, "wine": 0x8664}
OLDEST_WINDOWS = {"x64": (6, 1), "x86": (5, 2), "arm64": (10, 0), "wine": (6, 1)}
EXECUTABLE, IS_DLL, RELOCS_STRIPPED = 0x2, 0x2000, 0x1  # IMAGE_FILE_HEADER.Characteristics
DYNAMIC_BASE, FORCE_INTEGRITY, NX_COMPATIBLE, GUARD_CF = 0x40, 0x80, 0x100, 0x4000  # DllCharacteristics
NATIVE = 1  # IMAGE_SUBSYSTEM_NATIVE
SECTION_EXECUTES, SECTION_WRITES, SECTION_DISCARDABLE = 0x20000000, 0x80000000, 0x02000000
CODEVIEW, REPRODUCIBLE = 2, 16  # IMAGE_DEBUG_TYPE_...
GUARD_INSTRUMENTED, GUARD_TABLE_PRESENT = 0x100, 0x400  # IMAGE_GUARD_CF_...
UNSEEDED = {8: 0x00002B992DDFA232, 4: 0xBB40E64E}  # the cookie values that the loader treats as not seeded


def load_builder(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("procmon_driver_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


builder = load_builder(PROJECT / "driver" / "build.py")


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """Every variant. A warning is an error, so a pass shows that there is none."""
    return {variant: builder.build([variant])[variant] for variant in builder.VARIANTS}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, built: dict[str, Path]) -> tuple[str, PortableExecutable]:
    return request.param, PortableExecutable(built[request.param])


@pytest.fixture(params=RELEASE)
def release(request: pytest.FixtureRequest, built: dict[str, Path]) -> tuple[str, PortableExecutable]:
    """A release driver."""
    return request.param, PortableExecutable(built[request.param])


def allowed_imports(variant: str) -> set[tuple[str, str]]:
    """The names that driver/imports.txt grants to a variant."""
    return {(file, builder.bare_name(name)) for file, names in builder.imports(variant).items() for name in names}


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
    assert image.machine == MACHINES[variant]
    assert image.subsystem == NATIVE
    assert image.characteristics & EXECUTABLE and not image.characteristics & (IS_DLL | RELOCS_STRIPPED)
    assert image.dll_characteristics & (DYNAMIC_BASE | NX_COMPATIBLE) == DYNAMIC_BASE | NX_COMPATIBLE
    assert image.directories[RELOCATIONS][1] > 0
    assert image.section_alignment == 0x1000
    assert image.entry > 0


def test_a_driver_names_the_oldest_windows_that_it_is_for(driver: tuple[str, PortableExecutable]) -> None:
    """A kernel does not protect the image of a driver "for NT 4"."""
    variant, image = driver
    assert image.system_version == image.subsystem_version == OLDEST_WINDOWS[variant]


def test_forced_integrity_is_asked_for_where_drivers_are_signed_anyhow(built: dict[str, Path]) -> None:
    """PsSetCreateProcessNotifyRoutineEx requires it; on 32-bit Windows it would stop unsigned drivers from loading."""
    flags = {name: PortableExecutable(built[name]).dll_characteristics & FORCE_INTEGRITY for name in RELEASE}
    assert flags == {"x64": FORCE_INTEGRITY, "x86": 0, "arm64": FORCE_INTEGRITY}


def test_no_section_is_both_writable_and_executable(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    both = SECTION_WRITES | SECTION_EXECUTES
    assert not [section.name for section in image.sections if section.flags & both == both]
    assert [section.name for section in image.sections if section.flags & SECTION_EXECUTES] == [".text"]


def test_the_checksum_is_the_one_that_the_kernel_computes(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    assert image.checksum == image.computed_checksum()


def test_a_driver_exports_nothing(driver: tuple[str, PortableExecutable]) -> None:
    _, image = driver
    assert image.directories[EXPORTS] == (0, 0)


def test_a_release_driver_has_the_sections_that_a_driver_needs_and_frees_none_that_it_uses(
    release: tuple[str, PortableExecutable],
) -> None:
    variant, image = release
    names = {section.name for section in image.sections} - {".00cfg"}  # which newer linkers put into .rdata
    unwind = set() if variant == "x86" else {".pdata"}
    assert names == {".text", ".rdata", ".data", ".rsrc", ".reloc"} | unwind
    assert [section.name for section in image.sections if section.flags & SECTION_DISCARDABLE] == [".reloc"]


def test_64_bit_drivers_can_be_unwound_in_a_crash_dump(built: dict[str, Path]) -> None:
    sizes = {name: PortableExecutable(built[name]).directories[EXCEPTIONS][1] for name in RELEASE}
    assert sizes["x64"] > 50 * 12 and sizes["arm64"] > 50 * 8 and sizes["x86"] == 0


def test_a_release_driver_lists_what_may_be_called_through_a_pointer(release: tuple[str, PortableExecutable]) -> None:
    _, image = release
    config, addresses = image.load_config(), image.guarded_addresses()
    assert image.dll_characteristics & GUARD_CF
    assert config.guard_flags == GUARD_INSTRUMENTED | GUARD_TABLE_PRESENT
    assert config.size == (0x94 if image.is_64_bit else 0x5C) == image.directories[LOAD_CONFIG][1]
    assert addresses == sorted(set(addresses)) and len(addresses) > 30
    assert {image.section_of(address).name for address in addresses} == {".text"}
    assert image.entry in addresses


def test_the_pointers_of_control_flow_guard_are_read_only_and_lead_into_the_driver_until_a_kernel_sets_them(
    release: tuple[str, PortableExecutable],
) -> None:
    variant, image = release
    config = image.load_config()
    assert (config.guard_dispatch != 0) == (variant == "x64")
    for place in filter(None, (config.guard_check, config.guard_dispatch)):
        assert not image.section_of(place - image.base).flags & SECTION_WRITES
        target = image.pointer(image.offset(place - image.base)) - image.base
        assert image.section_of(target).name == ".text"
    check = image.offset(image.pointer(image.offset(config.guard_check - image.base)) - image.base)
    assert image.data[check:].startswith(b"\xc0\x03\x5f\xd6" if variant == "arm64" else b"\xc3")  # ret
    if variant == "x64":
        dispatch = image.offset(image.pointer(image.offset(config.guard_dispatch - image.base)) - image.base)
        assert image.data[dispatch:].startswith(b"\xff\xe0")  # jmp rax


def test_the_stack_cookie_is_where_the_loader_finds_it_with_the_value_that_it_seeds(
    release: tuple[str, PortableExecutable],
) -> None:
    """Windows 8 and later seed it with a random value; on older systems the driver's entry does."""
    variant, image = release
    cookie = image.load_config().security_cookie - image.base
    assert image.section_of(cookie).flags & SECTION_WRITES
    assert image.pointer(image.offset(cookie)) == UNSEEDED[image.width]
    entry = run(
        "llvm-objdump",
        "-d",
        f"--start-address={image.base + image.entry:#x}",
        f"--stop-address={image.base + image.entry + 200:#x}",
        builder.OUTPUT / variant / "procmon.sys",
    ).stdout
    assert re.search(r"cntvct_el0" if variant == "arm64" else r"\brdtsc\b", entry, re.IGNORECASE)


@pytest.mark.parametrize("variant", RELEASE)
def test_functions_with_buffers_check_the_cookie(variant: str, built: dict[str, Path]) -> None:
    objects = sorted((builder.OUTPUT / "objects" / variant).rglob("*.o"))
    symbols = run("llvm-nm", *objects).stdout
    assert symbols.count("U __stack_chk_fail") + symbols.count("U ___stack_chk_fail") > 5


def test_the_pdb_beside_a_release_driver_is_its_own_and_has_the_names_of_its_functions(
    release: tuple[str, PortableExecutable], built: dict[str, Path]
) -> None:
    variant, image = release
    signature, identity, name = struct.unpack_from("<4s16s4x12s", image.debug()[CODEVIEW])
    assert (signature, name) == (b"RSDS", b"procmon.pdb\0"), "a path of the machine that built it"
    pdb = built[variant].with_suffix(".pdb").read_bytes()
    assert pdb.startswith(b"Microsoft C/C++ MSF 7.00")
    assert identity in pdb
    assert b"on_image" in pdb and b"begin_hold" in pdb
    assert str(PROJECT).encode() not in pdb and str(PROJECT).encode() not in image.data


def test_the_time_of_a_release_driver_is_a_hash_of_its_bytes(release: tuple[str, PortableExecutable]) -> None:
    """A hash, as with /Brepro: symbol servers identify files by it, and two builds have the same."""
    _, image = release
    assert REPRODUCIBLE in image.debug()
    assert image.timestamp != 0


def test_the_x86_driver_leaves_the_floating_point_state_alone(built: dict[str, Path]) -> None:
    """A callback runs on the thread of another program, and x86 kernels do not save its floating-point state."""
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
    """A driver has no start-up code that calls constructors of globals."""
    objects = sorted((builder.OUTPUT / "objects" / variant).rglob("*.o"))
    assert len(objects) >= len(builder.sources(variant))
    sections = run("llvm-objdump", "-h", *objects).stdout
    assert ".text" in sections
    assert not re.findall(r"\.(?:ctors|init_array|CRT)\S*", sections)


# ------------------------------------------------------------------------------------------------------- sources


def test_every_variant_compiles_the_same_core() -> None:
    core = set((PROJECT / "driver" / "core").glob("*.cpp"))
    assert core
    for variant in builder.VARIANTS:
        assert core <= set(builder.sources(variant)), variant


def test_the_kernel_side_is_one_but_for_what_the_loader_reads_native_and_wine() -> None:
    x64, x86, arm64, wine = (set(builder.sources(variant)) for variant in DRIVERS)
    assert x64 == x86 == arm64
    assert {path.relative_to(PROJECT / "driver").parent.name for path in x64 - wine} == {"wdm", "image"}
    assert {path.name for path in x64 - wine if path.parent.name == "wdm"} == {"native.cpp"}
    assert {path.parent.name for path in wine - x64} == {"wine"}


def test_two_builds_in_different_places_give_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    shutil.copytree(PROJECT / "driver", elsewhere / "driver", ignore=shutil.ignore_patterns("__pycache__"))
    other = load_builder(elsewhere / "driver" / "build.py")
    assert elsewhere / "build" / "driver" == other.OUTPUT
    again = other.build()
    pairs = [(path, built[name]) for name, path in again.items()]
    pairs += [
        (path.with_suffix(".pdb"), built[name].with_suffix(".pdb")) for name, path in again.items() if name in RELEASE
    ]
    assert [str(path) for path, first in pairs if path.read_bytes() != first.read_bytes()] == []


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
    with pytest.raises(ValueError, match="'arm'; there are x64, x86, arm64, wine, host"):
        builder.build(["arm"])


def test_an_import_for_a_driver_that_does_not_exist_is_named(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "driver", tmp_path / "driver", ignore=shutil.ignore_patterns("__pycache__"))
    other = load_builder(tmp_path / "driver" / "build.py")
    (tmp_path / "driver" / "imports.txt").write_text("[ntoskrnl.exe: x64 mips]\nDbgPrint\n", "utf-8")
    with pytest.raises(other.BuildError, match="names mips, which is no driver"):
        other.imports("x64")


def test_a_missing_tool_is_named_with_the_package_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    builder._version.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(builder.BuildError, match="lld-link is not on PATH .*apt-get install lld;"):
        builder._version("lld-link")


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
static_assert(sizeof(KMUTEX) == (k64 ? 0x38 : 0x20));
static_assert(sizeof(IO_STACK_LOCATION) == (k64 ? 0x48 : 0x24));
static_assert(offsetof(IO_STACK_LOCATION, Parameters.DeviceIoControl.OutputBufferLength) == (k64 ? 0x08 : 0x04));
static_assert(offsetof(IO_STACK_LOCATION, Parameters.DeviceIoControl.InputBufferLength) == (k64 ? 0x10 : 0x08));
static_assert(offsetof(IO_STACK_LOCATION, Parameters.DeviceIoControl.IoControlCode) == (k64 ? 0x18 : 0x0C));
static_assert(offsetof(IRP, AssociatedIrp) == (k64 ? 0x18 : 0x0C) && offsetof(IRP, IoStatus) == (k64 ? 0x30 : 0x18));
static_assert(offsetof(IRP, Tail.Overlay.CurrentStackLocation) == (k64 ? 0xB8 : 0x60));
static_assert(offsetof(DRIVER_OBJECT, DriverUnload) == (k64 ? 0x68 : 0x34));
static_assert(offsetof(DRIVER_OBJECT, MajorFunction) == (k64 ? 0x70 : 0x38));
static_assert(offsetof(KUSER_SHARED_DATA, InterruptTime) == 8 && offsetof(KUSER_SHARED_DATA, SystemTime) == 0x14);
"""


@pytest.mark.parametrize("variant", RELEASE)
def test_what_a_real_kernel_fills_in_lies_where_windows_has_it(variant: str, tmp_path: Path) -> None:
    """The offsets of Windows' public symbols: the DDK headers here are not Microsoft's."""
    recipe = builder._driver(variant, debug=False)
    source = tmp_path / "layouts.cpp"
    source.write_text(LAYOUTS, "utf-8")
    command = [recipe.compiler, *recipe.compile_flags, f"-I{PROJECT}", "-fsyntax-only", str(source)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0, result.stderr


# ----------------------------------------------------------------------------------------- another compiler's eyes


@pytest.mark.parametrize(
    "source",
    sorted(path for path in {*builder.sources("x64"), *builder.sources("wine")} if path.parent.name != "image"),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_sources_parse_as_msvc_reads_them(source: Path) -> None:
    """clang in MSVC mode. The core needs nothing else. The kernel side needs mingw's DDK headers in place of the WDK's,
    and those need mingw's own macros."""
    ddk = builder._ddk()
    headers = ["-isystem", ddk.parent] if source.parent.name == "core" else [
        "-isystem", ddk, "-isystem", ddk.parent, "-fgnuc-version=12", "-D__MINGW32__", "-D_WIN32_WINNT=0x0600"
    ]  # fmt: skip
    result = run(
        "clang++", "--target=x86_64-pc-windows-msvc", "-fsyntax-only", "-std=c++17", "-fno-exceptions", "-fno-rtti",
        "-fms-extensions", "-fms-compatibility-version=19.30", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
        "-Wno-#warnings", *headers, source,  # mm3dnow.h of clang 19 has one
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
