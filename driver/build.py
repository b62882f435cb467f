#!/usr/bin/env python3
"""Build the drivers, and their core as a library for tests. Standard library only.

    python3 driver/build.py [x64] [x86] [arm64] [wine] [host] [wine-release] [client-x64] [client-x86] [--debug]

    x64, x86, arm64   build/driver/x64/procmon.sys ...: for Windows 7, NT 5.2 and Windows 10 and later; by clang and lld
    wine              build/driver/wine/procmon.sys: x64, notifications sent as requests; for tests; by mingw-w64
    wine-release      the same by clang and lld, so that tests run their output, too
    host              build/driver/host/libprocmon_core.so: the core alone, with a C interface
    client-x64 ...    build/driver/client-x64/client.exe ...: a controller and more in user mode, for tests

Each release driver has its symbols beside it in procmon.pdb. Every variant compiles the same driver/core. An up-to-date
file (by content, flags and compiler) is not built again; a warning is an error; the same sources give the same bytes in
any folder. --debug builds go to folders of their own: build/driver/x64-debug/ and so on.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["DRIVERS", "FOR_TESTS", "VARIANTS", "BuildError", "build", "host_program", "sources"]

DRIVER = Path(__file__).resolve().parent
PROJECT = DRIVER.parent
OUTPUT = PROJECT / "build" / "driver"

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Werror"]
LANGUAGE = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]
KERNEL = [
    *LANGUAGE,
    *WARNINGS,
    "-ffreestanding",
    "-fno-strict-aliasing",
    "-fno-ident",
    "-Wframe-larger-than=2048",  # a kernel stack is 12 KB on x86
    "-D_WIN32_WINNT=0x0600",
]
RELEASE = [
    *KERNEL,
    "-fstack-protector-strong",
    "-mgeneral-regs-only",  # the floating-point state belongs to the interrupted thread
    *("-Xclang", "-cfguard"),
    *("-g", "-gcodeview", "-ffile-compilation-dir=."),
]
_MINGW = {"x64": "x86_64-w64-mingw32-g++", "x86": "i686-w64-mingw32-g++"}


@dataclass(frozen=True)
class Architecture:
    """The differences between the release drivers."""

    target: str  # of clang
    machine: str  # for lld-link
    library_machine: str  # for llvm-dlltool
    version: str  # of the oldest Windows
    base: int
    entry: str = "GsDriverEntry"
    compile_flags: tuple[str, ...] = ()
    # PsSetCreateProcessNotifyRoutineEx accepts only images with forced integrity. 64-bit Windows requires a signature
    # anyway; 32-bit Windows loads unsigned drivers, but not with this flag.
    link_flags: tuple[str, ...] = ("/integritycheck",)


ARCHITECTURES = {
    "x64": Architecture("x86_64-windows-gnu", "x64", "i386:x86-64", "6.01", 0x140000000,
                        compile_flags=("-mno-stack-arg-probe", "-fasynchronous-unwind-tables")),
    # -fseh-exceptions: nothing throws; the target's default would put DWARF frame descriptions into the file.
    "x86": Architecture("i686-windows-gnu", "x86", "i386", "5.02", 0x10000, entry="GsDriverEntry@8",
                        compile_flags=("-mno-stack-arg-probe", "-fno-asynchronous-unwind-tables", "-fseh-exceptions"),
                        link_flags=("/safeseh:no",)),
    "arm64": Architecture("aarch64-windows-gnu", "arm64", "arm64", "10.00", 0x140000000,
                          compile_flags=("-fasynchronous-unwind-tables",)),
}  # fmt: skip
PACKAGES = {
    "x86_64-w64-mingw32-g++": "g++-mingw-w64-x86-64",
    "i686-w64-mingw32-g++": "g++-mingw-w64-i686",
    "g++": "g++",
    "clang++": "clang",
    "lld-link": "lld",
    "llvm-dlltool": "llvm",
    "llvm-rc": "llvm",
}


class BuildError(Exception):
    """A compiler is missing, or refused the sources; the message has its output."""


@dataclass(frozen=True)
class Recipe:
    """The sources, compiler and flags of one file."""

    folder: str
    file: str
    compiler: str
    sources: tuple[Path, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...] = field(default=())
    release: Architecture | None = None  # of a driver that clang and lld make


def _glob(folder: str) -> list[Path]:
    return sorted((DRIVER / folder).glob("*.cpp"))


def _is_program(source: Path) -> bool:
    return bool(re.search(r"^int main\(|LLVMFuzzerTestOneInput", source.read_text("utf-8"), re.MULTILINE))


def sources(variant: str) -> list[Path]:
    """The C++ files of a variant. The Wine build has driver/wine/ in place of wdm/native.cpp and image/."""
    core = _glob("core")
    if variant == "host":
        return core + [path for path in _glob("host") if not _is_program(path)]
    wdm = _glob("wdm")
    if variant in ("wine", "wine-release"):
        wdm = [path for path in wdm if path.name != "native.cpp"] + _glob("wine")
    return core + wdm + ([] if variant == "wine" else _glob("image"))


def _optimisation(debug: bool) -> tuple[str, ...]:
    return ("-Og", "-g", "-DPROCMON_DEBUG") if debug else ("-O2",)


def _driver(variant: str, *, debug: bool) -> Recipe:
    """A release driver: control flow guard, stack cookie, symbols in a PDB."""
    architecture = ARCHITECTURES["x64" if variant == "wine-release" else variant]
    ddk = _ddk()
    headers = ("-Idriver/ddk", f"-isystem{ddk}", f"-isystem{ddk.parent}")  # one set for every architecture
    return Recipe(
        folder=variant + ("-debug" if debug else ""),
        file="procmon.sys",
        compiler="clang++",
        sources=(*sources(variant), DRIVER / "wdm" / "version.rc"),
        compile_flags=(f"--target={architecture.target}", *RELEASE, *architecture.compile_flags, *headers,
                       *_optimisation(debug)),
        link_flags=(
            "/nologo", f"/machine:{architecture.machine}", "/driver", f"/subsystem:native,{architecture.version}",
            f"/entry:{architecture.entry}", f"/base:{architecture.base:#x}", "/nodefaultlib", "/dynamicbase",
            "/nxcompat", "/filealign:512", "/tsaware:no", "/guard:cf,nolongjmp", "/opt:ref", "/opt:noicf", "/Brepro",
            "/WX", "/debug", "/pdbaltpath:procmon.pdb", "/pdbsourcepath:.", *architecture.link_flags,
        ),
        release=architecture,
    )  # fmt: skip


def _wine_driver(*, debug: bool) -> Recipe:
    """The test driver, which Wine loads."""
    flags = [*KERNEL, "-fno-stack-protector", "-mno-stack-arg-probe", "-mno-red-zone", f"-isystem{_ddk()}"]
    # min-pagesize: gcc takes gs:0x188 for an object near address 0; it is the current thread.
    flags += ["--param=min-pagesize=0", *_optimisation(debug)]
    linker = ["--section-alignment,0x1000", "--file-alignment,0x200", "--dynamicbase", "--nxcompat"]
    linker += ["--disable-auto-import", "--no-insert-timestamp", "--fatal-warnings", "--subsystem,native:6.1"]
    linker += ["--major-os-version,6", "--minor-os-version,1", "--entry,DriverEntry", "--image-base,0x140000000"]
    return Recipe(
        folder="wine" + ("-debug" if debug else ""),
        file="procmon.sys",
        compiler=_MINGW["x64"],
        sources=(*sources("wine"), DRIVER / "wdm" / "version.rc"),
        compile_flags=tuple(flags),
        link_flags=("-nostdlib", *(f"-Wl,{option}" for option in linker), *([] if debug else ["-s"])),
        libraries=("-lntoskrnl", "-lhal"),
    )


def _library(*, debug: bool) -> Recipe:
    windows = sys.platform == "win32"
    compiler = _MINGW["x64"] if windows else "g++"
    flags = [*LANGUAGE, *WARNINGS, *(["-Og", "-g"] if debug else ["-O2"]), *([] if windows else ["-fPIC", "-pthread"])]
    return Recipe(
        folder="host-debug" if debug else "host",
        file="procmon_core.dll" if windows else "libprocmon_core.so",
        compiler=compiler,
        sources=tuple(sources("host")),
        compile_flags=tuple(flags),
        link_flags=("-shared", *(("-static", "-Wl,--no-insert-timestamp") if windows else ("-pthread",))),
    )


def _client(architecture: str, *, debug: bool) -> Recipe:
    """The same program for both bitnesses; it needs only Windows' own DLLs."""
    return Recipe(
        folder=f"client-{architecture}" + ("-debug" if debug else ""),
        file="client.exe",
        compiler=_MINGW[architecture],
        sources=tuple(_glob("client")),
        compile_flags=(*LANGUAGE, *WARNINGS, *(["-Og", "-g"] if debug else ["-O2"]), "-DUNICODE"),
        link_flags=("-static", "-Wl,--no-insert-timestamp", *([] if debug else ["-s"])),
    )


