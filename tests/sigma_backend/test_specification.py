"""Each corner of Sigma's specification decides about hostile events as the specification says."""

import base64

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procmon import DecidedBy, Policy

from .conftest import DATA, Convert, rule
from .specification import Event, matches
from .test_agreement import judge

pytestmark = pytest.mark.filterwarnings("ignore::procmon.errors.PolicyWarning")  # of what rules hardly mean

CORNERS: dict[str, str] = yaml.safe_load((DATA / "corners.yml").read_text(encoding="utf-8"))

EVENT: dict[str, str | int] = {
    "Image": r"C:\Tools\tool.exe",
    "CommandLine": "tool.exe /x",
    "CurrentDirectory": "C:\\Tools\\",
    "User": r"NT AUTHORITY\SYSTEM",
    "LogonId": "0x3e7",
    "TerminalSessionId": 0,
    "IntegrityLevel": "System",
    "Hashes": "MD5=0123456789ABCDEF0123456789ABCDEF,IMPHASH=000000000000000000000000000000AA",
    "ParentImage": r"C:\Windows\explorer.exe",
    "ParentCommandLine": "explorer.exe",
    "Product": "Tools",
    "Company": "Example Ltd",
    "Description": "A tool",
}


def _encoded(text: str, encoding: str) -> list[str]:
    return [base64.b64encode(b"\n" * i + text.encode(encoding) + b"\n").decode() for i in range(3)]


LINES = [
    "", " ", "tool.exe /x ", "TOOL.EXE /X", "tool.exe /x.", '"tool" /X', "\ttool.exe /x", "Tool.exe -x -y", "5", "2024",
    "tool \u2013x /y", "tool \u2014X \u2015Y", "other.exe", "tOOl /x\0", "tool/x\n/x", "a\0b", "w\0h\0o\0", "'\"",
    "\u00a0", "\u202eexe", "*.?", "xx.y", r"a\\b", r"a\b", r"\*", r"\\srv\share", r"\srv\share", r"x:\a\y", r"x:\y",
    "x:/a/y", "xTOol.exe /X", "d2hvYW1pIC9hbGw=",
    "\u212aelvin", "kelvin", "straße", "strasse", "STRA\u1e9eE", "istanbul", "İstanbul", "ıstanbul", "i\u0307stanbul",
    "σοφος", "σοφοσ", "ΣΟΦΟΣ", "ünal", "ÜNAL", "u\u0308nal", "💀x", "%temp%", "whoami", "WHO" + "\u212aAMI",
    "x" * 40_000, "x" * 40_000 + "whoami", ("t " * 16_000) + "l/x", "nowhere", "no where",
    "md5=0123456789abcdef0123456789abcdef",
    *_encoded("whoami /all", "utf-8"), *_encoded("whoami", "utf-16-le"), *_encoded("whoami", "utf-16-be"),
    *_encoded("http://", "utf-8"),
]  # fmt: skip

IMAGES = [
    r"C:\a\b\tool.exe", r"C:\tool.exe", r"c:\x\TOOL.EXE", r"D:\a\b\tool.exe", r"D:\axb\tool2.exe", r"C:\tool.exe ",
    r"C:\Tools\tool.exe.", r"C:\İ.exe", r"C:\i.exe", r"C:\other.exe", r"\Device\Mup\srv\tool.exe", "tool.exe",
]  # fmt: skip

DIRECTORIES = [
    r"C:\a\temp" + "\\",
    r"C:\a\temp",
    r"C:\temp" + "\\",
    "D:\\",
    "D:",
    r"C:\a\b\Temp" + "\\",
    r"D:\a",
    r"E:\x\y" + "\\",
    r"E:\x",
    "E:\\",
]

OTHERS: list[dict[str, str | int]] = [
    {"User": r"CORP\alice", "IntegrityLevel": "Medium", "TerminalSessionId": 1, "LogonId": "0x3e71"},
    {"User": r"adm_\x", "TerminalSessionId": 2, "IntegrityLevel": "High"},
    {"ParentImage": r"C:\x\setup.exe", "TerminalSessionId": 4},
    {"Description": "", "Product": "", "TerminalSessionId": 3},
    {"Description": "2024", "Hashes": "SHA256=" + "0" * 64 + ",IMPHASH=" + "0" * 31 + "1"},
]

EVENTS: list[Event] = [
    EVENT,
    *(EVENT | {"CommandLine": line} for line in LINES),
    *({"Image": EVENT["Image"], "CommandLine": line} for line in LINES),
    *(EVENT | {"Image": image} for image in IMAGES),
    *(EVENT | {"CurrentDirectory": directory} for directory in DIRECTORIES),
    *(EVENT | other for other in OTHERS),
    *({name: value for name, value in EVENT.items() if name != missing} for missing in EVENT),
    {"Image": r"C:\other.exe"},
]


