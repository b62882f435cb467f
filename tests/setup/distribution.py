"""The wheel and the source archive.

The wheel is pure Python and contains the release drivers, for every Windows; pip needs no compiler. The source archive
contains git's files, and makes a wheel without drivers. The same tree gives the same bytes for both.
"""

import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import programs
from .project import ROOT, Stop
from .venv import venv

MAX_WHEEL_BYTES = 1 << 20
EPOCH = 1577836800  # 2020-01-01: the time stamp of each file in them


def make(drivers: Mapping[str, Path], folder: Path) -> tuple[Path, Path]:
    """Make wheel and source archive in `folder`, with the driver for each architecture.

    Raises: Stop when setuptools fails, or the wheel is larger than MAX_WHEEL_BYTES.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "tree")
        copy_tree(copy)
        source = _source_archive(copy, folder)
        for architecture, driver in drivers.items():
            place = copy / "src" / "procmon" / "driver" / architecture
            place.mkdir()
            shutil.copyfile(driver, place / "procmon.sys")
        shutil.copytree(ROOT / "docs", copy / "src" / "procmon" / "docs", ignore=_all_but_pages)
        wheel = make_wheel(copy, folder)
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        raise Stop(f"{wheel} has {wheel.stat().st_size:,} bytes, which is more than {MAX_WHEEL_BYTES:,}")
    return wheel, source


def copy_tree(target: Path) -> None:
    """Copy the files that git tracks or would add, without build output."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in sorted(filter(None, listed.split("\0"))):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def make_wheel(tree: Path, folder: Path) -> Path:
    """Make the wheel of a source tree in a temporary folder, and move it to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        pip = [str(venv()), "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--no-build-isolation", f"--wheel-dir={made}", str(tree)]
        programs.run_quietly(command, "no wheel was made", _dated())
        (wheel,) = Path(made).glob("*.whl")
        return wheel.replace(folder / wheel.name)


def _source_archive(tree: Path, folder: Path) -> Path:
    """Make setuptools' archive, with one date and one owner for all its members."""
    (tree / "MANIFEST.in").write_text("graft .\nglobal-exclude *.py[co] .stamp\nprune build\nprune dist\n", "utf-8")
    make = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    with tempfile.TemporaryDirectory() as made:
        programs.run_quietly([str(venv()), "-c", make, made], "no source archive was made", _dated(), tree)
        (archive,) = Path(made).glob("*.tar.gz")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / archive.name
        with tarfile.open(archive) as given, open(target, "wb") as file:
            # The gzip header has its own name and time.
            with (
                gzip.GzipFile("", "wb", mtime=EPOCH, fileobj=file) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out,
            ):
                for member in sorted(given.getmembers(), key=lambda member: member.name):
                    member.mtime, member.uid, member.gid, member.uname, member.gname = EPOCH, 0, 0, "", ""
                    member.pax_headers = {}
                    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                    out.addfile(member, given.extractfile(member) if member.isfile() else None)
    for leftover in ("MANIFEST.in", "build"):
        path = tree / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for info in (tree / "src").glob("*.egg-info"):
        shutil.rmtree(info)
    return target


def _dated() -> dict[str, str]:
    return {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}


def _all_but_pages(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".md") and not Path(folder, name).is_dir()}