def _kernel(variant: str) -> Recipe:
    """A program: the unchanged core and wdm on a made-up kernel (driver/host/kernel)."""
    folder = DRIVER / "host" / "kernel"
    checks = [f"-fsanitize={','.join(variant.split('-')[1:])}", "-fno-sanitize-recover=all"]
    headers = [f"-I{folder}", "-fshort-wchar", "-fno-strict-aliasing"]
    return Recipe(
        folder=variant,
        file="scenarios",
        compiler="clang++",
        sources=(*_glob("core"), *_glob("wdm"), *_glob("host/kernel")),
        compile_flags=(*LANGUAGE, *WARNINGS, *headers, "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", *checks),
        link_flags=("-pthread", *checks),
    )


DRIVERS = (*ARCHITECTURES, "wine")
VARIANTS = (*DRIVERS, "host")
KERNELS = ("kernel-address-undefined", "kernel-thread")  # made-up kernels, under these sanitizers
FOR_TESTS = ("wine-release", "client-x64", "client-x86", *KERNELS)  # built only on request


def build(variants: Iterable[str] = VARIANTS, *, debug: bool = False, output: Path = OUTPUT) -> dict[str, Path]:
    """Build variants and return the file of each. Up-to-date files are not built again.

    Raises: BuildError; ValueError for a variant that does not exist.
    """
    made: dict[str, Path] = {}
    for variant in variants:
        if variant not in (*VARIANTS, *FOR_TESTS):
            raise ValueError(f"no such variant: {variant!r}; there are {', '.join([*VARIANTS, *FOR_TESTS])}")
        made[variant] = _make(_recipe(variant, debug), output)
    return made


