#!/usr/bin/env python3
"""Builds the driver with mingw-w64, and its core as a library for tests. Standard library only.

    python3 driver/build.py [x64] [x86] [wine] [host] [client-x64] [client-x86] [--debug]

    x64, x86   build/driver/x64/procmon.sys: for Windows 7 and later, and x86 from NT 5.2 on
    wine       build/driver/wine/procmon.sys: x64, notifications put in by request; for tests only
    host       build/driver/host/libprocmon_core.so: the core alone, with a C interface
    client-x64, client-x86   build/driver/client-x64/client.exe ...: a controller and more in user mode, for tests

Every variant compiles the same driver/core. What has not changed (by content, flags and compiler) is not built again;
a warning is an error; and the same sources give the same bytes, wherever the tree lies. --debug builds go to folders
of their own: build/driver/x64-debug/ and so on.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["CLIENTS", "VARIANTS", "BuildError", "build", "host_program", "kernel_program", "sources"]

DRIVER = Path(__file__).resolve().parent
PROJECT = DRIVER.parent
OUTPUT = PROJECT / "build" / "driver"

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Werror"]
LANGUAGE = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]
KERNEL = [
    *LANGUAGE,
    "-ffreestanding",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fno-ident",
    "-mno-stack-arg-probe",
    "-Wframe-larger-than=2048",  # a kernel stack is 12 KB on x86
    "-D_WIN32_WINNT=0x0600",
]
LINK = [
    "-nostdlib",
    "-Wl,--section-alignment,0x1000",
    "-Wl,--file-alignment,0x200",
    "-Wl,--dynamicbase",
    "-Wl,--nxcompat",
    "-Wl,--disable-auto-import",
    "-Wl,--no-insert-timestamp",
    "-Wl,--fatal-warnings",
]
LIBRARIES = ["-lntoskrnl", "-lhal", "-lgcc"]
_MINGW = {"x64": "x86_64-w64-mingw32-g++", "x86": "i686-w64-mingw32-g++"}
PACKAGES = {
    "x86_64-w64-mingw32-g++": "g++-mingw-w64-x86-64",
    "i686-w64-mingw32-g++": "g++-mingw-w64-i686",
    "g++": "g++",
    "clang++": "clang",
}


class BuildError(Exception):
    """A compiler is missing, or refused the sources; the message is what it said."""


@dataclass(frozen=True)
class Recipe:
    """How one file is made: from which sources, by which compiler, with which flags."""

    folder: str
    file: str
    compiler: str
    sources: tuple[Path, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...] = field(default=())


def _glob(folder: str) -> list[Path]:
    return sorted((DRIVER / folder).glob("*.cpp"))


def _is_program(source: Path) -> bool:
    return bool(re.search(r"^int main\(|LLVMFuzzerTestOneInput", source.read_text("utf-8"), re.MULTILINE))


def sources(variant: str) -> list[Path]:
    """The C++ files that make a variant. The Wine build has driver/wine/ in place of wdm/native.cpp."""
    core = _glob("core")
    if variant == "host":
        return core + [path for path in _glob("host") if not _is_program(path)]
    wdm = _glob("wdm")
    if variant == "wine":
        return core + [path for path in wdm if path.name != "native.cpp"] + _glob("wine")
    return core + wdm


def _driver(variant: str, *, debug: bool) -> Recipe:
    compiler = _MINGW["x86" if variant == "x86" else "x64"]
    include = f"-isystem{_ddk(compiler)}"
    flags = [*KERNEL, *WARNINGS, include, *(["-Og", "-g", "-DPROCMON_DEBUG"] if debug else ["-O2"])]
    link = list(LINK) if debug else [*LINK, "-s"]
    if variant == "x86":
        # The floating-point state belongs to the interrupted thread on x86; x64 keeps it for us.
        flags += ["-fno-asynchronous-unwind-tables", "-mgeneral-regs-only"]
        link += ["-Wl,--subsystem,native:5.2", "-Wl,--entry,_DriverEntry@8", "-Wl,--image-base,0x10000"]
    else:
        # PsSetCreateProcessNotifyRoutineEx accepts only images with forced integrity. 64-bit Windows wants a signature
        # anyhow; a 32-bit one loads unsigned drivers, and would not any more with this flag.
        # min-pagesize: what is at gs:0x188 is no object near address 0, as the compiler thinks, but the current thread.
        flags += ["-mno-red-zone", "--param=min-pagesize=0"]
        link += ["-Wl,--subsystem,native:6.1", "-Wl,--entry,DriverEntry", "-Wl,--image-base,0x140000000"]
        link += ["-Wl,--forceinteg"]
    return Recipe(
        folder=variant + ("-debug" if debug else ""),
        file="procmon.sys",
        compiler=compiler,
        sources=(*sources(variant), DRIVER / "wdm" / "version.rc"),
        compile_flags=tuple(flags),
        link_flags=tuple(link),
        libraries=tuple(LIBRARIES),
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
    """The same program of both bitnesses; it needs no DLL but those of Windows."""
    return Recipe(
        folder=f"client-{architecture}" + ("-debug" if debug else ""),
        file="client.exe",
        compiler=_MINGW[architecture],
        sources=tuple(_glob("client")),
        compile_flags=(*LANGUAGE, *WARNINGS, *(["-Og", "-g"] if debug else ["-O2"]), "-DUNICODE"),
        link_flags=("-static", "-Wl,--no-insert-timestamp", *([] if debug else ["-s"])),
    )


VARIANTS = ("x64", "x86", "wine", "host")
CLIENTS = ("client-x64", "client-x86")


def build(variants: Iterable[str] = VARIANTS, *, debug: bool = False, output: Path = OUTPUT) -> dict[str, Path]:
    """Builds variants; answers the file of each. What is up to date is left alone.

    Raises: BuildError; ValueError for a variant that does not exist.
    """
    made: dict[str, Path] = {}
    for variant in variants:
        if variant not in (*VARIANTS, *CLIENTS):
            raise ValueError(f"no such variant: {variant!r}; there are {', '.join([*VARIANTS, *CLIENTS])}")
        made[variant] = _make(_recipe(variant, debug), output)
    return made


def _recipe(variant: str, debug: bool) -> Recipe:
    if variant == "host":
        return _library(debug=debug)
    if variant in CLIENTS:
        return _client(variant.removeprefix("client-"), debug=debug)
    return _driver(variant, debug=debug)


def host_program(name: str, sanitizers: Sequence[str] = (), *, output: Path = OUTPUT) -> Path:
    """Builds driver/host/NAME.cpp with the core and the rest of driver/host, by clang, under sanitizers
    ("address", "undefined", "thread", "fuzzer"); answers the program's path.

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


