"""CPython for Windows in ``.dev/windows``, and running it: under Wine on Debian, directly on Windows."""

import contextlib
import dataclasses
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import parts, programs, project, wine
from .locks import set_up
from .venv import pip, requirements, venv

# An embeddable CPython reads its path only from this file. The path is relative, so that the tree can be moved.
PATH_FILE = "python313.zip\n.\nsite\n../../src\n../../tests\n../../examples\nimport site\n"
WHEELS = ["--only-binary=:all:", "--platform=win_amd64", "--python-version=3.13", "--no-deps"]


def windows_python() -> Path:
    """The path of CPython for Windows, which runs under Wine; on Windows that of the running Python."""
    if sys.platform == "win32":
        return Path(sys.executable)
    tool = venv()
    folder = project.DEV / "windows"
    lists = [project.PINS / "pytest.txt", project.PINS / "windows.txt"]
    wanted = parts.recipe("1", PATH_FILE, *(path.read_text() for path in lists))
    with set_up():
        if not parts.is_made(folder, wanted, "python.exe", "site/pytest"):
            project.report("making .dev/windows: CPython for Windows with pytest and hypothesis")
            parts.start_over(folder)
            _unpack(tool, folder)
            (folder / "python313._pth").write_text(PATH_FILE)
            target = [f"--target={folder / 'site'}", "--no-compile"]
            pip(tool, "install", *WHEELS, *target, *requirements(lists[:1]))
            parts.stamp(folder, wanted)
    return folder / "python.exe"


def _unpack(tool: Path, folder: Path) -> None:
    """Unpack the pinned archive. pip verifies its sha256 before it opens it."""
    source = ["--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    pip(tool, "download", *source, f"--dest={folder}", *requirements([project.PINS / "windows.txt"]))
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "archive")
    (data,) = (folder / "archive").rglob("data.zip")
    with zipfile.ZipFile(data) as unpacked:
        unpacked.extractall(folder / "archive")
    for item in (folder / "archive" / "cp313").iterdir():
        if item.name != "_wmi.pyd":  # Wine's WMI lacks what it needs: platform.uname() would crash
            item.replace(folder / item.name)
    shutil.rmtree(folder / "archive")
    archive.unlink()


def bench_packages() -> Path:
    """The folder of psutil and PythonForWindows, which is on the path of benchmarks only."""
    tool = venv()
    folder = project.DEV / "bench"
    pins = [project.PINS / "bench.txt"]
    wanted = parts.recipe("1", *WHEELS, *(path.read_text() for path in pins))
    with set_up():
        if not parts.is_made(folder, wanted, "psutil", "windows"):
            project.report("making .dev/bench with psutil and PythonForWindows")
            parts.start_over(folder)
            wheels = ["--only-binary=:all:", "--no-deps"] if sys.platform == "win32" else WHEELS
            pip(tool, "install", *wheels, f"--target={folder}", "--no-compile", *requirements(pins))
            parts.stamp(folder, wanted)
    return folder


@contextlib.contextmanager
def private_windows() -> Iterator[Path | None]:
    """A new Wine prefix, deleted at the end; None on Windows, which has no prefixes."""
    if sys.platform == "win32":
        yield None
    else:
        with wine.private_prefix() as prefix:
            yield prefix


def run_windows(
    arguments: Sequence[str], prefix: Path | None = None, attachment: programs.Attachment = programs.Attachment()
) -> int:
    """Run the Windows Python with these arguments, on this process' standard streams, and return its exit status.

    Under Wine the status has 8 bits: of a status above 255 the lowest byte arrives. Ctrl+C ends the program as it does
    on Windows. Lines of its output end as on this system.
    """
    command = [str(windows_python()), "-X", "utf8", *arguments]
    if sys.platform == "win32":
        return programs.run_attached(command, programs.with_paths(), attachment)
    prefix = prefix or wine.shared_prefix()
    wine.server(prefix, "-p60")  # the prefix stays up for a minute, so the next command finds a driver still loaded
    loader = str(wine.program("wine64"))
    attachment = dataclasses.replace(attachment, unix_lines=True)
    return programs.run_attached([loader, *command], wine.environment(prefix), attachment)