def _recipe(variant: str, debug: bool) -> Recipe:
    if variant == "host":
        return _library(debug=debug)
    if variant.startswith("client-"):
        return _client(variant.removeprefix("client-"), debug=debug)
    if variant in KERNELS:
        return _kernel(variant)
    return _wine_driver(debug=debug) if variant == "wine" else _driver(variant, debug=debug)


def host_program(name: str, sanitizers: Sequence[str] = (), *, output: Path = OUTPUT) -> Path:
    """Build driver/host/NAME.cpp with the core and the rest of driver/host, by clang, under sanitizers
    ("address", "undefined", "thread", "fuzzer"), and return the program's path.

    Raises: BuildError.
    """
    main = DRIVER / "host" / f"{name}.cpp"
    if not main.exists():
        raise BuildError(f"there is no driver/host/{name}.cpp")
    checks = [f"-fsanitize={','.join(sanitizers)}", "-fno-sanitize-recover=all"] if sanitizers else []
    recipe = Recipe(
        folder="-".join(["host", *sanitizers]),
        file=name + (".exe" if sys.platform == "win32" else ""),
        compiler="clang++",
        sources=(*sources("host"), main),
        compile_flags=(*LANGUAGE, *WARNINGS, "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", *checks),
        link_flags=("-pthread", *checks),
    )
    return _make(recipe, output)


# ------------------------------------------------------------------------------------------------ making one file


