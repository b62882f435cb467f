"""The wheel and the source archive: their contents, and that the same tree gives the same bytes."""

import email.parser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import procmon
from setup import distribution
from setup.project import ROOT

ARCHITECTURES = ("x64", "x86", "arm64")
DRIVERS = {name: ROOT / "build" / "driver" / name / "procmon.sys" for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and source archive."""
    return distribution.make(DRIVERS, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(made: tuple[Path, Path]) -> zipfile.ZipFile:
    return zipfile.ZipFile(made[0])


@pytest.fixture(scope="module")
def unpacked(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree in the source archive."""
    folder = tmp_path_factory.mktemp("source")
    subprocess.run(["tar", "-xzf", made[1], "-C", folder], check=True)
    (tree,) = folder.iterdir()
    return tree


def modules(names: list[str]) -> set[str]:
    return {name for name in names if name.startswith("procmon/") and name.endswith(".py")}


def test_one_small_wheel_is_for_every_windows_and_every_python(made: tuple[Path, Path], wheel: zipfile.ZipFile) -> None:
    assert made[0].name == f"procmon_gate-{procmon.__version__}-py3-none-any.whl"
    assert made[0].stat().st_size < 1 << 20
    assert wheel.testzip() is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_wheel_has_the_release_driver_of_each_architecture(wheel: zipfile.ZipFile, architecture: str) -> None:
    assert wheel.read(f"procmon/driver/{architecture}/procmon.sys") == DRIVERS[architecture].read_bytes()
    assert {name for name in wheel.namelist() if name.endswith(".sys")} == {
        f"procmon/driver/{name}/procmon.sys" for name in ARCHITECTURES
    }


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "procmon").rglob("*.py")}
    assert modules(wheel.namelist()) == sources
    assert "procmon/py.typed" in wheel.namelist()


def test_the_wheel_has_the_pages_that_its_messages_name(wheel: zipfile.ZipFile) -> None:
    texts = (path.read_text("utf-8") for path in (ROOT / "src" / "procmon").rglob("*.py"))
    named = {name for text in texts for name in re.findall(r"(?:docs/|\bpage\(['\"])([a-z/-]+\.md)", text)}
    named.remove("no-such-page.md")  # of a doctest
    assert len(named) > 3
    assert named <= {name.removeprefix("procmon/docs/") for name in wheel.namelist()}


def test_the_metadata_is_what_a_package_index_shows(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.parser.Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "procmon-gate"
    assert metadata["Version"] == procmon.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")
    assert metadata.get_all("Requires-Dist") is None


def test_two_makings_give_the_same_bytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    again = distribution.make(DRIVERS, tmp_path)
    assert [path.name for path in again] == [path.name for path in made]
    assert [path.name for path, was in zip(again, made, strict=True) if path.read_bytes() != was.read_bytes()] == []


def test_the_source_archive_has_what_git_has_and_nothing_that_was_built(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert {name for name in listed if (ROOT / name).is_file()} <= names
    assert not {name for name in names if name.endswith((".sys", ".pdb", ".pyc", ".whl", ".o"))}


def test_the_source_archive_makes_a_wheel_without_drivers(
    unpacked: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    from_source = zipfile.ZipFile(distribution.make_wheel(unpacked, tmp_path))
    names = from_source.namelist()
    assert modules(names) == modules(wheel.namelist())
    assert not [name for name in names if name.endswith(".sys")]


def test_an_installed_wheel_runs_and_knows_its_version(made: tuple[Path, Path], tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", f"--target={tmp_path}"]
    subprocess.run([*install, str(made[0])], check=True)
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import procmon; "
               "print(procmon.__file__, procmon.__version__)"]  # fmt: skip
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert shown.split() == [str(tmp_path / "procmon" / "__init__.py"), procmon.__version__]
