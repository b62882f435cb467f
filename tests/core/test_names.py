"""Odd names: the driver's record of each, and the result of a rule with the plain path.

docs/security.md has the table of them, "Names"; tests/windows/test_names.py has DebugGate's part.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import procmon
from core.harness import PROJECT, Core
from procmon import BLOCK, Policy, ProcessFlags, ProcessHelper
from procmon.util.globs import compile_glob
from procmon.util.paths import lowercase

VOLUME = "\\Device\\HarddiskVolume2\\"  # C:
PLAIN = "c:/tools/a.exe"
LONGEST = 32_767  # UTF-16 units: a UNICODE_STRING has no room for more

NOT_PYTHONS = "\u01c5\u01c8\u01cb\u01f2\u03f4\u1e9e\u2126\u212a\u212b"
"""The nine letters that Python lowers and Windows does not."""


@dataclass(frozen=True)
class Case:
    native: str
    dos: str
    plain: bool = False
    """A rule with PLAIN matches."""
    named: bool = False
    """A rule with the name a.exe alone matches."""
    below: bool = True
    """A rule with c:/tools/** matches."""
    drive: bool = True
    """The record has a DOS path, of a drive or a share."""


CASES = {
    "plain": Case(VOLUME + "Tools\\A.exe", "c:\\tools\\a.exe", plain=True, named=True),
    "32,767 characters": Case(
        VOLUME + "Tools\\" + "x" * (LONGEST - len(VOLUME + "Tools\\")),
        "c:\\tools\\" + "x" * (LONGEST - len(VOLUME + "Tools\\")),
    ),
    "NUL": Case(VOLUME + "Tools\\A.exe\0.txt", "c:\\tools\\a.exe\0.txt"),
    "object manager's prefix": Case("\\??\\C:\\Tools\\A.exe", "c:\\tools\\a.exe", plain=True, named=True),
    "Win32 prefix": Case("\\\\?\\C:\\Tools\\A.exe", "\\\\?\\c:\\tools\\a.exe", named=True, below=False, drive=False),
    "Win32 device prefix": Case(
        "\\\\.\\C:\\Tools\\A.exe", "\\\\.\\c:\\tools\\a.exe", named=True, below=False, drive=False
    ),
    "share": Case("\\Device\\Mup\\Server\\Tools\\A.exe", "\\\\server\\tools\\a.exe", named=True, below=False),
    "share by its redirector": Case(
        "\\Device\\Mup\\;LanmanRedirector\\;Z:00000000000003e7\\Server\\Tools\\A.exe",
        "\\\\server\\tools\\a.exe",
        named=True,
        below=False,
    ),
    "volume without a letter": Case(
        "\\Device\\HarddiskVolume22\\Tools\\A.exe",
        "\\device\\harddiskvolume22\\tools\\a.exe",
        named=True,
        below=False,
        drive=False,
    ),
    "trailing dot": Case(VOLUME + "Tools\\A.exe.", "c:\\tools\\a.exe."),
    "trailing blank": Case(VOLUME + "Tools\\A.exe ", "c:\\tools\\a.exe "),
    "8.3 name": Case(VOLUME + "TOOLS~1\\A.exe", "c:\\tools~1\\a.exe", named=True, below=False),
    "stream": Case(VOLUME + "Tools\\A.exe:b", "c:\\tools\\a.exe:b"),
    "mixed case": Case("\\DEVICE\\harddiskVOLUME2\\tOOLS\\a.EXE", "c:\\tools\\a.exe", plain=True, named=True),
    "half a surrogate pair": Case(VOLUME + "Tools\\A\ud800.exe", "c:\\tools\\a\ud800.exe"),
    "control characters": Case(
        VOLUME + "Tools\\A.exe\n{}\r\x1b[2J\x9b\u2028\u202egnp", "c:\\tools\\a.exe\n{}\r\x1b[2j\x9b\u2028\u202egnp"
    ),
}


def record_of(native: str) -> ProcessHelper:
    """The controller's record of a process whose image has this native name."""
    with Core() as core:
        controller = core.controller()
        held = core.held(44, native)
        [record] = controller.fetch().records
        controller.allow(record)
        held.verdict()
    return record.process()


def matches(pattern: str, process: ProcessHelper) -> bool:
    """A monitor's ``match=`` and a policy's ``image =`` agree on this record; whether they match it."""
    policy = Policy.parse(f"default = 'allow'\n[[rule]]\nimage = '{pattern}'\nverdict = 'block'\n")
    matched = policy.decide(process).verdict is BLOCK
    assert matched == compile_glob(pattern)(process.image_name)
    return matched


@pytest.mark.promise(
    "A record has even an odd name in full, and a rule matches the path that the record shows", gate="DriverGate"
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_odd_name_is_shown_whole_and_matched_as_shown(case: Case) -> None:
    process = record_of(case.native)
    assert (process.image_name, process.native_name) == (case.dos, case.native)
    assert (ProcessFlags.NAME_NATIVE not in process.flags) == case.drive
    found = tuple(matches(pattern, process) for pattern in (PLAIN, "a.exe", "c:/tools/**"))
    assert found == (case.plain, case.named, case.below)
    assert compile_glob("*")(process.image_name)


@pytest.mark.promise("Records and rules distinguish the letters that Windows distinguishes", gate="DriverGate")
@pytest.mark.parametrize("letter", NOT_PYTHONS, ids=lambda letter: f"U+{ord(letter):04X}")
def test_a_letter_that_windows_does_not_lower_is_no_other_letter(letter: str) -> None:
    assert letter.lower() != letter
    process = record_of(f"{VOLUME}Tools\\{letter}.exe")
    assert process.image_name == f"c:\\tools\\{letter}.exe"
    assert matches(f"c:/tools/{letter}.exe", process)
    assert not matches(f"c:/tools/{letter.lower()}.exe", process)


@pytest.mark.promise("No name can forge a line of a log or move the cursor of a terminal", gate="all")
def test_a_name_makes_one_line_of_the_log_and_is_read_back_from_it(tmp_path: Path) -> None:
    processes = [record_of(case.native) for case in CASES.values()]
    policy = Policy.parse("default = 'allow'")
    log = tmp_path / "audit.jsonl"
    with procmon.AuditLog(log) as audit_log:
        for process in processes:
            audit_log.write(policy.decide(process))
    data = log.read_bytes()
    lines = data.decode("ascii").split("\n")
    assert lines.pop() == "" and all(line.isprintable() for line in lines)
    assert [json.loads(line)["process"]["image_name"] for line in lines] == [one.image_name for one in processes]
    assert [decision.process.image_name for decision in procmon.audit.read(log)] == [
        one.image_name for one in processes
    ]


def test_the_spelling_of_a_rule_does_not_matter() -> None:
    process = record_of(VOLUME + "Tools\\A.exe")
    assert all(matches(pattern, process) for pattern in (PLAIN, "C:\\TOOLS\\A.EXE", "c:/Tools\\a.exe", "A.EXE"))
    assert lowercase("C:/Tools/A.exe") == process.image_name


def test_the_table_of_names_has_these_rows_and_tests() -> None:
    page = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.partition("\n## Names\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|.*\| ([^|]+) \|$", section, re.MULTILINE)[1:]
    for name in CASES:
        assert [tests for row, tests in rows if re.split("[:,]", row)[0] == name.split(",")[0] and "A" in tests], name
    listed = dict(re.findall(r"^- ([A-Z]): `(test_\w+)`$", section, re.MULTILINE))
    folders = ("core", "windows")
    sources = "".join((PROJECT / "tests" / one / "test_names.py").read_text(encoding="utf-8") for one in folders)
    assert all(f"def {test}(" in sources for test in listed.values())
    assert {letter for _, tests in rows for letter in re.findall("[A-Z]", tests)} | {"C"} == set(listed)