def _make(recipe: Recipe, output: Path) -> Path:
    if not recipe.sources:
        raise BuildError(f"{recipe.folder}: there are no sources under {DRIVER}")
    objects = output / "objects" / recipe.folder
    target = output / recipe.folder / recipe.file
    with _locked(objects):
        with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 2, 8)) as pool:
            compiled = list(pool.map(lambda source: _compile(recipe, source, objects), recipe.sources))
        if recipe.release:
            pdb = target.with_suffix(".pdb")
            inputs = [*compiled, *_import_libraries(recipe, objects)]
            paths = [_relative(path) for path in inputs]
            command = ["lld-link", *recipe.link_flags, f"/out:{_relative(target)}", f"/pdb:{_relative(pdb)}", *paths]
            _run_if_stale(command, [target, pdb], objects / "link.stamp", inputs, finish=_set_checksum)
        else:
            command = [recipe.compiler, *recipe.link_flags, "-o", str(target), *map(str, compiled), *recipe.libraries]
            _run_if_stale(command, [target], objects / "link.stamp", compiled)
    return target


def _relative(path: Path) -> str:
    """Relative to the project's folder, where the tools run: their output is then the same for any location of it."""
    return os.path.relpath(path, PROJECT)


def imports(variant: str) -> dict[str, list[str]]:
    """The names that driver/imports.txt grants to a variant, by file, with x86 decoration."""
    wanted = {"wine", "x64"} if variant == "wine-release" else {variant}
    granted: dict[str, list[str]] = {}
    names: list[str] = []
    for line in (DRIVER / "imports.txt").read_text("utf-8").splitlines():
        if section := re.fullmatch(r"\[(\S+): (.+)\]", line):
            if unknown := set(section[2].split()) - set(DRIVERS):
                raise BuildError(f"driver/imports.txt: {line} names {', '.join(sorted(unknown))}, which is no driver")
            granted_here = wanted & set(section[2].split())
            names = granted.setdefault(section[1], []) if granted_here else []
        elif line and not line.startswith("#"):
            names.append(line)
    return granted


def bare_name(decorated: str) -> str:
    """The name under which a function is exported: ``ZwClose`` for ``ZwClose@4``."""
    return decorated.removeprefix("@").partition("@")[0]


def _import_libraries(recipe: Recipe, objects: Path) -> list[Path]:
    assert recipe.release
    libraries = []
    for file, names in imports(recipe.folder.removesuffix("-debug")).items():
        definition, library = objects / f"{file}.def", objects / f"{file}.lib"
        exports = names if recipe.release.machine == "x86" else map(bare_name, names)
        text = "\n".join([f"LIBRARY {file}", "EXPORTS", *exports, ""])
        if not definition.exists() or definition.read_text("utf-8") != text:
            definition.write_text(text, "utf-8")
        command = ["llvm-dlltool", "-k", "-m", recipe.release.library_machine, "-d", _relative(definition)]
        command += ["-l", _relative(library)]
        _run_if_stale(command, [library], library.with_suffix(".stamp"), [definition])
        libraries.append(library)
    return libraries


def _set_checksum(image: Path) -> None:
    """Write the header's checksum, which the kernel's loader verifies; lld-link can do so only since version 18."""
    data = bytearray(image.read_bytes())
    at = int.from_bytes(data[0x3C:0x40], "little") + 24 + 64
    data[at : at + 4] = bytes(4)
    padded = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"<{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 4] = (total + len(data)).to_bytes(4, "little")
    image.write_bytes(data)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build in a folder; the system releases the lock if that process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as lock:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # locking() gives up after ten seconds
                    msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(recipe: Recipe, source: Path, objects: Path) -> Path:
    target = objects / source.relative_to(DRIVER).with_suffix(".o")
    if source.suffix == ".rc":
        command = [recipe.compiler.replace("g++", "windres"), str(source), str(target)]
        if recipe.release:
            target = target.with_suffix(".res")
            command = ["llvm-rc", "/FO", _relative(target), _relative(source)]
        _run_if_stale(command, [target], target.with_suffix(".stamp"), [source])
        return target
    depends = target.with_suffix(".d")
    command = [recipe.compiler, *recipe.compile_flags, "-MMD", "-MF", _relative(depends)]
    command += ["-c", _relative(source), "-o", _relative(target)]
    _run_if_stale(command, [target], target.with_suffix(".stamp"), [source], depends)
    return target


