"""Odd names on real files: DebugGate's record of them, and which files are trusted or spared.

docs/security.md has the table of names. Where Wine differs from Windows, the test accepts both. Names that Wine cannot
create have no test here, and the table says so.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import procmon
from patience import PATIENCE
from procmon import ProcessHelper
from procmon.util.globs import compile_glob
from procmon.util.paths import fold_case, lowercase
from procmon.win32.files import system_folder
from procmon.win32.kernel import is_wine
from trees import SOON, drive, eventually

FILE_NOT_FOUND, INVALID_NAME = 2, 123
NOT_FOUND, NO_LIBRARY = "FileNotFoundError", "OSError"
NOT_PYTHONS = "\u01c5\u01c8\u01cb\u01f2\u03f4\u1e9e\u2126\u212a\u212b"
PROGRAM, OTHER = "hostname.exe", "whoami.exe"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with A.exe, under its long name."""
    folder = tmp_path.resolve()
    shutil.copy(Path(system_folder(), PROGRAM), folder / "A.exe")
    return folder


def copy(path: str, program: str = OTHER) -> None:
    """Make a file whose name may need the prefix."""
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    source = ctypes.c_wchar_p(str(Path(system_folder(), program)))
    assert kernel32.CopyFileW(source, ctypes.c_wchar_p(path), 0), ctypes.WinError(ctypes.get_last_error())


def record_of(path: str | Path) -> ProcessHelper:
    """The record of a process created from this path, which Windows gets unchanged."""
    with procmon.DebugGate.run("x", executable=str(path), stdout=subprocess.PIPE) as gate:
        records = drive(gate)
        assert gate.popen is not None
        gate.popen.communicate(timeout=SOON)
    [process] = [record for record in records if record.paused]
    return process


def matched(process: ProcessHelper, path: Path) -> bool:
    """A rule with this plain path matches."""
    return compile_glob(str(path))(process.image_name)


@pytest.mark.promise("A path prefix hides no program from a rule with the plain path", gate="DebugGate")
@pytest.mark.parametrize("prefix", ["", "\\\\?\\", "\\\\.\\"], ids=["none", "Win32", "device"])
def test_a_prefix_is_no_part_of_the_record(folder: Path, prefix: str) -> None:
    process = record_of(f"{prefix}{folder}\\A.exe")
    assert process.image_name == lowercase(f"{folder}\\a.exe")
    assert matched(process, folder / "A.exe")


@pytest.mark.parametrize("end", [".", " "], ids=["dot", "blank"])
def test_a_name_that_ends_in_a_dot_or_blank_is_shown_with_it(folder: Path, end: str) -> None:
    path = f"\\\\?\\{folder}\\A.exe{end}"
    copy(path)
    process = record_of(path)
    # Wine cuts the end off and starts A.exe: there, too, the record shows the program that runs.
    assert process.image_name == lowercase(f"{folder}\\a.exe") + ("" if is_wine() else end)
    assert matched(process, folder / "A.exe") == is_wine()


def test_a_stream_is_shown_with_its_name(folder: Path) -> None:
    copy(f"{folder}\\A.exe:b")
    process = record_of(f"{folder}\\A.exe:b")
    assert process.image_name == lowercase(f"{folder}\\a.exe:b")
    assert not matched(process, folder / "A.exe")
    assert compile_glob(f"{folder}/**")(process.image_name)


def test_a_hard_link_is_shown_by_the_name_that_was_opened(folder: Path) -> None:
    os.link(folder / "A.exe", folder / "Link.exe")
    process = record_of(folder / "Link.exe")
    assert process.image_name == lowercase(f"{folder}\\link.exe")
    assert not matched(process, folder / "A.exe")
    assert os.path.samefile(process.image_name, folder / "A.exe")


def make_folder_link(link: Path, target: Path) -> None:
    """A junction. Wine makes none, but follows links of its host, and runs their programs without a handle."""
    import _winapi

    if is_wine():
        command = rf"z:\bin\ln -s {target.name} {link.name}"
        _winapi.CreateProcess(None, command, None, None, False, 0, None, str(link.parent), subprocess.STARTUPINFO())  # type: ignore[arg-type]
    else:
        _winapi.CreateJunction(str(target), str(link))
    assert eventually(lambda: (link / "A.exe").exists())


def test_through_a_folder_link_a_rule_matches_the_path_that_is_shown(folder: Path) -> None:
    tools, link = folder / "tools", folder / "link"
    tools.mkdir()
    shutil.move(folder / "A.exe", tools)
    make_folder_link(link, tools)
    process = record_of(link / "A.exe")
    # Windows opens the path behind the link, and names the file by that. Wine keeps the name that it was given.
    shown, other = (link, tools) if is_wine() else (tools, link)
    assert process.image_name == lowercase(str(shown / "a.exe"))
    assert matched(process, shown / "A.exe") and not matched(process, other / "A.exe")
    assert os.path.samefile(process.image_name, tools / "A.exe")