def kernel_program(sanitizers: Sequence[str] = (), *, output: Path = OUTPUT) -> Path:
    """Builds driver/host/kernel: core and wdm, as they are, on a kernel that is made up; answers the program's path.

    Raises: BuildError.
    """
    folder = DRIVER / "host" / "kernel"
    checks = [f"-fsanitize={','.join(sanitizers)}", "-fno-sanitize-recover=all"] if sanitizers else []
    headers = [f"-I{folder}", "-fshort-wchar", "-fno-strict-aliasing"]
    recipe = Recipe(
        folder="-".join(["kernel", *sanitizers]),
        file="scenarios",
        compiler="clang++",
        sources=(*sources("x64"), *_glob("host/kernel")),
        compile_flags=(*LANGUAGE, *WARNINGS, *headers, "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", *checks),
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
        command = [recipe.compiler, *recipe.link_flags, "-o", str(target), *map(str, compiled), *recipe.libraries]
        _run_if_stale(command, target, objects / "link.stamp", compiled)
    return target


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time makes the files of a folder; the system gives the lock back if that one dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b") as lock:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # it gives up after ten seconds
                    msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(recipe: Recipe, source: Path, objects: Path) -> Path:
    target = objects / source.relative_to(DRIVER).with_suffix(".o")
    if source.suffix == ".rc":
        windres = recipe.compiler.replace("g++", "windres")
        _run_if_stale([windres, str(source), str(target)], target, target.with_suffix(".stamp"), [source])
        return target
    depends = target.with_suffix(".d")
    # Paths inside the file are relative to the project, wherever that lies.
    command = [recipe.compiler, *recipe.compile_flags, f"-ffile-prefix-map={PROJECT}=.", "-MMD", "-MF", str(depends)]
    command += ["-c", str(source), "-o", str(target)]
    _run_if_stale(command, target, target.with_suffix(".stamp"), [source], depends)
    return target


def _run_if_stale(
    command: list[str], target: Path, stamp: Path, inputs: list[Path], depends: Path | None = None
) -> None:
    """Runs a command that makes `target`, unless the stamp says that it has made it from the same bytes before."""
    if target.exists() and _is_fresh(stamp, command):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    if result.returncode != 0 or result.stderr.strip():
        target.unlink(missing_ok=True)
        raise BuildError(f"{' '.join(command)}\n{result.stdout}{result.stderr}".rstrip())
    used = _dependencies(depends) if depends else inputs
    stamp.write_text(json.dumps({"": _command_key(command)} | {str(path): _digest(path) for path in used}), "utf-8")


def _is_fresh(stamp: Path, command: list[str]) -> bool:
    """Whether the stamp is of this command (which names all inputs but headers), and no file has changed since."""
    try:
        known: dict[str, str] = json.loads(stamp.read_text("utf-8"))
        return known.pop("") == _command_key(command) and all(_digest(Path(path)) == was for path, was in known.items())
    except (OSError, ValueError, KeyError):
        return False


def _dependencies(depends: Path) -> list[Path]:
    """The files that a make rule written by the compiler names; system headers are not among them."""
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
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except OSError as error:
        raise BuildError(
            f"{compiler} is not on PATH ({error.strerror}); on Debian: apt-get install {_package(compiler)}; "
            "on Windows: install the mingw-w64 toolchains of MSYS2 and put their bin folder on PATH"
        ) from error


def _package(tool: str) -> str:
    return PACKAGES.get(tool) or f"binutils-mingw-w64-{tool.partition('-')[0].replace('_', '-')}"


@cache
def _ddk(compiler: str) -> Path:
    """The folder of the DDK headers that come with a mingw-w64 compiler."""
    _version(compiler)
    report = subprocess.run([compiler, "-E", "-v", "-x", "c++", os.devnull], capture_output=True, text=True).stderr
    for line in report.splitlines():
        if (found := Path(line.strip()) / "ddk").is_dir() and line.startswith(" "):
            return found.resolve()
    raise BuildError(f"{compiler} has no DDK headers (ddk/ntifs.h); they belong to mingw-w64's own header package")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; answers the exit status."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build the driver and its core.")
    known = f"of {', '.join([*VARIANTS, *CLIENTS])}; default: all but the clients"
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