def _run(command: list[str]) -> None:
    """Run a tool in the project's folder; any output on stderr is an error."""
    _version(command[0])  # its error names the package of a missing tool
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    if result.returncode != 0 or result.stderr.strip():
        raise BuildError(f"{' '.join(command)}\n{result.stdout}{result.stderr}".rstrip())


def _run_if_stale(
    command: list[str],
    targets: Sequence[Path],
    stamp: Path,
    inputs: list[Path],
    depends: Path | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Run a command that makes `targets`, unless the stamp shows that it made them from the same bytes before.

    `finish` then changes the first target in place.
    """
    if all(target.exists() for target in targets) and _is_fresh(stamp, command):
        return
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    try:
        _run(command)
        if finish:
            finish(targets[0])
    except BuildError:
        for target in targets:
            target.unlink(missing_ok=True)
        raise
    used = _dependencies(depends) if depends else inputs
    stamp.write_text(json.dumps({"": _command_key(command)} | {str(path): _digest(path) for path in used}), "utf-8")


def _is_fresh(stamp: Path, command: list[str]) -> bool:
    """Is the stamp from this command (which names all inputs but headers), with every file unchanged since?"""
    try:
        known: dict[str, str] = json.loads(stamp.read_text("utf-8"))
        return known.pop("") == _command_key(command) and all(_digest(Path(path)) == was for path, was in known.items())
    except (OSError, ValueError, KeyError):
        return False


def _dependencies(depends: Path) -> list[Path]:
    """The files in a make rule that the compiler wrote; it leaves out system headers."""
    rule = depends.read_text("utf-8").replace("\\\n", " ").split(": ", 1)[1]
    names = [name.replace("\\ ", " ") for name in re.split(r"(?<!\\)\s+", rule) if name]
    return [PROJECT / name for name in names]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _command_key(command: list[str]) -> str:
    return hashlib.sha256("\0".join([*command, _version(command[0])]).encode()).hexdigest()


@cache
def _version(compiler: str) -> str:
    try:
        result = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        return result.stdout + result.stderr  # llvm-rc has no such option, and prints its options
    except OSError as error:
        raise BuildError(
            f"{compiler} is not on PATH ({error.strerror}); on Debian: apt-get install {_package(compiler)}; "
            "on Windows: install the mingw-w64 toolchains of MSYS2 and put their bin folder on PATH"
        ) from error


def _package(tool: str) -> str:
    return PACKAGES.get(tool) or f"binutils-mingw-w64-{tool.partition('-')[0].replace('_', '-')}"


@cache
def _ddk() -> Path:
    """The folder of mingw-w64's DDK headers."""
    compiler = _MINGW["x64"]
    _version(compiler)
    report = subprocess.run([compiler, "-E", "-v", "-x", "c++", os.devnull], capture_output=True, text=True).stderr
    for line in report.splitlines():
        if (found := Path(line.strip()) / "ddk").is_dir() and line.startswith(" "):
            return found.resolve()
    raise BuildError(f"{compiler} has no DDK headers (ddk/ntifs.h); they belong to mingw-w64's own header package")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build the driver and its core.")
    known = f"of {', '.join([*VARIANTS, *FOR_TESTS])}; default: all but the last five"
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=known)
    parser.add_argument("--debug", action="store_true", help="with symbols and without optimisation, in x64-debug/ ...")
    options = parser.parse_args(arguments)
    for variant in options.variants or VARIANTS:
        started = time.monotonic()
        try:
            path = build([variant], debug=options.debug)[variant]
        except (BuildError, ValueError) as error:
            print(f"build.py: {error}", file=sys.stderr)
            return 1
        took = time.monotonic() - started
        print(f"{os.path.relpath(path)}  {path.stat().st_size:,} bytes, {took:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