def compared(document: str, policy: str) -> tuple[set[int], list[Event]]:
    """The numbers of the events that match, and the events about which the policy decides otherwise."""
    decide = judge(policy, EVENTS)
    expected = {i for i, event in enumerate(EVENTS) if matches(document, _with_digests(event))}
    wrong = [EVENTS[i] for i in range(len(EVENTS)) if (decide(i).by is DecidedBy.RULE) != (i in expected)]
    return expected, wrong


def _with_digests(event: Event) -> Event:
    """The event with a field for each hash, as pySigma's own pipelines for Sysmon give it."""
    digests = (each.split("=") for each in str(event["Hashes"]).split(",")) if "Hashes" in event else ()
    return dict(event) | {kind.lower(): digest for kind, digest in digests}


@pytest.mark.parametrize("name", CORNERS)
def test_a_corner_decides_as_the_specification_says(convert: Convert, name: str) -> None:
    document = rule(CORNERS[name], title=name)
    policy, left_out = convert(document)
    assert left_out == {}
    matched, wrong = compared(document, policy)
    assert wrong == []
    assert 0 < len(matched) < len(EVENTS), "the events do not try this corner"


DOCUMENTS = {
    "a part for all": """\
action: global
title: Parts
id: 99c8be4f-3087-4f9f-9c24-8c7e257b4420
logsource: {category: process_creation, product: windows}
detection:
  f: {User|startswith: adm_}
  condition: s and not f
---
detection: {s: {CommandLine|contains: whoami}}
---
detection: {s: {TerminalSessionId|gte: 2}}
---
action: reset
---
title: Alone
logsource: {category: process_creation, product: windows}
detection: {s: {CommandLine|contains: kelvin}, condition: s}
""",
    "filters": """\
title: Filtered
id: 99c8be4f-3087-4f9f-9c24-8c7e257b4421
logsource: {category: process_creation, product: windows}
detection:
  selection_a: {Image|endswith: tool.exe}
  condition: all of selection_* or 1 of them
---
title: Long lines
logsource: {category: process_creation, product: windows}
filter:
  rules: [99c8be4f-3087-4f9f-9c24-8c7e257b4421]
  selection_x: {CommandLine|contains: xxx}
  selection_y: {CommandLine|contains: base}
  condition: not 1 of selection_*
---
title: Others
logsource: {category: process_creation}
filter:
  rules: any
  f: {TerminalSessionId: 0}
  condition: f
""",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_of_one_file_decide_as_the_specification_says(convert: Convert, name: str) -> None:
    policy, left_out = convert(DOCUMENTS[name])
    assert left_out == {}
    matched, wrong = compared(DOCUMENTS[name], policy)
    assert wrong == []
    assert 0 < len(matched) < len(EVENTS)


FIELDS = ["Image", "ParentImage", "CommandLine", "CurrentDirectory", "User", "ParentUser", "LogonId", "IntegrityLevel",
          "TerminalSessionId", "FileVersion", "Company", "Hashes", "md5", "Imphash", ""]  # fmt: skip
MODIFIERS = ["", "|contains", "|startswith", "|endswith", "|contains|all", "|cased", "|windash", "|wide", "|neq", "|lt",
             "|gte", "|exists", "|base64offset|contains"]  # fmt: skip
ODD = [None, True, -1, 0, 1.5, 2**70, "", " ", "a, b", "a;b", "x|y", "MD5=", "%TEMP%", r"..\x.exe", r"\??\C:\x", "C:",
       "\\", "//x", r"\system32\lsass.exe", "\u202e", "\t", "\0", "S-1-5-18", "high", "A, Inc., B, Ltd.",
       r"\\?\*"]  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(MODIFIERS)), min_size=1, max_size=3),
    st.lists(st.one_of(st.sampled_from(ODD), st.text("aS1-*?\\/.,;|%\"'\n\U0001f480", max_size=8)), max_size=3),
)
def test_what_is_converted_loads(convert: Convert, keys: list[tuple[str, str]], values: list[object]) -> None:
    detection = yaml.safe_dump({"s": {"".join(key): values for key in keys}, "condition": "s"}, allow_unicode=True)
    for enforced in ("", "low"):
        policy, left_out = convert(rule(detection), block=enforced)
        assert left_out or policy.count("[[rule]]") == 1
        assert [problem for problem in Policy.check(policy) if problem.fatal] == []