@pytest.mark.promise("Records and rules distinguish the letters that Windows distinguishes", gate="DebugGate")
def test_letters_that_windows_does_not_lower_stay_as_they_are(folder: Path) -> None:
    name = f"K{NOT_PYTHONS}\u0130\u03a3.exe"
    copy(f"{folder}\\{name}")
    process = record_of(folder / name)
    assert process.name == fold_case(name) == f"k{NOT_PYTHONS}\u0130\u03c3.exe"
    assert matched(process, folder / name)


def test_marks_that_reverse_the_writing_are_kept_and_are_shown_escaped(folder: Path) -> None:
    copy(f"{folder}\\\u202egnp.exe")
    process = record_of(folder / "\u202egnp.exe")
    assert process.name == "\u202egnp.exe"
    assert str(process).isprintable() and repr(process).isprintable()


def test_a_short_name_is_shown_as_it_was_opened(folder: Path) -> None:
    long = folder / "long folder name"
    long.mkdir()
    shutil.copy(folder / "A.exe", long)
    text = ctypes.create_unicode_buffer(1024)
    assert ctypes.WinDLL("kernel32").GetShortPathNameW(ctypes.c_wchar_p(str(long / "A.exe")), text, len(text))
    process = record_of(text.value)
    # Wine has the name of the disk. A volume that makes no short names gives back the long one.
    assert process.image_name == lowercase(str(long / "A.exe") if is_wine() else text.value)


def test_a_path_beyond_260_characters_is_shown_whole(folder: Path) -> None:
    path = f"\\\\?\\{folder}"
    while len(path) < 300:
        path += "\\" + "d" * 60
        os.mkdir(path)
    path += "\\A.exe"
    copy(path)
    if is_wine():  # it starts no program by such a path
        with pytest.raises(OSError) as failure:
            record_of(path)
        assert getattr(failure.value, "winerror", None) in (INVALID_NAME, FILE_NOT_FOUND)  # Wine 8, Wine 10
        return
    assert record_of(path).image_name == lowercase(path.removeprefix("\\\\?\\"))


# ------------------------------------------------------------------------- what is loaded, and what is spared

LIBRARIES = """
import ctypes, importlib, os, pkgutil, sys
import procmon.win32
from procmon.win32._bind import Library
from procmon.win32.files import system_folder

found = {}
for module in pkgutil.iter_modules(procmon.win32.__path__):
    for value in vars(importlib.import_module(f"procmon.win32.{module.name}")).values():
        if isinstance(value, Library):
            found[value.name] = value
libraries = list(found.values())
assert len(libraries) > 3, libraries
kernel32 = ctypes.WinDLL("kernel32")
kernel32.GetModuleFileNameW.argtypes = ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32
for library in libraries:
    try:
        library.function("none of this name")
    except AttributeError:
        pass
    path = ctypes.create_unicode_buffer(1024)
    kernel32.GetModuleFileNameW(library._dll._handle, path, len(path))
    assert os.path.dirname(path.value).lower() == system_folder().lower(), path.value
print(*(library.name for library in libraries))
planted = Library("procmon-planted.dll")
for load in lambda: planted.function("any"), lambda: ctypes.WinDLL(planted.name, winmode=0):
    try:
        load()
    except OSError as error:
        print(type(error).__name__)  # of ctypes: FileNotFoundError, or OSError for a file that is no library
"""


@pytest.mark.promise("No library is loaded from the working directory", gate="all")
def test_every_library_comes_from_the_system_directory(tmp_path: Path) -> None:
    names = [
        "procmon-planted.dll",
        "advapi32.dll",
        "crypt32.dll",
        "ole32.dll",
        "shell32.dll",
        "version.dll",
        "wintrust.dll",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"no library")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", LIBRARIES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stderr
    libraries, ours, usual = run.stdout.splitlines()
    assert "kernel32.dll" in libraries
    assert (ours, usual) == (NOT_FOUND, NO_LIBRARY), "the ordinary search does find the planted library"


@pytest.mark.promise("No environment variable decides which processes are spared", gate="all")
def test_the_environment_does_not_say_where_critical_processes_are() -> None:
    code = (
        "import os; os.environ['SystemRoot'] = os.environ['windir'] = r'c:\\planted'\n"
        "from procmon.policy.critical import is_critical\n"
        "from procmon.util.paths import lowercase\n"
        "from procmon.win32.files import system_folder\n"
        "print(is_critical(lowercase(system_folder()) + r'\\lsass.exe'))\n"
        "print(is_critical(r'c:\\planted\\system32\\lsass.exe'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.stdout.split() == ["True", "False"], run.stderr
