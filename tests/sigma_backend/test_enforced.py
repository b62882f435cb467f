"""Imported rules, enforced on real processes: by their command line, and by the original name of their program."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK
from setup import debian
from setup.programs import Attachment
from setup.windows_python import private_windows, run_windows

from .test_commands import sigma

ENCODED = "File Encoded To Base64 Via Certutil.EXE (e62a9f0c-ca1e-46b2-85d5-a6da77f86d1a)"
TAMPERED = "Windows AMSI Related Registry Tampering Via CommandLine (7dbbcac2-57a0-45ac-b306-ff30a8bd2981)"

KEY = r"HKCU\Software\Microsoft\Windows Script\Settings"

PROGRAM = '#include <stdio.h>\nint main(void) { puts("it ran"); return 0; }\n'

VERSION = """\
1 VERSIONINFO FILEVERSION 10,0,1,2 PRODUCTVERSION 10,0,1,2 FILEOS 0x40004 FILETYPE 0x1
BEGIN
  BLOCK "StringFileInfo"
  BEGIN
    BLOCK "040904b0"
    BEGIN
      VALUE "OriginalFilename", "CertUtil.exe"
      VALUE "FileDescription", "A stand-in"
    END
  END
  BLOCK "VarFileInfo" BEGIN VALUE "Translation", 0x409, 1200 END
END
"""


@pytest.fixture(scope="module")
def windows() -> Iterator[Path | None]:
    """A Windows for this module alone; under Wine on Debian."""
    with private_windows() as prefix:
        yield prefix


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose version resource says that it is certutil, under another name.

    Wine's own programs have no version resource, so one is built. Windows has certutil itself.
    """
    folder = tmp_path_factory.mktemp("program")
    program = folder / "holiday.exe"
    if sys.platform == "win32":
        shutil.copy2(r"C:\Windows\System32\certutil.exe", program)
        return program
    debian.install(debian.DRIVER)
    (folder / "program.c").write_text(PROGRAM, encoding="utf-8")
    (folder / "version.rc").write_text(VERSION, encoding="utf-8")
    for command in (
        ["x86_64-w64-mingw32-windres", "version.rc", "version.o"],
        ["x86_64-w64-mingw32-gcc", "program.c", "version.o", "-o", program.name],
    ):
        subprocess.run(command, cwd=folder, check=True)
    return program


@pytest.fixture(scope="module")
def enforced(rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of all rules, every one of them enforced."""
    policy = tmp_path_factory.mktemp("policy") / "sigma.toml"
    ended = sigma("convert", "-s", "-t", "procmon", "-O", "block=informational", rules, "-o", policy)
    assert ended.returncode == 0, ended.stderr
    return policy


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["-encode", "a.txt", "b.txt"], ENCODED),
        (["-?"], ""),
    ],
)
def test_a_renamed_program_is_known_by_its_original_name(
    arguments: list[str], rule: str, renamed: Path, enforced: Path, windows: Path | None, tmp_path: Path
) -> None:
    decision = decided([str(renamed).replace("/", "\\"), *arguments], enforced, windows, tmp_path)
    assert decision.process.name == "holiday.exe"
    assert (decision.verdict, decision.who) == (BLOCK if rule else ALLOW, rule)
    if rule:
        assert decision.facts["original_file_name"] == "CertUtil.exe"
        assert decision.note is not None and "Sigma rule of level medium by " in decision.note.message


@pytest.mark.parametrize(("value", "rule"), [("AmsiEnable", TAMPERED), ("Other", "")])
def test_a_program_of_windows_is_blocked_by_what_it_is_to_do(
    value: str, rule: str, enforced: Path, windows: Path | None, tmp_path: Path
) -> None:
    command = ["reg.exe", "add", KEY, "/v", value, "/t", "REG_DWORD", "/d", "0", "/f"]
    decision = decided(command, enforced, windows, tmp_path)
    assert decision.process.name == "reg.exe"
    assert (decision.verdict, decision.who) == (BLOCK if rule else ALLOW, rule)


def decided(command: list[str], policy: Path, windows: Path | None, folder: Path) -> procmon.Decision:
    """The decision about the command, the only process of `procmon-gate run`."""
    log = folder / "audit.jsonl"
    options = ["--policy", str(policy), "--log", str(log), "--output", str(folder / "output")]
    attached = Attachment(timeout=120, silent_input=True)
    run_windows(["-m", "procmon", "run", *options, "--", *command], windows, attached)
    [decision] = procmon.audit.read(log)
    return decision
